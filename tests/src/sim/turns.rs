//! A member's turn: what a `Replica` orders, and what becomes of it.
//! In: the effects of one turn. Out: mail to others, writes that become durable later, facts for the oracles.

use cluster::agent::{Answer as Beat, ToAgent};
use cluster::{Incarnation, MemberId, NodeId, State};
use record::{SnapshotMeta, StoreError};
use replica::{Answer, Effect, Halt, Level, PeerMessage, ProposeError, Ticket, Write};

use crate::sim::agents::heartbeat_link_of;
use crate::sim::checks::First;
use crate::sim::clock::{MS, SECOND};
use crate::sim::deeds::CrashPoint;
use crate::sim::happenings::{Answered, Built, End, Happening, Mail, Shipment, ToClient, ToMember, ToNode};
use crate::sim::histories;
use crate::sim::host::Asker;
use crate::sim::mirror::{Mirror, mirror_entry};
use crate::sim::transcript::{Line, Show};
use crate::sim::world::World;

impl World {
    pub(crate) fn turn(&mut self, id: MemberId) {
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
            let generation = self.members[&id].generation;
            self.checks.leads(now, id, generation, term);
            let current = self.is_current(id);
            let state = self.process(id).filter(|_| current).and_then(|process| process.replica.state().cloned());
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
                let Ok(body) = self.bodies.write(&state) else {
                    let what = format!("{id} builds a snapshot of a state that hashes as another's and differs");
                    return self.checks.violate(now, "ReplicaEqual", what);
                };
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
                let generation = self.members[&id].generation;
                let first = self.checks.applied(now, (id, generation), revision, entry, &events, standing);
                self.histories.told(id, revision, &events);
                self.counts.mix(revision.0 ^ entry.map_or(0, |(_, digest, _)| digest));
                // What an earlier generation still decides is judged by what comes of it.
                if first == First::Yes && generation == self.generation() {
                    self.judge(id, entry.map(|(term, ..)| term), &events);
                    self.first_applied(revision, &events);
                }
            }
            Effect::Installed { revision } => {
                *self.counts.transitions.entry("snapshot installed").or_default() += 1;
                self.checks.rewound(id, Some(revision));
                self.histories.watches_from(id, revision);
            }
            Effect::Plan { state, observed, now } => {
                let plan = Box::new(cluster::planner::plan(&state, &observed, now));
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
            if let Some(fencing) = mirror_entry(&mut self.parsed, &mut member.mirror, entry, group) {
                self.rules.proposed(fencing, self.now);
            }
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
        let (from_site, generation) = (member.site, member.generation);
        let next = self.next_stream;
        let stream = self.streams.entry((id, to)).or_insert((0, 0, 0));
        if (stream.1, stream.2) != lives {
            *stream = (next, lives.0, lives.1);
            self.next_stream += 1;
        }
        let number = stream.0;
        let mail = || {
            let words = Box::new((hello, message.clone()));
            Happening::Mail { member: to, mail: Mail::Peer { from: id, generation, stream: number, words } }
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
        let (life, from, generation) = (member.life, member.site, member.generation);
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
        let mail = Mail::Snapshot(Box::new(Shipment { from: id, from_life: life, generation, message, meta, body }));
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
            Answer::Failed(ProposeError::Refused(why) | ProposeError::NotNow(why)) => Answered::Refused(why),
            Answer::Failed(_) => Answered::Again,
        };
        self.send_answer(id, asker, answer);
    }

    /// What this member knows just now, without asking anybody.
    pub(crate) fn tell_stale(&mut self, id: MemberId, asker: Asker, name: &str) {
        let known = self.process(id).and_then(|process| process.replica.state()).map(|state| seen(state, name));
        self.send_answer(id, asker, known.unwrap_or(Answered::Again));
    }

    fn send_answer(&mut self, id: MemberId, asker: Asker, answer: Answered) {
        // Nobody listens to an earlier generation any more.
        if !self.is_current(id) {
            return;
        }
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
