//! The guard's logic as a value, for the simulator: the same rules as the process in `nodeagent/guard`, which has neither
//! allocation nor this crate. In: what the agent puts into the slot, time, and what the sweep found. Out: sweeps, a record,
//! and at K the order of last resort. Source: safety.md, "The guard".
//! Absent: the agent's word; a deadline that passed stays passed *(a2)*.

use cluster::{Incarnation, Moment, Span};
use planted::planted;

use crate::exchange::{Effect, GuardSays};

/// The dead man's switch of one node. Outlives the agent; `slot` is what both see.
#[derive(Clone, Debug)]
pub struct Guardian {
    slot: GuardSays,
    /// While latched: the next sweep, and the time by which everything must have ended.
    next_sweep: Moment,
    due: Moment,
    /// The sweep found nothing left.
    emptied: bool,
    overdue_said: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardInput {
    Tick,
    /// The agent wrote into the slot.
    Deadline {
        incarnation: Incarnation,
        at: Option<Moment>,
    },
    Terms {
        lease: Span,
        kill: Span,
    },
    Latch {
        incarnation: Incarnation,
    },
    /// A sweep saw no live task in the `stop` tree; it is unmounted and its network gone.
    Emptied {
        incarnation: Incarnation,
    },
    /// The record of the end is on disk.
    Recorded {
        incarnation: Incarnation,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardEffect {
    /// Kill the starters, then the `stop` tree, unmount, take the addresses away; answer `Emptied` when nothing is left.
    Sweep {
        incarnation: Incarnation,
    },
    /// Write that the incarnation has ended; answer `Recorded`.
    Record {
        incarnation: Incarnation,
    },
    /// K is over and something still lives: reboot, where the operator allowed it.
    Overdue {
        incarnation: Incarnation,
    },
    /// The slot changed: show it to the agent, if one lives.
    Show(GuardSays),
    Wake {
        at: Moment,
    },
}

/// K before the agent has named one.
const KILL_AT_FIRST: Span = Span::millis(300);
/// Well below every K.
const SWEEP: Span = Span::millis(20);
/// After the end: whatever is born late into the tree of a latched incarnation dies young *(5)*.
const SWEEP_ON: Span = Span::millis(200);

impl Guardian {
    /// Over an empty slot, as on a fresh boot.
    pub fn new() -> Guardian {
        Guardian::restarted(GuardSays { alive: true, ..GuardSays::default() }, Moment(0))
    }

    /// Over the slot a guard before this one left behind. No valid deadline means: end first.
    pub fn restarted(slot: GuardSays, now: Moment) -> Guardian {
        let slot = GuardSays { alive: true, ..slot };
        let mut guardian = Guardian { slot, next_sweep: now, due: now, emptied: slot.ended, overdue_said: false };
        let opened = slot.incarnation != Incarnation(0);
        if opened && (slot.latched || slot.deadline.is_none_or(|at| at <= now)) {
            guardian.latch(now);
        }
        guardian
    }

    pub fn slot(&self) -> GuardSays {
        self.slot
    }

    /// The input that an agent's effect is to its guard, if it is one.
    pub fn input_of(effect: &Effect) -> Option<GuardInput> {
        match *effect {
            Effect::Deadline { incarnation, at } => Some(GuardInput::Deadline { incarnation, at }),
            Effect::GuardTerms { lease, kill } => Some(GuardInput::Terms { lease, kill }),
            Effect::Latch { incarnation } => Some(GuardInput::Latch { incarnation }),
            _ => None,
        }
    }

    pub fn handle(&mut self, now: Moment, input: GuardInput) -> Vec<GuardEffect> {
        let before = self.slot;
        let mut effects = Vec::new();
        self.watch(now);
        match input {
            GuardInput::Tick => {}
            GuardInput::Deadline { incarnation, at } => self.take_deadline(now, incarnation, at),
            GuardInput::Terms { lease, kill } => self.slot = GuardSays { lease, kill, ..self.slot },
            GuardInput::Latch { incarnation } => {
                self.open(incarnation);
                if incarnation == self.slot.incarnation && !self.slot.latched {
                    self.latch(now);
                }
            }
            GuardInput::Emptied { incarnation } => {
                if incarnation == self.slot.incarnation && self.slot.latched && !self.emptied {
                    self.emptied = true;
                    effects.push(GuardEffect::Record { incarnation });
                }
            }
            GuardInput::Recorded { incarnation } => {
                self.slot.ended |= incarnation == self.slot.incarnation && self.emptied;
            }
        }
        self.sweep(now, &mut effects);
        if self.slot != before {
            effects.push(GuardEffect::Show(self.slot));
        }
        effects.extend(self.next().map(|at| GuardEffect::Wake { at }));
        effects
    }

    fn watch(&mut self, now: Moment) {
        if !self.slot.latched && self.slot.deadline.is_some_and(|at| at <= now) {
            if planted!("gap-is-forgiven") && self.slot.deadline.is_some_and(|at| now.since(at) > Span::millis(500)) {
                self.slot.deadline = Some(now + self.slot.lease);
                return;
            }
            self.latch(now);
        }
    }

    /// An incarnation never comes back into the slot, and a new one only when the one before has ended.
    fn open(&mut self, incarnation: Incarnation) {
        let free = self.slot.incarnation == Incarnation(0) || self.slot.ended;
        if free && incarnation > self.slot.incarnation {
            let GuardSays { lease, kill, alive, .. } = self.slot;
            self.slot = GuardSays { incarnation, lease, kill, alive, ..GuardSays::default() };
            (self.emptied, self.overdue_said) = (false, false);
        }
    }

    fn take_deadline(&mut self, now: Moment, incarnation: Incarnation, at: Option<Moment>) {
        self.open(incarnation);
        let too_far = at.is_some_and(|at| at > now + self.slot.lease);
        if incarnation == self.slot.incarnation && !self.slot.latched && !too_far {
            self.slot.deadline = at;
        }
    }

    fn latch(&mut self, now: Moment) {
        self.slot.latched = true;
        self.next_sweep = now;
        // A guard that was never told a K has the one it was configured with.
        let kill = if self.slot.kill == Span::ZERO { KILL_AT_FIRST } else { self.slot.kill };
        self.due = self.slot.deadline.unwrap_or(now).min(now) + kill;
    }

    fn sweep(&mut self, now: Moment, effects: &mut Vec<GuardEffect>) {
        if !self.slot.latched {
            return;
        }
        let incarnation = self.slot.incarnation;
        if self.next_sweep <= now {
            self.next_sweep = now + if self.emptied { SWEEP_ON } else { SWEEP };
            if planted!("guard-sweeps-once") {
                self.next_sweep = now + Span::seconds(3_600);
            }
            effects.push(GuardEffect::Sweep { incarnation });
            if planted!("nobody-looks-what-is-left") && !self.emptied {
                self.emptied = true;
                effects.push(GuardEffect::Record { incarnation });
            }
        }
        if !self.emptied && !self.overdue_said && self.due <= now {
            self.overdue_said = true;
            effects.push(GuardEffect::Overdue { incarnation });
        }
    }

    fn next(&self) -> Option<Moment> {
        match self.slot.latched {
            true => Some(self.next_sweep),
            false => self.slot.deadline,
        }
    }
}

impl Default for Guardian {
    fn default() -> Guardian {
        Guardian::new()
    }
}
