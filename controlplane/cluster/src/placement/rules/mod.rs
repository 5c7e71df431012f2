//! The hard rules in the order they are asked; the first that says no is named.
//! A new rule is a file here, a variant of `Rejection` and a line in the table.

mod up;
mod schedulable;
mod possible_owners;
mod template;
mod storage;
mod runtime;
mod start_failures;
mod memory;
mod cpu;

pub use cpu::CPU_OVERCOMMIT;

use super::Rejection;
use crate::model::container::Container;
use crate::model::node::Node;
use crate::model::resources::Resources;
use crate::state::State;

/// May `container` run on `node`?
pub(super) struct Case<'a> {
    pub state: &'a State,
    pub container: &'a Container,
    pub node: &'a Node,
}

pub(super) const TABLE: [fn(&Case) -> Result<(), Rejection>; 9] = [
    up::rule,
    schedulable::rule,
    possible_owners::rule,
    template::rule,
    storage::rule,
    runtime::rule,
    start_failures::rule,
    memory::rule,
    cpu::rule,
];

impl Case<'_> {
    /// What is spoken for on the node, this container left out.
    pub fn used_by_others(&self) -> Resources {
        let used = self.state.used(self.node.id);
        match self.state.claim(self.node.id, self.container.id) {
            Some(_) => used.minus(self.container.spec.resources),
            None => used,
        }
    }
}
