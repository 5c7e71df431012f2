//! Many random lives of one node: agents killed at any record, guards restarted, machines rebooted, words lost, repeated
//! and late, disks and hands slow, time in jumps. What must never happen is checked at every order; what must happen is
//! checked when the faults stop. A failing seed is named in the panic and repeats exactly.

mod bench;

use std::collections::{BTreeMap, BTreeSet};

use bench::*;
use cluster::agent::*;
use cluster::command::{Registration, Reported};
use cluster::*;
use decide::*;

const SEEDS: u64 = 250;
const STEPS: usize = 400;
const CONTAINERS: u64 = 3;

/// SplitMix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

/// What the members would know of the node and its containers: just enough to send it words that could be sent.
struct Members {
    /// The index of the log.
    index: u64,
    current: u64,
    boot: BootId,
    over: bool,
    epochs: BTreeMap<u64, u64>,
    wanted: BTreeMap<u64, DesiredItem>,
    /// The run of the agent that the current incarnation was given to, and the one that it ended.
    registered_by: (AgentRun, u64),
    /// Sets that were sent, for repetitions and late arrivals.
    sent: Vec<DesiredSet>,
}

/// A deed the hands have not done yet.
#[derive(Clone)]
enum Deed {
    Start(Workload),
    Stop(ContainerId, Epoch),
}

struct World {
    dice: Dice,
    bench: Bench,
    members: Members,
    deeds: Vec<Deed>,
    started: BTreeSet<(ContainerId, Epoch)>,
    latched: BTreeSet<Incarnation>,
    /// The highest epoch of each container that was ever closed on disk, forgotten since or not.
    closed: BTreeMap<ContainerId, Epoch>,
    /// Kept epochs whose graceful end was ordered.
    ending: BTreeSet<(ContainerId, Epoch)>,
    registrations: Vec<Registration>,
    connected: bool,
}

impl World {
    fn new(seed: u64) -> World {
        let mut bench = Bench::fresh();
        bench.answers = Answers { hands: false, ..Answers::ALL };
        bench.start();
        let members = Members {
            index: 10,
            current: 0,
            boot: BOOT,
            over: true,
            epochs: BTreeMap::new(),
            wanted: BTreeMap::new(),
            registered_by: (AgentRun(0), 0),
            sent: Vec::new(),
        };
        World {
            dice: Dice(seed),
            bench,
            members,
            deeds: Vec::new(),
            started: BTreeSet::new(),
            latched: BTreeSet::new(),
            closed: BTreeMap::new(),
            ending: BTreeSet::new(),
            registrations: Vec::new(),
            connected: false,
        }
    }

    fn step(&mut self) {
        match self.dice.roll(24) {
            0..=6 => {
                let span = [1, 20, 100, 300, 600][self.dice.roll(5) as usize];
                self.bench.run(span);
                self.grant();
            }
            7..=8 => self.grant(),
            9..=10 => self.change_wishes(),
            11..=13 => self.send_set(),
            14..=16 => self.do_a_deed(),
            17..=18 => self.answer_registration(),
            19 => self.unstall(),
            20 if !self.connected || self.dice.one_in(4) => self.toggle_connection(),
            20 => self.repeat_old_set(),
            21 => self.something_happens(),
            22 if self.dice.one_in(2) => self.stall(),
            22 => self.kill_agent(),
            _ => match self.dice.roll(8) {
                0 => self.reboot(),
                1..=2 => self.restart_guard(),
                3 => self.void(),
                4 => self.bench.now = self.bench.now + Span::millis(self.dice.roll(4_000)),
                _ => {}
            },
        }
        self.check();
    }

    fn grant(&mut self) {
        if self.members.over || self.members.current != self.bench.agent.incarnation().0 {
            let member = 1 + self.dice.roll(3);
            self.bench.reply(member, Answer::Refused(Refusal::NotCurrent));
            return;
        }
        for member in 1..=3 {
            if !self.dice.one_in(5) {
                self.bench.reply(member, Answer::Acknowledged(membership(1, &[1, 2, 3])));
            }
        }
    }

    fn change_wishes(&mut self) {
        let container = 1 + self.dice.roll(CONTAINERS);
        self.members.index += 1;
        let epoch = self.members.epochs.entry(container).or_insert(0);
        // What the node had no part in is given to it under an epoch of its own.
        let anew = !self.members.wanted.contains_key(&container);
        *epoch += u64::from(anew || !self.dice.one_in(4));
        let wanted = [Wanted::Run, Wanted::Run, Wanted::Stop, Wanted::Prepare][self.dice.roll(4) as usize];
        let policy = if container == CONTAINERS { OnQuorumLoss::Keep } else { OnQuorumLoss::Stop };
        let item = DesiredItem { on_quorum_loss: policy, ..item(container, *epoch, wanted) };
        match self.dice.one_in(5) {
            true => self.members.wanted.remove(&container),
            false => self.members.wanted.insert(container, item),
        };
    }

    fn send_set(&mut self) {
        if !self.connected || self.members.over {
            return;
        }
        let items: Vec<DesiredItem> = self.members.wanted.values().copied().collect();
        let incarnation = Incarnation(self.members.current);
        let set = DesiredSet { incarnation, ..self.bench.set(self.members.index, &items) };
        self.members.sent.push(set.clone());
        self.bench.push(set);
    }

    fn repeat_old_set(&mut self) {
        if let Some(last) = (self.members.sent.len() as u64).checked_sub(1) {
            let set = self.members.sent[self.dice.roll(last + 1) as usize].clone();
            self.bench.push(set);
        }
    }

    fn toggle_connection(&mut self) {
        self.connected = !self.connected;
        let input = if self.connected { Input::LeaderConnected { member: MemberId(1) } } else { Input::LeaderLost };
        self.bench.send(input);
    }

    /// As `apply` would: only a registration that names the current incarnation, over or proven empty, is taken.
    fn answer_registration(&mut self) {
        let Some(Registration { ends: Incarnation(ends), boot, empty, run, .. }) = self.registrations.pop() else {
            return;
        };
        if !self.members.over && self.members.registered_by == (run, ends) && boot == self.members.boot {
            self.bench.register_as(self.members.current);
            return;
        }
        let fenced = self.members.over || (empty && boot == self.members.boot) || self.dice.one_in(2);
        self.members.index += 1;
        if ends == self.members.current && fenced {
            self.members.current = self.members.index;
            self.members.boot = boot;
            self.members.registered_by = (run, ends);
            self.members.over = false;
            if !self.dice.one_in(4) {
                self.bench.register_as(self.members.current);
            }
        } else {
            let current = Incarnation(self.members.current);
            self.bench.send(Input::FromLeader(ToAgent::NotRegistered { current, reason: "stale".into() }));
        }
    }

    fn void(&mut self) {
        self.members.over = true;
        let incarnation = Incarnation(self.members.current);
        self.bench.send(Input::FromLeader(ToAgent::Void { incarnation }));
    }

    fn restart_guard(&mut self) {
        self.bench.guardian = Guardian::restarted(self.bench.guardian.slot(), self.bench.now);
        let slot = self.bench.guardian.slot();
        self.bench.send(Input::Guard(slot));
    }

    fn stall(&mut self) {
        match self.dice.roll(3) {
            0 => self.bench.answers.disk = false,
            1 => self.bench.answers.look = false,
            _ => self.bench.answers.sweep = false,
        }
    }

    fn unstall(&mut self) {
        self.bench.answers = Answers { hands: false, ..Answers::ALL };
        let written = self.bench.sync();
        self.bench.release(written);
        let shown = self.bench.show();
        self.bench.release(shown);
    }

    fn kill_agent(&mut self) {
        self.collect();
        // The starters are emptied: a start under way is undone, a stop is forgotten.
        self.deeds.clear();
        self.connected = false;
        self.bench.answers = Answers { hands: false, ..Answers::ALL };
        self.bench.restart();
    }

    fn reboot(&mut self) {
        self.bench.boot = BootId(self.bench.boot.0 + 1);
        self.bench.guardian = Guardian::new();
        self.bench.tree.clear();
        self.kill_agent();
    }

    fn do_a_deed(&mut self) {
        if self.deeds.is_empty() {
            return;
        }
        let first = self.deeds.remove(0);
        let (container, epoch, what) = match first {
            Deed::Start(workload) => {
                let key = (workload.container, workload.epoch);
                let slot = self.bench.guardian.slot();
                let ended = slot.incarnation != workload.incarnation || (slot.latched && self.dice.one_in(2));
                let what = if ended {
                    Happened::StartFailed { reason: "swept away".into() }
                } else if self.dice.one_in(8) {
                    Happened::ClaimRefused { reason: "held".into() }
                } else {
                    self.bench.tree.insert(key, workload);
                    Happened::Started
                };
                (key.0, key.1, what)
            }
            Deed::Stop(container, epoch) if self.dice.one_in(8) => {
                (container, epoch, Happened::StopFailed { reason: "busy".into() })
            }
            Deed::Stop(container, epoch) => {
                self.bench.tree.remove(&(container, epoch));
                (container, epoch, Happened::Stopped)
            }
        };
        self.bench.happened(container.0, epoch.0, what);
    }

    fn something_happens(&mut self) {
        let Some(key) = self.bench.tree.keys().next().copied() else { return };
        self.bench.tree.remove(&key);
        self.bench.happened(key.0.0, key.1.0, Happened::Exited { exit: Exit::Code(1) });
    }

    /// Takes over what was ordered for the hands and the members, and checks every order.
    fn collect(&mut self) {
        for effect in self.bench.take() {
            match effect {
                Effect::Start { container, epoch, incarnation, policy, .. } => {
                    assert!(self.started.insert((container, epoch)), "{container} {epoch} started twice");
                    assert!(!self.latched.contains(&incarnation), "{container} started under latched {incarnation}");
                    self.deeds.push(Deed::Start(Workload {
                        container,
                        epoch,
                        incarnation,
                        policy,
                        shape: Shape::Alive,
                    }));
                }
                Effect::Stop { container, epoch, grace } => {
                    self.deeds.push(Deed::Stop(container, epoch));
                    let kept = self.bench.agent.journal().begun(container, epoch);
                    if grace > Span::ZERO && kept.is_some_and(|begun| begun.policy == OnQuorumLoss::Keep) {
                        let noted = self.bench.disk.begun(container, epoch).is_some_and(|begun| begun.stopping);
                        assert!(noted, "{container} {epoch} is being stopped and that is not on disk");
                        self.ending.insert((container, epoch));
                    }
                }
                Effect::Journal { record: Record::Latched { incarnation }, .. } => {
                    self.latched.insert(incarnation);
                }
                Effect::Heartbeat { heartbeat, .. } => {
                    let Heartbeat { incarnation, boot, .. } = heartbeat;
                    assert!(!self.latched.contains(&incarnation), "{incarnation} was latched and sent a heartbeat");
                    assert_eq!(boot, self.bench.boot);
                }
                Effect::Deadline { incarnation, at: None } => self.check_nothing_older(incarnation),
                Effect::ToLeader(word) => self.collect_word(word),
                _ => {}
            }
        }
    }

    /// When an incarnation is opened, nothing of an older one may still be there or be on its way.
    fn check_nothing_older(&self, incarnation: Incarnation) {
        let older = |workload: &Workload| workload.incarnation < incarnation && workload.policy == OnQuorumLoss::Stop;
        assert!(!self.bench.tree.values().any(older), "{incarnation} opened over {:?}", self.bench.tree);
        let coming = |deed: &Deed| matches!(deed, Deed::Start(workload) if older(workload));
        assert!(!self.deeds.iter().any(coming), "{incarnation} opened while an older start is under way");
    }

    fn collect_word(&mut self, word: ToLeader) {
        match word {
            ToLeader::Register(registration) => {
                let ends = registration.ends;
                assert_eq!(self.bench.disk.incarnation, ends);
                assert!(matches!(self.bench.disk.life, Life::Over(_)), "registers before {ends} is over on disk");
                assert!(!registration.empty || self.bench.tree.is_empty(), "called empty: {:?}", self.bench.tree);
                self.registrations.push(*registration);
            }
            ToLeader::Ended { incarnation, .. } => {
                assert!(self.latched.contains(&incarnation), "{incarnation} said to be over and never latched");
                let stop = |workload: &Workload| workload.policy == OnQuorumLoss::Stop;
                assert!(!self.bench.tree.values().any(stop), "{incarnation} over: {:?}", self.bench.tree);
                if incarnation.0 == self.members.current {
                    self.members.over = true;
                }
            }
            ToLeader::Report { reports, .. } => {
                for report in reports {
                    if report.what == Reported::Observed(Observed::Running) {
                        let ending = self.ending.contains(&(report.container, report.epoch));
                        assert!(!ending, "{} {} was ending and runs again", report.container, report.epoch);
                    }
                    if let Reported::Observed(Observed::Closed { .. }) = report.what {
                        let key = (report.container, report.epoch);
                        let closed = self.closed.get(&key.0).copied().max(self.bench.disk.closed_epoch(key.0));
                        assert!(closed >= Some(key.1), "{key:?} closed in word and not on disk");
                        assert!(!self.bench.tree.contains_key(&key), "{key:?} said to be closed and is here");
                    }
                }
            }
            _ => {}
        }
    }

    fn check(&mut self) {
        self.collect();
        let slot = self.bench.guardian.slot();
        let limit = self.bench.now + terms().lease;
        assert!(slot.deadline.is_none_or(|at| at <= limit), "a deadline beyond every lease");
        if slot.latched {
            self.latched.insert(slot.incarnation);
        }
        for (container, closed) in &self.bench.disk.closed {
            let highest = self.closed.entry(*container).or_default();
            *highest = closed.epoch.max(*highest);
        }
        for workload in self.bench.tree.values() {
            let at = (workload.container, workload.epoch);
            assert!(self.started.contains(&at), "{at:?} runs and was never ordered");
        }
    }

    /// No more faults: the node must come to run what is wanted of it.
    fn settle(&mut self) {
        self.unstall();
        self.members.wanted.clear();
        for container in 1..=CONTAINERS {
            let epoch = self.members.epochs.entry(container).or_insert(0);
            *epoch += 1;
            self.members.wanted.insert(container, item(container, *epoch, Wanted::Run));
        }
        if !self.connected {
            self.toggle_connection();
        }
        let slot = self.bench.guardian.slot();
        self.bench.send(Input::Guard(slot));
        for _ in 0..200 {
            self.members.index += 1;
            self.bench.run(100);
            self.check();
            while !self.registrations.is_empty() {
                self.answer_registration();
                self.check();
            }
            self.grant();
            self.send_set();
            self.check();
            while !self.deeds.is_empty() {
                self.do_a_deed();
                self.check();
            }
        }
        assert_eq!(self.bench.agent.standing(), "serving");
        for container in 1..=CONTAINERS {
            let running = self.bench.tree.keys().any(|(id, _)| *id == ContainerId(container));
            let refused = self.bench.disk.is_closed(ContainerId(container), Epoch(self.members.epochs[&container]));
            assert!(running || refused, "{container} neither runs nor is closed");
        }
    }
}

#[test]
fn no_life_of_a_node_breaks_a_promise_and_every_one_recovers() {
    let (mut started, mut latched) = (0, 0);
    for seed in 0..SEEDS {
        let lived = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..STEPS {
                world.step();
            }
            world.settle();
            world
        });
        match lived {
            Ok(world) => {
                started += world.started.len() as u64;
                latched += world.latched.len() as u64;
            }
            Err(broken) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(broken);
            }
        }
    }
    eprintln!("{started} starts and {latched} ends of incarnations in {SEEDS} lives");
    assert!(started > 6 * SEEDS && latched > 2 * SEEDS, "these lives were too quiet to show anything");
}
