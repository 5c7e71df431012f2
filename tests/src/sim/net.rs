//! What becomes of a message between two machines.
//! In: who sends to whom, the weather, what is cut or slow now. Out: how often it arrives and after how long.
//! Absent: the messages themselves, and who is alive to receive them; the world knows those.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::sim::chance::Chance;
use crate::sim::clock::MS;

/// A place that can be cut off: one machine, or the room the clients sit in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Site(pub u32);

/// What every link does to what crosses it. Times in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weather {
    pub delay_min: u64,
    pub delay_max: u64,
    pub loss_ppm: u32,
    pub duplicate_ppm: u32,
    /// Now and then a message takes far longer than the rest, up to `straggle_max`.
    pub straggle_ppm: u32,
    pub straggle_max: u64,
}

impl Weather {
    pub const CALM: Weather =
        Weather { delay_min: MS / 5, delay_max: MS, loss_ppm: 0, duplicate_ppm: 0, straggle_ppm: 0, straggle_max: 0 };
}

/// A resend of a stream's segment that was lost; the minimum of Linux.
const RESEND: u64 = 200 * MS;
/// Between processes of one machine.
const LOOPBACK: u64 = MS / 20;

pub struct Net {
    pub weather: Weather,
    /// One way each.
    cut: BTreeSet<(Site, Site)>,
    /// Extra delay, one way each.
    slow: BTreeMap<(Site, Site), u64>,
    chance: Chance,
}

/// When the copies of one message arrive, as delays from now; none = lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Lost,
    Once(u64),
    Twice(u64, u64),
}

impl Net {
    pub fn new(weather: Weather, chance: Chance) -> Net {
        Net { weather, cut: BTreeSet::new(), slow: BTreeMap::new(), chance }
    }

    /// For messages that stand alone: they may be lost, doubled, overtaken.
    pub fn toss(&mut self, from: Site, to: Site) -> Fate {
        if from == to {
            return Fate::Once(LOOPBACK);
        }
        if self.is_cut(from, to) || self.chance.ppm(self.weather.loss_ppm) {
            return Fate::Lost;
        }
        let once = self.delay(from, to);
        if self.chance.ppm(self.weather.duplicate_ppm) {
            Fate::Twice(once, self.delay(from, to))
        } else {
            Fate::Once(once)
        }
    }

    /// For segments of a stream: loss costs time, not the message. `None`: nothing gets through, the stream will break.
    pub fn stream(&mut self, from: Site, to: Site) -> Option<u64> {
        if from == to {
            return Some(LOOPBACK);
        }
        if self.is_cut(from, to) {
            return None;
        }
        let resent = if self.chance.ppm(self.weather.loss_ppm) { RESEND } else { 0 };
        Some(self.delay(from, to) + resent)
    }

    fn delay(&mut self, from: Site, to: Site) -> u64 {
        let Weather { delay_min, delay_max, straggle_ppm, straggle_max, .. } = self.weather;
        let usual = self.chance.within(delay_min..=delay_max);
        let straggle = if self.chance.ppm(straggle_ppm) { self.chance.below(straggle_max + 1) } else { 0 };
        usual + straggle + self.slow.get(&(from, to)).copied().unwrap_or(0)
    }

    pub fn is_cut(&self, from: Site, to: Site) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Nothing gets from `from` to `to`; the other way goes on.
    pub fn cut(&mut self, from: Site, to: Site) {
        self.cut.insert((from, to));
    }

    pub fn mend(&mut self, from: Site, to: Site) {
        self.cut.remove(&(from, to));
        self.slow.remove(&(from, to));
    }

    pub fn slow(&mut self, from: Site, to: Site, extra: u64) {
        self.slow.insert((from, to), extra);
    }

    /// Everything is well again, the weather included.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.slow.clear();
        self.weather = Weather::CALM;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_one_way_cut_is_one_way() {
        let mut net = Net::new(Weather::CALM, Chance::new(1, "net"));
        net.cut(Site(1), Site(2));
        assert_eq!(net.toss(Site(1), Site(2)), Fate::Lost);
        assert_eq!(net.stream(Site(1), Site(2)), None);
        assert!(matches!(net.toss(Site(2), Site(1)), Fate::Once(_)));
        net.slow(Site(2), Site(1), 5_000 * MS);
        assert!(net.stream(Site(2), Site(1)).is_some_and(|delay| delay >= 5_000 * MS));
        net.heal();
        assert!(matches!(net.toss(Site(1), Site(2)), Fate::Once(delay) if delay <= MS));
    }
}
