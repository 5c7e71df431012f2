//! Why the slot refused: what was tried, on which file, and which rule stands against it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::SLOT_VERSION;

/// Why the slot refused.
#[derive(Debug)]
pub enum SlotError {
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The file is not a slot of this version: agent and guard are of different releases.
    Layout {
        path: PathBuf,
        version: u64,
    },
    /// Not opened, or long over.
    Unknown {
        incarnation: u64,
    },
    /// Terminal: a latched incarnation never gets another deadline.
    Latched {
        incarnation: u64,
    },
    /// At or below one that was opened before.
    Reused {
        incarnation: u64,
        highest: u64,
    },
    /// All entries hold incarnations whose end is not on disk yet.
    Full,
}

impl fmt::Display for SlotError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SlotError::Io { operation, path, .. } => write!(out, "{operation} guard slot {}", path.display()),
            SlotError::Layout { path, version } => write!(
                out,
                "guard slot {} has layout {version}, this program knows {SLOT_VERSION}: use agent and guard of one release",
                path.display()
            ),
            SlotError::Unknown { incarnation } => write!(out, "guard slot has no incarnation {incarnation}"),
            SlotError::Latched { incarnation } => write!(out, "incarnation {incarnation} is latched and stays ended"),
            SlotError::Reused { incarnation, highest } => {
                write!(out, "incarnation {incarnation} is not above {highest}, which was opened before")
            }
            SlotError::Full => write!(out, "guard slot is full of incarnations whose end is not recorded yet"),
        }
    }
}

impl std::error::Error for SlotError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SlotError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
