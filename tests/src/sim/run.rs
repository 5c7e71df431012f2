//! One run: things break, everything is healed, and it must recover within a bound.
//! In: a plan. Out: the first violation with the lines before it, and what was covered. Source of the two phases:
//! TigerBeetle's VOPR (safety mode, then liveness mode).

use std::collections::BTreeMap;

use cluster::planner::Observed;
use cluster::{Desired, Health, Observed as Seen, Order, Placement, Unplaced};

use crate::history;
use crate::sim::checks::Violation;
use crate::sim::clock::{God, SECOND};
use crate::sim::deeds::Plan;
use crate::sim::host::{Member, Node};
use crate::sim::shrink::Failure;
use crate::sim::transcript::Transcript;
use crate::sim::world::{Counts, World};

/// After healing, links are well at once and sessions find out within this; from then on nobody may be fenced.
const SETTLE: u64 = 12 * SECOND;
/// Everything wanted runs within this after healing: a brake, a restart and two rounds of fencing fit in.
const RECOVERY: u64 = 90 * SECOND;
/// Watched after recovery for flapping.
const CALM: u64 = 5 * SECOND;

pub struct Outcome {
    pub seed: u64,
    pub violation: Option<Violation>,
    pub simulated: God,
    /// From healing to everything running.
    pub recovery: Option<u64>,
    pub counts: Counts,
    pub events: BTreeMap<&'static str, u64>,
    pub exposures: u64,
    /// Terms in which somebody led.
    pub leaders: u64,
    pub answers: usize,
    /// Of clients, judged for linearizability.
    pub operations: usize,
    /// The last lines, if the run was traced.
    pub trace: Vec<String>,
}

/// How `plan` fails, for whoever makes it shorter.
pub fn failure(plan: &Plan) -> Option<Failure> {
    let violation = run(plan, Transcript::default()).violation?;
    Some(Failure { oracle: violation.oracle, at: violation.at })
}

/// Runs `plan` to its end or to the first violation.
pub fn run(plan: &Plan, transcript: Transcript) -> Outcome {
    let mut world = World::new(plan, transcript);
    world.run(plan.faults_until);
    let recovery = if world.checks.first.is_none() { recover(&mut world) } else { None };
    let unaccounted = world.unaccounted();
    if unaccounted != 0 && world.checks.first.is_none() {
        world.checks.violate(world.now, "Simulator", format!("{unaccounted} happenings were lost"));
    }
    let operations = judge(&mut world);
    Outcome { operations, ..finish(plan.seed, world, recovery) }
}

/// What clients and watchers saw, judged by itself. Gives how many operations that were.
fn judge(world: &mut World) -> usize {
    let history = world.take_history();
    if world.checks.first.is_none() {
        for anomaly in history::judge(&history) {
            world.checks.violate(world.now, anomaly.rule.name(), anomaly.what);
        }
    }
    history.operations.len()
}

fn recover(world: &mut World) -> Option<u64> {
    world.heal();
    let healed = world.now;
    world.run(healed + SETTLE);
    world.checks.calm(world.now);
    while world.checks.first.is_none() {
        let Some(open) = world.unsettled() else { break };
        if world.now >= healed + RECOVERY {
            let after = RECOVERY / SECOND;
            world.checks.violate(world.now, "Recovery", format!("{after} s after everything was healed: {open}"));
        }
        world.operator_looks();
        world.run(world.now + SECOND);
    }
    let recovered = world.now - healed;
    world.run(world.now + CALM);
    if world.checks.first.is_none() {
        let state = world.newest.clone();
        world.checks.remembers(world.now, "the state at the end", &state);
    }
    world.checks.first.is_none().then_some(recovered)
}

fn finish(seed: u64, world: World, recovery: Option<u64>) -> Outcome {
    let World { now, checks, counts, transcript, .. } = world;
    Outcome {
        seed,
        simulated: now,
        recovery,
        counts,
        answers: checks.answers(),
        operations: 0,
        exposures: checks.exposures,
        leaders: checks.terms_led() as u64,
        events: checks.events,
        violation: checks.first,
        trace: transcript.trace().cloned().collect(),
    }
}

impl World {
    /// What still keeps the cluster from being well, if anything does.
    pub fn unsettled(&self) -> Option<String> {
        let state = &self.newest;
        if self.leader().is_none() {
            let each = self.members.values().map(|member| self.member_in_short(member));
            return Some(format!("nobody leads: {}", each.collect::<Vec<_>>().join("; ")));
        }
        if let Some(node) = state.fencing().next() {
            return Some(format!("the fencing of {} is open", node.name));
        }
        if !state.settings().terms_fading.is_empty() {
            return Some(format!("earlier lease terms still fade: {:?}", state.settings().terms_fading));
        }
        if let Some(node) = state.nodes().find(|node| !matches!(node.health, Health::Up { .. })) {
            let agent = self.nodes.get(&node.id).map(|host| self.node_in_short(host));
            return Some(format!("{} is {}, its agent: {}", node.name, node.health, agent.unwrap_or_default()));
        }
        if state.membership().is_joint() {
            return Some("the membership is joint".to_owned());
        }
        if let Some(container) = state.handovers().next() {
            return Some(format!("the handover of {} is open", container.spec.name));
        }
        if let Some(open) = state.containers().find_map(|container| self.container_unsettled(container)) {
            return Some(open);
        }
        if let Some((container, runner)) =
            self.checks.running().find(|(container, _)| state.container(*container).is_none())
        {
            return Some(format!("{container}, which is deleted, runs on {}", runner.node));
        }
        let plan = cluster::planner::plan(state, &Observed::default(), self.wall());
        if let Some(command) = plan.commands.first() {
            return Some(format!("the planner would still do {command:?}"));
        }
        let open = self.open_questions();
        (!open.is_empty()).then(|| format!("{} questions are open: {}", open.len(), open.join("; ")))
    }

    fn member_in_short(&self, member: &Member) -> String {
        let Member { id, paused, retired, process, .. } = member;
        let Some(process) = process else { return format!("{id} does not run ({retired:?})") };
        let status = process.replica.status();
        let voters = &process.replica.tail().membership.voters;
        let (role, term, last) = (status.role, status.term, status.last);
        let paused = if *paused { ", paused" } else { "" };
        format!("{id} {role:?} in {term}, last {last:?}, commit {}, voters {voters:?}{paused}", status.commit)
    }

    fn node_in_short(&self, node: &Node) -> String {
        let Node { agent, agent_paused, left, guard, .. } = node;
        let Some(process) = agent else { return format!("not running, left {left}, guard {}", guard.is_some()) };
        let session = process.session.and_then(|link| self.sessions.get(&link)).map(|session| session.member);
        let standing = process.agent.standing();
        format!("{standing}, paused {agent_paused}, session {:?} with {session:?}, {:?}", process.session, node.slot)
    }

    fn container_unsettled(&self, container: &cluster::Container) -> Option<String> {
        let name = &container.spec.name;
        let runners = self.checks.runners(container.id);
        match (&container.placement, container.desired) {
            (placement, Desired::Deleted) => Some(format!("{name} is to be deleted and is still there: {placement:?}")),
            (Placement::Assigned(assignment), Desired::Running) => {
                if assignment.order != Order::Run {
                    return Some(format!("{name} {} is ordered to {:?}", assignment.epoch, assignment.order));
                }
                let status = self.newest.status(container.id).filter(|status| status.epoch == assignment.epoch);
                if status.is_none_or(|status| status.observed != Seen::Running) {
                    return Some(format!(
                        "{name} {} is not running on {}: {status:?}",
                        assignment.epoch, assignment.node
                    ));
                }
                let right = matches!(runners, [one] if one.node == assignment.node && one.epoch == assignment.epoch);
                (!right).then(|| format!("{name} is said to run as {} and runs as {runners:?}", assignment.epoch))
            }
            (Placement::Assigned(assignment), Desired::Stopped) => {
                let cluster::Assignment { node, incarnation, epoch, order, .. } = assignment;
                Some(format!(
                    "{name} {epoch} on {node} {incarnation} is wanted stopped and is ordered to {order:?}; it runs as {runners:?}"
                ))
            }
            (Placement::Unplaced { reason: Unplaced::Held { .. }, .. }, _) | (Placement::Unplaced { .. }, _) => {
                (!runners.is_empty()).then(|| format!("{name} has no place and runs as {runners:?}"))
            }
        }
    }
}
