//! Who may use whom: one direction of dependency, and quiet crates that name and link nothing that acts.

use super::crates::{cargo, words_of};
use super::*;

/// A crate uses only those before it in `members`; the programs of the two sides never see each other.
fn direction(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let workspace = toml(tree.get("Cargo.toml"));
    let members = words_of(workspace["workspace"].get("members"));
    let mut before: Vec<String> = Vec::new();
    let mut folders = BTreeMap::new();
    for (name, how) in workspace["workspace"]["dependencies"].as_table().into_iter().flatten() {
        if let Some(path) = how.get("path").and_then(toml::Value::as_str) {
            folders.insert(name.clone(), path.to_owned());
        }
    }
    for member in members {
        let manifest = toml(tree.get(&format!("{member}/Cargo.toml")));
        for (section, needed) in manifest.iter().filter(|(section, _)| section.ends_with("dependencies")) {
            for name in needed.as_table().into_iter().flat_map(toml::Table::keys) {
                let Some(folder) = folders.get(name) else { continue };
                if !before.contains(folder) {
                    found.push(format!("{member} uses {folder} ({section}), which stands below it"));
                }
                let sides = [member, folder.as_str()].map(|folder| folder.split('/').next().unwrap_or_default());
                if sides == ["nodeagent", "controlplane"] && !folder.ends_with("/cluster") {
                    found.push(format!("{member} uses {folder}: the two sides never see each other"));
                }
            }
        }
        before.push(member.to_owned());
    }
    found
}

#[test]
fn dependencies_have_one_direction() {
    nothing(direction(Tree::read()));
    let workspace = r#"
        [workspace]
        members = ["controlplane/cluster", "controlplane", "nodeagent"]
        [workspace.dependencies]
        cluster = { path = "controlplane/cluster" }
        controlplane = { path = "controlplane" }
        nodeagent = { path = "nodeagent" }"#;
    let tree = Tree::forged([
        ("Cargo.toml", workspace),
        ("controlplane/cluster/Cargo.toml", "[dev-dependencies]\nnodeagent.workspace = true"),
        ("controlplane/Cargo.toml", "[dependencies]\ncluster.workspace = true"),
        ("nodeagent/Cargo.toml", "[dependencies]\ncluster.workspace = true\ncontrolplane.workspace = true"),
    ]);
    let what = ["controlplane/cluster uses nodeagent (dev-dependencies)", "the two sides never see each other"];
    bites(direction(&tree), &what);
}

const QUIET: [&str; 4] = ["controlplane/cluster", "controlplane/record", "controlplane/replica", "nodeagent/decide"];

/// What a quiet crate must not even link; `used` is what `cargo tree` prints.
fn loud(used: &str) -> Vec<String> {
    let loud = ["tokio", "tonic", "hyper", "axum", "sled", "rustix", "reqwest", "rand", "getrandom"];
    let lines = used.lines().filter(|line| loud.iter().any(|name| line.split(' ').next() == Some(name)));
    lines.map(|line| format!("a quiet crate links {line}")).collect()
}

#[test]
fn quiet_crates_link_nothing_that_acts() {
    // raft's own choice of its campaign timeouts is the one `rand`; raft.rs draws them from the seed it is given.
    let quiet = ["cluster", "record", "decide", "proto"].map(|name| format!("--package={name}"));
    let mut words = vec!["tree", "--locked", "--edges=normal", "--prefix=none"];
    words.extend(quiet.iter().map(String::as_str));
    let used = cargo(&words);
    assert!(used.contains("prost "), "{used}");
    nothing(loud(&used));
    // The simulator runs the real minds without the hands.
    let mut used = cargo(&["tree", "--locked", "--edges=normal", "--prefix=none", "--package=tests"]);
    assert!(used.contains("raft "), "{used}");
    used = used
        .lines()
        .filter(|line| !["rustix ", "rand ", "getrandom "].iter().any(|it| line.starts_with(it)))
        .map(|line| format!("{line}\n"))
        .collect();
    nothing(loud(&used));
    bites(loud("prost v0.14.1\ntokio v1.48.0\ntokio-stream v0.1.1\n"), &["tokio v1.48.0"]);
}

/// Quiet crates say so to clippy, and name nothing that acts.
fn quiet(tree: &Tree) -> Vec<String> {
    let acts = [
        "Instant",
        "SystemTime",
        "HashMap",
        "HashSet",
        "std::fs",
        "std::net",
        "std::process",
        "std::thread",
        "std::env",
        "tokio",
        "rand::",
        "println!",
        "eprintln!",
        "thread_local!",
    ];
    let mut found = Vec::new();
    for room in QUIET {
        let rules = tree.get(&format!("{room}/clippy.toml"));
        for word in ["std::time::Instant", "std::time::SystemTime", "std::collections::HashMap", "std::thread::spawn"] {
            if !rules.contains(word) {
                found.push(format!("{room}/clippy.toml does not forbid {word}"));
            }
        }
        for (file, text) in tree.rust().filter(|(file, _)| file.starts_with(&format!("{room}/src/")) && !is_test(file))
        {
            for (line, text) in shipped(text) {
                found.extend(
                    acts.iter()
                        .filter(|word| names(text, word))
                        .map(|word| format!("{file}:{line}: {word} in a quiet crate")),
                );
            }
        }
    }
    found
}

#[test]
fn quiet_crates_name_nothing_that_acts() {
    nothing(quiet(Tree::read()));
    let rules = "std::time::Instant std::time::SystemTime std::collections::HashMap std::thread::spawn";
    let tree = Tree::forged([
        ("controlplane/cluster/clippy.toml", rules),
        ("controlplane/record/clippy.toml", rules),
        ("controlplane/replica/clippy.toml", "std::time::Instant std::time::SystemTime std::thread::spawn"),
        ("nodeagent/decide/clippy.toml", rules),
        (
            "controlplane/cluster/src/a.rs",
            "use std::time::Instant;\n// no HashMap here\nlet instantly = 1;\n#[cfg(test)]\nuse tokio::x;\n",
        ),
        ("nodeagent/decide/src/b.rs", "std::fs::write(a, b)"),
        ("controlplane/src/c.rs", "use std::time::Instant;"),
    ]);
    let what = ["a.rs:1: Instant", "replica/clippy.toml does not forbid std::collections::HashMap", "b.rs:1: std::fs"];
    bites(quiet(&tree), &what);
}
