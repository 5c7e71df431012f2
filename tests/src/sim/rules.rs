//! Rules of the safety page that a single moment can show broken, long before anybody runs twice.
//! In: entries as they are applied first, what leaves agents, members and guards, what stands still. Out: violations.
//! Absent: trust, as in `checks`; what a rule needs to know it notes itself, in god's time. A rule leaves room for what
//! an honest cluster may do: clocks within ε, words that are under way, plans made a moment ago.

use std::collections::{BTreeMap, BTreeSet};

use cluster::agent::Heartbeat;
use cluster::{
    ContainerId, End, Epoch, Event, FenceCause, Health, Incarnation, LeaseTerms, MemberId, NodeId, OnQuorumLoss, Order,
    Proof, Role, Span, State, Trigger,
};
use decide::Life;
use replica::PeerMessage;

use crate::sim::clock::{God, MS, SECOND};
use crate::sim::world::World;

/// What the rules remember.
#[derive(Default)]
pub struct Rules {
    /// When each incarnation was registered, and when its fencing began.
    registered: BTreeMap<(NodeId, Incarnation), God>,
    fencing: BTreeMap<(NodeId, Incarnation), God>,
    /// When the fencing of an incarnation was written down first, by whoever led then.
    proposed: BTreeMap<(NodeId, Incarnation), God>,
    /// Which guard each incarnation was registered under, and which nodes were ever asked to leave.
    lives: BTreeMap<(NodeId, Incarnation), u32>,
    leaving: BTreeSet<NodeId>,
    /// Fencings for silence of late.
    silenced: Vec<(God, NodeId)>,
    brake_released: Option<God>,
    membership_changed: Option<God>,
    roles_changed: Option<God>,
    /// Every epoch that was ever begun, and every member there ever was.
    begun: BTreeSet<(ContainerId, Epoch)>,
    members: BTreeSet<MemberId>,
    /// Members whose process found a log, and when a member last started while no other ran.
    cold: BTreeSet<MemberId>,
    all_down: Option<God>,
    /// The highest term in which anybody had led by then: what was proposed in it was decided before the start.
    led_before: u64,
    /// Members that stood still: since when, and the last time from when to when.
    still: BTreeMap<MemberId, God>,
    stood_still: BTreeMap<MemberId, (God, God)>,
    guards: BTreeMap<NodeId, God>,
    /// The leader that each node was last heard by, and when.
    heard: BTreeMap<(MemberId, NodeId), God>,
    /// Since when that leader has had a majority with which anything can be decided.
    able: Option<(MemberId, God)>,
}

/// L + K + μ of these terms, in god's time, shortened by what clocks within ε may be off.
fn at_least(sum: Span) -> u64 {
    sum.0 / 1_000 * 985
}

fn whole(terms: LeaseTerms) -> Span {
    Span(terms.lease.0 + terms.kill.0 + terms.margin.0)
}

impl World {
    fn breaks(&mut self, rule: &'static str, what: String) {
        self.checks.violate(self.now, rule, what);
    }

    // ── What is decided ────────────────────────────────────────────────────────────────────────────────────────────

    /// The entry behind these events, proposed in `term`, was applied for the first time, by `member`.
    pub(crate) fn judge(&mut self, member: MemberId, term: Option<u64>, events: &[Event]) {
        let now = self.now;
        let Some(after) = self.process(member).and_then(|process| process.replica.state()).cloned() else { return };
        for event in events {
            match event {
                Event::NodeRegistered { node, incarnation, .. } => {
                    self.rules.registered.insert((*node, *incarnation), now);
                    if let Some(host) = self.nodes.get(node) {
                        self.rules.lives.insert((*node, *incarnation), host.guard_life);
                    }
                }
                Event::FencingBegun { node, incarnation, cause, .. } => {
                    self.rules.fencing.insert((*node, *incarnation), now);
                    if *cause == FenceCause::Silence {
                        self.judge_silence(*node, *incarnation, term, &after);
                    }
                }
                Event::NodeFenced { node, incarnation, proof, .. } => {
                    self.judge_receipt(*node, *incarnation, proof, events, &after);
                }
                Event::ContainerClosed { container, node, epoch, end, .. } => {
                    self.judge_closing(*container, *node, *epoch, end);
                }
                Event::ContainerAssigned { container, node, trigger, .. } => {
                    self.judge_choice(*container, *node, trigger, &after);
                    self.judge_policy(*container, &after);
                }
                Event::MemberAdded { member, .. } => {
                    let known = self.members.contains_key(member) || !self.rules.members.insert(*member);
                    if known {
                        self.breaks("BurntId", format!("{member} is given out a second time"));
                    }
                }
                Event::BrakeReleased => self.rules.brake_released = Some(now),
                Event::MembershipChanged { .. } => self.rules.membership_changed = Some(now),
                Event::NodeRoleChanged { .. } => self.rules.roles_changed = Some(now),
                _ => {}
            }
        }
    }

    /// *(13, 14, b12, b13)*: nobody is fenced for silence before its lease is over, nor many at once, nor by two voters,
    /// nor by a cluster that has just started.
    fn judge_silence(&mut self, node: NodeId, incarnation: Incarnation, term: Option<u64>, after: &State) {
        let now = self.now;
        let terms = after.settings().terms;
        let shortest = after.settings().terms_fading.iter().map(|it| it.lease).fold(terms.lease, Ord::min);
        if self.rules.registered.get(&(node, incarnation)).is_some_and(|at| now - at < at_least(shortest)) {
            self.breaks("Patience", format!("{node} {incarnation} is fenced for silence right after its registration"));
        }
        let machine = &self.machines[&self.node_site(node)];
        if let Some((end, of, boot)) = self.checks.lease_of(node, incarnation)
            && of.lease == terms.lease
            && machine.powered
            && machine.boot == boot
            && !machine.standing(now).blind
        {
            let (reads, slack) = (machine.clock.lease(now), Span(of.lease.0 / 50));
            // A heartbeat may come while the order is under way, or the word of a voter that led to it: its silence was
            // real, and ends too late.
            let under_way = self.rules.proposed.get(&(node, incarnation)).map_or(0, |at| now - at);
            let renewed_just_now = (reads + of.lease).since(end) < Span::millis(150) + Span(under_way);
            if reads + slack < end && !renewed_just_now {
                let left = end.since(reads);
                self.breaks(
                    "Patience",
                    format!("{node} {incarnation} is fenced for silence, its lease has {left} left"),
                );
            }
        }
        let few = |state: &State| state.membership().voters.len() < 3;
        if few(after) && few(&self.newest) {
            self.breaks("FewVoters", format!("{node} is fenced for silence by fewer than three voters"));
        }
        self.judge_brake(node, terms);
        self.judge_grace(node, term, after);
    }

    fn judge_brake(&mut self, node: NodeId, terms: LeaseTerms) {
        let now = self.now;
        self.rules.silenced.retain(|(at, other)| now - at < terms.heartbeat.0 / 6 && *other != node);
        self.rules.silenced.push((now, node));
        let many = self.newest.settings().brake.nodes_min as usize;
        let released = self.rules.brake_released.is_some_and(|at| now - at < 60 * SECOND);
        if self.rules.silenced.len() >= many && !released && self.newest.settings().brake.enabled {
            self.breaks("Brake", format!("{many} nodes are fenced for silence at once, {node} the last of them"));
        }
    }

    /// An order that an earlier leader had put into the log is only carried out.
    fn judge_grace(&mut self, node: NodeId, term: Option<u64>, after: &State) {
        if term.is_some_and(|term| term <= self.rules.led_before) {
            return;
        }
        let grace = after.settings().boot_grace.0;
        let voters = after.membership().all_voters();
        let cold = |voter: &&MemberId| self.rules.cold.contains(voter);
        let cold = voters.iter().filter(|voter| self.process(**voter).is_some()).filter(cold).count();
        let young = self.rules.all_down.is_some_and(|at| self.now - at + 200 * MS < grace);
        if young && cold > voters.len() / 2 {
            self.breaks("BootGrace", format!("{node} is fenced for silence by a cluster that has just started"));
        }
    }

    /// *(a1, a6)*: over a joint or young membership a whole W lies between fencing and receipt; only the same boot can
    /// show that nothing is left.
    fn judge_receipt(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        proof: &Proof,
        events: &[Event],
        after: &State,
    ) {
        let now = self.now;
        let wait = at_least(whole(after.settings().terms));
        match proof {
            Proof::LeaseOver { .. } => {
                let changed = self.rules.membership_changed.is_some_and(|at| now - at < wait / 2);
                let begun = self.rules.fencing.get(&(node, incarnation)).copied();
                if (changed || after.membership().is_joint() && self.newest.membership().is_joint())
                    && begun.is_some_and(|begun| now - begun < wait)
                {
                    self.breaks("YoungMembership", format!("{node} {incarnation} has a receipt before a whole W"));
                }
            }
            Proof::Empty => {
                let before = self.newest.node(node).map(|it| it.health.clone());
                let registers = events.iter().find_map(|event| match event {
                    Event::NodeRegistered { node: of, boot, .. } if *of == node => Some(*boot),
                    _ => None,
                });
                if let (Some(before), Some(boot)) = (before, registers)
                    && before.incarnation() == incarnation
                    && before.boot() != Some(boot)
                {
                    self.breaks("SameBoot", format!("{node} {incarnation} is called empty by another boot"));
                }
            }
            _ => {}
        }
    }

    /// A closed epoch is gone, and nobody closes what is to run.
    fn judge_closing(&mut self, container: ContainerId, node: NodeId, epoch: Epoch, end: &End) {
        if self.nodes.get(&node).is_some_and(|host| host.works.contains_key(&(container, epoch))) {
            self.breaks("ClosedIsGone", format!("{container} {epoch} is closed and something of it is left on {node}"));
        }
        let host = self.nodes.get(&node);
        // What the kernel ends with its guard counts as stopped by its node.
        let guarded = |incarnation| {
            let registered = self.rules.lives.get(&(node, incarnation));
            host.is_some_and(|host| host.guard.is_some() && Some(&host.guard_life) == registered)
        };
        let ordered = self
            .newest
            .container(container)
            .and_then(|it| it.assignment())
            .filter(|assignment| guarded(assignment.incarnation))
            // What goes on without a lease may have been stopping when its node was fenced and came back.
            .filter(|assignment| assignment.on_quorum_loss == OnQuorumLoss::Stop)
            .is_some_and(|assignment| assignment.epoch == epoch && assignment.order == Order::Run);
        if ordered && *end == End::Stopped {
            self.breaks("StopAsked", format!("{node} stopped {container} {epoch}, which is to run there"));
        }
    }

    /// A standby node is used last.
    fn judge_choice(&mut self, container: ContainerId, node: NodeId, trigger: &Trigger, after: &State) {
        let recently = self.rules.roles_changed.is_some_and(|at| self.now - at < 5 * SECOND);
        let role = |id: NodeId| self.newest.node(id).map(|node| node.role);
        if recently || matches!(trigger, Trigger::Moved { .. }) || role(node) != Some(Role::Standby) {
            return;
        }
        let decision = after.container(container).and_then(|it| it.decision).and_then(|at| after.decision(at));
        let Some(decision) = decision.filter(|decision| decision.chosen == Some(node)) else { return };
        let better = decision.candidates.iter().find(|(id, score)| role(*id) == Some(Role::Active) && !score.astray);
        if let Some((better, _)) = better {
            let better = *better;
            self.breaks("StandbyLast", format!("{container} goes to standby {node} although {better} is active"));
        }
    }

    /// *(7, a4)*: a new epoch has the policy that was wanted when it was given out: before the entries that were applied
    /// with this one, or behind them.
    fn judge_policy(&mut self, container: ContainerId, after: &State) {
        let wanted = |state: &State| state.container(container).map(|it| it.spec.on_quorum_loss);
        let Some(given) = after.container(container).and_then(|it| it.assignment()) else { return };
        let policy = given.on_quorum_loss;
        if ![wanted(after), wanted(&self.newest)].contains(&Some(policy)) {
            let what = format!("{container} {} is given out as {policy:?}, wanted {:?}", given.epoch, wanted(after));
            self.breaks("PolicyOfTheEpoch", what);
        }
    }

    /// Every node that is to be fenced by the recovery is known to be so from now on, under a membership that is new.
    pub(crate) fn rules_recovered(&mut self, state: &State) {
        let now = self.now;
        for node in state.fencing() {
            self.rules.fencing.insert((node.id, node.health.incarnation()), now);
        }
        self.rules.membership_changed = Some(now);
    }

    // ── What is said ───────────────────────────────────────────────────────────────────────────────────────────────

    /// *(b9, a3)*: what is latched never beats again; a heartbeat names terms the guard keeps already.
    pub(crate) fn judge_heartbeat(&mut self, id: NodeId, heartbeat: &Heartbeat) {
        let host = &self.nodes[&id];
        let Some(process) = &host.agent else { return };
        if process.agent.journal().life != Life::Current {
            let what = format!("{id} {} is latched and sends a heartbeat", heartbeat.incarnation);
            return self.breaks("Terminal", what);
        }
        let (slot, terms) = (host.slot, heartbeat.terms);
        let now = self.machines[&host.site].clock.lease(self.now);
        let beyond = slot.deadline.is_some_and(|at| at > now + terms.lease);
        let kept = slot.kill <= terms.kill && !beyond;
        if slot.incarnation == heartbeat.incarnation && host.guard.is_some() && !kept {
            let what = format!("{id} names leases of {}, its guard holds {slot:?} at {now:?}", terms.lease);
            self.breaks("TermsInForce", what);
        }
    }

    /// Nothing is started without a lease.
    pub(crate) fn judge_order(&mut self, node: NodeId, incarnation: Incarnation) {
        let machine = &self.machines[&self.node_site(node)];
        let now = machine.clock.lease(self.now);
        let held = self.checks.lease_of(node, incarnation).is_some_and(|(end, ..)| now < end);
        if !held {
            self.breaks("LeaseCover", format!("{node} {incarnation} starts something and holds no lease"));
        }
    }

    /// *(b11)*: an agent ends its incarnation for a reason: its lease, its fencing, its guard, or because it was asked to.
    pub(crate) fn judge_end(&mut self, node: NodeId, incarnation: Incarnation) {
        let Some(guards) = self.rules.lives.get(&(node, incarnation)).copied() else { return };
        let host = &self.nodes[&node];
        let machine = &self.machines[&host.site];
        let settings = self.newest.settings();
        let held = self.checks.lease_heard(node, incarnation).is_some_and(|(end, of, boot)| {
            of.lease == settings.terms.lease
                && boot == machine.boot
                && end > machine.clock.lease(self.now) + settings.terms.heartbeat
        });
        let undisturbed = host.guard_life == guards && !host.slot.latched && settings.terms_fading.is_empty();
        let over = self.newest.node(node).is_none_or(|it| it.health.incarnation() != incarnation || it.up().is_none());
        let begun = over || self.rules.fencing.contains_key(&(node, incarnation));
        if held && undisturbed && !begun && !self.rules.leaving.contains(&node) {
            self.breaks("EndsForNothing", format!("{node} ends {incarnation} though it holds a lease"));
        }
    }

    pub(crate) fn leaves(&mut self, node: NodeId) {
        self.rules.leaving.insert(node);
    }

    /// *(12)*: no fence method before its `Fencing` is committed.
    pub(crate) fn judge_fence(&mut self, member: MemberId, node: NodeId, incarnation: Incarnation) {
        let known = self.process(member).and_then(|process| process.replica.state()).and_then(|state| state.node(node));
        let begun = known.is_some_and(|node| {
            node.health.incarnation() > incarnation
                || node.health.incarnation() == incarnation
                    && matches!(node.health, Health::Fencing { .. } | Health::Fenced { .. })
        });
        if !begun {
            self.breaks("FenceAfterFencing", format!("{member} fences {node} {incarnation} before that is committed"));
        }
    }

    /// A leader speaks to agents once it has applied an entry of its own term.
    pub(crate) fn judge_leader(&mut self, member: MemberId) {
        let Some(replica) = self.process(member).map(|process| &process.replica) else { return };
        let (tail, state) = (replica.tail(), replica.state());
        let term = state.and_then(|state| tail.term(state.revision().0));
        // Who was deposed on the way spoke for the term before.
        let leads = replica.leader() == Some(member);
        if leads && term.is_some_and(|term| term < tail.hard_state.term) {
            self.breaks("OwnTerm", format!("{member} orders agents about and has applied nothing of its own term"));
        }
    }

    /// A voter says how long a lease may last only once it can no longer help to grant a longer one.
    pub(crate) fn judge_answer(&mut self, member: MemberId, message: &PeerMessage) {
        if let PeerMessage::Remaining { node, incarnation, .. } = *message
            && self.refuses(member, node, incarnation).is_none()
        {
            self.breaks(
                "AnswerAfterRefusal",
                format!("{member} speaks of the end of {node} {incarnation}, which it serves"),
            );
        }
    }

    /// *(b8)*: an acknowledgement never names a membership older than the one its member stands on.
    pub(crate) fn judge_identity(&mut self, member: MemberId, index: u64) {
        let state = self.process(member).and_then(|process| process.replica.state());
        let stands = state.map_or(0, |state| state.membership().index);
        // What was applied in this very turn came after the acknowledgement.
        let shown = self.process(member).and_then(|process| process.shown).map_or(0, |(revision, _)| revision.0);
        if index < stands && stands <= shown {
            let what = format!("{member} acknowledges under the membership of entry {index}, it stands on {stands}");
            self.breaks("OneMembership", what);
        }
    }

    /// *(a1)*: what is applied is known as committed wherever anything is written.
    pub(crate) fn judge_write(&mut self, member: MemberId, commit: u64) {
        let applied = self.process(member).and_then(|process| process.replica.state()).map_or(0, |it| it.revision().0);
        // The newest may have been applied in the very turn that orders the write.
        let before = self.process(member).and_then(|process| process.shown).map_or(0, |(revision, _)| revision.0);
        if commit < before.min(applied) {
            let what = format!("{member} has applied {before} and writes down that {commit} is committed");
            self.breaks("CommitWithEntries", what);
        }
    }

    // ── What happens ───────────────────────────────────────────────────────────────────────────────────────────────

    /// An epoch runs once, under the policy it was given.
    pub(crate) fn judge_begin(&mut self, node: NodeId, container: ContainerId, epoch: Epoch, policy: OnQuorumLoss) {
        if !self.rules.begun.insert((container, epoch)) {
            self.breaks("EpochOnce", format!("{container} {epoch} runs a second time, on {node}"));
        }
        let given = self.newest.container(container).and_then(|it| it.assignment()).filter(|it| it.epoch == epoch);
        if given.is_some_and(|given| given.on_quorum_loss != policy) {
            self.breaks("PolicyOfTheEpoch", format!("{container} {epoch} runs on {node} as {policy:?}"));
        }
    }

    pub(crate) fn judge_start(&mut self, member: MemberId, cold: bool) {
        if cold {
            self.rules.cold.insert(member)
        } else {
            self.rules.cold.remove(&member)
        };
        if !self.members.values().any(|other| other.id != member && other.process.is_some()) {
            self.rules.all_down = Some(self.now);
            self.rules.led_before = self.checks.newest_term();
        }
        self.rules.still.remove(&member);
        self.rules.stood_still.remove(&member);
    }

    pub(crate) fn stands_still(&mut self, member: Option<MemberId>) {
        if let Some(member) = member {
            self.rules.still.entry(member).or_insert(self.now);
        }
    }

    /// It stands still, and its own clocks hide it: nobody can be asked to notice.
    pub(crate) fn cannot_notice(&mut self, member: Option<MemberId>) {
        self.rules.still.retain(|still, _| Some(*still) != member);
    }

    pub(crate) fn goes_on(&mut self, member: Option<MemberId>) {
        if let Some(member) = member
            && let Some(since) = self.rules.still.remove(&member)
        {
            self.rules.stood_still.insert(member, (since, self.now));
        }
    }

    /// *(a2)*: time a leader slept through is no node's silence.
    pub(crate) fn judge_suspects(&mut self, member: MemberId) {
        let Some((since, until)) = self.rules.stood_still.get(&member).copied() else { return };
        // What it says of time is by its wall clock, or goes on from what the cluster's time has come to.
        if self.machines[&self.member_site(member)].wall_jumped || self.newest.clock() > self.wall() {
            return;
        }
        let facts = self.newest.nodes().filter_map(|node| node.facts.as_ref()).map(|facts| facts.terms);
        let terms = facts
            .fold(self.newest.settings().terms, |least, terms| if terms.lease < least.lease { terms } else { least });
        let noticed = until - since > terms.heartbeat.0 * 3 / 2;
        if self.now - until > at_least(terms.suspicion()) || !noticed || !self.newest.settings().terms_fading.is_empty()
        {
            self.rules.stood_still.remove(&member);
            return;
        }
        let Some(process) = self.process(member).filter(|process| process.replica.is_leader()) else { return };
        let woke = self.wall().0 - (self.now - until) / MS;
        let status = process.replica.status();
        // What is really off is blamed rightly, by the word of the others.
        let is_on = |node: &NodeId| self.machines[&self.node_site(*node)].powered;
        let blamed = status
            .transitions
            .iter()
            .find(|seen| seen.what == replica::Seen::Suspected && seen.at.0 >= woke && is_on(&seen.node));
        if let Some(seen) = blamed {
            let node = seen.node;
            let (from, to, at) = (since / MS, until / MS, seen.at.0 - woke);
            let what = format!("{member} stood still from {from} to {to} ms and suspects {node} {at} ms after it");
            self.breaks("NoBlame", what);
        }
    }

    pub(crate) fn guard_starts(&mut self, node: NodeId) {
        self.rules.guards.insert(node, self.now);
    }

    /// A machine is rebooted for a kill that does not work, and for nothing else.
    pub(crate) fn judge_reboot(&mut self, node: NodeId) {
        let host = &self.nodes[&node];
        let machine = &self.machines[&host.site];
        let young = self.rules.guards.get(&node).is_none_or(|at| self.now - at < 2 * SECOND);
        let hung = host.hung_until + 2 * SECOND > self.now;
        if !young && !hung && !machine.standing(self.now).exposed {
            self.breaks("NeedlessReboot", format!("{node} is rebooted although every kill works there"));
        }
    }

    /// *(b16)*: a node that a majority hears and the leader does not is not left alone.
    pub(crate) fn judge_unheard(&mut self) {
        let Some(leader) = self.leader() else { return };
        let now = self.now;
        let lease = self.newest.settings().terms.lease;
        let long = 2 * lease.0 + 8 * SECOND;
        let able = self.rules.able.filter(|(member, _)| *member == leader).map_or(now, |(_, since)| since);
        self.rules.able = self.has_able_majority(leader).then_some((leader, able));
        // Leadership cannot move where nothing can be decided.
        if self.rules.able.is_none() {
            return;
        }
        let led = self.rules.led_since(leader, now).max(able);
        if now - led < long || self.rules.still.contains_key(&leader) {
            return;
        }
        let unheard = self.newest.nodes().find(|node| {
            let Some(incarnation) = node.up() else { return false };
            let heard = self.rules.heard.get(&(leader, node.id)).copied().unwrap_or(0);
            let registered = self.rules.registered.get(&(node.id, incarnation)).copied().unwrap_or(0);
            let machine = &self.machines[&self.node_site(node.id)];
            let held = self.checks.lease_of(node.id, incarnation).is_some_and(|(end, _, boot)| {
                // One that stood still has not been heard by anybody.
                let woke = machine.thawed_at.is_some_and(|at| now - at < long);
                boot == machine.boot && machine.lives() && !woke && end > machine.clock.lease(now) + Span(lease.0 / 2)
            });
            held && now - heard.max(registered).max(led) > long
        });
        if let Some(node) = unheard.map(|node| node.id) {
            self.breaks("HeardElsewhere", format!("{leader} leads on, has not heard {node} for long, and others do"));
        }
    }

    /// Whether a majority of the voters, `leader` included, runs, has a disk that syncs and is reached both ways.
    fn has_able_majority(&self, leader: MemberId) -> bool {
        let here = self.member_site(leader);
        let able = |id: MemberId| {
            let Some(member) = self.members.get(&id) else { return false };
            member.process.is_some()
                && !member.paused
                && self.machines[&member.site].lives()
                && !member.disk.is_stalled(self.now)
                && !self.net.is_cut(here, member.site)
                && !self.net.is_cut(member.site, here)
        };
        self.newest.membership().majority(able)
    }

    pub(crate) fn heard(&mut self, member: MemberId, node: NodeId) {
        self.rules.heard.insert((member, node), self.now);
    }
}

impl Rules {
    pub(crate) fn proposed(&mut self, fencing: (NodeId, Incarnation), at: God) {
        self.proposed.insert(fencing, at);
    }

    /// Since when `leader` leads, as far as it was asked; asked once a second.
    fn led_since(&mut self, leader: MemberId, now: God) -> God {
        // Keyed as node 0: no node has that number.
        let key = (leader, NodeId(0));
        self.heard.retain(|(member, node), _| *node != NodeId(0) || *member == leader);
        *self.heard.entry(key).or_insert(now)
    }
}
