//! Things by small numbers that are never given out twice: members, nodes, machines.
//! In and out: as of a map, in the order of their numbers. What is looked up at every happening stands in one row; a tree
//! took a tenth of a run's time to find it.

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

/// Nothing is ever taken out.
pub struct Table<K, V> {
    rows: Vec<Option<(K, V)>>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Table<K, V> {
        Table { rows: Vec::new() }
    }
}

impl<K: Numbered, V> Table<K, V> {
    pub fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key.number())?.as_ref().map(|(_, value)| value)
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.rows.get_mut(key.number())?.as_mut().map(|(_, value)| value)
    }

    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Takes the place of what was there.
    pub fn insert(&mut self, key: K, value: V) {
        let number = key.number();
        if self.rows.len() <= number {
            self.rows.resize_with(number + 1, || None);
        }
        self.rows[number] = Some((key, value));
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.rows.iter().flatten().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.rows.iter().flatten().map(|(_, value)| value)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.rows.iter_mut().flatten().map(|(_, value)| value)
    }
}

impl<K: Numbered, V> Index<&K> for Table<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).expect("it was put into the table")
    }
}
