//! The second witness of ownership: who may use a private area, written into the area itself.
//! Shape: file `.quorate/claim`, eight slots of 4 KiB, each with a checksum; a claim of epoch e lies in slot e mod 8 and,
//! once that is confirmed, in the next one too. In: the claim of this start. Out: it is written and was read back, or why
//! it was refused. Everything found is taken into account: the highest epoch counts, an unreadable slot refuses.
//!
//! Why a ring and two copies: a writer that lost its node may have one write under way (never two: each is confirmed
//! before the next), and storage may deliver it any time later. It falls into one slot of its own epoch's, so whatever
//! is newer has a copy it cannot reach (rule 19). Absent: exclusion. A claim is checked and written in two steps; it
//! catches a mistake, it does not fence.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cluster::{BootId, ClusterId, ContainerId, Epoch, Generation, Incarnation, NodeId};
use rustix::fs::{Mode, OFlags};

use super::storage::OWN;

const SLOTS: u64 = 8;
/// One page and one block of anything: written and read as a whole.
const SLOT_BYTES: usize = 4096;
const MAGIC: &[u8; 8] = b"QRTCLAIM";
const VERSION: u32 = 1;
const CHECKSUM_AT: usize = SLOT_BYTES - 4;

/// Who may use the area, and for which epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub cluster: ClusterId,
    pub generation: Generation,
    pub container: ContainerId,
    pub epoch: Epoch,
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub boot: BootId,
}

/// Why a claim was not made. Nothing may be started after any of these.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("claim of epoch {} on {}: epoch {} of {} is in it", wanted.epoch, path.display(), found.epoch, found.node)]
    Newer { path: PathBuf, wanted: Box<Claim>, found: Box<Claim> },
    #[error(
        "claim of epoch {} on {}: {} {} of another boot or incarnation holds the same epoch",
        wanted.epoch, path.display(), found.node, found.incarnation
    )]
    Other { path: PathBuf, wanted: Box<Claim>, found: Box<Claim> },
    #[error("claim on {}: it belongs to container {} of cluster {}", path.display(), found.container, found.cluster)]
    Foreign { path: PathBuf, found: Box<Claim> },
    /// Torn or damaged. An operator looks at it; the claims beside it say who was last.
    #[error("claim on {}: slot {slot} is unreadable", path.display())]
    Unreadable { path: PathBuf, slot: u64 },
    /// What was read back is not what was written.
    #[error("claim on {}: slot {slot} does not hold what was written", path.display())]
    NotKept { path: PathBuf, slot: u64 },
    #[error("{operation} claim {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
}

/// Claims `private_area`: reads, refuses or writes, syncs, reads back. The same claim again is no error.
pub fn claim(private_area: &Path, wanted: &Claim) -> Result<(), ClaimError> {
    let ring = Ring::open(private_area)?;
    if let Some(found) = ring.newest()? {
        ring.judge(wanted, found)?;
    }
    let slot = wanted.epoch.0 % SLOTS;
    ring.write(slot, wanted)?;
    ring.write((slot + 1) % SLOTS, wanted)
}

/// The newest claim in `private_area`; `None` where nobody ever claimed it.
pub fn newest(private_area: &Path) -> Result<Option<Claim>, ClaimError> {
    match Ring::open_existing(private_area)? {
        Some(ring) => ring.newest(),
        None => Ok(None),
    }
}

/// A page, aligned for direct I/O.
#[repr(align(4096))]
struct Page([u8; SLOT_BYTES]);

struct Ring {
    path: PathBuf,
    file: fs::File,
}

impl Ring {
    fn open(private_area: &Path) -> Result<Ring, ClaimError> {
        if let Some(ring) = Ring::open_existing(private_area)? {
            return Ok(ring);
        }
        let folder = private_area.join(OWN);
        let path = folder.join("claim");
        let failed = |source| ClaimError::Io { operation: "create", path: path.clone(), source };
        let create = || -> io::Result<()> {
            super::storage::make_folder(&folder, 0o700)?;
            // Whole or not there: a file cut short by a crash would refuse for ever.
            let fresh = folder.join(format!("claim.{}", std::process::id()));
            let file = fs::File::create(&fresh)?;
            file.write_all_at(&[0; SLOT_BYTES * SLOTS as usize], 0)?;
            file.sync_all()?;
            // Never over a ring another node has made meanwhile.
            let linked = match fs::hard_link(&fresh, &path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            };
            fs::remove_file(&fresh)?;
            linked?;
            fs::File::open(&folder)?.sync_all()?;
            fs::File::open(private_area)?.sync_all()
        };
        create().map_err(failed)?;
        Ring::open_existing(private_area)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
    }

    fn open_existing(private_area: &Path) -> Result<Option<Ring>, ClaimError> {
        let path = private_area.join(OWN).join("claim");
        let failed = |source| ClaimError::Io { operation: "open", path: path.clone(), source };
        // Direct, so that what is read back comes from the storage and not from this machine's memory; NOFOLLOW,
        // because the area is the container's to write in.
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::DSYNC;
        let file = match rustix::fs::open(&path, flags | OFlags::DIRECT, Mode::empty()) {
            // Some file systems know no direct I/O.
            Err(rustix::io::Errno::INVAL) => rustix::fs::open(&path, flags, Mode::empty()),
            other => other,
        };
        let file: fs::File = match file {
            Ok(file) => file.into(),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed(error.into())),
        };
        let length = file.metadata().map_err(failed)?.len();
        if length < SLOT_BYTES as u64 * SLOTS {
            return Err(ClaimError::Unreadable { path, slot: length / SLOT_BYTES as u64 });
        }
        Ok(Some(Ring { path, file }))
    }

    fn newest(&self) -> Result<Option<Claim>, ClaimError> {
        let mut newest: Option<Claim> = None;
        for slot in 0..SLOTS {
            let Some(found) = self.read(slot)? else { continue };
            if newest.is_none_or(|newest| (newest.generation, newest.epoch) < (found.generation, found.epoch)) {
                newest = Some(found);
            }
        }
        Ok(newest)
    }

    fn judge(&self, wanted: &Claim, found: Claim) -> Result<(), ClaimError> {
        let (path, found) = (self.path.clone(), Box::new(found));
        if (found.cluster, found.container) != (wanted.cluster, wanted.container) {
            return Err(ClaimError::Foreign { path, found });
        }
        let wanted = Box::new(*wanted);
        // Two recoveries that know nothing of each other: neither is the later one.
        if wanted.generation.number == found.generation.number && wanted.generation.id != found.generation.id {
            return Err(ClaimError::Other { path, wanted, found });
        }
        match (wanted.generation, wanted.epoch).cmp(&(found.generation, found.epoch)) {
            std::cmp::Ordering::Less => Err(ClaimError::Newer { path, wanted, found }),
            std::cmp::Ordering::Equal if *wanted != *found => Err(ClaimError::Other { path, wanted, found }),
            // Epochs rise over generations as well: a new generation with a lower one is not of this cluster.
            _ if wanted.epoch < found.epoch => Err(ClaimError::Newer { path, wanted, found }),
            _ => Ok(()),
        }
    }

    /// `None` for a slot never written.
    fn read(&self, slot: u64) -> Result<Option<Claim>, ClaimError> {
        let mut page = Page([0; SLOT_BYTES]);
        self.file.read_exact_at(&mut page.0, slot * SLOT_BYTES as u64).map_err(|source| ClaimError::Io {
            operation: "read",
            path: self.path.clone(),
            source,
        })?;
        if page.0 == [0; SLOT_BYTES] {
            return Ok(None);
        }
        decode(&page.0).map(Some).ok_or_else(|| ClaimError::Unreadable { path: self.path.clone(), slot })
    }

    fn write(&self, slot: u64, claim: &Claim) -> Result<(), ClaimError> {
        let page = Page(encode(claim));
        let failed = |operation| move |source| ClaimError::Io { operation, path: self.path.clone(), source };
        self.file.write_all_at(&page.0, slot * SLOT_BYTES as u64).map_err(failed("write"))?;
        self.file.sync_data().map_err(failed("sync"))?;
        match self.read(slot)? {
            Some(kept) if kept == *claim => Ok(()),
            _ => Err(ClaimError::NotKept { path: self.path.clone(), slot }),
        }
    }
}

/// magic 8, version 4, zero 4, cluster 16, boot 16, then five numbers of 8: generation, container, epoch, node,
/// incarnation; the id of the generation 16; zero; CRC-32 of all before it. Little end first.
fn encode(claim: &Claim) -> [u8; SLOT_BYTES] {
    let mut page = [0; SLOT_BYTES];
    page[..8].copy_from_slice(MAGIC);
    page[8..12].copy_from_slice(&VERSION.to_le_bytes());
    page[16..32].copy_from_slice(&claim.cluster.0.to_le_bytes());
    page[32..48].copy_from_slice(&claim.boot.0.to_le_bytes());
    let numbers = [claim.generation.number, claim.container.0, claim.epoch.0, claim.node.0, claim.incarnation.0];
    for (place, number) in page[48..88].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    page[88..104].copy_from_slice(&claim.generation.id.to_le_bytes());
    let checksum = crc32fast::hash(&page[..CHECKSUM_AT]);
    page[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
    page
}

fn decode(page: &[u8; SLOT_BYTES]) -> Option<Claim> {
    let checksum = u32::from_le_bytes(page[CHECKSUM_AT..].try_into().ok()?);
    if crc32fast::hash(&page[..CHECKSUM_AT]) != checksum || page[..8] != *MAGIC || page[8..12] != VERSION.to_le_bytes()
    {
        return None;
    }
    let wide = |at: usize| Some(u128::from_le_bytes(page[at..at + 16].try_into().ok()?));
    let number = |at: usize| Some(u64::from_le_bytes(page[at..at + 8].try_into().ok()?));
    Some(Claim {
        cluster: ClusterId(wide(16)?),
        boot: BootId(wide(32)?),
        generation: Generation { number: number(48)?, id: wide(88)? },
        container: ContainerId(number(56)?),
        epoch: Epoch(number(64)?),
        node: NodeId(number(72)?),
        incarnation: Incarnation(number(80)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(epoch: u64) -> Claim {
        Claim {
            cluster: ClusterId(1),
            generation: Generation::numbered(1),
            container: ContainerId(7),
            epoch: Epoch(epoch),
            node: NodeId(3),
            incarnation: Incarnation(40),
            boot: BootId(9),
        }
    }

    fn area() -> tempfile::TempDir {
        tempfile::tempdir().expect("temporary folder")
    }

    fn file(area: &Path) -> PathBuf {
        area.join(OWN).join("claim")
    }

    fn poke(area: &Path, slot: u64, bytes: &[u8]) {
        let file = fs::File::options().write(true).open(file(area)).expect("open");
        file.write_all_at(bytes, slot * SLOT_BYTES as u64).expect("write");
    }

    #[test]
    fn claims_rise_and_older_ones_are_refused() {
        let area = area();
        assert_eq!(newest(area.path()).expect("read"), None);
        for epoch in [1, 2, 3, 9, 10, 200] {
            claim(area.path(), &of(epoch)).expect("claim");
            claim(area.path(), &of(epoch)).expect("the same again");
            assert_eq!(newest(area.path()).expect("read"), Some(of(epoch)));
        }
        for epoch in [0, 1, 199] {
            assert!(matches!(claim(area.path(), &of(epoch)), Err(ClaimError::Newer { .. })), "epoch {epoch}");
        }
        assert_eq!(newest(area.path()).expect("read"), Some(of(200)), "a refused claim changes nothing");
    }

    #[test]
    fn the_same_epoch_of_anybody_else_is_refused() {
        let area = area();
        claim(area.path(), &of(5)).expect("claim");
        for other in [
            Claim { node: NodeId(4), ..of(5) },
            Claim { incarnation: Incarnation(41), ..of(5) },
            Claim { boot: BootId(10), ..of(5) },
        ] {
            assert!(matches!(claim(area.path(), &other), Err(ClaimError::Other { .. })), "{other:?}");
            claim(area.path(), &Claim { epoch: Epoch(5), ..of(5) }).expect("the holder itself");
        }
        for foreign in [Claim { cluster: ClusterId(2), ..of(6) }, Claim { container: ContainerId(8), ..of(6) }] {
            assert!(matches!(claim(area.path(), &foreign), Err(ClaimError::Foreign { .. })), "{foreign:?}");
        }
    }

    /// Two recoveries that know nothing of each other come to the same number: neither may take what the other has.
    #[test]
    fn another_generation_of_the_same_number_is_refused_whatever_its_epoch() {
        let area = area();
        let (one, other) = (Generation { number: 2, id: 7 }, Generation { number: 2, id: 8 });
        claim(area.path(), &Claim { generation: one, ..of(5) }).expect("claim");
        for epoch in [4, 5, 6, 1 << 20] {
            let refused = claim(area.path(), &Claim { generation: other, ..of(epoch) });
            assert!(matches!(refused, Err(ClaimError::Other { .. })), "{epoch}: {refused:?}");
        }
        claim(area.path(), &Claim { generation: one, ..of(6) }).expect("its own goes on");
        claim(area.path(), &Claim { generation: Generation { number: 3, id: 1 }, ..of(7) }).expect("a later one");
    }

    #[test]
    fn an_older_generation_is_refused_and_a_newer_one_never_goes_back() {
        let area = area();
        claim(area.path(), &Claim { generation: Generation::numbered(2), ..of(5) }).expect("claim");
        assert!(matches!(claim(area.path(), &of(6)), Err(ClaimError::Newer { .. })));
        let lower = Claim { generation: Generation::numbered(3), ..of(4) };
        assert!(matches!(claim(area.path(), &lower), Err(ClaimError::Newer { .. })));
        claim(area.path(), &Claim { generation: Generation::numbered(3), ..of(1_000) }).expect("epochs jump");
    }

    #[test]
    fn any_torn_slot_refuses() {
        for torn_at in [1, 8, 64, 512, 2048, SLOT_BYTES - 1] {
            let area = area();
            claim(area.path(), &of(4)).expect("claim");
            // The beginning of epoch 5's slot reached the disk, the rest is what was there.
            let mut slot = [0; SLOT_BYTES];
            slot[..torn_at].copy_from_slice(&encode(&of(5))[..torn_at]);
            slot[torn_at..].copy_from_slice(&encode(&of(4))[torn_at..]);
            if torn_at == SLOT_BYTES - 1 && slot == encode(&of(5)) {
                continue;
            }
            if decode(&slot).is_some() {
                assert_eq!(decode(&slot), Some(of(4)), "torn before anything differed");
                continue;
            }
            poke(area.path(), 5, &slot);
            assert!(matches!(claim(area.path(), &of(6)), Err(ClaimError::Unreadable { slot: 5, .. })), "{torn_at}");
        }
    }

    #[test]
    fn a_damaged_bit_anywhere_refuses() {
        let whole = encode(&of(4));
        for at in [0, 9, 20, 33, 50, 70, 80, 100, 3000, SLOT_BYTES - 2] {
            let mut damaged = whole;
            damaged[at] ^= 4;
            assert_eq!(decode(&damaged), None, "byte {at}");
        }
    }

    #[test]
    fn a_file_cut_short_refuses() {
        let area = area();
        claim(area.path(), &of(4)).expect("claim");
        let file = fs::File::options().write(true).open(file(area.path())).expect("open");
        file.set_len(SLOT_BYTES as u64 * 3).expect("cut");
        assert!(matches!(claim(area.path(), &of(5)), Err(ClaimError::Unreadable { slot: 3, .. })));
    }

    #[test]
    fn a_delayed_old_write_hides_nothing_newer() {
        for late in 1..9 {
            for newer in [late + 1, late + 7, late + 8, late + 9] {
                for copy in 0..2 {
                    let area = area();
                    claim(area.path(), &of(newer)).expect("claim");
                    poke(area.path(), (late + copy) % SLOTS, &encode(&of(late)));
                    assert_eq!(newest(area.path()).expect("read"), Some(of(newer)), "{late} after {newer}");
                    assert!(claim(area.path(), &of(late)).is_err());
                }
            }
        }
    }

    #[test]
    fn a_link_in_place_of_the_ring_is_not_followed() {
        let area = area();
        let elsewhere = area.path().join("elsewhere");
        fs::create_dir(area.path().join(OWN)).expect("folder");
        fs::write(&elsewhere, vec![0; SLOT_BYTES * SLOTS as usize]).expect("write");
        std::os::unix::fs::symlink(&elsewhere, file(area.path())).expect("link");
        assert!(matches!(claim(area.path(), &of(1)), Err(ClaimError::Io { .. })));
    }
}
