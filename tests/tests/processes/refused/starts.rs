//! What a program finds when it starts or while it runs: a disk that is full, a runtime that is not there.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tests::processes::{Cluster, Folder, not_run, run, until, until_so};

use super::doors::Ground;

/// A small file system of its own over a folder; gone with the value.
struct Mount(PathBuf);

impl Mount {
    /// `None`, said aloud, where this may not be done.
    fn small(folder: &Path, bytes: u64) -> Option<Mount> {
        std::fs::create_dir_all(folder).expect("a folder");
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder).output();
        match mounted {
            Ok(out) if out.status.success() => Some(Mount(folder.to_owned())),
            other => {
                not_run("a full disk", &format!("a small file system cannot be mounted: {other:?}"));
                None
            }
        }
    }

    /// Writes until nothing more fits; the file can be taken away again.
    fn fill(&self) -> PathBuf {
        let ballast = self.0.join("ballast");
        let mut file = std::fs::File::create(&ballast).expect("a file");
        let mut piece = vec![7; 64 << 10];
        while !piece.is_empty() {
            if file.write_all(&piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
        ballast
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

const NO_SPACE: &str = "No space left on device";

pub fn full_disk_at_the_start(_: &Ground) {
    let folder = Folder::new("full");
    let disk = folder.path().join("disk");
    let Some(mount) = Mount::small(&disk, 1 << 20) else { return };
    mount.fill();
    let data = disk.join("data").display().to_string();
    let free = ["--listen", "127.9.9.9:7440", "--peer-listen", "127.9.9.9:7441"];
    let refused = run("quorated", &[&["run", "--data-dir", &data, "--bootstrap", "full"][..], &free].concat(), &[]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for says in [data.as_str(), NO_SPACE] {
        assert!(refused.err.contains(says), "quorated does not say {says:?}: {}", refused.err);
    }
    let state = disk.join("state").display().to_string();
    let identity = folder.path().join("identity.json").display().to_string();
    let text = r#"{"cluster": "7", "generation": 1, "node": 3, "secret": "00ff", "members": ["127.9.9.9:7441"]}"#;
    std::fs::write(&identity, text).expect("a file");
    let words = ["run", "--state-dir", &state, "--identity", &identity, "--runtime", "process"];
    let refused = run("quorate-agent", &words, &[]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for says in [state.as_str(), NO_SPACE] {
        assert!(refused.err.contains(says), "quorate-agent does not say {says:?}: {}", refused.err);
    }
}

/// The member whose disk is full stops and says so; the others go on; with room again it is whole.
pub fn full_disk_while_it_runs(_: &Ground) {
    let mut cluster = Cluster::start("filled", 3, "default");
    let leader = cluster.leader();
    let full = (leader + 1) % 3;
    assert_eq!(cluster.members[full].stop(), Some(0));
    let data = cluster.members[full].data_dir.clone();
    let aside = data.with_extension("aside");
    std::fs::rename(&data, &aside).expect("moved aside");
    let Some(mount) = Mount::small(&data, 64 << 20) else { return };
    super::super::older::copy(&aside, &data);
    cluster.members[full].start(&[]);
    let ballast = mount.fill();

    let mut written = 0;
    let ended = until("the member whose disk is full stops", || {
        written += 1;
        let name = format!("node-{written}");
        cluster.members[cluster.leader()].order("POST", "/v1/nodes", json!({ "name": name }));
        cluster.members[full].ended()
    });
    assert!(ended.is_some_and(|code| code != 0), "{ended:?}");
    let log = cluster.members[full].log();
    let last: Vec<&str> = log.lines().rev().take(20).collect();
    assert!(last.iter().any(|line| line.contains(NO_SPACE)), "it does not say why: {last:#?}");
    assert!(!log.contains("panicked"), "{log}");
    cluster.members[leader].order("POST", "/v1/nodes", json!({ "name": "after" }));

    std::fs::remove_file(ballast).expect("room again");
    cluster.members[full].start(&[]);
    until_so("it has what it missed", || {
        let reply = cluster.members[full].get("/v1/nodes/after?stale=true");
        reply.status == 200 && cluster.members[full].get("/readyz").status == 200
    });
    drop(cluster);
    drop(mount);
}

pub fn missing_runtime(_: &Ground) {
    let mut cluster = Cluster::start("missing", 1, "default");
    cluster.furnish();
    // One that is there and does nothing: what is looked for is found before any that works here.
    let folder = cluster.path().join("bin");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("crun"), "#!/bin/sh\necho no such thing here >&2\nexit 1\n").expect("a file");
    std::fs::set_permissions(folder.join("crun"), Permissions::from_mode(0o755)).expect("a file");
    let path = format!("{}:/usr/bin:/bin", folder.display());
    cluster.join("node-1").start(&["--runtime", "crun"], &[("PATH", &path)]);
    let node = until("the node is up and says what it lacks", || {
        let node = cluster.node("node-1");
        let told = node["runtimesRefused"].as_array().is_some_and(|refused| !refused.is_empty());
        (node["health"] == "NODE_HEALTH_UP" && told).then_some(node)
    });
    assert_eq!(node["runtimes"], json!([]));
    let why = node["runtimesRefused"][0].as_str().unwrap_or_default().to_owned();
    assert!(why.starts_with("crun: ") && why.contains("no such thing here"), "{why}");
    cluster.create("web", json!({}));
    let why = until("it is known why it does not run", || {
        let why = cluster.read("/v1/containers/web:why");
        (why["decision"] != Value::Null && why["decision"]["rejections"] != json!([])).then_some(why)
    });
    assert!(why.to_string().contains("runtime"), "{why}");
    assert_eq!(cluster.container("web")["state"], "CONTAINER_STATE_UNPLACED");
    // What a machine cannot do the command line says as well.
    let state = cluster.machines[0].state_dir().display().to_string();
    let status = run("quorate-agent", &["status", "--state-dir", &state], &[]);
    assert!(status.out.contains("crun: "), "{status:?}");
}
