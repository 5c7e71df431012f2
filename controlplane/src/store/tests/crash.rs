//! Processes killed while they write: everything they reported as durable is there, and an ordinary death quarantines
//! nobody. Cycles: `QUORATE_STORE_CYCLES`.

use super::oracle::{Oracle, Verdict};
use super::writer::{Syncs, struck_writer};
use super::{BACKENDS, copy, create, cycles, ready};
use tempfile::TempDir;

#[test]
fn a_killed_process_loses_nothing_it_reported() {
    for backend in BACKENDS {
        let folder = TempDir::new().expect("a folder");
        drop(create(folder.path(), backend));
        let mut oracle = Oracle::new(0x6b69_6c6c);
        for cycle in 0..cycles() {
            struck_writer(folder.path(), backend, Syncs::Really, &mut oracle, |child| child.kill().expect("it runs"));
            assert_eq!(oracle.judge(folder.path(), backend), Verdict::Intact, "{backend}, cycle {cycle}");
        }
        println!("kill -9, {backend}: {}, 0 missing", oracle.counts);
    }
}

/// The oracle against a store that is whole in itself and lacks its end: every file put back as it was a few steps ago.
#[test]
fn the_oracle_notices_a_store_that_is_shorter() {
    for backend in BACKENDS {
        let (folder, backup) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
        drop(create(folder.path(), backend));
        let mut oracle = Oracle::new(7);
        let strike = |oracle: &mut Oracle| {
            struck_writer(folder.path(), backend, Syncs::Really, oracle, |child| child.kill().expect("it runs"));
        };
        strike(&mut oracle);
        assert_eq!(oracle.judge(folder.path(), backend), Verdict::Intact);
        copy(folder.path(), backup.path());
        // Past the opening, so that there is something new.
        oracle.counts.cycles = 5;
        strike(&mut oracle);
        std::fs::remove_dir_all(folder.path()).expect("a folder");
        copy(backup.path(), folder.path());
        let verdict = oracle.judge(folder.path(), backend);
        assert!(matches!(verdict, Verdict::Wrong(_)), "{backend}: {verdict:?}");
        // And it is not the store that noticed.
        ready(folder.path(), backend);
    }
}
