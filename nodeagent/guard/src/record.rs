//! What must outlive the shared page: which incarnations were latched and which have ended, on disk.
//! In: notes the quiet loop puts into a pipe. Out: one small file per incarnation, synced, and then a bit in the slot.
//! A process of its own does the writing, because a disk may hang and the guard may not. It also prints the guard's
//! log, because a log reader may hang as well.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::pipe::PipeFlags;
use rustix::process::Signal;

use crate::slot::{LatchReason, Slot, entries, entry};
use crate::sys::{self, Fork};

/// Files of older incarnations than the newest so many are removed at a start.
const KEPT: usize = 64;

/// One incarnation on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub incarnation: u64,
    /// The boot it was of.
    pub boot_id: String,
    pub reason: LatchReason,
    /// Nothing of policy `stop` was left.
    pub ended: bool,
}

/// What the quiet loop tells the scribe. Four words each, so that a write to the pipe is never torn.
#[derive(Clone, Copy)]
pub(crate) enum Note {
    Latched { incarnation: u64, reason: u64, late_ns: u64 },
    Dead { incarnation: u64, after_ns: u64 },
    Overdue { incarnation: u64, needed: u64 },
    Rehearsed { after_ns: u64, in_time: bool, left: u64 },
    NamespaceReady { incarnation: u64, policy: u64 },
    NamespaceLost { incarnation: u64, policy: u64 },
    TermsTaken { lease_ms: u64, kill_ms: u64 },
    AgentSilent { pid: u64, silence_ns: u64 },
}

impl Note {
    fn words(self) -> [u64; 4] {
        match self {
            Note::Latched { incarnation, reason, late_ns } => [1, incarnation, reason, late_ns],
            Note::Dead { incarnation, after_ns } => [2, incarnation, after_ns, 0],
            Note::Overdue { incarnation, needed } => [3, incarnation, needed, 0],
            Note::NamespaceReady { incarnation, policy } => [4, incarnation, policy, 0],
            Note::NamespaceLost { incarnation, policy } => [5, incarnation, policy, 0],
            Note::TermsTaken { lease_ms, kill_ms } => [6, lease_ms, kill_ms, 0],
            Note::AgentSilent { pid, silence_ns } => [7, pid, silence_ns, 0],
            Note::Rehearsed { after_ns, in_time, left } => [8, after_ns, in_time.into(), left],
        }
    }

    fn from_words(words: [u64; 4]) -> Option<Note> {
        let [kind, first, second, third] = words;
        Some(match kind {
            1 => Note::Latched { incarnation: first, reason: second, late_ns: third },
            2 => Note::Dead { incarnation: first, after_ns: second },
            3 => Note::Overdue { incarnation: first, needed: second },
            4 => Note::NamespaceReady { incarnation: first, policy: second },
            5 => Note::NamespaceLost { incarnation: first, policy: second },
            6 => Note::TermsTaken { lease_ms: first, kill_ms: second },
            7 => Note::AgentSilent { pid: first, silence_ns: second },
            8 => Note::Rehearsed { after_ns: first, in_time: second != 0, left: third },
            _ => return None,
        })
    }

    fn line(self) -> String {
        let milliseconds = |ns: u64| ns as f64 / 1e6;
        let policy = |number: u64| if number == 0 { "stop" } else { "keep" };
        match self {
            Note::Latched { incarnation, reason, late_ns } => format!(
                "WARN incarnation {incarnation}: running -> latched ({}), {:.2} ms after it was due",
                LatchReason::from_number(reason).map_or("unknown", LatchReason::word),
                milliseconds(late_ns)
            ),
            Note::Dead { incarnation, after_ns } => {
                format!(
                    "INFO incarnation {incarnation}: latched -> ended, {:.2} ms after the latch",
                    milliseconds(after_ns)
                )
            }
            Note::Overdue { incarnation, needed } => {
                format!(
                    "ERROR incarnation {incarnation}: not ended within K and no reboot allowed; this node is not F1 before \
                     {needed} rehearsals in a row were"
                )
            }
            Note::Rehearsed { after_ns, in_time, left } => {
                let level = if in_time { "INFO" } else { "WARN" };
                let what = match (in_time, left) {
                    (true, 0) => "this node is F1 again".to_owned(),
                    (true, left) => format!("{left} more to be F1 again"),
                    (false, left) => format!("that is beyond K: {left} in a row to be F1 again"),
                };
                format!("{level} rehearsed an end: done {:.2} ms after it was due; {what}", milliseconds(after_ns))
            }
            Note::NamespaceReady { incarnation, policy: number } => {
                format!("INFO incarnation {incarnation}: namespace for {} workloads is ready", policy(number))
            }
            Note::NamespaceLost { incarnation, policy: number } => {
                format!("ERROR incarnation {incarnation}: namespace for {} workloads is lost", policy(number))
            }
            Note::TermsTaken { lease_ms, kill_ms } => format!("INFO terms in force: L {lease_ms} ms, K {kill_ms} ms"),
            Note::AgentSilent { pid, silence_ns } => {
                format!("WARN agent {pid} has not ticked for {:.0} ms", milliseconds(silence_ns))
            }
        }
    }
}

/// The guard's end of the pipe.
pub(crate) struct Scribe {
    pub pid: i32,
    /// Taken away in children.
    pipe: Option<OwnedFd>,
}

impl Scribe {
    /// Forks the scribe. It ends with the guard, or when the pipe closes.
    pub(crate) fn start(slot: &Slot, state_dir: &Path) -> io::Result<Scribe> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // SAFETY: the guard has one thread.
        match unsafe { sys::fork_into(0, None) }? {
            Fork::Parent { pid, .. } => {
                // Only our end: the scribe waits for notes, the guard never waits for the scribe.
                rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK)?;
                Ok(Scribe { pid, pipe: Some(writer) })
            }
            Fork::Child => {
                drop(writer);
                let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
                let _ = rustix::thread::set_name(c"quorate-scribe");
                scribe(slot, state_dir, reader.into());
                std::process::exit(0);
            }
        }
    }

    /// Notes something without ever waiting. False when the pipe is full or the scribe is gone: say it again later.
    pub(crate) fn note(&self, note: Note) -> bool {
        let mut bytes = [0u8; 32];
        for (place, word) in bytes.chunks_exact_mut(8).zip(note.words()) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        self.pipe.as_ref().is_some_and(|pipe| matches!(rustix::io::write(pipe, &bytes), Ok(32)))
    }

    /// In a child: the scribe is to see the end of its pipe when the guard ends, whoever lives on.
    pub(crate) fn let_go(&mut self) {
        self.pipe = None;
    }
}

fn scribe(slot: &Slot, state_dir: &Path, mut notes: fs::File) {
    let boot_id = sys::boot_id();
    let mut bytes = [0u8; 32];
    while notes.read_exact(&mut bytes).is_ok() {
        let mut words = [0u64; 4];
        for (word, place) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(place.try_into().expect("chunks of eight"));
        }
        let Some(note) = Note::from_words(words) else { continue };
        let written = match note {
            Note::Latched { incarnation, reason, .. } => {
                let reason = LatchReason::from_number(reason).unwrap_or(LatchReason::Agent);
                Some((
                    incarnation,
                    1,
                    append(state_dir, incarnation, &format!("latched {} {boot_id}\n", reason.word())),
                ))
            }
            Note::Dead { incarnation, .. } => Some((incarnation, 2, append(state_dir, incarnation, "ended stop\n"))),
            _ => None,
        };
        match written {
            Some((incarnation, bit, Ok(()))) => {
                for at in entries().filter(|at| slot.read(at + entry::INCARNATION) == incarnation) {
                    slot.word(at + entry::RECORDED).fetch_or(bit, Ordering::AcqRel);
                }
            }
            Some((incarnation, _, Err(error))) => {
                say(&format!("ERROR incarnation {incarnation}: its record could not be written: {error}"));
            }
            None => {}
        }
        say(&note.line());
    }
}

fn say(line: &str) {
    let _ = writeln!(io::stderr(), "quorate-guard: {line}");
}

fn file_of(state_dir: &Path, incarnation: u64) -> PathBuf {
    state_dir.join(format!("incarnation-{incarnation}"))
}

/// Adds a line unless it is there, and returns when it is on disk, the name of the file included.
fn append(state_dir: &Path, incarnation: u64, line: &str) -> io::Result<()> {
    let mut file = fs::File::options().read(true).append(true).create(true).open(file_of(state_dir, incarnation))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    if !text.ends_with('\n') && !text.is_empty() {
        // A torn line of an earlier life: end it, so that ours stands alone.
        file.write_all(b"\n")?;
    }
    if !text.lines().any(|present| present == line.trim_end()) {
        file.write_all(line.as_bytes())?;
    }
    file.sync_all()?;
    fs::File::open(state_dir)?.sync_all()
}

/// All records in `state_dir`, by rising incarnation. Torn or foreign files are left out: what is not readable is not
/// proof. A missing folder is an empty one.
pub fn read(state_dir: &Path) -> io::Result<Vec<Record>> {
    let entries = match fs::read_dir(state_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut records = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_prefix("incarnation-")).and_then(|text| text.parse().ok());
        if let Some(incarnation) = number {
            records.extend(parse(incarnation, &fs::read_to_string(entry.path())?));
        }
    }
    records.sort_by_key(|record| record.incarnation);
    Ok(records)
}

fn parse(incarnation: u64, text: &str) -> Option<Record> {
    // Only whole lines count: the line end is written with the line.
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let mut latched = whole.lines().filter_map(|line| {
        let (reason, boot_id) = line.strip_prefix("latched ")?.split_once(' ')?;
        let reason = (1..=3).filter_map(LatchReason::from_number).find(|known| known.word() == reason)?;
        Some((reason, boot_id.to_owned()))
    });
    let (reason, boot_id) = latched.next()?;
    Some(Record { incarnation, boot_id, reason, ended: whole.lines().any(|line| line == "ended stop") })
}

/// Removes all but the newest records.
pub(crate) fn prune(state_dir: &Path) -> io::Result<()> {
    let records = read(state_dir)?;
    for old in records.iter().rev().skip(KEPT) {
        fs::remove_file(file_of(state_dir, old.incarnation))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_torn_lines_are_no_proof() {
        let folder = tempfile::tempdir().expect("temporary folder");
        append(folder.path(), 7, "latched deadline boot-a\n").expect("append");
        append(folder.path(), 7, "latched deadline boot-a\n").expect("append");
        append(folder.path(), 9, "latched agent boot-a\n").expect("append");
        append(folder.path(), 9, "ended stop\n").expect("append");
        let torn = file_of(folder.path(), 8);
        fs::write(&torn, "latched agent boot-a\nended stop").expect("write");
        fs::write(folder.path().join("incarnation-x"), "ended stop\n").expect("write");
        let records = read(folder.path()).expect("read");
        assert_eq!(
            records.iter().map(|record| (record.incarnation, record.reason, record.ended)).collect::<Vec<_>>(),
            [(7, LatchReason::Deadline, false), (8, LatchReason::Agent, false), (9, LatchReason::Agent, true)]
        );
        append(folder.path(), 8, "ended stop\n").expect("append");
        assert!(read(folder.path()).expect("read")[1].ended);
        assert_eq!(fs::read_to_string(file_of(folder.path(), 7)).expect("read").lines().count(), 1);
    }

    #[test]
    fn only_old_records_are_pruned() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for incarnation in 1..=KEPT as u64 + 2 {
            fs::write(file_of(folder.path(), incarnation), "latched agent b\n").expect("write");
        }
        prune(folder.path()).expect("prune");
        let left = read(folder.path()).expect("read");
        assert_eq!((left.len(), left[0].incarnation), (KEPT, 3));
    }
}
