//! Members in the world: started from what their disks hold, stopped, and what reaches a `Replica`.
//! In: ticks, mail, completions. Out: inputs, and the turn that follows them; what it orders is carried out in `turns`.
//! A turn follows a little after the first input, so that what comes together is one batch, as in the shell.

use cluster::{MemberId, RequestId, SessionId, State};
use record::{RaftDisk, StoreError};
use replica::{Config, Input, PeerMessage, Replica, Start, Ticket};

use crate::sim::bodies::Bodies;
use crate::sim::clock::{MS, SECOND};
use crate::sim::happenings::{Answered, Built, Happening, Mail, Shipment, ToClient, ToMember, ToNode, Wish};
use crate::sim::host::{Asker, Member, MemberProcess};
use crate::sim::mirror::{Mirror, mirror_entry};
use crate::sim::world::World;

/// From an input to the turn that answers it: what a busy event loop takes.
const TURN_AFTER: u64 = MS / 10;

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
        let start = match load(member, &mut self.bodies) {
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
            Mail::Peer { from, generation, .. } if generation != self.members[&id].generation => {
                self.unreachable(from, id, MS);
            }
            Mail::Snapshot(shipment) if shipment.generation != self.members[&id].generation => {
                let what = ToMember::SnapshotSent { peer: id, taken: false };
                self.after(MS, Happening::Member { member: shipment.from, life: shipment.from_life, what });
            }
            Mail::Peer { from, stream, words, .. } => {
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
                let Shipment { from, from_life, message, meta, body, .. } = *shipment;
                let decoded = self.bodies.read(&body).ok().filter(|_| meta.describes(&body));
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

    pub(crate) fn unreachable(&mut self, from: MemberId, peer: MemberId, after: u64) {
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
    pub(crate) fn store_failed(&mut self, id: MemberId, error: &StoreError) {
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

    pub(crate) fn process_mut(&mut self, id: MemberId) -> Option<&mut MemberProcess> {
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
}

/// What a member's disk says it is.
pub(crate) fn load(member: &mut Member, bodies: &mut Bodies) -> Result<Start, String> {
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
        Some((_, body)) => Some(bodies.read(&body)?),
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

/// Each client is one session for the whole of a run.
pub(crate) fn session_of(client: u32) -> SessionId {
    SessionId(u128::from(client) + 1)
}
