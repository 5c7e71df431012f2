//! The node's hands: what touches processes, mounts and disks.
//! In: orders that name a container and its epoch. Out: that it is done, or the exact reason why not; exits as they come.
//! Each kind is a narrow trait with its real drivers, a fake, and one contract test over all of them.
//! Calls block; they belong on threads of their own. Absent: no choice of what should run.

pub mod runtime;

pub mod claims;
pub mod fake;
pub mod guard;
pub mod oci;
pub mod probe;
pub mod process;
pub mod starters;
pub mod storage;
