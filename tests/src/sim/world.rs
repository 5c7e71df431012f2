//! The world: one thread, one heap of happenings by time, god's clock.
//! In: a plan. Out: a run, the same for the same plan. Each happening is handed to the process it is for, if that process
//! lives; what a process orders becomes new happenings. Reading order: here, then `members`, `agents`, `clients`, `acts`.
//! Absent: any decision about the cluster; the real `Replica`, `Agent`, `Guardian` and record logic make those.

use std::collections::{BTreeMap, BTreeSet};

use cluster::{ClusterId, ContainerId, Epoch, MemberId, NodeId, Revision, State, WallTime};
use replica::Link;

use crate::sim::agenda::Agenda;
use crate::sim::chance::Chance;
use crate::sim::checks::Checks;
use crate::sim::clients::{Client, Operator};
use crate::sim::clock::{God, MS, SECOND};
use crate::sim::coverage::Coverage;
use crate::sim::deeds::Layout;
use crate::sim::happenings::Happening;
use crate::sim::histories::Histories;
use crate::sim::host::{Machine, Member, Node, Session};
use crate::sim::net::{Fate, Net, Site};
use crate::sim::rules::Rules;
use crate::sim::table::Table;
use crate::sim::transcript::{Line, Transcript};

/// The whole of a cluster and everything around it.
pub struct World {
    pub now: God,
    pub layout: Layout,
    pub(crate) plan: Vec<crate::sim::deeds::Timed>,
    pub(crate) agenda: Agenda,
    pub(crate) net: Net,
    pub machines: Table<Site, Machine>,
    pub members: Table<MemberId, Member>,
    pub nodes: Table<NodeId, Node>,
    pub(crate) sessions: BTreeMap<Link, Session>,
    pub(crate) next_link: u64,
    /// The stream between two members, by direction: its number, and the processes it joins.
    pub(crate) streams: BTreeMap<(MemberId, MemberId), (u64, u32, u32)>,
    pub(crate) next_stream: u64,
    pub clients: Vec<Client>,
    pub(crate) operator: Operator,
    /// The claim files on the shared storage: the highest epoch written, and by whom.
    pub(crate) claims: BTreeMap<ContainerId, (Epoch, NodeId, u128)>,
    /// Containers whose machine died under them: the epoch that ran, and since when.
    pub(crate) dark: BTreeMap<ContainerId, (Epoch, God)>,
    /// The newest state any member has applied.
    pub newest: State,
    /// The revision of the last state that was looked at as a whole.
    pub(crate) looked_at: Revision,
    pub(crate) looks: cluster::invariants::Looks,
    pub checks: Checks,
    pub(crate) histories: Histories,
    pub(crate) rules: Rules,
    pub transcript: Transcript,
    pub counts: Counts,
    pub(crate) cluster: ClusterId,
    pub(crate) seed: u64,
    pub(crate) boots: u64,
    /// The foundation every member of the first hour starts from.
    pub(crate) chance: Chance,
    pub(crate) runtime_chance: Chance,
    pub(crate) parsed: crate::sim::mirror::Known,
    pub(crate) bodies: crate::sim::bodies::Bodies,
    pub(crate) healed: bool,
    /// Happenings since time last moved.
    pub(crate) standstill: u32,
}

/// What a run was made of.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub scheduled: u64,
    pub handled: u64,
    /// For a process that was gone, a session that was closed, a wake that was replaced.
    pub void: u64,
    /// Of messages, never scheduled.
    pub lost: u64,
    pub deeds: u64,
    pub deeds_idle: u64,
    /// By kind of deed.
    pub faults: BTreeMap<&'static str, u64>,
    pub trace: u64,
    /// Silence to the first start elsewhere, in nanoseconds; one a container moved by failover.
    pub failovers: Vec<u64>,
    pub transitions: BTreeMap<&'static str, u64>,
    pub coverage: Coverage,
}

impl Counts {
    pub(crate) fn mix(&mut self, word: u64) {
        self.trace = (self.trace ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
    }
}

/// More than ever happens at one moment, unless two processes keep each other busy without end.
const STANDSTILL: u32 = 50_000;
/// Every so many seconds the whole state is looked at, not only its steps.
const WHOLE_LOOK_S: u64 = 5;
/// Wall clocks begin here; nothing that matters looks at them.
pub(crate) const EPOCH_MS: u64 = 1_800_000_000_000;

impl World {
    // ── Time ───────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn at(&mut self, at: God, what: Happening) {
        self.counts.scheduled += 1;
        self.agenda.push(at.max(self.now), what);
    }

    pub(crate) fn after(&mut self, delay: u64, what: Happening) {
        self.at(self.now + delay, what);
    }

    /// The schedule is by time: only its next deed waits in the agenda.
    pub(crate) fn deed_is_due(&mut self, place: usize) {
        if let Some(timed) = self.plan.get(place) {
            self.at(timed.at, Happening::Deed(place));
        }
    }

    /// A little time, as things take.
    pub(crate) fn jitter(&mut self, about: u64) -> u64 {
        about / 2 + self.chance.below(about + 1)
    }

    /// Goes on until `until`, or until a promise is broken. A mind that panics has broken one.
    pub fn run(&mut self, until: God) {
        let whole = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while self.checks.first.is_none() {
                let Some((at, what)) = self.agenda.pop_by(until) else { break };
                self.standstill = if at > self.now { 0 } else { self.standstill + 1 };
                self.now = at;
                self.dispatch(what);
                if self.standstill > STANDSTILL {
                    self.checks.violate(at, "Livelock", format!("{STANDSTILL} happenings at one moment"));
                }
            }
        }));
        if let Err(panic) = whole {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            self.checks.violate(self.now, "Panic", text.unwrap_or("without a word").to_owned());
        } else if self.checks.first.is_none() {
            self.now = self.now.max(until);
        }
    }

    /// Nothing was scheduled and forgotten: the simulator's own conservation law.
    pub fn unaccounted(&self) -> i64 {
        let waiting: usize = self.machines.values().map(|machine| machine.waiting.len()).sum::<usize>()
            + self.members.values().map(|member| member.waiting.len()).sum::<usize>()
            + self.nodes.values().map(|node| node.waiting.len()).sum::<usize>();
        let known = self.counts.handled + self.counts.void + self.agenda.len() as u64 + waiting as u64;
        self.counts.scheduled as i64 - known as i64
    }

    fn dispatch(&mut self, what: Happening) {
        if let Some(site) = self.site_of(&what)
            && let Some(machine) = self.machines.get_mut(&site)
        {
            if !machine.powered {
                return self.void(what);
            }
            if machine.frozen_since.is_some() {
                return machine.waiting.push(what);
            }
        }
        let code = what.code();
        let now = self.now;
        self.counts.mix(now ^ (code << 56));
        match what {
            Happening::Deed(place) => {
                self.counts.handled += 1;
                self.deed_is_due(place + 1);
                let deed = self.plan[place].deed.clone();
                self.act_out(&deed);
            }
            Happening::Sweep => {
                self.counts.handled += 1;
                self.sweep();
                self.after(SECOND, Happening::Sweep);
            }
            Happening::Member { member, life, what } => self.member_event(member, life, what),
            Happening::Mail { member, mail } => self.mail(member, mail),
            Happening::Node { node, life, what } => self.node_event(node, life, what),
            Happening::Guard { node, life, what } => self.guard_event(node, life, what),
            Happening::Hands { node, boot, act } => self.hands(node, boot, act),
            Happening::Client { client, what } => {
                self.counts.handled += 1;
                self.client_event(client, what);
            }
            Happening::StartMember { member, life } => self.start_member(member, life),
            Happening::StartAgent { node, life } => self.start_agent(node, life),
            Happening::StartGuard { node, life } => self.start_guard(node, life),
            Happening::SessionEnds { link, end } => self.session_ends(link, end),
            Happening::Switch { member, life, node, incarnation } => self.switch_off(member, life, node, incarnation),
            Happening::SwitchOn { node } => self.switch_on(node),
            Happening::Booted { site } => {
                self.counts.handled += 1;
                self.power_on(site);
            }
            Happening::Operator => {
                self.counts.handled += 1;
                self.operate();
            }
        }
    }

    /// Counted as taken in, for a process that is gone.
    pub(crate) fn void(&mut self, what: Happening) {
        drop(what);
        self.counts.void += 1;
    }

    fn site_of(&self, what: &Happening) -> Option<Site> {
        match what {
            Happening::Member { member, .. }
            | Happening::Mail { member, .. }
            | Happening::StartMember { member, .. } => self.members.get(member).map(|member| member.site),
            Happening::Node { node, .. }
            | Happening::Guard { node, .. }
            | Happening::Hands { node, .. }
            | Happening::StartAgent { node, .. }
            | Happening::StartGuard { node, .. } => self.nodes.get(node).map(|node| node.site),
            Happening::Deed(_)
            | Happening::Sweep
            | Happening::Client { .. }
            | Happening::SessionEnds { .. }
            | Happening::Switch { .. }
            | Happening::SwitchOn { .. }
            | Happening::Booted { .. }
            | Happening::Operator => None,
        }
    }

    // ── The network ────────────────────────────────────────────────────────────────────────────────────────────────

    /// A message that stands alone. False if it was lost.
    pub(crate) fn toss(&mut self, from: Site, to: Site, mail: impl Fn() -> Happening) -> bool {
        match self.net.toss(from, to) {
            Fate::Lost => {
                self.counts.lost += 1;
                return false;
            }
            Fate::Once(delay) => self.after(delay, mail()),
            Fate::Twice(one, two) => {
                self.after(one, mail());
                self.after(two, mail());
            }
        }
        true
    }

    pub(crate) fn member_site(&self, member: MemberId) -> Site {
        self.members.get(&member).map_or(Site(0), |member| member.site)
    }

    pub(crate) fn node_site(&self, node: NodeId) -> Site {
        self.nodes.get(&node).map_or(Site(0), |node| node.site)
    }

    // ── Oracles over everything ────────────────────────────────────────────────────────────────────────────────────

    fn sweep(&mut self) {
        let (machines, now) = (&self.machines, self.now);
        self.checks.sweep(now, |site| machines[&site].standing(now));
        // Every step was looked at when it was taken. This costs a look at every object, and what it finds stays.
        let changed = self.looked_at != self.newest.revision();
        if (now / SECOND).is_multiple_of(WHOLE_LOOK_S) && changed {
            self.looked_at = self.newest.revision();
            for violation in self.looks.check(&self.newest) {
                self.checks.violate(now, "State", violation.to_string());
            }
        }
        self.judge_unheard();
    }

    pub(crate) fn note(&mut self, line: Line) {
        let now = self.now;
        self.transcript.note(now, line);
    }

    pub fn wall(&self) -> WallTime {
        WallTime(EPOCH_MS + self.now / MS)
    }

    /// As that machine's clock on the wall has it.
    pub(crate) fn wall_at(&self, site: Site) -> WallTime {
        let off = self.machines.get(&site).map_or(0, |machine| machine.wall_ms);
        WallTime(self.wall().0.saturating_add_signed(off))
    }

    /// The member that leads and may act, if one does: the one with the highest term.
    pub fn leader(&self) -> Option<MemberId> {
        let leads = |member: &&Member| {
            member.process.as_ref().is_some_and(|process| process.replica.is_leader())
                && self.machines[&member.site].lives()
                && !member.paused
                && member.generation == self.generation()
        };
        let term = |member: &&Member| member.process.as_ref().and_then(|process| process.led);
        self.members.values().filter(leads).max_by_key(term).map(|member| member.id)
    }

    /// Every voter of the newest applied membership.
    pub fn voters(&self) -> BTreeSet<MemberId> {
        self.newest.membership().all_voters().into_iter().collect()
    }
}
