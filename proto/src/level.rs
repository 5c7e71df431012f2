//! Feature levels: what each brought, and the least that something needs.
//! In: commands, states. Out: the lowest level that reads them. An entry or snapshot says that level and no higher one, so that
//! members of two versions go on together until something new is really used; before that, the leader asks who can read it.
//! Absent: who is of which level; that is said in each hello and known where the leader is.

use cluster::placement::Rejection;
use cluster::{Command, ContainerSpec, Decision, RejectionCount, StorageKind, TemplateDefaults, Trigger, Truth};

/// The most this build reads, and what it says in its hellos. Raised with every change of what logs, snapshots or orders mean.
pub const FEATURE_LEVEL: u32 = SYSTEM;

/// Where it began.
const FIRST: u32 = 1;
/// Templates know their size and how they are run; agents take errands.
pub const TEMPLATES: u32 = 2;
/// A generation has an id beside its number, and the fencing of a node may begin by a recovery.
pub const RECOVERY: u32 = 3;
/// System containers on Hardware Nodes: nodes report what they find; application templates are laid over that of an OS.
pub const SYSTEM: u32 = 4;

/// What states hash to has been the same since this level: a snapshot of an older one is not compared with its hash.
pub(crate) const HASHES: u32 = FIRST;

/// The lowest level that can apply `command`.
pub fn of_command(command: &Command) -> u32 {
    match command {
        Command::RegisterTemplate { bytes, defaults, .. } => of_template(*bytes, defaults),
        Command::CreateContainer { spec, .. } => of_spec(spec),
        Command::ReportNode { .. } => SYSTEM,
        Command::RegisterStorage { kind, .. } => of_storage(kind),
        Command::Assign { decision, .. }
        | Command::RecordUnplaceable { decision, .. }
        | Command::BeginHandover { decision, .. } => of_decision(decision),
        _ => FIRST,
    }
}

/// The lowest level that can hold all of a state.
pub(crate) fn of_state(truth: &Truth) -> u32 {
    let templates = truth.templates.values().map(|template| of_template(template.bytes, &template.defaults));
    let containers = truth.containers.values().map(|container| of_spec(&container.spec));
    let reports = truth.node_reports.values().map(|_| SYSTEM);
    let storages = truth.storages.values().map(|storage| of_storage(&storage.kind));
    let decisions = truth.decisions.values().map(|decision| of_decision(decision));
    let generation = if truth.generation.id == 0 { FIRST } else { RECOVERY };
    templates.chain(containers).chain(reports).chain(storages).chain(decisions).fold(generation, u32::max)
}

fn of_storage(kind: &StorageKind) -> u32 {
    match kind {
        StorageKind::Directory { .. } => FIRST,
        StorageKind::Local { .. } => SYSTEM,
    }
}

/// Nodes that report are refused for what they report.
fn of_decision(decision: &Decision) -> u32 {
    let new = |count: &RejectionCount| {
        matches!(
            count.reason,
            Rejection::StorageLost { .. }
                | Rejection::AreaElsewhere { .. }
                | Rejection::TemplateMissing { .. }
                | Rejection::TemplateDamaged { .. }
                | Rejection::AgentTooOld
        )
    };
    let later = matches!(decision.trigger, Trigger::StorageLost { .. }) || decision.rejections.iter().any(new);
    if later { SYSTEM } else { FIRST }
}

fn of_spec(spec: &ContainerSpec) -> u32 {
    let ContainerSpec { application_templates, .. } = spec;
    if application_templates.is_empty() { FIRST } else { SYSTEM }
}

fn of_template(bytes: u64, defaults: &TemplateDefaults) -> u32 {
    if bytes == 0 && *defaults == TemplateDefaults::default() { FIRST } else { TEMPLATES }
}
