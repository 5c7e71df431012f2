//! Heartbeats on their way to the replica's thread. Each alone would wake it, and its answer then wakes the stream it
//! leaves by; of ten thousand a second that is most of what they cost. So they are taken in together, at most so often.
//! In: heartbeats from the streams. Out: all that came, at once for the first after a silence, else when they are due.

use std::sync::{Arc, Mutex, PoisonError};

use cluster::{Moment, Span};
use replica::Input;

/// Between two looks while they come thickly. A lease counts from when a heartbeat was sent, so that this shortens the
/// shortest by a thousandth.
const EVERY: Span = Span(1_500_000);

/// What lies ready.
#[derive(Default)]
pub struct Beats(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    beats: Vec<Input>,
    /// The replica's thread knows, or looks by itself when they are due.
    expected: bool,
}

impl Beats {
    /// Whether the replica's thread must be called.
    pub fn put(&self, beat: Input) -> bool {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.beats.push(beat);
        !std::mem::replace(&mut waiting.expected, true)
    }
}

/// When the replica's thread looks at them.
pub struct Pulse {
    beats: Arc<Beats>,
    last: Moment,
    due: Option<Moment>,
    /// Of the last look, to be filled again.
    spare: Vec<Input>,
}

impl Pulse {
    pub fn new(beats: Arc<Beats>) -> Pulse {
        Pulse { beats, last: Moment(0), due: None, spare: Vec::new() }
    }

    /// Some lie ready.
    pub fn called(&mut self, now: Moment) {
        self.due = self.due.or(Some(now.max(self.last + EVERY)));
    }

    /// When to look, if not called before.
    pub fn due(&self) -> Option<Moment> {
        self.due
    }

    /// All that lie ready, if they are due. As long as there are some each time nobody calls.
    pub fn take(&mut self, now: Moment) -> std::vec::Drain<'_, Input> {
        if self.due.is_some_and(|due| due <= now) {
            let mut waiting = self.beats.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut waiting.beats, &mut self.spare);
            waiting.expected = !self.spare.is_empty();
            self.last = now;
            self.due = waiting.expected.then_some(now + EVERY);
        }
        self.spare.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use cluster::MemberId;

    use super::*;

    fn beat(number: u64) -> Input {
        Input::PeerUnreachable { peer: MemberId(number) }
    }

    fn taken(pulse: &mut Pulse, now: Moment) -> Vec<u64> {
        let number = |input| match input {
            Input::PeerUnreachable { peer } => peer.0,
            other => panic!("{other:?}"),
        };
        pulse.take(now).map(number).collect()
    }

    #[test]
    fn first_after_a_silence_is_taken_at_once_and_those_behind_it_together() {
        let beats = Arc::new(Beats::default());
        let mut pulse = Pulse::new(Arc::clone(&beats));
        let start = Moment(1_000_000_000);
        assert!(taken(&mut pulse, start).is_empty() && pulse.due().is_none());
        assert!(beats.put(beat(1)), "it has to be called");
        pulse.called(start);
        assert_eq!(taken(&mut pulse, start), [1]);
        let next = pulse.due().expect("it looks again by itself");
        assert!((2..5).all(|number| !beats.put(beat(number))), "nobody has to call");
        assert!(taken(&mut pulse, next - Span(1)).is_empty(), "not yet");
        assert_eq!(taken(&mut pulse, next), [2, 3, 4]);
        assert!(taken(&mut pulse, next + EVERY).is_empty() && pulse.due().is_none(), "silence");
        assert!(beats.put(beat(5)));
        pulse.called(next + EVERY);
        assert_eq!(pulse.due(), Some(next + EVERY + EVERY), "so soon after the last look they wait for company");
        assert_eq!(taken(&mut pulse, next + EVERY + EVERY), [5]);
    }
}
