//! What became of the last requests of one session, by sequence, made to be copied at almost every write: each published
//! state shares the session with the one that goes on. A persistent map copies nodes of 16 results and their way up for
//! it; here the bulk is shared as one piece, and only the youngest few are copied.
//! In: results, mostly in the order of their sequences. Out: the same in order, and the lowest when it has to go.

use std::fmt;
use std::sync::Arc;

use crate::sessions::Remembered;

/// So many are copied with each write at most; then they become part of the bulk, which is written anew.
const YOUNG_MAX: usize = 16;

type Kept = (u64, Remembered);

#[derive(Default)]
pub struct Results {
    /// Ascending.
    bulk: Arc<[Kept]>,
    /// So many of the lowest in `bulk` were taken out.
    gone: usize,
    /// Ascending, all above `bulk`.
    young: Vec<Kept>,
}

impl Results {
    pub fn len(&self) -> usize {
        self.old().len() + self.young.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, sequence: &u64) -> Option<&Remembered> {
        let among = |kept: &[Kept]| kept.binary_search_by_key(sequence, |(sequence, _)| *sequence);
        match among(&self.young) {
            Ok(at) => Some(&self.young[at].1),
            Err(0) => among(self.old()).ok().map(|at| &self.old()[at].1),
            Err(_) => None,
        }
    }

    /// By sequence, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (&u64, &Remembered)> {
        self.old().iter().chain(&self.young).map(|(sequence, remembered)| (sequence, remembered))
    }

    /// Takes the place of what was there under `sequence`.
    pub(crate) fn insert(&mut self, sequence: u64, remembered: Remembered) {
        if self.young.len() >= YOUNG_MAX {
            self.settle(u64::MAX);
        }
        if self.old().last().is_some_and(|(last, _)| *last >= sequence) {
            self.settle(sequence);
        }
        match self.young.binary_search_by_key(&sequence, |(sequence, _)| *sequence) {
            Ok(at) => self.young[at].1 = remembered,
            Err(at) => self.young.insert(at, (sequence, remembered)),
        }
    }

    /// Takes the lowest out.
    pub(crate) fn pop_first(&mut self) -> Option<Kept> {
        match self.old().first().cloned() {
            Some(first) => {
                self.gone += 1;
                Some(first)
            }
            None if self.young.is_empty() => None,
            None => Some(self.young.remove(0)),
        }
    }

    fn old(&self) -> &[Kept] {
        &self.bulk[self.gone..]
    }

    /// Writes the bulk anew: everything below `sequence`. What is not has its place among the young.
    fn settle(&mut self, sequence: u64) {
        let young = self.young.split_off(self.young.partition_point(|(kept, _)| *kept < sequence));
        let old = &self.bulk[self.gone..];
        let (below, above) = old.split_at(old.partition_point(|(kept, _)| *kept < sequence));
        let above: Vec<Kept> = above.iter().cloned().chain(young).collect();
        self.bulk = below.iter().cloned().chain(std::mem::replace(&mut self.young, above)).collect();
        self.gone = 0;
    }
}

impl Clone for Results {
    /// With room for the write it is made for.
    fn clone(&self) -> Results {
        let mut young = Vec::with_capacity(self.young.len() + 1);
        young.extend_from_slice(&self.young);
        Results { bulk: Arc::clone(&self.bulk), gone: self.gone, young }
    }
}

impl PartialEq for Results {
    fn eq(&self, other: &Results) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Results {}

impl fmt::Debug for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl FromIterator<Kept> for Results {
    /// In any order; of two under one sequence the later counts.
    fn from_iter<I: IntoIterator<Item = Kept>>(results: I) -> Results {
        let ordered: std::collections::BTreeMap<u64, Remembered> = results.into_iter().collect();
        Results { bulk: ordered.into_iter().collect(), gone: 0, young: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::apply::Done;
    use crate::model::ids::Revision;
    use crate::sessions::WINDOW;

    fn result(revision: u64) -> Remembered {
        Remembered { revision: Revision(revision), outcome: Ok(Done::Nothing) }
    }

    /// Every order of arrival within a window, against a map: the same is found, in the same order, and the same goes.
    #[test]
    fn any_order_of_arrival_gives_what_a_map_would() {
        // A fixed walk over residues visits each place of a stride once: far out of order, and the same every time.
        for stride in [1_u64, 5, 37, 101, 1_021] {
            let (mut results, mut map) = (Results::default(), BTreeMap::new());
            for step in 0..1_021 {
                let sequence = step * stride % 1_021;
                results.insert(sequence, result(step));
                map.insert(sequence, result(step));
                if map.len() > WINDOW {
                    assert_eq!(results.pop_first(), map.pop_first());
                }
                assert!(results.iter().eq(map.iter()), "stride {stride}, step {step}");
                assert_eq!(results.len(), map.len());
                for asked in [sequence, sequence + 1, sequence.saturating_sub(70), 0, 2_000] {
                    assert_eq!(results.get(&asked), map.get(&asked), "stride {stride}, {asked}");
                }
            }
            assert_eq!(map.into_iter().collect::<Results>(), results);
        }
    }

    #[test]
    fn a_copy_stays_what_it_was() {
        let mut results: Results = (0..20).map(|sequence| (sequence, result(sequence))).collect();
        let copy = results.clone();
        let before: Vec<u64> = copy.iter().map(|(sequence, _)| *sequence).collect();
        (20..60).for_each(|sequence| {
            results.insert(sequence, result(sequence));
            assert!(results.pop_first().is_some());
        });
        assert!(copy.iter().map(|(sequence, _)| sequence).eq(&before));
        assert_eq!(results.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), (40..60).collect::<Vec<_>>());
        results.insert(50, result(1));
        assert_eq!((results.get(&50), results.len()), (Some(&result(1)), 20), "a second takes the place of the first");
        while results.pop_first().is_some() {}
        assert!(results.is_empty() && results == Results::default());
    }
}
