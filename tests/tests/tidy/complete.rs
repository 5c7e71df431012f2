//! What is complete: every rule is asked, every story says what it shows, every module what it is.

use super::*;

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

/// Longer, a file is in truth two: it is split where its seam is. Tests and comments count, for they are read as well.
const LINES_MAX: usize = 600;

/// File, and why it is whole as it is.
type Whole = (&'static str, &'static str);

const WHOLE: [Whole; 1] = [(
    "proto/tests/border/samples.rs",
    "one of every kind of message: a list, read by two crates that take it by its path",
)];

fn long(tree: &Tree, whole: &[Whole]) -> Vec<String> {
    let mut found = Vec::new();
    for (file, text) in tree.rust() {
        let lines = text.lines().count();
        let excused = whole.iter().any(|(name, _)| *name == file);
        if lines > LINES_MAX && !excused {
            found.push(format!("{file} has {lines} lines; split it where its seam is"));
        } else if lines <= LINES_MAX && excused {
            found.push(format!("the exception for {file} is not needed any more"));
        }
    }
    found.extend(whole.iter().filter(|(_, why)| why.is_empty()).map(|(file, _)| format!("{file}: no reason")));
    found
}

#[test]
fn no_file_is_too_long_to_be_held_in_the_head() {
    nothing(long(Tree::read(), &WHOLE));
    let (short, much) = ("fn a() {}\n".repeat(LINES_MAX), "fn a() {}\n".repeat(LINES_MAX + 1));
    let tree = Tree::forged([("a.rs", &*short), ("b.rs", &*much), ("c.rs", &*much), ("d.rs", &*short)]);
    let whole = [("c.rs", "a table"), ("d.rs", "")];
    bites(long(&tree, &whole), &["b.rs has 601 lines", "the exception for d.rs", "d.rs: no reason"]);
}
