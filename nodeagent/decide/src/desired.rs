//! What the leader wants of this node, as last accepted. In: desired sets, whole. Out: the items and what it takes to
//! carry them out. Decides only what to believe: another generation's or incarnation's set and any older one is dropped
//! *(9)*. Absent: what really runs, and any deed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use cluster::agent::{DesiredItem, DesiredSet, SpecDigest, WantedSpec};
use cluster::{ContainerId, Generation, Incarnation, LeaseTerms, Revision};
use planted::planted;

use crate::journal::{Journal, Life};

#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// `None` until a set of this incarnation was accepted by this agent: then nothing is wanted and nothing unwanted.
    accepted: Option<Accepted>,
}

#[derive(Clone, Debug)]
struct Accepted {
    terms: LeaseTerms,
    items: BTreeMap<ContainerId, DesiredItem>,
    /// By digest; exactly what `items` refer to, as far as it is known.
    specs: BTreeMap<SpecDigest, Arc<WantedSpec>>,
}

/// Why a set was not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    OtherGeneration { theirs: Generation },
    OtherIncarnation { theirs: Incarnation },
    Older { revision: Revision, than: Revision },
}

impl Desired {
    /// Replaces everything by `set`, or says why not. Specs that came with earlier sets are kept while referred to.
    pub fn accept(&mut self, set: &DesiredSet, journal: &Journal) -> Result<(), Dropped> {
        if set.generation != journal.generation {
            return Err(Dropped::OtherGeneration { theirs: set.generation });
        }
        let other = set.incarnation != journal.incarnation;
        let believed = other && planted!("desired-set-of-another-incarnation");
        if other && !believed || journal.life != Life::Current {
            return Err(Dropped::OtherIncarnation { theirs: set.incarnation });
        }
        if set.revision < journal.revision && !believed && !planted!("desired-set-out-of-order") {
            return Err(Dropped::Older { revision: set.revision, than: journal.revision });
        }
        let mut known = self.accepted.take().map(|accepted| accepted.specs).unwrap_or_default();
        known.extend(set.specs.iter().cloned());
        let items: BTreeMap<_, _> = set.items.iter().map(|item| (item.container, *item)).collect();
        let specs = items.values().filter_map(|item| Some((item.spec, known.get(&item.spec)?.clone()))).collect();
        self.accepted = Some(Accepted { terms: set.terms, items, specs });
        Ok(())
    }

    /// Forgets everything: it belonged to an incarnation that is over.
    pub fn clear(&mut self) {
        self.accepted = None;
    }

    pub fn is_known(&self) -> bool {
        self.accepted.is_some()
    }

    pub fn terms(&self) -> Option<LeaseTerms> {
        self.accepted.as_ref().map(|accepted| accepted.terms)
    }

    /// By container, ascending.
    pub fn items(&self) -> impl Iterator<Item = &DesiredItem> {
        self.accepted.iter().flat_map(|accepted| accepted.items.values())
    }

    pub fn item(&self, container: ContainerId) -> Option<&DesiredItem> {
        self.accepted.as_ref()?.items.get(&container)
    }

    pub fn spec(&self, digest: SpecDigest) -> Option<&Arc<WantedSpec>> {
        self.accepted.as_ref()?.specs.get(&digest)
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dropped::OtherGeneration { theirs } => write!(f, "it is of generation {theirs}"),
            Dropped::OtherIncarnation { theirs } => write!(f, "it is for incarnation {theirs}"),
            Dropped::Older { revision, than } => write!(f, "its revision {revision} is below {than}"),
        }
    }
}
