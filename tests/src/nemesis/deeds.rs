//! What can be done to a cluster of three members and three nodes, as data. In: a seed. Out: deeds in an order that the seed
//! repeats: first one of each kind, then everything that is not yet done, the whole matrix of cuts included.
//! Absent: doing them.

use std::fmt;

/// A machine, from 1: members are 1 to 3, nodes 4 to 6.
pub type Host = u8;

pub const MEMBERS: [Host; 3] = [1, 2, 3];
pub const NODES: [Host; 3] = [4, 5, 6];

pub fn name(host: Host) -> String {
    if MEMBERS.contains(&host) { format!("member-{host}") } else { format!("node-{}", host - 3) }
}

/// Some of the machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell(u8);

impl Cell {
    pub const ALL: Cell = Cell(0b11_1111);

    pub fn of(hosts: &[Host]) -> Cell {
        Cell(hosts.iter().fold(0, |mask, host| mask | 1 << (host - 1)))
    }

    pub fn others(self) -> Cell {
        Cell(Cell::ALL.0 & !self.0)
    }

    pub fn hosts(self) -> Vec<Host> {
        (1..=6).filter(|host| self.0 & (1 << (host - 1)) != 0).collect()
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.hosts().into_iter().map(name).collect();
        out.write_str(&names.join("+"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Spare,
    Kill,
    Stop,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// No packet passes between the two cells.
    Split(Cell),
    /// Nothing passes from the one to the other; the way back is open.
    OneWay {
        from: Cell,
        to: Cell,
    },
    /// Between these two cells connections open and stay open, and what is said on them is lost.
    HalfOpen {
        one: Cell,
        other: Cell,
    },
    /// Every packet between machines is lost with this chance, in percent.
    Loss(u32),
    /// Every packet between machines comes twice with this chance, in percent.
    Duplicate(u32),
    /// Everything from and to this machine takes so long, and up to as long again: packets overtake each other.
    Delay {
        host: Host,
        ms: u64,
    },
    /// To the services of a node, and to a member, at once.
    Signals {
        node: Host,
        agent: Act,
        guard: Act,
        member: Host,
        to_member: Act,
    },
    /// Agent and guard stopped, or the whole machine: what class F1 exposes; thawed later.
    Freeze {
        node: Host,
        whole: bool,
    },
    /// The same, and the power cut before anybody confirms that the node is down.
    FreezeFenced {
        node: Host,
        whole: bool,
    },
    Power {
        host: Host,
    },
    /// A node and the member that leads, at once.
    PowerWithLeader {
        node: Host,
    },
    /// The wall clock of this machine jumps an hour ahead, then an hour behind.
    WallClock {
        host: Host,
    },
    /// The disk of the third member has no room.
    FullDisk,
    /// One hundredth of a processor for all services of the machine.
    Starve {
        host: Host,
    },
    /// The leader is killed every five seconds.
    LeaderKills,
    /// A member is taken out and comes back as a new one, while two members do not reach each other.
    Membership {
        member: Host,
        apart: (Host, Host),
    },
    /// Members are killed while they apply, then compared.
    KillApply {
        pauses_ms: [u64; 6],
    },
    /// The agent, the guard or the machine of a node goes so long after an order to start everything on it again.
    KillStart {
        node: Host,
        what: Victim,
        after_ms: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    Agent,
    Guard,
    Machine,
}

impl Deed {
    /// For the table.
    pub fn kind(&self) -> &'static str {
        match self {
            Deed::Split(_) => "split in two cells",
            Deed::OneWay { .. } => "one-way cut",
            Deed::HalfOpen { .. } => "half-open connections",
            Deed::Loss(_) => "packet loss",
            Deed::Duplicate(_) => "packet duplication",
            Deed::Delay { .. } => "delay and reordering",
            Deed::Signals { .. } => "SIGKILL and SIGSTOP",
            Deed::Freeze { .. } => "frozen (F1 exposure)",
            Deed::FreezeFenced { .. } => "frozen, power fence",
            Deed::Power { .. } => "power cut",
            Deed::PowerWithLeader { .. } => "power cut with leader",
            Deed::WallClock { .. } => "wall clock ±1 h",
            Deed::FullDisk => "full disk",
            Deed::Starve { .. } => "processor at 1 %",
            Deed::LeaderKills => "leader killed every 5 s",
            Deed::Membership { .. } => "membership under partition",
            Deed::KillApply { .. } => "killed while applying",
            Deed::KillStart { .. } => "killed while starting",
        }
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let act = |act: &Act| match act {
            Act::Spare => "-",
            Act::Kill => "KILL",
            Act::Stop => "STOP",
        };
        let parts = |whole: &bool| if *whole { "all of it" } else { "agent and guard" };
        match self {
            Deed::Split(cell) => write!(out, "split {cell} | {}", cell.others()),
            Deed::OneWay { from, to } => write!(out, "cut {from} > {to}"),
            Deed::HalfOpen { one, other } => write!(out, "half-open {one} / {other}"),
            Deed::Loss(percent) => write!(out, "lose {percent} %"),
            Deed::Duplicate(percent) => write!(out, "duplicate {percent} %"),
            Deed::Delay { host, ms } => write!(out, "delay {} by {ms} to {} ms", name(*host), ms * 2),
            Deed::Signals { node, agent, guard, member, to_member } => {
                write!(out, "{} agent {} guard {}, ", name(*node), act(agent), act(guard))?;
                write!(out, "{} {}", name(*member), act(to_member))
            }
            Deed::Freeze { node, whole } => write!(out, "freeze {}: {}", name(*node), parts(whole)),
            Deed::FreezeFenced { node, whole } => {
                write!(out, "freeze {}: {}, then power cut and confirm-down", name(*node), parts(whole))
            }
            Deed::Power { host } => write!(out, "power cut of {}", name(*host)),
            Deed::PowerWithLeader { node } => write!(out, "power cut of {} and the leader", name(*node)),
            Deed::WallClock { host } => write!(out, "wall clock of {} +1 h, -1 h", name(*host)),
            Deed::FullDisk => write!(out, "full disk of member-3"),
            Deed::Starve { host } => write!(out, "starve {}", name(*host)),
            Deed::LeaderKills => write!(out, "kill the leader every 5 s"),
            Deed::Membership { member, apart: (one, other) } => {
                let (member, one, other) = (name(*member), name(*one), name(*other));
                write!(out, "replace {member} while {one} and {other} are apart")
            }
            Deed::KillApply { pauses_ms } => write!(out, "kill members after {pauses_ms:?} ms of load, compare"),
            Deed::KillStart { node, what, after_ms } => {
                write!(out, "{what:?} of {} killed {after_ms} ms into starts", name(*node))
            }
        }
    }
}

/// Numbers that a seed repeats: splitmix64.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for at in (1..all.len()).rev() {
            all.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}

/// Every split in two cells: 31.
pub fn splits() -> Vec<Deed> {
    (1..32).map(|mask| Deed::Split(Cell(mask))).collect()
}

/// Every one-way cut: of each cell against the rest (62), and of each machine against each other (30, of which the ten
/// between a cell of one and the rest are no repetition: there are five others).
pub fn one_ways() -> Vec<Deed> {
    let cells = (1..63).map(Cell).map(|from| Deed::OneWay { from, to: from.others() });
    let pairs = (1..=6).flat_map(|from| (1..=6).filter(move |to| *to != from).map(move |to| (from, to)));
    let pairs = pairs.map(|(from, to)| Deed::OneWay { from: Cell::of(&[from]), to: Cell::of(&[to]) });
    cells.chain(pairs).collect()
}

/// Agent, guard and member, each spared, killed or stopped: all but nothing at all, and but what is an exposure.
fn signals(chance: &mut Chance) -> Vec<Deed> {
    let acts = [Act::Spare, Act::Kill, Act::Stop];
    let all = acts.iter().flat_map(|agent| acts.iter().map(move |guard| (*agent, *guard)));
    let all = all.flat_map(|(agent, guard)| acts.iter().map(move |member| (agent, guard, *member)));
    let all = all.filter(|acts| *acts != (Act::Spare, Act::Spare, Act::Spare));
    let all = all.filter(|(agent, guard, _)| (*agent, *guard) != (Act::Stop, Act::Stop));
    let deed = |(agent, guard, to_member)| {
        let (node, member) = (chance.one_of(&NODES), chance.one_of(&MEMBERS));
        Deed::Signals { node, agent, guard, member, to_member }
    };
    all.map(deed).collect()
}

/// Everything once, by kind.
pub fn all(seed: u64) -> Vec<Vec<Deed>> {
    let mut chance = Chance::new(seed);
    let chance = &mut chance;
    let nodes = |deed: fn(Host) -> Deed| NODES.map(deed).to_vec();
    let hosts = |deed: fn(Host) -> Deed| (1..=6).map(deed).collect::<Vec<_>>();
    let both = |deed: fn(Host, bool) -> Deed| NODES.iter().flat_map(|it| [deed(*it, false), deed(*it, true)]).collect();
    let member_pairs = [(1, 2), (1, 3), (2, 3)];
    let half_open = |node: Host| {
        [
            Deed::HalfOpen { one: Cell::of(&[node]), other: Cell::of(&[node]).others() },
            Deed::HalfOpen { one: Cell::of(&[node - 3]), other: Cell::of(&[node - 3]).others() },
        ]
    };
    let victims = [Victim::Agent, Victim::Guard, Victim::Machine];
    let mut kinds = vec![
        splits(),
        one_ways(),
        NODES.into_iter().flat_map(half_open).collect(),
        [5, 15, 30].map(Deed::Loss).to_vec(),
        [10, 30, 60].map(Deed::Duplicate).to_vec(),
        (1..=6).map(|host| Deed::Delay { host, ms: 20 + chance.below(180) }).collect(),
        signals(chance),
        both(|node, whole| Deed::Freeze { node, whole }),
        both(|node, whole| Deed::FreezeFenced { node, whole }),
        hosts(|host| Deed::Power { host }),
        nodes(|node| Deed::PowerWithLeader { node }),
        hosts(|host| Deed::WallClock { host }),
        vec![Deed::FullDisk],
        hosts(|host| Deed::Starve { host }),
        vec![Deed::LeaderKills],
        MEMBERS.map(|member| Deed::Membership { member, apart: chance.one_of(&member_pairs) }).to_vec(),
        vec![Deed::KillApply { pauses_ms: [0; 6].map(|_| 100 + chance.below(600)) }],
        (0..6)
            .map(|at| Deed::KillStart {
                node: chance.one_of(&NODES),
                what: victims[at % 3],
                after_ms: chance.below(150),
            })
            .collect(),
    ];
    kinds.iter_mut().for_each(|kind| chance.shuffle(kind));
    kinds
}

/// The order of a run: one of each kind, then all others, then everything again.
pub fn order(seed: u64) -> impl Iterator<Item = Deed> {
    let mut round = 0;
    std::iter::from_fn(move || {
        let mut chance = Chance::new(seed ^ 0x6f72_6465_7200 ^ round);
        let mut kinds = all(seed.wrapping_add(round));
        let mut first: Vec<Deed> = kinds.iter_mut().filter_map(Vec::pop).collect();
        let mut rest: Vec<Deed> = kinds.into_iter().flatten().collect();
        chance.shuffle(&mut first);
        chance.shuffle(&mut rest);
        round += 1;
        Some(first.into_iter().chain(rest))
    })
    .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn matrix_is_whole() {
        let distinct = |deeds: Vec<Deed>| deeds.iter().map(ToString::to_string).collect::<BTreeSet<_>>().len();
        assert_eq!(distinct(splits()), 31);
        assert_eq!(distinct(one_ways()), 62 + 30);
        assert_eq!(signals(&mut Chance::new(1)).len(), 27 - 1 - 3);
    }

    #[test]
    fn seed_repeats_the_order_and_every_kind_comes_first() {
        let order = |seed| order(seed).take(400).map(|deed| deed.to_string()).collect::<Vec<_>>();
        assert_eq!(order(7), order(7));
        assert_ne!(order(7), order(8));
        let kinds: BTreeSet<&str> = super::order(7).take(18).map(|deed| deed.kind()).collect();
        assert_eq!(kinds.len(), 18);
        let all: usize = all(7).iter().map(Vec::len).sum();
        assert_eq!(super::order(7).take(all).filter(|deed| matches!(deed, Deed::Split(_))).count(), 31);
    }
}
