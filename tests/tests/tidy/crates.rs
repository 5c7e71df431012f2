//! What may be in the tree: licences, bans, and a reason for everything that is taken from elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use super::*;

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

pub fn words_of(value: Option<&toml::Value>) -> Vec<&str> {
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
        let ban = |name: &str| banned.iter().find(|it| it.get("crate").and_then(toml::Value::as_str) == Some(name));
        if ban(name).is_some_and(|it| it.get("wrappers").is_none()) {
            found.push(format!("{name} is banned"));
        }
        // A crate of this checkout has no source; a registry that stands in for crates.io is shown as crates.io.
        if package["source"].as_str().is_some_and(|source| !source.contains("crates.io-index")) {
            found.push(format!("{name} comes from {}", package["source"]));
        }
        let none = Vec::new();
        for needed in package["dependencies"].as_array().unwrap_or(&none) {
            // A ban with wrappers lets those use it and nobody else; what is only tested with is not in the programs.
            let wrappers = needed["name"].as_str().and_then(ban).and_then(|it| it.get("wrappers"));
            let is_used = needed["kind"].is_null() && needed["optional"] != true;
            if wrappers.is_some_and(|it| is_used && !words_of(Some(it)).contains(&name)) {
                found.push(format!("{name} uses {}, which is banned but for others", needed["name"]));
            }
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
pub fn cargo(words: &[&str]) -> String {
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
        bans.deny = [
            { crate = "openssl-sys", reason = "why" },
            { crate = "chrono", wrappers = ["client"], reason = "why" },
        ]"#,
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
        serde_json::json!({ "name": "client", "dependencies": [{ "name": "chrono", "req": "^0.4" }] }),
        serde_json::json!({ "name": "other", "dependencies": [{ "name": "chrono", "req": "^0.4" }] }),
        serde_json::json!({ "name": "chrono" }),
    ];
    let what = [
        "RUSTSEC-1",
        "openssl-sys is banned",
        "fork comes from",
        "own takes any version of \"anything\"",
        "other uses \"chrono\", which is banned but for others",
    ];
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
