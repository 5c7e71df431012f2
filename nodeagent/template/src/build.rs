//! Puts entries into a tree, one by one: what every source ends in, and where policy and limits are.
//! In: path, attributes and content of an entry. Out: the entry in the tree, or what is wrong with it.
//! Folders get their mode and times when everything is in them; a read-only folder could not be filled, by others than root.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::beneath::{Beneath, kind_of, made};
use crate::error::{Bad, ImportError};
use crate::path::{Inside, escaped};
use crate::policy::{Layer, Limits, Policy, Treat};
use crate::progress::Meter;
use crate::room;

/// The extended attribute that is kept.
pub const CAPABILITY: &str = "security.capability";
/// Longest value of it there is, with room: revision 3 has 24 bytes.
pub const CAPABILITY_MAX: usize = 64;
const SET_ID: u32 = 0o6000;
const CHUNK: usize = 64 << 10;
/// What the layers of images write for "gone", and for "nothing of what was in here".
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Who an entry belongs to and what may be done with it.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    pub capability: Option<Vec<u8>>,
}

pub enum What<'a> {
    Folder,
    File {
        content: &'a mut dyn Read,
        size: u64,
    },
    /// A symbolic link; its target is only text.
    Link {
        target: &'a [u8],
    },
    /// A second name of a file that is there.
    HardLink {
        of: Inside,
    },
    Device {
        kind: FileType,
        device: u64,
    },
    Fifo,
}

/// Where entries come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Everything is there once; marks of layers are mistakes.
    Whole,
    /// One layer of an image above others: replaces and removes what they brought.
    Layer,
}

/// What was left out, by what it is.
pub type LeftOut = BTreeMap<String, u64>;

pub struct Build<'a, 'm> {
    beneath: Beneath,
    policy: Policy,
    is_a: Layer,
    limits: Limits,
    pub meter: &'a Meter<'m>,
    origin: Origin,
    folders: BTreeMap<Inside, Attributes>,
    /// What this source, or this layer, brought.
    brought: BTreeSet<Inside>,
    entries: u64,
    bytes: u64,
    /// Of them, those there was room for at the last look.
    bytes_fit: u64,
    left_out: LeftOut,
    /// Of the entry taken last, for errors of the archive around it.
    at: String,
}

impl<'a, 'm> Build<'a, 'm> {
    pub fn new(beneath: Beneath, is_a: Layer, policy: Policy, limits: Limits, meter: &'a Meter<'m>) -> Build<'a, 'm> {
        Build {
            beneath,
            policy,
            is_a,
            limits,
            meter,
            origin: Origin::Whole,
            folders: BTreeMap::new(),
            brought: BTreeSet::new(),
            entries: 0,
            bytes: 0,
            bytes_fit: 0,
            left_out: LeftOut::new(),
            at: String::new(),
        }
    }

    /// The next layer of an image begins.
    pub fn layer(&mut self) {
        self.origin = Origin::Layer;
        self.brought.clear();
        self.at = String::new();
    }

    pub fn at(&self) -> &str {
        &self.at
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn leave_out(&mut self, what: &str) {
        *self.left_out.entry(what.to_owned()).or_default() += 1;
    }

    /// Takes an entry as the source wrote it.
    pub fn put(&mut self, written: &[u8], attributes: Attributes, what: What<'_>) -> Result<(), ImportError> {
        self.at = escaped(written);
        self.meter.entry();
        self.meter.go_on()?;
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(ImportError::TooMuch { what: "entries", max: self.limits.entries });
        }
        let path = Inside::new(written).map_err(|bad| bad.at(&self.at))?;
        self.put_at(path, attributes, what)
    }

    fn put_at(&mut self, path: Inside, attributes: Attributes, what: What<'_>) -> Result<(), ImportError> {
        let Some((parent, name)) = path.split() else {
            // Archives may hold the root; what it is like is not theirs to say.
            return match what {
                What::Folder => Ok(()),
                _ => Err(Bad::Empty.at(&self.at)),
            };
        };
        if name.starts_with(WHITEOUT) {
            return self.whiteout(&parent, name).map_err(|bad| bad.at(&path));
        }
        let result = match what {
            What::File { content, size } => return self.file(path, attributes, content, size),
            What::Folder => self.folder(path.clone(), attributes),
            What::Link { target } => self.link(&path, &attributes, target),
            What::HardLink { of } => self.hard_link(&path, &of),
            What::Device { kind, device } => self.node(&path, &attributes, kind, device),
            What::Fifo => self.node(&path, &attributes, FileType::Fifo, 0),
        };
        result.map_err(|bad| bad.at(&path))
    }

    fn folder(&mut self, path: Inside, attributes: Attributes) -> Result<(), Bad> {
        match self.beneath.look(&path)?.map(|stat| kind_of(&stat)) {
            // Folders are merged: with those of layers below, and with those made for what came before them.
            Some(FileType::Directory) => {}
            _ => {
                self.make_way(&path)?;
                self.beneath.make_folder(&path)?;
            }
        }
        self.brought.insert(path.clone());
        self.folders.insert(path, attributes);
        Ok(())
    }

    fn file(
        &mut self,
        path: Inside,
        mut attributes: Attributes,
        content: &mut dyn Read,
        size: u64,
    ) -> Result<(), ImportError> {
        if attributes.mode & SET_ID != 0 {
            match self.policy.set_id {
                Treat::Keep => {}
                Treat::Refuse => return Err(Bad::SetId.at(&path)),
                Treat::Strip => {
                    attributes.mode &= !SET_ID;
                    self.leave_out("set-uid and set-gid bits");
                }
            }
        }
        if attributes.capability.is_some() {
            match self.policy.capabilities {
                Treat::Keep => {}
                Treat::Refuse => return Err(Bad::Capabilities.at(&path)),
                Treat::Strip => {
                    attributes.capability = None;
                    self.leave_out(CAPABILITY);
                }
            }
        }
        // Before the first byte is written: a header may promise more than any disk holds.
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.bytes {
            return Err(ImportError::TooMuch { what: "bytes of content", max: self.limits.bytes });
        }
        if self.bytes > self.bytes_fit {
            let ahead = size.max(room::LOOK_EVERY);
            let found = self.beneath.room().map_err(|bad| bad.at(&path))?;
            room::fits(&found, size, &self.limits)?;
            self.bytes_fit = self.bytes.saturating_add(ahead - size);
        }
        self.make_way(&path).map_err(|bad| bad.at(&path))?;
        let mut file = self.beneath.make_file(&path).map_err(|bad| bad.at(&path))?;
        self.fill(&mut file, content, size).map_err(|error| match error {
            Filling::Bad(bad) => bad.at(&path),
            Filling::Import(error) => error,
        })?;
        self.dress_file(&file, &attributes).map_err(|bad| bad.at(&path))?;
        self.brought.insert(path);
        Ok(())
    }

    /// Copies `size` bytes; runs of zeros become holes.
    fn fill(&mut self, file: &mut File, content: &mut dyn Read, size: u64) -> Result<(), Filling> {
        let wrote = |source| Filling::Bad(Bad::Io { operation: "write", source });
        let mut chunk = vec![0; CHUNK];
        let mut found = 0;
        loop {
            self.meter.go_on().map_err(Filling::Import)?;
            let read = read_full(content, &mut chunk).map_err(|source| self.unreadable(source))?;
            if read == 0 {
                break;
            }
            found += read as u64;
            if found > size {
                return Err(Filling::Bad(Bad::Changed));
            }
            if chunk[..read].iter().all(|byte| *byte == 0) {
                file.seek(SeekFrom::Current(read as i64)).map_err(wrote)?;
            } else {
                file.write_all(&chunk[..read]).map_err(wrote)?;
            }
        }
        if found != size {
            return Err(Filling::Bad(Bad::Short { wanted: size, found }));
        }
        file.set_len(size).map_err(wrote)
    }

    fn unreadable(&self, source: std::io::Error) -> Filling {
        Filling::Import(crate::compression::told(source, &self.at, &self.limits))
    }

    fn dress_file(&self, file: &File, attributes: &Attributes) -> Result<(), Bad> {
        let (uid, gid) = (attributes.uid, attributes.gid);
        rustix::fs::fchown(file, Some(user(uid)?), Some(group(gid)?)).map_err(owner(uid, gid))?;
        // After the owner: giving a file away takes these from it.
        rustix::fs::fchmod(file, Mode::from_raw_mode(attributes.mode & 0o7777)).map_err(Bad::io("set mode"))?;
        if let Some(capability) = &attributes.capability {
            let set = rustix::fs::fsetxattr(file, CAPABILITY, capability, XattrFlags::empty());
            set.map_err(Bad::io("set capabilities"))?;
        }
        rustix::fs::futimens(file, &times(attributes)).map_err(Bad::io("set times"))
    }

    fn link(&mut self, path: &Inside, attributes: &Attributes, target: &[u8]) -> Result<(), Bad> {
        if target.is_empty() || target.contains(&0) {
            return Err(Bad::NoTarget);
        }
        self.make_way(path)?;
        self.beneath.make_link(path, target)?;
        self.dress(path, attributes)?;
        self.brought.insert(path.clone());
        Ok(())
    }

    fn hard_link(&mut self, path: &Inside, of: &Inside) -> Result<(), Bad> {
        match self.beneath.look(of)?.map(|stat| kind_of(&stat)) {
            None => return Err(Bad::HardLinkToNothing(of.to_string())),
            Some(FileType::RegularFile) => {}
            Some(_) => return Err(Bad::HardLinkToOther(of.to_string())),
        }
        if path == of {
            return Err(Bad::Twice);
        }
        self.make_way(path)?;
        self.beneath.make_hard_link(path, of)?;
        self.brought.insert(path.clone());
        Ok(())
    }

    fn node(&mut self, path: &Inside, attributes: &Attributes, kind: FileType, device: u64) -> Result<(), Bad> {
        let (treat, bad, what) = match kind {
            FileType::Fifo => (self.policy.fifos, Bad::Fifo, "fifos and sockets"),
            _ => (self.policy.devices, Bad::Device, "device nodes"),
        };
        match treat {
            Treat::Refuse => return Err(bad),
            Treat::Strip => {
                self.leave_out(what);
                return Ok(());
            }
            Treat::Keep => {}
        }
        self.make_way(path)?;
        self.beneath.make_node(path, kind, device)?;
        self.dress(path, attributes)?;
        let mode = Mode::from_raw_mode(attributes.mode & 0o7777);
        self.beneath
            .within(path, |parent, name| rustix::fs::chmodat(parent, name, mode, AtFlags::empty()))
            .map_err(made("set mode"))?;
        self.brought.insert(path.clone());
        Ok(())
    }

    /// Owner and times of what cannot be opened.
    fn dress(&mut self, path: &Inside, attributes: &Attributes) -> Result<(), Bad> {
        let (uid, gid) = (attributes.uid, attributes.gid);
        let (user, group) = (user(uid)?, group(gid)?);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let given = self
            .beneath
            .within(path, |parent, name| Ok(rustix::fs::chownat(parent, name, Some(user), Some(group), flags)))
            .map_err(made("give away"))?;
        given.map_err(owner(uid, gid))?;
        let times = times(attributes);
        self.beneath
            .within(path, |parent, name| rustix::fs::utimensat(parent, name, &times, flags))
            .map_err(made("set times"))
    }

    /// The folders above `path` are there and nothing is at it. Only a layer may put something in the place of what a lower
    /// one brought.
    fn make_way(&mut self, path: &Inside) -> Result<(), Bad> {
        let Some((parent, _)) = path.split() else { return Err(Bad::Empty) };
        self.make_parents(&parent)?;
        if self.beneath.look(path)?.is_none() {
            return Ok(());
        }
        if self.origin == Origin::Whole || self.brought_at_or_below(path) {
            return Err(Bad::Twice);
        }
        self.remove(path)
    }

    fn make_parents(&mut self, folder: &Inside) -> Result<(), Bad> {
        if folder.is_root() {
            return Ok(());
        }
        match self.beneath.look(folder)? {
            Some(stat) => match kind_of(&stat) {
                FileType::Directory => return Ok(()),
                FileType::Symlink => return Err(Bad::ThroughLink),
                _ => return Err(Bad::ThroughFile),
            },
            None => {
                let (parent, _) = folder.split().expect("the root was looked at");
                self.make_parents(&parent)?;
            }
        }
        self.beneath.make_folder(folder)?;
        // What an archive leaves out is as `mkdir -p` makes it.
        let attributes = Attributes {
            mode: 0o755,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            ..Attributes::default()
        };
        self.folders.insert(folder.clone(), attributes);
        Ok(())
    }

    fn brought_at_or_below(&self, path: &Inside) -> bool {
        let from = self.brought.range(path.clone()..).take_while(|brought| brought.bytes().starts_with(path.bytes()));
        from.into_iter().any(|brought| brought == path || brought.is_below(path))
    }

    fn remove(&mut self, path: &Inside) -> Result<(), Bad> {
        self.beneath.remove(path)?;
        let from = self.folders.range(path.clone()..).map(|(folder, _)| folder);
        let from = from.take_while(|folder| folder.bytes().starts_with(path.bytes()));
        let gone: Vec<Inside> = from.filter(|folder| *folder == path || folder.is_below(path)).cloned().collect();
        for folder in gone {
            self.folders.remove(&folder);
        }
        Ok(())
    }

    /// A mark that something of the layers below is gone.
    fn whiteout(&mut self, folder: &Inside, name: &[u8]) -> Result<(), Bad> {
        if self.origin == Origin::Whole {
            return Err(Bad::Whiteout);
        }
        let gone = if name == OPAQUE {
            if self.is_a == Layer::Over {
                // Image builders write it for every new folder; what it says of this image's own layers is done.
                self.leave_out("a mark that nothing beneath a folder is seen");
            }
            match self.beneath.look(folder)?.map(|stat| kind_of(&stat)) {
                Some(FileType::Directory) => {}
                Some(_) => return Err(Bad::ThroughFile),
                None => return Ok(()),
            }
            let names = self.beneath.names(folder)?;
            names.iter().map(|name| folder.join(name.as_bytes())).collect::<Result<Vec<_>, _>>()?
        } else {
            let name = &name[WHITEOUT.len()..];
            if matches!(name, b"" | b"." | b"..") || name.starts_with(WHITEOUT) {
                return Err(Bad::WhiteoutName);
            }
            let path = folder.join(name)?;
            if self.is_a == Layer::Over && self.beneath.look(&path)?.is_none() {
                return Err(Bad::WhiteoutBeneath);
            }
            vec![path]
        };
        for path in gone {
            self.forget(&path)?;
        }
        Ok(())
    }

    /// Removes what layers below brought at and beneath `path`, and nothing that this one did.
    fn forget(&mut self, path: &Inside) -> Result<(), Bad> {
        if !self.brought_at_or_below(path) {
            return self.remove(path);
        }
        if self.beneath.look(path)?.is_some_and(|stat| kind_of(&stat) == FileType::Directory) {
            for name in self.beneath.names(path)? {
                self.forget(&path.join(name.as_bytes())?)?;
            }
        }
        Ok(())
    }

    /// Gives the folders their attributes, the deepest first, and says what was left out.
    pub fn finish(mut self) -> Result<(Beneath, LeftOut), ImportError> {
        for (path, attributes) in std::mem::take(&mut self.folders).iter().rev() {
            self.dress_folder(path, attributes).map_err(|bad| bad.at(path))?;
        }
        Ok((self.beneath, self.left_out))
    }

    fn dress_folder(&mut self, path: &Inside, attributes: &Attributes) -> Result<(), Bad> {
        let folder = self.beneath.folder(path)?;
        let folder = folder.as_fd();
        let (uid, gid) = (attributes.uid, attributes.gid);
        rustix::fs::fchown(folder, Some(user(uid)?), Some(group(gid)?)).map_err(owner(uid, gid))?;
        rustix::fs::fchmod(folder, Mode::from_raw_mode(attributes.mode & 0o7777)).map_err(Bad::io("set mode"))?;
        rustix::fs::futimens(folder, &times(attributes)).map_err(Bad::io("set times"))
    }
}

enum Filling {
    Bad(Bad),
    Import(ImportError),
}

/// As much as fits, so that chunks of zeros are found whatever pieces the source comes in.
fn read_full(content: &mut dyn Read, chunk: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < chunk.len() {
        match content.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn user(uid: u32) -> Result<Uid, Bad> {
    if uid == u32::MAX { Err(Bad::Header(format!("uid {uid}"))) } else { Ok(Uid::from_raw(uid)) }
}

fn group(gid: u32) -> Result<Gid, Bad> {
    if gid == u32::MAX { Err(Bad::Header(format!("gid {gid}"))) } else { Ok(Gid::from_raw(gid)) }
}

fn owner(uid: u32, gid: u32) -> impl Fn(Errno) -> Bad {
    move |errno| match errno {
        Errno::PERM | Errno::INVAL => Bad::Owner { uid, gid },
        errno => Bad::io("give away")(errno),
    }
}

fn times(attributes: &Attributes) -> Timestamps {
    let (seconds, nanoseconds) = attributes.mtime;
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}
