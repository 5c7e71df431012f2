//! Makes voters of the members in the directory: learner first, voter when caught up. Runs on every member, acts on the leader.
//! In: the state and what followers hold. Out: one change of membership at a time.
//! A wish to join is an entry of the directory, so a new leader finds and finishes what the one before began.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cluster::{MemberId, State};
use replica::{Change, ProposeError, Status};
use tracing::{debug, info};

use crate::standing::Seated;

/// Between two looks; a change waits for two heartbeats anyway.
const LOOK: Duration = Duration::from_millis(200);
/// A learner so few entries behind is caught up; the replica has the last word.
const LAG: u64 = 64;

/// Never ends by itself: drop the task with the seat.
pub async fn run(seated: Arc<Seated>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let view = seated.handle.view();
        let Some(state) = view.state.as_ref().filter(|_| view.leads) else { continue };
        let Some(change) = wanted(&seated, state, &seated.handle.status()) else { continue };
        let (Change::AddLearner(member) | Change::Promote(member) | Change::Remove(member)) = change;
        let Some(_coming) = seated.passing.come(member) else { continue };
        match seated.handle.change_membership(change).await {
            Ok(()) => info!(replica = %seated.handle.id, ?change, "membership changed"),
            // It is looked at again; what stands in the way is shown by `quorum`.
            Err(ProposeError::Refused(why) | ProposeError::NotNow(why)) => {
                debug!(replica = %seated.handle.id, ?change, why, "membership not changed")
            }
            Err(error) => debug!(replica = %seated.handle.id, ?change, %error, "membership not changed"),
        }
    }
}

fn wanted(seated: &Seated, state: &State, status: &Status) -> Option<Change> {
    let membership = state.membership();
    if membership.is_joint() {
        return None;
    }
    let stays = seated.stays_learner.lock().unwrap_or_else(PoisonError::into_inner);
    let caught_up = |id: &MemberId| status.matched.get(id).is_some_and(|held| *held + LAG >= status.last.index);
    let ready = membership.learners.iter().find(|id| {
        caught_up(id) && seated.handle.reaches(**id) && !stays.contains(id) && !seated.passing.is_leaving(**id)
    });
    if let Some(learner) = ready {
        return Some(Change::Promote(*learner));
    }
    let outside = |id: &MemberId| !membership.votes(*id) && !membership.learners.contains(id);
    let newcomer = state.members().map(|member| member.id).find(|id| outside(id) && !seated.passing.is_leaving(*id));
    newcomer.map(Change::AddLearner)
}
