//! What a program was given and cannot take: it says what, where, and what to do, and makes nothing.

use tests::processes::{Cluster, Folder, program, run, until_so};

#[track_caller]
fn refuses(name: &str, words: &[&str], says: &[&str]) {
    let ended = run(name, words, &[]);
    assert!(ended.code.is_some_and(|code| code != 0), "{name} {words:?} was taken: {ended:?}");
    for word in says {
        assert!(ended.err.contains(word), "{name} {words:?} does not say {word:?}: {}", ended.err);
    }
    assert!(!ended.err.contains("panicked"), "{}", ended.err);
}

/// On the list of bad input: `refused` calls it.
pub fn typo_in_a_configuration_names_the_right_key() {
    let folder = Folder::new("typo");
    let file = folder.path().join("quorated.toml").display().to_string();
    std::fs::write(&file, "data_dir = \"/nonexistent\"\npeer_listn = \"127.0.0.1:1\"\n").expect("a file");
    refuses(
        "quorated",
        &["run", "--config", &file],
        &[&file, "there is no key `peer_listn`", "did you mean `peer_listen`?"],
    );
    std::fs::write(&file, "advertize_api = \"a:1\"\n").expect("a file");
    refuses("quorated", &["run", "--config", &file], &["`advertize_api`", "did you mean `advertise_api`?"]);
    std::fs::write(&file, "runtme = \"process\"\n").expect("a file");
    refuses("quorate-agent", &["run", "--config", &file], &[&file, "`runtme`", "`runtime`"]);
    let nowhere = folder.path().join("nowhere").display().to_string();
    refuses("quorated", &["run", "--config", &nowhere], &[&nowhere, "No such file"]);
    refuses("quorate-agent", &["run", "--config", &nowhere], &[&nowhere, "No such file"]);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "something was made");
}

#[test]
fn addresses_that_cannot_be_are_refused_before_anything_is_made() {
    let folder = Folder::new("addresses");
    let data = folder.path().join("data").display().to_string();
    let run = |more: &[&str], says: &[&str]| refuses("quorated", &[&["run", "--data-dir", &data], more].concat(), says);
    run(&["--listen", "0.0.0.0:0"], &["0.0.0.0", "loopback", "--insecure"]);
    run(&["--listen", "somewhere"], &["listen", "somewhere"]);
    run(&["--bootstrap", "test", "--profile", "hasty"], &["hasty", "fast"]);
    run(&["--name", "../x", "--bootstrap", "test"], &["name"]);
    assert!(!folder.path().join("data").exists(), "a refused start made a folder");
}

#[test]
fn agent_without_an_identity_says_how_to_get_one() {
    let folder = Folder::new("nobody");
    let state = folder.path().display().to_string();
    refuses("quorate-agent", &["run", "--state-dir", &state, "--runtime", "process"], &["quoratectl node join"]);
}

/// On the list of bad input: `refused` calls it.
pub fn port_or_folder_in_use_is_named() {
    let cluster = Cluster::start("in-use", 1, "fast");
    let member = &cluster.members[0];
    let other = cluster.path().join("other").display().to_string();
    let free = member.api.replace(":7440", ":7450");
    let free_peer = member.api.replace(":7440", ":7451");
    refuses(
        "quorated",
        &["run", "--data-dir", &other, "--listen", &member.api, "--peer-listen", &free_peer],
        &[&member.api, "in use"],
    );
    refuses(
        "quorated",
        &["run", "--data-dir", &other, "--listen", &free, "--peer-listen", &member.peer],
        &[&member.peer, "in use"],
    );
    let data = member.data_dir.display().to_string();
    refuses(
        "quorated",
        &["run", "--data-dir", &data, "--listen", &free, "--peer-listen", &free_peer],
        &[&data, "in use"],
    );
    assert_eq!(member.get("/readyz").status, 200, "the one that runs is not disturbed");
}

/// On the list of bad input: `refused` calls it.
pub fn data_folder_of_another_cluster_is_refused() {
    let mut here = Cluster::start("here", 1, "fast");
    let mut there = Cluster::start("there", 1, "fast");
    here.members[0].kill();
    there.members[0].kill();
    let identity = |cluster: &Cluster| cluster.members[0].data_dir.join("member.toml");
    let own = std::fs::read(identity(&there)).expect("a member notes who it is");
    std::fs::copy(identity(&here), identity(&there)).expect("copied");
    let words = there.members[0].words();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    refuses("quorated", &words, &["belongs to cluster"]);
    // Nothing was spoilt: with its own identity it is what it was.
    std::fs::write(identity(&there), own).expect("written");
    there.members[0].start(&[]);
    until_so("it leads again", || there.members[0].get("/readyz").status == 200);
}

#[test]
fn programs_say_their_version_and_what_they_take() {
    for name in ["quorated", "quorate-agent", "quoratectl"] {
        let version = run(name, &["--version"], &[]);
        assert_eq!((version.code, version.out.contains(env!("CARGO_PKG_VERSION"))), (Some(0), true), "{version:?}");
        assert_eq!(run(name, &["--help"], &[]).code, Some(0));
        let ended = run(name, &["--nonsense"], &[]);
        assert_eq!((ended.code, ended.err.contains("--nonsense")), (Some(2), true), "{ended:?}");
    }
    assert!(program("quorate-guard").is_file());
}
