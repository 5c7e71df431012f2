//! Paths as archives write them, and as they are taken: relative, plain, of bounded length. Bytes, not text: file names
//! are bytes. A path that was taken cannot name anything outside; that no link on its way leads out is `beneath`'s work.

use std::fmt;

use crate::error::Bad;

/// Longest name and longest path that Linux takes, and as deep as any tree that was not made to harm.
const NAME_MAX: usize = 255;
const PATH_MAX: usize = 4_095;
const DEPTH_MAX: usize = 256;

/// A path below the root of a tree; empty for the root itself. Ordered as the description of a tree is, by its bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inside(Box<[u8]>);

impl Inside {
    pub fn root() -> Inside {
        Inside(Box::default())
    }

    /// What an archive wrote, without `.` and double slashes. Errs with what is wrong with it.
    pub fn new(written: &[u8]) -> Result<Inside, Bad> {
        if written.first() == Some(&b'/') {
            return Err(Bad::Absolute);
        }
        if written.contains(&0) {
            return Err(Bad::Nul);
        }
        let mut path = Vec::with_capacity(written.len());
        let parts = written.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
        for (depth, part) in parts.enumerate() {
            if part == b".." {
                return Err(Bad::Climbs);
            }
            if part.len() > NAME_MAX {
                return Err(Bad::NameTooLong { max: NAME_MAX });
            }
            if depth >= DEPTH_MAX {
                return Err(Bad::TooDeep { max: DEPTH_MAX });
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(part);
        }
        if path.len() > PATH_MAX {
            return Err(Bad::PathTooLong { max: PATH_MAX });
        }
        Ok(Inside(path.into()))
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The folder it lies in and its name there. `None` for the root.
    pub fn split(&self) -> Option<(Inside, &[u8])> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => Some((Inside(self.0[..at].into()), &self.0[at + 1..])),
            None => Some((Inside::root(), &self.0)),
        }
    }

    /// The entry `name` of this folder; the same checks as for a whole path.
    pub fn join(&self, name: &[u8]) -> Result<Inside, Bad> {
        Inside::new(&[&self.0, b"/".as_slice(), name].concat()[usize::from(self.is_root())..])
    }

    pub fn is_below(&self, folder: &Inside) -> bool {
        folder.is_root() || (self.0.starts_with(&folder.0) && self.0.get(folder.0.len()) == Some(&b'/'))
    }
}

impl fmt::Display for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(&self.0))
    }
}

impl fmt::Debug for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bytes as one word of printable ASCII: what is not that, blanks and backslashes as `\xHH`.
pub fn escaped(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len()), |mut text, byte| {
        match byte {
            b'!'..=b'~' if *byte != b'\\' => text.push(char::from(*byte)),
            _ => write!(text, "\\x{byte:02x}").expect("text takes what it is given"),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_without_what_means_nothing() {
        for (written, taken) in [
            ("./usr//bin/", "usr/bin"),
            ("a/./b", "a/b"),
            ("./", ""),
            (".", ""),
            ("..a/b..", "..a/b.."),
            (" ", "\\x20"),
        ] {
            assert_eq!(Inside::new(written.as_bytes()).map(|path| path.to_string()), Ok(taken.to_owned()), "{written}");
        }
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        assert_eq!(Inside::new(b"/etc/passwd"), Err(Bad::Absolute));
        for climbs in ["..", "a/../../b", "a/.."] {
            assert_eq!(Inside::new(climbs.as_bytes()), Err(Bad::Climbs), "{climbs}");
        }
        assert_eq!(Inside::new(b"a\0b"), Err(Bad::Nul));
        assert!(matches!(Inside::new(&[b'a'; 256]), Err(Bad::NameTooLong { .. })));
        assert!(matches!(Inside::new(&b"a/".repeat(257)), Err(Bad::TooDeep { .. })));
        assert!(matches!(Inside::new(&[&[b'a'; 254][..], b"/"].concat().repeat(17)), Err(Bad::PathTooLong { .. })));
    }

    #[test]
    fn a_path_is_taken_apart_and_put_together() {
        let path = Inside::new(b"usr/bin/env").expect("a path");
        let (folder, name) = path.split().expect("not the root");
        assert_eq!((folder.to_string().as_str(), name), ("usr/bin", b"env".as_slice()));
        assert_eq!(folder.join(name), Ok(path.clone()));
        assert_eq!(Inside::root().join(b"usr").map(|path| path.to_string()), Ok("usr".to_owned()));
        assert!(path.is_below(&folder) && path.is_below(&Inside::root()) && !folder.is_below(&folder));
        assert!(!Inside::new(b"usr/bin2").expect("a path").is_below(&folder));
        assert!(Inside::root().split().is_none());
    }
}
