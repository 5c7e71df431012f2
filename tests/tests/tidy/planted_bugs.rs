//! Planted bugs: all in one table, each planted, none in a program that anybody runs.

use std::collections::BTreeSet;
use std::process::Command;

use super::*;

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
            && file != "tests/src/sim/guards.rs"
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
