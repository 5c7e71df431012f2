//! Which bug is on. One at a time, for the thread that runs the seed, and never beyond it.

use std::cell::Cell;

use crate::table::TABLE;

const NONE: usize = usize::MAX;

/// Stays in whatever is linked with this, for those who make sure that nothing shipped is.
#[used]
static SIGN: &[u8] = b"quorate: this program was built with planted bugs";

thread_local! {
    static ACTIVE: Cell<usize> = const { Cell::new(NONE) };
    static REACHED: Cell<u64> = const { Cell::new(0) };
}

/// The place of `name` in the table; in a constant, so that a name nobody wrote down does not compile.
pub const fn place(name: &str) -> usize {
    let mut at = 0;
    while at < TABLE.len() {
        if same(TABLE[at].name.as_bytes(), name.as_bytes()) {
            return at;
        }
        at += 1;
    }
    panic!("this planted bug is not in the table");
}

const fn same(one: &[u8], two: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < two.len() && one[at] == two[at] {
        at += 1;
    }
    at == one.len() && at == two.len()
}

#[inline]
pub fn is_active(place: usize) -> bool {
    let active = ACTIVE.get() == place;
    if active {
        REACHED.set(REACHED.get() + 1);
    }
    active
}

/// How often a place where the active bug sits was passed in this thread since it was switched on.
pub fn reached() -> u64 {
    REACHED.get()
}

/// Runs `deed` with the bug on; off again whatever comes of it.
pub fn with<T>(name: &str, deed: impl FnOnce() -> T) -> T {
    struct Off;
    impl Drop for Off {
        fn drop(&mut self) {
            ACTIVE.set(NONE);
        }
    }
    REACHED.set(0);
    ACTIVE.set(place(name));
    let _off = Off;
    deed()
}
