//! What must survive a restart of the agent: who it is, what it must never start again, what it had begun.
//! In: records, one small change each. Out: the journal they add up to. Whoever keeps it writes records in order, says
//! when they are durable and hands the sum to the next agent; the encoding is theirs.
//! Absent: no file and no sync; the agent says which record it waits for.

use std::collections::BTreeMap;

use cluster::{
    BootId, ContainerId, End, Epoch, Generation, Incarnation, LeaseTerms, OnQuorumLoss, Proof, Revision, Span,
};
use serde::{Deserialize, Serialize};

/// The sum of all records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    pub generation: Generation,
    /// The current incarnation or the last; 0 = never registered.
    pub incarnation: Incarnation,
    /// The boot under which `incarnation` was registered.
    pub boot: BootId,
    pub life: Life,
    /// The terms heartbeats name.
    pub terms: LeaseTerms,
    /// The newest revision acted on under `incarnation`; anything older is dropped *(9)*.
    pub revision: Revision,
    /// The highest closed epoch of each container. It and everything below never start again. Forgotten once no believable
    /// set can name it: see `Agent::forget_what_cannot_come`.
    pub closed: BTreeMap<ContainerId, Closed>,
    /// What was begun and is not closed, by container and epoch.
    pub begun: BTreeMap<ContainerId, BTreeMap<Epoch, Begun>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this node has served generation {served} of its cluster and is told to serve {told}, which does not come after it"
)]
pub struct OtherGeneration {
    pub served: Generation,
    pub told: Generation,
}

/// How far the life of `Journal::incarnation` has gone. Moves forward only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Life {
    /// It may send heartbeats.
    Current,
    /// It never sends a heartbeat and starts nothing again *(4, b9)*.
    Latched,
    /// Latched, and over. `None` where it was not ours to prove: the members decide by boot and emptiness.
    Over(Option<Proof>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    pub epoch: Epoch,
    pub end: End,
}

/// Written before the first deed of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    pub incarnation: Incarnation,
    /// Belongs to the epoch; nothing changes it *(7, a4)*.
    pub policy: OnQuorumLoss,
    pub stop_grace: Span,
    /// It was seen running. Without this, an epoch that is gone after a restart never started.
    pub ran: bool,
    /// Its end was ordered: whoever finds it alive goes on ending it, and nothing turns that back *(handover)*. Noted of
    /// `keep` epochs only; no other outlives the incarnation that was told.
    #[serde(default)]
    pub stopping: bool,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    /// A registration was answered.
    Registered {
        generation: Generation,
        incarnation: Incarnation,
        boot: BootId,
        terms: LeaseTerms,
        revision: Revision,
    },
    /// The state names an incarnation as ours that this journal does not know: over from the first, and not ours to prove.
    Adopted {
        incarnation: Incarnation,
        boot: BootId,
    },
    Latched {
        incarnation: Incarnation,
    },
    Over {
        incarnation: Incarnation,
        proof: Option<Proof>,
    },
    Terms {
        terms: LeaseTerms,
    },
    Seen {
        revision: Revision,
    },
    Begun {
        container: ContainerId,
        epoch: Epoch,
        begun: Begun,
    },
    Ran {
        container: ContainerId,
        epoch: Epoch,
    },
    Stopping {
        container: ContainerId,
        epoch: Epoch,
    },
    Closed {
        container: ContainerId,
        epoch: Epoch,
        end: End,
    },
    /// The closed epochs of these are forgotten.
    Forgotten {
        containers: Vec<ContainerId>,
    },
}

impl Journal {
    /// The journal of a node that never registered; `terms` are what it would name.
    pub fn fresh(boot: BootId, terms: LeaseTerms) -> Journal {
        Journal {
            generation: Generation::default(),
            incarnation: Incarnation(0),
            boot,
            life: Life::Over(None),
            terms,
            revision: Revision(0),
            closed: BTreeMap::new(),
            begun: BTreeMap::new(),
        }
    }

    /// Errs where a node that keeps this journal cannot serve `generation`: it has served a later one, or another of the
    /// same number, and what that gave it is unknown to this one.
    pub fn admits(&self, generation: Generation) -> Result<(), OtherGeneration> {
        let fits = self.generation == generation || self.generation.number < generation.number;
        if fits { Ok(()) } else { Err(OtherGeneration { served: self.generation, told: generation }) }
    }

    /// Adds one record. Total: a record that came twice, or for an incarnation that is no longer the last, changes
    /// nothing.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Registered { generation, incarnation, boot, terms, revision } => {
                self.generation = *generation;
                self.incarnation = *incarnation;
                self.boot = *boot;
                self.life = Life::Current;
                self.terms = *terms;
                self.revision = *revision;
            }
            Record::Adopted { incarnation, boot } => {
                self.incarnation = *incarnation;
                self.boot = *boot;
                self.life = Life::Over(None);
            }
            Record::Latched { incarnation } => {
                if *incarnation == self.incarnation && self.life == Life::Current {
                    self.life = Life::Latched;
                }
            }
            Record::Over { incarnation, proof } => {
                if *incarnation == self.incarnation {
                    self.life = Life::Over(proof.clone());
                }
            }
            Record::Terms { terms } => self.terms = *terms,
            Record::Seen { revision } => self.revision = self.revision.max(*revision),
            Record::Begun { container, epoch, begun } => {
                self.begun.entry(*container).or_default().insert(*epoch, *begun);
            }
            Record::Ran { container, epoch } => {
                if let Some(begun) = self.begun_mut(*container, *epoch) {
                    begun.ran = true;
                }
            }
            Record::Stopping { container, epoch } => {
                if let Some(begun) = self.begun_mut(*container, *epoch) {
                    begun.stopping = true;
                }
            }
            Record::Closed { container, epoch, end } => self.close(*container, *epoch, end),
            Record::Forgotten { containers } => {
                for container in containers {
                    self.closed.remove(container);
                }
            }
        }
    }

    fn close(&mut self, container: ContainerId, epoch: Epoch, end: &End) {
        let highest = self.closed_epoch(container);
        if highest.is_none_or(|highest| highest < epoch) {
            self.closed.insert(container, Closed { epoch, end: end.clone() });
        }
        if let Some(epochs) = self.begun.get_mut(&container) {
            epochs.remove(&epoch);
            if epochs.is_empty() {
                self.begun.remove(&container);
            }
        }
    }

    /// The highest epoch of `container` known to be over.
    pub fn closed_epoch(&self, container: ContainerId) -> Option<Epoch> {
        self.closed.get(&container).map(|closed| closed.epoch)
    }

    pub fn is_closed(&self, container: ContainerId, epoch: Epoch) -> bool {
        self.closed_epoch(container).is_some_and(|highest| epoch <= highest)
    }

    /// By container, then epoch, ascending.
    pub fn begun_epochs(&self) -> Vec<((ContainerId, Epoch), Begun)> {
        let epochs = |(container, epochs): (&ContainerId, &BTreeMap<Epoch, Begun>)| {
            let container = *container;
            epochs.iter().map(|(epoch, begun)| ((container, *epoch), *begun)).collect::<Vec<_>>()
        };
        self.begun.iter().flat_map(epochs).collect()
    }

    pub fn begun(&self, container: ContainerId, epoch: Epoch) -> Option<&Begun> {
        self.begun.get(&container)?.get(&epoch)
    }

    fn begun_mut(&mut self, container: ContainerId, epoch: Epoch) -> Option<&mut Begun> {
        self.begun.get_mut(&container)?.get_mut(&epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::Profile;

    #[test]
    fn the_highest_closed_epoch_never_goes_back() {
        let mut journal = Journal::fresh(BootId(1), Profile::Default.terms());
        let container = ContainerId(1);
        for (epoch, highest) in [(5, 5), (7, 7), (6, 7), (7, 7), (8, 8)] {
            journal.apply(&Record::Closed { container, epoch: Epoch(epoch), end: End::Stopped });
            assert_eq!(journal.closed_epoch(container), Some(Epoch(highest)));
        }
        assert!(journal.is_closed(container, Epoch(1)) && !journal.is_closed(container, Epoch(9)));
    }

    #[test]
    fn a_late_latch_or_end_of_another_incarnation_changes_nothing() {
        let mut journal = Journal::fresh(BootId(1), Profile::Default.terms());
        journal.apply(&Record::Registered {
            generation: Generation::numbered(1),
            incarnation: Incarnation(9),
            boot: BootId(1),
            terms: Profile::Default.terms(),
            revision: Revision(9),
        });
        let current = journal.clone();
        journal.apply(&Record::Latched { incarnation: Incarnation(5) });
        journal.apply(&Record::Over { incarnation: Incarnation(5), proof: Some(Proof::Guard) });
        assert_eq!(journal, current);
        journal.apply(&Record::Over { incarnation: Incarnation(9), proof: Some(Proof::Guard) });
        journal.apply(&Record::Latched { incarnation: Incarnation(9) });
        assert_eq!(journal.life, Life::Over(Some(Proof::Guard)), "life moves forward only");
    }
}
