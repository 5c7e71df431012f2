//! Planted bugs: realistic mistakes in the product's own code, each of which the simulator must find, or it proves nothing.
//! In: the name of a bug. Out: whether it is switched on in this thread.
//! Absent: from every ordinary build, all of it. There `planted!` is the literal `false` and the compiler leaves nothing
//! behind; only a build with `--cfg quorate_mutants`, in a target folder of its own (`cargo sim --mutants`), can switch.

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
