//! What is named in one place only: the raft crate, the store behind sled, status codes; a shell nowhere.

use super::*;

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
                "controlplane/src/server/",
                "controlplane/src/standing.rs",
                // What a failed call means for whoever asked: try again, ask elsewhere, exit with which number.
                "ctl/src/client.rs",
                "ctl/src/trouble.rs",
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
