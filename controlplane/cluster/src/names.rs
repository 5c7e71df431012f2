//! What nodes, members and containers are called where a line of text is made.
//! In: ids, and who knows the names. Out: the same line with ids, for logs and transcripts, or with the names people gave.
//! What is stored holds ids; names are looked up where it is shown, so a line says what the thing is called now.

use std::fmt;

use crate::model::ids::{ContainerId, MemberId, NodeId};
use crate::state::State;

/// Gives the word for an id.
pub trait Names {
    fn node_name(&self, id: NodeId) -> String;
    fn member_name(&self, id: MemberId) -> String;
    fn container_name(&self, id: ContainerId) -> String;
}

/// Calls everything by its id.
pub struct Ids;

impl Names for Ids {
    fn node_name(&self, id: NodeId) -> String {
        id.to_string()
    }

    fn member_name(&self, id: MemberId) -> String {
        id.to_string()
    }

    fn container_name(&self, id: ContainerId) -> String {
        id.to_string()
    }
}

/// Names as of this state; what is gone has its id with `@` before it, as references have.
impl Names for State {
    fn node_name(&self, id: NodeId) -> String {
        self.node(id).map_or_else(|| format!("@{id}"), |node| node.name.to_string())
    }

    fn member_name(&self, id: MemberId) -> String {
        self.member(id).map_or_else(|| format!("@{id}"), |member| member.name.to_string())
    }

    fn container_name(&self, id: ContainerId) -> String {
        self.container(id).map_or_else(|| format!("@{id}"), |container| container.spec.name.to_string())
    }
}

/// Something that is one line of text and speaks of others in it. Its `Display` calls them by their ids.
pub trait Tell {
    fn tell(&self, names: &impl Names, f: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// The line in `names`.
    fn told<'t, N: Names>(&'t self, names: &'t N) -> Told<'t, Self, N> {
        Told { what: self, names }
    }
}

/// A line of text with its names.
pub struct Told<'t, T: ?Sized, N> {
    what: &'t T,
    names: &'t N,
}

impl<T: Tell + ?Sized, N: Names> fmt::Display for Told<'_, T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.what.tell(self.names, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::Rejected;
    use crate::event::Event;
    use crate::model::container::Unplaced;
    use crate::model::decision::Trigger;
    use crate::model::ids::Epoch;
    use crate::story::{Story, name};

    #[test]
    fn a_line_speaks_in_ids_or_in_the_names_people_gave() {
        let story = Story::with_nodes(1);
        let state = &story.state;
        let node = state.nodes().next().map(|node| node.id).expect("a node");
        let (container, gone) = (ContainerId(9), NodeId(77));
        let trigger = Trigger::Failover { from: gone };
        let event = Event::ContainerAssigned { container, name: name("web"), node, epoch: Epoch(2), trigger };
        assert_eq!(event.to_string(), format!("web e2 assigned to {node}: failover from n77"));
        assert_eq!(event.told(state).to_string(), "web e2 assigned to node-1: failover from @n77");
        let moved = Unplaced::Displaced { from: node };
        assert_eq!(moved.told(state).to_string(), "displaced from node-1");
        let refusal = Rejected::Infeasible { container, node, reason: "full".into() };
        assert_eq!(refusal.told(state).to_string(), "@c9 cannot run on node-1: full");
        let voters = state.membership().voters.clone();
        let set = Event::MembershipChanged { voters, outgoing: [].into(), learners: [].into() };
        assert_eq!(set.told(state).to_string(), set.to_string(), "the members of stories are called as their ids");
    }
}
