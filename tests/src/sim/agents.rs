//! Nodes in the world: what reaches an `Agent`, and what becomes of its effects.
//! In: wakes, mail, completions. Out: heartbeats, words to the leader, orders to the hands and the guard.

use std::sync::Arc;

use cluster::agent::{Answer, MembershipIdentity};
use cluster::{AgentRun, MemberId, NodeId, NodeReport, OnQuorumLoss, Span, StorageFinding};
use decide::{Agent, Audience, Config, Effect, GuardInput, GuardSays, Guardian, Happened, Input, Shape, Workload};
use replica::Link;

use crate::sim::clock::{MS, SECOND};
use crate::sim::happenings::{Act, Happening, Mail, ToNode};
use crate::sim::host::{AgentProcess, Member, Work, WorkPhase};
use crate::sim::table::Table;
use crate::sim::transcript::{Line, Show};
use crate::sim::world::World;

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
pub(crate) fn reached(members: &Table<MemberId, Member>, identity: &MembershipIdentity) -> Vec<MemberId> {
    let known: Vec<MemberId> = identity.addresses.iter().map(|(member, _)| *member).collect();
    let gone = |id: &MemberId| members.get(id).is_none_or(|member| member.retired.is_some());
    if known.iter().all(gone) { members.keys().copied().collect() } else { known }
}

/// From the order to watch something to the first look at it.
const LOOK: u64 = 20 * MS;

/// From a deed's order to its effect, about.
pub(crate) const CLAIM: u64 = 10 * MS;
pub(crate) const START: u64 = 80 * MS;
pub(crate) const KILL: u64 = 30 * MS;
pub(crate) const UNMOUNT: u64 = 10 * MS;
/// From a change of a storage to its being found.
pub(crate) const PROBE: u64 = SECOND;

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
        if let Err(error) = node.journal.admits(node.generation) {
            return self.checks.violate(self.now, "Generation", format!("{id} does not start: {error}"));
        }
        let guard_found = node.guard.is_some();
        let config = Config { node: id, generation: node.generation, boot: machine.boot, run, facts, guard_found };
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
            watch: Arc::default(),
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
            ToNode::Reply(reply) => {
                if let Answer::Acknowledged(identity) = &reply.answer {
                    self.checks.heard(reply.member, &reply.echo, identity);
                }
                self.agent_input(id, Input::Reply(*reply));
            }
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
            ToNode::Finds => {
                let fault: Arc<str> = if node.storage_lost_until > self.now { "it does not answer" } else { "" }.into();
                let found = |storage: &Arc<cluster::Storage>| {
                    (storage.name.clone(), StorageFinding { fault: fault.clone(), ..StorageFinding::default() })
                };
                let storages = Arc::new(process.watch.storages.iter().map(found).collect());
                self.agent_input(id, Input::Finds(Arc::new(NodeReport { storages, ..NodeReport::default() })));
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
            Effect::Watch(watch) => {
                process.watch = watch;
                self.looks_at_storages(id, LOOK);
            }
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

    /// Whichever agent lives there then, it looks at what it watches.
    pub(crate) fn looks_at_storages(&mut self, id: NodeId, after: u64) {
        let Some(life) = self.nodes.get(&id).map(|node| node.life) else { return };
        self.after(after, Happening::Node { node: id, life, what: ToNode::Finds });
    }

    pub(crate) fn say_agent(&mut self, id: NodeId, text: impl Fn() -> String) {
        if self.transcript.wants(Show::Agents) {
            self.note(Line { show: Show::Agents, text: format!("{id}: {}", text()) });
        }
    }
}
