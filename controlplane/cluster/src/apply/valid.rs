//! What a request may hold: limits on every field, each with what is wrong and what is allowed.
//! In: the parts of commands. Out: nothing, or the refusal that names the field.
//! Absent: what depends on the rest of the state, but for owners and application templates, which must exist.

use std::collections::{BTreeMap, BTreeSet};

use super::{Kind, Rejected, invalid, not_found};
use crate::model::container::{ContainerSpec, RestartPolicy};
use crate::model::ids::{Name, NodeId};
use crate::model::inventory::Inventory;
use crate::model::lease::LeaseTerms;
use crate::model::node::NodeFacts;
use crate::model::report::NodeReport;
use crate::model::resources::Resources;
use crate::model::settings::Settings;
use crate::model::template::{TemplateDefaults, TemplateKind};
use crate::model::time::Span;
use crate::names::Names;
use crate::state::State;

const KIB: usize = 1 << 10;
/// Bytes of all arguments, of all environment variables, of all annotations of one container: what a log entry bears.
const TEXT_MAX: usize = 64 * KIB;
/// Items in a list of texts.
const ITEMS_MAX: usize = 1_024;
/// Smaller is a unit mistaken: nobody means 512 bytes.
const MEMORY_MIN: u64 = 1 << 20;
const PRIORITY_MAX: u16 = 1_000;
const STOP_GRACE_MAX: Span = Span::seconds(20 * 60);
/// Each restart within the period is remembered with its time.
const RESTARTS_MAX: u32 = 100;
const RESTART_PERIOD_MAX: Span = Span::seconds(30 * 24 * 60 * 60);
const OWNERS_MAX: usize = 10_000;
/// Their paths are options of one mount, which the kernel gives one page.
const APPLICATION_TEMPLATES_MAX: usize = 16;
const LABELS_MAX: usize = 64;
const KEY_MAX: usize = 253;
const LABEL_VALUE_MAX: usize = 255;
/// On all storages of a node together.
const TEMPLATES_MAX: usize = 10_000;
/// What is wrong with one of many things.
const FAULT_MAX: usize = 512;
/// One line of text about something.
const LINE_MAX: usize = 4 * KIB;

pub(super) fn spec(state: &State, spec: &ContainerSpec) -> Result<(), Rejected> {
    resources(spec.resources)?;
    command(&spec.command)?;
    environment(&spec.environment)?;
    if spec.priority > PRIORITY_MAX {
        return Err(invalid("priority", format!("{} is above {PRIORITY_MAX}", spec.priority)));
    }
    if spec.stop_grace > STOP_GRACE_MAX {
        return Err(invalid("stop_grace", format!("{} is above {STOP_GRACE_MAX}", spec.stop_grace)));
    }
    restart(spec.restart)?;
    owners(state, spec)?;
    application_templates(state, spec)
}

fn resources(resources: Resources) -> Result<(), Rejected> {
    let Resources { cpu_millis, memory_bytes } = resources;
    if cpu_millis == 0 {
        return Err(invalid("resources.cpu_millis", "a container needs at least 1 mCPU"));
    }
    if cpu_millis > Resources::LIMIT.cpu_millis {
        return Err(invalid("resources.cpu_millis", format!("{cpu_millis} is above {}", Resources::LIMIT.cpu_millis)));
    }
    if memory_bytes < MEMORY_MIN {
        return Err(invalid("resources.memory_bytes", format!("{memory_bytes} is below {MEMORY_MIN} (1 MiB)")));
    }
    if memory_bytes > Resources::LIMIT.memory_bytes {
        let problem = format!("{memory_bytes} is above {} (1 PiB)", Resources::LIMIT.memory_bytes);
        return Err(invalid("resources.memory_bytes", problem));
    }
    Ok(())
}

fn command(command: &[Box<str>]) -> Result<(), Rejected> {
    if command.len() > ITEMS_MAX {
        return Err(invalid("command", format!("{} arguments; at most {ITEMS_MAX} are allowed", command.len())));
    }
    if command.first().is_some_and(|program| program.is_empty()) {
        return Err(invalid("command", "the program's name is empty"));
    }
    if command.iter().any(|argument| argument.contains('\0')) {
        return Err(invalid("command", "an argument holds a NUL"));
    }
    bounded("command", command.iter().map(|argument| argument.len() + 1).sum())
}

fn environment(environment: &BTreeMap<String, String>) -> Result<(), Rejected> {
    if environment.len() > ITEMS_MAX {
        return Err(invalid(
            "environment",
            format!("{} variables; at most {ITEMS_MAX} are allowed", environment.len()),
        ));
    }
    for (key, value) in environment {
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(invalid("environment", format!("{key:?} cannot name a variable")));
        }
        if value.contains('\0') {
            return Err(invalid("environment", format!("the value of {key} holds a NUL")));
        }
    }
    bounded("environment", environment.iter().map(|(key, value)| key.len() + value.len() + 2).sum())
}

/// The same limits as for a container's own.
pub(super) fn template_defaults(defaults: &TemplateDefaults) -> Result<(), Rejected> {
    command(&defaults.command)?;
    environment(&defaults.environment)?;
    path("working_dir", &defaults.working_dir)?;
    if !(defaults.working_dir.is_empty() || defaults.working_dir.starts_with('/')) {
        return Err(invalid("working_dir", format!("{:?} is not absolute", defaults.working_dir)));
    }
    Ok(())
}

fn restart(policy: RestartPolicy) -> Result<(), Rejected> {
    if policy.max > RESTARTS_MAX {
        return Err(invalid("restart.max", format!("{} is above {RESTARTS_MAX}", policy.max)));
    }
    if policy.period > RESTART_PERIOD_MAX {
        return Err(invalid("restart.period", format!("{} is above 30 days", policy.period)));
    }
    if policy.max > 0 && policy.period == Span::ZERO {
        return Err(invalid("restart.period", "restarts are counted in a period; it cannot be zero"));
    }
    Ok(())
}

/// Owners exist, none is named twice, and nobody is preferred who is not possible.
fn owners(state: &State, spec: &ContainerSpec) -> Result<(), Rejected> {
    let mut possible = BTreeSet::new();
    for owner in spec.possible_owners.iter() {
        owner_exists(state, "possible_owners", *owner)?;
        if !possible.insert(*owner) {
            return Err(invalid("possible_owners", format!("{} is named twice", state.node_name(*owner))));
        }
    }
    let mut preferred = BTreeSet::new();
    for tier in spec.preferred_owners.iter() {
        if tier.is_empty() {
            return Err(invalid("preferred_owners", "a tier is empty"));
        }
        for owner in tier.iter() {
            owner_exists(state, "preferred_owners", *owner)?;
            if !preferred.insert(*owner) {
                return Err(invalid("preferred_owners", format!("{} is named twice", state.node_name(*owner))));
            }
            if !possible.is_empty() && !possible.contains(owner) {
                let owner = state.node_name(*owner);
                return Err(invalid("preferred_owners", format!("{owner} is preferred but not a possible owner")));
            }
        }
    }
    if possible.len().max(preferred.len()) > OWNERS_MAX {
        return Err(invalid("possible_owners", format!("more than {OWNERS_MAX} owners")));
    }
    Ok(())
}

/// Each is there and made to be laid over another, none is named twice, and what they are laid over is not one of them.
/// Looked at only where there are any: containers without were taken before there was such a thing, and still are.
fn application_templates(state: &State, spec: &ContainerSpec) -> Result<(), Rejected> {
    const FIELD: &str = "application_templates";
    let names = &spec.application_templates;
    if names.is_empty() {
        return Ok(());
    }
    if names.len() > APPLICATION_TEMPLATES_MAX {
        let problem = format!("{} templates; at most {APPLICATION_TEMPLATES_MAX} are allowed", names.len());
        return Err(invalid(FIELD, problem));
    }
    if state.template(&spec.template).is_some_and(|template| template.kind == TemplateKind::Application) {
        let problem = format!("{} is an application template; they are laid over one of an OS", spec.template);
        return Err(invalid("template", problem));
    }
    let mut seen = BTreeSet::new();
    for name in names.iter() {
        let template = state.template(name).ok_or_else(|| not_found(Kind::Template, name))?;
        if template.kind != TemplateKind::Application {
            return Err(invalid(
                FIELD,
                format!("{name} is the template of an OS; only those of applications are laid over one"),
            ));
        }
        if template.path.is_empty() {
            return Err(invalid(FIELD, format!("{name} has no files: it was registered without a path")));
        }
        if !seen.insert(name) {
            return Err(invalid(FIELD, format!("{name} is named twice")));
        }
    }
    Ok(())
}

fn owner_exists(state: &State, field: &'static str, owner: NodeId) -> Result<(), Rejected> {
    if state.node(owner).is_some() { Ok(()) } else { Err(invalid(field, format!("there is no node {owner}"))) }
}

pub(super) fn annotations(annotations: &BTreeMap<String, String>) -> Result<(), Rejected> {
    if annotations.len() > ITEMS_MAX {
        return Err(invalid("annotations", format!("{} keys; at most {ITEMS_MAX} are allowed", annotations.len())));
    }
    annotations.keys().try_for_each(|name| key("annotations", name))?;
    bounded("annotations", annotations.iter().map(|(key, value)| key.len() + value.len()).sum())
}

pub(super) fn labels(labels: &BTreeMap<String, String>) -> Result<(), Rejected> {
    if labels.len() > LABELS_MAX {
        return Err(invalid("labels", format!("{} labels; at most {LABELS_MAX} are allowed", labels.len())));
    }
    for (name, value) in labels {
        key("labels", name)?;
        line("labels", value, LABEL_VALUE_MAX)?;
    }
    Ok(())
}

pub(super) fn failure_domain(domain: &str) -> Result<(), Rejected> {
    line("failure_domain", domain, LABEL_VALUE_MAX)
}

pub(super) fn reason(reason: &str) -> Result<(), Rejected> {
    line("reason", reason, LINE_MAX)
}

pub(super) fn version(version: &str) -> Result<(), Rejected> {
    line("version", version, KEY_MAX)
}

/// `host:port`, as far as text alone can tell.
pub(super) fn address(field: &'static str, address: &str) -> Result<(), Rejected> {
    line(field, address, KEY_MAX + 6)?;
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(port)) if port > 0 => Ok(()),
        _ => Err(invalid(field, format!("{address:?} is not host:port"))),
    }
}

/// A digest as registries write it, or none.
pub(super) fn digest(digest: &str) -> Result<(), Rejected> {
    let sound = digest.is_empty()
        || digest
            .strip_prefix("sha256:")
            .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
    if sound { Ok(()) } else { Err(invalid("digest", format!("{digest:?} is not sha256: and 64 hexadecimal digits"))) }
}

/// A path that stays where it is put: no `..`, nothing a terminal or a shell could take for something else.
pub(super) fn path(field: &'static str, path: &str) -> Result<(), Rejected> {
    line(field, path, LINE_MAX)?;
    if path.split('/').any(|part| part == "..") {
        return Err(invalid(field, format!("{path:?} leaves its directory")));
    }
    Ok(())
}

pub(super) fn facts(facts: &NodeFacts) -> Result<(), Rejected> {
    if !facts.capacity.within(Resources::LIMIT) {
        return Err(invalid("facts.capacity", format!("{} is more than any machine has", facts.capacity)));
    }
    if facts.runtimes.len() > LABELS_MAX || facts.runtimes_refused.len() > LABELS_MAX {
        return Err(invalid("facts.runtimes", format!("more than {LABELS_MAX} runtimes")));
    }
    let lines = facts.runtimes.iter().chain(facts.runtimes_refused.iter()).chain([&facts.class_reason, &facts.version]);
    for text in lines {
        if text.len() > LINE_MAX {
            return Err(invalid("facts", format!("a text has {} bytes; at most {LINE_MAX} are allowed", text.len())));
        }
    }
    Ok(())
}

/// Whatever else a report holds is bounded here too: a node that has gone mad must not fill the log.
pub(super) fn report(report: &NodeReport) -> Result<(), Rejected> {
    let NodeReport { storages, templates } = report;
    inventory(templates)?;
    if storages.len() > ITEMS_MAX {
        let problem = format!("{} storages; at most {ITEMS_MAX} are allowed", storages.len());
        return Err(invalid("report.storages", problem));
    }
    storages.values().try_for_each(|finding| line("report.storages", &finding.fault, FAULT_MAX))
}

fn inventory(inventory: &Inventory) -> Result<(), Rejected> {
    const FIELD: &str = "report.templates";
    let shelves = &inventory.shelves;
    if shelves.len() > ITEMS_MAX {
        return Err(invalid(FIELD, format!("{} storages; at most {ITEMS_MAX} are allowed", shelves.len())));
    }
    let named: usize = shelves.values().map(|shelf| shelf.present.len() + shelf.damaged.len()).sum();
    if named > TEMPLATES_MAX {
        return Err(invalid(FIELD, format!("{named} copies of templates; at most {TEMPLATES_MAX} are allowed")));
    }
    let ordered = |names: &[Name]| names.is_sorted_by(|one, next| one < next);
    match shelves.values().all(|shelf| ordered(&shelf.present) && ordered(&shelf.damaged)) {
        true => Ok(()),
        false => Err(invalid(FIELD, "names must be in ascending order, none twice")),
    }
}

pub(super) fn terms(terms: LeaseTerms) -> Result<(), Rejected> {
    let LeaseTerms { lease, heartbeat, kill, margin, drift_ppm } = terms;
    let check = |holds: bool, field, problem: &str| if holds { Ok(()) } else { Err(invalid(field, problem)) };
    check(lease >= Span::millis(200) && lease <= Span::seconds(120), "terms.lease", "must lie within 0.2 s and 120 s")?;
    check(heartbeat >= Span::millis(20), "terms.heartbeat", "must be at least 20 ms")?;
    check(heartbeat * 2 <= lease, "terms.heartbeat", "a lease must outlive two heartbeats")?;
    check(kill <= Span::seconds(120), "terms.kill", "must be at most 120 s")?;
    check(kill > Span::ZERO, "terms.kill", "ending everything takes time")?;
    check(margin <= Span::seconds(10), "terms.margin", "must be at most 10 s")?;
    check(drift_ppm <= 100_000, "terms.drift_ppm", "must be at most 100000 (10 %)")
}

pub(super) fn settings(settings: &Settings) -> Result<(), Rejected> {
    let check = |holds: bool, field, problem: &str| if holds { Ok(()) } else { Err(invalid(field, problem)) };
    terms(settings.terms)?;
    let brake = settings.brake;
    check(brake.nodes_min > 0, "brake.nodes_min", "must be at least 1")?;
    check((1..=100).contains(&brake.percent), "brake.percent", "must lie within 1 and 100")?;
    check(brake.quiet <= brake.longest, "brake.quiet", "must not exceed brake.longest")?;
    check(brake.longest <= Span::seconds(24 * 60 * 60), "brake.longest", "must be at most a day")?;
    check(settings.boot_grace <= Span::seconds(60 * 60), "boot_grace", "must be at most an hour")?;
    check(settings.handover_budget > Span::ZERO, "handover_budget", "stopping takes time")?;
    check(settings.handover_budget <= Span::seconds(10 * 60), "handover_budget", "must be at most ten minutes")?;
    check(settings.handovers_per_node > 0, "handovers_per_node", "must be at least 1")?;
    check(settings.handovers > 0, "handovers", "must be at least 1")
}

fn key(field: &'static str, key: &str) -> Result<(), Rejected> {
    if key.is_empty() {
        return Err(invalid(field, "a key is empty"));
    }
    line(field, key, KEY_MAX)
}

/// Text that stays on its line: no control characters, none that change the direction of writing.
fn line(field: &'static str, text: &str, bytes_max: usize) -> Result<(), Rejected> {
    if text.len() > bytes_max {
        return Err(invalid(field, format!("{} bytes; at most {bytes_max} are allowed", text.len())));
    }
    let hidden = |c: char| {
        c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    match text.chars().find(|c| hidden(*c)) {
        Some(bad) => Err(invalid(field, format!("{bad:?} is not allowed"))),
        None => Ok(()),
    }
}

fn bounded(field: &'static str, bytes: usize) -> Result<(), Rejected> {
    if bytes > TEXT_MAX {
        return Err(invalid(field, format!("{bytes} bytes in all; at most {TEXT_MAX} are allowed")));
    }
    Ok(())
}
