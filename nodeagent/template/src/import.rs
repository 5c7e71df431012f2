//! One import, from what somebody wrote as its source to a template on the storage.
//! In: the order. Out: the digest, and what the image says of how it is run. Blocks until it is done.
//! What a source is, is seen from the source itself: a path is a folder, an image layout, or an archive of either; what is
//! no path is a reference to a registry.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::archive;
use crate::build::{Build, LeftOut};
use crate::compression;
use crate::digest::{Digest, Hashing};
use crate::error::ImportError;
use crate::folder;
use crate::image::Image;
use crate::layout::{Layout, Metered, is_layout};
use crate::policy::{Layer, Limits, Policy};
use crate::progress::{Meter, Phase, Progress};
use crate::registry::{self, Http};
use crate::room;
use crate::store::{Known, Stage, Store, origin_of};
use crate::tree;

/// What is to be imported, and to where.
#[derive(Clone, Debug)]
pub struct Order {
    /// An absolute path on this machine, or `host[:port]/name[:tag|@digest]`.
    pub source: String,
    /// The folder the storage lies in.
    pub storage: PathBuf,
    /// Tells those apart who may import to the same storage at the same time.
    pub owner: String,
    /// Tells this import from every other; kept beside the template, which nobody discards who has not seen it.
    pub claim: String,
    /// What the tree's digest must be.
    pub expected: Option<Digest>,
    pub layer: Layer,
    pub policy: Policy,
    pub limits: Limits,
    pub http: Http,
}

/// What became of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    pub digest: Digest,
    pub entries: u64,
    pub bytes: u64,
    /// Below the storage, the root file system.
    pub path: String,
    /// `None` where the source is no image.
    pub image: Option<Image>,
    /// What a person should know, a sentence each.
    pub notes: Vec<String>,
    /// It was there already, and nothing was written.
    pub was_there: bool,
}

/// Imports; `tell` hears how far it is, at a bounded rate, and may call it off.
pub fn import(order: &Order, tell: &mut dyn FnMut(&Progress) -> ControlFlow<()>) -> Result<Imported, ImportError> {
    let meter = Meter::new(tell);
    let store = Store::open(&order.storage, &order.owner)?;
    Import { order, store, meter: &meter }.run()
}

struct Import<'a, 'm> {
    order: &'a Order,
    store: Store,
    meter: &'a Meter<'m>,
}

/// What is known of a staged tree beside the tree.
struct Staged {
    image: Option<Image>,
    left_out: LeftOut,
}

impl<'m> Import<'_, 'm> {
    fn run(&self) -> Result<Imported, ImportError> {
        let source = &self.order.source;
        if !source.starts_with('/') {
            return self.bring_registry(source);
        }
        let path = Path::new(source);
        let found = fs::metadata(path).map_err(ImportError::io("look at source", path))?;
        if found.is_file() {
            room::ensure(&self.order.storage, found.len(), &self.order.limits)?;
            return self.bring_archive(path, found.len());
        }
        if !found.is_dir() {
            let why = "which is neither a folder nor a file";
            return Err(ImportError::Unusable { found: path.to_owned(), why });
        }
        let mut folder = folder::open_at(path)?;
        if is_layout(&mut folder) {
            return self.bring_layout(Layout::new(folder), &self.store.stage()?);
        }
        let inside = |a: &Path, b: &Path| Some(a.canonicalize().ok()?.starts_with(b.canonicalize().ok()?));
        if inside(&self.order.storage, path).unwrap_or(true) {
            let why = "which holds the storage itself";
            return Err(ImportError::Unusable { found: path.to_owned(), why });
        }
        room::ensure(&self.order.storage, 0, &self.order.limits)?;
        let stage = self.store.stage()?;
        self.meter.phase(Phase::Reading, 0)?;
        let mut build = self.build(&stage)?;
        folder::copy(&mut folder, &mut build)?;
        let (_, left_out) = build.finish()?;
        self.keep(&stage, Staged { image: None, left_out }, None)
    }

    fn build(&self, stage: &Stage) -> Result<Build<'_, 'm>, ImportError> {
        Ok(Build::new(stage.make_rootfs()?, self.order.layer, self.order.policy, self.order.limits, self.meter))
    }

    fn bring_registry(&self, reference: &str) -> Result<Imported, ImportError> {
        let reference = registry::Reference::new(reference, self.order.http)?;
        let stage = self.store.stage()?;
        let layout = stage.path().join("layout");
        self.meter.phase(Phase::Fetching, 0)?;
        let known = |manifest: &Digest| self.store.known(&self.origin("image", manifest)).is_some();
        registry::fetch(&reference, &layout, self.meter, &self.order.limits, &known)?;
        self.bring_layout(Layout::new(folder::open_at(&layout)?), &stage)
    }

    fn bring_layout(&self, mut layout: Layout, stage: &Stage) -> Result<Imported, ImportError> {
        let chosen = layout.choose()?;
        let origin = self.origin("image", &chosen.manifest);
        if let Some(imported) = self.known(&origin)? {
            return Ok(imported);
        }
        room::ensure(&self.order.storage, chosen.compressed_bytes(), &self.order.limits)?;
        self.meter.phase(Phase::Reading, chosen.compressed_bytes())?;
        let mut build = self.build(stage)?;
        layout.unpack(&chosen, &mut build)?;
        let (_, left_out) = build.finish()?;
        self.keep(stage, Staged { image: Some(chosen.image), left_out }, Some(origin))
    }

    fn bring_archive(&self, path: &Path, size: u64) -> Result<Imported, ImportError> {
        let mut file = File::open(path).map_err(ImportError::io("open source", path))?;
        let failed = |error| ImportError::io("read source", path)(error);
        // First what it is: an archive that was imported before need not be taken apart again.
        self.meter.phase(Phase::Reading, size)?;
        let archive = self.digest_of(&mut file).map_err(failed)?;
        let origin = self.origin("archive", &archive);
        self.meter.go_on()?;
        if let Some(imported) = self.known(&origin)? {
            return Ok(imported);
        }
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        self.meter.phase(Phase::Reading, size)?;
        let stage = self.store.stage()?;
        let mut build = self.build(&stage)?;
        let told = |source| compression::told(source, "", &self.order.limits);
        let mut bytes = Hashing::new(Metered { inner: file, meter: self.meter });
        let content = compression::open(&mut bytes, None, &self.order.limits).map_err(told)?;
        archive::unpack(content, &mut build)?;
        let (mut tree, left_out) = build.finish()?;
        if bytes.seen().0 != archive {
            return Err(ImportError::Unusable { found: path.to_owned(), why: "which changed while it was read" });
        }
        if is_layout(&mut tree) {
            let layout = stage.path().join("layout");
            fs::rename(stage.rootfs(), &layout).map_err(ImportError::io("set aside", &layout))?;
            return self.bring_layout(Layout::new(tree), &stage);
        }
        self.keep(&stage, Staged { image: None, left_out }, Some(origin))
    }

    /// Describes what was staged, compares it with what was expected, and gives it its place.
    fn keep(&self, stage: &Stage, staged: Staged, origin: Option<Digest>) -> Result<Imported, ImportError> {
        let Staged { image, left_out } = staged;
        self.meter.phase(Phase::Checking, 0)?;
        let described = tree::describe(&mut folder::open_at(&stage.rootfs())?, self.meter)?;
        let digest = described.digest();
        self.expect(digest)?;
        self.meter.phase(Phase::Keeping, 0)?;
        let (kept, was_there) = self.store.keep(stage, &described, &self.order.claim)?;
        let notes = notes(image.as_ref(), &left_out);
        if let Some(origin) = origin {
            let known = Known { digest: digest.to_string(), image: image.clone(), notes: notes.clone() };
            self.store.remember(&origin, &known)?;
        }
        let path = Store::path_of(&digest);
        Ok(Imported { digest, entries: kept.entries, bytes: kept.bytes, path, image, notes, was_there })
    }

    fn digest_of(&self, file: &mut File) -> std::io::Result<Digest> {
        let mut bytes = Hashing::new(Metered { inner: file, meter: self.meter });
        let mut chunk = vec![0; 256 << 10];
        while bytes.read(&mut chunk)? > 0 && self.meter.go_on().is_ok() {}
        Ok(bytes.seen().0)
    }

    /// The same source under another policy is another tree; laid over others it may be refused.
    fn origin(&self, kind: &str, source: &Digest) -> Digest {
        let over = if self.order.layer == Layer::Over { " over others" } else { "" };
        origin_of(kind, source, &format!("{:?}{over}", self.order.policy))
    }

    fn known(&self, origin: &Digest) -> Result<Option<Imported>, ImportError> {
        let Some((known, _)) = self.store.known(origin) else { return Ok(None) };
        let Ok(digest) = known.digest.parse() else { return Ok(None) };
        self.expect(digest)?;
        // It may have been discarded a moment ago; then it is brought again.
        let Some(kept) = self.store.claim(&digest, &self.order.claim)? else { return Ok(None) };
        Ok(Some(Imported {
            digest,
            entries: kept.entries,
            bytes: kept.bytes,
            path: Store::path_of(&digest),
            image: known.image,
            notes: known.notes,
            was_there: true,
        }))
    }

    fn expect(&self, found: Digest) -> Result<(), ImportError> {
        match self.order.expected {
            Some(wanted) if wanted != found => {
                Err(ImportError::Digest { what: format!("the tree of {}", self.order.source), wanted, found })
            }
            _ => Ok(()),
        }
    }
}

fn notes(image: Option<&Image>, left_out: &LeftOut) -> Vec<String> {
    let user = image.map(|image| image.user.as_str()).filter(|user| !matches!(*user, "" | "root" | "0" | "0:0"));
    let user = user.map(|user| format!("the image wants to run as {user:?}; its containers run as root"));
    let left_out = left_out.iter().map(|(what, count)| format!("left out: {what}, {count} times"));
    user.into_iter().chain(left_out).collect()
}
