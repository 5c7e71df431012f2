//! What became of the last requests of one session, by sequence, made to be copied at almost every write: each published
//! state shares the session with the one that goes on. A persistent map copies nodes of 16 results and their way up for
//! it; here the bulk is shared as one piece, and only the youngest few are copied.
//! In: results, mostly in the order of their sequences. Out: the same in order, and the lowest when it has to go.

use std::fmt;
use std::sync::Arc;

use crate::sessions::Remembered;

/// So many are copied with each write at most; then they become a chunk of the bulk.
const YOUNG_MAX: usize = 16;

type Kept = (u64, Remembered);
type Chunk = Arc<[Kept]>;

#[derive(Default)]
pub struct Results {
    /// Ascending, within each chunk and from chunk to chunk; none is empty. A new chunk costs a new list of the others,
    /// not what is in them.
    bulk: Arc<[Chunk]>,
    /// How many results are in `bulk`, those taken out included.
    bulk_len: usize,
    /// So many of the lowest in `bulk` were taken out: of its first chunk only, for one that is used up goes.
    gone: usize,
    /// Ascending, all above `bulk`.
    young: Vec<Kept>,
}

impl Results {
    pub fn len(&self) -> usize {
        self.bulk_len - self.gone + self.young.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, sequence: &u64) -> Option<&Remembered> {
        let among = |kept: &[Kept]| kept.binary_search_by_key(sequence, |(sequence, _)| *sequence);
        match among(&self.young) {
            Ok(at) => Some(&self.young[at].1),
            Err(0) => {
                let place = self.bulk.partition_point(|chunk| last(chunk) < *sequence);
                let chunk = self.bulk.get(place)?;
                among(chunk).ok().filter(|at| place > 0 || *at >= self.gone).map(|at| &chunk[at].1)
            }
            Err(_) => None,
        }
    }

    /// By sequence, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (&u64, &Remembered)> {
        self.old().chain(&self.young).map(|(sequence, remembered)| (sequence, remembered))
    }

    /// Takes the place of what was there under `sequence`.
    pub(crate) fn insert(&mut self, sequence: u64, remembered: Remembered) {
        if self.young.len() >= YOUNG_MAX {
            self.settle();
        }
        if self.bulk.last().is_some_and(|chunk| last(chunk) >= sequence) {
            self.unsettle(sequence);
        }
        match self.young.binary_search_by_key(&sequence, |(sequence, _)| *sequence) {
            Ok(at) => self.young[at].1 = remembered,
            Err(at) => self.young.insert(at, (sequence, remembered)),
        }
    }

    /// Takes the lowest out.
    pub(crate) fn pop_first(&mut self) -> Option<Kept> {
        let Some(chunk) = self.bulk.first() else {
            return (!self.young.is_empty()).then(|| self.young.remove(0));
        };
        let first = chunk[self.gone].clone();
        self.gone += 1;
        if self.gone == chunk.len() {
            self.bulk_len -= self.gone;
            self.gone = 0;
            self.bulk = self.bulk[1..].into();
        }
        Some(first)
    }

    fn old(&self) -> impl Iterator<Item = &Kept> {
        self.bulk.iter().flat_map(|chunk| chunk.iter()).skip(self.gone)
    }

    /// The young become the last chunk of the bulk.
    fn settle(&mut self) {
        self.bulk_len += self.young.len();
        let chunk: Chunk = std::mem::take(&mut self.young).into();
        self.bulk = self.bulk.iter().cloned().chain([chunk]).collect();
    }

    /// Everything from `sequence` on counts as young again: something arrived far out of order.
    fn unsettle(&mut self, sequence: u64) {
        let (below, mut above): (Vec<Kept>, Vec<Kept>) = self.old().cloned().partition(|(kept, _)| *kept < sequence);
        above.append(&mut self.young);
        *self = Results::of(below);
        self.young = above;
    }

    /// `bulk`: ascending.
    fn of(bulk: Vec<Kept>) -> Results {
        let bulk_len = bulk.len();
        let bulk = if bulk.is_empty() { Arc::default() } else { Arc::from([Chunk::from(bulk)]) };
        Results { bulk, bulk_len, gone: 0, young: Vec::new() }
    }
}

/// The highest sequence in it.
fn last(chunk: &Chunk) -> u64 {
    chunk.last().map_or(0, |(sequence, _)| *sequence)
}

impl Clone for Results {
    /// With room for the write it is made for.
    fn clone(&self) -> Results {
        let mut young = Vec::with_capacity(self.young.len() + 1);
        young.extend_from_slice(&self.young);
        Results { bulk: Arc::clone(&self.bulk), bulk_len: self.bulk_len, gone: self.gone, young }
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
        Results::of(ordered.into_iter().collect())
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
