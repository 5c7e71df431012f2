//! The rules of the house that a test can check: who may use whom, what each room never contains, what may be in the tree.
//! In: the files of the checkout, and `cargo metadata`. Out: a list of what breaks a rule, by file and line.
//! Every rule is also shown to bite, on a forged example.

mod complete;
mod crates;
mod nowhere;
mod places;
mod planted_bugs;
mod rooms;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

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
