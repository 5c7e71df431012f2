//! Bodies of snapshots: what was just written is not written anew, and what was just read not read anew.
//! In: a state, or bytes. Out: the real encoder's bytes, the real decoder's state; of the last few the ones they gave before.
//! Absent: trust in hashes. Bytes count as known if they are equal to the last, and a state if all of it is: members at one
//! revision whose states hash alike and differ break a promise that no other oracle looks at.
//!
//! Most snapshots of a run are one of a few: each member builds one at the same revision, and one that is started again and
//! again reads the same. What is large in them are the decisions, of which hours make thousands.

use std::collections::VecDeque;

use cluster::State;

/// So many are known of each kind; members are few, and none is far behind for long.
const KNOWN: usize = 6;

#[derive(Default)]
pub(crate) struct Bodies {
    written: VecDeque<(State, Vec<u8>)>,
    read: VecDeque<(Vec<u8>, State)>,
}

/// Two states at one revision with one hash, and different.
pub(crate) struct Differ;

impl Bodies {
    pub fn write(&mut self, state: &State) -> Result<Vec<u8>, Differ> {
        let known = self.written.iter().find(|(written, _)| written.revision() == state.revision());
        if let Some((written, body)) = known
            && written.hash() == state.hash()
        {
            return if written.truth() == state.truth() { Ok(body.clone()) } else { Err(Differ) };
        }
        let body = encode(state);
        keep(&mut self.written, (state.clone(), body.clone()));
        Ok(body)
    }

    pub fn read(&mut self, body: &[u8]) -> Result<State, String> {
        if let Some((_, state)) = self.read.iter().find(|(known, _)| known == body) {
            return Ok(state.clone());
        }
        let state = proto::snapshot::decode(body).map_err(|error| error.to_string())?;
        keep(&mut self.read, (body.to_vec(), state.clone()));
        Ok(state)
    }
}

pub(crate) fn encode(state: &State) -> Vec<u8> {
    proto::snapshot::encode(state).collect::<Vec<_>>().concat()
}

fn keep<T>(known: &mut VecDeque<T>, newest: T) {
    known.truncate(KNOWN - 1);
    known.push_front(newest);
}
