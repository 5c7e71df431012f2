//! The sessions of agents that are open here, for what is asked of an agent beside the state: to leave, to run an errand.
//! In: who opens and closes; asks; words about errands. Out: the asks, to the session's stream; the words, to whoever waits.
//! Leader-local: it ends with the session, and whoever waits is told. Absent: no memory of what was asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cluster::NodeId;
use proto::wire::errand_word::Word;
use proto::wire::{self, errand, to_agent};
use tokio::sync::mpsc;

/// Asks that may wait for one agent: it hears them at once, and works on them in order.
const ASKS_MAX: usize = 32;
/// Words that may wait for somebody who is slow; the next ones about progress are dropped.
const WORDS_MAX: usize = 16;

/// The sessions that are open.
#[derive(Clone, Default)]
pub struct Sessions(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    next_errand: u64,
    next_session: u64,
    open: HashMap<NodeId, Open>,
}

struct Open {
    /// Tells this session of a node from the next one.
    number: u64,
    /// The feature level the agent said it is of.
    level: u32,
    asks: mpsc::Sender<to_agent::Message>,
    errands: BTreeMap<u64, mpsc::Sender<Word>>,
}

/// Why an agent was not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unasked {
    NoSession,
    Busy,
    /// Its version does not know errands, and would take one for a leader gone mad.
    TooOld,
}

impl Sessions {
    pub fn has(&self, node: NodeId) -> bool {
        self.table().open.contains_key(&node)
    }

    /// Whether there was an agent to ask.
    pub fn ask_to_leave(&self, node: NodeId) -> bool {
        let leave = to_agent::Message::PleaseLeave(wire::Nothing {});
        self.table().open.get(&node).is_some_and(|open| open.asks.try_send(leave).is_ok())
    }

    /// Asks the agent of `node` to do `what`. Called off when what is given back is dropped.
    pub fn errand(&self, node: NodeId, what: errand::What) -> Result<Awaited, Unasked> {
        let mut table = self.table();
        table.next_errand += 1;
        let id = table.next_errand;
        let open = table.open.get_mut(&node).ok_or(Unasked::NoSession)?;
        if open.level < proto::level::TEMPLATES {
            return Err(Unasked::TooOld);
        }
        let order = to_agent::Message::Errand(wire::Errand { id, what: Some(what) });
        open.asks.try_send(order).map_err(|_| Unasked::Busy)?;
        let (words, heard) = mpsc::channel(WORDS_MAX);
        open.errands.insert(id, words);
        Ok(Awaited { sessions: self.clone(), node, id, heard })
    }

    /// A session of `node` opens; one that was there is another's from now on, and who waited for it is told.
    pub fn enter(&self, node: NodeId, level: u32) -> Entered {
        let mut table = self.table();
        table.next_session += 1;
        let number = table.next_session;
        let (asks, receiver) = mpsc::channel(ASKS_MAX);
        table.open.insert(node, Open { number, level, asks, errands: BTreeMap::new() });
        Entered { sessions: self.clone(), node, number, asks: receiver }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The agent's end: what it is asked, until this is dropped.
pub struct Entered {
    sessions: Sessions,
    node: NodeId,
    number: u64,
    pub asks: mpsc::Receiver<to_agent::Message>,
}

impl Entered {
    /// A word about an errand. Nobody may wait for it any more.
    pub fn said(&self, said: wire::ErrandWord) {
        let Some(word) = said.word else { return };
        let mut table = self.sessions.table();
        let Some(open) = table.open.get_mut(&self.node).filter(|open| open.number == self.number) else { return };
        if matches!(word, Word::Progress(_)) {
            // The next one says more.
            if let Some(words) = open.errands.get(&said.errand) {
                let _ = words.try_send(word);
            }
        } else if let Some(words) = open.errands.remove(&said.errand) {
            // It must arrive however slow the listener is, and no lock is held meanwhile.
            tokio::spawn(async move { words.send(word).await });
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut table = self.sessions.table();
        if table.open.get(&self.node).is_some_and(|open| open.number == self.number) {
            table.open.remove(&self.node);
        }
    }
}

/// An errand somebody waits for.
pub struct Awaited {
    sessions: Sessions,
    node: NodeId,
    id: u64,
    heard: mpsc::Receiver<Word>,
}

impl Awaited {
    /// The next word. `None` when the session is over.
    pub async fn next(&mut self) -> Option<Word> {
        self.heard.recv().await
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let mut table = self.sessions.table();
        let Some(open) = table.open.get_mut(&self.node) else { return };
        if open.errands.remove(&self.id).is_some() {
            // An agent that hears nothing more loses its session, and every errand with it.
            let _ = open.asks.try_send(to_agent::Message::CancelErrand(self.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);
    use proto::FEATURE_LEVEL;

    fn import() -> errand::What {
        errand::What::ImportTemplate(wire::ImportTemplate::default())
    }

    fn progress(errand: u64, bytes: u64) -> wire::ErrandWord {
        let progress = wire::ErrandProgress { bytes, ..wire::ErrandProgress::default() };
        wire::ErrandWord { errand, word: Some(Word::Progress(progress)) }
    }

    fn failed(errand: u64) -> wire::ErrandWord {
        wire::ErrandWord { errand, word: Some(Word::Failed(wire::ErrandFailed::default())) }
    }

    #[tokio::test]
    async fn words_reach_whoever_waits_and_the_last_one_always_does() {
        let sessions = Sessions::default();
        assert_eq!(sessions.errand(NODE, import()).map(drop), Err(Unasked::NoSession));
        let mut entered = sessions.enter(NODE, FEATURE_LEVEL);
        let mut awaited = sessions.errand(NODE, import()).expect("is open");
        let Some(to_agent::Message::Errand(order)) = entered.asks.recv().await else { panic!("no errand") };
        for bytes in 0..100 {
            entered.said(progress(order.id, bytes));
        }
        entered.said(failed(order.id));
        let mut heard = Vec::new();
        while let Some(word) = awaited.next().await {
            heard.push(word);
        }
        assert!(heard.len() <= WORDS_MAX + 1, "{} words", heard.len());
        assert!(matches!(heard.last(), Some(Word::Failed(_))));
    }

    #[tokio::test]
    async fn agents_that_do_not_know_errands_are_sent_none() {
        let sessions = Sessions::default();
        let mut entered = sessions.enter(NODE, proto::level::TEMPLATES - 1);
        assert_eq!(sessions.errand(NODE, import()).map(drop), Err(Unasked::TooOld));
        assert!(entered.asks.try_recv().is_err());
        assert!(sessions.ask_to_leave(NODE), "that they have known for longer");
    }

    #[tokio::test]
    async fn an_errand_nobody_waits_for_is_called_off_once() {
        let sessions = Sessions::default();
        let mut entered = sessions.enter(NODE, FEATURE_LEVEL);
        let awaited = sessions.errand(NODE, import()).expect("is open");
        let id = awaited.id;
        drop(awaited);
        assert!(matches!(entered.asks.recv().await, Some(to_agent::Message::Errand(order)) if order.id == id));
        assert!(matches!(entered.asks.recv().await, Some(to_agent::Message::CancelErrand(gone)) if gone == id));
        let mut done = sessions.errand(NODE, import()).expect("is open");
        entered.said(failed(done.id));
        assert!(done.next().await.is_some());
        drop(done);
        assert!(matches!(entered.asks.try_recv(), Ok(to_agent::Message::Errand(_))));
        assert!(entered.asks.try_recv().is_err(), "what is done is not called off");
    }

    #[tokio::test]
    async fn a_session_that_ends_ends_its_errands_and_not_those_of_the_next() {
        let sessions = Sessions::default();
        let first = sessions.enter(NODE, FEATURE_LEVEL);
        let mut of_first = sessions.errand(NODE, import()).expect("is open");
        let second = sessions.enter(NODE, FEATURE_LEVEL);
        assert_eq!(of_first.next().await, None);
        let mut of_second = sessions.errand(NODE, import()).expect("is open");
        first.said(failed(of_second.id));
        drop(first);
        assert!(sessions.has(NODE), "the later session keeps its place");
        second.said(failed(of_second.id));
        assert!(of_second.next().await.is_some());
        drop(second);
        assert!(!sessions.has(NODE));
    }
}
