//! What a template may hold that could harm a node, and how large it may be.

/// What becomes of entries of one sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treat {
    /// The import fails, and names the entry.
    Refuse,
    /// It is left out, and counted: the whole entry, or the bit or attribute where that is meant.
    Strip,
    Keep,
}

/// What a template is to the containers that are made of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layer {
    /// A whole root file system; nothing lies beneath it.
    #[default]
    Base,
    /// Laid over others: it covers what they hold at the same path and adds to their folders. It removes nothing of theirs:
    /// a mark in an image that would is refused, for a tree without such marks has one meaning, and one digest, everywhere.
    Over,
}

/// How each sort of doubtful entry is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Set-uid and set-gid bits of files. Kept by default: `su`, `ping` and `mount` of every distribution have them, they
    /// act inside a container's own bounds, and on the node nobody but root gets at them: a template's folder has mode 0700.
    pub set_id: Treat,
    /// File capabilities. Kept by default for the same reasons: they cannot exceed what the container itself was given.
    pub capabilities: Treat,
    /// Device nodes. Refused by default: no container needs one in its template, since the runtime makes those it may have;
    /// and whoever mounts the storage elsewhere would have a door to that machine's hardware.
    pub devices: Treat,
    /// Fifos and sockets. Refused by default: they are left over from something that ran, and a program on the node that
    /// opens one waits for ever.
    pub fifos: Treat,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { set_id: Treat::Keep, capabilities: Treat::Keep, devices: Treat::Refuse, fifos: Treat::Refuse }
    }
}

/// Where an import gives up: far above any system there is, far below what fills a storage unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub entries: u64,
    /// All content together, and any one file; holes count in full.
    pub bytes: u64,
    /// Bytes of content for each byte of what is compressed, looked at from `ratio_from` bytes of content on: a small archive
    /// may well be all zeros. Source: gzip reaches 1,032 at best, distributions 2 to 5.
    pub ratio: u64,
    pub ratio_from: u64,
    /// Room that stays on the storage, in hundredths of its size but no more than `spare_max` bytes: containers write there.
    pub spare_percent: u64,
    pub spare_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            entries: 1_000_000,
            bytes: 64 << 30,
            ratio: 200,
            ratio_from: 256 << 20,
            spare_percent: 5,
            spare_max: 1 << 30,
        }
    }
}
