//! The shared page between agent and guard: who may run until when, and what became of it.
//! In: the agent's deadlines, latches and wishes. Out: the guard's ticks, facts, latches and records.
//! Shape: 4096 bytes of 64-bit words in native order, every word an atomic with one writer (both sides may set
//! `latched`, which never goes back). No word depends on another being read at the same moment, so there is no lock
//! for a stopped process to hold. Absent: no deadline is ever moved by the guard.
//!
//! | word | name | writer | meaning |
//! |---|---|---|---|
//! | 0 | magic | guard | "QRTGUARD" |
//! | 1 | version | guard | 1 |
//! | 2 | guard pid | guard | |
//! | 3 | guard tick | guard | boot time in ns, at least every 20 ms |
//! | 4 | facts | guard | bits, see `facts` |
//! | 5 | terms in force | guard | lease ms << 32, K ms |
//! | 6 | lateness | guard | the latest it ever woke after a deadline or tick, ns |
//! | 7 | guard starts | guard | counted, re-executions included |
//! | 8 | agent pid | agent | |
//! | 9 | agent tick | agent | boot time in ns |
//! | 10 | terms wanted | agent | as word 5 |
//! | 11 | margin wanted | agent | μ in ms; lateness above it is a warning |
//! | 12 | highest opened | agent | no incarnation at or below it is ever opened again |
//! | 13 | re-execution wanted | agent | counts up |
//! | 14 | re-execution done | guard | follows word 13; the high bit says that the self-test refused |
//!
//! From word 64 on eight entries of 16 words, one per incarnation: see `entry`.

mod error;
mod shown;

use std::io;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::Policy;
use crate::sys::boottime_ns;
pub use error::SlotError;
pub use shown::{FencingClass, IncarnationState, LatchReason, NamespaceState, Overrun, SlotState, Terms};

pub const SLOT_BYTES: usize = 4096;
pub const SLOT_VERSION: u64 = 1;
/// More than ever live at once: one current, one ending, and some whose record waits for the disk.
pub const ENTRIES: usize = 8;

const MAGIC: u64 = u64::from_be_bytes(*b"QRTGUARD");
const ENTRY_BASE: usize = 64;
const ENTRY_WORDS: usize = 16;

/// Words of the header.
mod header {
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 1;
    pub const GUARD_PID: usize = 2;
    pub const GUARD_TICK: usize = 3;
    pub const FACTS: usize = 4;
    pub const TERMS: usize = 5;
    pub const LATENESS: usize = 6;
    pub const STARTS: usize = 7;
    pub const AGENT_PID: usize = 8;
    pub const AGENT_TICK: usize = 9;
    pub const TERMS_WANTED: usize = 10;
    pub const MARGIN_WANTED: usize = 11;
    pub const HIGHEST: usize = 12;
    pub const REEXEC_WANTED: usize = 13;
    pub const REEXEC_DONE: usize = 14;
}

/// Words of one entry. `+ policy` where there is one per policy.
pub(crate) mod entry {
    /// Agent: 0 while free.
    pub const INCARNATION: usize = 0;
    /// Agent: boot time in ns; 0 until the first lease.
    pub const DEADLINE: usize = 1;
    /// Either: 0 or a `LatchReason`. Never goes back.
    pub const LATCHED: usize = 2;
    /// Guard: boot time in ns at which nothing of policy `stop` was left.
    pub const DEAD_AT: usize = 3;
    /// Guard: bit 0 latch on disk, bit 1 end on disk.
    pub const RECORDED: usize = 4;
    /// Guard: boot time in ns at which K was over and something still lived.
    pub const OVERDUE_AT: usize = 5;
    /// Agent: counts requests for a namespace, per policy.
    pub const WANTED: usize = 6;
    /// Guard: the request it last served, per policy.
    pub const SERVED: usize = 8;
    /// Guard: `NamespaceState` number, per policy.
    pub const NAMESPACE: usize = 10;
    /// Guard: pid of the namespace's init, per policy.
    pub const INIT_PID: usize = 12;
    /// Guard: when that init was started, in clock ticks, per policy.
    pub const INIT_TICKS: usize = 14;
}

/// What the guard found out about this machine at its start.
pub mod facts {
    pub const PID_NAMESPACE: u64 = 1 << 0;
    pub const USER_NAMESPACE: u64 = 1 << 1;
    pub const CGROUP_KILL: u64 = 1 << 2;
    pub const MEMORY_LOCKED: u64 = 1 << 3;
    pub const REALTIME: u64 = 1 << 4;
    pub const REBOOT_ALLOWED: u64 = 1 << 5;
    pub const WATCHDOG: u64 = 1 << 6;
    /// An end was not done within K, no reboot was allowed, and rehearsals have not yet shown that it was an exception.
    pub const WAS_OVERDUE: u64 = 1 << 7;
    /// From this bit on, eight: rehearsals in a row that were done in time since.
    pub(super) const REHEARSED: u32 = 8;
    /// From this bit on, eight: how often an end overran, since the boot, as far as it can be counted.
    pub(super) const OVERRUNS: u32 = 16;
    /// What another life of the guard does not wash off.
    pub(super) const KEPT: u64 = WAS_OVERDUE | 0xff << REHEARSED | 0xff << OVERRUNS;
}

/// The mapped page. The agent is its only writer of deadlines; see the table above for the rest.
pub struct Slot {
    words: NonNull<AtomicU64>,
}

// SAFETY: the mapping holds atomics only and lives until drop.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size; nobody else unmaps it.
        let _ = unsafe { rustix::mm::munmap(self.words.as_ptr().cast(), SLOT_BYTES) };
    }
}

impl Slot {
    /// The slot at `path`, made where there is none. The guard's call. An existing slot keeps its contents.
    pub fn create(path: &Path) -> Result<Slot, SlotError> {
        let io = |operation| move |source: io::Error| SlotError::Io { operation, path: path.to_owned(), source };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|error| io("open")(error.into()))?;
        let stat = rustix::fs::fstat(&file).map_err(|error| io("look at")(error.into()))?;
        if stat.st_size < SLOT_BYTES as i64 {
            rustix::fs::ftruncate(&file, SLOT_BYTES as u64).map_err(|error| io("size")(error.into()))?;
        }
        let slot = Slot::map(&file).map_err(io("map"))?;
        if slot.read(header::MAGIC) == 0 {
            slot.write(header::VERSION, SLOT_VERSION);
            slot.write(header::MAGIC, MAGIC);
        }
        slot.check_layout(path)?;
        Ok(slot)
    }

    /// The slot a guard has made. The agent's call. Errs with `Io` (not found) until the guard has started.
    pub fn open(path: &Path) -> Result<Slot, SlotError> {
        let io = |operation| move |source: io::Error| SlotError::Io { operation, path: path.to_owned(), source };
        let file = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| io("open")(error.into()))?;
        let stat = rustix::fs::fstat(&file).map_err(|error| io("look at")(error.into()))?;
        if stat.st_size < SLOT_BYTES as i64 {
            return Err(SlotError::Layout { path: path.to_owned(), version: 0 });
        }
        let slot = Slot::map(&file).map_err(io("map"))?;
        slot.check_layout(path)?;
        Ok(slot)
    }

    fn map(file: &rustix::fd::OwnedFd) -> io::Result<Slot> {
        // SAFETY: a fresh shared mapping of a file that is at least this long; only atomics are ever read from it.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                SLOT_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )
        }?;
        Ok(Slot { words: NonNull::new(base.cast()).expect("the kernel never maps at address 0") })
    }

    fn check_layout(&self, path: &Path) -> Result<(), SlotError> {
        match (self.read(header::MAGIC), self.read(header::VERSION)) {
            (MAGIC, SLOT_VERSION) => Ok(()),
            (_, version) => Err(SlotError::Layout { path: path.to_owned(), version }),
        }
    }

    // ---- the agent's side ----

    /// Says that the agent lives. At least every 100 ms, so that a stopped agent is seen.
    pub fn agent_tick(&self) {
        self.write(header::AGENT_PID, u64::from(std::process::id()));
        self.write(header::AGENT_TICK, boottime_ns());
    }

    /// Makes room for `incarnation` and asks for the namespaces of both policies. Nothing can be started in it before
    /// its first deadline. Errs with `Reused` and `Full`; the same incarnation again is no error.
    pub fn open_incarnation(&self, incarnation: u64) -> Result<(), SlotError> {
        if self.find(incarnation).is_some() {
            return Ok(());
        }
        let highest = self.read(header::HIGHEST);
        if incarnation <= highest {
            return Err(SlotError::Reused { incarnation, highest });
        }
        let at = self.entry_to_recycle().ok_or(SlotError::Full)?;
        // The number goes first and comes last, so that the guard never sees it with words of another.
        self.write(at + entry::INCARNATION, 0);
        for word in 1..ENTRY_WORDS {
            self.write(at + word, 0);
        }
        for policy in Policy::ALL {
            self.write(at + entry::WANTED + policy as usize, 1);
        }
        self.write(header::HIGHEST, incarnation);
        self.write(at + entry::INCARNATION, incarnation);
        Ok(())
    }

    /// Asks for a fresh namespace after `NamespaceState::Lost` or `Failed`.
    pub fn ask_namespace(&self, incarnation: u64, policy: Policy) -> Result<(), SlotError> {
        let at = self.find(incarnation).ok_or(SlotError::Unknown { incarnation })?;
        let served = self.read(at + entry::SERVED + policy as usize);
        self.write(at + entry::WANTED + policy as usize, served + 1);
        Ok(())
    }

    /// Moves the deadline of `incarnation` (boot time in ns) forward. An earlier one than it has is ignored: a lease
    /// once earned is never shortened; one beyond now + L of the terms wanted is cut to that.
    pub fn set_deadline(&self, incarnation: u64, deadline_ns: u64) -> Result<(), SlotError> {
        let at = self.find(incarnation).ok_or(SlotError::Unknown { incarnation })?;
        if self.read(at + entry::LATCHED) != 0 {
            return Err(SlotError::Latched { incarnation });
        }
        let deadline_ns = deadline_ns.min(self.furthest_deadline());
        self.word(at + entry::DEADLINE).fetch_max(deadline_ns, Ordering::AcqRel);
        Ok(())
    }

    /// Wants `terms` in force: cuts every deadline to now + L, then asks the guard. Only when `terms_in_force` answers
    /// the same may the agent name them in a heartbeat.
    pub fn want_terms(&self, terms: Terms, margin_ms: u32) {
        self.write(header::MARGIN_WANTED, u64::from(margin_ms));
        self.write(header::TERMS_WANTED, terms.pack());
        let furthest = self.furthest_deadline();
        for at in entries() {
            self.word(at + entry::DEADLINE).fetch_min(furthest, Ordering::AcqRel);
        }
    }

    /// The terms the guard enforces now.
    pub fn terms_in_force(&self) -> Terms {
        Terms::unpack(self.read(header::TERMS))
    }

    /// Ends `incarnation` for ever: the guard ends its `stop` workloads and records it. Say nothing to anybody before
    /// `latch_recorded`, and "ended" only after `ended`.
    pub fn latch(&self, incarnation: u64) -> Result<(), SlotError> {
        let at = self.find(incarnation).ok_or(SlotError::Unknown { incarnation })?;
        self.set_latch(at, LatchReason::Agent);
        Ok(())
    }

    /// One incarnation; `None` when it was never opened here or its entry has been used again.
    pub fn incarnation(&self, incarnation: u64) -> Option<IncarnationState> {
        self.find(incarnation).and_then(|at| self.entry_state(at))
    }

    /// Everything at a glance. Words of different entries may be of slightly different moments.
    pub fn state(&self) -> SlotState {
        SlotState {
            guard_pid: self.read(header::GUARD_PID) as i32,
            guard_tick_ns: self.read(header::GUARD_TICK),
            lateness_ns: self.read(header::LATENESS),
            guard_starts: self.read(header::STARTS),
            agent_pid: self.read(header::AGENT_PID) as i32,
            agent_tick_ns: self.read(header::AGENT_TICK),
            facts: self.read(header::FACTS),
            terms: self.terms_in_force(),
            incarnations: entries().filter_map(|at| self.entry_state(at)).collect(),
        }
    }

    /// Bits as in `facts`, and what is counted of overruns: another value, another class or another reason for it.
    pub fn facts(&self) -> u64 {
        self.read(header::FACTS)
    }

    /// How long the guard has not ticked, in ns. Above 200 ms it is stopped, starved or dead.
    pub fn guard_silence_ns(&self) -> u64 {
        boottime_ns().saturating_sub(self.read(header::GUARD_TICK))
    }

    /// Asks the guard to become its own newer binary. `reexec_outcome` tells.
    pub fn ask_reexec(&self) {
        self.word(header::REEXEC_WANTED).fetch_add(1, Ordering::AcqRel);
    }

    /// `None` while a re-execution is under way; otherwise whether the last one was done (true) or refused by the
    /// self-test of the new binary (false).
    pub fn reexec_outcome(&self) -> Option<bool> {
        let done = self.read(header::REEXEC_DONE);
        (done & !REFUSED == self.read(header::REEXEC_WANTED)).then_some(done & REFUSED == 0)
    }

    // ---- the guard's side ----

    pub(crate) fn guard_begins(&self, facts: u64) {
        self.write(header::GUARD_PID, u64::from(std::process::id()));
        let kept = self.read(header::FACTS) & facts::KEPT;
        self.write(header::FACTS, facts | kept);
        self.word(header::STARTS).fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn guard_tick(&self, now_ns: u64) {
        self.write(header::GUARD_TICK, now_ns);
    }

    pub(crate) fn note_lateness(&self, late_ns: u64) {
        self.word(header::LATENESS).fetch_max(late_ns, Ordering::AcqRel);
    }

    /// An end that overran and was not made up for.
    pub(crate) fn overrun(&self) -> Option<Overrun> {
        Overrun::read(self.facts())
    }

    /// An end overran: how many rehearsals in a row it takes now.
    pub(crate) fn overran(&self) -> u8 {
        let facts = self.facts();
        let times = ((facts >> facts::OVERRUNS) as u8).saturating_add(1);
        self.note_overrun(facts | facts::WAS_OVERDUE, Overrun { times, rehearsed: 0 });
        Overrun { times, rehearsed: 0 }.needed()
    }

    /// An end was rehearsed: how many more it takes. The last one needed makes up for the overrun.
    pub(crate) fn rehearsed(&self, in_time: bool) -> u8 {
        let Some(overrun) = self.overrun() else { return 0 };
        let rehearsed = if in_time { overrun.rehearsed + 1 } else { 0 };
        let left = overrun.needed().saturating_sub(rehearsed);
        match left {
            0 => self.note_overrun(self.facts() & !facts::WAS_OVERDUE, Overrun { rehearsed: 0, ..overrun }),
            _ => self.note_overrun(self.facts(), Overrun { rehearsed, ..overrun }),
        }
        left
    }

    fn note_overrun(&self, facts: u64, Overrun { times, rehearsed }: Overrun) {
        let cleared = facts & !(0xff << facts::REHEARSED | 0xff << facts::OVERRUNS);
        let counted = u64::from(rehearsed) << facts::REHEARSED | u64::from(times) << facts::OVERRUNS;
        self.write(header::FACTS, cleared | counted);
    }

    /// The agent's pid and its last tick, 0 before the first.
    pub(crate) fn agent_last(&self) -> (u64, u64) {
        (self.read(header::AGENT_PID), self.read(header::AGENT_TICK))
    }

    pub(crate) fn terms_wanted(&self) -> Option<Terms> {
        Some(self.read(header::TERMS_WANTED)).filter(|word| *word != 0).map(Terms::unpack)
    }

    pub(crate) fn terms_taken(&self, terms: Terms) {
        self.write(header::TERMS, terms.pack());
    }

    pub(crate) fn reexec_asked(&self) -> bool {
        self.read(header::REEXEC_DONE) & !REFUSED != self.read(header::REEXEC_WANTED)
    }

    pub(crate) fn reexec_answered(&self, refused: bool) {
        let wanted = self.read(header::REEXEC_WANTED);
        self.write(header::REEXEC_DONE, if refused { wanted | REFUSED } else { wanted });
    }

    /// Sets the latch unless it is set; the first reason stays.
    pub(crate) fn set_latch(&self, at: usize, reason: LatchReason) {
        let _ = self.word(at + entry::LATCHED).compare_exchange(0, reason as u64, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Whether a workload may be started under `incarnation` now: it holds a lease and is not latched. Asked by the
    /// starter itself, so that a late command of a late agent starts nothing.
    pub fn may_start(&self, incarnation: u64) -> bool {
        self.find(incarnation)
            .is_some_and(|at| self.read(at + entry::LATCHED) == 0 && boottime_ns() < self.read(at + entry::DEADLINE))
    }

    pub(crate) fn read(&self, word: usize) -> u64 {
        self.word(word).load(Ordering::Acquire)
    }

    pub(crate) fn write(&self, word: usize, value: u64) {
        self.word(word).store(value, Ordering::Release);
    }

    pub(crate) fn word(&self, word: usize) -> &AtomicU64 {
        assert!(word < SLOT_BYTES / 8, "word {word} lies outside the slot");
        // SAFETY: in bounds of the mapping, aligned, and only ever accessed as an atomic.
        unsafe { self.words.add(word).as_ref() }
    }

    fn furthest_deadline(&self) -> u64 {
        let lease_ms = self.terms_wanted().map_or(u32::MAX, |terms| terms.lease_ms);
        boottime_ns().saturating_add(u64::from(lease_ms) * 1_000_000)
    }

    fn find(&self, incarnation: u64) -> Option<usize> {
        entries().find(|at| incarnation != 0 && self.read(at + entry::INCARNATION) == incarnation)
    }

    /// A free entry, else the one with the oldest incarnation whose end is on disk.
    fn entry_to_recycle(&self) -> Option<usize> {
        entries()
            .filter(|at| self.read(at + entry::INCARNATION) == 0 || self.read(at + entry::RECORDED) & 2 != 0)
            .min_by_key(|at| self.read(at + entry::INCARNATION))
    }

    pub(crate) fn entry_state(&self, at: usize) -> Option<IncarnationState> {
        let incarnation = self.read(at + entry::INCARNATION);
        let some = |word| Some(self.read(at + word)).filter(|value| *value != 0);
        let recorded = self.read(at + entry::RECORDED);
        let state = IncarnationState {
            incarnation,
            deadline_ns: self.read(at + entry::DEADLINE),
            latched: LatchReason::from_number(self.read(at + entry::LATCHED)),
            latch_recorded: recorded & 1 != 0,
            dead_at_ns: some(entry::DEAD_AT),
            ended: recorded & 2 != 0,
            overdue_at_ns: some(entry::OVERDUE_AT),
            namespace: Policy::ALL
                .map(|policy| NamespaceState::from_number(self.read(at + entry::NAMESPACE + policy as usize))),
            init_pid: Policy::ALL.map(|policy| self.read(at + entry::INIT_PID + policy as usize) as i32),
        };
        // Read again: the agent may have given the entry to another incarnation in between.
        (incarnation != 0 && self.read(at + entry::INCARNATION) == incarnation).then_some(state)
    }
}

const _: () = assert!((ENTRY_BASE + ENTRIES * ENTRY_WORDS) * 8 <= SLOT_BYTES && entry::INIT_TICKS + 2 <= ENTRY_WORDS);
/// In the word of the last re-execution.
const REFUSED: u64 = 1 << 63;

/// First words of the entries.
pub(crate) fn entries() -> impl Iterator<Item = usize> {
    (0..ENTRIES).map(|index| ENTRY_BASE + index * ENTRY_WORDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> (tempfile::TempDir, Slot) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let slot = Slot::create(&folder.path().join("slot")).expect("slot");
        (folder, slot)
    }

    #[test]
    fn another_layout_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("slot");
        std::fs::write(&path, [7u8; SLOT_BYTES]).expect("write");
        assert!(matches!(Slot::create(&path), Err(SlotError::Layout { .. })));
        assert!(matches!(Slot::open(&path), Err(SlotError::Layout { .. })));
        assert_eq!(std::fs::read(&path).expect("read"), [7u8; SLOT_BYTES]);
        std::fs::write(&path, b"short").expect("write");
        assert!(matches!(Slot::open(&path), Err(SlotError::Layout { version: 0, .. })));
    }

    #[test]
    fn deadline_never_moves_back_and_never_beyond_the_terms() {
        let (_folder, slot) = slot();
        slot.open_incarnation(5).expect("open");
        let now = boottime_ns();
        slot.set_deadline(5, now + 2_000_000_000).expect("set");
        slot.set_deadline(5, now + 1_000_000_000).expect("set");
        assert_eq!(slot.incarnation(5).expect("known").deadline_ns, now + 2_000_000_000);
        slot.want_terms(Terms { lease_ms: 500, kill_ms: 250 }, 100);
        assert!(slot.incarnation(5).expect("known").deadline_ns <= boottime_ns() + 500_000_000);
        slot.set_deadline(5, u64::MAX).expect("set");
        assert!(slot.incarnation(5).expect("known").deadline_ns <= boottime_ns() + 500_000_000);
    }

    #[test]
    fn latched_incarnation_gets_no_deadline_and_starts_nothing() {
        let (_folder, slot) = slot();
        slot.open_incarnation(5).expect("open");
        assert!(!slot.may_start(5), "no lease yet");
        slot.set_deadline(5, boottime_ns() + 3_600_000_000_000).expect("set");
        assert!(slot.may_start(5));
        slot.latch(5).expect("latch");
        assert!(!slot.may_start(5));
        assert!(matches!(slot.set_deadline(5, u64::MAX), Err(SlotError::Latched { incarnation: 5 })));
    }

    #[test]
    fn incarnations_are_never_reused_and_entries_only_after_their_record() {
        let (_folder, slot) = slot();
        for incarnation in 1..=ENTRIES as u64 {
            slot.open_incarnation(incarnation).expect("open");
        }
        assert!(matches!(slot.open_incarnation(100), Err(SlotError::Full)));
        let at = slot.find(3).expect("entry");
        slot.write(at + entry::RECORDED, 1);
        assert!(matches!(slot.open_incarnation(100), Err(SlotError::Full)));
        slot.write(at + entry::RECORDED, 3);
        slot.open_incarnation(100).expect("open");
        assert_eq!(slot.incarnation(3), None);
        let fresh = slot.incarnation(100).expect("known");
        assert_eq!((fresh.latched, fresh.ended, fresh.deadline_ns), (None, false, 0));
        assert!(matches!(slot.open_incarnation(3), Err(SlotError::Reused { incarnation: 3, highest: 100 })));
    }

    #[test]
    fn without_a_pid_namespace_the_class_is_f0() {
        let (_folder, slot) = slot();
        slot.guard_begins(facts::CGROUP_KILL);
        assert!(!slot.state().fencing_class().enforced);
        slot.guard_begins(facts::PID_NAMESPACE);
        assert!(slot.state().fencing_class().enforced);
    }

    #[test]
    fn class_lost_by_an_overrun_returns_with_rehearsals_in_a_row_twice_as_many_each_time() {
        let (_folder, slot) = slot();
        slot.guard_begins(facts::PID_NAMESPACE);
        assert_eq!(slot.overran(), 3);
        assert!(!slot.state().fencing_class().enforced);
        assert_eq!((slot.rehearsed(true), slot.rehearsed(true)), (2, 1));
        assert_eq!(slot.rehearsed(false), 3, "only those in a row count");
        slot.guard_begins(facts::PID_NAMESPACE | facts::CGROUP_KILL);
        assert!(!slot.state().fencing_class().enforced, "a restart does not wash it off");
        assert_eq!((slot.rehearsed(true), slot.rehearsed(true)), (2, 1));
        let reason = slot.state().fencing_class().reason;
        assert!(reason.contains("2 of 3 rehearsals"), "{reason}");
        assert_eq!(slot.rehearsed(true), 0);
        let class = slot.state().fencing_class();
        assert!(class.enforced && class.reason.ends_with("class lost 1 times and shown again"), "{class:?}");
        assert_eq!(slot.rehearsed(true), 0, "nothing is left to be shown");

        assert_eq!(slot.overran(), 6);
        assert_eq!((1..=6).map(|_| slot.rehearsed(true)).collect::<Vec<_>>(), [5, 4, 3, 2, 1, 0]);
        assert!(slot.state().fencing_class().enforced);
        let needed: Vec<u8> = (0..300).map(|_| slot.overran()).collect();
        assert_eq!(needed[..5], [12, 24, 48, 96, 96]);
        assert_eq!(needed.last(), Some(&96), "counted as far as it can be");
        assert_eq!(slot.state().facts & 0xff, facts::PID_NAMESPACE | facts::CGROUP_KILL | facts::WAS_OVERDUE);
    }
}
