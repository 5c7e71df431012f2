//! An OCI image layout: a folder with `oci-layout`, `index.json` and blobs by digest. Puts its layers into a tree.
//! In: the folder. Out: every layer in order, each blob compared with the digest and size it was asked for by, each layer
//! also with the digest of its content.

use std::fs::File;
use std::io::{self, Read};

use crate::archive;
use crate::beneath::Beneath;
use crate::build::Build;
use crate::compression;
use crate::digest::{Digest, Hashing};
use crate::error::ImportError;
use crate::image::{self, Descriptor, Document, Image};
use crate::path::Inside;
use crate::progress::Meter;

/// Names the version; every layout has it.
pub const MARK: &str = "oci-layout";
pub const INDEX: &str = "index.json";
/// Larger than any manifest; registries refuse those above 4 MiB.
pub const DOCUMENT_MAX: u64 = 4 << 20;
/// Indexes within indexes.
const DEPTH_MAX: usize = 4;

pub struct Layout {
    folder: Beneath,
}

/// The image of a layout that is for this machine.
pub struct Chosen {
    /// Names everything in it.
    pub manifest: Digest,
    pub image: Image,
    layers: Vec<(Descriptor, Digest)>,
}

impl Chosen {
    pub fn compressed_bytes(&self) -> u64 {
        self.layers.iter().map(|(layer, _)| layer.size).sum()
    }
}

/// Where a layout keeps what has this digest.
pub fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Whether a tree is a layout.
pub fn is_layout(folder: &mut Beneath) -> bool {
    [MARK, INDEX, "blobs"].iter().all(|name| {
        let path = Inside::new(name.as_bytes()).expect("a plain name");
        folder.look(&path).is_ok_and(|found| found.is_some())
    })
}

impl Layout {
    pub fn new(folder: Beneath) -> Layout {
        Layout { folder }
    }

    pub fn choose(&mut self) -> Result<Chosen, ImportError> {
        let mut text = self.small(INDEX, None)?;
        let mut what = INDEX.to_owned();
        let mut manifest = None;
        for _ in 0..=DEPTH_MAX {
            match Document::read(&text, &what)? {
                Document::Index(manifests) => {
                    let chosen = image::choose(&manifests)?;
                    let digest = chosen.digest()?;
                    what = format!("manifest {digest}");
                    text = self.document(chosen)?;
                    manifest = Some(digest);
                }
                Document::Manifest { config, layers } => {
                    let manifest = manifest.ok_or_else(|| ImportError::Image(format!("{INDEX} is no index")))?;
                    let (image, contents) = image::configuration(&self.document(&config)?)?;
                    if contents.len() != layers.len() {
                        let text = format!("{} layers, and digests of {}", layers.len(), contents.len());
                        return Err(ImportError::Image(text));
                    }
                    return Ok(Chosen { manifest, image, layers: layers.into_iter().zip(contents).collect() });
                }
            }
        }
        Err(ImportError::Image(format!("more than {DEPTH_MAX} indexes within each other")))
    }

    /// Puts every layer into the tree, the lowest first.
    pub fn unpack(&mut self, chosen: &Chosen, build: &mut Build<'_, '_>) -> Result<(), ImportError> {
        for (layer, content) in &chosen.layers {
            build.layer();
            let meter = build.meter;
            let mut compressed = Hashing::new(Metered { inner: self.open(&blob(&layer.digest()?))?, meter });
            let compression = image::compression(layer)?;
            let told = |source| compression::told(source, "", build.limits());
            let reader = compression::open(&mut compressed, Some(compression), build.limits()).map_err(told)?;
            let mut plain = Hashing::new(reader);
            let outcome = archive::unpack(&mut plain, build);
            let (found, _) = plain.seen();
            drop(plain);
            // A blob that is not what it was asked for explains whatever it led to.
            io::copy(&mut compressed, &mut io::sink()).map_err(ImportError::io("read", layer.digest.as_ref()))?;
            same(&format!("layer {}", layer.digest), layer, compressed.seen())?;
            outcome?;
            if found != *content {
                let what = format!("the content of layer {}", layer.digest);
                return Err(ImportError::Digest { what, wanted: *content, found });
            }
        }
        Ok(())
    }

    fn document(&mut self, descriptor: &Descriptor) -> Result<Vec<u8>, ImportError> {
        self.small(&blob(&descriptor.digest()?), Some(descriptor))
    }

    fn small(&mut self, path: &str, descriptor: Option<&Descriptor>) -> Result<Vec<u8>, ImportError> {
        let mut text = Vec::new();
        let file = self.open(path)?;
        file.take(DOCUMENT_MAX + 1).read_to_end(&mut text).map_err(ImportError::io("read", path.as_ref()))?;
        if let Some(descriptor) = descriptor {
            same(path, descriptor, (Digest::of(&text), text.len() as u64))?;
        }
        if text.len() as u64 > DOCUMENT_MAX {
            return Err(ImportError::TooMuch { what: "bytes of a manifest", max: DOCUMENT_MAX });
        }
        Ok(text)
    }

    fn open(&mut self, path: &str) -> Result<File, ImportError> {
        let inside = Inside::new(path.as_bytes()).map_err(|bad| bad.at(&path))?;
        self.folder.file(&inside).map_err(|bad| bad.at(&path))
    }
}

/// Errs when a blob is not what its descriptor says.
pub fn same(what: &str, descriptor: &Descriptor, (found, bytes): (Digest, u64)) -> Result<(), ImportError> {
    let wanted = descriptor.digest()?;
    if bytes != descriptor.size {
        return Err(ImportError::Size { what: what.to_owned(), wanted: descriptor.size, found: bytes });
    }
    if found != wanted {
        return Err(ImportError::Digest { what: what.to_owned(), wanted, found });
    }
    Ok(())
}

/// Reads through, and tells how much.
pub struct Metered<'a, 'm, R> {
    pub inner: R,
    pub meter: &'a Meter<'m>,
}

impl<R: Read> Read for Metered<'_, '_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.meter.bytes(read as u64);
        Ok(read)
    }
}
