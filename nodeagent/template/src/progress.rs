//! How far an import is, told at a bounded rate; what it is told to may call it off.

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::error::ImportError;

/// Often enough for a bar that moves, seldom enough for any line.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// What an import is at, in this order; a phase may have nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// From a registry to the storage.
    Fetching,
    /// From the source into a tree.
    Reading,
    /// The tree is read back and its digest made.
    Checking,
    /// Made durable and put in its place.
    Keeping,
}

/// How far it is. Bytes are those of the source while fetching and reading, those of the tree while checking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    pub bytes: u64,
    /// 0 where nobody knows.
    pub bytes_total: u64,
    pub entries: u64,
}

type Told<'a> = dyn FnMut(&Progress) -> ControlFlow<()> + 'a;

/// Counts, and tells.
pub struct Meter<'a> {
    tell: RefCell<&'a mut Told<'a>>,
    now: Cell<Progress>,
    told: Cell<Instant>,
    called_off: Cell<bool>,
}

impl<'a> Meter<'a> {
    pub fn new(tell: &'a mut Told<'a>) -> Meter<'a> {
        let now = Progress { phase: Phase::Fetching, bytes: 0, bytes_total: 0, entries: 0 };
        Meter {
            tell: RefCell::new(tell),
            now: Cell::new(now),
            told: Cell::new(Instant::now()),
            called_off: Cell::new(false),
        }
    }

    /// The next phase begins; told at once. `bytes_total` is 0 where nobody knows.
    pub fn phase(&self, phase: Phase, bytes_total: u64) -> Result<(), ImportError> {
        self.now.set(Progress { phase, bytes: 0, bytes_total, entries: 0 });
        self.say();
        self.go_on()
    }

    pub fn bytes(&self, bytes: u64) {
        let now = self.now.get();
        self.now.set(Progress { bytes: now.bytes + bytes, ..now });
        self.say_sometimes();
    }

    pub fn entry(&self) {
        let now = self.now.get();
        self.now.set(Progress { entries: now.entries + 1, ..now });
        self.say_sometimes();
    }

    /// Errs once it was called off.
    pub fn go_on(&self) -> Result<(), ImportError> {
        if self.called_off.get() { Err(ImportError::CalledOff) } else { Ok(()) }
    }

    fn say_sometimes(&self) {
        if self.told.get().elapsed() >= TELL_EVERY {
            self.say();
        }
    }

    fn say(&self) {
        self.told.set(Instant::now());
        if (self.tell.borrow_mut())(&self.now.get()).is_break() {
            self.called_off.set(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_told_at_once_and_the_rest_seldom() {
        let mut told = Vec::new();
        let mut tell = |progress: &Progress| {
            told.push(progress.phase);
            ControlFlow::Continue(())
        };
        let meter = Meter::new(&mut tell);
        meter.phase(Phase::Reading, 0).expect("goes on");
        for _ in 0..10_000 {
            meter.bytes(1);
            meter.entry();
        }
        meter.phase(Phase::Checking, 0).expect("goes on");
        assert_eq!((told.first(), told.last()), (Some(&Phase::Reading), Some(&Phase::Checking)));
        assert!(told.len() < 100, "{} times", told.len());
    }

    #[test]
    fn who_is_told_can_call_it_off() {
        let mut tell = |_: &Progress| ControlFlow::Break(());
        let meter = Meter::new(&mut tell);
        assert!(matches!(meter.phase(Phase::Reading, 0), Err(ImportError::CalledOff)));
        assert!(meter.go_on().is_err());
    }
}
