//! The oracles: what must hold whatever happens, judged from outside with god's clock.
//! In: facts of the world as they occur (a container really runs, a member really acknowledges, an entry is applied, a
//! client is answered). Out: the first violation, and counts of what was covered.
//! Absent: trust. Nothing here asks an agent or a leader what it believes; leases are worked out anew from the
//! acknowledgements that left the members. Predicates: reliability.md 1.11, safety.md "Invariants".

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use cluster::agent::{Heartbeat, MembershipIdentity};
use cluster::{
    BootId, ContainerId, Epoch, Event, FenceCause, Generation, Incarnation, LeaseTerms, MemberId, Moment, NodeId,
    OnQuorumLoss, Outcome, Proof, ReceiptScope, RequestId, Revision, State, StateHash,
};

use crate::sim::clock::{Clock, God};
use crate::sim::net::Site;

/// A promise that was broken, by its name on the safety page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub at: God,
    pub oracle: &'static str,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.at / 1_000_000;
        write!(f, "{} broken at {}.{:03} s: {}", self.oracle, millis / 1_000, millis % 1_000, self.what)
    }
}

/// One epoch of one container that really executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runner {
    pub site: Site,
    pub node: NodeId,
    pub boot: BootId,
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    pub policy: OnQuorumLoss,
    pub since: God,
}

/// What god knows of the machine a runner is on, at the moment of a check.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    pub clock: Clock,
    /// The whole node stands still, or agent and guard both do, or did until a moment ago: what the class F1 does not
    /// cover and says so.
    pub exposed: bool,
    /// Its clocks stood still of late, or do: the node cannot know, and its time is no measure.
    pub blind: bool,
}

/// An entry as god saw it applied first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Committed {
    term: u64,
    digest: u64,
    by: MemberId,
}

/// A lease, worked out anew from acknowledgements.
#[derive(Clone, Debug, Default)]
struct Granted {
    /// Newest acknowledged send of each voter, apart for each membership and length.
    sends: BTreeMap<(Arc<MembershipIdentity>, u64), BTreeMap<MemberId, Moment>>,
    /// The latest end, by the node's clock, with the terms it was earned under.
    end: Option<(Moment, LeaseTerms)>,
    /// When the terms were first named that were named last, and the end earned under them. Echoes of others bring the
    /// agent nothing any more.
    named: Option<(Moment, LeaseTerms, Option<Moment>)>,
    /// Whose clock those moments are of.
    boot: BootId,
}

impl Granted {
    fn acknowledged(&mut self, member: MemberId, heartbeat: &Heartbeat, identity: &Arc<MembershipIdentity>) {
        let Heartbeat { boot, terms, sent_at, .. } = *heartbeat;
        self.boot = boot;
        if self.named.is_none_or(|(since, named, _)| named != terms && sent_at > since) {
            self.named = Some((sent_at, terms, None));
        }
        while self.sends.len() > 4 {
            self.sends.pop_first();
        }
        let sends = self.sends.entry((identity.clone(), terms.lease.0)).or_default();
        let newest = sends.entry(member).or_default();
        *newest = sent_at.max(*newest);
        let of = |voters: &[MemberId]| {
            let mut newest: Vec<Moment> = voters.iter().filter_map(|voter| sends.get(voter).copied()).collect();
            newest.sort_unstable_by(|a, b| b.cmp(a));
            newest.get(voters.len() / 2).copied()
        };
        let outgoing = if identity.outgoing.is_empty() { Some(Moment(u64::MAX)) } else { of(&identity.outgoing) };
        if let (Some(incoming), Some(outgoing)) = (of(&identity.voters), outgoing) {
            let end = incoming.min(outgoing) + terms.lease;
            if self.end.is_none_or(|(held, _)| end > held) {
                self.end = Some((end, terms));
            }
            if let Some((_, named, held)) = &mut self.named
                && *named == terms
            {
                *held = (*held).max(Some(end));
            }
        }
    }

    fn lease(&self) -> Option<(Moment, LeaseTerms, BootId)> {
        self.end.map(|(end, terms)| (end, terms, self.boot))
    }
}

#[derive(Default)]
pub struct Checks {
    pub first: Option<Violation>,
    /// Overlaps the fencing class does not cover, counted and not hidden.
    pub exposures: u64,
    pub events: BTreeMap<&'static str, u64>,
    running: BTreeMap<ContainerId, Vec<Runner>>,
    log: BTreeMap<u64, Committed>,
    hashes: BTreeMap<Revision, (StateHash, MemberId)>,
    /// Of the newest generation, by term.
    leaders: BTreeMap<(Generation, u64), MemberId>,
    generation: Generation,
    assigned: BTreeMap<(ContainerId, Epoch), NodeId>,
    newest_epoch: BTreeMap<(Generation, ContainerId), Epoch>,
    /// The lease the members may have helped to grant, whatever reached the agent; and what did reach it.
    granted: BTreeMap<(NodeId, Incarnation), Granted>,
    reached: BTreeMap<(NodeId, Incarnation), Granted>,
    /// The last deadline each guard was given; and who gave up a part of a lease, before shorter terms were named *(a3)*.
    deadlines: BTreeMap<(NodeId, Incarnation), Moment>,
    /// Covered by a receipt for the node or for its `stop` containers.
    fenced: BTreeMap<(NodeId, Incarnation), ReceiptScope>,
    answered: BTreeMap<RequestId, (Revision, Outcome)>,
    /// Requests in god's log that changed something, with the entry that did.
    carried_out: BTreeMap<RequestId, u64>,
    /// The newest revision any client was told of.
    told: Revision,
    /// How far each member has told its watchers.
    watched: BTreeMap<MemberId, Revision>,
    /// How far each generation has got.
    applied: BTreeMap<Generation, Revision>,
    /// From here on nobody may be fenced for silence.
    calm_since: Option<God>,
}

impl Checks {
    pub fn of(generation: Generation) -> Checks {
        Checks { generation, ..Checks::default() }
    }

    pub fn violate(&mut self, at: God, oracle: &'static str, what: String) {
        if self.first.is_none() {
            self.first = Some(Violation { at, oracle, what });
        }
    }

    // ── What really runs ───────────────────────────────────────────────────────────────────────────────────────────

    /// SingleRunner, EpochOwner: a container begins to execute.
    pub fn begins(&mut self, god: God, container: ContainerId, runner: Runner, standing: impl Fn(Site) -> Standing) {
        let Runner { node, epoch, incarnation, .. } = runner;
        match self.assigned.get(&(container, epoch)) {
            Some(owner) if *owner == node => {}
            owner => {
                self.violate(god, "EpochOwner", format!("{container} {epoch} runs on {node}, assigned to {owner:?}"))
            }
        }
        let fenced = self.fenced.get(&(node, incarnation)).filter(|scope| covers(**scope, runner.policy));
        if let Some(scope) = fenced.filter(|_| !standing(runner.site).exposed) {
            self.violate(
                god,
                "FenceAfterLease",
                format!("{container} {epoch} starts on {node} {incarnation}, receipt {scope:?}"),
            );
        }
        let others = self.running.entry(container).or_default();
        let doubled = others.to_vec();
        others.push(runner);
        for other in doubled {
            if standing(other.site).exposed || standing(runner.site).exposed {
                self.exposures += 1;
            } else {
                self.violate(
                    god,
                    "SingleRunner",
                    format!("{container} runs as {} on {} and as {epoch} on {node}", other.epoch, other.node),
                );
            }
        }
    }

    /// LeaseCover at the end of an execution.
    pub fn ends(&mut self, god: God, container: ContainerId, epoch: Epoch, node: NodeId, standing: Option<Standing>) {
        let Some(runners) = self.running.get_mut(&container) else { return };
        let Some(place) = runners.iter().position(|runner| runner.epoch == epoch && runner.node == node) else {
            return;
        };
        let runner = runners.remove(place);
        if runners.is_empty() {
            self.running.remove(&container);
        }
        if let Some(standing) = standing {
            self.covered(god, container, runner, standing);
        }
    }

    /// LeaseCover of everything that runs now.
    pub fn sweep(&mut self, god: God, standing: impl Fn(Site) -> Standing) {
        let all: Vec<(ContainerId, Runner)> =
            self.running.iter().flat_map(|(id, runners)| runners.iter().map(|runner| (*id, *runner))).collect();
        for (container, runner) in all {
            self.covered(god, container, runner, standing(runner.site));
        }
    }

    fn covered(&mut self, god: God, container: ContainerId, runner: Runner, standing: Standing) {
        if runner.policy == OnQuorumLoss::Keep || standing.exposed {
            return;
        }
        let Runner { node, incarnation, epoch, .. } = runner;
        let granted = self.granted.get(&(node, incarnation)).and_then(|granted| granted.end);
        let Some((end, terms)) = granted else {
            return self.violate(
                god,
                "LeaseCover",
                format!("{container} {epoch} runs on {node} {incarnation} without any lease"),
            );
        };
        let limit = end + terms.kill + terms.margin;
        let now = standing.clock.lease(god);
        if now > limit {
            let over = now.since(limit);
            self.violate(
                god,
                "LeaseCover",
                format!("{container} {epoch} runs on {node} {incarnation} {over} after lease, K and margin"),
            );
        }
    }

    pub fn runners(&self, container: ContainerId) -> &[Runner] {
        self.running.get(&container).map_or(&[], Vec::as_slice)
    }

    pub fn running(&self) -> impl Iterator<Item = (ContainerId, &Runner)> {
        self.running.iter().flat_map(|(id, runners)| runners.iter().map(|runner| (*id, runner)))
    }

    // ── Leases ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A member lets an acknowledgement out. `refuses`: its durable log or the state beneath holds a `Fencing` of this
    /// incarnation (NoAckAfterFencing).
    pub fn acknowledged(
        &mut self,
        god: God,
        member: MemberId,
        heartbeat: &Heartbeat,
        identity: &Arc<MembershipIdentity>,
        refuses: Option<String>,
    ) {
        let Heartbeat { node, incarnation, .. } = *heartbeat;
        if let Some(why) = refuses {
            self.violate(
                god,
                "NoAckAfterFencing",
                format!("{member} acknowledges {node} {incarnation} although {why}"),
            );
        }
        self.granted.entry((node, incarnation)).or_default().acknowledged(member, heartbeat, identity);
    }

    /// An acknowledgement has reached the agent.
    pub fn heard(&mut self, member: MemberId, heartbeat: &Heartbeat, identity: &Arc<MembershipIdentity>) {
        let key = (heartbeat.node, heartbeat.incarnation);
        self.reached.entry(key).or_default().acknowledged(member, heartbeat, identity);
    }

    /// LeaseCover at its root: no guard is given a deadline that no majority has granted.
    pub fn deadline(&mut self, god: God, node: NodeId, incarnation: Incarnation, at: Moment) {
        self.deadlines.insert((node, incarnation), at);
        let granted = self.granted.get(&(node, incarnation)).and_then(|granted| granted.end);
        if granted.is_none_or(|(end, _)| at > end) {
            self.violate(
                god,
                "LeaseCover",
                format!("{node} {incarnation} takes a lease to {at:?}, granted {granted:?}"),
            );
        }
    }

    /// The latest end of a lease that the members may have helped to grant, its terms, and whose clock it is by.
    pub fn lease_of(&self, node: NodeId, incarnation: Incarnation) -> Option<(Moment, LeaseTerms, BootId)> {
        self.granted.get(&(node, incarnation))?.lease()
    }

    /// Likewise, of what has reached the agent: the lease it may know it holds.
    pub fn lease_heard(&self, node: NodeId, incarnation: Incarnation) -> Option<(Moment, LeaseTerms, BootId)> {
        self.reached.get(&(node, incarnation))?.lease()
    }

    // ── The log ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// TermUnique: `member` leads in `term`.
    pub fn leads(&mut self, god: God, member: MemberId, generation: Generation, term: u64) {
        let holder = *self.leaders.entry((generation, term)).or_insert(member);
        if holder != member {
            self.violate(god, "TermUnique", format!("{holder} and {member} both lead in term {term}"));
        }
    }

    /// The highest term in which anybody of the newest generation has led.
    pub fn newest_term(&self) -> u64 {
        let newest = self.leaders.last_key_value().filter(|((generation, _), _)| *generation == self.generation);
        newest.map_or(0, |((_, term), _)| *term)
    }

    /// A new generation begins with `state`. What clients were told before, it need not know.
    pub fn recovered(&mut self, generation: Generation, state: &State) {
        self.generation = generation;
        self.answered.clear();
        self.carried_out.clear();
        self.told = Revision(0);
        self.applied.insert(generation, state.revision());
        // Above whatever was given out, known to the survivor or not.
        let before: Vec<(ContainerId, Epoch)> = self.assigned.keys().copied().collect();
        for (container, epoch) in before {
            let newest = self.newest_epoch.entry((generation, container)).or_default();
            *newest = epoch.max(*newest);
        }
    }

    /// Terms in which somebody led.
    pub fn terms_led(&self) -> usize {
        self.leaders.len()
    }

    /// A committed prefix never changes; watches have no gap; epochs rise; receipts come after the real end.
    /// `entry`: term, checksum and request of the entry as it stands in the member's log.
    pub fn applied(
        &mut self,
        god: God,
        (member, generation): (MemberId, Generation),
        revision: Revision,
        entry: Option<(u64, u64, Option<RequestId>)>,
        events: &[Event],
        standing: impl Fn(NodeId) -> Option<(BootId, Standing)>,
    ) -> First {
        if let Some(before) = self.watched.insert(member, revision)
            && revision.0 != before.0 + 1
        {
            self.violate(god, "WatchWithoutGap", format!("{member} tells of {revision} right after {before}"));
        }
        if let Some((term, digest, request)) = entry {
            let committed = self.log.entry(revision.0).or_insert(Committed { term, digest, by: member }).clone();
            if (committed.term, committed.digest) != (term, digest) {
                let by = committed.by;
                self.violate(god, "AckDurable", format!("{member} applies another entry at {revision} than {by} did"));
            }
            if let Some(request) = request.filter(|_| !events.is_empty() && generation == self.generation) {
                let before = *self.carried_out.entry(request).or_insert(revision.0);
                if before != revision.0 {
                    self.violate(
                        god,
                        "OnceOnly",
                        format!("request {request} took effect at r{before} and at {revision}"),
                    );
                }
            }
        }
        let newest = self.applied.entry(generation).or_default();
        if revision <= *newest {
            return First::No;
        }
        *newest = revision;
        for event in events {
            *self.events.entry(event.kind()).or_default() += 1;
            self.event(god, generation, event, &standing);
        }
        First::Yes
    }

    fn event(
        &mut self,
        god: God,
        generation: Generation,
        event: &Event,
        standing: &impl Fn(NodeId) -> Option<(BootId, Standing)>,
    ) {
        match event {
            Event::ContainerAssigned { container, node, epoch, .. } => {
                let newest = self.newest_epoch.entry((generation, *container)).or_default();
                let before = *newest;
                *newest = before.max(*epoch);
                if *epoch <= before {
                    self.violate(god, "EpochMonotone", format!("{container} is assigned {epoch} after {before}"));
                }
                self.assigned.insert((*container, *epoch), *node);
            }
            Event::FencingBegun { node, name, incarnation, cause: FenceCause::Silence }
                if self.calm_since.is_some() =>
            {
                // What was of a boot that is over stays silent, also where the leader that heard of the next one is gone.
                let granted = self.granted.get(&(*node, *incarnation)).map(|granted| granted.boot);
                let boot = standing(*node).map(|(boot, _)| boot);
                if granted.is_none() || granted == boot {
                    self.violate(god, "NoFlap", format!("{name} is fenced for silence although every link is well"));
                }
            }
            Event::NodeFenced { node, incarnation, proof, .. } => {
                self.receipt(god, *node, *incarnation, proof, standing(*node));
            }
            _ => {}
        }
    }

    /// FenceAfterLease.
    fn receipt(
        &mut self,
        god: God,
        node: NodeId,
        incarnation: Incarnation,
        proof: &Proof,
        standing: Option<(BootId, Standing)>,
    ) {
        let scope = proof.scope();
        self.fenced.insert((node, incarnation), scope);
        let exposed = standing.as_ref().is_some_and(|(_, standing)| standing.exposed);
        let left: Vec<String> = self
            .running()
            .filter(|(_, runner)| {
                runner.node == node && runner.incarnation == incarnation && covers(scope, runner.policy)
            })
            .map(|(container, runner)| format!("{container} {}", runner.epoch))
            .collect();
        if !left.is_empty() && exposed {
            self.exposures += 1;
        } else if !left.is_empty() {
            self.violate(
                god,
                "FenceAfterLease",
                format!("{node} {incarnation} fenced ({proof}) and {} still runs", left.join(", ")),
            );
        }
        let granted = self.granted.get(&(node, incarnation));
        let named = granted.and_then(|granted| granted.named);
        // Another boot has another clock, and proves by itself that everything before it has ended.
        let same_boot = standing.filter(|(boot, _)| granted.is_some_and(|granted| granted.boot == *boot));
        if let (Proof::LeaseOver { .. }, Some((_, terms, earned)), Some((_, standing))) = (proof, named, same_boot) {
            // What the guard was given, or what is on its way and may be given to it yet.
            let end = earned.max(self.deadlines.get(&(node, incarnation)).copied());
            let now = standing.clock.lease(god);
            let over = end.map_or(now, |end| end + terms.kill + terms.margin);
            if now < over && !standing.blind {
                let early = over.since(now);
                self.violate(
                    god,
                    "FenceAfterLease",
                    format!("the receipt of {node} {incarnation} comes {early} before lease, K and margin are over"),
                );
            }
        }
    }

    /// The member starts anew, or its state jumped: its watchers are told to begin again behind `revision`.
    pub fn rewound(&mut self, member: MemberId, revision: Option<Revision>) {
        match revision {
            Some(revision) => self.watched.insert(member, revision),
            None => self.watched.remove(&member),
        };
    }

    /// ReplicaEqual.
    pub fn state(&mut self, god: God, member: MemberId, revision: Revision, hash: StateHash) {
        let (first, by) = *self.hashes.entry(revision).or_insert((hash, member));
        if first != hash {
            self.violate(god, "ReplicaEqual", format!("the states of {by} and {member} differ at {revision}"));
        }
    }

    pub fn applied_revision(&self) -> Revision {
        self.applied.values().copied().max().unwrap_or_default()
    }

    // ── Clients ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// OnceOnly: a repeated request is answered alike.
    pub fn answered(&mut self, god: God, request: RequestId, revision: Revision, outcome: &Outcome) {
        self.told = self.told.max(revision);
        let answer = (revision, outcome.clone());
        let first = self.answered.entry(request).or_insert_with(|| answer.clone());
        if *first != answer {
            let first = first.clone();
            self.violate(god, "OnceOnly", format!("request {request} was answered {first:?}, then {answer:?}"));
        }
    }

    pub fn answers(&self) -> usize {
        self.answered.len()
    }

    /// The newest revision any client was told of: what a read that begins now must show.
    pub fn told(&self) -> Revision {
        self.told
    }

    /// Linearizable: a read that began when clients had been told of `floor` shows no less.
    pub fn read(&mut self, god: God, member: MemberId, floor: Revision, shown: Revision) {
        self.told = self.told.max(shown);
        if shown < floor {
            self.violate(
                god,
                "Linearizable",
                format!("a read at {member} shows {shown} after somebody was told of {floor}"),
            );
        }
    }

    /// AckDurable: a new leader, or the state at the end, remembers what clients were told. `state` stands at or above
    /// every answered revision if the promise holds.
    pub fn remembers(&mut self, god: God, who: &str, state: &State) {
        let remembered: BTreeMap<_, _> = state.sessions().iter().collect();
        let mut lost = Vec::new();
        let mut next = self.answered.keys().next().copied();
        // Session by session, from the first answer that it has not forgotten by rule.
        while let Some(RequestId { session: id, .. }) = next {
            let session = remembered.get(&id);
            let forgotten = session.and_then(|session| session.forgotten);
            let from = forgotten.map_or(0, |upto| upto.saturating_add(1));
            let last = RequestId { session: id, sequence: u64::MAX };
            for (request, (revision, outcome)) in self.answered.range(RequestId { session: id, sequence: from }..=last)
            {
                let kept = session.and_then(|session| session.results.get(&request.sequence));
                if kept.is_none_or(|kept| kept.revision != *revision || kept.outcome != *outcome) {
                    lost.push(format!("{request} at {revision}"));
                }
            }
            next = self.answered.range((Bound::Excluded(last), Bound::Unbounded)).next().map(|(request, _)| *request);
        }
        if !lost.is_empty() {
            self.violate(god, "AckDurable", format!("{who} does not know what clients were told: {}", lost.join(", ")));
        }
    }

    /// From here on no link is disturbed.
    pub fn calm(&mut self, god: God) {
        self.calm_since = Some(god);
    }

    /// Every epoch that ever ran is known; for coverage.
    pub fn epochs(&self) -> usize {
        self.assigned.len()
    }

    pub fn fenced_incarnations(&self) -> BTreeSet<(NodeId, Incarnation)> {
        self.fenced.keys().copied().collect()
    }
}

/// Whether this member was the first to apply the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    Yes,
    No,
}

fn covers(scope: ReceiptScope, policy: OnQuorumLoss) -> bool {
    scope == ReceiptScope::Node || policy == OnQuorumLoss::Stop
}
