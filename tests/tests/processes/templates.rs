//! A template on its whole way: brought by a node, registered, run, moved with its container, verified, removed. And what an
//! import refuses leaves nothing, on the storage or in the cluster.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tests::processes::{Cluster, Ended, not_run, run, until};

/// A whole system in one file.
const BUSYBOX: &str = "/bin/busybox";

/// Two nodes that run containers by crun; `None`, said aloud, where this machine cannot.
fn with_crun(name: &str) -> Option<Cluster> {
    let is_static = Command::new("ldd").arg(BUSYBOX).output().is_ok_and(|out| !out.status.success());
    if !rustix::process::geteuid().is_root() || !Path::new(BUSYBOX).is_file() || !is_static {
        not_run(name, "it needs root and a static busybox");
        return None;
    }
    let mut cluster = Cluster::start(name, 3, "fast");
    cluster.furnish();
    let nodes = ["node-1", "node-2"];
    for node in nodes {
        cluster.join(node).start(&["--runtime", "crun"], &[]);
    }
    for node in nodes {
        let seen = until("it is up and knows what it can run", || {
            let seen = cluster.node(node);
            let has_looked = seen["runtimes"] != json!([]) || seen["runtimesRefused"] != json!([]);
            (seen["health"] == "NODE_HEALTH_UP" && has_looked).then_some(seen)
        });
        if seen["runtimes"] == json!([]) {
            not_run(name, &format!("{node} has no crun: {}", seen["runtimesRefused"]));
            return None;
        }
    }
    Some(cluster)
}

fn ctl(cluster: &Cluster, words: &[&str]) -> Ended {
    let servers: Vec<&str> = cluster.members.iter().map(|member| member.api.as_str()).collect();
    let servers = servers.join(",");
    run("quoratectl", &[&["--server", &servers, "--timeout", "60s", "-o", "json"], words].concat(), &[])
}

#[track_caller]
fn good(cluster: &Cluster, words: &[&str]) -> Value {
    let ended = ctl(cluster, words);
    assert_eq!(ended.code, Some(0), "{words:?}: {ended:?}");
    serde_json::from_str(&ended.out).expect("JSON")
}

fn import(cluster: &Cluster, name: &str, source: &Path, more: &[&str]) -> Ended {
    let source = source.display().to_string();
    let words = ["template", "import", name, "--storage", "shared", "--from", &source];
    ctl(cluster, &[&words, more].concat())
}

/// A root file system that says what it is, packed.
fn packed(cluster: &Cluster) -> PathBuf {
    let tree = cluster.path().join("tree");
    for folder in ["bin", "etc", "tmp"] {
        std::fs::create_dir_all(tree.join(folder)).expect("a folder");
    }
    std::fs::copy(BUSYBOX, tree.join("bin/busybox")).expect("copied");
    for name in ["sh", "tail"] {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(name)).expect("a link");
    }
    std::fs::write(tree.join("etc/stamp"), "packed\n").expect("written");
    let archive = cluster.path().join("packed.tar.gz");
    tar(&tree, &["-czf", &archive.display().to_string(), "."]);
    archive
}

#[track_caller]
fn tar(folder: &Path, words: &[&str]) {
    let packed = Command::new("tar").arg("-C").arg(folder).args(words).output().expect("tar runs");
    assert!(packed.status.success(), "{packed:?}");
}

/// Everything on the storage that is of templates, and everything the cluster says of them.
fn all_there_is(cluster: &Cluster) -> (Vec<PathBuf>, Value) {
    let mut found = Vec::new();
    let mut folders = vec![cluster.share().join("templates")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    (found, cluster.read("/v1/templates")["templates"].clone())
}

/// The one process of the container, and what it has beneath its root.
#[track_caller]
fn runs_from(cluster: &Cluster, container: &str, digest: &str) {
    let living = cluster.living(container);
    let [pid] = living[..] else { panic!("{container}: {living:?}") };
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("its mounts");
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).expect("a root");
    let lower = format!("templates/{}/rootfs", digest.replace(':', "-"));
    assert!(root.contains(&lower), "{root}");
    let stamp = std::fs::read_to_string(format!("/proc/{pid}/root/etc/stamp")).expect("its stamp");
    assert_eq!(stamp, "packed\n");
}

#[test]
fn a_template_moves_with_its_container_and_goes_when_nobody_uses_it() {
    let Some(mut cluster) = with_crun("packed") else { return };
    let archive = packed(&cluster);
    let imported = import(&cluster, "packed", &archive, &["--node", "node-1"]);
    assert_eq!(imported.code, Some(0), "{imported:?}");
    let imported: Value = serde_json::from_str(&imported.out).expect("JSON");
    assert_eq!((&imported["node"], &imported["wasThere"]), (&"node-1".into(), &false.into()));
    let digest = imported["template"]["digest"].as_str().expect("a digest").to_owned();

    let more = json!({ "template": "packed", "preferredOwners": [{ "nodes": ["node-1"] }],
        "resources": { "cpuMillis": 100, "memoryBytes": 64 << 20 } });
    cluster.create("web", more);
    assert_eq!(cluster.until_runs("web")["assignment"]["node"], "node-1");
    runs_from(&cluster, "web", &digest);
    cluster.machines[0].cut_power();
    until("it runs on the other node", || {
        let seen = cluster.container("web");
        let is_there = seen["state"] == "CONTAINER_STATE_RUNNING" && seen["assignment"]["node"] == "node-2";
        (is_there && cluster.living("web").len() == 1).then_some(())
    });
    runs_from(&cluster, "web", &digest);

    // Whoever is up finds it whole, and says what is not.
    let found = good(&cluster, &["template", "show", "packed"])["templates"][0]["copies"].clone();
    let seen = |node: &str| found.as_array().into_iter().flatten().find(|it| it["node"] == node).cloned();
    assert_eq!(seen("node-2").expect("asked")["presence"], "TEMPLATE_PRESENCE_PRESENT", "{found}");
    assert_eq!(seen("node-1").expect("told")["presence"], "TEMPLATE_PRESENCE_UNKNOWN", "{found}");
    good(&cluster, &["template", "verify", "packed"]);
    let stamp = cluster.share().join(imported["template"]["path"].as_str().expect("a path")).join("etc/stamp");
    std::fs::write(&stamp, "forged\n").expect("written");
    let damaged = ctl(&cluster, &["template", "verify", "packed"]);
    assert!(damaged.code == Some(5) && damaged.err.contains("etc/stamp is changed"), "{damaged:?}");
    assert!(damaged.out.contains("TEMPLATE_PRESENCE_DAMAGED"), "{damaged:?}");
    std::fs::write(&stamp, "packed\n").expect("written");
    good(&cluster, &["template", "verify", "packed"]);

    // In use it stays, shared it stays; then nothing is left of it.
    let used = ctl(&cluster, &["template", "remove", "packed"]);
    assert!(used.code == Some(5) && used.err.contains("1 container"), "{used:?}");
    let discarded = ctl(&cluster, &["template", "discard", &digest]);
    assert!(discarded.code == Some(5) && discarded.err.contains("template packed is made of it"), "{discarded:?}");
    let again = import(&cluster, "again", &archive, &[]);
    assert!(again.code == Some(0) && again.out.contains("\"wasThere\": true"), "{again:?}");
    good(&cluster, &["template", "remove", "again"]);
    assert!(stamp.is_file(), "it was shared");
    cluster.members[0].order("POST", "/v1/containers/web:stop", json!({}));
    until("it has stopped", || (cluster.container("web")["state"] == "CONTAINER_STATE_STOPPED").then_some(()));
    good(&cluster, &["container", "delete", "web"]);
    until("it is deleted", || (cluster.read("/v1/containers")["containers"] == json!([])).then_some(()));
    good(&cluster, &["template", "remove", "packed"]);
    let (left, templates) = all_there_is(&cluster);
    let templates_folder = cluster.share().join("templates");
    assert_eq!(left, [".lock", "origins"].map(|name| templates_folder.join(name)));
    assert_eq!(templates.as_array().map(Vec::len), Some(1), "{templates}");
}

#[test]
fn what_an_import_refuses_leaves_nothing() {
    let Some(cluster) = with_crun("refused-imports") else { return };
    let archive = packed(&cluster);
    let kept = import(&cluster, "kept", &archive, &[]);
    assert_eq!(kept.code, Some(0), "{kept:?}");
    let before = all_there_is(&cluster);
    let folder = cluster.path().join("bad");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("file"), "x").expect("written");
    std::os::unix::fs::symlink("/", folder.join("out")).expect("a link");
    std::fs::hard_link(folder.join("file"), folder.join("second")).expect("a link");
    let fifo = Command::new("mkfifo").arg(folder.join("fifo")).status().expect("mkfifo runs");
    assert!(fifo.success());
    let bad = |name: &str, words: &[&str]| {
        let path = cluster.path().join(format!("{name}.tar"));
        tar(&folder, &[&["-cf", &path.display().to_string()], words].concat());
        path
    };
    let escape = format!("s,^file,../../../../escaped-{},", std::process::id());
    let cut = cluster.path().join("cut.tar.gz");
    let whole = std::fs::read(&archive).expect("an archive");
    std::fs::write(&cut, &whole[..whole.len() / 2]).expect("written");
    let wrong = format!("sha256:{}", "0".repeat(64));
    let rows: [(&str, PathBuf, &[&str], &str); 8] = [
        ("climbs", bad("climbs", &["-P", "--transform", &escape, "file"]), &[], "climbs with `..`"),
        ("absolute", bad("absolute", &["-P", "--transform", "s,^file,/tmp/file,", "file"]), &[], "absolute"),
        (
            "through-link",
            bad("through", &["--transform", "s,^file,out/tmp/file,", "out", "file"]),
            &[],
            "symbolic link",
        ),
        (
            "link-out",
            bad("link-out", &["-P", "--transform", "s,^second,../up,;s,^file,../up,S", "second", "file"]),
            &[],
            "..",
        ),
        ("fifo", bad("fifo", &["fifo"]), &[], "fifo"),
        ("cut", cut, &[], "damaged"),
        ("other-digest", archive, &["--digest", &wrong], "has digest sha256:"),
        ("nothing", cluster.path().join("nothing"), &[], "No such file"),
    ];
    for (name, source, more, says) in rows {
        let refused = import(&cluster, name, &source, more);
        assert!(refused.code == Some(5) && refused.err.contains(says), "{name}: {refused:?}");
        assert_eq!(all_there_is(&cluster), before, "{name} left something");
    }
    let outside = std::fs::read_dir(cluster.path()).expect("a folder").flatten();
    let escaped = |name: &str| name.starts_with("escaped-");
    assert!(!outside.map(|it| it.file_name()).any(|name| name.to_str().is_some_and(escaped)));
    // The same node takes the next one.
    let good = import(&cluster, "copied", &cluster.path().join("tree"), &[]);
    assert!(good.code == Some(0), "{good:?}");
}
