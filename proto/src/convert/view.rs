//! What people are shown: the objects of the state in the words of the public API, names instead of ids.
//! In: the state, and what the leader alone sees. Out: messages. Nothing here can fail and nothing decides.

use cluster::placement::Score;
use cluster::{
    Assignment, Brake, Container, Decision, Event, Health, Intent, LeaseTerms, Member, Membership, Names as _, Node,
    NodeId, Observed, Order, Placement, Profile, Proof, Receipt, ReceiptScope, Revision, Settings, Span, State, Status,
    Tell as _, Template, TemplateSight, Unplaced, WallTime,
};

use crate::v1;

mod found;

use found::is_bound;
pub use found::{containers_bound, node_report, storage, storage_finding, storage_findings};

/// What the leader sees of a node beyond the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Silent beyond the suspicion time.
    pub suspect: bool,
    /// Since a majority last acknowledged it, where that is known.
    pub silent: Option<Span>,
}

fn millis(span: Span) -> u64 {
    span.as_millis()
}

pub fn node(state: &State, node: &Node, sight: Sight) -> v1::Node {
    let facts = node.facts.as_deref();
    let role = v1::NodeRole::from(node.role);
    let intent = match node.intent {
        Intent::Schedulable => v1::NodeIntent::Schedulable,
        Intent::Cordoned => v1::NodeIntent::Cordoned,
        Intent::Draining { .. } => v1::NodeIntent::Draining,
        Intent::Maintenance { .. } => v1::NodeIntent::Maintenance,
    };
    let fencing_cause = match &node.health {
        Health::Fencing { cause, .. } => cause.to_string(),
        _ => String::new(),
    };
    let resources = |of: cluster::Resources| v1::Resources { cpu_millis: of.cpu_millis, memory_bytes: of.memory_bytes };
    let lines = |texts: &[std::sync::Arc<str>]| texts.iter().map(|text| text.to_string()).collect();
    v1::Node {
        id: node.id.to_string(),
        name: node.name.to_string(),
        role: role.into(),
        intent: intent.into(),
        health: health(&node.health, sight).into(),
        fencing_class: fencing_class(node.class()).into(),
        fencing_class_reason: facts.map_or_else(String::new, |facts| facts.class_reason.to_string()),
        fencing_cause,
        awaits_operator: awaits_operator(node).unwrap_or_default(),
        capacity: Some(resources(node.capacity())),
        assigned: Some(resources(state.used(node.id))),
        incarnation: node.health.incarnation().0,
        boot_id: node.health.boot().map_or_else(String::new, |boot| boot.to_string()),
        labels: (*node.labels).clone(),
        failure_domain: node.failure_domain.to_string(),
        containers: u32::try_from(state.claim_count(node.id)).unwrap_or(u32::MAX),
        lease_ms: facts.map_or(0, |facts| millis(facts.terms.lease)),
        runtimes: facts.map_or_else(Vec::new, |facts| lines(&facts.runtimes)),
        runtimes_refused: facts.map_or_else(Vec::new, |facts| lines(&facts.runtimes_refused)),
        drain: matches!(node.intent, Intent::Draining { .. }).then(|| drain(state, node)),
        receipt: match &node.health {
            Health::Fenced { receipt: held } => Some(receipt(held)),
            _ => None,
        },
        silent_ms: sight.silent.map_or(0, millis),
        agent_version: facts.map_or_else(String::new, |facts| facts.version.to_string()),
        report: None,
        containers_bound: 0,
    }
}

/// Why the fencing of `node` does not end by itself, and what ends it; `None` where time or its own guard will.
pub fn awaits_operator(node: &Node) -> Option<String> {
    node.awaits_operator().then(|| {
        if node.may_serve_elsewhere() {
            let name = &node.name;
            return format!(
                "it may serve an earlier generation of the cluster: `quorate-agent cross-over` on it; if it is off, or its \
                 boot is another, `quoratectl node confirm-down {name}`, and never start it before it has crossed over"
            );
        }
        let facts = node.facts.as_deref();
        let why = facts.map_or_else(String::new, |facts| format!(" ({})", facts.class_reason));
        format!("class {}{why}: time proves nothing; {}", node.class(), cluster::event::confirm_down(&node.name))
    })
}

fn health(health: &Health, sight: Sight) -> v1::NodeHealth {
    match health {
        Health::Joined => v1::NodeHealth::Joined,
        Health::Up { .. } if sight.suspect => v1::NodeHealth::Suspect,
        Health::Up { .. } => v1::NodeHealth::Up,
        Health::Fencing { .. } => v1::NodeHealth::Fencing,
        Health::Fenced { .. } => v1::NodeHealth::Fenced,
    }
}

fn fencing_class(class: cluster::FencingClass) -> v1::FencingClass {
    match class {
        cluster::FencingClass::F0 => v1::FencingClass::F0,
        cluster::FencingClass::F1 => v1::FencingClass::F1,
        cluster::FencingClass::F2 => v1::FencingClass::F2,
        cluster::FencingClass::F3 => v1::FencingClass::F3,
    }
}

fn receipt(receipt: &Receipt) -> v1::Receipt {
    let kind = match receipt.proof {
        Proof::LeaseOver { .. } => v1::ReceiptKind::LeaseOver,
        Proof::Confirmed { .. } => v1::ReceiptKind::Confirmed,
        Proof::Operator { .. } => v1::ReceiptKind::Operator,
        Proof::Left => v1::ReceiptKind::Left,
        Proof::Guard => v1::ReceiptKind::Guard,
        Proof::Empty => v1::ReceiptKind::Empty,
    };
    v1::Receipt {
        kind: kind.into(),
        incarnation: receipt.incarnation.0,
        whole_node: receipt.proof.scope() == ReceiptScope::Node,
        text: receipt.proof.to_string(),
        revision: receipt.recorded.0,
    }
}

/// What is still on a draining node, and why each of it has not left.
fn drain(state: &State, node: &Node) -> v1::DrainProgress {
    let here = || state.claims(node.id).filter(|(_, claim)| *claim == cluster::Claim::Owner);
    let blocker = |container: &Container| {
        let text = match &container.assignment()?.order {
            Order::Blocked { .. } => "its handover is stuck: it could not be made to stop".to_owned(),
            Order::AwaitingReceipt { .. } => "it may still run: proof that the machine is off is needed".to_owned(),
            Order::Run => {
                let decision = state.decision(container.decision?).filter(|decision| decision.chosen.is_none())?;
                rejections_in_words(decision)
            }
            _ => return None,
        };
        Some(v1::DrainBlocker { container: container.spec.name.to_string(), text })
    };
    let left = u32::try_from(here().count()).unwrap_or(u32::MAX);
    v1::DrainProgress { left, blockers: here().filter_map(|(container, _)| blocker(container)).take(100).collect() }
}

/// One line: what kept a container from every node.
fn rejections_in_words(decision: &Decision) -> String {
    let counts: Vec<String> =
        decision.rejections.iter().map(|count| format!("{} on {} nodes", count.reason.code(), count.nodes)).collect();
    if counts.is_empty() {
        "no node could take it".to_owned()
    } else {
        format!("no node could take it: {}", counts.join(", "))
    }
}

/// `suspect` says of a node whether the leader holds it for silent.
pub fn container(state: &State, container: &Container, suspect: impl Fn(NodeId) -> bool) -> v1::Container {
    let status = state.status(container.id).map(|status| &**status);
    let (standing, since, text) = standing(state, container, status, suspect);
    v1::Container {
        id: container.id.to_string(),
        spec: Some(spec(state, container)),
        desired: v1::DesiredState::from(container.desired).into(),
        state: standing.into(),
        assignment: container.assignment().map(|held| assignment(state, held)),
        text,
        epoch: container.epoch.0,
        restarts: u32::try_from(container.restarts.len()).unwrap_or(u32::MAX),
        last_end: last_end(container, status),
        displacements: container.displacements,
        home: container.home.map_or_else(String::new, |home| state.node_name(home)),
        created_revision: container.created.0,
        since_revision: since.0,
    }
}

fn last_end(container: &Container, status: Option<&Status>) -> String {
    match (status.map(|status| &status.observed), &container.placement) {
        (Some(Observed::Closed { end }), _) => end.to_string(),
        (_, Placement::Unplaced { reason: Unplaced::Ended { exit, .. }, .. }) => exit.to_string(),
        _ => String::new(),
    }
}

/// The one word a container is shown with, since when, and what more there is to say.
fn standing(
    state: &State,
    container: &Container,
    status: Option<&Status>,
    suspect: impl Fn(NodeId) -> bool,
) -> (v1::ContainerState, Revision, String) {
    use v1::ContainerState as Shown;
    let held = match &container.placement {
        Placement::Unplaced { since, reason } => {
            let shown = match (reason, container.desired) {
                (Unplaced::Held { .. }, _) => Shown::Held,
                (_, cluster::Desired::Running) => Shown::Unplaced,
                (_, cluster::Desired::Stopped | cluster::Desired::Deleted) => Shown::Stopped,
            };
            let text = match reason {
                Unplaced::Stopped if shown == Shown::Stopped => String::new(),
                reason => reason.told(state).to_string(),
            };
            return (shown, *since, text);
        }
        Placement::Assigned(held) => held,
    };
    let node = state.node(held.node);
    let target = |target: NodeId| format!("to {}", state.node_name(target));
    let own = status.filter(|status| status.epoch == held.epoch);
    match (&held.order, node.map(|node| &node.health)) {
        (Order::AwaitingReceipt { since }, _) => {
            (Shown::Recovering, *since, "it may still run there; proof that the machine is off is needed".to_owned())
        }
        (_, Some(Health::Fencing { begun, cause, .. })) => {
            let awaited = node
                .and_then(|node| awaits_operator(node))
                .map_or_else(String::new, |why| format!("; that waits for an operator, {why}"));
            (Shown::Recovering, *begun, format!("its node is being fenced: {cause}{awaited}"))
        }
        (Order::Blocked { since, .. }, _) => {
            (Shown::Blocked, *since, "its handover is stuck: the source could not be made to stop".to_owned())
        }
        _ if suspect(held.node) => (Shown::Unmonitored, held.since, "its node is silent".to_owned()),
        (Order::Prepare { target: to, since, .. } | Order::Handoff { target: to, since, .. }, _) => {
            (Shown::Moving, *since, target(*to))
        }
        (Order::Stop { .. }, _) => (Shown::Stopping, held.since, String::new()),
        (Order::Run, _) => match own.map(|status| (&status.observed, status.since)) {
            None | Some((Observed::Closed { .. }, _)) => (Shown::Assigned, held.since, String::new()),
            Some((Observed::Starting, since)) => (Shown::Starting, since, String::new()),
            Some((Observed::Running, since)) => (Shown::Running, since, String::new()),
            Some((Observed::Stopping, since)) => (Shown::Stopping, since, String::new()),
        },
    }
}

fn assignment(state: &State, assignment: &Assignment) -> v1::Assignment {
    v1::Assignment {
        node: state.node_name(assignment.node),
        epoch: assignment.epoch.0,
        incarnation: assignment.incarnation.0,
        on_quorum_loss: v1::OnQuorumLoss::from(assignment.on_quorum_loss).into(),
        revision: assignment.since.0,
    }
}

fn spec(state: &State, container: &Container) -> v1::ContainerSpec {
    let spec = &container.spec;
    let names = |nodes: &[NodeId]| nodes.iter().map(|id| state.node_name(*id)).collect();
    let cluster::Resources { cpu_millis, memory_bytes } = spec.resources;
    v1::ContainerSpec {
        name: spec.name.to_string(),
        template: spec.template.to_string(),
        command: spec.command.iter().map(|word| word.to_string()).collect(),
        environment: (*spec.environment).clone(),
        annotations: (*container.annotations).clone(),
        resources: Some(v1::Resources { cpu_millis, memory_bytes }),
        class: v1::ContainerClass::from(spec.class).into(),
        priority: Some(u32::from(spec.priority)),
        possible_owners: names(&spec.possible_owners),
        preferred_owners: spec.preferred_owners.iter().map(|tier| v1::OwnerTier { nodes: names(tier) }).collect(),
        restart: Some(v1::RestartPolicy {
            condition: v1::RestartCondition::from(spec.restart.condition).into(),
            max: Some(spec.restart.max),
            period_ms: Some(millis(spec.restart.period)),
        }),
        on_quorum_loss: v1::OnQuorumLoss::from(spec.on_quorum_loss).into(),
        storage: spec.storage.to_string(),
        stop_grace_ms: Some(millis(spec.stop_grace)),
        application_templates: spec.application_templates.iter().map(ToString::to_string).collect(),
    }
}

/// The decision recorded at `at`.
pub fn decision(state: &State, at: Revision, decision: &Decision) -> v1::Decision {
    let field = |name: &str, value: i64| v1::ScoreField { name: name.to_owned(), value };
    let candidate = |(node, score): &(NodeId, Score)| {
        let Score { astray, role, preferred_tier, memory_headroom, cpu_headroom, node: _ } = score;
        v1::Candidate {
            node: state.node_name(*node),
            score: vec![
                field("astray", i64::from(*astray)),
                field("standby", i64::from(*role == cluster::Role::Standby)),
                field("preferred-tier", i64::from(*preferred_tier)),
                field("memory-headroom-permille", i64::from(memory_headroom.0)),
                field("cpu-headroom-permille", i64::from(cpu_headroom.0)),
            ],
        }
    };
    let examples = decision.rejections.iter().flat_map(|count| {
        count.examples.iter().map(|node| v1::RejectionExample {
            node: state.node_name(*node),
            rule: count.reason.code().to_owned(),
            text: count.reason.to_string(),
        })
    });
    v1::Decision {
        id: at.0,
        trigger: decision.trigger.told(state).to_string(),
        chosen: decision.chosen.map_or_else(String::new, |node| state.node_name(node)),
        rejections: decision
            .rejections
            .iter()
            .map(|count| v1::RejectionCount { rule: count.reason.code().to_owned(), nodes: count.nodes })
            .collect(),
        candidates: decision.candidates.iter().map(candidate).collect(),
        revision: decision.based_on.0,
        examples: examples.collect(),
        feasible: decision.feasible,
    }
}

/// Why a container is where it is, one fact a line, the most important first.
pub fn why(state: &State, of: &Container, suspect: impl Fn(NodeId) -> bool) -> v1::WhyReply {
    let shown = container(state, of, suspect);
    let word = shown.state().as_str_name().trim_start_matches("CONTAINER_STATE_").to_ascii_lowercase();
    let mut lines = vec![match &shown.assignment {
        Some(held) => format!("{} ({}) is {word} on {}, epoch {}", of.spec.name, of.id, held.node, held.epoch),
        None => format!("{} ({}) is {word}", of.spec.name, of.id),
    }];
    lines.extend(Some(shown.text).filter(|text| !text.is_empty()));
    if let Some(node) = state.awaited_from_before().filter(|_| of.wants_place()) {
        lines.push(format!("the cluster was recovered; nothing is placed while {} is not accounted for", node.name));
        lines.extend(awaits_operator(node));
    }
    let weak = |node: &&std::sync::Arc<Node>| !node.class().lease_proves_end() && !node.awaits_operator();
    if let Some(node) = of.assignment().and_then(|held| state.node(held.node)).filter(weak)
        && let Some(facts) = &node.facts
    {
        let (name, class, why) = (&node.name, node.class(), &facts.class_reason);
        lines.push(format!("{name} is fencing class {class} ({why}): if it is lost, this waits for an operator"));
    }
    if is_bound(state, of) {
        let home = of.home.map_or_else(|| "the node it is first given to".to_owned(), |home| state.node_name(home));
        let storage = &of.spec.storage;
        lines.push(format!("its storage {storage} is local: it can run on {home} alone, and is never failed over"));
    }
    let recorded = of.decision.map(|at| (at, state.decision(at)));
    if let Some((at, Some(made))) = &recorded {
        match made.chosen {
            Some(node) => {
                let choice = format!("{} was chosen at {at} ({})", state.node_name(node), made.trigger.told(state));
                let score = made.candidates.first().map_or_else(String::new, |(_, score)| format!(": {score}"));
                lines.push(format!("{choice}{score}"));
            }
            None => lines.push(format!("{} at {at} ({})", rejections_in_words(made), made.trigger.told(state))),
        }
        for (node, score) in made.candidates.iter().skip(1) {
            lines.push(format!("{} would have done: {score}", state.node_name(*node)));
        }
        for count in made.rejections.iter() {
            let examples: Vec<String> = count.examples.iter().map(|node| state.node_name(*node)).collect();
            lines.push(format!("{} nodes refused: {} ({})", count.nodes, count.reason, examples.join(", ")));
        }
    } else if let Some((at, None)) = recorded {
        lines.push(format!("the decision of {at} is no longer kept"));
    }
    if of.displacements > 0 {
        lines.push(format!("lost its node {} times so far", of.displacements));
    }
    let decision = recorded.and_then(|(at, made)| Some(decision(state, at, made?)));
    v1::WhyReply { lines, decision, revision: state.revision().0 }
}

pub fn template(template: &Template) -> v1::Template {
    let Template { name, version, digest, kind, path, registered, bytes, defaults } = template;
    v1::Template {
        name: name.to_string(),
        version: version.to_string(),
        digest: digest.to_string(),
        kind: v1::TemplateKind::from(*kind).into(),
        path: path.to_string(),
        registered_revision: registered.0,
        bytes: *bytes,
        command: defaults.command.iter().map(ToString::to_string).collect(),
        environment: (*defaults.environment).clone(),
        working_dir: defaults.working_dir.to_string(),
        ..v1::Template::default()
    }
}

/// The same with the nodes that do not find its files.
pub fn template_where(state: &State, template: &Template) -> v1::Template {
    let mut shown = self::template(template);
    let looks_for_it = |node: &&std::sync::Arc<Node>| !template.path.is_empty() && node.health != Health::Joined;
    for node in state.nodes().filter(looks_for_it) {
        match state.sight(node, template) {
            TemplateSight::Present => {}
            TemplateSight::Absent => shown.missing_on.push(node.name.to_string()),
            TemplateSight::Damaged => shown.damaged_on.push(node.name.to_string()),
            TemplateSight::Unknown => shown.unknown_on.push(node.name.to_string()),
        }
    }
    shown
}

pub fn lease_terms(terms: LeaseTerms) -> v1::LeaseTerms {
    let LeaseTerms { lease, heartbeat, kill, margin, drift_ppm } = terms;
    v1::LeaseTerms {
        lease_ms: millis(lease),
        heartbeat_ms: millis(heartbeat),
        kill_ms: millis(kill),
        margin_ms: millis(margin),
        drift_ppm,
        wait_ms: millis(terms.wait()),
    }
}

pub fn settings(settings: &Settings) -> v1::Settings {
    let Settings {
        terms,
        terms_fading,
        brake,
        boot_grace,
        handover_budget,
        handovers_per_node,
        handovers,
        rejoin_cordoned,
    } = settings;
    let profile = match Profile::of(*terms) {
        None => v1::LeaseProfile::Unspecified,
        Some(Profile::Fast) => v1::LeaseProfile::Fast,
        Some(Profile::Default) => v1::LeaseProfile::Default,
        Some(Profile::Relaxed) => v1::LeaseProfile::Relaxed,
    };
    v1::Settings {
        lease_profile: profile.into(),
        lease_terms: Some(lease_terms(*terms)),
        lease_terms_fading: terms_fading.iter().copied().map(lease_terms).collect(),
        brake: Some(v1::BrakeSettings {
            enabled: brake.enabled,
            nodes_min: brake.nodes_min,
            percent: brake.percent,
            quiet_ms: millis(brake.quiet),
            longest_ms: millis(brake.longest),
        }),
        boot_grace_ms: millis(*boot_grace),
        handover_budget_ms: millis(*handover_budget),
        handovers_per_node: *handovers_per_node,
        handovers: *handovers,
        rejoin_cordoned: *rejoin_cordoned,
    }
}

/// `None` while the brake is off.
pub fn brake(brake: Brake) -> Option<v1::Brake> {
    match brake {
        Brake::Off => None,
        Brake::On { since, silent, of } => Some(v1::Brake { silent, of, since_revision: since.0 }),
    }
}

/// A member as the state knows it; the caller fills in what it has heard: `reachable`, `matched_index`.
pub fn member(membership: &Membership, member: &Member) -> v1::Member {
    let Member { id, name, peer_address, api_address, secret: _, added: _ } = member;
    let role = if membership.votes(*id) {
        v1::MemberRole::Voter
    } else if membership.learners.contains(id) || membership.learners_next.contains(id) {
        v1::MemberRole::Learner
    } else {
        v1::MemberRole::Unspecified
    };
    v1::Member {
        id: id.0,
        name: name.to_string(),
        address: Some(v1::MemberAddress { api: api_address.to_string(), peer: peer_address.to_string() }),
        role: role.into(),
        reachable: false,
        matched_index: 0,
    }
}

pub fn node_counts(state: &State, sight: impl Fn(NodeId) -> Sight) -> v1::NodeCounts {
    let mut counts = v1::NodeCounts::default();
    for node in state.nodes() {
        let count = match health(&node.health, sight(node.id)) {
            v1::NodeHealth::Up => &mut counts.up,
            v1::NodeHealth::Suspect => &mut counts.suspect,
            v1::NodeHealth::Fencing => &mut counts.fencing,
            v1::NodeHealth::Fenced => &mut counts.fenced,
            v1::NodeHealth::Joined | v1::NodeHealth::Unspecified => &mut counts.joined,
        };
        *count += 1;
    }
    counts
}

pub fn container_counts(state: &State, suspect: impl Fn(NodeId) -> bool) -> v1::ContainerCounts {
    use v1::ContainerState as Shown;
    let mut counts = v1::ContainerCounts::default();
    for container in state.containers() {
        counts.wanted += u32::from(container.desired == cluster::Desired::Running);
        let status = state.status(container.id).map(|status| &**status);
        let count = match standing(state, container, status, &suspect).0 {
            Shown::Running | Shown::Moving => &mut counts.running,
            Shown::Assigned | Shown::Starting => &mut counts.starting,
            Shown::Stopped | Shown::Stopping => &mut counts.stopped,
            Shown::Held | Shown::Blocked => &mut counts.failed,
            Shown::Unplaced | Shown::Recovering | Shown::Unmonitored | Shown::Unspecified => &mut counts.unplaced,
        };
        *count += 1;
    }
    counts
}

/// The event that came `ordinal`-th of those of `revision`, at the leader's wall clock `at`. Names are those of `state`.
pub fn event(state: &State, revision: Revision, ordinal: u32, at: WallTime, event: &Event) -> v1::Event {
    let (node, container) = match event {
        // The last word about it: the state no longer has its name.
        Event::NodeRemoved { name, .. } => (name.to_string(), String::new()),
        Event::ContainerDeleted { name, .. } => (String::new(), name.to_string()),
        event => (
            event.node().map_or_else(String::new, |id| state.node_name(id)),
            event.container().map_or_else(String::new, |id| state.container_name(id)),
        ),
    };
    v1::Event {
        revision: revision.0,
        ordinal,
        kind: event.kind().to_owned(),
        text: event.told(state).to_string(),
        node,
        container,
        epoch: epoch(event),
        time_unix_ms: i64::try_from(at.0).unwrap_or(i64::MAX),
    }
}

/// The epoch an event is about; 0 if it has none.
fn epoch(event: &Event) -> u64 {
    use Event::*;
    match event {
        ContainerAssigned { epoch, .. }
        | ContainerDisplaced { epoch, .. }
        | ContainerAwaitsReceipt { epoch, .. }
        | ContainerStarting { epoch, .. }
        | ContainerRunning { epoch, .. }
        | ContainerStopping { epoch, .. }
        | ContainerClosed { epoch, .. }
        | HandoverBegun { epoch, .. }
        | HandoverReady { epoch, .. }
        | HandoffBegun { epoch, .. }
        | HandoverAborted { epoch, .. }
        | HandoverBlocked { epoch, .. } => epoch.0,
        _ => 0,
    }
}
