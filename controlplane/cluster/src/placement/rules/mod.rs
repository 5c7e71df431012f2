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
use crate::model::ids::{Name, NodeId};
use crate::model::node::Node;
use crate::model::report::NodeReport;
use crate::model::resources::Resources;
use crate::model::storage::Storage;
use crate::model::template::Template;
use crate::model::time::WallTime;
use crate::state::State;

/// A container in search of a place, with all that is the same wherever it goes: looked up once, not for every node.
pub(super) struct Seeker<'a> {
    state: &'a State,
    pub container: &'a Container,
    /// The first of its templates that is not registered.
    pub unknown_template: Option<&'a Name>,
    template: Option<&'a Template>,
    /// Laid over it, the lowest first; those that are registered.
    applications: Vec<&'a Template>,
    /// `None` where its storage is not registered.
    pub storage: Option<&'a Storage>,
    /// It has room claimed somewhere, which counts as free to it alone.
    may_claim: bool,
}

impl<'a> Seeker<'a> {
    pub fn of(state: &'a State, container: &'a Container) -> Seeker<'a> {
        let spec = &container.spec;
        let template = |name: &Name| state.template(name).map(|template| &**template);
        Seeker {
            state,
            container,
            unknown_template: spec.templates().find(|name| state.template(name).is_none()),
            template: template(&spec.template),
            applications: spec.application_templates.iter().filter_map(template).collect(),
            storage: state.storage(&spec.storage).map(|storage| &**storage),
            may_claim: container.assignment().is_some(),
        }
    }

    /// May it run on `node`? `used` is all that is spoken for there.
    pub fn at(&'a self, node: &'a Node, used: Resources) -> Case<'a> {
        let claimed = self.may_claim && self.state.claim(node.id, self.container.id).is_some();
        let used_by_others = if claimed { used.minus(self.container.spec.resources) } else { used };
        Case { seeker: self, container: self.container, node, used_by_others }
    }

    /// Everything it is made of that is registered, the lowest first.
    pub fn templates(&self) -> impl Iterator<Item = &'a Template> {
        self.template.into_iter().chain(self.applications.iter().copied())
    }

    pub fn state(&self) -> &'a State {
        self.state
    }

    /// What `node` said last of what it finds.
    pub fn report_of(&self, node: NodeId) -> Option<&NodeReport> {
        self.state.node_report(node).map(|kept| &*kept.report)
    }

    pub fn now(&self) -> WallTime {
        self.state.clock()
    }
}

/// May `container` run on `node`?
pub(super) struct Case<'a> {
    pub seeker: &'a Seeker<'a>,
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

impl Case<'_> {
    /// The first rule that says no.
    pub fn judge(&self) -> Result<(), Rejection> {
        TABLE.iter().try_for_each(|rule| rule(self))
    }
}
