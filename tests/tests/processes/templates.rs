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
    let mut templates = cluster.read("/v1/templates")["templates"].clone();
    // Who has looked by now is the nodes' own pace.
    let seen = templates.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut);
    seen.for_each(|template| template.retain(|field, _| !field.ends_with("On")));
    (found, templates)
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

/// Waits until every node has looked for `template`, and these alone find it on no storage.
#[track_caller]
fn until_missing_on(cluster: &Cluster, template: &str, nodes: &[&str]) {
    until("every node has said whether it finds the template", || {
        let seen = cluster.read("/v1/templates")["templates"].clone();
        let seen = seen.as_array()?.iter().find(|it| it["name"] == template)?;
        (seen["missingOn"] == json!(nodes) && seen["unknownOn"] == json!([])).then_some(())
    });
}

#[test]
fn a_container_waits_for_its_template_and_says_so() {
    let Some(cluster) = with_crun("missing") else { return };
    packed(&cluster);
    let by_hand = ["template", "register", "by-hand", "--path", "templates/by-hand"];
    good(&cluster, &by_hand);
    until_missing_on(&cluster, "by-hand", &["node-1", "node-2"]);
    let shown = run("quoratectl", &["--server", &cluster.members[0].api, "template", "list"], &[]);
    assert!(shown.out.contains("node-1, node-2"), "{shown:?}");
    let resources = json!({ "cpuMillis": 100, "memoryBytes": 64 << 20 });
    cluster.create("web", json!({ "template": "by-hand", "resources": resources }));
    let why = until("the planner has said why it waits", || {
        let why = good(&cluster, &["container", "why", "web"]);
        (why["decision"]["rejections"] != json!([])).then_some(why)
    });
    assert_eq!(why["decision"]["rejections"], json!([{ "rule": "template-missing", "nodes": 2 }]), "{why}");
    let says = "template by-hand is on no storage the node sees; `quoratectl template sync by-hand --storage shared`";
    assert!(why.to_string().contains(says), "{why}");
    assert_eq!(cluster.container("web")["state"], "CONTAINER_STATE_UNPLACED");
    let place = cluster.share().join("templates/by-hand");
    std::fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
    std::fs::rename(cluster.path().join("tree"), place).expect("moved");
    cluster.until_runs("web");
    until_missing_on(&cluster, "by-hand", &[]);
}

/// Folders of files, imported as application templates; their digests.
fn applications(cluster: &Cluster, files: &[(&str, &[(&str, &str)])]) -> Vec<String> {
    let bring = |(name, files): &(&str, &[(&str, &str)])| {
        let tree = cluster.path().join(name);
        for (path, content) in *files {
            let path = tree.join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, content).expect("written");
        }
        let imported = import(cluster, name, &tree, &["--kind", "application"]);
        assert_eq!(imported.code, Some(0), "{imported:?}");
        let imported: Value = serde_json::from_str(&imported.out).expect("JSON");
        imported["template"]["digest"].as_str().expect("a digest").to_owned()
    };
    files.iter().map(bring).collect()
}

#[test]
fn application_templates_lie_over_that_of_the_os_in_the_order_they_are_named() {
    let Some(cluster) = with_crun("layers") else { return };
    let imported = import(&cluster, "packed", &packed(&cluster), &[]);
    assert_eq!(imported.code, Some(0), "{imported:?}");
    let lower: &[(&str, &str)] = &[("etc/stamp", "lower\n"), ("etc/which", "lower\n"), ("srv/lower", "l")];
    let upper: &[(&str, &str)] = &[("etc/which", "upper\n"), ("srv/upper", "u")];
    applications(&cluster, &[("lower", lower), ("upper", upper)]);

    let resources = json!({ "cpuMillis": 100, "memoryBytes": 64 << 20 });
    let of = |apps: &[&str]| json!({ "template": "packed", "applicationTemplates": apps, "resources": resources });
    cluster.create("both", of(&["lower", "upper"]));
    cluster.create("turned", of(&["upper", "lower"]));
    cluster.create("none", of(&[]));
    let files = ["etc/stamp", "etc/which", "srv/lower", "srv/upper"];
    for (container, wanted) in [
        ("both", ["lower\n", "upper\n", "l", "u"]),
        ("turned", ["lower\n", "lower\n", "l", "u"]),
        ("none", ["packed\n", "", "", ""]),
    ] {
        let seen = cluster.until_runs(container);
        let [pid] = cluster.living(container)[..] else { panic!("{container}: {seen}") };
        let read = |file| std::fs::read_to_string(format!("/proc/{pid}/root/{file}")).unwrap_or_default();
        assert_eq!(files.map(read), wanted, "{container}");
    }
    let shown = good(&cluster, &["container", "show", "both"]);
    assert_eq!(shown["container"]["spec"]["applicationTemplates"], json!(["lower", "upper"]), "{shown}");

    // What cannot be is refused by name, and what is in use stays.
    let refused: [(&[&str], &str); 5] = [
        (&["--template", "packed", "--app", "packed"], "packed is the template of an OS"),
        (&["--template", "lower", "--app", "upper"], "lower is an application template"),
        (&["--template", "lower"], "lower is an application template"),
        (&["--template", "packed", "--app", "upper", "--app", "upper"], "upper is named twice"),
        (&["--template", "packed", "--app", "upper", "--app", "none"], "there is no template none"),
    ];
    for (words, says) in refused {
        let create = ["container", "create", "bad", "--storage", "shared", "--memory", "1MiB", "--cpu", "10m"];
        let ended = ctl(&cluster, &[&create, words].concat());
        assert!(matches!(ended.code, Some(4 | 5)) && ended.err.contains(says), "{words:?}: {ended:?}");
    }
    let used = ctl(&cluster, &["template", "remove", "upper"]);
    assert!(used.code == Some(5) && used.err.contains("2 containers"), "{used:?}");
}

#[test]
fn templates_are_brought_to_another_storage_once_and_checked_there() {
    let Some(cluster) = with_crun("sync") else { return };
    let imported = import(&cluster, "packed", &packed(&cluster), &[]);
    assert_eq!(imported.code, Some(0), "{imported:?}");
    applications(&cluster, &[("app", &[("srv/app", "a")])]);
    let second = cluster.path().join("second");
    std::fs::create_dir(&second).expect("a folder");
    good(&cluster, &["storage", "register", "second", "--directory", &second.display().to_string()]);
    let results = |reply: &Value| -> Vec<[String; 4]> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let all = reply["nodes"].as_array().cloned().unwrap_or_default();
        all.iter().map(|it| ["template", "node", "from", "wasThere"].map(|field| text(&it[field]))).collect()
    };
    let row = |row: [&str; 4]| row.map(str::to_owned);

    // A copy with the same digest on another storage will do.
    until_missing_on(&cluster, "packed", &[]);
    let resources = json!({ "cpuMillis": 100, "memoryBytes": 64 << 20 });
    cluster.create("early", json!({ "template": "packed", "storage": "second", "resources": resources }));
    cluster.until_runs("early");
    let lower = |container: &str| {
        let [pid] = cluster.living(container)[..] else { panic!("{container} runs once") };
        let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("its mounts");
        let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).expect("a root");
        let options = root.split_once("lowerdir=").expect("an overlay").1;
        options.split(',').next().expect("layers").to_owned()
    };
    assert!(lower("early").starts_with(&cluster.share().display().to_string()), "{}", lower("early"));

    // Both nodes see the storage: the first one copies, the other finds it there.
    let one = good(&cluster, &["template", "sync", "packed", "--storage", "second"]);
    assert_eq!(results(&one), [row(["packed", "node-1", "shared", "false"]), row(["packed", "node-2", "", "true"])]);
    let all = good(&cluster, &["template", "sync", "--storage", "second", "--node", "node-2", "--verify"]);
    assert_eq!(results(&all), [row(["app", "node-2", "shared", "false"]), row(["packed", "node-2", "", "true"])]);
    until_missing_on(&cluster, "app", &[]);
    let apps =
        json!({ "template": "packed", "applicationTemplates": ["app"], "storage": "second", "resources": resources });
    cluster.create("web", apps);
    cluster.until_runs("web");
    let layers = lower("web");
    let [app, os] = layers.split(':').collect::<Vec<_>>()[..] else { panic!("two layers: {layers}") };
    let own = second.display().to_string();
    assert!(app.starts_with(&own) && os.starts_with(&own) && app != os, "{layers}");

    // What is damaged there is said of the node that read it, and is not copied over.
    let digest = imported.out.split("\"digest\": \"sha256:").nth(1).and_then(|it| it.get(..64)).expect("a digest");
    let stamp = second.join(format!("templates/sha256-{digest}/rootfs/etc/stamp"));
    std::fs::write(&stamp, "forged\n").expect("written");
    let damaged = ctl(&cluster, &["template", "sync", "packed", "--storage", "second", "--verify"]);
    assert!(damaged.code == Some(5) && damaged.err.contains("etc/stamp is changed"), "{damaged:?}");
    // Another source is taken only if it is the same.
    let third = cluster.path().join("third");
    std::fs::create_dir(&third).expect("a folder");
    good(&cluster, &["storage", "register", "third", "--directory", &third.display().to_string()]);
    let tree = cluster.path().join("tree").display().to_string();
    let from = ["template", "sync", "packed", "--storage", "third", "--node", "node-1", "--from"];
    let other = ctl(&cluster, &[&from[..], &[&cluster.path().join("app").display().to_string()]].concat());
    assert!(other.code == Some(5) && other.err.contains("has digest sha256:"), "{other:?}");
    let same = good(&cluster, &[&from[..], &[&tree]].concat());
    assert_eq!(results(&same), [row(["packed", "node-1", "", "false"])]);

    let refused: [(&[&str], &str); 7] = [
        (&["none", "--storage", "second"], "there is no template none"),
        (&["packed", "--storage", "none"], "there is no storage none"),
        (&["packed", "--storage", "second", "--node", "none"], "there is no node none"),
        (&["packed", "--storage", "second", "--node", "node-1,node-1"], "node-1 is named twice"),
        (&["packed", "packed", "--storage", "second"], "packed is named twice"),
        (&["plain", "--storage", "second"], "plain was not imported"),
        (&["packed", "app", "--storage", "second", "--from", &tree], "one source cannot be 2 templates"),
    ];
    for (words, says) in refused {
        let ended = ctl(&cluster, &[&["template", "sync"], words].concat());
        assert!(matches!(ended.code, Some(4 | 5)) && ended.err.contains(says), "{words:?}: {ended:?}");
    }
}
