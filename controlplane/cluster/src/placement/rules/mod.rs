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
    /// What is spoken for on the node, this container left out.
    pub used_by_others: Resources,
}

type Rule = fn(&Case) -> Result<(), Rejection>;

const TABLE: [Rule; 9] = [
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

impl<'a> Case<'a> {
    /// `used` is all that is spoken for on `node`.
    pub fn of(state: &'a State, container: &'a Container, node: &'a Node, used: Resources) -> Case<'a> {
        let claimed = container.assignment().is_some() && state.claim(node.id, container.id).is_some();
        let used_by_others = if claimed { used.minus(container.spec.resources) } else { used };
        Case { state, container, node, used_by_others }
    }

    /// The first rule that says no.
    pub fn judge(&self) -> Result<(), Rejection> {
        TABLE.iter().try_for_each(|rule| rule(self))
    }
}
