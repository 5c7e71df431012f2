//! What is nowhere: nothing unfinished, no test that sleeps, nothing that speaks of who wrote it.

use super::*;

/// Nothing unfinished is in the tree, no test sleeps instead of waiting, none is skipped without a word.
fn unfinished(tree: &Tree) -> Vec<String> {
    /// File and reason.
    const MAY_SLEEP: [(&str, &str); 7] = [
        ("tests/tests/tidy/", "names what it forbids"),
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
