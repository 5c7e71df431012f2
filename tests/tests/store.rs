//! The data of real members: what is damaged is named and not used, a full disk stops one member and loses nothing, and a
//! member that lost its data comes back by the documented command while the cluster serves.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::{Value, json};
use tests::processes::{Cluster, Member, http, not_run, number, request_id, run, until, until_so};

/// The members by name, with their ids, as `member` says.
fn names(member: &Member) -> BTreeMap<String, u64> {
    let status = member.status().expect("it answers");
    let members = status["members"].as_array().expect("members").iter();
    members.map(|it| (it["name"].as_str().expect("a name").to_owned(), number(&it["id"]))).collect()
}

/// What a member itself has applied of the annotations of `container`, without asking anybody.
fn annotations(member: &Member, container: &str) -> Value {
    let reply = http::get(&member.api, &format!("/v1/containers/{container}?stale=true")).ok();
    let reply = reply.filter(|reply| reply.status == 200);
    reply.map_or(Value::Null, |reply| reply.json()["container"]["spec"]["annotations"].clone())
}

/// Whether the member itself has the annotation `value` of the ledger.
fn has(member: &Member, value: u64) -> bool {
    annotations(member, "ledger")["value"].as_str() == Some(&value.to_string())
}

fn annotate(cluster: &Cluster, through: usize, value: u64, padding: usize) {
    let set = json!({ "set": { "value": value.to_string(), "padding": "x".repeat(padding) } });
    cluster.members[through].order("POST", "/v1/containers/ledger:annotate", set);
}

type Damage = fn(&Path);

fn standing(member: &Member) -> String {
    member.status().map_or(String::new(), |status| status["standing"].as_str().unwrap_or_default().to_owned())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("copied");
        }
    }
}

/// The largest file of a folder.
fn largest(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    files.max_by_key(|path| fs::metadata(path).map_or(0, |meta| meta.len())).expect("a file")
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("written");
}

#[test]
fn damage_is_named_by_the_member_and_its_data_is_not_used() {
    let cases: [(&str, Damage); 9] = [
        ("identity file", |data| flip(&data.join("member/identity"), 30)),
        ("guard file", |data| fs::write(data.join("member/guard"), b"").expect("written")),
        ("group ", |data| flip(&largest(&data.join("member/log")), 200)),
        ("snapshot", |data| flip(&largest(&data.join("member/snapshots")), 150)),
        ("member folder", |data| fs::remove_dir_all(data.join("member")).expect("removed")),
        // A new disk, and only the papers put back.
        ("the store is gone", |data| {
            fs::remove_dir_all(data.join("member")).expect("removed");
            fs::remove_file(data.join("owner")).expect("removed");
        }),
        ("member.toml", |data| flip(&data.join("member.toml"), 60)),
        ("member.toml", |data| fs::remove_file(data.join("member.toml")).expect("removed")),
        ("guard file", |data| fs::remove_file(data.join("member/guard")).expect("removed")),
    ];
    let mut cluster = Cluster::start_with("named", 1, "fast", &["--store", "file"]);
    cluster.furnish();
    cluster.create("ledger", json!({}));
    (1..4).for_each(|value| annotate(&cluster, 0, value, 10));
    let member = &mut cluster.members[0];
    // Started once more, so that the log has everything and the guard file need not put anything back.
    member.kill();
    member.start(&[]);
    until_so("it has everything", || has(member, 3));
    member.kill();
    let whole = member.data_dir.clone();
    for (number, (says, damage)) in cases.into_iter().enumerate() {
        member.data_dir = whole.with_file_name(format!("damaged-{number}"));
        copy(&whole, &member.data_dir);
        damage(&member.data_dir);
        // Started twice: what was found is not forgotten.
        for _ in 0..2 {
            member.start(&[]);
            until_so("it says that it is quarantined", || standing(member) == "MEMBER_STANDING_QUARANTINED");
            let trouble = member.status().expect("it answers")["trouble"].as_str().unwrap_or_default().to_owned();
            assert!(trouble.contains(says) && trouble.contains("member rejoin"), "{says}: {trouble}");
            let ready = member.get("/readyz");
            assert!(ready.status == 503 && ready.body.contains("quarantined"), "{says}: {ready:?}");
            assert_ne!(member.get("/v1/containers/ledger").status, 200, "{says}");
            assert_ne!(member.get("/v1/containers/ledger?stale=true").status, 200, "{says}");
            member.kill();
        }
    }
    // Put aside by hand, with its papers, it is an empty member, and not its former self with nothing in it.
    let data = member.data_dir.display().to_string();
    let retired = run("quorated", &["retire", "--data-dir", &data], &[]);
    assert_eq!(retired.code, Some(0), "{retired:?}");
    assert!(Path::new(retired.out.trim()).join("quarantined").is_file(), "{retired:?}");
    member.start(&[]);
    until_so("it is empty", || standing(member) == "MEMBER_STANDING_EMPTY");
    member.kill();
    // Untouched it is what it was.
    member.data_dir = whole;
    member.start(&[]);
    until_so("it has everything", || has(member, 3));
}

// ---- A full disk ----

const DISK_BYTES: u64 = 48 << 20;
const ROOM_BYTES: u64 = 300 << 10;

/// A file system of `DISK_BYTES`, seen by this thread and what it starts; goes with them.
struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn small_disk(place: &Path) -> SmallDisk {
    // SAFETY: mount namespaces only; no file descriptors are unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.expect("root has mount namespaces");
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("root may");
    fs::create_dir_all(place).expect("a folder");
    let size = std::ffi::CString::new(format!("size={DISK_BYTES}")).expect("no zero in it");
    mount("tmpfs", place, "tmpfs", MountFlags::empty(), size.as_c_str()).expect("root may");
    SmallDisk(place.to_owned())
}

fn a_full_disk_stops_one_member(name: &str, store: &str) {
    if !rustix::process::geteuid().is_root() {
        return not_run(name, "it needs root, for a small file system");
    }
    let mut cluster = Cluster::start_with(name, 3, "fast", &["--store", store]);
    cluster.furnish();
    cluster.create("ledger", json!({}));
    let victim = cluster.leader();
    let (other, third) = ((victim + 1) % 3, (victim + 2) % 3);

    // It moves to a small disk, which then fills up.
    assert_eq!(cluster.members[victim].stop(), Some(0));
    let small = cluster.path().join("small");
    let _disk = small_disk(&small);
    copy(&cluster.members[victim].data_dir, &small);
    cluster.members[victim].data_dir = small.clone();
    cluster.members[victim].start(&[]);
    let mut value = 1;
    annotate(&cluster, other, value, 10);
    until_so("it follows", || has(&cluster.members[victim], value));
    let ballast = small.join("ballast");
    let mut file = File::create(&ballast).expect("room for a name");
    let block = vec![0x5a; 64 << 10];
    let full = std::iter::repeat_with(|| file.write_all(&block)).find_map(Result::err).expect("it fills up");
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    let len = file.metadata().expect("a file").len();
    file.set_len(len - ROOM_BYTES).expect("it can be cut");
    drop(file);

    // Everything is acknowledged, by the others, and one member says why it stops.
    let code = loop {
        value += 1;
        annotate(&cluster, other, value, 3_000);
        if let Some(code) = cluster.members[victim].ended() {
            break code;
        }
        assert!(value < 4_000, "a full disk bothers nobody");
    };
    let log = cluster.members[victim].log();
    let last = log.lines().last().unwrap_or_default();
    assert_eq!(code, Some(1), "{last}");
    assert!(last.contains("disk") && last.contains("No space left on device"), "{last}");
    assert!(!log.contains("panicked"), "{log}");
    for _ in 0..20 {
        value += 1;
        annotate(&cluster, third, value, 3_000);
    }

    // With room again it is the member it was, and has what it missed.
    fs::remove_file(&ballast).expect("a file");
    cluster.members[victim].start(&[]);
    until_so("it caught up", || has(&cluster.members[victim], value));
    assert!(!cluster.members[victim].data_dir.join("quarantined").exists());
    // It counts: with another one gone nothing is acknowledged without it.
    cluster.members[third].kill();
    value += 1;
    annotate(&cluster, other, value, 10);
    until_so("it has that too", || has(&cluster.members[victim], value));
}

#[test]
fn full_disk_under_sled_stops_one_member_and_loses_nothing() {
    a_full_disk_stops_one_member("full-sled", "sled");
}

#[test]
fn full_disk_under_files_stops_one_member_and_loses_nothing() {
    a_full_disk_stops_one_member("full-file", "file");
}

// ---- Coming back ----

const WRITERS: usize = 4;
/// Each writer goes round so many annotations of its container: so many of its last writes can be looked at.
const KEYS: u64 = 40;

/// Clients that write all the while, each to a container of its own, and what was acknowledged to them.
#[derive(Default)]
struct Load {
    over: AtomicBool,
    written: [AtomicU64; WRITERS],
    acknowledged: Mutex<BTreeMap<(usize, String), u64>>,
}

impl Load {
    fn write(&self, writer: usize, doors: &[String]) {
        for value in 1.. {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let key = format!("k{}", value % KEYS);
            let mut set = serde_json::Map::new();
            set.insert(key.clone(), value.to_string().into());
            // The same request through whichever door answers: it counts once.
            let body = json!({ "set": set, "requestId": request_id() });
            let path = format!("/v1/containers/ledger-{writer}:annotate");
            let mut door = doors.iter().cycle().skip(writer);
            until("a write is answered", || {
                let answer = http::call(door.next().expect("endless"), "POST", &path, Some(&body)).ok()?;
                (answer.status < 500).then_some(answer)
            })
            .good();
            self.acknowledged.lock().expect("nobody panics with it").insert((writer, key), value);
            self.written[writer].store(value, Ordering::Relaxed);
        }
    }

    /// Waits until every writer has `more` acknowledgements more.
    fn goes_on(&self, more: u64) {
        let before = self.written.each_ref().map(|written| written.load(Ordering::Relaxed));
        until_so("every client writes on", || {
            self.written.iter().zip(before).all(|(now, before)| now.load(Ordering::Relaxed) >= before + more)
        });
    }

    /// Whether `member` holds the last acknowledged value of every key.
    fn is_with(&self, member: &Member) -> bool {
        let held: Vec<Value> = (0..WRITERS).map(|writer| annotations(member, &format!("ledger-{writer}"))).collect();
        let acknowledged = self.acknowledged.lock().expect("nobody panics with it");
        acknowledged.iter().all(|((writer, key), value)| held[*writer][key].as_str() == Some(&value.to_string()))
    }
}

/// Ends the load when the test does, however it ends: its threads are waited for.
struct Ending<'a>(&'a Load);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

#[test]
fn member_that_lost_data_rejoins_by_command_while_the_cluster_serves() {
    let mut cluster = Cluster::start("rejoins", 3, "fast");
    cluster.furnish();
    (0..WRITERS).for_each(|writer| drop(cluster.create(&format!("ledger-{writer}"), json!({}))));
    let (load, doors): (_, Vec<String>) =
        (Load::default(), cluster.members.iter().map(|member| member.api.clone()).collect());
    std::thread::scope(|scope| {
        let ending = Ending(&load);
        for writer in 0..WRITERS {
            let (load, doors) = (&load, &doors);
            scope.spawn(move || load.write(writer, doors));
        }
        // A follower whose records are all gone; then the leader, which does not know who it is any more, and whose
        // command line names another member.
        let leader = cluster.leader();
        let damages: [(usize, Damage, bool); 2] = [
            ((leader + 1) % 3, |data| fs::remove_dir_all(data.join("member")).expect("removed"), false),
            (leader, |data| fs::remove_file(data.join("member.toml")).expect("removed"), true),
        ];
        for (victim, damage, nameless) in damages {
            let absent = (victim + 1) % 3;
            load.goes_on(10);
            let before = names(&cluster.members[absent]);
            cluster.members[victim].kill();
            damage(&cluster.members[victim].data_dir);
            if nameless {
                cluster.members[victim].name = cluster.members[absent].name.clone();
            }
            cluster.members[victim].start(&[]);
            let burnt = until("it is quarantined", || {
                let status = cluster.members[victim].status()?;
                (status["standing"] == "MEMBER_STANDING_QUARANTINED").then_some(status)
            });
            load.goes_on(10);
            let api = cluster.members[victim].api.clone();
            let via = cluster.members[absent].api.clone();
            let words = ["member", "rejoin", "--member", &api, "--via", &via];
            let words = if nameless { &words[..] } else { &words[..4] };
            let rejoined = run("quoratectl", words, &[("QUORATE_SERVERS", &api)]);
            assert_eq!(rejoined.code, Some(0), "{rejoined:?}");
            assert!(rejoined.out.contains("is never used again"), "{rejoined:?}");
            load.goes_on(10);
            let status = cluster.members[victim].status().expect("it answers");
            assert_ne!(status["member"], burnt["member"], "{status}");
            // Its old id is gone, and nobody else's.
            let after = names(&cluster.members[absent]);
            assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
            let same = after.iter().filter(|(name, id)| before.get(*name) == Some(*id)).count();
            assert_eq!(same, 2, "{before:?}, {after:?}");
            // It counts: with another one gone nothing is acknowledged without it.
            cluster.members[absent].kill();
            load.goes_on(20);
            cluster.members[absent].start(&[]);
        }
        load.goes_on(10);
        drop(ending);
    });
    let writes: u64 = load.written.iter().map(|written| written.load(Ordering::Relaxed)).sum();
    assert!(writes > 200, "{writes} writes are no load");
    println!("rejoined twice under load: {writes} writes acknowledged, 0 missing");
    for member in &cluster.members {
        until_so(&format!("{} has every acknowledged write", member.name), || load.is_with(member));
    }
}
