//! Room on a storage: an import that would fill it is refused, before it is begun where that can be known, else on the way.
//! In: what is needed at least. Out: whether so much can be written while enough is left to those who run there.

use std::path::Path;

use rustix::fs::{OFlags, StatVfs, fstatvfs};
use rustix::io::Errno;

use crate::error::ImportError;
use crate::policy::Limits;

/// Bytes that are written between two looks at most; a look is one system call.
pub const LOOK_EVERY: u64 = 64 << 20;

/// Errs with [`ImportError::NoRoom`] where `needed` more bytes leave less than `limits` want to be left.
pub fn ensure(folder: &Path, needed: u64, limits: &Limits) -> Result<(), ImportError> {
    let look = || {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        fstatvfs(rustix::fs::open(folder, flags, rustix::fs::Mode::empty())?)
    };
    let found = look().map_err(|errno: Errno| ImportError::io("look for room in", folder)(errno.into()))?;
    fits(&found, needed, limits)
}

/// The same of what a look found.
pub fn fits(found: &StatVfs, needed: u64, limits: &Limits) -> Result<(), ImportError> {
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    let free = bytes(found.f_bavail);
    let spare = (bytes(found.f_blocks) / 100).saturating_mul(limits.spare_percent).min(limits.spare_max);
    if free.saturating_sub(needed) < spare || needed > free {
        return Err(ImportError::NoRoom { needed, free, spare });
    }
    Ok(())
}
