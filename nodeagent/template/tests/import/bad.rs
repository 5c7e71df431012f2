//! Archives that were made to harm, and those that came to harm: each refused by name, nothing changed.

use std::fs;
use std::os::unix::fs::symlink;

use tar::EntryType;
use template::{Bad, ImportError, Limits, Policy, Treat};

use super::support::*;

/// What is wrong with the one bad entry of an archive; the storage and what lies beside it are as before.
fn entry_refused(archive: Tar, path: &str, why: Bad) {
    let room = Room::new();
    fs::write(room.beside("victim"), b"untouched").expect("write");
    let error = refused(&room, room.import_tar(&archive.end()));
    bad_entry(&error, path, &why);
    assert_eq!(error.reason(), "bad-archive");
    assert_eq!(fs::read(room.beside("victim")).expect("read"), b"untouched");
    assert!(!room.beside("evil").exists());
}

#[test]
fn paths_that_lead_out_are_refused() {
    entry_refused(Tar::default().file("/evil", b"x"), "/evil", Bad::Absolute);
    entry_refused(Tar::default().file("../../../evil", b"x"), "../../../evil", Bad::Climbs);
    entry_refused(Tar::default().folder("a").file("a/../../evil", b"x"), "a/../../evil", Bad::Climbs);
    let pax = Tar::default().extended(&[("path", b"../evil")]).file("good", b"x");
    entry_refused(pax, "../evil", Bad::Climbs);
    entry_refused(Tar::default().file(".", b"x"), ".", Bad::Empty);
    entry_refused(Tar::default().extended(&[("path", b"a\0b")]).file("a", b"x"), "a\\x00b", Bad::Nul);
}

#[test]
fn nothing_is_written_through_a_link() {
    let out = Tar::default().link("out", "../../..");
    entry_refused(out.file("out/evil", b"x"), "out/evil", Bad::ThroughLink);
    let absolute = Tar::default().link("etc", "/etc");
    entry_refused(absolute.file("etc/evil", b"x"), "etc/evil", Bad::ThroughLink);
    let inside = Tar::default().folder("real").link("link", "real");
    entry_refused(inside.file("link/deep/x", b"x"), "link/deep/x", Bad::ThroughLink);
    let folder = Tar::default().link("a", "..");
    entry_refused(folder.folder("a/b"), "a/b", Bad::ThroughLink);
    // The link itself is not written through either.
    let onto = Tar::default().link("x", "../../../victim");
    entry_refused(onto.file("x", b"evil"), "x", Bad::Twice);
    entry_refused(Tar::default().file("f", b"x").file("f/x", b"x"), "f/x", Bad::ThroughFile);
}

#[test]
fn hard_links_lead_to_files_of_the_tree_only() {
    let to = |target: &str| Tar::default().link("link", "/etc/passwd").folder("folder").hard_link("x", target);
    entry_refused(to("/etc/passwd"), "x", Bad::HardLinkOut("/etc/passwd".into()));
    entry_refused(to("../../../victim"), "x", Bad::HardLinkOut("../../../victim".into()));
    entry_refused(to("nothing"), "x", Bad::HardLinkToNothing("nothing".into()));
    entry_refused(to("link"), "x", Bad::HardLinkToOther("link".into()));
    entry_refused(to("folder"), "x", Bad::HardLinkToOther("folder".into()));
    let through = Tar::default().link("out", "/etc").hard_link("x", "out/passwd");
    entry_refused(through, "x", Bad::ThroughLink);
}

#[test]
fn special_files_are_refused_and_others_where_that_is_wanted() {
    entry_refused(Tar::default().node(EntryType::Char, "dev/null"), "dev/null", Bad::Device);
    entry_refused(Tar::default().node(EntryType::Block, "dev/sda"), "dev/sda", Bad::Device);
    entry_refused(Tar::default().node(EntryType::Fifo, "run/pipe"), "run/pipe", Bad::Fifo);
    let room = Room::new();
    let refuse = Policy { set_id: Treat::Refuse, capabilities: Treat::Refuse, ..Policy::default() };
    let capable = Tar::default().extended(&[("SCHILY.xattr.security.capability", b"x")]).file("ping", b"x");
    let cases = [
        (Tar::default().file_with("su", 0o4755, b"x"), "su", Bad::SetId),
        (Tar::default().file_with("wall", 0o2755, b"x"), "wall", Bad::SetId),
        (capable, "ping", Bad::Capabilities),
    ];
    for (archive, path, why) in cases {
        let mut order = room.order(room.file("a.tar", &archive.end()));
        order.policy = refuse;
        bad_entry(&refused(&room, run(&order)), path, &why);
    }
}

#[test]
fn an_entry_is_there_once() {
    entry_refused(Tar::default().file("a", b"x").file("./a", b"y"), "a", Bad::Twice);
    entry_refused(Tar::default().file("a", b"x").folder("a"), "a", Bad::Twice);
    entry_refused(Tar::default().folder("a").link("a", "b"), "a", Bad::Twice);
    entry_refused(Tar::default().file("a", b"x").hard_link("a", "a"), "a", Bad::Twice);
    // Folders are named again by many; the last word counts.
    let room = Room::new();
    room.import_tar(&Tar::default().file("a/b", b"x").folder("a").folder("a/").end()).expect("imports");
}

#[test]
fn marks_of_layers_are_no_entries_of_archives() {
    entry_refused(Tar::default().file("etc/.wh.passwd", b""), "etc/.wh.passwd", Bad::Whiteout);
    entry_refused(Tar::default().file(".wh..wh..opq", b""), ".wh..wh..opq", Bad::Whiteout);
}

#[test]
fn names_and_depths_have_an_end() {
    let long = "a".repeat(256);
    entry_refused(
        Tar::default().extended(&[("path", long.as_bytes())]).file("x", b""),
        &long,
        Bad::NameTooLong { max: 255 },
    );
    let deep = "a/".repeat(300);
    entry_refused(
        Tar::default().extended(&[("path", deep.as_bytes())]).file("x", b""),
        &deep,
        Bad::TooDeep { max: 256 },
    );
    let path = format!("{}/", "a".repeat(250)).repeat(17);
    entry_refused(
        Tar::default().extended(&[("path", path.as_bytes())]).file("x", b"x"),
        &path,
        Bad::PathTooLong { max: 4095 },
    );
}

#[test]
fn kinds_and_numbers_that_mean_nothing_are_refused() {
    entry_refused(Tar::default().add(&Tar::header(EntryType::new(b'V'), "label", 0, 0), b""), "label", Bad::Kind('V'));
    entry_refused(Tar::default().link("x", ""), "x", Bad::NoTarget);
    let mut ids = Tar::header(EntryType::Regular, "x", 0o644, 0);
    ids.set_uid(u64::from(u32::MAX));
    ids.set_cksum();
    entry_refused(Tar::default().add(&ids, b""), "x", Bad::Header("uid 4294967295".into()));
    let mut folder = Tar::header(EntryType::Directory, "x", 0o755, 512);
    folder.set_cksum();
    entry_refused(Tar::default().add(&folder, &[0; 512]), "x", Bad::Header("512 bytes of what has no content".into()));
    entry_refused(Tar::default().extended(&[("GNU.sparse.map", b"0,1")]).file("x", b"x"), "", Bad::Sparse);
    entry_refused(Tar::default().extended(&[("uid", b"root")]).file("x", b"x"), "", Bad::Header("uid root".into()));
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    let sparse = |map: &[u8], size: &[u8]| {
        let mut content = map.to_vec();
        content.resize(512, 0);
        content.extend_from_slice(&[7; 512]);
        let room = Room::new();
        let archive = Tar::default()
            .extended(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"image"),
                ("GNU.sparse.realsize", size),
            ])
            .file("x", &content)
            .end();
        refused(&room, room.import_tar(&archive)).line()
    };
    for (map, size) in [
        (&b"1\n4096\n512\n"[..], &b"4096"[..]),
        (b"2\n512\n512\n0\n512\n", b"4096"),
        (b"1\n0\n100\n", b"4096"),
        (b"1\n18446744073709551615\n2\n", b"4096"),
        (b"1\n-1\n2\n", b"4096"),
        (b"99999999999999999999999\n", b"4096"),
    ] {
        assert!(sparse(map, size).contains("entry \"image\""), "{}", sparse(map, size));
    }
    let endless = sparse(b"1\n0\n512\n", b"9000000000000000000");
    assert!(endless.contains("bytes of content of more than"), "{endless}");
}

#[test]
fn archives_that_were_cut_or_changed_are_damaged() {
    let whole = Tar::default().file("first", &[1; 2000]).file("second", &[2; 100]);
    let marks = [whole.0.len(), 512 + 2048, 512 + 2048 + 512, 512 + 700, 200];
    for compress in [|bytes: &[u8]| bytes.to_vec(), gzip, zstd] {
        for cut in marks {
            let room = Room::new();
            let error = refused(&room, room.import_tar(&compress(&whole.0[..cut])));
            assert_eq!(error.reason(), "bad-archive", "cut at {cut}: {}", error.line());
        }
    }
    let mut changed = Tar::default().file("first", b"x").file("second", b"x").end();
    changed[1024 + 3] ^= 1;
    let room = Room::new();
    let error = refused(&room, room.import_tar(&changed));
    assert_eq!(error.line(), "the archive is damaged after \"first\": the checksum of a header is wrong");
    for content in [&b"no archive at all"[..], b"", &[0x1f, 0x8b, 8, 0], &[0xff; 2048]] {
        let room = Room::new();
        assert_eq!(refused(&room, room.import_tar(content)).reason(), "bad-archive");
    }
    let packed = gzip(&Tar::default().file("first", &[1; 2000]).end());
    let error = refused(&room, room.import_tar(&packed[..packed.len() - 4]));
    assert_eq!(error.reason(), "bad-archive", "the checksum of gzip is missing");
}

#[test]
fn announcements_without_an_entry_are_damage() {
    for archive in [
        Tar::default().extended(&[("path", b"x")]).end(),
        Tar::default().extended(&[("path", b"x")]).extended(&[("path", b"y")]).file("z", b"").end(),
        Tar::default().extended_as(EntryType::XGlobalHeader, &[("uid", b"0")]).file("z", b"").end(),
        Tar::default().add(&Tar::header(EntryType::XHeader, "x", 0, 9), b"99 path=x").file("z", b"").end(),
        Tar::default().add(&Tar::header(EntryType::XHeader, "x", 0, 4), b"abcd").file("z", b"").end(),
    ] {
        let room = Room::new();
        assert_eq!(refused(&room, room.import_tar(&archive)).reason(), "bad-archive");
    }
}

#[test]
fn what_would_fill_the_storage_or_the_memory_is_refused_before_it_does() {
    let room = Room::new();
    let refused_with = |limits: Limits, archive: &[u8]| {
        let mut order = room.order(room.file("a", archive));
        order.limits = limits;
        refused(&room, run(&order))
    };
    let many = (0..11).fold(Tar::default(), |tar, number| tar.file(&number.to_string(), b"")).end();
    let error = refused_with(Limits { entries: 10, ..Limits::default() }, &many);
    assert!(matches!(error, ImportError::TooMuch { what: "entries", max: 10 }), "{error}");
    let two = Tar::default().file("a", &[1; 600]).file("b", &[1; 600]).end();
    let error = refused_with(Limits { bytes: 1000, ..Limits::default() }, &two);
    assert!(matches!(error, ImportError::TooMuch { what: "bytes of content", .. }), "{error}");
    let promise = Tar::default().add(&Tar::header(EntryType::Regular, "a", 0o644, 1 << 40), b"").end();
    let error = refused_with(Limits::default(), &promise);
    assert!(matches!(error, ImportError::TooMuch { what: "bytes of content", .. }), "{error}");
    let header = Tar::default().add(&Tar::header(EntryType::GNULongName, "x", 0, 1 << 40), b"").end();
    let error = refused_with(Limits::default(), &header);
    assert!(matches!(error, ImportError::TooMuch { .. }), "{error}");
    let zeros = Tar::default().file("zeros", &vec![0; 8 << 20]).end();
    let limits = Limits { ratio: 100, ratio_from: 1 << 20, ..Limits::default() };
    for archive in [gzip(&zeros), zstd(&zeros)] {
        let error = refused_with(limits, &archive);
        assert!(matches!(&error, ImportError::Bomb { at, .. } if at == "zeros"), "{error}");
        assert_eq!(error.reason(), "too-large");
    }
}

#[test]
fn what_leaves_no_room_is_refused_before_it_is_written() {
    let room = Room::new();
    let archive = room.file("a", &Tar::default().file("a", &[1; 600]).end());
    fs::create_dir(room.beside("tree")).expect("folder");
    // All of the storage is to stay free, and something is on it.
    let limits = Limits { spare_percent: 100, spare_max: u64::MAX, ..Limits::default() };
    for source in [archive, room.beside("tree")] {
        let mut order = room.order(source);
        order.limits = limits;
        let error = refused(&room, run(&order));
        assert!(matches!(error, ImportError::NoRoom { free, spare, .. } if free < spare), "{error}");
        assert_eq!(error.reason(), "no-room");
    }
    // What a header promises counts before its first byte is there.
    let promise = Tar::default().add(&Tar::header(EntryType::Regular, "a", 0o644, 1 << 50), b"").end();
    let mut order = room.order(room.file("promise", &promise));
    order.limits = Limits { bytes: u64::MAX, ..Limits::default() };
    let error = refused(&room, run(&order));
    assert!(matches!(error, ImportError::NoRoom { needed, .. } if needed == 1 << 50), "{error}");
}

#[test]
fn sources_that_are_none_are_named() {
    let room = Room::new();
    for source in ["relative/path", "debian:12", "", "../up"] {
        let mut order = room.order("/");
        order.source = source.to_owned();
        assert_eq!(refused(&room, run(&order)).reason(), "bad-source", "{source:?}");
    }
    assert_eq!(refused(&room, room.import(room.beside("missing"))).reason(), "storage-failed");
    assert_eq!(refused(&room, room.import("/dev/null")).reason(), "bad-source");
    // A folder that holds the storage would hold its own copy.
    assert_eq!(refused(&room, room.import(room.beside(""))).reason(), "bad-source");
    let mut order = room.order("/etc/hosts");
    order.storage = room.beside("not-mounted");
    assert!(run(&order).is_err() && !room.beside("not-mounted").exists(), "a share that is not mounted is not made");
}

#[test]
fn folders_with_what_archives_may_not_hold_are_refused_too() {
    let room = Room::new();
    let tree = room.beside("tree");
    fs::create_dir(&tree).expect("folder");
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).expect("bind");
    bad_entry(&refused(&room, room.import(&tree)), "socket", &Bad::Fifo);
    fs::remove_file(tree.join("socket")).expect("remove");
    // A link is copied as a link, wherever it points to.
    symlink("/etc/shadow", tree.join("shadow")).expect("link");
    let imported = room.import(&tree).expect("imports");
    assert_eq!(fs::read_link(room.root(&imported).join("shadow")).expect("a link").to_str(), Some("/etc/shadow"));
}
