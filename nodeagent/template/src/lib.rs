//! From an archive, an image or a folder to a verified tree on a storage, named by the digest of what it holds.
//! In: where it comes from, the storage, what is refused, left out or kept. Out: the digest, and what the image says of
//! how it is run; `<storage>/templates/sha256-<hex>/{rootfs, tree, manifest.json, claim}`, whole or not there at all.
//! Absent: the cluster. Whether anybody wants the template, and under which name, is decided elsewhere.
//!
//! **The digest** is the SHA-256 of the tree's description, the file `tree`, so that `sha256sum tree` prints it. One line
//! for each entry, in the order of the bytes of its path:
//!
//! ```text
//! PATH KIND MODE UID GID WHAT [capability=HEX]
//! ```
//!
//! `PATH` is relative to the root; every byte that is not printable ASCII, a blank or a backslash is written `\xHH`. `MODE`
//! is octal with four digits, `----` for symbolic links, which have none. `KIND` and `WHAT`: `f` a file, its size and the
//! SHA-256 of its content with a colon between; `d` a folder, `-`; `l` a symbolic link, its target, escaped as paths are;
//! `h` a second name of a file, the first of its names in this order; `c`, `b` a device, its numbers with a colon between;
//! `p` a fifo, `-`. `capability` is the extended attribute `security.capability` of a file.
//!
//! Not in it: times (the same files built twice are the same template), other extended attributes (they are not kept), and the
//! root folder itself, of which many archives say nothing: it always has mode 0755 and belongs to whoever imports.
//! The description is made by reading the tree that was written, never from what an archive says of itself: the same tree has
//! the same digest whatever it came from, and what is written wrongly is not what was asked for.
//!
//! **Where it may write.** Every path is resolved by the kernel beneath one folder, and no symbolic link is followed on the
//! way (`openat2`, RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS): there is no check before the use that could be outrun.

mod archive;
mod beneath;
mod build;
mod compression;
mod digest;
mod error;
mod folder;
mod image;
mod import;
mod layout;
mod path;
mod policy;
mod progress;
mod registry;
mod room;
mod store;
mod survey;
mod tree;

pub use digest::Digest;
pub use error::{Bad, ImportError};
pub use image::Image;
pub use import::{Imported, Order, import};
pub use policy::{Layer, Limits, Policy, Treat};
pub use progress::{Phase, Progress};
pub use registry::Http;
pub use store::{Discarded, Kept};
pub use survey::{discard, look, path_of, verify};
