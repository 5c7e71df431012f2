//! The thread that owns the replica. Its end is the end of the daemon's membership.
//! It waits for letters, hands all that queued up to the mind, lets it speak once, and carries out what it orders, in order.
//! In: letters from `handle`. Out: orders to disk, peers, snapshots, planner, fences; answers; the published state.
//! Absent: decisions, and anything that could wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use cluster::agent::{HeartbeatReply, ToAgent};
use cluster::{Event, Member, MemberId, Moment, Revision, Span, State, WallTime};
use record::{RaftDisk, StoreError};
use replica::{Answer, CannotStart, Config, Effect, Halt, Input, Level, Link, Replica, Start, Status, Ticket};
use tokio::sync::{oneshot, watch};
use tracing::{error, info, warn};

use super::beats::Pulse;
use super::disk::{self, DiskThread, StoreMeter};
use super::fencing::Fences;
use super::handle::{Handle, Letter, Reply, View};
use super::outlet::Outlet;
use super::peers::{Credentials, Peers};
use super::planning;
use super::snapshots::{self, Arrivals, SnapshotThread, Staging};
use crate::clock;
use crate::events::{Events, KEPT};

/// Letters taken in before the replica speaks: enough for a full group, few enough that a tick is never late.
const BATCH: usize = 8_192;
/// How old a published `Status` may be while nothing important changes.
const STATUS_EVERY: Duration = Duration::from_millis(100);

/// A member's place: everything it needs to take part.
pub struct Seat {
    pub config: Config,
    pub start: Start,
    pub disk: Box<dyn RaftDisk>,
    pub credentials: Credentials,
    /// Members and their addresses known before there is a state.
    pub seeds: Vec<Arc<Member>>,
    pub meter: StoreMeter,
    pub fences: Fences,
    /// Where streams to other members run.
    pub streams: tokio::runtime::Handle,
}

/// Why the replica's thread is over.
#[derive(Debug)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    Halted(Halt),
    Store(StoreError),
    /// A bug; the message is in the log.
    Panicked,
}

/// A running member.
pub struct Runtime {
    pub handle: Handle,
    pub arrivals: Arrivals,
    ended: oneshot::Receiver<Ended>,
}

impl Runtime {
    /// Errs if raft cannot start from what the disk holds.
    pub fn start(seat: Seat) -> Result<Runtime, CannotStart> {
        let Seat { config, start, disk, credentials, seeds, meter, fences, streams } = seat;
        let id = config.id;
        let replica = Replica::new(config, start, clock::lease_clock())?;
        let applied = replica.state().map_or(Revision(0), State::revision);
        let events = Arc::new(Events::new(applied, KEPT));
        let (letters, inbox) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let view = watch::Sender::new(Arc::new(view_of(&replica)));
        let status = watch::Sender::new(Arc::new(replica.status()));
        let handle = Handle::new(id, events, letters, Arc::clone(&waiting), view.subscribe(), status.subscribe());

        let (arrivals, staging) = (Arrivals::default(), Staging::default());
        let tell = |handle: &Handle| {
            let handle = handle.clone();
            move |fact| handle.tell(fact)
        };
        let folder = disk.snapshots();
        let (disk_failed, disk_error) = channel();
        let stop = handle.clone();
        let (disk, disk_thread) = DiskThread::new(disk, arrivals.clone(), Arc::clone(&staging), meter, tell(&handle))
            .start(move |error| {
                // The receiver is the replica's thread; if that is gone, so is whoever would want to know.
                let _ = disk_failed.send(error);
                stop.stop();
            });
        let peers = Peers::new(credentials, handle.clone(), seeds, streams);
        let deliver = peers.courier();
        let snapshots = SnapshotThread {
            folder,
            staging,
            disk: disk.clone(),
            tell: Box::new(tell(&handle)),
            deliver: Box::new(move |parcel| deliver.deliver(parcel)),
        }
        .start();
        let planner = planning::start(tell(&handle));

        let mut task = Task {
            replica,
            inbox,
            waiting,
            disk,
            disk_error,
            snapshots,
            planner,
            peers,
            fences,
            handle: handle.clone(),
            view,
            status,
            status_at: Instant::now(),
            next_tick: Moment::default(),
            tickets: HashMap::new(),
            last_ticket: 0,
            links: HashMap::new(),
            beats: Pulse::new(Arc::clone(handle.beats())),
            overdue: Vec::new(),
            syncing: None,
            gathered: Vec::new(),
        };
        let (end, ended) = oneshot::channel();
        let run = move || {
            let reason = task.run();
            let _ = task.disk.send(disk::Job::Close);
            drop(task);
            // A store that could not be closed is checked at the next start; there is nothing else to do about it here.
            let _ = disk_thread.join();
            let _ = end.send(reason);
        };
        thread::Builder::new().name("replica".into()).spawn(run).expect("a thread can be started at start-up");
        Ok(Runtime { handle, arrivals, ended })
    }

    /// Waits for the end.
    pub async fn ended(&mut self) -> Ended {
        (&mut self.ended).await.unwrap_or(Ended::Panicked)
    }

    /// Asks for the end; `ended` says when the store is closed.
    pub fn stop(&self) {
        self.handle.stop();
    }
}

struct Task {
    replica: Replica,
    inbox: Receiver<Letter>,
    waiting: Arc<AtomicUsize>,
    disk: Sender<disk::Job>,
    disk_error: Receiver<StoreError>,
    snapshots: Sender<snapshots::Job>,
    planner: Sender<planning::Job>,
    peers: Peers,
    fences: Fences,
    handle: Handle,
    view: watch::Sender<Arc<View>>,
    status: watch::Sender<Arc<Status>>,
    status_at: Instant,
    next_tick: Moment,
    tickets: HashMap<Ticket, Waiting>,
    last_ticket: u64,
    links: HashMap<Link, Out>,
    beats: Pulse,
    /// What carrying out orders brought up; taken in before anything else.
    overdue: Vec<Input>,
    /// The last write ordered, until it is durable.
    syncing: Option<u64>,
    /// Proposals that came meanwhile: they will be one append, not many small ones that wait for the disk all the same.
    gathered: Vec<Letter>,
}

enum Waiting {
    Proposal(Reply),
    Call(oneshot::Sender<Answer>),
}

enum Out {
    Heartbeats(Outlet<HeartbeatReply>),
    Session(Outlet<ToAgent>),
}

/// The end, on the way out of nested calls.
struct Over(Ended);

impl Task {
    fn run(&mut self) -> Ended {
        loop {
            if let Err(Over(reason)) = self.turn() {
                return reason;
            }
        }
    }

    fn turn(&mut self) -> Result<(), Over> {
        self.take_in()?;
        let now = clock::lease_clock();
        let ticks = now >= self.next_tick;
        // A majority does not need this disk: while it stands still, the log moves on from tick to tick.
        if self.syncing.is_none() || ticks {
            for letter in std::mem::take(&mut self.gathered) {
                self.hand_over(letter)?;
            }
        }
        if ticks {
            let (now, monotonic) = clock::lease_and_monotonic();
            self.replica.handle(now, Input::Tick { monotonic, wall: clock::wall() });
            self.next_tick = now + self.replica.tick_every();
        }
        let effects = self.replica.turn(now);
        self.publish(&effects);
        self.carry_out(effects)
    }

    /// Waits for the first letter or the next tick, then takes everything that is there.
    fn take_in(&mut self) -> Result<(), Over> {
        for fact in std::mem::take(&mut self.overdue) {
            self.replica.handle(clock::lease_clock(), fact);
        }
        let wake = self.beats.due().map_or(self.next_tick, |due| due.min(self.next_tick));
        let Span(nanos) = wake.since(clock::lease_clock());
        match self.inbox.recv_timeout(Duration::from_nanos(nanos)) {
            Ok(letter) => self.read(letter)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(Over(Ended::Stopped)),
        }
        for _ in 1..BATCH {
            let Ok(letter) = self.inbox.try_recv() else { break };
            self.read(letter)?;
        }
        let now = clock::lease_clock();
        for beat in self.beats.take(now) {
            self.replica.handle(now, beat);
        }
        Ok(())
    }

    /// Gathers proposals while the disk is busy; everything else goes to the mind at once.
    fn read(&mut self, letter: Letter) -> Result<(), Over> {
        let waits = self.syncing.is_some() || !self.gathered.is_empty();
        if waits && matches!(letter, Letter::Propose { .. }) {
            self.gathered.push(letter);
            return Ok(());
        }
        self.hand_over(letter)
    }

    fn hand_over(&mut self, letter: Letter) -> Result<(), Over> {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        if let Letter::Fact(Input::Persisted { number }) = &letter {
            self.syncing = self.syncing.filter(|last| last > number);
        }
        let input = match letter {
            Letter::Fact(fact) => fact,
            Letter::Propose { request, command, reply } => {
                Input::Propose { ticket: self.ticket(Waiting::Proposal(reply)), request, command }
            }
            Letter::Read { reply } => Input::Read { ticket: self.ticket(Waiting::Call(reply)) },
            Letter::ChangeMembership { change, reply } => {
                Input::ChangeMembership { ticket: self.ticket(Waiting::Call(reply)), change }
            }
            Letter::TransferLeader { to, reply } => {
                Input::TransferLeader { ticket: self.ticket(Waiting::Call(reply)), to }
            }
            Letter::OpenHeartbeats { link, out } => {
                self.links.insert(link, Out::Heartbeats(out));
                return Ok(());
            }
            Letter::OpenSession { link, node, generation, out } => {
                self.links.insert(link, Out::Session(out));
                Input::AgentOpened { link, node, generation }
            }
            Letter::CloseLink { link } => match self.links.remove(&link) {
                Some(Out::Session(_)) => Input::AgentClosed { link },
                Some(Out::Heartbeats(_)) | None => return Ok(()),
            },
            Letter::Beats => {
                self.beats.called(clock::lease_clock());
                return Ok(());
            }
            Letter::Durable { reply } => {
                // Whoever asked and went away needs no answer.
                let _ = reply.send(self.replica.status().durable);
                return Ok(());
            }
            Letter::Stop => {
                let reason = self.disk_error.try_recv().map_or(Ended::Stopped, Ended::Store);
                return Err(Over(reason));
            }
        };
        self.replica.handle(clock::lease_clock(), input);
        Ok(())
    }

    fn ticket(&mut self, waiting: Waiting) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.tickets.insert(ticket, waiting);
        ticket
    }

    /// Before any answer leaves: what was acknowledged can be seen.
    fn publish(&mut self, effects: &[Effect]) {
        let before = Arc::clone(&self.view.borrow());
        let leads = self.replica.is_leader();
        let changed = leads != before.leads || self.replica.leader() != before.leader;
        let moved = |effect: &Effect| matches!(effect, Effect::Applied { .. } | Effect::Installed { .. });
        if changed || effects.iter().any(moved) {
            let view = view_of(&self.replica);
            if let Some(state) = &view.state {
                self.peers.learn(state);
            }
            self.view.send_replace(Arc::new(view));
        }
        if changed || self.status_at.elapsed() >= STATUS_EVERY {
            self.status.send_replace(Arc::new(self.replica.status()));
            self.status_at = Instant::now();
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) -> Result<(), Over> {
        let mut happened: Vec<(Revision, WallTime, Vec<Event>)> = Vec::new();
        let mut over = None;
        for effect in effects {
            match effect {
                Effect::Applied { revision, events, at } => happened.push((revision, at, events)),
                Effect::Installed { revision } => {
                    self.handle.events.extend(happened.drain(..));
                    self.handle.events.forget_before(revision);
                }
                Effect::Halt { reason } => {
                    over = Some(Over(Ended::Halted(reason)));
                    break;
                }
                other => self.order(other),
            }
        }
        if !happened.is_empty() {
            self.handle.events.extend(happened);
        }
        over.map_or(Ok(()), Err)
    }

    /// One order. A thread that has ended takes none; its end is noticed by itself.
    fn order(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(write) => {
                self.syncing = Some(write.number);
                drop(self.disk.send(disk::Job::Write(write)));
            }
            Effect::Compact { through } => drop(self.disk.send(disk::Job::Compact { through })),
            Effect::Send { to, message } => {
                if !self.peers.send(to, message) {
                    self.overdue.push(Input::PeerUnreachable { peer: to });
                }
            }
            Effect::SendSnapshot { to, meta, message } => {
                drop(self.snapshots.send(snapshots::Job::Send { to, meta, message }));
            }
            Effect::BuildSnapshot { point, membership, state } => {
                drop(self.snapshots.send(snapshots::Job::Build { point, membership, state }));
            }
            Effect::Answer { ticket, answer } => match self.tickets.remove(&ticket) {
                Some(Waiting::Proposal(reply)) => reply.send(answer),
                // Whoever asked and went away needs no answer.
                Some(Waiting::Call(reply)) => drop(reply.send(answer)),
                None => {}
            },
            Effect::Reply { link, reply } => {
                if let Some(Out::Heartbeats(out)) = self.links.get(&link) {
                    // Full: the agent does not read, and misses an acknowledgement by its own fault.
                    let _ = out.put(reply);
                }
            }
            Effect::ToAgent { link, message } => {
                if let Some(Out::Session(out)) = self.links.get(&link)
                    && !out.put(message)
                {
                    self.links.remove(&link);
                    self.overdue.push(Input::AgentClosed { link });
                }
            }
            Effect::DropAgent { link } => drop(self.links.remove(&link)),
            Effect::Plan { state, observed, now } => drop(self.planner.send((state, observed, now))),
            Effect::Fence { node, incarnation } => {
                if let Some(node) = self.replica.state().and_then(|state| state.node(node)) {
                    self.fences.begin(Arc::clone(node), incarnation, self.handle.clone());
                }
            }
            Effect::Say { level, text } => say(self.handle.id, level, &text),
            Effect::Applied { .. } | Effect::Installed { .. } | Effect::Halt { .. } => {
                unreachable!("carried out by the caller")
            }
        }
    }
}

fn view_of(replica: &Replica) -> View {
    View { state: replica.state().cloned(), leads: replica.is_leader(), leader: replica.leader() }
}

fn say(member: MemberId, level: Level, text: &str) {
    match level {
        Level::Info => info!(replica = %member, "{text}"),
        Level::Warn => warn!(replica = %member, "{text}"),
        Level::Error => error!(replica = %member, "{text}"),
    }
}
