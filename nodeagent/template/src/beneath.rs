//! A folder nothing leads out of: the kernel resolves every path beneath it and follows no symbolic link on the way.
//! In: paths below it. Out: what was made, opened or removed there. The last component is never followed either.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RawMode, ResolveFlags, Stat, StatVfs, fstatvfs, linkat, mkdirat, mknodat,
    openat, openat2, readlinkat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use crate::error::Bad;
use crate::path::Inside;

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
/// Without NOFOLLOW, which would call a link at the end "no folder"; no link is followed by `RESOLVE` anyway.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// The kernel says "again" while somebody renames folders elsewhere.
const AGAIN_MAX: usize = 64;

/// Folders are made for us alone and get their mode when everything is in them.
const OURS: Mode = Mode::RWXU;

pub struct Beneath {
    root: Rc<OwnedFd>,
    /// The folder used last: archives write folder by folder.
    last: Option<(Inside, Rc<OwnedFd>)>,
}

impl Beneath {
    pub fn new(root: OwnedFd) -> Beneath {
        Beneath { root: Rc::new(root), last: None }
    }

    /// How full the file system is.
    pub fn room(&self) -> Result<StatVfs, Bad> {
        fstatvfs(&self.root).map_err(Bad::io("look for room"))
    }

    /// The folder at `path`, for reading its names or making something in it.
    pub fn folder(&mut self, path: &Inside) -> Result<Rc<OwnedFd>, Bad> {
        if path.is_root() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some((last, folder)) = &self.last
            && last == path
        {
            return Ok(Rc::clone(folder));
        }
        let folder = Rc::new(self.open(path, FOLDER).map_err(through)?);
        self.last = Some((path.clone(), Rc::clone(&folder)));
        Ok(folder)
    }

    /// The file at `path`, for reading.
    pub fn file(&mut self, path: &Inside) -> Result<File, Bad> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(self.open(path, flags).map_err(Bad::io("open"))?))
    }

    fn open(&self, path: &Inside, flags: OFlags) -> Result<OwnedFd, Errno> {
        for _ in 0..AGAIN_MAX {
            match openat2(&self.root, path.bytes(), flags, Mode::empty(), RESOLVE) {
                Err(Errno::AGAIN) => {}
                outcome => return outcome,
            }
        }
        Err(Errno::AGAIN)
    }

    /// What is at `path` itself. `None` where nothing is.
    pub fn look(&mut self, path: &Inside) -> Result<Option<Stat>, Bad> {
        let Some((parent, name)) = path.split() else {
            return rustix::fs::fstat(&self.root).map(Some).map_err(Bad::io("look at"));
        };
        let parent = match self.folder(&parent) {
            Ok(parent) => parent,
            Err(Bad::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(bad) => return Err(bad),
        };
        match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Bad::io("look at")(errno)),
        }
    }

    pub fn make_folder(&mut self, path: &Inside) -> Result<(), Bad> {
        self.within(path, |parent, name| mkdirat(parent, name, OURS)).map_err(made("make folder"))
    }

    /// A new file, open for writing.
    pub fn make_file(&mut self, path: &Inside) -> Result<File, Bad> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self.within(path, |parent, name| openat(parent, name, flags, Mode::RUSR | Mode::WUSR));
        file.map(File::from).map_err(made("make file"))
    }

    pub fn make_link(&mut self, path: &Inside, target: &[u8]) -> Result<(), Bad> {
        self.within(path, |parent, name| symlinkat(target, parent, name)).map_err(made("make symbolic link"))
    }

    /// A second name, `path`, of the file at `of`, which the caller has looked at.
    pub fn make_hard_link(&mut self, path: &Inside, of: &Inside) -> Result<(), Bad> {
        let (folder, old) = of.split().ok_or(Bad::Empty)?;
        let folder = self.folder(&folder)?;
        let link = |parent: &OwnedFd, name: &[u8]| linkat(&folder, old, parent, name, AtFlags::empty());
        self.within(path, link).map_err(made("make hard link"))
    }

    pub fn make_node(&mut self, path: &Inside, kind: FileType, device: u64) -> Result<(), Bad> {
        self.within(path, |parent, name| mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, device))
            .map_err(made("make node"))
    }

    /// Calls `act` with the folder `path` lies in and its name there.
    pub fn within<T>(
        &mut self,
        path: &Inside,
        act: impl FnOnce(&OwnedFd, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, Outside> {
        let (parent, name) = path.split().ok_or(Outside::Bad(Bad::Empty))?;
        let parent = self.folder(&parent).map_err(Outside::Bad)?;
        act(&parent, name).map_err(Outside::Errno)
    }

    /// Removes what is at `path`, with everything in it. Nothing there is no error.
    pub fn remove(&mut self, path: &Inside) -> Result<(), Bad> {
        let Some(stat) = self.look(path)? else { return Ok(()) };
        if kind_of(&stat) != FileType::Directory {
            return self.within(path, |parent, name| unlinkat(parent, name, AtFlags::empty())).map_err(made("remove"));
        }
        for name in self.names(path)? {
            self.remove(&path.join(name.as_bytes())?)?;
        }
        self.last = None;
        self.within(path, |parent, name| unlinkat(parent, name, AtFlags::REMOVEDIR)).map_err(made("remove folder"))
    }

    /// What lies in the folder at `path`, in no order.
    pub fn names(&mut self, path: &Inside) -> Result<Vec<CString>, Bad> {
        let folder = self.folder(path)?;
        let failed = Bad::io("list folder");
        let mut names = Vec::new();
        for entry in Dir::read_from(folder.as_fd()).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        Ok(names)
    }

    /// Where the symbolic link at `path` points to.
    pub fn target(&mut self, path: &Inside) -> Result<Vec<u8>, Bad> {
        let target = self.within(path, |parent, name| readlinkat(parent, name, Vec::new()));
        target.map(CString::into_bytes).map_err(made("read symbolic link"))
    }
}

pub fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode as RawMode)
}

/// Why something could not be done in the folder of a path.
pub enum Outside {
    Bad(Bad),
    Errno(Errno),
}

pub fn made(operation: &'static str) -> impl Fn(Outside) -> Bad {
    move |outside| match outside {
        Outside::Bad(bad) => bad,
        Outside::Errno(Errno::EXIST) => Bad::Twice,
        Outside::Errno(errno) => Bad::io(operation)(errno),
    }
}

/// Why a folder on the way cannot be used.
fn through(errno: Errno) -> Bad {
    match errno {
        Errno::LOOP | Errno::XDEV => Bad::ThroughLink,
        Errno::NOTDIR => Bad::ThroughFile,
        errno => Bad::io("open folder")(errno),
    }
}
