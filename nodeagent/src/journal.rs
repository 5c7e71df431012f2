//! Keeps the mind's journal on disk. In: records, in order. Out: word that everything up to one is durable, and at the
//! next start the sum of them.
//! Shape of the file: magic, then frames. A frame is a header of 16 bytes (marker, length, checksum of these two,
//! checksum of what follows) and JSON: the first frame is the sum at that time, every other a batch of records. A batch
//! is one frame and is synced before the next is written, so a loss of power tears at most the last frame, and tears it
//! short or to zeros: anything else is damage, and a damaged journal is never trusted for a part.
//! Absent: no decision about what is written; see `decide::journal`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use decide::{Journal, Record};
use rustix::fs::FlockOperation;

use crate::durable;

const MAGIC: &[u8; 8] = b"QRTJRNL1";
const MARKER: u32 = 0x4a52_4e4c;
const HEADER_BYTES: usize = 16;
/// Below this the file is not worth rewriting.
const COMPACT_BYTES: u64 = 256 << 10;
/// How soon a failed write is tried again, in a new file.
const RETRY: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("state folder {path} is in use by another agent: stop that one, or give this one its own --state-dir")]
    Locked { path: PathBuf },
}

/// Held for as long as the agent may write to its state folder. Taken before anything is read from it.
pub struct StateLock {
    _file: File,
}

impl StateLock {
    pub fn take(state_dir: &Path) -> Result<StateLock, JournalError> {
        let path = state_dir.join("lock");
        let io = |operation| {
            let path = path.clone();
            move |source| JournalError::Io { operation, path, source }
        };
        fs::create_dir_all(state_dir).map_err(io("make the folder of"))?;
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io("open"))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(StateLock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(JournalError::Locked { path: state_dir.to_owned() }),
            Err(error) => Err(io("lock")(error.into())),
        }
    }
}

/// What the disk held at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No journal: this node never ran here.
    Nothing,
    Whole,
    /// It cannot be trusted and was set aside; nothing that still runs may be adopted.
    Damaged {
        reason: String,
        set_aside: PathBuf,
    },
}

/// The journal on disk, and its sum in memory.
pub struct Keeper {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Bytes of the frame that holds the sum.
    sum_bytes: u64,
    sum: Journal,
}

impl Keeper {
    /// The journal of `state_dir`, begun from `fresh` where there is none or none to be trusted.
    pub fn open(state_dir: &Path, fresh: Journal) -> Result<(Keeper, Found), JournalError> {
        let path = state_dir.join("journal");
        let io = |operation| {
            let path = path.clone();
            move |source| JournalError::Io { operation, path, source }
        };
        let (sum, found) = match fs::read(&path) {
            Ok(bytes) => match read(&bytes) {
                Ok(sum) => (sum, Found::Whole),
                Err(reason) => {
                    let set_aside = free_name(state_dir);
                    fs::rename(&path, &set_aside).map_err(io("set aside the damaged"))?;
                    durable::sync_folder(state_dir).map_err(io("sync the folder of"))?;
                    (fresh, Found::Damaged { reason, set_aside })
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => (fresh, Found::Nothing),
            Err(error) => return Err(io("read")(error)),
        };
        // Always a new file: what follows is never appended to a torn frame.
        let (file, sum_bytes) = write_sum(&path, &sum).map_err(io("write"))?;
        let bytes = sum_bytes + MAGIC.len() as u64;
        Ok((Keeper { path, file, bytes, sum_bytes, sum }, found))
    }

    pub fn sum(&self) -> &Journal {
        &self.sum
    }

    /// Adds `records`; they are durable on return. After an error the sum holds them and the disk may or may not:
    /// `rewrite` until it succeeds.
    pub fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        for record in records {
            self.sum.apply(record);
        }
        let frame = frame(&serde_json::to_vec(records).expect("records are always JSON"));
        if self.bytes + frame.len() as u64 > COMPACT_BYTES.max(8 * self.sum_bytes) {
            return self.rewrite();
        }
        let written = self.file.write_all(&frame).and_then(|()| self.file.sync_data());
        written.map_err(|source| JournalError::Io { operation: "append to", path: self.path.clone(), source })?;
        self.bytes += frame.len() as u64;
        Ok(())
    }

    /// Writes the sum into a new file and puts it in the place of the old.
    pub fn rewrite(&mut self) -> Result<(), JournalError> {
        let (file, sum_bytes) = write_sum(&self.path, &self.sum).map_err(|source| JournalError::Io {
            operation: "rewrite",
            path: self.path.clone(),
            source,
        })?;
        self.file = file;
        self.sum_bytes = sum_bytes;
        self.bytes = sum_bytes + MAGIC.len() as u64;
        Ok(())
    }
}

fn free_name(state_dir: &Path) -> PathBuf {
    (1u32..)
        .map(|number| state_dir.join(format!("journal.damaged-{number}")))
        .find(|path| !path.exists())
        .expect("a folder never holds four billion damaged journals")
}

/// Writes a journal of one frame and answers it open for appending, with the length of that frame.
fn write_sum(path: &Path, sum: &Journal) -> io::Result<(File, u64)> {
    let frame = frame(&serde_json::to_vec(sum).expect("a journal is always JSON"));
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&frame);
    durable::replace(path, &bytes)?;
    Ok((fs::OpenOptions::new().append(true).open(path)?, frame.len() as u64))
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&MARKER.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(payload.len()).expect("no batch reaches 4 GiB").to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

enum Next<'a> {
    Payload(&'a [u8], &'a [u8]),
    End,
    /// Never finished, so never acknowledged.
    Torn,
}

fn next(bytes: &[u8]) -> Result<Next<'_>, String> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    if bytes.is_empty() {
        return Ok(Next::End);
    }
    if bytes.len() < HEADER_BYTES || bytes.iter().all(|byte| *byte == 0) {
        return Ok(Next::Torn);
    }
    if word(0) != MARKER || word(8) != crc32fast::hash(&bytes[..8]) {
        return Err("the header of a frame does not match its checksum".to_owned());
    }
    let length = word(4) as usize;
    let Some(payload) = bytes.get(HEADER_BYTES..HEADER_BYTES + length) else { return Ok(Next::Torn) };
    if crc32fast::hash(payload) != word(12) {
        // A block that never reached the disk reads as zeros up to the end; anything else was written and has changed.
        let rest = &bytes[HEADER_BYTES..];
        let zeros = rest.iter().rev().take_while(|byte| **byte == 0).count();
        let torn = zeros > 0 && rest.len() - zeros < length && rest.len() == length;
        return if torn { Ok(Next::Torn) } else { Err("a frame does not match its checksum".to_owned()) };
    }
    Ok(Next::Payload(payload, &bytes[HEADER_BYTES + length..]))
}

/// The sum of everything in `bytes`. Errs in words when they are not wholly what was written, up to one torn end.
fn read(bytes: &[u8]) -> Result<Journal, String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("it does not begin like a journal")?;
    let Next::Payload(payload, mut rest) = next(rest)? else {
        // The first frame is renamed into place after its sync: it is whole or it was damaged.
        return Err("its first frame is not whole".to_owned());
    };
    let mut sum: Journal =
        serde_json::from_slice(payload).map_err(|error| format!("its sum is no journal: {error}"))?;
    while let Next::Payload(payload, behind) = next(rest)? {
        let records: Vec<Record> =
            serde_json::from_slice(payload).map_err(|error| format!("a batch holds no records: {error}"))?;
        for record in &records {
            sum.apply(record);
        }
        rest = behind;
    }
    Ok(sum)
}

/// A thread that writes what it is given and says when it is durable, many records with one sync.
pub struct Writer {
    records: Option<mpsc::Sender<(u64, Record)>>,
    thread: Option<JoinHandle<Keeper>>,
    /// The agent is ending: what cannot be written is given up.
    closing: Arc<AtomicBool>,
}

impl Writer {
    /// `durable` is told every sequence up to which all is on disk, rising.
    pub fn start(mut keeper: Keeper, durable: impl Fn(u64) + Send + 'static) -> io::Result<Writer> {
        let (sender, receiver) = mpsc::channel::<(u64, Record)>();
        let closing = Arc::new(AtomicBool::new(false));
        let give_up = closing.clone();
        let thread = thread::Builder::new().name("journal".to_owned()).spawn(move || {
            while let Ok((mut sequence, first)) = receiver.recv() {
                let mut batch = vec![first];
                while let Ok((next, record)) = receiver.try_recv() {
                    sequence = next;
                    batch.push(record);
                }
                if keep(&mut keeper, &batch, &give_up) {
                    durable(sequence);
                }
            }
            keeper
        })?;
        Ok(Writer { records: Some(sender), thread: Some(thread), closing })
    }

    pub fn append(&self, sequence: u64, record: Record) {
        let records = self.records.as_ref().expect("taken by `close` only");
        records.send((sequence, record)).expect("the journal's thread ends only when this sender does");
    }

    /// Waits until everything is on disk. What a full disk does not take was never acknowledged to anybody.
    pub fn close(mut self) -> Keeper {
        self.closing.store(true, Ordering::Release);
        self.records = None;
        let thread = self.thread.take().expect("taken once");
        thread.join().expect("the journal's thread does not panic")
    }
}

/// Nothing is started or said before it is on disk, so there is nothing to do about a full disk but to say so and wait.
/// False: given up.
fn keep(keeper: &mut Keeper, batch: &[Record], give_up: &AtomicBool) -> bool {
    let mut outcome = keeper.append(batch);
    while let Err(error) = outcome {
        tracing::error!(error = %crate::chain(&error), "journal cannot be written; nothing starts until it can");
        if give_up.load(Ordering::Acquire) {
            return false;
        }
        thread::sleep(RETRY);
        outcome = keeper.rewrite();
    }
    true
}

#[cfg(test)]
mod tests {
    use cluster::{BootId, ContainerId, End, Epoch, Generation, Incarnation, OnQuorumLoss, Profile, Revision, Span};
    use decide::{Begun, Life};

    use super::*;

    fn fresh() -> Journal {
        Journal::fresh(BootId(u128::MAX - 5), Profile::Default.terms())
    }

    fn batches() -> Vec<Vec<Record>> {
        let begun = |incarnation| Begun {
            incarnation: Incarnation(incarnation),
            policy: OnQuorumLoss::Keep,
            stop_grace: Span::seconds(10),
            ran: false,
            stopping: false,
        };
        vec![
            vec![Record::Registered {
                generation: Generation::numbered(1),
                incarnation: Incarnation(9),
                boot: BootId(u128::MAX - 5),
                terms: Profile::Fast.terms(),
                revision: Revision(12),
            }],
            vec![
                Record::Begun { container: ContainerId(1), epoch: Epoch(3), begun: begun(9) },
                Record::Begun { container: ContainerId(2), epoch: Epoch(1), begun: begun(9) },
            ],
            vec![Record::Ran { container: ContainerId(1), epoch: Epoch(3) }],
            vec![Record::Closed {
                container: ContainerId(2),
                epoch: Epoch(1),
                end: End::StartFailed { reason: "no \"room\"\n".into() },
            }],
            vec![
                Record::Stopping { container: ContainerId(1), epoch: Epoch(3) },
                Record::Forgotten { containers: vec![ContainerId(2), ContainerId(7)] },
            ],
            vec![Record::Latched { incarnation: Incarnation(9) }],
        ]
    }

    /// The file after all batches, the sum after each, and where each ends in the file.
    fn written() -> (Vec<u8>, Vec<Journal>, Vec<usize>) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (mut keeper, found) = Keeper::open(folder.path(), fresh()).expect("open");
        assert_eq!(found, Found::Nothing);
        let length = || fs::metadata(folder.path().join("journal")).expect("metadata").len() as usize;
        let (mut sums, mut ends) = (vec![keeper.sum().clone()], vec![length()]);
        for batch in batches() {
            keeper.append(&batch).expect("append");
            sums.push(keeper.sum().clone());
            ends.push(length());
        }
        (fs::read(folder.path().join("journal")).expect("read"), sums, ends)
    }

    #[test]
    fn power_lost_at_any_byte_keeps_every_batch_that_was_durable() {
        let (bytes, sums, ends) = written();
        for length in ends[0]..=bytes.len() {
            let whole = ends.iter().filter(|end| **end <= length).count() - 1;
            assert_eq!(read(&bytes[..length]).as_ref(), Ok(&sums[whole]), "cut at {length}");
        }
        // The same with blocks that were never written and read as zeros.
        for (whole, pair) in ends.windows(2).enumerate() {
            for from in pair[0]..pair[1] {
                let mut torn = bytes[..pair[1]].to_vec();
                torn[from..].fill(0);
                if from >= pair[0] + HEADER_BYTES || from == pair[0] {
                    assert_eq!(read(&torn).as_ref(), Ok(&sums[whole]), "zeros from {from}");
                }
            }
        }
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let (bytes, _, _) = written();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(read(&damaged).is_err(), "a change at {at} went unnoticed");
        }
    }

    #[test]
    fn damaged_journal_is_set_aside_and_begun_anew() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (mut keeper, _) = Keeper::open(folder.path(), fresh()).expect("open");
        keeper.append(&batches()[0]).expect("append");
        let path = folder.path().join("journal");
        let mut bytes = fs::read(&path).expect("read");
        bytes[60] ^= 1;
        fs::write(&path, &bytes).expect("write");
        let (keeper, found) = Keeper::open(folder.path(), fresh()).expect("open");
        let Found::Damaged { set_aside, .. } = found else { panic!("{found:?}") };
        assert_eq!(fs::read(set_aside).expect("kept for a person to look at"), bytes);
        assert_eq!(keeper.sum(), &fresh());
        let (_, found) = Keeper::open(folder.path(), fresh()).expect("open");
        assert_eq!(found, Found::Whole);
    }

    #[test]
    fn sum_outlives_compaction_and_restart() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (mut keeper, _) = Keeper::open(folder.path(), fresh()).expect("open");
        for batch in batches() {
            keeper.append(&batch).expect("append");
        }
        let path = folder.path().join("journal");
        let mut largest = 0;
        for revision in 13..9_000 {
            keeper.append(&[Record::Seen { revision: Revision(revision) }]).expect("append");
            largest = largest.max(fs::metadata(&path).expect("metadata").len());
        }
        assert!(largest <= COMPACT_BYTES, "the journal grew to {largest} bytes");
        assert!(largest > COMPACT_BYTES / 2, "it was rewritten far too often: at {largest} bytes");
        let expected = keeper.sum().clone();
        assert_eq!((expected.revision, &expected.life), (Revision(8_999), &Life::Latched));
        let (keeper, _) = Keeper::open(folder.path(), fresh()).expect("open");
        assert_eq!(keeper.sum(), &expected);
    }

    #[test]
    fn writer_says_durable_in_order_and_only_after_the_disk_has_it() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (keeper, _) = Keeper::open(folder.path(), fresh()).expect("open");
        let path = folder.path().join("journal");
        let (sender, durable) = mpsc::channel();
        let writer = Writer::start(keeper, move |sequence| {
            let on_disk = read(&fs::read(&path).expect("read")).expect("whole");
            sender.send((sequence, on_disk.revision)).expect("the test listens");
        })
        .expect("start");
        for sequence in 1..=50 {
            writer.append(sequence, Record::Seen { revision: Revision(sequence) });
        }
        let keeper = writer.close();
        let said: Vec<(u64, Revision)> = durable.iter().collect();
        assert!(said.is_sorted() && said.iter().all(|(sequence, revision)| revision.0 >= *sequence), "{said:?}");
        assert_eq!(said.last(), Some(&(50, Revision(50))));
        assert_eq!(keeper.sum().revision, Revision(50));
    }

    #[test]
    fn disk_that_takes_nothing_is_waited_for_and_never_called_durable() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (mut keeper, _) = Keeper::open(folder.path(), fresh()).expect("open");
        // Opened for reading, the file takes nothing, as a full disk; a new file in its place does.
        keeper.file = File::open(&keeper.path).expect("open");
        assert!(keeper.append(&[Record::Seen { revision: Revision(1) }]).is_err());
        let (sender, durable) = mpsc::channel();
        let writer =
            Writer::start(keeper, move |sequence| sender.send(sequence).expect("the test listens")).expect("start");
        writer.append(1, Record::Seen { revision: Revision(2) });
        assert_eq!(durable.recv(), Ok(1));
        assert_eq!(read(&fs::read(folder.path().join("journal")).expect("read")).expect("whole").revision, Revision(2));

        // A folder that is gone takes no new file either; an agent that ends gives up.
        let mut keeper = writer.close();
        keeper.file = File::open(&keeper.path).expect("open");
        fs::remove_dir_all(folder.path()).expect("remove");
        let (sender, durable) = mpsc::channel();
        let writer =
            Writer::start(keeper, move |sequence| sender.send(sequence).expect("the test listens")).expect("start");
        writer.append(2, Record::Seen { revision: Revision(3) });
        writer.close();
        assert_eq!(durable.recv(), Err(mpsc::RecvError), "said durable and is nowhere");
    }

    #[test]
    fn second_agent_on_the_same_folder_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let lock = StateLock::take(folder.path()).expect("first");
        assert!(matches!(StateLock::take(folder.path()), Err(JournalError::Locked { .. })));
        drop(lock);
        StateLock::take(folder.path()).expect("free again");
    }
}
