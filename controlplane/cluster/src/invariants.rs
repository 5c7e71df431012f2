//! What must always be true, checked from outside: of one state, and of one step from a state to the next.
//! In: states. Out: violations, one line of text each; none is the only good answer.
//! Run after every step of every test and, at snapshots, in production.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::digest::{Room, StateHash};
use crate::model::container::{
    AfterStop, Assignment, Container, Desired, Observed, OnQuorumLoss, Order, Placement, Unplaced,
};
use crate::model::decision::Decision;
use crate::model::fence::ReceiptScope;
use crate::model::ids::{Epoch, Incarnation, Revision};
use crate::model::node::{Health, Node};
use crate::placement::CPU_OVERCOMMIT;
use crate::sessions::{SESSIONS, WINDOW};
use crate::state::{DECISIONS, Derived, State};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The invariant, by its name in safety.md where it has one there.
    pub invariant: &'static str,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// Everything that is wrong with `state`. Costs a look at every object.
pub fn check(state: &State) -> Vec<Violation> {
    Looks::default().check(state)
}

/// For who looks again and again at one cluster: what the last look found out of the decisions, by far the most of all
/// objects, and never changed once they are there.
#[derive(Default)]
pub struct Looks {
    decisions: OrdMap<Revision, Arc<Decision>>,
    hash: StateHash,
}

impl Looks {
    /// As [`check`]. Costs a look at every object but the decisions that were there at the last look, which is trusted as
    /// far as it goes: what is hashed is what is there, found by comparing the two, whatever the doors did.
    pub fn check(&mut self, state: &State) -> Vec<Violation> {
        for difference in self.decisions.diff(&state.truth().decisions) {
            match difference {
                DiffItem::Add(at, decision) => self.hash.add(Room::Decision, at, decision),
                DiffItem::Remove(at, decision) => self.hash.remove(Room::Decision, at, decision),
                DiffItem::Update { old: (at, old), new: (_, new) } => self.hash.replace(Room::Decision, at, old, new),
            }
        }
        self.decisions = state.truth().decisions.clone();
        check_all(state, self.hash)
    }
}

/// `decisions`: the hash of those.
fn check_all(state: &State, decisions: StateHash) -> Vec<Violation> {
    let mut found = Found::default();
    indexes(state, decisions, &mut found);
    ids(state, &mut found);
    state.nodes().for_each(|node| sound_node(state, node, &mut found));
    state.containers().for_each(|container| sound_container(state, container, &mut found));
    bounds(state, &mut found);
    found.0
}

/// Everything that is wrong with the step from `before` to `after`, any number of entries apart.
pub fn check_step(before: &State, after: &State) -> Vec<Violation> {
    let mut found = Found::default();
    forward(before, after, &mut found);
    for old in before.containers() {
        match after.container(old.id) {
            Some(new) => sound_change(before, after, old, new, &mut found),
            None => found.unless(may_be_released(before, after, old), "EpochOwner", || {
                format!("{} is gone though its epoch was neither closed nor covered by a receipt", old.id)
            }),
        }
    }
    for new in after.containers().filter(|new| before.container(new.id).is_none()) {
        found.unless(new.id.0 >= before.truth().next_container, "IdsAreNew", || format!("{} is used again", new.id));
    }
    for new in after.nodes().filter(|new| before.node(new.id).is_none()) {
        found.unless(new.id.0 >= before.truth().next_node, "IdsAreNew", || format!("{} is used again", new.id));
    }
    for new in after.members().filter(|new| before.member(new.id).is_none()) {
        found.unless(new.id.0 >= before.truth().next_member, "IdsAreNew", || format!("{} is used again", new.id));
    }
    room(before, after, &mut found);
    found.0
}

#[derive(Default)]
struct Found(Vec<Violation>);

impl Found {
    fn unless(&mut self, holds: bool, invariant: &'static str, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Violation { invariant, what: what() });
        }
    }
}

fn indexes(state: &State, decisions: StateHash, found: &mut Found) {
    let mut fresh = Derived::beside_decisions(state.truth());
    fresh.hash.join(decisions);
    let kept = &state.derived;
    found.unless(kept.hash == fresh.hash, "ReplicaEqual", || {
        format!("the state hash is {} and should be {}", kept.hash, fresh.hash)
    });
    let same = [
        ("container names", kept.container_names == fresh.container_names),
        ("node names", kept.node_names == fresh.node_names),
        ("claims", kept.by_node == fresh.by_node),
        ("used", kept.used == fresh.used),
        ("unplaced", kept.unplaced == fresh.unplaced),
        ("handovers", kept.handovers == fresh.handovers),
        ("fencing", kept.fencing == fresh.fencing),
        ("template uses", kept.template_uses == fresh.template_uses),
        ("storage uses", kept.storage_uses == fresh.storage_uses),
    ];
    for (index, same) in same {
        found
            .unless(same, "IndexesFollow", || format!("the index of {index} differs from what follows from the state"));
    }
    found.unless(fresh.container_names.len() == state.container_count(), "NamesAreUnique", || {
        "two containers share a name".into()
    });
    found.unless(fresh.node_names.len() == state.node_count(), "NamesAreUnique", || "two nodes share a name".into());
    let members: BTreeSet<_> = state.members().map(|member| &member.name).collect();
    found.unless(members.len() == state.members().count(), "NamesAreUnique", || "two members share a name".into());
}

fn ids(state: &State, found: &mut Found) {
    let truth = state.truth();
    let below = [
        ("container", truth.containers.get_max().is_none_or(|(id, _)| id.0 < truth.next_container)),
        ("node", truth.nodes.get_max().is_none_or(|(id, _)| id.0 < truth.next_node)),
        ("member", truth.members.get_max().is_none_or(|(id, _)| id.0 < truth.next_member)),
    ];
    for (kind, below) in below {
        found.unless(below, "IdsAreNew", || format!("a {kind} has an id that is not yet given out"));
    }
}

fn sound_node(state: &State, node: &Node, found: &mut Found) {
    let id = node.id;
    let incarnation = node.health.incarnation();
    found.unless(incarnation.0 <= state.revision().0, "IncarnationIsAnEntry", || {
        format!("{id} {incarnation} lies above {}", state.revision())
    });
    // One that never registered may be fenced all the same: by a recovery, which does not know.
    found.unless((incarnation == Incarnation(0)) == node.facts.is_none(), "FactsWithRegistration", || {
        format!("{id} is {} and its facts say otherwise", node.health)
    });
    if let Health::Fenced { receipt } = &node.health {
        found.unless(receipt.node == id, "ReceiptIsItsOwn", || format!("{id} holds the receipt of {}", receipt.node));
    }
}

fn sound_container(state: &State, container: &Container, found: &mut Found) {
    let id = container.id;
    for template in container.spec.templates() {
        found.unless(state.template(template).is_some(), "NothingUsedIsGone", || {
            format!("{id} uses template {template}, which is gone")
        });
    }
    found.unless(state.storage(&container.spec.storage).is_some(), "NothingUsedIsGone", || {
        format!("{id} uses storage {}, which is gone", container.spec.storage)
    });
    if let Some(status) = state.status(id) {
        found.unless(status.epoch <= container.epoch, "EpochOwner", || {
            format!("{id} has a status of {}, above {}", status.epoch, container.epoch)
        });
    }
    match &container.placement {
        Placement::Assigned(assignment) => sound_assignment(state, container, assignment, found),
        Placement::Unplaced { reason, .. } => {
            found
                .unless(container.desired != Desired::Deleted, "DeletedIsGone", || format!("{id} is deleted and free"));
            let stopped = *reason == Unplaced::Stopped;
            found.unless(stopped == (container.desired == Desired::Stopped), "DesiredIsDone", || {
                format!("{id} is wanted {} and is {reason}", container.desired)
            });
        }
    }
}

fn sound_assignment(state: &State, container: &Container, assignment: &Assignment, found: &mut Found) {
    let id = container.id;
    found.unless(assignment.epoch == container.epoch, "EpochOwner", || {
        format!("{id} runs under {} and its highest epoch is {}", assignment.epoch, container.epoch)
    });
    found.unless(assignment.epoch > Epoch(0), "EpochOwner", || format!("{id} is assigned under epoch 0"));
    let Some(node) = state.node(assignment.node) else {
        found.unless(false, "EpochOwner", || format!("{id} is assigned to {}, which is gone", assignment.node));
        return;
    };
    let current = matches!(node.health, Health::Up { .. } | Health::Fencing { .. })
        && node.health.incarnation() == assignment.incarnation;
    let awaits = matches!(assignment.order, Order::AwaitingReceipt { .. });
    found.unless(current != awaits, "EpochOwner", || {
        format!("{id} is {:?} on {} {}, which is {:?}", assignment.order, node.id, assignment.incarnation, node.health)
    });
    let closed = state
        .status(id)
        .is_some_and(|status| status.epoch == assignment.epoch && matches!(status.observed, Observed::Closed { .. }));
    found.unless(!closed, "EpochOwner", || format!("{id} is assigned under {}, which is closed", assignment.epoch));
    match assignment.order {
        Order::Run | Order::Prepare { .. } | Order::Stop { then: AfterStop::Restart } => {
            found.unless(container.desired == Desired::Running, "DesiredIsDone", || {
                format!("{id} is told {:?} and wanted {}", assignment.order, container.desired)
            });
        }
        Order::Stop { then: AfterStop::Rest } => {
            found.unless(container.desired != Desired::Running, "DesiredIsDone", || {
                format!("{id} is told to rest and wanted running")
            });
        }
        Order::Handoff { .. } | Order::Blocked { .. } | Order::AwaitingReceipt { .. } => {}
    }
    if let Some(target) = assignment.target() {
        found.unless(target != assignment.node && state.node(target).is_some(), "HandoverHasATarget", || {
            format!("{id} is handed over to {target}")
        });
    }
}

fn bounds(state: &State, found: &mut Found) {
    let truth = state.truth();
    let stray = truth.node_reports.keys().find(|id| state.node(**id).is_none());
    found.unless(stray.is_none(), "NothingUsedIsGone", || format!("a report of {stray:?}, which is gone"));
    found.unless(truth.decisions.len() <= DECISIONS, "Bounded", || format!("{} decisions", truth.decisions.len()));
    found.unless(truth.sessions.iter().count() <= SESSIONS, "Bounded", || "too many sessions".into());
    let full = truth.sessions.iter().find(|(_, session)| session.results.len() > WINDOW);
    found.unless(full.is_none(), "Bounded", || "a session remembers too many results".into());
}

fn forward(before: &State, after: &State, found: &mut Found) {
    let ordered = [
        ("revision", before.revision() <= after.revision()),
        ("clock", before.clock() <= after.clock()),
        ("generation", before.generation() <= after.generation()),
        ("next container", before.truth().next_container <= after.truth().next_container),
        ("next node", before.truth().next_node <= after.truth().next_node),
        ("next member", before.truth().next_member <= after.truth().next_member),
    ];
    for (what, ordered) in ordered {
        found.unless(ordered, "OnlyForward", || format!("the {what} went back"));
    }
    for old in before.nodes() {
        let Some(new) = after.node(old.id) else { continue };
        let (was, is) = (old.health.incarnation(), new.health.incarnation());
        found.unless(was <= is, "IncarnationMonotone", || format!("{} went from {was} back to {is}", old.id));
        let ended = matches!(new.health, Health::Fenced { .. } | Health::Joined) || was != is;
        let reopened = was == is && matches!(old.health, Health::Fenced { .. }) && !ended;
        found.unless(!reopened, "FencedIsFinal", || format!("{} {was} was fenced and is {} again", old.id, new.health));
    }
}

fn sound_change(before: &State, after: &State, old: &Container, new: &Container, found: &mut Found) {
    let id = old.id;
    found.unless(old.epoch <= new.epoch, "EpochMonotone", || format!("{id} went from {} to {}", old.epoch, new.epoch));
    found.unless(old.created == new.created, "IdsAreNew", || format!("{id} is another container now"));
    let Some(was) = old.assignment() else {
        let anew = new.assignment().is_none_or(|is| is.epoch > old.epoch);
        found.unless(anew, "EpochMonotone", || {
            format!("{id} was free at {} and is given out under it again", old.epoch)
        });
        return;
    };
    match new.assignment() {
        Some(is) if is.epoch == was.epoch => {
            // The order in between (`AwaitingReceipt`) may lie within the step.
            let adopted = is.on_quorum_loss == OnQuorumLoss::Keep && is.incarnation > was.incarnation;
            found.unless(is.node == was.node && (is.incarnation == was.incarnation || adopted), "EpochOwner", || {
                format!("{id} {} changed hands from {} to {}", was.epoch, was.node, is.node)
            });
            found.unless(is.on_quorum_loss == was.on_quorum_loss, "PolicyOfTheEpoch", || {
                format!("{id} {} changed its policy", was.epoch)
            });
            let thawed = matches!(was.order, Order::Handoff { .. } | Order::Blocked { .. })
                && matches!(is.order, Order::Run | Order::Prepare { .. })
                && is.incarnation == was.incarnation;
            found.unless(!thawed, "HandoffGoesForward", || format!("{id} {} runs again after its handoff", was.epoch));
        }
        _ => found.unless(may_be_released(before, after, old), "EpochOwner", || {
            format!("{id} {} left {} without a closed epoch and without a receipt", was.epoch, was.node)
        }),
    }
}

/// Whether something says that the assignment `old` has is over: its epoch closed by the node that held it, or a
/// receipt that covers it. Deleted containers leave no status; then only what was asked for may have removed them.
fn may_be_released(before: &State, after: &State, old: &Container) -> bool {
    let Some(was) = old.assignment() else { return true };
    let closed = match after.status(old.id) {
        Some(status) if status.epoch > was.epoch => true,
        Some(status) => {
            status.epoch == was.epoch && status.node == was.node && matches!(status.observed, Observed::Closed { .. })
        }
        None => after.container(old.id).is_none() && before.revision() < after.revision(),
    };
    closed || is_covered(before, after, was)
}

fn is_covered(before: &State, after: &State, was: &Assignment) -> bool {
    let (Some(earlier), Some(node)) = (before.node(was.node), after.node(was.node)) else { return true };
    if node.health.incarnation() > was.incarnation {
        // A new incarnation exists only after a receipt of the old one, or an operator's word came later for it.
        return earlier.health.incarnation() != node.health.incarnation()
            || matches!(was.order, Order::AwaitingReceipt { .. });
    }
    match &node.health {
        Health::Fenced { receipt } => {
            let whole = receipt.proof.scope() == ReceiptScope::Node;
            whole || was.on_quorum_loss == OnQuorumLoss::Stop
        }
        _ => false,
    }
}

/// Nothing is given to a node beyond what it has. A node that comes back smaller may be over for what it kept.
fn room(before: &State, after: &State, found: &mut Found) {
    for node in after.nodes() {
        let (capacity, used, earlier) = (node.capacity(), after.used(node.id), before.used(node.id));
        let memory = used.memory_bytes <= capacity.memory_bytes || used.memory_bytes <= earlier.memory_bytes;
        found.unless(memory, "RoomForAll", || format!("{} promises {used} of {capacity}", node.id));
        let shares = capacity.cpu_millis.saturating_mul(CPU_OVERCOMMIT);
        let cpu = used.cpu_millis <= shares || used.cpu_millis <= earlier.cpu_millis;
        found.unless(cpu, "RoomForAll", || format!("{} promises {used} of {capacity}", node.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{ContainerId, NodeId};
    use crate::story::{Story, spec};

    const WEB: ContainerId = ContainerId(1);

    fn running() -> Story {
        let mut story = Story::with_nodes(2);
        assert_eq!(story.run(spec("web")), WEB);
        story
    }

    /// Writes past every rule, through the doors alone.
    fn tampered(state: &State, change: impl FnOnce(&mut Container)) -> State {
        let mut state = state.clone();
        let mut container = Container::clone(state.container(WEB).expect("it was created"));
        change(&mut container);
        state.put_container(container);
        state
    }

    fn assignment(container: &mut Container) -> &mut Assignment {
        match &mut container.placement {
            Placement::Assigned(assignment) => assignment,
            Placement::Unplaced { .. } => panic!("it is assigned"),
        }
    }

    fn names(violations: Vec<Violation>) -> BTreeSet<&'static str> {
        violations.into_iter().map(|violation| violation.invariant).collect()
    }

    #[test]
    fn sound_state_has_no_violation() {
        let story = running();
        assert_eq!(check(&story.state), []);
        assert_eq!(check_step(&story.state, &story.state), []);
    }

    #[test]
    fn owner_that_changes_without_a_closed_epoch_is_seen() {
        let before = running().state;
        let stolen = tampered(&before, |container| {
            assignment(container).node = NodeId(2);
            assignment(container).incarnation = before.node(NodeId(2)).expect("n2").health.incarnation();
        });
        assert_eq!(check(&stolen), [], "alone it looks fine");
        assert_eq!(names(check_step(&before, &stolen)), ["EpochOwner"].into());
        let freed = tampered(&before, |container| {
            let since = before.revision();
            container.placement = Placement::Unplaced { since, reason: Unplaced::Moving { from: NodeId(1) } };
        });
        assert_eq!(names(check_step(&before, &freed)), ["EpochOwner"].into());
    }

    #[test]
    fn epoch_that_goes_back_or_is_given_out_twice_is_seen() {
        let before = running().state;
        let back = tampered(&before, |container| container.epoch = Epoch(0));
        assert!(names(check(&back)).contains("EpochOwner"));
        assert!(names(check_step(&before, &back)).contains("EpochMonotone"));
    }

    #[test]
    fn assignment_to_an_incarnation_that_is_over_is_seen() {
        let before = running().state;
        let old = tampered(&before, |container| assignment(container).incarnation = Incarnation(1));
        assert_eq!(names(check(&old)), ["EpochOwner"].into());
        let mut gone = before.clone();
        gone.drop_node(NodeId(1));
        assert!(names(check(&gone)).contains("EpochOwner"));
    }

    #[test]
    fn thaw_after_handoff_is_seen() {
        let story = running();
        let (target, target_incarnation) = (NodeId(2), story.incarnation(NodeId(2)));
        let since = story.state.revision();
        let handoff = Order::Handoff { target, target_incarnation, since };
        let before = tampered(&story.state, |container| assignment(container).order = handoff);
        let after = tampered(&before, |container| assignment(container).order = Order::Run);
        assert_eq!(names(check_step(&before, &after)), ["HandoffGoesForward"].into());
    }

    #[test]
    fn index_or_hash_that_was_forgotten_is_seen() {
        let mut state = running().state;
        state.derived.used.insert(NodeId(2), crate::model::resources::Resources::LIMIT);
        assert_eq!(names(check(&state)), ["IndexesFollow"].into());
        let mut state = running().state;
        state.truth.next_container += 1;
        assert_eq!(names(check(&state)), ["ReplicaEqual"].into());
    }

    #[test]
    fn more_than_a_node_has_is_seen() {
        let before = running().state;
        let after = tampered(&before, |container| {
            let mut spec = container.spec.as_ref().clone();
            spec.resources.memory_bytes = 1 << 40;
            container.spec = spec.into();
        });
        assert_eq!(names(check_step(&before, &after)), ["RoomForAll"].into());
    }
}
