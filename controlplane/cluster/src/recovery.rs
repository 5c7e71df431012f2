//! The state a cluster begins its next generation with, when a majority of its members is lost for good.
//! In: what the survivor's log says, and what the recovery rests on. Out: the same objects, every incarnation void, every
//! number that is given out far above whatever the lost members may have given out without the survivor.
//! Absent: which log to take, and what becomes of the others. Source: safety.md, "Disaster recovery" *(8, a5)*.

use std::sync::Arc;

use imbl::OrdMap;
use planted::planted;

use crate::apply::order_for;
use crate::model::container::{Container, Placement};
use crate::model::fence::{FenceCause, LogsRead};
use crate::model::ids::{BootId, ContainerId, Epoch, Generation, Incarnation, NodeId, Revision};
use crate::model::member::{Member, Membership};
use crate::model::node::{Health, Node};
use crate::state::{Brake, State, Truth};

/// Added to every epoch, and to the next id of everything that has one: the lost members gave out fewer on their own.
pub const JUMP: u64 = 1 << 20;
/// Revisions of one generation, and with them its incarnations: a year of eight thousand entries a second is less.
const REVISIONS: u32 = 38;

/// What makes a new generation of a state.
#[derive(Clone, Debug)]
pub struct Recovery {
    pub generation: Generation,
    /// The only member from here on. Its log begins in `term`.
    pub survivor: Arc<Member>,
    pub term: u64,
    pub logs: LogsRead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotRecover {
    #[error("generation {new} does not come after {old}")]
    NotNewer { old: Generation, new: Generation },
    #[error("a new generation needs an id")]
    NoId,
    #[error("{0} lies above what its generation may hold")]
    OutOfRevisions(Revision),
}

/// Where the revisions of `generation` begin.
pub fn first_revision(generation: Generation) -> Revision {
    Revision((generation.number - 1) << REVISIONS)
}

/// The state beneath the first entry of the new generation. What may still run stays assigned, to an incarnation that is
/// void: only a receipt frees it. Errs if the generation does not come after the state's.
pub fn recover(state: &State, recovery: &Recovery) -> Result<State, CannotRecover> {
    let Recovery { generation, survivor, term, logs } = recovery;
    let truth = state.truth();
    if generation.id == 0 {
        return Err(CannotRecover::NoId);
    }
    if generation.number <= truth.generation.number || generation.number >= 1 << (63 - REVISIONS) {
        return Err(CannotRecover::NotNewer { old: truth.generation, new: *generation });
    }
    let revision = first_revision(*generation);
    if truth.revision >= revision {
        return Err(CannotRecover::OutOfRevisions(truth.revision));
    }
    let voters = [survivor.id].into();
    let membership = Membership { term: *term, index: revision.0, voters, ..Membership::default() };
    let voided = |(id, node): (&NodeId, &Arc<Node>)| (*id, Arc::new(void(node, *logs, revision)));
    let nodes: OrdMap<NodeId, Arc<Node>> = truth.nodes.iter().map(voided).collect();
    let carried = |(id, container): (&ContainerId, &Arc<Container>)| {
        let node = container.assignment().and_then(|assignment| nodes.get(&assignment.node));
        (*id, Arc::new(carried_over(container, node.and_then(|node| fenced_as(node)))))
    };
    let containers = truth.containers.iter().map(carried).collect();
    Ok(State::restore(Truth {
        cluster: truth.cluster,
        generation: *generation,
        revision,
        clock: truth.clock,
        next_member: truth.next_member + JUMP,
        next_node: truth.next_node + JUMP,
        next_container: truth.next_container + JUMP,
        membership,
        members: [(survivor.id, survivor.clone())].into_iter().collect(),
        nodes,
        containers,
        statuses: truth.statuses.clone(),
        node_reports: truth.node_reports.clone(),
        templates: truth.templates.clone(),
        storages: truth.storages.clone(),
        settings: truth.settings.clone(),
        brake: Brake::Off,
        decisions: truth.decisions.clone(),
        sessions: truth.sessions.clone(),
    }))
}

/// What was granted to it counts no more. With the logs of a majority at hand, what is known to be over is over; without,
/// any node may have registered since, and run anything.
fn void(node: &Node, logs: LogsRead, begun: Revision) -> Node {
    let settled = logs == LogsRead::Majority && matches!(node.health, Health::Joined | Health::Fenced { .. });
    if settled {
        return node.clone();
    }
    let (incarnation, boot) = (node.health.incarnation(), node.health.boot().unwrap_or(BootId(0)));
    Node { health: Health::Fencing { incarnation, boot, begun, cause: FenceCause::Recovered { logs } }, ..node.clone() }
}

fn fenced_as(node: &Node) -> Option<Incarnation> {
    matches!(node.health, Health::Fencing { .. }).then(|| node.health.incarnation())
}

/// A handover of the old generation is over: what it had not finished, a receipt finishes.
fn carried_over(container: &Container, fencing: Option<Incarnation>) -> Container {
    let mut container = container.clone();
    if planted!("epochs-not-raised") {
        return container;
    }
    container.epoch = Epoch(container.epoch.0 + JUMP);
    if let Placement::Assigned(assignment) = &mut container.placement {
        assignment.epoch = container.epoch;
        if fencing == Some(assignment.incarnation) {
            assignment.order = order_for(container.desired);
        }
    }
    container
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::container::{OnQuorumLoss, Order};
    use crate::model::fence::Proof;
    use crate::model::ids::{MemberId, NodeId};
    use crate::story::{Story, facts, lease_over, member, spec};
    use crate::{invariants, planner};

    const GENERATION: Generation = Generation { number: 2, id: 0xfeed };

    fn begun(story: &Story, logs: LogsRead) -> Result<State, CannotRecover> {
        let survivor = Arc::new(member(2));
        recover(&story.state, &Recovery { generation: GENERATION, survivor, term: 9, logs })
    }

    /// The story goes on in the new generation; its invariants are those of any state.
    fn recovered(mut story: Story, logs: LogsRead) -> Story {
        story.state = begun(&story, logs).expect("a later generation");
        assert_eq!(invariants::check(&story.state), []);
        story
    }

    fn operator() -> Proof {
        Proof::Operator { reason: "seen dark".into() }
    }

    #[test]
    fn everything_is_kept_and_nothing_that_was_granted_counts() {
        let mut story = Story::with_nodes(2);
        let web = story.run(spec("web"));
        let before = story.container(web).clone();
        let story = recovered(story, LogsRead::Majority);
        let state = &story.state;
        assert_eq!((state.generation(), state.revision()), (GENERATION, Revision(1 << REVISIONS)));
        assert_eq!(state.membership().voters[..], [MemberId(2)]);
        assert_eq!(state.members().count(), 1);
        assert_eq!(story.on(web), before.assignment().map(|it| it.node), "it may still run there");
        assert_eq!(story.container(web).epoch, Epoch(before.epoch.0 + JUMP));
        assert!(state.nodes().all(|node| matches!(node.health, Health::Fencing { .. })), "every incarnation is void");
    }

    /// *(8)*: from the logs of a majority, waiting is a receipt again, and a container moves under a higher epoch.
    #[test]
    fn with_a_majority_time_is_a_receipt() {
        let mut story = Story::with_nodes(2);
        let web = story.run(spec("web"));
        let (owner, epoch) = (story.on(web).expect("a place"), story.container(web).epoch);
        let other = NodeId(3 - owner.0);
        let mut story = recovered(story, LogsRead::Majority);
        story.register(other, u128::from(other.0), true, facts(8)).expect("the same boot, shown empty");
        assert_eq!(story.plan(), 0, "nothing says yet that its owner has ended it");
        story.record_fenced(owner, lease_over()).expect("its lease is over");
        story.plan();
        assert_eq!(story.on(web), Some(other));
        assert!(story.container(web).epoch.0 > epoch.0 + JUMP);
    }

    /// *(a5)*: without one, the others may still grant leases: only a node's own registration or an operator counts, and
    /// nothing is placed before that is had of every node, for any of them may run anything.
    #[test]
    fn without_a_majority_nothing_moves_before_every_node_is_accounted_for() {
        let mut story = Story::with_nodes(3);
        let web = story.run(spec("web"));
        let owner = story.on(web).expect("a place");
        let others: Vec<NodeId> = (1..=4).map(NodeId).filter(|id| *id != owner).collect();
        let mut story = recovered(story, LogsRead::Fewer);
        for proof in [lease_over(), Proof::Guard, Proof::Left] {
            story.record_fenced(owner, proof.clone()).expect_err("it proves nothing of what came later");
        }
        story.register(owner, u128::from(owner.0), true, facts(8)).expect("the same boot, shown empty");
        for id in &others[1..] {
            story.register(*id, u128::from(id.0), true, facts(8)).expect("the same boot, shown empty");
            assert_eq!(story.plan(), 0, "the last one may run it");
            story.refused(crate::Command::MoveContainer { container: web, target: None });
            story.refused(crate::Command::MoveContainer { container: web, target: Some(*id) });
        }
        story.register(others[0], 77, true, facts(8)).expect_err("another boot shows nothing");
        assert!(story.state.node(others[0]).expect("it is there").awaits_operator());
        story.record_fenced(others[0], operator()).expect("an operator's word");
        story.plan();
        assert!(story.on(web).is_some());
    }

    /// One that never registered, as far as the survivor knows, and one that was fenced, may have registered since.
    #[test]
    fn without_a_majority_no_node_is_known_to_be_idle() {
        let mut story = Story::with_nodes(2);
        story.lose(NodeId(1));
        let joined = crate::Command::JoinNode {
            name: crate::story::name("late"),
            role: crate::Role::Active,
            labels: Default::default(),
            failure_domain: "".into(),
            secret: crate::SecretHash(9),
        };
        story.done(joined);
        let waits = |story: &Story| story.state.nodes().filter(|node| node.may_serve_elsewhere()).count();
        assert_eq!(waits(&recovered(Story { state: story.state.clone(), ..Story::bare() }, LogsRead::Majority)), 0);
        let mut story = recovered(story, LogsRead::Fewer);
        assert_eq!(waits(&story), 4);
        for id in 1..=4 {
            story.record_fenced(NodeId(id), operator()).expect("an operator's word");
        }
        assert_eq!(story.state.awaited_from_before(), None);
    }

    #[test]
    fn a_handover_and_what_was_kept_wait_for_their_receipt() {
        let mut story = Story::with_nodes(2);
        let kept = story.run(crate::ContainerSpec { on_quorum_loss: OnQuorumLoss::Keep, ..spec("kept") });
        let owner = story.on(kept).expect("a place");
        story.lose(owner);
        assert!(matches!(story.order(kept), Order::AwaitingReceipt { .. }));
        let moved = story.run(spec("moved"));
        story.done(crate::Command::MoveContainer { container: moved, target: None });
        for logs in [LogsRead::Majority, LogsRead::Fewer] {
            let mut story = recovered(Story { state: story.state.clone(), ..Story::bare() }, logs);
            for id in 1..=3 {
                // One that is fenced already, and keeps nothing, needs no word more.
                let _ = story.record_fenced(NodeId(id), operator());
                let node = story.state.node(NodeId(id)).expect("it is there").clone();
                assert!(matches!(node.health, Health::Fenced { .. }), "{}", node.health);
            }
            assert!([kept, moved].iter().all(|id| story.on(*id).is_none()));
            assert!(
                !planner::plan(&story.state, &Default::default(), story.now)
                    .commands
                    .iter()
                    .any(|command| { matches!(command, crate::Command::Assign { .. }) }),
                "no node serves yet"
            );
        }
    }

    #[test]
    fn a_generation_that_is_not_later_or_has_no_id_is_refused() {
        let story = recovered(Story::with_nodes(1), LogsRead::Fewer);
        assert!(matches!(begun(&story, LogsRead::Fewer), Err(CannotRecover::NotNewer { .. })));
        let survivor = Arc::new(member(1));
        let recovery = Recovery { generation: Generation::numbered(3), survivor, term: 1, logs: LogsRead::Fewer };
        assert_eq!(recover(&story.state, &recovery).err(), Some(CannotRecover::NoId));
        let next = recover(&story.state, &Recovery { generation: Generation { number: 3, id: 1 }, ..recovery });
        assert_eq!(next.expect("a later one").revision(), Revision(2 << REVISIONS));
    }
}
