//! Which steps of the tables were taken: node, intent, container, handover, membership, lease.
//! In: the state before and after, the guard's slot before and after. Out: counts by step.
//! Absent: judgement; `cargo sim` fails a long run that left a step of `EXPECTED` out, for it has lost teeth.

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::{Container, Health, Intent, Membership, Node, Order, Placement, State, Unplaced};
use decide::GuardSays;

/// A table, a place in it, the next place.
pub type Step = (&'static str, &'static str, &'static str);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<Step, u64>);

impl Coverage {
    fn took(&mut self, table: &'static str, from: &'static str, to: &'static str) {
        if from != to {
            *self.0.entry((table, from, to)).or_default() += 1;
        }
    }

    pub fn states(&mut self, before: &State, after: &State) {
        for node in after.nodes() {
            match before.node(node.id) {
                Some(old) if Arc::ptr_eq(old, node) => {}
                old => self.node(old.map(|old| &**old), node),
            }
        }
        for container in after.containers() {
            match before.container(container.id) {
                Some(old) if Arc::ptr_eq(old, container) => {}
                old => self.container(old.map(|old| &**old), Some(container)),
            }
        }
        for old in before.containers().filter(|old| after.container(old.id).is_none()) {
            self.container(Some(old), None);
        }
        self.took("membership", membership(before.membership()), membership(after.membership()));
    }

    fn node(&mut self, before: Option<&Node>, after: &Node) {
        let was = before.map_or("unknown", |node| health(&node.health));
        let (again, is) = match (before.map(|node| &node.health), &after.health) {
            (Some(Health::Up { incarnation: old, .. }), Health::Up { incarnation: new, .. }) if old != new => {
                (true, "up again")
            }
            (_, health_now) => (false, health(health_now)),
        };
        self.took("node", if again { "up" } else { was }, is);
        self.took("intent", before.map_or("schedulable", |node| intent(&node.intent)), intent(&after.intent));
    }

    fn container(&mut self, before: Option<&Container>, after: Option<&Container>) {
        let place =
            |container: Option<&Container>| container.map_or("none", |container| placement(&container.placement));
        let (from, to) = (place(before), place(after));
        let hands_over = |place| matches!(place, "prepare" | "ready" | "handoff" | "blocked");
        let table = if hands_over(from) || hands_over(to) { "handover" } else { "container" };
        self.took(table, from, to);
    }

    /// The lease as the guard has it.
    pub fn slot(&mut self, before: &GuardSays, after: &GuardSays) {
        self.took("lease", lease(before), lease(after));
    }

    pub fn add(&mut self, other: &Coverage) {
        for (step, count) in &other.0 {
            *self.0.entry(*step).or_default() += count;
        }
    }

    pub fn missing(&self) -> Vec<Step> {
        EXPECTED.iter().filter(|step| !self.0.contains_key(*step)).copied().collect()
    }

    /// By table, then place; with how often.
    pub fn steps(&self) -> impl Iterator<Item = (&Step, &u64)> {
        self.0.iter()
    }
}

fn health(health: &Health) -> &'static str {
    match health {
        Health::Joined => "joined",
        Health::Up { .. } => "up",
        Health::Fencing { .. } => "fencing",
        Health::Fenced { .. } => "fenced",
    }
}

fn intent(intent: &Intent) -> &'static str {
    match intent {
        Intent::Schedulable => "schedulable",
        Intent::Cordoned => "cordoned",
        Intent::Draining { .. } => "draining",
        Intent::Maintenance { .. } => "maintenance",
    }
}

fn placement(placement: &Placement) -> &'static str {
    match placement {
        Placement::Unplaced { reason, .. } => match reason {
            Unplaced::New => "new",
            Unplaced::Displaced { .. } => "displaced",
            Unplaced::Ended { .. } => "ended",
            Unplaced::StartFailed { .. } => "start failed",
            Unplaced::Stopped => "stopped",
            Unplaced::Moving { .. } => "moving",
            Unplaced::Held { .. } => "held",
        },
        Placement::Assigned(assignment) => match &assignment.order {
            Order::Run => "run",
            Order::Stop { .. } => "stop",
            Order::Prepare { ready: false, .. } => "prepare",
            Order::Prepare { ready: true, .. } => "ready",
            Order::Handoff { .. } => "handoff",
            Order::Blocked { .. } => "blocked",
            Order::AwaitingReceipt { .. } => "awaiting receipt",
        },
    }
}

fn membership(membership: &Membership) -> &'static str {
    match (membership.is_joint(), membership.learners.is_empty()) {
        (true, _) => "joint",
        (false, true) => "settled",
        (false, false) => "with a learner",
    }
}

fn lease(slot: &GuardSays) -> &'static str {
    match slot {
        GuardSays { alive: false, .. } => "unguarded",
        GuardSays { ended: true, .. } => "ended",
        GuardSays { latched: true, .. } => "latched",
        GuardSays { deadline: Some(_), .. } => "held",
        GuardSays { .. } => "none",
    }
}

/// Every step that a long run takes.
pub const EXPECTED: &[Step] = &[
    ("container", "awaiting receipt", "displaced"),
    ("container", "awaiting receipt", "run"),
    ("container", "displaced", "new"),
    ("container", "displaced", "run"),
    ("container", "ended", "run"),
    ("container", "moving", "run"),
    ("container", "new", "run"),
    ("container", "none", "new"),
    ("container", "run", "awaiting receipt"),
    ("container", "run", "displaced"),
    ("container", "run", "ended"),
    ("container", "run", "held"),
    ("container", "run", "start failed"),
    ("container", "run", "stop"),
    ("container", "start failed", "run"),
    ("container", "stop", "awaiting receipt"),
    ("container", "stop", "displaced"),
    ("container", "stop", "moving"),
    ("container", "stop", "none"),
    ("container", "stop", "stopped"),
    ("container", "stopped", "new"),
    ("container", "stopped", "none"),
    ("handover", "handoff", "blocked"),
    ("handover", "handoff", "displaced"),
    ("handover", "handoff", "run"),
    ("handover", "prepare", "ready"),
    ("handover", "prepare", "run"),
    ("handover", "ready", "handoff"),
    ("handover", "run", "prepare"),
    ("intent", "cordoned", "draining"),
    ("intent", "cordoned", "schedulable"),
    ("intent", "draining", "cordoned"),
    ("intent", "draining", "schedulable"),
    ("intent", "maintenance", "schedulable"),
    ("intent", "schedulable", "cordoned"),
    ("intent", "schedulable", "draining"),
    ("intent", "schedulable", "maintenance"),
    ("lease", "ended", "latched"),
    ("lease", "ended", "none"),
    ("lease", "held", "latched"),
    ("lease", "latched", "ended"),
    ("lease", "none", "held"),
    ("lease", "none", "latched"),
    ("lease", "unguarded", "ended"),
    ("lease", "unguarded", "held"),
    ("lease", "unguarded", "latched"),
    ("lease", "unguarded", "none"),
    ("membership", "joint", "settled"),
    ("membership", "joint", "with a learner"),
    ("membership", "settled", "joint"),
    ("membership", "with a learner", "joint"),
    ("node", "fenced", "up"),
    ("node", "fencing", "fenced"),
    ("node", "fencing", "up"),
    ("node", "joined", "up"),
    ("node", "up", "fenced"),
    ("node", "up", "fencing"),
    ("node", "up", "up again"),
];
