//! One tree, one digest, whatever it came from.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use tar::EntryType;
use template::{Digest, Discarded, ImportError, Phase, Policy, Treat, discard, import, look};

use super::support::*;

/// As a system looks: folders, a program, links of both kinds.
fn lay_out(root: &Path) {
    fs::create_dir_all(root.join("usr/bin")).expect("folder");
    fs::create_dir(root.join("etc")).expect("folder");
    fs::write(root.join("usr/bin/busy"), b"#!program\n").expect("write");
    fs::write(root.join("etc/hosts"), b"127.0.0.1 localhost\n").expect("write");
    fs::hard_link(root.join("usr/bin/busy"), root.join("usr/bin/sh")).expect("link");
    symlink("usr/bin", root.join("bin")).expect("link");
    for (path, mode) in
        [("usr", 0o755), ("usr/bin", 0o555), ("etc", 0o755), ("usr/bin/busy", 0o4755), ("etc/hosts", 0o644)]
    {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).expect("mode");
    }
}

/// The same as an archive.
fn archived() -> Vec<u8> {
    Tar::default()
        .folder("./")
        .folder("usr/")
        .add(&Tar::header(EntryType::Directory, "usr/bin/", 0o555, 0), b"")
        .file_with("./usr/bin/busy", 0o4755, b"#!program\n")
        .hard_link("usr/bin/sh", "./usr/bin/busy")
        .link("bin", "usr/bin")
        .folder("etc")
        .file("etc/hosts", b"127.0.0.1 localhost\n")
        .end()
}

#[test]
fn a_folder_and_every_archive_of_it_are_one_template() {
    let room = Room::new();
    fs::create_dir(room.beside("tree")).expect("folder");
    lay_out(&room.beside("tree"));
    let first = room.import(room.beside("tree")).expect("imports");
    assert!(!first.was_there);
    assert_eq!((first.entries, first.bytes), (7, 30));
    let plain = archived();
    for (name, archive) in [("a.tar", plain.clone()), ("a.tar.gz", gzip(&plain)), ("a.tar.zst", zstd(&plain))] {
        let again = room.import(room.file(name, &archive)).expect("imports");
        assert_eq!((again.digest, again.was_there), (first.digest, true), "{name}");
    }
    let root = room.root(&first);
    assert_eq!(fs::read(root.join("bin/sh")).expect("read"), b"#!program\n");
    assert_eq!(fs::metadata(root.join("usr/bin/busy")).expect("there").mode() & 0o7777, 0o4755, "kept by default");
    assert_eq!(fs::metadata(root.join("usr/bin")).expect("there").mode() & 0o7777, 0o555);
    assert_eq!(fs::metadata(root.join("usr/bin/sh")).expect("there").nlink(), 2);
    assert_eq!(
        fs::metadata(root.join("etc/hosts")).expect("there").mtime(),
        fs::metadata(room.beside("tree/etc/hosts")).expect("there").mtime()
    );
    assert_eq!(fs::metadata(root.parent().expect("a folder")).expect("there").mode() & 0o777, 0o700, "for root only");
    verified(&room, &first.digest).expect("is what its name says");
}

#[test]
fn the_digest_is_that_of_the_description_beside_the_tree() {
    let room = Room::new();
    let imported = room.import_tar(&archived()).expect("imports");
    let tree = fs::read_to_string(room.root(&imported).with_file_name("tree")).expect("read");
    assert_eq!(Digest::of(tree.as_bytes()), imported.digest);
    let (uid, gid) = me();
    let hosts = Digest::of(b"127.0.0.1 localhost\n").hex();
    let program = Digest::of(b"#!program\n").hex();
    let expected = format!(
        "bin l ---- {uid} {gid} usr/bin\n\
         etc d 0755 {uid} {gid} -\n\
         etc/hosts f 0644 {uid} {gid} 20:{hosts}\n\
         usr d 0755 {uid} {gid} -\n\
         usr/bin d 0555 {uid} {gid} -\n\
         usr/bin/busy f 4755 {uid} {gid} 10:{program}\n\
         usr/bin/sh h 4755 {uid} {gid} usr/bin/busy\n"
    );
    assert_eq!(tree, expected);
}

#[test]
fn everything_that_matters_changes_the_digest_and_times_do_not() {
    let room = Room::new();
    let digest = |archive: Tar| room.import_tar(&archive.end()).expect("imports").digest;
    let base = digest(Tar::default().file("a", b"x"));
    let mut later = Tar::header(EntryType::Regular, "a", 0o644, 1);
    later.set_mtime(1);
    later.set_cksum();
    assert_eq!(digest(Tar::default().add(&later, b"x")), base);
    let others = [
        digest(Tar::default().file("a", b"y")),
        digest(Tar::default().file("b", b"x")),
        digest(Tar::default().file_with("a", 0o600, b"x")),
        digest(Tar::default().file("a", b"x").folder("b")),
        digest(Tar::default().file("a", b"x").link("b", "a")),
        digest(Tar::default().file("a", b"x").hard_link("b", "a")),
        digest(Tar::default().file("a", b"x").file("b", b"x")),
    ];
    for (at, other) in others.iter().enumerate() {
        assert!(*other != base && !others[..at].contains(other), "{at}");
    }
}

#[test]
fn long_names_of_both_kinds_are_read() {
    let room = Room::new();
    let long = format!("{}/{}", "folder".repeat(20), "file".repeat(40));
    let (name, link) = (format!("{long}\0"), format!("{long}\0"));
    let gnu = Tar::default()
        .add(&Tar::header(EntryType::GNULongName, "././@LongLink", 0, name.len() as u64), name.as_bytes())
        .file("cut", b"x")
        .add(&Tar::header(EntryType::GNULongLink, "././@LongLink", 0, link.len() as u64), link.as_bytes())
        .link("to", "cut")
        .end();
    let pax = Tar::default()
        .extended_as(EntryType::XGlobalHeader, &[("comment", b"by hand")])
        .extended(&[("path", long.as_bytes()), ("mtime", b"12.5")])
        .file("cut", b"x")
        .extended(&[("linkpath", long.as_bytes())])
        .link("to", "cut")
        .end();
    let first = room.import_tar(&gnu).expect("imports");
    assert_eq!(room.import_tar(&pax).expect("imports").digest, first.digest);
    assert_eq!(fs::read(room.root(&first).join("to")).expect("read"), b"x");
}

#[test]
fn files_with_holes_are_read_in_both_forms_and_keep_their_holes() {
    let room = Room::new();
    let content = [&[0; 8192][..], &[7; 512], &[0; 4096]].concat();
    let plain = room.import_tar(&Tar::default().file("image", &content).end()).expect("imports");
    let mut old = Tar::header(EntryType::GNUSparse, "image", 0o644, 512);
    let gnu = old.as_gnu_mut().expect("made so");
    gnu.realsize[..11].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    gnu.sparse[0].offset[..11].copy_from_slice(format!("{:011o}", 8192).as_bytes());
    gnu.sparse[0].numbytes[..11].copy_from_slice(format!("{:011o}", 512).as_bytes());
    old.set_cksum();
    let mut map = b"1\n8192\n512\n".to_vec();
    map.resize(512, 0);
    map.extend_from_slice(&[7; 512]);
    let size = content.len().to_string();
    let new = Tar::default()
        .extended(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"image"),
            ("GNU.sparse.realsize", size.as_bytes()),
        ])
        .file("GNUSparseFile.0/image", &map);
    for archive in [Tar::default().add(&old, &[7; 512]).end(), new.end()] {
        assert_eq!(room.import_tar(&archive).expect("imports").digest, plain.digest);
    }
    let big = Tar::default().file("big", &vec![0; 8 << 20]).end();
    let big = room.import_tar(&big).expect("imports");
    assert!(fs::metadata(room.root(&big).join("big")).expect("there").blocks() < 1024, "zeros take no room");
}

#[test]
fn what_is_imported_again_is_not_even_taken_apart() {
    let room = Room::new();
    let archive = room.file("a.tar", &archived());
    let first = room.import(&archive).expect("imports");
    let mut phases = Vec::new();
    let again = import(&room.order(&archive), &mut |progress| {
        phases.push(progress.phase);
        std::ops::ControlFlow::Continue(())
    });
    assert_eq!(again.expect("imports").digest, first.digest);
    assert!(phases.iter().all(|phase| *phase == Phase::Reading), "{phases:?}");
    // Under another policy it is another tree.
    let mut order = room.order(&archive);
    order.policy = Policy { set_id: Treat::Strip, ..Policy::default() };
    let stripped = run(&order).expect("imports");
    assert!(stripped.digest != first.digest && !stripped.was_there);
    assert_eq!(stripped.notes, ["left out: set-uid and set-gid bits, 1 times"]);
}

#[test]
fn leftovers_of_an_import_that_crashed_are_removed_by_the_next_and_those_of_others_are_not() {
    let room = Room::new();
    let templates = room.storage().join("templates");
    for stage in [".new-n1-1-0", ".new-n2-1-0"] {
        fs::create_dir_all(templates.join(stage).join("rootfs/deep")).expect("folder");
        fs::set_permissions(templates.join(stage).join("rootfs"), fs::Permissions::from_mode(0o500)).expect("mode");
    }
    room.import_tar(&archived()).expect("imports");
    assert!(!templates.join(".new-n1-1-0").exists());
    assert!(templates.join(".new-n2-1-0").exists());
}

#[test]
fn what_was_changed_on_the_storage_is_noticed_and_named() {
    let room = Room::new();
    let imported = room.import_tar(&archived()).expect("imports");
    let root = room.root(&imported);
    fs::write(root.join("etc/hosts"), b"6.6.6.6 localhost\n..").expect("write");
    fs::write(root.join("etc/new"), b"").expect("write");
    let error = verified(&room, &imported.digest).expect_err("is noticed");
    let ImportError::Spoilt { what, .. } = error else { panic!("{error}") };
    assert_eq!(what, "etc/hosts is changed, etc/new is new");
    let gone = discard(&room.storage(), "n1", &imported.digest, "first").expect("discards");
    assert_eq!(gone, Discarded::Gone);
    assert!(matches!(verified(&room, &imported.digest), Err(ImportError::Absent { .. })));
    assert!(!room.import_tar(&archived()).expect("imports").was_there, "the shortcut does not lead to what is gone");
    verified(&room, &imported.digest).expect("is whole again");
}

#[test]
fn what_is_discarded_leaves_nothing_and_what_was_brought_again_stays() {
    let room = Room::new();
    let discarded = |digest: &Digest, claim: &str| discard(&room.storage(), "n2", digest, claim).expect("discards");
    let imported = room.import_tar(&archived()).expect("imports");
    let (kept, seen) = look(&room.storage(), &imported.digest).expect("looks").expect("is there");
    assert_eq!((kept.bytes, seen.as_str()), (imported.bytes, "first"));
    // The same again, by the shortcut and by another way: each is a claim of its own.
    let plain = room.file("again", &archived());
    for (claim, source) in [("second", plain), ("third", room.file("a.tar.gz", &gzip(&archived())))] {
        let mut order = room.order(source);
        order.claim = claim.to_owned();
        assert!(run(&order).expect("imports").was_there);
        assert_eq!(discarded(&imported.digest, &seen), Discarded::Claimed);
        assert_eq!(look(&room.storage(), &imported.digest).expect("looks").expect("is there").1, claim);
    }
    verified(&room, &imported.digest).expect("is whole");
    assert_eq!(discarded(&imported.digest, "third"), Discarded::Gone);
    assert_eq!(room.kept(), ["templates", "templates/.lock", "templates/origins"]);
    assert_eq!(look(&room.storage(), &imported.digest).expect("looks"), None);
    assert_eq!(discarded(&imported.digest, "third"), Discarded::Absent);
}

#[test]
fn looking_at_a_storage_makes_nothing_on_it() {
    let room = Room::new();
    let digest = Digest::of(b"nobody brought it");
    assert_eq!(look(&room.storage(), &digest).expect("looks"), None);
    assert!(matches!(verified(&room, &digest), Err(ImportError::Absent { .. })));
    assert_eq!(discard(&room.storage(), "n1", &digest, "").expect("looks"), Discarded::Absent);
    assert_eq!(room.kept(), [""; 0]);
    let gone = room.beside("not-mounted");
    assert_eq!(look(&gone, &digest).expect_err("no storage").reason(), "storage-failed");
}

#[test]
fn doubtful_entries_are_left_out_where_that_is_wanted() {
    let room = Room::new();
    let archive = Tar::default()
        .file_with("su", 0o4755, b"x")
        .node(EntryType::Char, "dev/null")
        .node(EntryType::Fifo, "run/pipe")
        .extended(&[("SCHILY.xattr.security.capability", &[1, 0, 0, 2, b'\n', 0, 0, 0]), ("SCHILY.xattr.user.x", b"y")])
        .file("ping", b"x")
        .end();
    let mut order = room.order(room.file("a.tar", &archive));
    let strip = Treat::Strip;
    order.policy = Policy { set_id: strip, capabilities: strip, devices: strip, fifos: strip };
    let imported = run(&order).expect("imports");
    let mut notes = imported.notes.clone();
    notes.sort();
    let expected = [
        "left out: device nodes, 1 times",
        "left out: fifos and sockets, 1 times",
        "left out: security.capability, 1 times",
        "left out: set-uid and set-gid bits, 1 times",
        "left out: user.x, 1 times",
    ];
    assert_eq!(notes, expected);
    let plain = Tar::default().file_with("su", 0o755, b"x").file("ping", b"x").end();
    assert_eq!(room.import_tar(&plain).expect("imports").digest, imported.digest);
}

#[test]
fn capabilities_are_kept_and_part_of_the_digest() {
    // Revision 2: all of its bytes, a line end among them.
    let capability = [1, 0, 0, 2, b'\n', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let room = Room::new();
    let with = Tar::default().extended(&[("SCHILY.xattr.security.capability", &capability)]).file("ping", b"x").end();
    let imported = match room.import_tar(&with) {
        Err(ImportError::Entry { source: template::Bad::Io { operation: "set capabilities", .. }, .. })
            if me().0 != 0 =>
        {
            return eprintln!("not root: files cannot be given capabilities, nothing was tested");
        }
        outcome => outcome.expect("imports"),
    };
    let tree = fs::read_to_string(room.root(&imported).with_file_name("tree")).expect("read");
    let hex: String = capability.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(tree.ends_with(&format!(" capability={hex}\n")), "{tree}");
    let without = room.import_tar(&Tar::default().file("ping", b"x").end()).expect("imports");
    assert_ne!(without.digest, imported.digest);
    // And from a folder that has them.
    let copied = Command::new("cp").arg("-a").args([room.root(&imported), room.beside("copy")]).status();
    assert!(copied.expect("cp runs").success());
    assert_eq!(room.import(room.beside("copy")).expect("imports").digest, imported.digest);
}

#[test]
fn devices_are_kept_only_where_that_is_wanted() {
    let room = Room::new();
    let mut order = room.order(room.file("a.tar", &Tar::default().node(EntryType::Char, "dev/null").end()));
    order.policy.devices = Treat::Keep;
    match run(&order) {
        Ok(imported) => {
            let tree = fs::read_to_string(room.root(&imported).with_file_name("tree")).expect("read");
            assert!(tree.contains("dev/null c 0666") && tree.contains(" 1:3\n"), "{tree}");
        }
        Err(ImportError::Entry { source: template::Bad::Io { operation: "make node", .. }, .. }) => {
            eprintln!("this system lets nobody here make device nodes, nothing was tested");
        }
        Err(other) => panic!("{}", other.line()),
    }
}

#[test]
fn an_import_can_be_called_off_and_leaves_nothing() {
    let room = Room::new();
    for last in [Phase::Reading, Phase::Checking, Phase::Keeping] {
        let archive = room.file("a.tar", &archived());
        let outcome = import(&room.order(archive), &mut |progress| match progress.phase == last {
            true => std::ops::ControlFlow::Break(()),
            false => std::ops::ControlFlow::Continue(()),
        });
        assert!(matches!(refused(&room, outcome), ImportError::CalledOff), "{last:?}");
    }
}

#[test]
fn a_digest_that_was_expected_is_compared() {
    let room = Room::new();
    let wanted = Digest::of(b"something else");
    let mut order = room.order(room.file("a.tar", &archived()));
    order.expected = Some(wanted);
    let error = refused(&room, run(&order));
    assert!(matches!(error, ImportError::Digest { wanted: told, .. } if told == wanted), "{error}");
    let found = room.import_tar(&archived()).expect("imports").digest;
    assert_eq!(error.reason(), "wrong-digest");
    assert!(run(&order).is_err(), "also where the tree is known by now");
    order.expected = Some(found);
    assert_eq!(run(&order).expect("imports").digest, found);
}
