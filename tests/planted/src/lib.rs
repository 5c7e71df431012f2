//! Planted bugs: realistic mistakes in the product's own code, each of which the simulator must find, or it proves nothing.
//! In: the name of a bug. Out: whether it is switched on in this thread.
//! Absent: from every ordinary build, all of it. There `planted!` is the literal `false` and the compiler leaves nothing
//! behind; only a build with `--cfg quorate_mutants`, in a target folder of its own (`cargo sim --mutants`), can switch.

//!
//! And the one switch for checks that cost too much in production: `checked!` is on where this package is built with debug
//! assertions, which is every build of the tests and the simulator's. Debug assertions of *all* packages would make the
//! standard library's collections check themselves in each of our loops, a sixth of the simulator's time.

/// Whether this build makes the checks that production cannot afford.
pub const CHECKING: bool = cfg!(debug_assertions);

/// Panics unless the condition holds, in builds that check; elsewhere it is not even evaluated.
#[macro_export]
macro_rules! checked {
    ($condition:expr, $($text:tt)+) => {
        if $crate::CHECKING {
            assert!($condition, $($text)+);
        }
    };
}

#[cfg(quorate_mutants)]
mod switch;
#[cfg(quorate_mutants)]
mod table;

#[cfg(quorate_mutants)]
pub use switch::{is_active, place, reached, with};
#[cfg(quorate_mutants)]
pub use table::{Bug, ELSEWHERE, QUICK, TABLE};

/// Whether the planted bug of this name is switched on: never, in this build.
#[cfg(not(quorate_mutants))]
#[macro_export]
macro_rules! planted {
    ($name:literal) => {
        false
    };
}

/// Whether the planted bug of this name is switched on in this thread. The name must be in the table, or it does not
/// compile.
#[cfg(quorate_mutants)]
#[macro_export]
macro_rules! planted {
    ($name:literal) => {
        $crate::is_active(const { $crate::place($name) })
    };
}
