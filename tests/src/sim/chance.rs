//! Chance that repeats: one stream of numbers per subsystem, so that changing one does not reshuffle the others.
//! In: the seed and the name of the subsystem. Out: numbers, the same for ever. Source: xoshiro256++ (Blackman, Vigna),
//! seeded by splitmix64. Not for secrets.

use std::ops::RangeInclusive;

#[derive(Clone, Debug)]
pub struct Chance {
    state: [u64; 4],
}

impl Chance {
    pub fn new(seed: u64, stream: &str) -> Chance {
        let mut word = stream.bytes().fold(seed ^ 0x6a09_e667_f3bc_c908, |word, byte| {
            (word ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
        });
        let mut state = [0; 4];
        for slot in &mut state {
            word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = word;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *slot = mixed ^ (mixed >> 31);
        }
        Chance { state }
    }

    pub fn draw(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let drawn = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        drawn
    }

    /// 0 to `bound` − 1; 0 for a bound of 0. The bias of the multiplication is below 2⁻⁴⁰ for every bound used here.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }

    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    /// True with probability `ppm` in a million.
    pub fn ppm(&mut self, ppm: u32) -> bool {
        self.below(1_000_000) < u64::from(ppm)
    }

    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of `from`, which is not empty.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_differ_and_repeat() {
        let draws = |seed, stream| {
            let mut chance = Chance::new(seed, stream);
            (0..4).map(|_| chance.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draws(1, "net"), draws(1, "net"));
        assert_ne!(draws(1, "net"), draws(1, "disk"));
        assert_ne!(draws(1, "net"), draws(2, "net"));
        let mut chance = Chance::new(7, "bounds");
        assert!((0..1000).all(|_| (3..=5).contains(&chance.within(3..=5))));
    }
}
