//! Why there is no template. Each names what it is about: the entry of the archive, the blob of the image, the file.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::{Digest, NoDigest};

/// Why an import or a verification failed. Nothing was changed by it.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("{operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{source_text:?} is no source: {why}")]
    Source { source_text: String, why: &'static str },
    #[error("the source is {found}, {why}")]
    Unusable { found: PathBuf, why: &'static str },
    #[error("entry {path:?}")]
    Entry { path: String, source: Bad },
    #[error("the archive is damaged after {after:?}")]
    Damaged { after: String, source: io::Error },
    #[error("{what} of more than {max}")]
    TooMuch { what: &'static str, max: u64 },
    #[error("there is no room: {needed} more bytes at least, where {free} are free and {spare} must stay free")]
    NoRoom { needed: u64, free: u64, spare: u64 },
    #[error("at {at:?} more than {ratio} bytes come out of each byte: made to fill the storage")]
    Bomb { at: String, ratio: u64 },
    #[error("{what} has digest {found}, not {wanted}")]
    Digest { what: String, wanted: Digest, found: Digest },
    #[error("{what} has {found} bytes, not {wanted}")]
    Size { what: String, wanted: u64, found: u64 },
    #[error("{what}")]
    NoDigest { what: String, source: NoDigest },
    #[error("{what} is of media type {found:?}, which is not known here")]
    MediaType { what: String, found: String },
    #[error("{what} is not what it should be")]
    Json { what: String, source: serde_json::Error },
    #[error("the image cannot be used: {0}")]
    Image(String),
    #[error("the image is for {found}, not for linux/{wanted}")]
    Platform { wanted: &'static str, found: String },
    #[error("{operation} {what}")]
    Registry { operation: &'static str, what: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("template {digest} is not on this storage")]
    Absent { digest: Digest },
    #[error("template {digest} is damaged: {what}")]
    Spoilt { digest: Digest, what: String },
    #[error("called off")]
    CalledOff,
}

impl ImportError {
    /// Stable, for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            ImportError::Io { .. } => "storage-failed",
            ImportError::Source { .. } | ImportError::Unusable { .. } => "bad-source",
            ImportError::Entry { .. } | ImportError::Damaged { .. } => "bad-archive",
            ImportError::TooMuch { .. } | ImportError::Bomb { .. } => "too-large",
            ImportError::NoRoom { .. } => "no-room",
            ImportError::Digest { .. } | ImportError::Size { .. } | ImportError::NoDigest { .. } => "wrong-digest",
            ImportError::MediaType { .. } | ImportError::Json { .. } | ImportError::Image(_) => "bad-image",
            ImportError::Platform { .. } => "other-platform",
            ImportError::Registry { .. } => "registry-failed",
            ImportError::Absent { .. } => "absent",
            ImportError::Spoilt { .. } => "spoilt",
            ImportError::CalledOff => "called-off",
        }
    }

    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImportError {
        move |source| ImportError::Io { operation, path: path.to_owned(), source }
    }

    /// The error and everything beneath it, as one line.
    pub fn line(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        text
    }
}

/// What is wrong with one entry.
#[derive(Debug, thiserror::Error)]
pub enum Bad {
    #[error("the path is absolute")]
    Absolute,
    #[error("the path climbs with `..`")]
    Climbs,
    #[error("the path holds a zero byte")]
    Nul,
    #[error("the path is empty")]
    Empty,
    #[error("a name of more than {max} bytes")]
    NameTooLong { max: usize },
    #[error("a path of more than {max} bytes")]
    PathTooLong { max: usize },
    #[error("more than {max} folders deep")]
    TooDeep { max: usize },
    #[error("the path goes through a symbolic link")]
    ThroughLink,
    #[error("the path goes through what is no folder")]
    ThroughFile,
    #[error("it is there twice")]
    Twice,
    #[error("a symbolic link to nothing")]
    NoTarget,
    #[error("a hard link out of the tree, to {0:?}")]
    HardLinkOut(String),
    #[error("a hard link to {0:?}, which is not there")]
    HardLinkToNothing(String),
    #[error("a hard link to {0:?}, which is no file")]
    HardLinkToOther(String),
    #[error("a device node; devices are the runtime's to make")]
    Device,
    #[error("a fifo or socket")]
    Fifo,
    #[error("a file with a set-uid or set-gid bit")]
    SetId,
    #[error("a file with capabilities")]
    Capabilities,
    #[error("an entry of kind {0:?}, which is not known here")]
    Kind(char),
    #[error("a mark of an image's layer, in what is no image")]
    Whiteout,
    #[error("a mark of an image's layer that removes nothing that can be there")]
    WhiteoutName,
    #[error(
        "a mark that removes what this image did not bring: what lies beneath an application template it cannot remove"
    )]
    WhiteoutBeneath,
    #[error("a sparse file of a form that is not known here: write it with --sparse-version=1.0")]
    Sparse,
    #[error("a number or a word in its header that means nothing: {0}")]
    Header(String),
    #[error("the content ends after {found} of {wanted} bytes")]
    Short { wanted: u64, found: u64 },
    #[error("it changed while it was read")]
    Changed,
    #[error("it lies on another file system")]
    OtherFileSystem,
    #[error("it belongs to {uid}:{gid}, and only root may give files away")]
    Owner { uid: u32, gid: u32 },
    #[error("{operation}")]
    Io { operation: &'static str, source: io::Error },
}

impl PartialEq for Bad {
    fn eq(&self, other: &Bad) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Bad {
    pub(crate) fn io(operation: &'static str) -> impl Fn(rustix::io::Errno) -> Bad {
        move |errno| Bad::Io { operation, source: errno.into() }
    }

    pub(crate) fn at(self, path: &impl ToString) -> ImportError {
        ImportError::Entry { path: path.to_string(), source: self }
    }
}
