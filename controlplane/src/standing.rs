//! What this process is just now: nothing yet, a member, quarantined, removed. And what it may be asked to become.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cluster::{ClusterId, MemberId, Profile};
use proto::{Problem, v1};
use tokio::sync::oneshot;
use tonic::Code;

use crate::admission::Admission;
use crate::api::sessions::Sessions;
use crate::runtime::{Arrivals, Credentials, Handle, StoreMeter};
use crate::secret::Secrets;

#[derive(Clone)]
pub enum Standing {
    /// No cluster yet: `Init` or `Enrol` gives it one.
    Empty,
    Member(Arc<Seated>),
    /// Lost data it had acknowledged: its id is burnt.
    Quarantined(Arc<Burnt>),
    /// Taken out of the cluster.
    Removed,
}

/// A member that runs.
pub struct Seated {
    pub handle: Handle,
    pub admission: Admission,
    pub credentials: Credentials,
    pub arrivals: Arrivals,
    pub meter: StoreMeter,
    pub secrets: Secrets,
    pub sessions: Sessions,
    /// Read by imports for as long as they last: nothing is discarded that is about to be registered.
    pub imports: Arc<tokio::sync::RwLock<()>>,
    /// Members whose hello said that they do not want to vote.
    pub stays_learner: Mutex<BTreeSet<MemberId>>,
    /// Members that are being taken out, and the one that the steward is taking in.
    pub passing: Passing,
}

/// Members between the directory and the configuration: who is on its way out is not taken in again, and who is being
/// taken in is seen by whoever wants it out.
#[derive(Clone, Default)]
pub struct Passing(Arc<Mutex<Ways>>);

#[derive(Default)]
struct Ways {
    out: BTreeSet<MemberId>,
    into: Option<MemberId>,
}

impl Passing {
    /// On its way out until the value is dropped.
    pub fn leave(&self, member: MemberId) -> Way {
        self.ways().out.insert(member);
        Way { passing: self.clone(), member, out: true }
    }

    /// Being taken in until the value is dropped, one at a time; `None` for one that is on its way out.
    pub fn come(&self, member: MemberId) -> Option<Way> {
        let mut ways = self.ways();
        if ways.out.contains(&member) {
            return None;
        }
        ways.into = Some(member);
        drop(ways);
        Some(Way { passing: self.clone(), member, out: false })
    }

    pub fn is_leaving(&self, member: MemberId) -> bool {
        self.ways().out.contains(&member)
    }

    pub fn is_coming(&self, member: MemberId) -> bool {
        self.ways().into == Some(member)
    }

    fn ways(&self) -> MutexGuard<'_, Ways> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That somebody is under way; it is over when this is dropped.
pub struct Way {
    passing: Passing,
    member: MemberId,
    out: bool,
}

impl Drop for Way {
    fn drop(&mut self) {
        let mut ways = self.passing.ways();
        if self.out {
            ways.out.remove(&self.member);
        } else {
            ways.into = None;
        }
    }
}

/// Why a member is quarantined, and how it comes back.
#[derive(Clone, Debug)]
pub struct Burnt {
    pub why: String,
    pub member: Option<MemberId>,
    pub cluster: Option<ClusterId>,
    /// The one command to come back.
    pub remedy: String,
}

/// Asked of the process itself; answered when it is done.
pub enum Order {
    Init { name: String, profile: Profile, reply: oneshot::Sender<Result<v1::InitReply, Problem>> },
    Enrol { admission: Box<Admission>, reply: oneshot::Sender<Result<MemberId, Problem>> },
    Rejoin { via: String, reply: oneshot::Sender<Result<v1::RejoinReply, Problem>> },
}

impl Standing {
    /// Why a call that needs a member is refused.
    pub fn problem(&self) -> Problem {
        match self {
            Standing::Empty => Problem::new(Code::Unavailable, "no-cluster", "this member has no cluster yet")
                .hint("`quoratectl cluster init` makes one of it, `quoratectl cluster add-member` takes it into one"),
            Standing::Quarantined(burnt) => {
                let text = format!("this member is quarantined, its data is damaged: {}", burnt.why);
                Problem::new(Code::Unavailable, "quarantined", text).hint(burnt.remedy.clone())
            }
            Standing::Removed => Problem::new(Code::Unavailable, "removed", "this member was removed from its cluster")
                .hint("stop it; to take the machine in again, start with an empty data folder"),
            Standing::Member(_) => Problem::new(Code::Internal, "internal", "this member runs"),
        }
    }

    pub fn seated(&self) -> Option<&Arc<Seated>> {
        match self {
            Standing::Member(seated) => Some(seated),
            _ => None,
        }
    }
}
