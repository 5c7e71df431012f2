//! How everybody else reaches the replica: propose, read, watch, and the streams of agents.
//! In: calls from any task. Out: answers, and the state as last published. Cheap to clone.
//! No lock is held across a wait; one call costs one message to the replica's thread and one answer back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use cluster::agent::{Heartbeat, HeartbeatReply, ToAgent, ToLeader};
use cluster::{Applied, Command, Generation, MemberId, NodeId, RequestId, State};
use record::LogPoint;
use replica::{Answer, Change, Input, Link, ProposeError, Status};
use tokio::sync::{mpsc as streams, oneshot, watch};

use super::beats::Beats;
use super::outlet::Outlet;
use crate::events::Events;

/// Calls that may wait for the replica at once; beyond, new ones are refused as overload.
const WAITING_MAX: usize = 32_768;

/// What the replica's thread takes in.
pub(super) enum Letter {
    Fact(Input),
    Propose {
        request: Option<RequestId>,
        command: Command,
        reply: Reply,
    },
    Read {
        reply: oneshot::Sender<Answer>,
    },
    ChangeMembership {
        change: Change,
        reply: oneshot::Sender<Answer>,
    },
    TransferLeader {
        to: Option<MemberId>,
        reply: oneshot::Sender<Answer>,
    },
    OpenHeartbeats {
        link: Link,
        out: Outlet<HeartbeatReply>,
    },
    OpenSession {
        link: Link,
        node: NodeId,
        generation: Generation,
        out: Outlet<ToAgent>,
    },
    /// Heartbeats lie in [`Beats`].
    Beats,
    CloseLink {
        link: Link,
    },
    /// How far the log is durable, as of now: what a handshake must not say too low.
    Durable {
        reply: oneshot::Sender<LogPoint>,
    },
    Stop,
}

/// Where the answer of a proposal goes.
pub(super) enum Reply {
    One(oneshot::Sender<Answer>),
    /// One of many on a stream, told apart by its number.
    Many(streams::UnboundedSender<(u64, Answer)>, u64),
}

impl Reply {
    /// Nobody may be there to hear it any more; that is their choice.
    pub fn send(self, answer: Answer) {
        match self {
            Reply::One(reply) => drop(reply.send(answer)),
            Reply::Many(reply, number) => drop(reply.send((number, answer))),
        }
    }
}

/// What a member shows of itself without being asked, as of the last turn.
#[derive(Clone, Debug)]
pub struct View {
    /// `None` for a newcomer that waits for its first snapshot.
    pub state: Option<State>,
    /// Leads, and has applied an entry of its own term: nothing acknowledged before is missing in `state`.
    pub leads: bool,
    pub leader: Option<MemberId>,
}

#[derive(Clone)]
pub struct Handle {
    pub id: MemberId,
    pub events: Arc<Events>,
    letters: mpsc::Sender<Letter>,
    waiting: Arc<AtomicUsize>,
    view: watch::Receiver<Arc<View>>,
    status: watch::Receiver<Arc<Status>>,
    links: Arc<AtomicU64>,
    reach: Reach,
    levels: Levels,
    beats: Arc<Beats>,
}

/// The feature level that each member said it reads.
#[derive(Clone, Default)]
pub struct Levels(Arc<Mutex<BTreeMap<MemberId, u32>>>);

impl Levels {
    pub fn heard(&self, member: MemberId, level: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(member, level);
    }

    /// What every member of `state` reads. One that was not heard of holds nobody up: if it is of an older version, it
    /// stops when it comes, and says so.
    pub fn common(&self, state: &State) -> u32 {
        let levels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = state.members().filter_map(|member| levels.get(&member.id).copied());
        heard.fold(proto::FEATURE_LEVEL, u32::min)
    }

    /// Errs with who could not read what is of that level.
    pub fn ensure(&self, state: &State, level: u32) -> Result<(), ProposeError> {
        let levels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reads = |member: &MemberId| levels.get(member).is_none_or(|reads| *reads >= level);
        match state.members().find(|member| !reads(&member.id)) {
            None => Ok(()),
            Some(older) => Err(ProposeError::Refused(format!(
                "{} is of an older version, which cannot read this: upgrade it first, or remove it",
                older.name
            ))),
        }
    }
}

/// Which members this one has a living stream to.
#[derive(Clone, Default)]
pub struct Reach(Arc<Mutex<BTreeMap<MemberId, Arc<AtomicBool>>>>);

impl Reach {
    pub(super) fn learn(&self, members: BTreeMap<MemberId, Arc<AtomicBool>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = members;
    }

    fn reaches(&self, member: MemberId) -> bool {
        let members = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        members.get(&member).is_some_and(|up| up.load(Ordering::Relaxed))
    }
}

/// The replica's thread has ended; nothing more will be answered.
fn gone() -> ProposeError {
    ProposeError::Lost
}

impl Handle {
    pub(super) fn new(
        id: MemberId,
        events: Arc<Events>,
        letters: mpsc::Sender<Letter>,
        waiting: Arc<AtomicUsize>,
        view: watch::Receiver<Arc<View>>,
        status: watch::Receiver<Arc<Status>>,
    ) -> Handle {
        let (links, reach, levels, beats) = (Arc::default(), Reach::default(), Levels::default(), Arc::default());
        Handle { id, events, letters, waiting, view, status, links, reach, levels, beats }
    }

    /// Puts `command` into the log and waits until it is applied here.
    /// Errs with `Lost` when the outcome is unknown: ask again with the same request id.
    /// With `Refused` when a member is of a version that cannot read it.
    pub async fn propose(&self, request: Option<RequestId>, command: Command) -> Result<Applied, ProposeError> {
        self.admit()?;
        self.readable(&command)?;
        let (reply, answer) = oneshot::channel();
        self.post(Letter::Propose { request, command, reply: Reply::One(reply) });
        applied(answer.await.map_err(|_| gone())?)
    }

    /// The same without waiting: the answer comes on `answers` under `number`.
    pub fn submit(
        &self,
        request: Option<RequestId>,
        command: Command,
        answers: &streams::UnboundedSender<(u64, Answer)>,
        number: u64,
    ) -> Result<(), ProposeError> {
        self.admit()?;
        self.readable(&command)?;
        self.post(Letter::Propose { request, command, reply: Reply::Many(answers.clone(), number) });
        Ok(())
    }

    /// A state at least as new as everything acknowledged anywhere before this call. Leader only.
    pub async fn read(&self) -> Result<State, ProposeError> {
        self.admit()?;
        let (reply, answer) = oneshot::channel();
        self.post(Letter::Read { reply });
        match answer.await.map_err(|_| gone())? {
            Answer::State(state) => Ok(*state),
            Answer::Failed(error) => Err(error),
            Answer::Applied(_) | Answer::Done => Err(ProposeError::Refused("not the answer to a read".into())),
        }
    }

    /// Changes who votes; done when the joint configuration is left again.
    pub async fn change_membership(&self, change: Change) -> Result<(), ProposeError> {
        self.admit()?;
        let (reply, answer) = oneshot::channel();
        self.post(Letter::ChangeMembership { change, reply });
        done(answer.await.map_err(|_| gone())?)
    }

    pub async fn transfer_leader(&self, to: Option<MemberId>) -> Result<(), ProposeError> {
        self.admit()?;
        let (reply, answer) = oneshot::channel();
        self.post(Letter::TransferLeader { to, reply });
        done(answer.await.map_err(|_| gone())?)
    }

    /// How far the log is durable, asked of the replica itself; `None` when it has ended.
    pub async fn durable(&self) -> Option<LogPoint> {
        let (reply, answer) = oneshot::channel();
        self.post(Letter::Durable { reply });
        answer.await.ok()
    }

    /// The state as last published: everything this member acknowledged is in it.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// Changes with every turn that changed anything.
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// At most a tenth of a second old; anew at once when term, role or leader change.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status.borrow())
    }

    /// Changes at once when term, role or leader do.
    pub fn statuses(&self) -> watch::Receiver<Arc<Status>> {
        self.status.clone()
    }

    /// Whether streams to `member` are up; always to itself. A frozen peer is noticed within four seconds.
    pub fn reaches(&self, member: MemberId) -> bool {
        member == self.id || self.reach.reaches(member)
    }

    /// What members said they read.
    pub fn levels(&self) -> &Levels {
        &self.levels
    }

    fn readable(&self, command: &Command) -> Result<(), ProposeError> {
        let view = self.view.borrow();
        let Some(state) = view.state.as_ref().filter(|_| view.leads) else { return Ok(()) };
        self.levels.ensure(state, proto::level::of_command(command))
    }

    pub(super) fn reach(&self) -> &Reach {
        &self.reach
    }

    pub(super) fn beats(&self) -> &Arc<Beats> {
        &self.beats
    }

    /// Something that happened.
    pub fn tell(&self, fact: Input) {
        self.post(Letter::Fact(fact));
    }

    /// A stream of heartbeats opens: answers go to `out`, and are dropped while it is full.
    pub fn open_heartbeats(&self, out: Outlet<HeartbeatReply>) -> OpenLink {
        let link = self.next_link();
        self.post(Letter::OpenHeartbeats { link, out });
        OpenLink { link, handle: self.clone() }
    }

    /// An agent's session opens. It ends when `out` is dropped by the replica's thread, or with the link.
    pub fn open_session(&self, node: NodeId, generation: Generation, out: Outlet<ToAgent>) -> OpenLink {
        let link = self.next_link();
        self.post(Letter::OpenSession { link, node, generation, out });
        OpenLink { link, handle: self.clone() }
    }

    pub(super) fn stop(&self) {
        self.post(Letter::Stop);
    }

    fn next_link(&self) -> Link {
        Link(self.links.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn admit(&self) -> Result<(), ProposeError> {
        if self.waiting.load(Ordering::Relaxed) >= WAITING_MAX { Err(ProposeError::Overloaded) } else { Ok(()) }
    }

    /// A thread that has ended drops what it is sent, and with it the reply channels inside.
    fn post(&self, letter: Letter) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.letters.send(letter).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A stream of an agent, known to the replica until this is dropped.
pub struct OpenLink {
    link: Link,
    handle: Handle,
}

impl OpenLink {
    pub fn heartbeat(&self, from: NodeId, heartbeat: Heartbeat) {
        if self.handle.beats.put(Input::Heartbeat { link: self.link, from, heartbeat }) {
            self.handle.post(Letter::Beats);
        }
    }

    pub fn said(&self, message: ToLeader) {
        self.handle.tell(Input::AgentSaid { link: self.link, message });
    }
}

impl Drop for OpenLink {
    fn drop(&mut self) {
        self.handle.post(Letter::CloseLink { link: self.link });
    }
}

/// What the answer to a proposal says.
pub fn applied(answer: Answer) -> Result<Applied, ProposeError> {
    match answer {
        Answer::Applied(applied) => Ok(applied),
        Answer::Failed(error) => Err(error),
        Answer::State(_) | Answer::Done => Err(ProposeError::Refused("not the answer to a proposal".into())),
    }
}

fn done(answer: Answer) -> Result<(), ProposeError> {
    match answer {
        Answer::Done | Answer::Applied(_) => Ok(()),
        Answer::Failed(error) => Err(error),
        Answer::State(_) => Err(ProposeError::Refused("not the answer to a change of membership".into())),
    }
}

#[cfg(test)]
mod tests {
    use cluster::{Bootstrap, ClusterId, Member, Name, Revision, SecretHash, Settings};

    use super::*;

    fn cluster_of(members: &[u64]) -> State {
        let member = |id: &u64| Member {
            id: MemberId(*id),
            name: Name::new(&format!("m-{id}")).expect("a name"),
            peer_address: "".into(),
            api_address: "".into(),
            secret: SecretHash(0),
            added: Revision(0),
        };
        let members = members.iter().map(member).collect();
        State::bootstrap(Bootstrap { cluster: ClusterId(1), settings: Settings::default(), members })
    }

    #[test]
    fn nothing_is_written_that_a_member_said_it_cannot_read() {
        let (levels, state) = (Levels::default(), cluster_of(&[1, 2]));
        let newest = proto::FEATURE_LEVEL;
        // One nobody has heard of holds nobody up.
        assert_eq!((levels.ensure(&state, newest), levels.common(&state)), (Ok(()), newest));
        levels.heard(MemberId(2), newest - 1);
        let Err(ProposeError::Refused(text)) = levels.ensure(&state, newest) else { panic!("not refused") };
        assert!(text.starts_with("m-2 is of an older version"), "{text}");
        assert_eq!((levels.ensure(&state, newest - 1), levels.common(&state)), (Ok(()), newest - 1));
        // Upgraded, or taken out.
        assert_eq!(levels.ensure(&cluster_of(&[1]), newest), Ok(()));
        levels.heard(MemberId(2), newest);
        assert_eq!((levels.ensure(&state, newest), levels.common(&state)), (Ok(()), newest));
    }
}
