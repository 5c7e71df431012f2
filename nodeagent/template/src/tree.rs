//! The description of a tree, and the digest that is its name; the form is told in `lib.rs`.
//! In: a folder. Out: its description, from what is really there.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use crate::beneath::{Beneath, kind_of};
use crate::build::{CAPABILITY, CAPABILITY_MAX};
use crate::digest::{Digest, Hashing};
use crate::error::{Bad, ImportError};
use crate::path::{Inside, escaped};
use crate::progress::Meter;

pub struct Description {
    pub text: String,
    pub entries: u64,
    /// Of all files' content, each counted once.
    pub bytes: u64,
}

impl Description {
    pub fn digest(&self) -> Digest {
        Digest::of(self.text.as_bytes())
    }
}

/// Reads the whole tree beneath.
pub fn describe(beneath: &mut Beneath, meter: &Meter<'_>) -> Result<Description, ImportError> {
    let mut paths = Vec::new();
    let mut folders = vec![Inside::root()];
    while let Some(folder) = folders.pop() {
        let names = beneath.names(&folder).map_err(|bad| bad.at(&folder))?;
        for name in names {
            let path = folder.join(name.as_bytes()).map_err(|bad| bad.at(&folder))?;
            let stat = beneath.look(&path).map_err(|bad| bad.at(&path))?.ok_or_else(|| Bad::Changed.at(&path))?;
            if kind_of(&stat) == FileType::Directory {
                folders.push(path.clone());
            }
            paths.push((path, stat));
        }
        meter.go_on()?;
    }
    paths.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut writing = Writing { beneath, meter, names: HashMap::new(), bytes: 0 };
    let mut text = String::new();
    for (path, stat) in &paths {
        meter.entry();
        meter.go_on()?;
        text += &writing.line(path, stat).map_err(|wrong| wrong.at(path))?;
        text.push('\n');
    }
    Ok(Description { text, entries: paths.len() as u64, bytes: writing.bytes })
}

struct Writing<'a, 'm> {
    beneath: &'a mut Beneath,
    meter: &'a Meter<'m>,
    /// The first names of files that have several, by device and inode.
    names: HashMap<(u64, u64), Inside>,
    bytes: u64,
}

enum Wrong {
    Bad(Bad),
    Import(ImportError),
}

impl From<Bad> for Wrong {
    fn from(bad: Bad) -> Wrong {
        Wrong::Bad(bad)
    }
}

impl Wrong {
    fn at(self, path: &Inside) -> ImportError {
        match self {
            Wrong::Bad(bad) => bad.at(path),
            Wrong::Import(error) => error,
        }
    }
}

impl Writing<'_, '_> {
    fn line(&mut self, path: &Inside, stat: &Stat) -> Result<String, Wrong> {
        let kind = kind_of(stat);
        let mut mode = format!("{:04o}", stat.st_mode & 0o7777);
        let (letter, what) = match kind {
            FileType::Directory => ('d', "-".to_owned()),
            FileType::RegularFile => match self.first_name(path, stat) {
                Some(first) => ('h', first.to_string()),
                None => ('f', self.content(path, stat)?),
            },
            FileType::Symlink => {
                mode = "----".to_owned();
                ('l', escaped(&self.beneath.target(path)?))
            }
            FileType::CharacterDevice => ('c', numbers(stat)),
            FileType::BlockDevice => ('b', numbers(stat)),
            FileType::Fifo => ('p', "-".to_owned()),
            FileType::Socket | FileType::Unknown => return Err(Bad::Fifo.into()),
        };
        let (uid, gid) = (stat.st_uid, stat.st_gid);
        Ok(format!("{path} {letter} {mode} {uid} {gid} {what}"))
    }

    /// Another name of this file that came before; this one becomes that for those to come.
    fn first_name(&mut self, path: &Inside, stat: &Stat) -> Option<&Inside> {
        if stat.st_nlink < 2 {
            return None;
        }
        let first = self.names.entry((stat.st_dev, stat.st_ino)).or_insert_with(|| path.clone());
        Some(&*first).filter(|first| *first != path)
    }

    fn content(&mut self, path: &Inside, stat: &Stat) -> Result<String, Wrong> {
        let file = self.beneath.file(path)?;
        let capability = capability(&file)?;
        let mut content = Hashing::new(file);
        let mut chunk = vec![0; 256 << 10];
        loop {
            let read = content.read(&mut chunk).map_err(|source| Bad::Io { operation: "read", source })?;
            if read == 0 {
                break;
            }
            self.meter.bytes(read as u64);
            self.meter.go_on().map_err(Wrong::Import)?;
        }
        let (digest, bytes) = content.seen();
        if bytes != stat.st_size as u64 {
            return Err(Bad::Changed.into());
        }
        self.bytes += bytes;
        let capability = capability.map_or_else(String::new, |value| {
            let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            format!(" capability={hex}")
        });
        Ok(format!("{bytes}:{}{capability}", digest.hex()))
    }
}

/// The value of `security.capability`; `None` where there is none or the file system knows no such thing.
pub fn capability(file: &File) -> Result<Option<Vec<u8>>, Bad> {
    let mut value = [0; CAPABILITY_MAX];
    match rustix::fs::fgetxattr(file, CAPABILITY, &mut value) {
        Ok(length) => Ok(Some(value[..length].to_vec())),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(errno) => Err(Bad::io("read capabilities")(errno)),
    }
}

fn numbers(stat: &Stat) -> String {
    format!("{}:{}", rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
}
