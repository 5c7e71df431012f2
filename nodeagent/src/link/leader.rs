//! The session with the leader: finds it, opens with id and secret, says what the mind says, hears what it wants.
//! Everybody who might lead is asked at once and the first to say welcome is it: a dead member costs no time.
//! While the leader owes answers to heartbeats, the others are asked already, and the session moves when one of them leads.
//! Errands go to their own thread, and end with the session.
//! Absent: no memory of what was said; the mind repeats it to the next leader.

use std::collections::BTreeSet;
use std::time::Duration;

use cluster::MemberId;
use cluster::agent::{ToAgent, ToLeader};
use decide::Input;
use futures_util::stream::{FuturesUnordered, StreamExt};
use proto::wire::agents_client::AgentsClient;
use proto::wire::{self, from_agent, to_agent};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{LinkError, PAUSE_FIRST, Pause, Pulse, connect, endpoint};
use crate::errands::{Errands, OfSession};

/// From the opening to the welcome.
const WELCOME_WITHIN: Duration = Duration::from_millis(1_000);
/// A leader that owes an answer to a heartbeat for this long may be gone: the others are asked.
const DOUBT_AFTER: Duration = Duration::from_millis(400);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A session that ends sooner was none: whatever ended it is likely to end the next one too.
const SESSION_SHORT: Duration = Duration::from_millis(1_000);
/// The last resort where heartbeats and session end at different machines.
const KEEP_ALIVE_EVERY: Duration = Duration::from_millis(1_000);
const KEEP_ALIVE_WITHIN: Duration = Duration::from_millis(1_500);
/// Words under way; a leader that takes none is no leader.
const WORDS_MAX: usize = 64;
/// A whole desired set with all specs: 10,000 containers of 4 KiB.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// The mind's end of the session.
pub struct Leader {
    orders: mpsc::UnboundedSender<Order>,
    candidates: watch::Sender<BTreeSet<String>>,
    at: watch::Receiver<Option<String>>,
}

enum Order {
    Seek,
    Say(Box<wire::FromAgent>),
}

impl Leader {
    /// Starts the task; `inputs` hears `LeaderConnected`, `FromLeader`, `LeaderLost` and `Leave`.
    pub fn start(
        hello: wire::AgentHello,
        seeds: impl IntoIterator<Item = String>,
        inputs: mpsc::UnboundedSender<Input>,
        pulse: Pulse,
        errands: Errands,
    ) -> Leader {
        let (orders, receiver) = mpsc::unbounded_channel();
        let (candidates, receive_candidates) = watch::channel(seeds.into_iter().collect());
        let (say_where, at) = watch::channel(None);
        let seeker = Seeker { hello, candidates: receive_candidates, pulse };
        tokio::spawn(attend(seeker, receiver, inputs, say_where, errands));
        Leader { orders, candidates, at }
    }

    /// Finds the leader, unless there is a session.
    pub fn seek(&self) {
        let _ = self.orders.send(Order::Seek);
    }

    /// Lost without a session.
    pub fn say(&self, said: &ToLeader) {
        let _ = self.orders.send(Order::Say(Box::new(said.into())));
    }

    /// Where the last session was opened.
    pub fn address(&self) -> Option<String> {
        self.at.borrow().clone()
    }

    /// Who is asked for a session, hints apart.
    pub fn asked(&self) -> Vec<String> {
        self.candidates.borrow().iter().cloned().collect()
    }

    /// Who may lead, besides the seeds and whoever is hinted at.
    pub fn candidates(&self, addresses: impl IntoIterator<Item = String>) {
        self.candidates.send_modify(|known| known.extend(addresses));
    }
}

/// An open session.
struct Session {
    member: MemberId,
    address: String,
    words: mpsc::Sender<wire::FromAgent>,
    /// What the member reads.
    level: u32,
    incoming: Streaming<wire::ToAgent>,
}

/// How one session went on.
enum Next {
    Seek,
    /// Another member leads already.
    Move(Box<Session>),
    /// The agent is ending.
    End,
}

async fn attend(
    seeker: Seeker,
    mut orders: mpsc::UnboundedReceiver<Order>,
    inputs: mpsc::UnboundedSender<Input>,
    say_where: watch::Sender<Option<String>>,
    errands: Errands,
) {
    let mut pause = Pause::new();
    loop {
        match orders.recv().await {
            Some(Order::Seek) => {}
            Some(Order::Say(_)) => continue,
            None => return,
        }
        let mut session = seeker.seek().await;
        loop {
            tracing::info!(peer = session.address, member = %session.member, "session with the leader is open");
            // What was said before this session was said to another.
            while let Ok(order) = orders.try_recv() {
                drop(order);
            }
            say_where.send_replace(Some(session.address.clone()));
            let _ = inputs.send(Input::LeaderConnected { member: session.member });
            let welcome = Instant::now();
            let errands = errands.of_session(session.words.clone());
            let next = hold(&seeker, session, &mut orders, &inputs, &errands).await;
            drop(errands);
            let _ = inputs.send(Input::LeaderLost);
            match next {
                Next::Move(other) => session = other,
                Next::Seek => {
                    sleep(rest(&mut pause, welcome.elapsed())).await;
                    break;
                }
                Next::End => return,
            }
        }
    }
}

/// How long to wait before the next session is sought, by how long the last one `lasted`.
fn rest(pause: &mut Pause, lasted: Duration) -> Duration {
    if lasted < SESSION_SHORT {
        return pause.next();
    }
    *pause = Pause::new();
    Duration::ZERO
}

async fn hold(
    seeker: &Seeker,
    mut session: Box<Session>,
    orders: &mut mpsc::UnboundedReceiver<Order>,
    inputs: &mpsc::UnboundedSender<Input>,
    errands: &OfSession,
) -> Next {
    // The welcome was a sign of life: what was owed before it, as after a cut that has healed, is no reason for doubt.
    let mut look = interval_at(Instant::now() + DOUBT_AFTER, LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let others = seeker.seek_beside(session.address.clone());
    tokio::pin!(others);
    let mut in_doubt = false;
    let error = loop {
        tokio::select! {
            message = session.incoming.message() => match hear(&session.address, message) {
                Ok(Heard::Mind(input)) => drop(inputs.send(*input)),
                Ok(Heard::Errand(errand)) => errands.take(errand),
                Ok(Heard::Cancel(errand)) => errands.cancel(errand),
                Err(error) => break error,
            },
            order = orders.recv() => match order {
                None => return Next::End,
                Some(Order::Seek) => {}
                // Who does not know the word would take it for an agent gone mad.
                Some(Order::Say(word)) if level_of(&word) > session.level => {}
                Some(Order::Say(word)) => {
                    if session.words.try_send(*word).is_err() {
                        break LinkError::Silent { address: session.address };
                    }
                }
            },
            other = &mut others, if in_doubt => return Next::Move(other),
            _ = look.tick() => in_doubt = seeker.pulse.silence(&session.address) > DOUBT_AFTER,
        }
    };
    tracing::warn!(member = %session.member, error = %crate::chain(&error), "session with the leader is over");
    Next::Seek
}

/// The least a member must read to be told this.
fn level_of(word: &wire::FromAgent) -> u32 {
    match word.message {
        Some(from_agent::Message::Finds(_)) => proto::level::SYSTEM,
        _ => 0,
    }
}

/// For whom a message is.
enum Heard {
    Mind(Box<Input>),
    Errand(wire::Errand),
    Cancel(u64),
}

fn hear(address: &str, message: Result<Option<wire::ToAgent>, tonic::Status>) -> Result<Heard, LinkError> {
    let address = || address.to_owned();
    let said = message
        .map_err(|status| LinkError::call("hear from", &address(), status))?
        .ok_or_else(|| LinkError::Closed { address: address() })?;
    match said.message {
        Some(to_agent::Message::PleaseLeave(_)) => Ok(Heard::Mind(Box::new(Input::Leave))),
        Some(to_agent::Message::Errand(errand)) => Ok(Heard::Errand(errand)),
        Some(to_agent::Message::CancelErrand(errand)) => Ok(Heard::Cancel(errand)),
        Some(to_agent::Message::Refused(refused)) => {
            Err(LinkError::Refused { address: address(), reason: refused.reason, text: refused.text })
        }
        Some(to_agent::Message::NotLeader(_)) => Err(LinkError::Closed { address: address() }),
        _ => {
            let said = ToAgent::try_from(said).map_err(|source| LinkError::Words { address: address(), source })?;
            Ok(Heard::Mind(Box::new(Input::FromLeader(said))))
        }
    }
}

struct Seeker {
    hello: wire::AgentHello,
    candidates: watch::Receiver<BTreeSet<String>>,
    pulse: Pulse,
}

/// What one member answered to the opening.
enum Answer {
    Welcome(Box<Session>),
    /// Not it; where it says the leader is.
    Elsewhere(Option<String>),
}

impl Seeker {
    /// The session with whoever leads; asks until there is one.
    async fn seek(&self) -> Box<Session> {
        let mut pause = Pause::new();
        let mut said = String::new();
        loop {
            let asked = self.candidates.borrow().clone();
            let why = match self.ask(asked, None).await {
                Ok(session) => return session,
                Err(Some(error)) => crate::chain(&error),
                Err(None) => "nobody leads".to_owned(),
            };
            // One line per change, not one per try.
            if why != said {
                tracing::warn!(error = why, "no session with a leader; asking on");
                said = why;
            }
            // An election takes a few hundred milliseconds: longer pauses would be added to every failover.
            sleep(pause.next().min(PAUSE_FIRST * 4)).await;
        }
    }

    /// The same among everybody but `address`, which already has a session.
    async fn seek_beside(&self, address: String) -> Box<Session> {
        loop {
            let asked = self.candidates.borrow().clone();
            if let Ok(session) = self.ask(asked, Some(&address)).await {
                return session;
            }
            sleep(PAUSE_FIRST * 2).await;
        }
    }

    /// Asks all at once, and whoever they hint at; never `but`, where a second session would end the first. `Err` with
    /// what stood in the way, a refusal before all else.
    async fn ask(&self, candidates: BTreeSet<String>, but: Option<&String>) -> Result<Box<Session>, Option<LinkError>> {
        let mut asked = candidates;
        let others = asked.iter().filter(|address| Some(*address) != but);
        let mut answers: FuturesUnordered<_> = others.map(|address| self.open(address.clone())).collect();
        asked.extend(but.cloned());
        let mut last = None;
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(Answer::Welcome(session)) => return Ok(session),
                Ok(Answer::Elsewhere(Some(hint))) => {
                    if asked.insert(hint.clone()) {
                        answers.push(self.open(hint));
                    }
                }
                Ok(Answer::Elsewhere(None)) => {}
                Err(error) if matches!(last, Some(LinkError::Refused { .. })) => drop(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last)
    }

    async fn open(&self, address: String) -> Result<Answer, LinkError> {
        let endpoint = endpoint(&address)?
            .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
            .keep_alive_timeout(KEEP_ALIVE_WITHIN)
            .keep_alive_while_idle(true);
        let channel = connect(endpoint, &address).await?;
        let mut client = AgentsClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (words, outgoing) = mpsc::channel(WORDS_MAX);
        let hello = wire::FromAgent { message: Some(from_agent::Message::Hello(self.hello.clone())) };
        words.try_send(hello).expect("the channel is new and has room");
        let opening = async {
            let mut incoming = client
                .session(ReceiverStream::new(outgoing))
                .await
                .map_err(|status| LinkError::call("open session at", &address, status))?
                .into_inner();
            let first =
                incoming.message().await.map_err(|status| LinkError::call("open session at", &address, status))?;
            match first.and_then(|said| said.message) {
                Some(to_agent::Message::Welcome(welcome)) => {
                    let (member, level) = (MemberId(welcome.member), welcome.feature_level);
                    Ok(Answer::Welcome(Box::new(Session { member, address: address.clone(), words, level, incoming })))
                }
                Some(to_agent::Message::NotLeader(not)) => {
                    let hint = Some(not.peer_address).filter(|hint| crate::identity::check_address(hint).is_ok());
                    Ok(Answer::Elsewhere(hint))
                }
                Some(to_agent::Message::Refused(refused)) => {
                    Err(LinkError::Refused { address: address.clone(), reason: refused.reason, text: refused.text })
                }
                _ => Err(LinkError::Closed { address: address.clone() }),
            }
        };
        match timeout(WELCOME_WITHIN, opening).await {
            Ok(answer) => answer,
            Err(_) => Err(LinkError::Silent { address }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_end_at_once_are_reopened_ever_more_slowly() {
        let mut pause = Pause::new();
        let lasted = Duration::from_millis(3);
        let rests: Vec<u128> = (0..6).map(|_| rest(&mut pause, lasted).as_millis()).collect();
        assert_eq!(rests, [50, 100, 200, 400, 800, 800]);
    }

    #[test]
    fn session_that_lasted_is_sought_again_at_once_and_forgives_what_was_before() {
        let mut pause = Pause::new();
        rest(&mut pause, Duration::ZERO);
        rest(&mut pause, Duration::ZERO);
        assert_eq!(rest(&mut pause, SESSION_SHORT), Duration::ZERO);
        assert_eq!(rest(&mut pause, Duration::ZERO), PAUSE_FIRST);
    }
}
