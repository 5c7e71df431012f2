//! Power cuts on a real file system: everything reported as durable is there, and an ordinary cut quarantines nobody.
//! ext4 on a loop device, shut down at a moment of our choice without writing its journal, then mounted again. Models
//! the loss of everything the kernel had not committed. Needs root, mkfs.ext4 and loop devices, and says so where they
//! are not to be had. Cycles: `QUORATE_STORE_CYCLES`.

use super::loop_disk::LoopDisk;
use super::oracle::{Oracle, Verdict};
use super::writer::{Syncs, struck_writer};
use super::{BACKENDS, Backend, create, cycles};
use std::path::Path;

const IMAGE_BYTES: u64 = 1 << 30;

#[test]
fn a_power_cut_loses_nothing_that_was_reported() {
    for backend in BACKENDS {
        let Some(disk) = LoopDisk::new("a power cut loses nothing", IMAGE_BYTES) else { return };
        let folder = disk.mount.join("data");
        drop(create(&folder, backend));
        let mut oracle = Oracle::new(0x6375_7421);
        for cycle in 0..cycles() {
            cut_power(&disk, &folder, backend, Syncs::Really, &mut oracle);
            assert_eq!(oracle.judge(&folder, backend), Verdict::Intact, "{backend}, cycle {cycle}");
        }
        println!("power cut, {backend}: {}, 0 missing", oracle.counts);
    }
}

/// The loop can fail: a log that is written and not synced, sled's own `flush` among them, does not survive it, nor does a
/// ring that is not.
#[test]
fn what_is_not_synced_is_caught_by_a_power_cut() {
    for (backend, syncs) in BACKENDS.into_iter().flat_map(|it| [(it, Syncs::NotTheLog), (it, Syncs::NotTheGuard)]) {
        let Some(disk) = LoopDisk::new("what is not synced is caught", IMAGE_BYTES) else { return };
        let caught = (0..40).find_map(|attempt| {
            let folder = disk.mount.join(format!("data-{attempt}"));
            drop(create(&folder, backend));
            let mut oracle = Oracle::new(attempt);
            cut_power(&disk, &folder, backend, syncs, &mut oracle);
            match oracle.judge(&folder, backend) {
                Verdict::Intact => None,
                found => Some((attempt, found)),
            }
        });
        let (attempt, found) =
            caught.unwrap_or_else(|| panic!("{backend}, {syncs:?}: forty cuts, and nobody misses anything"));
        println!("{syncs:?} synced, {backend}: caught by cut {}: {found:?}", attempt + 1);
    }
}

fn cut_power(disk: &LoopDisk, folder: &Path, backend: Backend, syncs: Syncs, oracle: &mut Oracle) {
    let runs_on = oracle.counts.cycles.is_multiple_of(2);
    struck_writer(folder, backend, syncs, oracle, |child| {
        disk.cut();
        // Every other time the process lives on for a while, and must not take an error for a success.
        if !runs_on {
            child.kill().expect("it runs");
        }
    });
    disk.power_on();
}
