//! The rules of the house that a test can check: who may use whom, what each room never contains, what may be in the tree.
//! In: the files of the checkout, and `cargo metadata`. Out: a list of what breaks a rule, by file and line.
//! Every rule is also shown to bite, on a forged example.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// The root of the checkout.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a folder of the root").to_owned()
}

/// Text of every file, by its path from the root. Files that are not text are left out.
struct Tree(BTreeMap<String, String>);

impl Tree {
    fn read() -> &'static Tree {
        static TREE: OnceLock<Tree> = OnceLock::new();
        TREE.get_or_init(|| {
            let mut tree = BTreeMap::new();
            let mut folders = vec![root()];
            while let Some(folder) = folders.pop() {
                for entry in std::fs::read_dir(&folder).expect("a folder of the checkout") {
                    let path = entry.expect("an entry").path();
                    let name = path.strip_prefix(root()).expect("below the root").to_str().expect("UTF-8").to_owned();
                    if path.is_dir() && !matches!(name.as_str(), "target" | ".git") && !path.is_symlink() {
                        folders.push(path);
                    } else if path.is_file()
                        && let Ok(text) = std::fs::read_to_string(&path)
                    {
                        tree.insert(name, text);
                    }
                }
            }
            assert!(tree.len() > 100, "the checkout holds {} files only", tree.len());
            Tree(tree)
        })
    }

    fn forged<const N: usize>(files: [(&str, &str); N]) -> Tree {
        Tree(files.map(|(name, text)| (name.to_owned(), text.to_owned())).into())
    }

    fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files().filter(|(name, _)| name.ends_with(".rs"))
    }

    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

/// The lines of Rust code without comments, numbered from 1.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let bare = |line| str::split_once(line, "// ").map_or(line, |(code, _)| code);
    let lines = text.lines().enumerate().map(move |(at, line)| (at + 1, bare(line)));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The same as far as it is part of the program: what stands before the tests.
fn shipped(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.lines().position(|line| line.trim() == "#[cfg(test)]").unwrap_or(usize::MAX);
    code(text).take_while(move |(line, _)| *line <= end)
}

/// Where `word` stands in `line` and is not a part of a longer one.
fn names(line: &str, word: &str) -> bool {
    let part = |letter: char| letter.is_alphanumeric() || letter == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(part) && word.starts_with(part);
        let after = line[at + word.len()..].chars().next().is_some_and(part) && word.ends_with(part);
        !before && !after
    })
}

fn is_test(file: &str) -> bool {
    file.contains("/tests/") || file.starts_with("tests/") || file.ends_with("/tests.rs")
}

fn toml(text: &str) -> toml::Table {
    text.parse().expect("TOML")
}

#[track_caller]
fn nothing(found: Vec<String>) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[track_caller]
fn bites(found: Vec<String>, what: &[&str]) {
    assert_eq!(found.len(), what.len(), "{found:#?}");
    for (found, what) in found.iter().zip(what) {
        assert!(found.contains(what), "{found:?} does not say {what:?}");
    }
}

// ---- What may be in the tree ----

/// An SPDX expression, as far as crates use it: `A OR B`, `A AND B`, `A WITH X`, `A/B`, brackets.
fn licence_fits(expression: &str, allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let fits = any_of(&mut words, allowed)?;
    words.next().map_or(Ok(fits), |word| Err(format!("{expression:?}: {word} is out of place")))
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words, allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let mut fits = all_of(words, allowed)?;
    while words.next_if_eq(&"OR").is_some() {
        fits |= all_of(words, allowed)?;
    }
    Ok(fits)
}

fn all_of(words: &mut Words, allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let mut fits = licence(words, allowed)?;
    while words.next_if_eq(&"AND").is_some() {
        fits &= licence(words, allowed)?;
    }
    Ok(fits)
}

fn licence(words: &mut Words, allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    match words.next() {
        None => Err("a licence is missing".into()),
        Some("(") => {
            let fits = any_of(words, allowed)?;
            words.next_if_eq(&")").ok_or("a bracket is not closed")?;
            Ok(fits)
        }
        Some(id) if words.next_if_eq(&"WITH").is_some() => {
            Ok(allowed(&format!("{id} WITH {}", words.next().ok_or("an exception is missing")?)))
        }
        Some(id) => Ok(allowed(id.trim_end_matches('+'))),
    }
}

fn words_of(value: Option<&toml::Value>) -> Vec<&str> {
    value.and_then(toml::Value::as_array).into_iter().flatten().filter_map(toml::Value::as_str).collect()
}

/// Every crate is under a licence that deny.toml allows, every exception has a reason and is needed.
fn licences(packages: &[Value], deny: &toml::Table) -> Vec<String> {
    let mut found = Vec::new();
    let allow = words_of(deny["licenses"].get("allow"));
    let exceptions = deny["licenses"].get("exceptions").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    let mut used = BTreeSet::new();
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        let Some(expression) = package["license"].as_str() else {
            found.push(format!("{name} does not say its licence"));
            continue;
        };
        if licence_fits(expression, &|id| allow.contains(&id)) == Ok(true) {
            continue;
        }
        let exception = exceptions.iter().find(|it| it.get("crate").and_then(toml::Value::as_str) == Some(name));
        let more = exception.map(|it| words_of(it.get("allow"))).unwrap_or_default();
        match licence_fits(expression, &|id| allow.contains(&id) || more.contains(&id)) {
            Ok(true) => {
                used.insert(name);
            }
            Ok(false) => found.push(format!("{name} is under {expression}, which deny.toml does not allow")),
            Err(problem) => found.push(format!("{name}: {problem}")),
        }
    }
    for exception in &exceptions {
        let name = exception.get("crate").and_then(toml::Value::as_str).unwrap_or("?");
        if !used.contains(name) {
            found.push(format!("the exception for {name} is not needed any more"));
        }
        if exception.get("reason").and_then(toml::Value::as_str).is_none_or(str::is_empty) {
            found.push(format!("the exception for {name} has no reason"));
        }
    }
    found
}

/// Nothing banned is in the tree, everything is from crates.io or here, every ban and ignored advisory has a reason.
fn bans(packages: &[Value], deny: &toml::Table) -> Vec<String> {
    let mut found = Vec::new();
    let banned = deny["bans"].get("deny").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    let ignored = deny["advisories"].get("ignore").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    for entry in banned.iter().chain(&ignored) {
        if entry.get("reason").and_then(toml::Value::as_str).is_none_or(str::is_empty) {
            found.push(format!("{entry} has no reason"));
        }
    }
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        if banned.iter().any(|it| it.get("crate").and_then(toml::Value::as_str) == Some(name)) {
            found.push(format!("{name} is banned"));
        }
        // A crate of this checkout has no source; a registry that stands in for crates.io is shown as crates.io.
        if package["source"].as_str().is_some_and(|source| !source.contains("crates.io-index")) {
            found.push(format!("{name} comes from {}", package["source"]));
        }
        let none = Vec::new();
        for needed in package["dependencies"].as_array().unwrap_or(&none) {
            if package["source"].is_null() && needed["req"] == "*" && needed["path"].is_null() {
                found.push(format!("{name} takes any version of {}", needed["name"]));
            }
        }
    }
    found
}

fn metadata() -> &'static [Value] {
    static PACKAGES: OnceLock<Vec<Value>> = OnceLock::new();
    PACKAGES.get_or_init(|| {
        let mut packages = BTreeMap::new();
        // Those deny.toml names; what only other systems need is not fetched by a build.
        let deny = toml(Tree::read().get("deny.toml"));
        let targets = words_of(deny["graph"].get("targets"));
        assert!(targets.contains(&"x86_64-unknown-linux-gnu"), "{targets:?}");
        for target in targets {
            let out = cargo(&["metadata", "--locked", "--format-version=1", "--filter-platform", target]);
            let out: Value = serde_json::from_str(&out).expect("JSON of cargo metadata");
            // What is resolved for this system: `packages` also lists the crates of others.
            let nodes = out["resolve"]["nodes"].as_array().expect("resolved");
            let needed: BTreeSet<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
            for package in out["packages"].as_array().expect("packages") {
                let id = package["id"].as_str().expect("an id");
                if needed.contains(id) {
                    packages.insert(id.to_owned(), package.clone());
                }
            }
        }
        packages.into_values().collect()
    })
}

/// What cargo prints. Without the network if it can: what was built once is at hand.
fn cargo(words: &[&str]) -> String {
    let run = |offline: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command.args(words).args(offline).current_dir(root()).output().expect("cargo runs")
    };
    let mut out = run(&["--offline"]);
    if !out.status.success() {
        out = run(&[]);
    }
    assert!(out.status.success(), "cargo {words:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

#[test]
fn every_crate_is_under_an_allowed_licence() {
    assert!(metadata().len() > 100, "{} crates", metadata().len());
    nothing(licences(metadata(), &toml(Tree::read().get("deny.toml"))));
}

#[test]
fn nothing_banned_is_in_the_tree() {
    nothing(bans(metadata(), &toml(Tree::read().get("deny.toml"))));
}

#[test]
fn licences_and_bans_bite() {
    let deny = toml(
        r#"
        advisories.ignore = [{ id = "RUSTSEC-1" }]
        licenses.allow = ["MIT", "Unicode-3.0"]
        licenses.exceptions = [{ crate = "imbl", allow = ["MPL-2.0"], reason = "why" }, { crate = "gone", allow = ["X"] }]
        bans.deny = [{ crate = "openssl-sys", reason = "why" }]"#,
    );
    let from = |name: &str, licence: &str| serde_json::json!({ "name": name, "license": licence });
    let mut nameless = from("nameless", "");
    nameless["license"] = Value::Null;
    let packages = [
        from("fine", "(MIT OR GPL-3.0) AND Unicode-3.0"),
        from("old", "Apache-2.0 / MIT"),
        from("imbl", "MPL-2.0+"),
        from("strict", "MIT AND GPL-3.0"),
        from("linked", "MIT WITH GPL-exception"),
        nameless,
    ];
    let what = [
        "strict is under MIT AND GPL-3.0",
        "linked is under",
        "nameless does not say",
        "the exception for gone is not needed",
        "the exception for gone has no reason",
    ];
    bites(licences(&packages, &deny), &what);
    let packages = [
        serde_json::json!({ "name": "openssl-sys", "source": "registry+https://github.com/rust-lang/crates.io-index" }),
        serde_json::json!({ "name": "fork", "source": "git+https://example.com/fork" }),
        serde_json::json!({ "name": "own", "dependencies": [{ "name": "anything", "req": "*" }] }),
    ];
    let what = ["RUSTSEC-1", "openssl-sys is banned", "fork comes from", "own takes any version of \"anything\""];
    bites(bans(&packages, &deny), &what);
}

/// Every dependency is chosen in the workspace, and says there why it is needed.
fn reasons(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in tree.get("Cargo.toml").lines() {
        if line.starts_with('[') {
            inside = line == "[workspace.dependencies]";
        } else if inside && !line.is_empty() && !line.starts_with('#') && !line.contains("path = ") {
            let reason = line.rsplit_once("# ").map_or("", |(_, reason)| reason);
            if reason.trim().len() < 4 {
                found.push(format!("Cargo.toml: {line}: no reason"));
            }
        }
    }
    for (file, text) in tree.files().filter(|(file, _)| file.ends_with("/Cargo.toml")) {
        for (section, needed) in toml(text).iter().filter(|(section, _)| section.ends_with("dependencies")) {
            for (name, how) in needed.as_table().into_iter().flatten() {
                if how.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                    found.push(format!("{file}: {section}.{name} is not the workspace's choice"));
                }
            }
        }
    }
    found
}

#[test]
fn every_dependency_has_a_reason() {
    nothing(reasons(Tree::read()));
    let tree = Tree::forged([
        (
            "Cargo.toml",
            "[workspace.dependencies]\nown = { path = \"own\" }\nserde = \"1\" # JSON and configuration\nrand = \"1\"\n",
        ),
        ("own/Cargo.toml", "[dependencies]\nserde.workspace = true\nrand = \"0.8\"\n"),
    ]);
    bites(reasons(&tree), &["rand = \"1\": no reason", "dependencies.rand is not the workspace's choice"]);
}

// ---- Who may use whom ----

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

// ---- What is named in one place only ----

/// The raft crate behind replica's raft.rs, sled behind store/sled.rs: each can be replaced by rewriting one file.
fn behind_one_file(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (name, home, file_of) in
        [("raft", "controlplane/replica", "src/raft.rs"), ("sled", "controlplane", "src/store/sled.rs")]
    {
        for (file, text) in tree.files().filter(|(file, _)| file.ends_with("/Cargo.toml")) {
            let sections = toml(text);
            let needs = sections.iter().filter(|(section, _)| section.ends_with("dependencies"));
            let uses = needs.filter_map(|(_, needed)| needed.as_table()).any(|needed| needed.contains_key(name));
            if uses && file != format!("{home}/Cargo.toml") {
                found.push(format!("{file}: {name} is for {home} alone"));
            }
        }
        let only = format!("{home}/{file_of}");
        for (file, text) in tree.rust().filter(|(file, _)| file.starts_with(&format!("{home}/")) && *file != only) {
            for (line, text) in code(text).filter(|(_, text)| crate_named(text, name, declares(tree.get(file), name))) {
                found.push(format!("{file}:{line}: {} (only {only} may)", text.trim()));
            }
        }
    }
    found
}

/// Whether the bare name means a module here: declared in this file, or imported from the own crate.
fn declares(text: &str, module: &str) -> bool {
    let ends = [format!("::{module};"), format!("::{module}::{{self"), format!(" {module},"), format!(" {module}}}")];
    code(text).map(|(_, line)| line.trim().trim_start_matches("pub ")).any(|line| {
        let own = line.starts_with("use crate::") || line.starts_with("use super::");
        line.starts_with(&format!("mod {module};")) || own && ends.iter().any(|end| line.contains(end))
    })
}

/// Whether the line means the crate and not a module of that name; in the file that declares one, the bare name is the module.
fn crate_named(line: &str, name: &str, declared: bool) -> bool {
    let path = format!("{name}::");
    let inner = ["eraftpb", "raft_proto", "RawNode"];
    let bare = line.match_indices(&path).any(|(at, _)| {
        let before = &line[..at];
        let longer = before.ends_with(|letter: char| letter.is_alphanumeric() || letter == '_');
        // `crate::raft::`, `store::sled::`: a module by its path. `::raft::` is always the crate.
        let module = before.ends_with("::") && !before.trim_end_matches("::").is_empty() && !before.ends_with(" ::");
        let imported = before.trim_start().starts_with("use ") && !module;
        !longer && !module && (!declared || before.ends_with(" ::") || (imported && before.trim() == "use ::"))
    });
    bare || (name == "raft" && inner.iter().any(|word| names(line, word)))
}

#[test]
fn raft_and_sled_stand_behind_one_file_each() {
    nothing(behind_one_file(Tree::read()));
    let tree = Tree::forged([
        ("controlplane/replica/Cargo.toml", "[dependencies]\nraft.workspace = true"),
        ("nodeagent/Cargo.toml", "[dependencies]\nsled.workspace = true"),
        ("controlplane/replica/src/raft.rs", "use raft::RawNode;"),
        (
            "controlplane/replica/src/lib.rs",
            "mod raft;\nuse crate::raft::Turn;\nfn carry(turn: raft::Turn) {}\nuse ::raft::Config;",
        ),
        ("controlplane/replica/src/log.rs", "use raft::Storage;\nuse crate::raft::Turn;"),
        ("controlplane/replica/src/reads.rs", "use super::raft::{self, Role};\nfn lost() { raft::Dropped }"),
        ("controlplane/replica/src/tick.rs", "fn now(node: &RawNode) {}"),
        ("controlplane/src/store/file.rs", "let db = sled::open(path);"),
    ]);
    let what = ["lib.rs:4", "log.rs:1", "tick.rs:1", "nodeagent/Cargo.toml: sled", "file.rs:1"];
    bites(behind_one_file(&tree), &what);
}

/// HTTP's numbers belong to the front door and to `proto`; gRPC's codes to those who answer calls or ask them.
fn codes(tree: &Tree) -> Vec<String> {
    let rooms: [(&str, &[&str]); 2] = [
        // `problem.rs` is the one table from code to number; the front door says "up", "ready" and "too large".
        ("StatusCode", &["proto/src/problem.rs", "proto/src/rest/", "controlplane/src/api/front.rs"]),
        (
            "Code",
            &[
                "proto/src/",
                // The doors, and what stands before a member has a mind that could answer.
                "controlplane/src/api/",
                "controlplane/src/server.rs",
                "controlplane/src/standing.rs",
                // What a failed call means for whoever asked: try again, ask elsewhere, exit with which number.
                "ctl/src/client.rs",
                "ctl/src/output.rs",
                "ctl/src/commands/",
            ],
        ),
    ];
    let mut found = Vec::new();
    for (file, text) in tree.rust().filter(|(file, _)| !is_test(file)) {
        for (line, text) in shipped(text) {
            for (word, rooms) in rooms {
                let path = format!("{word}::");
                if names(text, &path) && !rooms.iter().any(|room| file.starts_with(room)) {
                    found.push(format!("{file}:{line}: {} (only {} may)", text.trim(), rooms.join(", ")));
                }
            }
        }
    }
    found
}

#[test]
fn status_codes_stay_at_the_doors() {
    nothing(codes(Tree::read()));
    let tree = Tree::forged([
        ("controlplane/src/api/error.rs", "Code::NotFound"),
        ("controlplane/src/runtime/task.rs", "Err(Status::new(Code::Internal))"),
        ("nodeagent/src/link/leader.rs", "StatusCode::OK; ExitCode::SUCCESS"),
    ]);
    bites(codes(&tree), &["runtime/task.rs:1", "link/leader.rs:1"]);
}

/// Programs are started by argument vectors; a shell would take a name for a command.
fn shells(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (file, text) in tree.rust().filter(|(file, _)| !is_test(file)) {
        let lines = shipped(text).filter(|(_, text)| text.contains("\"-c\"") || text.contains("new(\"sh\")"));
        found.extend(lines.map(|(line, text)| format!("{file}:{line}: {}: a shell", text.trim())));
    }
    found
}

#[test]
fn no_program_starts_a_shell() {
    nothing(shells(Tree::read()));
    let tree = Tree::forged([("nodeagent/src/drivers/oci.rs", "Command::new(\"sh\").args([\"-c\", line])")]);
    bites(shells(&tree), &["oci.rs:1"]);
}

// ---- What is complete ----

/// A rule of placement that is not in the table is never asked.
fn rules_of_placement(tree: &Tree) -> Vec<String> {
    let room = "controlplane/cluster/src/placement/rules/";
    let table = tree.get(&format!("{room}mod.rs"));
    let rules = tree.rust().filter_map(|(file, _)| file.strip_prefix(room)?.strip_suffix(".rs"));
    let missing = rules.filter(|rule| *rule != "mod" && !table.contains(&format!("    {rule}::rule,")));
    missing.map(|rule| format!("{room}{rule}.rs is not in the table")).collect()
}

#[test]
fn every_rule_of_placement_is_asked() {
    nothing(rules_of_placement(Tree::read()));
    let room = "controlplane/cluster/src/placement/rules/";
    let (table, asked, idle) = (format!("{room}mod.rs"), format!("{room}up.rs"), format!("{room}idle.rs"));
    let tree = Tree::forged([
        (table.as_str(), "const TABLE: [Rule; 1] = [\n    up::rule,\n];"),
        (asked.as_str(), ""),
        (idle.as_str(), ""),
    ]);
    bites(rules_of_placement(&tree), &["idle.rs is not in the table"]);
}

/// A story begins with what it shows, and why that matters.
fn stories(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (file, text) in tree.files().filter(|(file, _)| file.starts_with("tests/scenarios/") && file.ends_with(".txt"))
    {
        let head: Vec<&str> = text.lines().take_while(|line| line.starts_with('#')).collect();
        let words = head.iter().map(|line| line.trim_start_matches('#').split_whitespace().count()).sum::<usize>();
        if words < 8 {
            found.push(format!("{file} does not begin with what it shows and why"));
        }
    }
    found
}

#[test]
fn every_story_says_what_it_shows() {
    nothing(stories(Tree::read()));
    let tree = Tree::forged([
        (
            "tests/scenarios/good.txt",
            "# A node loses its power: its containers run elsewhere, once,\n# and never before the receipt.\nstart\n",
        ),
        ("tests/scenarios/bad.txt", "# demo\nstart\n"),
    ]);
    bites(stories(&tree), &["bad.txt"]);
}

/// A file of code begins with what it is; tests beside the code belong to the file they test.
fn headers(tree: &Tree) -> Vec<String> {
    let files = tree.rust().filter(|(file, text)| !file.contains("/src/") || !is_test(file) || text.is_empty());
    let bare = files.filter(|(_, text)| !text.starts_with("//!"));
    // One test crate of several files explains itself in its main.rs.
    let bare = bare.filter(|(file, _)| file.ends_with("/main.rs") || !is_test(file));
    bare.map(|(file, _)| format!("{file} has no header")).collect()
}

#[test]
fn every_module_says_what_it_is() {
    nothing(headers(Tree::read()));
    let tree = Tree::forged([
        ("ctl/src/a.rs", "//! Prints.\n"),
        ("ctl/src/b.rs", "use std::fs;\n"),
        ("controlplane/cluster/src/apply/tests/containers.rs", "use super::*;\n"),
    ]);
    bites(headers(&tree), &["ctl/src/b.rs"]);
}

// ---- What is nowhere ----

/// Nothing unfinished is in the tree, no test sleeps instead of waiting, none is skipped without a word.
fn unfinished(tree: &Tree) -> Vec<String> {
    /// File and reason.
    const MAY_SLEEP: [(&str, &str); 7] = [
        ("tests/tests/tidy.rs", "names what it forbids"),
        ("tests/src/processes/", "asks a real process again until a deadline; nothing tells it when to look"),
        ("controlplane/tests/it/support.rs", "asks a member again until a deadline; nothing tells it when to look"),
        ("tests/src/figures/", "measures: real time is what it is about"),
        ("tests/src/lab/", "asks real machines again until a deadline; nothing tells it when to look"),
        ("tests/src/nemesis/", "holds a fault for as long as it shall last; asks real machines again until a deadline"),
        ("nodeagent/tests/", "asks real processes again until a deadline; nothing tells it when to look"),
    ];
    let words = ["TO\u{44}O", "FIX\u{4d}E", "XX\u{58}"];
    let macros = ["tod\u{6f}!", "unimplemente\u{64}!", "db\u{67}!"];
    let mut found = Vec::new();
    for (file, text) in tree.files().filter(|(file, _)| !file.ends_with("Cargo.lock")) {
        for (at, line) in text.lines().enumerate() {
            let mut say = |what: &str| found.push(format!("{file}:{}: {what}", at + 1));
            words.iter().filter(|word| names(line, word)).for_each(|word| say(word));
            if !file.ends_with(".rs") {
                continue;
            }
            macros.iter().filter(|word| names(line, word)).for_each(|word| say(word));
            if line.trim() == "#[ignor\u{65}]" {
                say("a test is left out without a reason");
            }
        }
        let Some(file) = file.ends_with(".rs").then_some(file) else { continue };
        let tests = text.lines().position(|line| line.trim() == "#[cfg(test)]");
        let tests = if is_test(file) { Some(0) } else { tests };
        for (line, text) in code(text).filter(|(line, _)| tests.is_some_and(|from| *line > from)) {
            let sleeps = text.contains("thread::sleep") || text.contains("time::sleep");
            if sleeps && !MAY_SLEEP.iter().any(|(may, _)| file.starts_with(may)) {
                found.push(format!("{file}:{line}: a test sleeps: wait on a condition, or move the clock"));
            }
        }
    }
    found
}

#[test]
fn nothing_is_unfinished_and_no_test_sleeps() {
    nothing(unfinished(Tree::read()));
    let bad = "// TO\u{44}O: later\nfn a() { tod\u{6f}!() }\n#[ignor\u{65}]\n#[cfg(test)]\nmod tests { fn b() { std::thread::sleep(c) } }\n";
    let tree = Tree::forged([
        ("ctl/src/a.rs", bad),
        ("ctl/src/b.rs", "fn pause() { std::thread::sleep(AGAIN) }\n#[ignor\u{65} = \"needs root\"]\n"),
        ("tests/tests/c.rs", "tokio::time::sleep(second).await"),
        ("README.md", "AUTODOOR FIX\u{4d}E"),
    ]);
    let what = ["README.md:1", "a.rs:1", "a.rs:2", "a.rs:3", "a.rs:5: a test sleeps", "c.rs:1: a test sleeps"];
    bites(unfinished(&tree), &what);
}

/// What switches planted bugs, and where it may be named.
const SWITCH: &str = "quorate_mutant\u{73}";

/// Planted bugs are in no build but the one that `cargo sim --mutants` makes in a folder of its own: nothing else sets
/// the switch, and no feature reaches it.
fn planted_elsewhere(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (file, text) in tree.files().filter(|(file, _)| !file.ends_with(".md")) {
        let own = file.starts_with("tests/planted/src/") || file == "tests/src/sim/mutants.rs";
        for (at, line) in text.lines().enumerate().filter(|(_, line)| line.contains(SWITCH)) {
            let declared = file == "Cargo.toml" && line.contains("check-cfg");
            if !own && !declared {
                found.push(format!("{file}:{}: {}", at + 1, line.trim()));
            }
        }
    }
    let features = toml(tree.get("tests/planted/Cargo.toml")).contains_key("features");
    found.extend(features.then(|| "tests/planted/Cargo.toml: a feature could reach a program".to_owned()));
    found
}

/// The words between quotes that follow each `before` in `text`.
fn quoted<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
    let after = text.split(before).skip(1);
    after.filter_map(|rest| rest.strip_prefix('"')?.split_once('"').map(|(word, _)| word)).collect()
}

/// The table and the code name the same bugs, each once in the table; every mark of the safety page is in it.
fn table_of_bugs(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let table = tree.get("tests/planted/src/table.rs");
    let listed = quoted(table, "bug(");
    let rooms = ["proto", "controlplane/cluster", "controlplane/replica", "controlplane/record", "nodeagent/decide"]
        .map(|room| format!("{room}/src/"));
    let mut planted = BTreeSet::new();
    for (file, text) in
        tree.rust().filter(|(file, _)| !file.starts_with("tests/planted/") && !file.starts_with("tests/tests/"))
    {
        let names = quoted(text, "planted!(");
        // The simulator stands in for one line of the guard's process: which clock it reads.
        if !names.is_empty()
            && !rooms.iter().any(|room| file.starts_with(room.as_str()))
            && file != "tests/src/sim/agents.rs"
        {
            found.push(format!("{file} holds a planted bug that no simulated mind runs into"));
        }
        planted.extend(names);
    }
    let once: BTreeSet<&str> = listed.iter().copied().collect();
    if once.len() != listed.len() {
        found.push("a planted bug is in the table twice".to_owned());
    }
    found.extend(once.difference(&planted).map(|name| format!("{name} is in the table and planted nowhere")));
    found.extend(planted.difference(&once).map(|name| format!("{name} is planted and not in the table")));
    let marks = |text: &str| -> BTreeSet<String> {
        let bracketed =
            text.split('(').skip(1).filter_map(|rest| rest.split_once(')')).flat_map(|(inside, _)| inside.split(", "));
        let is_mark = |word: &&str| {
            let digits = word.trim_start_matches(['a', 'b', 'c']);
            word.len() - digits.len() <= 1 && !digits.is_empty() && digits.chars().all(|letter| letter.is_ascii_digit())
        };
        bracketed.filter(is_mark).map(str::to_owned).collect()
    };
    let shown = marks(table);
    let rows: String = tree.get("SAFETY.md").lines().filter(|line| line.starts_with("| (")).collect();
    found.extend(marks(&rows).difference(&shown).map(|mark| format!("({mark}) of SAFETY.md has no planted bug")));
    found
}

#[test]
fn planted_bugs_are_in_no_ordinary_build() {
    nothing(planted_elsewhere(Tree::read()));
    // Whatever it is called: in this build it is off, for good.
    const { assert!(!planted::planted!("any name at all")) };
    let text = "[features]\nplanted = []\n".to_owned();
    let flags = format!("[build]\nrustflags = [\"--cfg={SWITCH}\"]\n");
    let code = format!("#[cfg({SWITCH})]\nfn bug() {{}}\n");
    let tree = Tree::forged([
        (".cargo/config.toml", flags.as_str()),
        ("controlplane/cluster/src/state.rs", code.as_str()),
        ("tests/planted/Cargo.toml", text.as_str()),
    ]);
    bites(planted_elsewhere(&tree), &["config.toml:2", "state.rs:1", "a feature could reach"]);
}

/// What is built, where it is built: the programs hold nothing of the table.
#[test]
fn no_program_holds_a_planted_bug() {
    let folder = std::env::var_os("QUORATE_BIN_DIR").map_or_else(|| root().join("target/debug"), PathBuf::from);
    let sign = quoted(Tree::read().get("tests/planted/src/switch.rs"), "SIGN: &[u8] = b");
    let [sign] = sign[..] else { panic!("the sign of a build with planted bugs is not where it was") };
    let holds = |program: &Path| -> Option<bool> {
        let grep = Command::new("grep").args(["-q", "-a", "-F", sign]).arg(program).status().ok()?;
        grep.code().filter(|code| *code < 2).map(|code| code == 0)
    };
    for program in ["quorated", "quorate-agent", "quorate-guard", "quoratectl"] {
        assert_ne!(holds(&folder.join(program)), Some(true), "{program} was built with planted bugs");
    }
    // And the search finds it where it is.
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("planted/src/switch.rs");
    assert_eq!(holds(&own), Some(true));
}

#[test]
fn every_planted_bug_is_in_the_table() {
    let listed = quoted(Tree::read().get("tests/planted/src/table.rs"), "bug(").len();
    assert!(listed >= 40, "{listed} planted bugs");
    nothing(table_of_bugs(Tree::read()));
    let tree = Tree::forged([
        ("SAFETY.md", "| mark | rule |\n| (1) | one |\n| (4, b9) | two (see 3) |\n"),
        ("tests/planted/src/table.rs", "bug(\"a\", \"(1)\", \"\"),\nbug(\"gone\", \"(4); it\", \"\"),"),
        ("controlplane/cluster/src/state.rs", "if planted!(\"a\") || planted!(\"b\") {}"),
        ("ctl/src/main.rs", "planted!(\"a\")"),
    ]);
    let what =
        ["ctl/src/main.rs holds", "gone is in the table and planted nowhere", "b is planted", "(b9) of SAFETY.md"];
    bites(table_of_bugs(&tree), &what);
}

/// Nothing in the tree speaks of whoever wrote it, or of the machine it was written on.
fn strangers(tree: &Tree) -> Vec<String> {
    let words = [
        "clau\u{64}e",
        "chatgp\u{74}",
        "copilo\u{74}",
        "anthropi\u{63}",
        "opena\u{69}",
        "/wor\u{6b}/main",
        "/wor\u{6b}/shared",
        "language mode\u{6c}",
    ];
    let mut found = Vec::new();
    for (file, text) in tree.files() {
        for (at, line) in text.lines().enumerate() {
            let line = line.to_lowercase();
            found.extend(
                words.iter().filter(|word| line.contains(*word)).map(|word| format!("{file}:{}: {word}", at + 1)),
            );
        }
    }
    found
}

#[test]
fn nothing_speaks_of_who_wrote_it() {
    nothing(strangers(Tree::read()));
    let tree = Tree::forged([("README.md", "see /wor\u{6b}/shared/design\n")]);
    bites(strangers(&tree), &["README.md:1"]);
}
