//! Members in the world: what reaches a `Replica`, and what becomes of its effects.
//! In: ticks, mail, completions. Out: mail to others, writes that become durable later, facts for the oracles.
//! A turn follows a little after the first input, so that what comes together is one batch, as in the shell.

use cluster::agent::{Answer as Beat, ToAgent};
use cluster::{Command, Incarnation, MemberId, NodeId, RequestId, SessionId, State};
use record::{RaftDisk, SnapshotMeta, StoreError};
use replica::{Answer, Config, Effect, Halt, Input, Level, PeerMessage, ProposeError, Replica, Start, Ticket, Write};

use crate::sim::agents::heartbeat_link_of;
use crate::sim::checks::First;
use crate::sim::clock::{MS, SECOND};
use crate::sim::deeds::CrashPoint;
use crate::sim::histories;
use crate::sim::host::{Asker, MemberProcess, Mirror, Mirrored};
use crate::sim::transcript::{Line, Show};
use crate::sim::world::{Answered, Built, End, Happening, Mail, Shipment, ToClient, ToMember, ToNode, Wish, World};

/// From an input to the turn that answers it: what a busy event loop takes.
const TURN_AFTER: u64 = MS / 10;

/// What the oracles need to know of an entry.
#[derive(Clone, Copy, Debug)]
pub struct Parsed {
    request: Option<RequestId>,
    fencing: Option<(NodeId, Incarnation)>,
}

impl World {
    pub(crate) fn start_member(&mut self, id: MemberId, life: u32) {
        let now = self.now;
        let Some(member) = self.members.get_mut(&id) else { return self.counts.void += 1 };
        if member.life != life || member.process.is_some() || member.retired.is_some() {
            return self.counts.void += 1;
        }
        self.counts.handled += 1;
        let clock = self.machines[&member.site].clock;
        let started = clock.lease(now);
        let first = life == 0 && now < SECOND;
        member.life += 1;
        member.mirror = Mirror::default();
        let (durable, emptied) = (member.disk.mem.durable_group(), member.disk.is_empty());
        let start = match load(member) {
            Ok(start) => {
                let loaded = member.disk.mem.durable_group();
                if loaded < durable && !emptied {
                    let what = format!("{id} starts from group {loaded}, and {durable} was durable");
                    self.checks.violate(now, "DamageNoticed", what);
                }
                start
            }
            Err(error) => {
                if !member.damaged {
                    let what = format!("{id} does not start, and its disk is honest: {error}");
                    self.checks.violate(now, "AckDurable", what);
                }
                member.retired = Some(error.clone());
                self.say_member(id, || format!("does not start: {error}"));
                return self.retire(id);
            }
        };
        let cold = !first && (start.snapshot.is_some() || !start.entries.is_empty());
        for entry in &start.entries {
            mirror_entry(&mut self.parsed, &mut self.members.get_mut(&id).expect("just seen").mirror, entry, 0);
        }
        let applied = start.state.as_ref().map(State::revision);
        let config = Config { id, cluster: self.cluster, started, cold, snapshot_every: self.layout.snapshot_every };
        let replica = match Replica::new(config, start, started) {
            Ok(replica) => replica,
            Err(error) => return self.checks.violate(now, "Start", format!("{id}: {error}")),
        };
        self.checks.rewound(id, applied);
        self.histories.watches_from(id, applied.unwrap_or_default());
        let every = clock.length(replica.tick_every());
        let member = self.members.get_mut(&id).expect("just seen");
        member.process = Some(MemberProcess {
            replica,
            turn_due: false,
            shown: None,
            led: None,
            tickets: Default::default(),
            next_ticket: 1,
            streams: Default::default(),
            building: None,
        });
        let life = member.life;
        self.judge_start(id, cold);
        self.say_member(id, || "starts".to_owned());
        self.after(every, Happening::Member { member: id, life, what: ToMember::Tick });
    }

    /// Its process ends, by `power` or by itself. The disk keeps what it keeps.
    pub(crate) fn stop_member(&mut self, id: MemberId, power: bool) -> bool {
        let Some(member) = self.members.get_mut(&id) else { return false };
        let ran = member.process.take().is_some();
        if ran {
            member.life += 1;
        }
        member.paused = false;
        member.crash = None;
        let waiting = std::mem::take(&mut member.waiting);
        if power {
            member.disk.power_lost();
        } else if ran {
            member.disk.process_died();
        }
        self.counts.void += waiting.len() as u64;
        if ran {
            self.checks.rewound(id, None);
            let notice = if power { SECOND + self.chance.below(2 * SECOND) } else { MS };
            self.break_sessions(|session| session.member == id, notice);
        }
        ran
    }

    /// It may never run again under this id; the operator sees to a new one.
    pub(crate) fn retire(&mut self, id: MemberId) {
        self.stop_member(id, false);
        self.operator.replace(id);
        self.after(SECOND, Happening::Operator);
    }

    // ── What reaches it ────────────────────────────────────────────────────────────────────────────────────────────

    /// Whether the process of that life takes happenings now; keeps them for later if it stands still.
    fn takes(&mut self, id: MemberId, life: Option<u32>, keep: Happening) -> Option<Happening> {
        let Some(member) = self.members.get_mut(&id) else {
            self.counts.void += 1;
            return None;
        };
        if member.process.is_none() || life.is_some_and(|life| life != member.life) {
            self.counts.void += 1;
            return None;
        }
        if member.paused {
            // A timer that fired while it stood still fires once.
            let again = |kept: &Happening| matches!(kept, Happening::Member { what: ToMember::Tick, .. });
            if again(&keep) && member.waiting.iter().any(again) {
                self.counts.void += 1;
            } else {
                member.waiting.push(keep);
            }
            return None;
        }
        self.counts.handled += 1;
        Some(keep)
    }

    pub(crate) fn member_event(&mut self, id: MemberId, life: u32, what: ToMember) {
        let keep = Happening::Member { member: id, life, what };
        let Some(Happening::Member { what, .. }) = self.takes(id, Some(life), keep) else { return };
        match what {
            ToMember::Tick => {
                let clock = self.machines[&self.member_site(id)].clock;
                let (monotonic, wall) = (clock.monotonic(self.now), self.wall_at(self.member_site(id)));
                let idle = self.process(id).is_some_and(|process| !process.turn_due);
                self.hand(id, Input::Tick { monotonic, wall });
                let every = self.process(id).map(|process| process.replica.tick_every()).unwrap_or_default();
                let every = clock.length(every) * self.layout.tick_stretch;
                self.after(every, Happening::Member { member: id, life, what: ToMember::Tick });
                // Nothing else came with it: the turn follows at once.
                if idle {
                    self.turn(id);
                }
            }
            ToMember::Turn => self.turn(id),
            ToMember::Synced { group, number, planned } => self.synced(id, life, group, number, planned),
            ToMember::SnapshotBuilt(built) => {
                let Built { meta, body } = *built;
                let member = self.members.get_mut(&id).expect("it takes happenings");
                let saved = member.disk.save_snapshot(&meta, &body);
                if let Some(process) = &mut member.process {
                    process.building = None;
                }
                match saved {
                    Ok(()) => self.input(id, Input::SnapshotSaved { meta }),
                    Err(StoreError::Refused(_)) => self.input(id, Input::SnapshotFailed),
                    Err(error) => self.store_failed(id, &error),
                }
            }
            ToMember::SnapshotSent { peer, taken } => self.input(id, Input::SnapshotSent { peer, taken }),
            ToMember::Planned { plan } => self.input(id, Input::Planned { plan }),
            ToMember::Unreachable { peer } => self.input(id, Input::PeerUnreachable { peer }),
        }
    }

    pub(crate) fn mail(&mut self, id: MemberId, mail: Mail) {
        // Nobody listens: the caller is told at once, if it can be told.
        if self.members.get(&id).is_none_or(|member| member.process.is_none()) {
            self.counts.handled += 1;
            return self.nobody_home(id, mail);
        }
        let Some(Happening::Mail { mail, .. }) = self.takes(id, None, Happening::Mail { member: id, mail }) else {
            return;
        };
        match mail {
            Mail::Peer { from, stream, words } => {
                let (hello, message) = *words;
                let newest = self.process(id).and_then(|process| process.streams.get(&from).copied()).unwrap_or(0);
                if stream < newest {
                    return;
                }
                if stream > newest {
                    if let Some(process) = self.process_mut(id) {
                        process.streams.insert(from, stream);
                    }
                    self.input(id, Input::Peer { from, message: PeerMessage::Hello { durable: hello } });
                }
                self.input(id, Input::Peer { from, message });
            }
            Mail::Snapshot(shipment) => {
                let Shipment { from, from_life, message, meta, body } = *shipment;
                let decoded = proto::snapshot::decode(&body).ok().filter(|_| meta.describes(&body));
                let taken = decoded.is_some();
                if let Some(state) = decoded {
                    self.members.get_mut(&id).expect("it takes mail").disk.keep_arrived(meta, body);
                    self.input(id, Input::SnapshotArrived { from, message, state: Box::new(state) });
                }
                if let Some(delay) = self.net.stream(self.member_site(id), self.member_site(from)) {
                    let what = ToMember::SnapshotSent { peer: id, taken };
                    self.after(delay, Happening::Member { member: from, life: from_life, what });
                }
            }
            Mail::Heartbeat { link, node, heartbeat } => {
                self.input(id, Input::Heartbeat { link, from: node, heartbeat: *heartbeat });
            }
            Mail::Open { link } => self.session_opens(id, link),
            Mail::Said { link, message } => self.input(id, Input::AgentSaid { link, message: *message }),
            Mail::Question { client, question, attempt, ask } => {
                let Some(process) = self.process_mut(id) else { return };
                let ticket = Ticket(process.next_ticket);
                process.next_ticket += 1;
                process.tickets.insert(ticket, Asker { client, question, attempt });
                let input = match *ask {
                    Wish::Propose { sequence, command } => {
                        let request = Some(RequestId { session: session_of(client), sequence });
                        Input::Propose { ticket, request, command }
                    }
                    Wish::Look { name, stale: true } => {
                        process.tickets.remove(&ticket);
                        return self.tell_stale(id, Asker { client, question, attempt }, &name);
                    }
                    Wish::Read | Wish::Look { .. } => Input::Read { ticket },
                    Wish::Change(change) => Input::ChangeMembership { ticket, change },
                    Wish::Transfer(to) => Input::TransferLeader { ticket, to },
                };
                self.input(id, input);
            }
        }
    }

    fn nobody_home(&mut self, id: MemberId, mail: Mail) {
        match mail {
            Mail::Peer { from, .. } => self.unreachable(from, id, MS),
            Mail::Snapshot(shipment) => {
                let what = ToMember::SnapshotSent { peer: id, taken: false };
                self.after(MS, Happening::Member { member: shipment.from, life: shipment.from_life, what });
            }
            Mail::Open { link } => {
                if let Some(session) = self.sessions.remove(&link) {
                    let what = ToNode::Refused { link, hint: None };
                    self.after(MS, Happening::Node { node: session.node, life: session.agent_life, what });
                }
            }
            Mail::Question { client, question, attempt, .. } => {
                let answer = Box::new(Answered::NotLeader { hint: None });
                self.after(MS, Happening::Client { client, what: ToClient::Answer { question, attempt, answer } });
            }
            Mail::Heartbeat { .. } | Mail::Said { .. } => {}
        }
    }

    fn unreachable(&mut self, from: MemberId, peer: MemberId, after: u64) {
        let Some(life) = self.members.get(&from).map(|member| member.life) else { return };
        self.after(after, Happening::Member { member: from, life, what: ToMember::Unreachable { peer } });
    }

    fn synced(&mut self, id: MemberId, life: u32, group: u64, number: u64, planned: u64) {
        let now = self.now;
        let member = self.members.get_mut(&id).expect("it takes happenings");
        let due = member.disk.durable_at(planned);
        if due > now {
            let what = ToMember::Synced { group, number, planned: due };
            return self.at(due, Happening::Member { member: id, life, what });
        }
        match member.disk.sync(group) {
            Ok(()) => self.input(id, Input::Persisted { number }),
            Err(error) => self.store_failed(id, &error),
        }
    }

    /// After the first error the member stops; its supervisor starts it on what the disk kept.
    fn store_failed(&mut self, id: MemberId, error: &StoreError) {
        self.say_member(id, || format!("stops: {error}"));
        self.stop_member(id, false);
        self.supervise(id, SECOND);
    }

    /// Its supervisor starts it again after `down`.
    pub(crate) fn supervise(&mut self, id: MemberId, down: u64) {
        let Some(member) = self.members.get(&id) else { return };
        let (life, powered) = (member.life, self.machines[&member.site].powered);
        if powered {
            self.after(down, Happening::StartMember { member: id, life });
        }
    }

    pub(crate) fn process(&self, id: MemberId) -> Option<&MemberProcess> {
        self.members.get(&id)?.process.as_ref()
    }

    fn process_mut(&mut self, id: MemberId) -> Option<&mut MemberProcess> {
        self.members.get_mut(&id)?.process.as_mut()
    }

    pub(crate) fn input(&mut self, id: MemberId, input: Input) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let now = self.machines[&member.site].clock.lease(self.now);
        let life = member.life;
        let Some(process) = &mut member.process else { return };
        process.replica.handle(now, input);
        if !std::mem::replace(&mut process.turn_due, true) {
            self.after(TURN_AFTER, Happening::Member { member: id, life, what: ToMember::Turn });
        }
    }

    /// Like `input`, for a caller that sees to the turn.
    fn hand(&mut self, id: MemberId, input: Input) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let now = self.machines[&member.site].clock.lease(self.now);
        if let Some(process) = &mut member.process {
            process.replica.handle(now, input);
        }
    }

    // ── What it orders ─────────────────────────────────────────────────────────────────────────────────────────────

    fn turn(&mut self, id: MemberId) {
        let now = self.now;
        let member = self.members.get_mut(&id).expect("it takes happenings");
        let lease_clock = self.machines[&member.site].clock.lease(now);
        let Some(process) = &mut member.process else { return };
        process.turn_due = false;
        let effects = process.replica.turn(lease_clock);
        let term = process.replica.is_leader().then(|| process.replica.tail().hard_state.term);
        let began = term.filter(|term| process.led != Some(*term));
        process.led = term.or(process.led);
        let life = member.life;
        for effect in effects {
            if self.members.get(&id).is_none_or(|member| member.life != life || member.process.is_none()) {
                return;
            }
            self.carry_out(id, effect);
        }
        self.look_at_state(id);
        self.judge_suspects(id);
        if let Some(term) = began {
            self.checks.leads(now, id, term);
            let state = self.process(id).and_then(|process| process.replica.state().cloned());
            if let Some(state) = state {
                self.checks.remembers(now, &format!("{id}, who leads term {term},"), &state);
            }
            if self.transcript.wants(Show::Leaders) {
                self.note(Line { show: Show::Leaders, text: format!("{id} leads term {term}") });
            }
        }
    }

    /// The state a member shows after its turn, if it is another than the one it showed before.
    fn look_at_state(&mut self, id: MemberId) {
        let now = self.now;
        let Some(process) = self.members.get_mut(&id).and_then(|member| member.process.as_mut()) else { return };
        let Some(state) = process.replica.state() else { return };
        let shows = (state.revision(), state.hash());
        if process.shown.replace(shows) == Some(shows) {
            return;
        }
        self.checks.state(now, id, shows.0, shows.1);
        if state.revision() > self.newest.revision() {
            for violation in cluster::invariants::check_step(&self.newest, state) {
                self.checks.violate(now, "State", violation.to_string());
            }
            self.counts.coverage.states(&self.newest, state);
            self.newest = state.clone();
        }
    }

    /// Whether the member dies right here.
    fn dies_at(&mut self, id: MemberId, point: CrashPoint) -> bool {
        let Some(member) = self.members.get_mut(&id) else { return false };
        let Some((wanted, left, power)) = &mut member.crash else { return false };
        if *wanted != point {
            return false;
        }
        if *left > 0 {
            *left -= 1;
            return false;
        }
        let (power, site) = (*power, member.site);
        self.say_member(id, || format!("dies at {point:?}"));
        if power {
            self.power_off(site);
        } else {
            self.stop_member(id, false);
            self.supervise(id, SECOND / 2);
        }
        true
    }

    fn carry_out(&mut self, id: MemberId, effect: Effect) {
        let now = self.now;
        match effect {
            Effect::Persist(write) => self.persist(id, &write),
            Effect::Send { to, message } => {
                self.judge_answer(id, &message);
                if !self.dies_at(id, CrashPoint::BeforeSend) {
                    self.send_peer(id, to, message);
                }
            }
            Effect::SendSnapshot { to, meta, message } => self.send_snapshot(id, to, meta, message),
            Effect::BuildSnapshot { point, membership, state } => {
                let body: Vec<u8> = snapshot_of(&state);
                let meta = SnapshotMeta::of(point, membership, &body);
                let took = self.jitter(20 * MS);
                let Some(member) = self.members.get_mut(&id) else { return };
                if let Some(process) = &mut member.process {
                    process.building = Some(meta.clone());
                }
                let life = member.life;
                *self.counts.transitions.entry("snapshot built").or_default() += 1;
                let what = ToMember::SnapshotBuilt(Box::new(Built { meta, body }));
                self.after(took, Happening::Member { member: id, life, what });
            }
            Effect::Compact { through } => {
                let compacted = self.members.get_mut(&id).map(|member| member.disk.compact(through));
                if let Some(Err(error)) = compacted {
                    self.store_failed(id, &error);
                }
            }
            Effect::Answer { ticket, answer } => self.answer(id, ticket, answer),
            Effect::Reply { link, reply } => {
                if let Beat::Acknowledged(identity) = &reply.answer {
                    let refuses = self.refuses(id, reply.echo.node, reply.echo.incarnation);
                    self.checks.acknowledged(now, id, &reply.echo, identity, refuses);
                    self.heard(id, reply.echo.node);
                    self.judge_identity(id, identity.index);
                }
                let (node, life) = heartbeat_link_of(link);
                let (from, to) = (self.member_site(id), self.node_site(node));
                self.toss(from, to, || Happening::Node { node, life, what: ToNode::Reply(Box::new(reply.clone())) });
            }
            Effect::ToAgent { link, message } => {
                self.judge_leader(id);
                if let ToAgent::Desired(set) = &message
                    && let Some(session) = self.sessions.get(&link)
                    && let Some(node) = self.nodes.get_mut(&session.node)
                    && node.old_set.as_ref().is_none_or(|old| old.incarnation < set.incarnation)
                {
                    node.older_set = node.old_set.replace(set.clone());
                }
                self.down_the_session(id, link, |link| ToNode::Said { link, message: Box::new(message.clone()) });
            }
            Effect::DropAgent { link } => {
                if let Some(session) = self.sessions.get_mut(&link) {
                    session.ended.1 = true;
                    self.at(now + MS, Happening::SessionEnds { link, end: End::Agent });
                }
            }
            Effect::Applied { revision, events, at: _ } => {
                if self.dies_at(id, CrashPoint::BeforeApplied) {
                    return;
                }
                let entry = self.members.get(&id).and_then(|member| member.mirror.entries.get(&revision.0));
                let entry = entry.map(|entry| (entry.term, entry.digest, entry.request));
                let (machines, nodes) = (&self.machines, &self.nodes);
                let standing = |node: NodeId| {
                    let machine = machines.get(&nodes.get(&node)?.site)?;
                    machine.powered.then(|| (machine.boot, machine.standing(now)))
                };
                let first = self.checks.applied(now, id, revision, entry, &events, standing);
                self.histories.told(id, revision, &events);
                self.counts.mix(revision.0 ^ entry.map_or(0, |(_, digest, _)| digest));
                if first == First::Yes {
                    self.judge(id, &events);
                    self.first_applied(revision, &events);
                }
            }
            Effect::Installed { revision } => {
                *self.counts.transitions.entry("snapshot installed").or_default() += 1;
                self.checks.rewound(id, Some(revision));
                self.histories.watches_from(id, revision);
            }
            Effect::Plan { state, observed } => {
                let plan = Box::new(cluster::planner::plan(&state, &observed, self.wall_at(self.member_site(id))));
                let took = self.jitter(2 * MS);
                let Some(life) = self.members.get(&id).map(|member| member.life) else { return };
                self.after(took, Happening::Member { member: id, life, what: ToMember::Planned { plan } });
            }
            Effect::Fence { node, incarnation } => {
                *self.counts.transitions.entry("fence asked for").or_default() += 1;
                self.judge_fence(id, node, incarnation);
                let Some(life) = self.members.get(&id).map(|member| member.life) else { return };
                if self.layout.power_switch && !self.chance.one_in(4) {
                    let took = self.jitter(SECOND);
                    self.after(took, Happening::Switch { member: id, life, node, incarnation });
                }
            }
            Effect::Halt { reason } => self.halted(id, reason),
            Effect::Say { level, text } => {
                if level != Level::Info || self.transcript.wants(Show::Members) {
                    self.say_member(id, || text.clone());
                }
            }
        }
    }

    fn persist(&mut self, id: MemberId, write: &Write) {
        if self.dies_at(id, CrashPoint::BeforePersist) {
            return;
        }
        self.judge_write(id, write.group.hard_state.commit);
        let now = self.now;
        let member = self.members.get_mut(&id).expect("it just ordered this");
        let (group, durable) = match member.disk.write(now, write) {
            Ok(written) => written,
            Err(StoreError::Refused(refused)) => {
                return self.checks.violate(now, "Store", format!("{id} writes what cannot follow: {refused}"));
            }
            Err(error) => return self.store_failed(id, &error),
        };
        if write.group.restored.is_some() {
            member.mirror = Mirror::default();
        }
        if let Some(first) = write.group.entries.first() {
            member.mirror.truncate_from(first.index);
        }
        for entry in &write.group.entries {
            mirror_entry(&mut self.parsed, &mut member.mirror, entry, group);
        }
        let (life, number) = (member.life, write.number);
        let what = ToMember::Synced { group, number, planned: durable };
        self.at(durable, Happening::Member { member: id, life, what });
        self.dies_at(id, CrashPoint::AfterPersist);
    }

    fn send_peer(&mut self, id: MemberId, to: MemberId, message: PeerMessage) {
        let Some(peer) = self.members.get(&to) else { return };
        let (peer_life, peer_site) = (peer.life, peer.site);
        let Some(member) = self.members.get(&id) else { return };
        let Some(process) = &member.process else { return };
        let lives = (member.life, peer_life);
        let hello = process.replica.tail().held();
        let from_site = member.site;
        let next = self.next_stream;
        let stream = self.streams.entry((id, to)).or_insert((0, 0, 0));
        if (stream.1, stream.2) != lives {
            *stream = (next, lives.0, lives.1);
            self.next_stream += 1;
        }
        let number = stream.0;
        let mail = || {
            let words = Box::new((hello, message.clone()));
            Happening::Mail { member: to, mail: Mail::Peer { from: id, stream: number, words } }
        };
        if !self.toss(from_site, peer_site, mail) {
            // A stream that loses something is broken; the next message opens another.
            self.streams.remove(&(id, to));
            let notice = self.jitter(20 * MS);
            self.unreachable(id, to, notice);
        }
    }

    fn send_snapshot(&mut self, id: MemberId, to: MemberId, meta: SnapshotMeta, message: Box<replica::RaftMessage>) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let (life, from) = (member.life, member.site);
        let body = member.disk.snapshot().ok().flatten().filter(|(held, _)| *held == meta).map(|(_, body)| body);
        let way = self.net.stream(from, self.member_site(to));
        let (Some(body), Some(delay)) = (body, way) else {
            let what = ToMember::SnapshotSent { peer: to, taken: false };
            return self.after(20 * MS, Happening::Member { member: id, life, what });
        };
        let took = delay + self.jitter(30 * MS);
        let mut body = body;
        if self.members.get(&id).is_some_and(|member| self.now < member.snapshots_break_until) {
            if self.chance.one_in(2) {
                let what = ToMember::SnapshotSent { peer: to, taken: false };
                return self.after(took / 2, Happening::Member { member: id, life, what });
            }
            let byte = self.chance.below(body.len() as u64) as usize;
            body[byte] ^= 1 << self.chance.below(8);
        }
        let mail = Mail::Snapshot(Box::new(Shipment { from: id, from_life: life, message, meta, body }));
        self.after(took, Happening::Mail { member: to, mail });
    }

    fn answer(&mut self, id: MemberId, ticket: Ticket, answer: Answer) {
        let Some(asker) = self.process_mut(id).and_then(|process| process.tickets.remove(&ticket)) else { return };
        let Asker { client, question, .. } = asker;
        let answer = match answer {
            Answer::Applied(applied) => Answered::Applied { revision: applied.revision, outcome: applied.outcome },
            Answer::State(state) => match self.clients[client as usize].looks_at(question) {
                Some(name) => seen(&state, &name),
                None => Answered::State { revision: state.revision() },
            },
            Answer::Done => Answered::Done,
            Answer::Failed(ProposeError::NotLeader { hint }) => Answered::NotLeader { hint },
            Answer::Failed(ProposeError::Refused(why)) => Answered::Refused(why),
            Answer::Failed(_) => Answered::Again,
        };
        self.send_answer(id, asker, answer);
    }

    /// What this member knows just now, without asking anybody.
    fn tell_stale(&mut self, id: MemberId, asker: Asker, name: &str) {
        let known = self.process(id).and_then(|process| process.replica.state()).map(|state| seen(state, name));
        self.send_answer(id, asker, known.unwrap_or(Answered::Again));
    }

    fn send_answer(&mut self, id: MemberId, asker: Asker, answer: Answered) {
        let Asker { client, question, attempt } = asker;
        let site = self.member_site(id);
        self.toss(site, crate::sim::net::Site(0), || Happening::Client {
            client,
            what: ToClient::Answer { question, attempt, answer: Box::new(answer.clone()) },
        });
    }

    /// Why this member must not acknowledge the incarnation, by what is durable on its disk or applied in its state.
    pub(crate) fn refuses(&self, id: MemberId, node: NodeId, incarnation: Incarnation) -> Option<String> {
        let member = self.members.get(&id)?;
        let durable = member.disk.mem.durable_group();
        let logged = member.mirror.fencings.iter().find(|(index, fenced)| {
            **fenced == (node, incarnation)
                && member.mirror.entries.get(index).is_some_and(|entry| entry.group <= durable)
                && member
                    .process
                    .as_ref()
                    .is_some_and(|process| process.replica.state().is_none_or(|state| state.revision().0 < **index))
        });
        if let Some((index, _)) = logged {
            return Some(format!("its durable log fences it at {index}"));
        }
        let health = &member.process.as_ref()?.replica.state()?.node(node)?.health;
        let over = !matches!(health, cluster::Health::Up { incarnation: current, .. } if *current == incarnation);
        over.then(|| format!("its state says {health}"))
    }

    fn halted(&mut self, id: MemberId, reason: Halt) {
        match &reason {
            Halt::LostData { .. } if self.members.get(&id).is_some_and(|member| !member.damaged) => {
                let what = format!("{id}, whose disk is honest: {reason}");
                self.checks.violate(self.now, "AckDurable", what);
            }
            Halt::LostData { .. } | Halt::Removed => {
                self.say_member(id, || format!("halts: {reason}"));
                if let Some(member) = self.members.get_mut(&id) {
                    // What a member that halts had written is not worth more than what it lost.
                    member.retired = Some(reason.to_string());
                }
                *self.counts.transitions.entry("member halted").or_default() += 1;
                match reason {
                    Halt::Removed => {
                        self.stop_member(id, false);
                    }
                    _ => self.retire(id),
                }
            }
            Halt::StateDiffers { .. } | Halt::Unreadable { .. } | Halt::Invariant { .. } => {
                self.checks.violate(self.now, "Halt", format!("{id}: {reason}"));
            }
        }
    }

    pub(crate) fn say_member(&mut self, id: MemberId, text: impl Fn() -> String) {
        if self.transcript.wants(Show::Members) {
            self.note(Line { show: Show::Members, text: format!("{id}: {}", text()) });
        }
    }
}

/// What a look at the container of this name shows in `state`.
fn seen(state: &State, name: &str) -> Answered {
    let container = cluster::Name::new(name).ok().and_then(|name| state.container_named(&name).cloned());
    Answered::Seen { revision: state.revision(), view: container.map(|container| histories::view(&container)) }
}

pub(crate) fn snapshot_of(state: &State) -> Vec<u8> {
    proto::snapshot::encode(state).fold(Vec::new(), |mut body, piece| {
        body.extend_from_slice(&piece);
        body
    })
}

/// What a member's disk says it is.
fn load(member: &mut crate::sim::host::Member) -> Result<Start, String> {
    let loaded = match member.disk.load() {
        Ok(Some(loaded)) => loaded,
        // An empty disk under a known id: it starts as if it were new, and must be found out.
        Ok(None) => {
            member.disk.mem = record::MemDisk::create(member.identity);
            member.disk.mem.load().map_err(|error| error.to_string())?.ok_or("a store just made is not there")?
        }
        Err(error) => return Err(chain(&error)),
    };
    let state = match member.disk.snapshot().map_err(|error| chain(&error))? {
        Some((_, body)) => Some(proto::snapshot::decode(&body).map_err(|error| error.to_string())?),
        None => None,
    };
    Ok(Start { state, snapshot: loaded.snapshot, hard_state: loaded.hard_state, entries: loaded.entries })
}

fn chain(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn mirror_entry(
    parsed: &mut std::collections::BTreeMap<(u64, u64, u64), Parsed>,
    mirror: &mut Mirror,
    entry: &record::Entry,
    group: u64,
) {
    let digest = digest(entry);
    let known = parsed.entry((entry.term, entry.index, digest)).or_insert_with(|| {
        let command =
            (entry.kind == 0 && !entry.data.is_empty()).then(|| proto::log::decode(&entry.data).ok()).flatten();
        let fencing = match command.as_ref().map(|entry| &entry.command) {
            Some(Command::BeginFencing { node, incarnation, .. }) => Some((*node, *incarnation)),
            _ => None,
        };
        Parsed { request: command.and_then(|entry| entry.request), fencing }
    });
    if let Some(fencing) = known.fencing {
        mirror.fencings.insert(entry.index, fencing);
    }
    let mirrored = Mirrored { term: entry.term, digest, request: known.request, group };
    mirror.entries.insert(entry.index, mirrored);
}

fn digest(entry: &record::Entry) -> u64 {
    let words = entry.data.iter().fold(0xcbf2_9ce4_8422_2325 ^ u64::from(entry.kind), |word, byte| {
        (word ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    words ^ entry.term.rotate_left(32)
}

/// Each client is one session for the whole of a run.
pub(crate) fn session_of(client: u32) -> SessionId {
    SessionId(u128::from(client) + 1)
}
