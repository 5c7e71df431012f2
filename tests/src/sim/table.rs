//! Things by numbers that are never given out twice: members, nodes, machines.
//! In and out: as of a map, in the order of their numbers. What is looked up at every happening stands in one row; a tree
//! took a tenth of a run's time to find it. A new generation numbers its members far above the old one's: those hang in a
//! tree behind the row.

use std::collections::BTreeMap;
use std::ops::Index;

use cluster::{MemberId, NodeId};

use crate::sim::net::Site;

pub trait Numbered: Copy {
    fn number(self) -> usize;
}

impl Numbered for MemberId {
    fn number(self) -> usize {
        self.0 as usize
    }
}

impl Numbered for NodeId {
    fn number(self) -> usize {
        self.0 as usize
    }
}

impl Numbered for Site {
    fn number(self) -> usize {
        self.0 as usize
    }
}

/// Numbers below this stand in the row.
const NEAR: usize = 1 << 10;

/// Nothing is ever taken out.
pub struct Table<K, V> {
    rows: Vec<Option<(K, V)>>,
    far: BTreeMap<usize, (K, V)>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Table<K, V> {
        Table { rows: Vec::new(), far: BTreeMap::new() }
    }
}

impl<K: Numbered, V> Table<K, V> {
    pub fn get(&self, key: &K) -> Option<&V> {
        let number = key.number();
        let row = if number < NEAR { self.rows.get(number)?.as_ref() } else { self.far.get(&number) };
        row.map(|(_, value)| value)
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let number = key.number();
        let row = if number < NEAR { self.rows.get_mut(number)?.as_mut() } else { self.far.get_mut(&number) };
        row.map(|(_, value)| value)
    }

    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Takes the place of what was there.
    pub fn insert(&mut self, key: K, value: V) {
        let number = key.number();
        if number >= NEAR {
            self.far.insert(number, (key, value));
            return;
        }
        if self.rows.len() <= number {
            self.rows.resize_with(number + 1, || None);
        }
        self.rows[number] = Some((key, value));
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.rows.iter().flatten().chain(self.far.values()).map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.rows.iter().flatten().chain(self.far.values()).map(|(_, value)| value)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.rows.iter_mut().flatten().chain(self.far.values_mut()).map(|(_, value)| value)
    }
}

impl<K: Numbered, V> Index<&K> for Table<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).expect("it was put into the table")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_far_apart_cost_no_row_and_keep_their_order() {
        let mut table = Table::default();
        for number in [u64::MAX, 3, 1 << 40, 1, NEAR as u64 - 1, NEAR as u64] {
            table.insert(MemberId(number), number);
        }
        let order = [1, 3, NEAR as u64 - 1, NEAR as u64, 1 << 40, u64::MAX];
        assert!(table.values().copied().eq(order) && table.keys().map(|key| key.0).eq(order));
        assert!(table.rows.len() <= NEAR);
        table.insert(MemberId(1 << 40), 7);
        assert_eq!((table[&MemberId(1 << 40)], table.get(&MemberId(2))), (7, None));
    }
}
