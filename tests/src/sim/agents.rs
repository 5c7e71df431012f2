//! Nodes in the world: what reaches an `Agent` and a `Guardian`, what becomes of their effects, and what really runs.
//! In: wakes, mail, completions. Out: heartbeats, words to the leader, starts and ends of containers in god's time.
//! The hands are those of the kernel and of helpers: they outlive the agent and end with the boot.

use std::collections::BTreeMap;

use cluster::agent::{MembershipIdentity, ToLeader};
use cluster::{AgentRun, ContainerId, Epoch, Incarnation, MemberId, NodeId, OnQuorumLoss, Span};
use decide::{
    Agent, Audience, Config, Effect, GuardEffect, GuardInput, GuardSays, Guardian, Happened, Input, Shape, Workload,
};
use planted::planted;
use replica::Link;

use crate::sim::checks::Runner;
use crate::sim::clock::{MS, SECOND};
use crate::sim::host::{AgentProcess, Member, Session, Work, WorkPhase};
use crate::sim::net::Site;
use crate::sim::transcript::{Line, Show};
use crate::sim::world::{Act, End, Happening, Mail, ToGuard, ToNode, World};

/// Links of heartbeats carry whose they are; sessions count up from one.
const HEARTBEATS: u64 = 1 << 63;

pub(crate) fn heartbeat_link(node: NodeId, life: u32) -> Link {
    Link(HEARTBEATS | (node.0 << 32) | u64::from(life))
}

pub(crate) fn heartbeat_link_of(link: Link) -> (NodeId, u32) {
    (NodeId((link.0 & !HEARTBEATS) >> 32), link.0 as u32)
}

/// The members of the newest membership heard of; once none of them is left, those of the configuration, which the
/// operator keeps right.
fn reached(members: &BTreeMap<MemberId, Member>, identity: &MembershipIdentity) -> Vec<MemberId> {
    let known: Vec<MemberId> = identity.addresses.iter().map(|(member, _)| *member).collect();
    let gone = |id: &MemberId| members.get(id).is_none_or(|member| member.retired.is_some());
    if known.iter().all(gone) { members.keys().copied().collect() } else { known }
}

/// An attempt to reach the leader is given up after this.
const SEEK_TIMEOUT: u64 = SECOND;
/// From a deed's order to its effect, about.
const CLAIM: u64 = 10 * MS;
const START: u64 = 80 * MS;
const KILL: u64 = 30 * MS;
const UNMOUNT: u64 = 10 * MS;

impl World {
    // ── Life and death ─────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn start_agent(&mut self, id: NodeId, life: u32) {
        let Some(node) = self.nodes.get_mut(&id) else { return self.counts.void += 1 };
        if node.life != life || node.agent.is_some() || node.left {
            return self.counts.void += 1;
        }
        self.counts.handled += 1;
        node.life += 1;
        // The first deed of an agent: helpers of the one before are ended, whatever they were at.
        node.works.retain(|_, work| work.phase != WorkPhase::Starting);
        let machine = &self.machines[&node.site];
        let (run, facts) = (AgentRun(u64::from(node.life)), node.facts(self.layout.power_switch));
        let config = Config { node: id, boot: machine.boot, run, facts };
        let agent = Agent::new(config, node.journal.clone());
        let slot = node.guard.as_ref().map_or(GuardSays { alive: false, ..node.slot }, Guardian::slot);
        node.agent = Some(AgentProcess {
            agent,
            wake: 0,
            membership: None,
            session: None,
            seeking: None,
            hint: None,
            tried: id.0 as usize,
            said: cluster::Moment(0),
        });
        self.say_agent(id, || "agent starts".to_owned());
        self.agent_input(id, Input::Tick);
        self.agent_input(id, Input::Guard(slot));
    }

    pub(crate) fn start_guard(&mut self, id: NodeId, life: u32) {
        let Some(node) = self.nodes.get_mut(&id) else { return self.counts.void += 1 };
        if node.guard_life != life || node.guard.is_some() {
            return self.counts.void += 1;
        }
        self.counts.handled += 1;
        node.guard_life += 1;
        let now = self.machines[&node.site].clock.lease(self.now);
        let guard = Guardian::restarted(node.slot, now);
        let slot = guard.slot();
        node.guard = Some(guard);
        self.guard_starts(id);
        self.show_slot(id, slot);
        self.guard_input(id, GuardInput::Tick);
    }

    /// The agent's process ends. Of what it wrote last, some may not have reached the disk.
    pub(crate) fn stop_agent(&mut self, id: NodeId, power: bool) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        let ran = node.agent.take().is_some();
        node.life += 1;
        node.agent_paused = false;
        let waiting = std::mem::take(&mut node.waiting);
        let kept = self.chance.below(node.unsynced.len() as u64 + 1) as usize;
        for (_, record) in node.unsynced.drain(..).take(kept) {
            node.journal.apply(&record);
        }
        self.counts.void += waiting.len() as u64;
        if ran {
            let notice = if power { SECOND + self.chance.below(2 * SECOND) } else { MS };
            self.break_sessions(|session| session.node == id, notice);
        }
        ran
    }

    /// The guard's process ends, and by the kernel's hand every workload that must not outlive it.
    pub(crate) fn stop_guard(&mut self, id: NodeId) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        let Some(guard) = node.guard.take() else { return false };
        node.guard_life += 1;
        node.slot = GuardSays { alive: false, ..guard.slot() };
        let slot = node.slot;
        let ends: Vec<_> =
            node.works.iter().filter(|(_, work)| work.policy == OnQuorumLoss::Stop).map(|(key, _)| *key).collect();
        let boot = self.machines[&node.site].boot.0;
        for (container, epoch) in ends {
            self.after(MS, Happening::Hands { node: id, boot, act: Act::End { container, epoch } });
        }
        self.show_slot(id, slot);
        true
    }

    /// Everything on the node ends at once, without a word to anybody.
    pub(crate) fn node_loses_power(&mut self, id: NodeId) {
        self.stop_agent(id, true);
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.guard = None;
        node.guard_life += 1;
        node.slot = GuardSays::default();
        node.left = false;
        let works = std::mem::take(&mut node.works);
        for ((container, epoch), work) in works {
            if work.phase == WorkPhase::Alive {
                self.checks.ends(now, container, epoch, id, None);
                self.dark.insert(container, (epoch, now));
                self.note_run(id, container, epoch, "ends with its machine");
            }
        }
    }

    // ── The agent ──────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn node_event(&mut self, id: NodeId, life: u32, what: ToNode) {
        let Some(node) = self.nodes.get_mut(&id) else { return self.counts.void += 1 };
        // The disk is not the agent's: what it wrote becomes durable without it, too.
        if let ToNode::JournalSynced { sequence } = what
            && life == node.life
        {
            while let Some((_, record)) = node.unsynced.pop_front_if(|(written, _)| *written <= sequence) {
                node.journal.apply(&record);
            }
        }
        let Some(process) = node.agent.as_mut().filter(|_| life == node.life) else { return self.counts.void += 1 };
        if node.agent_paused {
            return node.waiting.push(Happening::Node { node: id, life, what });
        }
        self.counts.handled += 1;
        match what {
            ToNode::Wake { number } => {
                if number == process.wake {
                    self.agent_input(id, Input::Tick);
                }
            }
            ToNode::Reply(reply) => self.agent_input(id, Input::Reply(*reply)),
            ToNode::Accepted { link } => {
                let Some(session) = self.sessions.get(&link) else { return };
                let member = session.member;
                if process.seeking.take_if(|(sought, _)| *sought == link).is_some() && process.session.is_none() {
                    process.session = Some(link);
                    process.hint = None;
                    self.agent_input(id, Input::LeaderConnected { member });
                } else {
                    self.break_sessions_of(link);
                }
            }
            ToNode::Refused { link, hint } => {
                if process.seeking.take_if(|(sought, _)| *sought == link).is_some() {
                    process.hint = hint;
                    if hint.is_some() {
                        self.seek_leader(id);
                    }
                }
            }
            ToNode::Said { link, message } => {
                if process.session == Some(link) {
                    self.agent_input(id, Input::FromLeader(*message));
                }
            }
            ToNode::JournalSynced { sequence } => self.agent_input(id, Input::JournalDurable { sequence }),
            ToNode::Slot(says) => self.agent_input(id, Input::Guard(says)),
            ToNode::Looked { ask } => {
                let workloads = node.works.iter().map(|((container, epoch), work)| Workload {
                    container: *container,
                    epoch: *epoch,
                    incarnation: work.incarnation,
                    policy: work.policy,
                    shape: if work.phase == WorkPhase::Alive { Shape::Alive } else { Shape::Remains },
                });
                let workloads = workloads.collect();
                self.agent_input(id, Input::Found { ask, workloads });
            }
            ToNode::Happened { container, epoch, what } => {
                self.agent_input(id, Input::Happened { container, epoch, what: *what });
            }
        }
    }

    pub(crate) fn agent_input(&mut self, id: NodeId, input: Input) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let now = self.machines[&node.site].clock.lease(self.now);
        let Some(process) = &mut node.agent else { return };
        let effects = process.agent.handle(now, input);
        for effect in effects {
            if self.nodes.get(&id).is_none_or(|node| node.agent.is_none()) {
                return;
            }
            self.agent_orders(id, effect);
        }
    }

    fn agent_orders(&mut self, id: NodeId, effect: Effect) {
        if let Effect::Deadline { incarnation, at: Some(at) } = effect {
            self.checks.deadline(self.now, id, incarnation, at);
        }
        if let Effect::Latch { incarnation } = effect {
            self.judge_end(id, incarnation);
        }
        if let Effect::Start { incarnation, .. } = effect {
            self.judge_order(id, incarnation);
        }
        if let Effect::Heartbeat { heartbeat, .. } = &effect {
            self.judge_heartbeat(id, heartbeat);
        }
        if let Effect::GuardTerms { kill, .. } = effect {
            let site = self.node_site(id);
            if let Some(machine) = self.machines.get_mut(&site) {
                machine.after_lease = Span(machine.after_lease.0.max(kill.0));
            }
        }
        if let Some(input) = Guardian::input_of(&effect) {
            return self.guard_input(id, input);
        }
        let node = self.nodes.get_mut(&id).expect("it just ordered this");
        let (life, site) = (node.life, node.site);
        let boot = self.machines[&site].boot.0;
        let hands = |act: Act| Happening::Hands { node: id, boot, act };
        let process = node.agent.as_mut().expect("it just ordered this");
        match effect {
            Effect::Heartbeat { to, heartbeat } => {
                let to: Vec<MemberId> = match to {
                    Audience::Member(member) => vec![member],
                    Audience::Voters => match &process.membership {
                        Some(identity) => reached(&self.members, identity),
                        None => self.members.keys().copied().collect(),
                    },
                };
                let link = heartbeat_link(id, life);
                for member in to {
                    let there = self.member_site(member);
                    let heartbeat = Box::new(heartbeat);
                    self.toss(site, there, || {
                        let mail = Mail::Heartbeat { link, node: id, heartbeat: heartbeat.clone() };
                        Happening::Mail { member, mail }
                    });
                }
            }
            Effect::Membership(identity) => process.membership = Some(identity),
            Effect::ToLeader(message) => self.up_the_session(id, message),
            Effect::SeekLeader => self.seek_leader(id),
            Effect::Journal { sequence, record } => {
                node.unsynced.push_back((sequence, record));
                let took = self.jitter(2 * MS);
                self.after(took, Happening::Node { node: id, life, what: ToNode::JournalSynced { sequence } });
            }
            Effect::Look { ask } => {
                let took = self.jitter(MS);
                self.after(took, Happening::Node { node: id, life, what: ToNode::Looked { ask } });
            }
            Effect::Start { container, epoch, incarnation, policy, spec: _ } => {
                let latched = node.guard.as_ref().is_none_or(|guard| {
                    let slot = guard.slot();
                    policy == OnQuorumLoss::Stop && (slot.latched || slot.incarnation != incarnation)
                });
                let failing = node.fail_starts_until > self.now;
                if latched || failing || node.works.contains_key(&(container, epoch)) {
                    let reason = if failing { "the runtime does not work" } else { "the guard does not take it" };
                    let what = Happened::StartFailed { reason: reason.into() };
                    let happened = ToNode::Happened { container, epoch, what: Box::new(what) };
                    return self.after(MS, Happening::Node { node: id, life, what: happened });
                }
                node.works.insert((container, epoch), Work { incarnation, policy, phase: WorkPhase::Starting });
                let took = self.runtime_jitter(CLAIM);
                self.after(took, hands(Act::Claim { container, epoch }));
            }
            Effect::Stop { container, epoch, grace } => {
                let (slow_until, slow) = node.slow_stops;
                let present = node.works.contains_key(&(container, epoch));
                let hung = node.hung_until.saturating_sub(self.now);
                let natural = if slow_until > self.now { slow } else { self.runtime_jitter(100 * MS) };
                let ends = if present { (natural.min(grace.0) + self.runtime_jitter(KILL)).max(hung) } else { 0 };
                let gone = ends + self.runtime_jitter(UNMOUNT);
                self.after(ends, hands(Act::End { container, epoch }));
                self.after(gone, hands(Act::Gone { container, epoch, tell: true }));
            }
            Effect::Prepare { container, epoch, spec: _ } => {
                let took = self.runtime_jitter(START);
                self.after(took, hands(Act::Prepared { container, epoch }));
            }
            Effect::Unprepare { .. } => {}
            Effect::Farewell => {
                node.left = !self.healed;
                self.say_agent(id, || "agent has left and ends".to_owned());
                self.stop_agent(id, false);
                // Once everything is to be well, somebody starts it again.
                if self.healed {
                    self.restart_agent(id, SECOND / 2);
                }
            }
            Effect::Wake { at } => {
                process.wake += 1;
                let number = process.wake;
                let due = self.machines[&site].clock.when(at);
                self.at(due, Happening::Node { node: id, life, what: ToNode::Wake { number } });
            }
            Effect::Say(text) => self.say_agent(id, || text.clone()),
            Effect::Deadline { .. } | Effect::GuardTerms { .. } | Effect::Latch { .. } => {}
        }
    }

    // ── Sessions with the leader ───────────────────────────────────────────────────────────────────────────────────

    fn seek_leader(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("it seeks");
        let (life, site) = (node.life, node.site);
        let Some(process) = &mut node.agent else { return };
        if process.session.is_some() || process.seeking.is_some_and(|(_, since)| now - since < SEEK_TIMEOUT) {
            return;
        }
        let known: Vec<MemberId> = match &process.membership {
            Some(identity) => reached(&self.members, identity),
            None => self.members.keys().copied().collect(),
        };
        process.tried += 1;
        let next = known[process.tried % known.len()];
        let member = process.hint.take().unwrap_or(next);
        let link = Link(self.next_link);
        self.next_link += 1;
        process.seeking = Some((link, now));
        let member_life = self.members.get(&member).map_or(0, |member| member.life);
        let session = Session {
            node: id,
            agent_life: life,
            member,
            member_life,
            broken: false,
            ended: (false, false),
            up: 0,
            down: 0,
        };
        self.sessions.insert(link, session);
        if let Some(delay) = self.net.stream(site, self.member_site(member)) {
            self.after(delay, Happening::Mail { member, mail: Mail::Open { link } });
        }
    }

    pub(crate) fn session_opens(&mut self, member: MemberId, link: Link) {
        let Some(session) = self.sessions.get_mut(&link) else { return };
        let node = session.node;
        session.member_life = self.members[&member].life;
        let process = self.process(member);
        let leads = process.is_some_and(|process| process.replica.is_leader());
        let hint = process.and_then(|process| process.replica.leader()).filter(|leader| *leader != member);
        if leads {
            self.input(member, replica::Input::AgentOpened { link, node });
            self.down_the_session(member, link, |link| ToNode::Accepted { link });
        } else {
            self.down_the_session(member, link, |link| ToNode::Refused { link, hint });
            self.sessions.remove(&link);
        }
    }

    fn up_the_session(&mut self, id: NodeId, message: ToLeader) {
        let kind = match &message {
            ToLeader::Register(_) => Some(0),
            ToLeader::Ended { .. } => Some(1),
            _ => None,
        };
        if let (Some(kind), Some(node)) = (kind, self.nodes.get_mut(&id)) {
            node.said.insert(kind, message.clone());
        }
        let node = &self.nodes[&id];
        let Some(link) = node.agent.as_ref().and_then(|process| process.session) else { return };
        let Some(session) = self.sessions.get(&link).filter(|session| !session.broken) else { return };
        let (member, before) = (session.member, session.up);
        match self.net.stream(node.site, self.member_site(member)) {
            Some(delay) => {
                let at = (self.now + delay).max(before + 1);
                self.sessions.get_mut(&link).expect("just seen").up = at;
                let mail = Mail::Said { link, message: Box::new(message) };
                self.at(at, Happening::Mail { member, mail });
            }
            None => self.break_session(link),
        }
    }

    pub(crate) fn down_the_session(&mut self, member: MemberId, link: Link, what: impl FnOnce(Link) -> ToNode) {
        let Some(session) = self.sessions.get(&link).filter(|session| !session.broken) else { return };
        let (node, life, before) = (session.node, session.agent_life, session.down);
        match self.net.stream(self.member_site(member), self.node_site(node)) {
            Some(delay) => {
                let at = (self.now + delay).max(before + 1);
                self.sessions.get_mut(&link).expect("just seen").down = at;
                self.at(at, Happening::Node { node, life, what: what(link) });
            }
            None => self.break_session(link),
        }
    }

    /// Something was lost on it for good: both ends notice when their keep-alives go unanswered.
    fn break_session(&mut self, link: Link) {
        if let Some(session) = self.sessions.get_mut(&link) {
            session.broken = true;
            for end in [End::Agent, End::Member] {
                let notice = SECOND + self.chance.below(2 * SECOND);
                self.after(notice, Happening::SessionEnds { link, end });
            }
        }
    }

    /// The sessions for which `which` holds are over; who is still there notices after `notice`.
    pub(crate) fn break_sessions(&mut self, which: impl Fn(&Session) -> bool, notice: u64) {
        let links: Vec<Link> =
            self.sessions.iter().filter(|(_, session)| which(session)).map(|(link, _)| *link).collect();
        self.break_sessions_in(&links, notice);
    }

    pub(crate) fn break_sessions_in(&mut self, links: &[Link], notice: u64) {
        for link in links {
            if let Some(session) = self.sessions.get_mut(link) {
                session.broken = true;
                for end in [End::Agent, End::Member] {
                    self.after(notice, Happening::SessionEnds { link: *link, end });
                }
            }
        }
    }

    fn break_sessions_of(&mut self, link: Link) {
        if let Some(session) = self.sessions.get_mut(&link) {
            session.broken = true;
            self.after(0, Happening::SessionEnds { link, end: End::Agent });
            self.after(MS, Happening::SessionEnds { link, end: End::Member });
        }
    }

    /// One end of a session notices that it is over.
    pub(crate) fn session_ends(&mut self, link: Link, end: End) {
        let Some(session) = self.sessions.get_mut(&link) else { return self.counts.void += 1 };
        session.broken = true;
        let (id, life, member, member_life) = (session.node, session.agent_life, session.member, session.member_life);
        // What stands still notices nothing; it will, when it goes on.
        if end == End::Agent
            && let Some(node) = self.nodes.get_mut(&id).filter(|node| node.life == life && node.agent_paused)
        {
            return node.waiting.push(Happening::SessionEnds { link, end });
        }
        if end == End::Agent
            && let Some(machine) = self.machines.get_mut(&self.nodes[&id].site).filter(|it| it.frozen_since.is_some())
        {
            return machine.waiting.push(Happening::SessionEnds { link, end });
        }
        let held = self.members.get_mut(&member).filter(|it| it.life == member_life);
        if end == End::Member
            && let Some(held) = held
        {
            if held.paused {
                return held.waiting.push(Happening::SessionEnds { link, end });
            }
            if let Some(machine) = self.machines.get_mut(&held.site).filter(|it| it.frozen_since.is_some()) {
                return machine.waiting.push(Happening::SessionEnds { link, end });
            }
        }
        self.counts.handled += 1;
        match end {
            End::Agent => session.ended.0 = true,
            End::Member => session.ended.1 = true,
        }
        if session.ended == (true, true) {
            self.sessions.remove(&link);
        }
        if end == End::Member {
            if self.members.get(&member).is_some_and(|member| member.life == member_life) {
                self.input(member, replica::Input::AgentClosed { link });
            }
            return;
        }
        let Some(process) =
            self.nodes.get_mut(&id).filter(|node| node.life == life).and_then(|node| node.agent.as_mut())
        else {
            return;
        };
        process.seeking.take_if(|(sought, _)| *sought == link);
        if process.session.take_if(|open| *open == link).is_some() {
            self.agent_input(id, Input::LeaderLost);
        }
    }

    /// An old desired set comes late, over whatever session there is.
    pub(crate) fn replay(&mut self, id: NodeId) -> bool {
        let Some(node) = self.nodes.get(&id) else { return false };
        let earlier = self.chance.one_in(2);
        let set = if earlier { node.older_set.as_ref().or(node.old_set.as_ref()) } else { node.old_set.as_ref() };
        let (Some(set), Some(link)) = (set, node.agent.as_ref().and_then(|process| process.session)) else {
            return false;
        };
        let message = Box::new(cluster::agent::ToAgent::Desired(set.clone()));
        self.after(0, Happening::Node { node: id, life: node.life, what: ToNode::Said { link, message } });
        true
    }

    // ── The guard ──────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn guard_event(&mut self, id: NodeId, life: u32, what: ToGuard) {
        let Some(node) = self.nodes.get(&id).filter(|node| node.guard.is_some() && node.guard_life == life) else {
            return self.counts.void += 1;
        };
        self.counts.handled += 1;
        match what {
            ToGuard::Wake { number } if number != node.guard_wake => {}
            ToGuard::Wake { .. } => self.guard_input(id, GuardInput::Tick),
            ToGuard::Emptied { incarnation } => self.guard_input(id, GuardInput::Emptied { incarnation }),
            ToGuard::Recorded { incarnation } => self.guard_input(id, GuardInput::Recorded { incarnation }),
        }
    }

    fn guard_input(&mut self, id: NodeId, input: GuardInput) {
        let node = self.nodes.get_mut(&id).expect("it has a guard");
        let (site, life) = (node.site, node.guard_life);
        let clock = self.machines[&site].clock;
        // Of the process this stands for, `guard/src/sys.rs` reads the clock.
        let wrong_clock = planted!("guard-reads-the-wrong-clock");
        let now = if wrong_clock { clock.monotonic(self.now) } else { clock.lease(self.now) };
        let Some(guard) = &mut node.guard else {
            // Nobody watches the slot; it keeps what the agent writes, for the next guard to find.
            let mut shared = Guardian::restarted(node.slot, now);
            shared.handle(now, input);
            node.slot = GuardSays { alive: false, ..shared.slot() };
            return;
        };
        let was_latched = guard.slot().latched;
        let effects = guard.handle(now, input);
        self.counts.coverage.slot(&node.slot, &guard.slot());
        node.slot = guard.slot();
        if !was_latched && node.slot.latched {
            let incarnation = node.slot.incarnation;
            *self.counts.transitions.entry("guard latched").or_default() += 1;
            if self.transcript.wants(Show::Guards) {
                self.note(Line { show: Show::Guards, text: format!("guard of {id} ends {incarnation}") });
            }
        }
        for effect in effects {
            match effect {
                GuardEffect::Sweep { incarnation } => self.guard_sweeps(id, incarnation),
                GuardEffect::Record { incarnation } => {
                    let took = self.jitter(2 * MS);
                    let what = ToGuard::Recorded { incarnation };
                    self.after(took, Happening::Guard { node: id, life, what });
                }
                GuardEffect::Overdue { .. } => {
                    self.judge_reboot(id);
                    *self.counts.transitions.entry("guard rebooted the machine").or_default() += 1;
                    self.power_off(site);
                    return self.after(3 * SECOND, Happening::Booted { site });
                }
                GuardEffect::Show(slot) => self.show_slot(id, slot),
                GuardEffect::Wake { at } => {
                    let Some(node) = self.nodes.get_mut(&id) else { return };
                    node.guard_wake += 1;
                    let number = node.guard_wake;
                    let at = if wrong_clock { at + clock.lease(self.now).since(now) } else { at };
                    self.at(clock.when(at), Happening::Guard { node: id, life, what: ToGuard::Wake { number } });
                }
            }
        }
    }

    /// Kills what is in the `stop` tree of the incarnation; says so once nothing is left.
    fn guard_sweeps(&mut self, id: NodeId, incarnation: Incarnation) {
        let node = self.nodes.get_mut(&id).expect("it has a guard");
        let life = node.guard_life;
        let boot = self.machines[&node.site].boot.0;
        let hung = node.hung_until.saturating_sub(self.now);
        let of_it = |work: &Work| work.policy == OnQuorumLoss::Stop && work.incarnation <= incarnation;
        node.works.retain(|_, work| !(of_it(work) && work.phase == WorkPhase::Starting));
        let left: Vec<_> = node.works.iter().filter(|(_, work)| of_it(work)).map(|(key, _)| *key).collect();
        if left.is_empty() {
            let what = ToGuard::Emptied { incarnation };
            return self.after(MS, Happening::Guard { node: id, life, what });
        }
        for (container, epoch) in left {
            let took = self.runtime_jitter(KILL).max(hung);
            self.after(took, Happening::Hands { node: id, boot, act: Act::End { container, epoch } });
            let unmounted = took + self.runtime_jitter(UNMOUNT);
            self.after(
                unmounted,
                Happening::Hands { node: id, boot, act: Act::Gone { container, epoch, tell: false } },
            );
        }
    }

    fn show_slot(&mut self, id: NodeId, slot: GuardSays) {
        let Some(node) = self.nodes.get(&id).filter(|node| node.agent.is_some()) else { return };
        self.after(MS / 10, Happening::Node { node: id, life: node.life, what: ToNode::Slot(slot) });
    }

    // ── What really runs ───────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn hands(&mut self, id: NodeId, boot: u128, act: Act) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id).filter(|node| self.machines[&node.site].boot.0 == boot) else {
            return self.counts.void += 1;
        };
        self.counts.handled += 1;
        let (life, site) = (node.life, node.site);
        let tell = |container, epoch, what| Happening::Node {
            node: id,
            life,
            what: ToNode::Happened { container, epoch, what: Box::new(what) },
        };
        match act {
            Act::Claim { container, epoch } => {
                let Some(work) = node.works.get(&(container, epoch)).filter(|work| work.phase == WorkPhase::Starting)
                else {
                    return;
                };
                let mine = (epoch, id, (u128::from(work.incarnation.0) << 64) ^ boot);
                let held = self.claims.get(&container).copied();
                if held.is_some_and(|held| held.0 > epoch || held.0 == epoch && held != mine) {
                    node.works.remove(&(container, epoch));
                    *self.counts.transitions.entry("claim refused").or_default() += 1;
                    let reason = format!("the claim says {held:?}").into();
                    return self.after(MS, tell(container, epoch, Happened::ClaimRefused { reason }));
                }
                self.claims.insert(container, mine);
                let took = self.runtime_jitter(START);
                self.after(took, Happening::Hands { node: id, boot, act: Act::Run { container, epoch } });
            }
            Act::Run { container, epoch } => {
                let Some(work) =
                    node.works.get_mut(&(container, epoch)).filter(|work| work.phase == WorkPhase::Starting)
                else {
                    return;
                };
                work.phase = WorkPhase::Alive;
                let lies = now < node.lying_until;
                let Work { incarnation, policy, .. } = *work;
                let boot = self.machines[&site].boot;
                let runner = Runner { site, node: id, boot, incarnation, epoch, policy, since: now };
                self.judge_begin(id, container, epoch, policy);
                let machines = &self.machines;
                self.checks.begins(now, container, runner, |site| machines[&site].standing(now));
                self.note_run(id, container, epoch, "runs");
                let said = match lies {
                    true => Happened::StartFailed { reason: "so says the runtime".into() },
                    false => Happened::Started,
                };
                self.after(MS, tell(container, epoch, said));
            }
            Act::End { container, epoch } => {
                let Some(work) = node.works.get_mut(&(container, epoch)) else { return };
                if work.phase == WorkPhase::Starting {
                    node.works.remove(&(container, epoch));
                    let reason = "its helper was killed".into();
                    return self.after(MS, tell(container, epoch, Happened::StartFailed { reason }));
                }
                if work.phase != WorkPhase::Alive {
                    return;
                }
                work.phase = WorkPhase::Remains;
                let standing = self.machines[&site].standing(now);
                self.checks.ends(now, container, epoch, id, Some(standing));
                self.note_run(id, container, epoch, "ends");
                let what = Happened::Exited { exit: cluster::Exit::Signal(9) };
                self.after(MS, tell(container, epoch, what));
            }
            Act::Gone { container, epoch, tell: asked } => {
                node.works.remove(&(container, epoch));
                if asked {
                    self.after(MS, tell(container, epoch, Happened::Stopped));
                }
            }
            Act::Prepared { container, epoch } => self.after(MS, tell(container, epoch, Happened::Prepared)),
        }
    }

    fn runtime_jitter(&mut self, about: u64) -> u64 {
        about / 2 + self.runtime_chance.below(about + 1)
    }

    /// Some container there ends by itself.
    pub(crate) fn exit_one(&mut self, site: Site, code: i32) -> bool {
        let Some(id) = self.machines.get(&site).and_then(|machine| machine.node) else { return false };
        let now = self.now;
        let pick = self.runtime_chance.draw() as usize;
        let node = self.nodes.get_mut(&id).expect("the machine has it");
        let life = node.life;
        let alive: Vec<_> =
            node.works.iter().filter(|(_, work)| work.phase == WorkPhase::Alive).map(|(key, _)| *key).collect();
        if alive.is_empty() {
            return false;
        }
        let (container, epoch) = alive[pick % alive.len()];
        node.works.get_mut(&(container, epoch)).expect("just seen").phase = WorkPhase::Remains;
        let standing = self.machines[&site].standing(now);
        self.checks.ends(now, container, epoch, id, Some(standing));
        self.note_run(id, container, epoch, "exits");
        let what = Box::new(Happened::Exited { exit: cluster::Exit::Code(code) });
        self.after(MS, Happening::Node { node: id, life, what: ToNode::Happened { container, epoch, what } });
        true
    }

    fn note_run(&mut self, node: NodeId, container: ContainerId, epoch: Epoch, what: &str) {
        if self.transcript.wants(Show::Runs) {
            let name =
                self.newest.container(container).map_or_else(|| container.to_string(), |c| c.spec.name.to_string());
            self.note(Line { show: Show::Runs, text: format!("{name} {epoch} {what} on {node}") });
        }
    }

    pub(crate) fn say_agent(&mut self, id: NodeId, text: impl Fn() -> String) {
        if self.transcript.wants(Show::Agents) {
            self.note(Line { show: Show::Agents, text: format!("{id}: {}", text()) });
        }
    }
}
