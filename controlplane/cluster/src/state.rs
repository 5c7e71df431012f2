//! What is true: the replicated state at one revision, in persistent maps, so that a copy costs nothing.
//! In: written by `apply` alone. Out: queries. Derived indexes are rebuilt from the rest, never stored.
//! Absent: no clock, no leader's view (who is suspect is not a fact).

use std::cmp::Reverse;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use planted::planted;

use crate::digest::StateHash;
use crate::model::container::{Container, Status};
use crate::model::decision::Decision;
use crate::model::ids::{ClusterId, ContainerId, Generation, MemberId, Name, NodeId, Revision};
use crate::model::inventory::TemplateSight;
use crate::model::member::{Member, Membership};
use crate::model::node::Node;
use crate::model::report::KeptReport;
use crate::model::resources::Resources;
use crate::model::settings::Settings;
use crate::model::storage::Storage;
use crate::model::template::Template;
use crate::model::time::WallTime;
use crate::sessions::Sessions;

/// Decisions kept for `why`; older ones are gone and said to be gone.
pub const DECISIONS: usize = 20_000;

#[derive(Clone, Debug)]
pub struct State {
    pub(crate) truth: Truth,
    pub(crate) derived: Derived,
}

/// What a snapshot holds: everything that cannot be derived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truth {
    pub cluster: ClusterId,
    pub generation: Generation,
    pub revision: Revision,
    /// The latest time any entry carried; never goes back.
    pub clock: WallTime,
    pub next_member: u64,
    pub next_node: u64,
    pub next_container: u64,
    pub membership: Membership,
    pub members: OrdMap<MemberId, Arc<Member>>,
    pub nodes: OrdMap<NodeId, Arc<Node>>,
    /// What each node said last of what it finds; nothing of one that has not said so.
    pub node_reports: OrdMap<NodeId, Arc<KeptReport>>,
    pub containers: OrdMap<ContainerId, Arc<Container>>,
    pub statuses: OrdMap<ContainerId, Arc<Status>>,
    pub templates: OrdMap<Name, Arc<Template>>,
    pub storages: OrdMap<Name, Arc<Storage>>,
    pub settings: Arc<Settings>,
    pub brake: Brake,
    /// Keyed by the revision that recorded it, at most [`DECISIONS`].
    pub decisions: OrdMap<Revision, Arc<Decision>>,
    pub sessions: Sessions,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Brake {
    #[default]
    Off,
    /// No new time-based fencing is proposed.
    On { since: Revision, silent: u32, of: u32 },
}

/// Follows from `Truth`; kept so that nobody has to look through everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Derived {
    pub container_names: OrdMap<Name, ContainerId>,
    pub node_names: OrdMap<Name, NodeId>,
    /// Every container a node may run or has room reserved for; the flag says whether it is the owner.
    pub by_node: OrdMap<NodeId, OrdMap<ContainerId, Claim>>,
    /// What those claims add up to.
    pub used: OrdMap<NodeId, Resources>,
    /// Waiting for a place ([`Container::wants_place`]), highest priority first, then by id.
    pub unplaced: OrdSet<(Reverse<u16>, ContainerId)>,
    /// Under handover.
    pub handovers: OrdSet<ContainerId>,
    /// Nodes whose `Fencing` is open.
    pub fencing: OrdSet<NodeId>,
    /// How many containers name it.
    pub template_uses: OrdMap<Name, u64>,
    pub storage_uses: OrdMap<Name, u64>,
    pub hash: StateHash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// May run it.
    Owner,
    /// Has room reserved for it, as the target of a handover.
    Target,
}

/// What the first member of a new cluster starts from.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    pub cluster: ClusterId,
    pub settings: Settings,
    /// The voters, with ids from 1 in this order.
    pub members: Vec<Member>,
}

impl State {
    /// The state beneath log index 1 of a new cluster.
    pub fn bootstrap(bootstrap: Bootstrap) -> State {
        let Bootstrap { cluster, settings, members } = bootstrap;
        let voters: Arc<[MemberId]> = members.iter().map(|member| member.id).collect();
        State::restore(Truth {
            cluster,
            generation: Generation::numbered(1),
            revision: Revision(1),
            clock: WallTime(0),
            next_member: voters.iter().map(|id| id.0 + 1).max().unwrap_or(1),
            next_node: 1,
            next_container: 1,
            membership: Membership { voters, ..Membership::default() },
            members: members.into_iter().map(|member| (member.id, Arc::new(member))).collect(),
            nodes: OrdMap::new(),
            node_reports: OrdMap::new(),
            containers: OrdMap::new(),
            statuses: OrdMap::new(),
            templates: OrdMap::new(),
            storages: OrdMap::new(),
            settings: Arc::new(settings),
            brake: Brake::Off,
            decisions: OrdMap::new(),
            sessions: Sessions::default(),
        })
    }

    /// The state a snapshot holds, with its indexes built anew.
    pub fn restore(truth: Truth) -> State {
        let derived = Derived::of(&truth);
        State { truth, derived }
    }

    /// Everything a snapshot must hold.
    pub fn truth(&self) -> &Truth {
        &self.truth
    }

    pub fn cluster(&self) -> ClusterId {
        self.truth.cluster
    }

    pub fn generation(&self) -> Generation {
        self.truth.generation
    }

    pub fn revision(&self) -> Revision {
        self.truth.revision
    }

    pub fn clock(&self) -> WallTime {
        self.truth.clock
    }

    /// Covers everything in `truth`; equal on every member at equal revision.
    pub fn hash(&self) -> StateHash {
        self.derived.hash
    }

    pub fn settings(&self) -> &Settings {
        &self.truth.settings
    }

    pub fn brake(&self) -> Brake {
        self.truth.brake
    }

    pub fn membership(&self) -> &Membership {
        &self.truth.membership
    }

    /// By id, ascending.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.truth.members.values()
    }

    pub fn member(&self, id: MemberId) -> Option<&Arc<Member>> {
        self.truth.members.get(&id)
    }

    /// By id, ascending.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.truth.nodes.values()
    }

    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.truth.nodes.get(&id)
    }

    pub fn node_named(&self, name: &Name) -> Option<&Arc<Node>> {
        self.derived.node_names.get(name).and_then(|id| self.node(*id))
    }

    pub fn node_count(&self) -> usize {
        self.truth.nodes.len()
    }

    /// What the node said last of what it finds.
    pub fn node_report(&self, id: NodeId) -> Option<&Arc<KeptReport>> {
        self.truth.node_reports.get(&id)
    }

    /// Nodes whose fencing is open, by id.
    pub fn fencing(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.derived.fencing.iter().filter_map(|id| self.node(*id))
    }

    /// After a recovery that did not read the logs of a majority: the first node that may still serve an earlier
    /// generation. While there is one nothing is placed: it may run any container, whatever this state says *(8, a5)*.
    pub fn awaited_from_before(&self) -> Option<&Arc<Node>> {
        self.fencing().find(|node| node.may_serve_elsewhere() && !planted!("recovered-places-at-once"))
    }

    /// By id, ascending.
    pub fn containers(&self) -> impl Iterator<Item = &Arc<Container>> {
        self.truth.containers.values()
    }

    /// By id, ascending, those above `after`; for pages.
    pub fn containers_after(&self, after: ContainerId) -> impl Iterator<Item = &Arc<Container>> {
        self.truth.containers.range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded)).map(|(_, c)| c)
    }

    pub fn container(&self, id: ContainerId) -> Option<&Arc<Container>> {
        self.truth.containers.get(&id)
    }

    pub fn container_named(&self, name: &Name) -> Option<&Arc<Container>> {
        self.derived.container_names.get(name).and_then(|id| self.container(*id))
    }

    pub fn container_count(&self) -> usize {
        self.truth.containers.len()
    }

    pub fn status(&self, id: ContainerId) -> Option<&Arc<Status>> {
        self.truth.statuses.get(&id)
    }

    /// Containers that `node` owns or has room reserved for, by id.
    pub fn claims(&self, node: NodeId) -> impl Iterator<Item = (&Arc<Container>, Claim)> {
        let claims = self.derived.by_node.get(&node);
        claims.into_iter().flatten().filter_map(|(id, claim)| Some((self.container(*id)?, *claim)))
    }

    pub fn claim_count(&self, node: NodeId) -> usize {
        self.derived.by_node.get(&node).map_or(0, OrdMap::len)
    }

    /// What the claims on `node` add up to.
    pub fn used(&self, node: NodeId) -> Resources {
        self.derived.used.get(&node).copied().unwrap_or_default()
    }

    /// Waiting for a place, in the order they should get one. Those held, and those whose policy keeps them down after
    /// the loss of their node, do not wait.
    pub fn unplaced(&self) -> impl Iterator<Item = &Arc<Container>> {
        self.derived.unplaced.iter().filter_map(|(_, id)| self.container(*id))
    }

    /// Containers under handover, by id.
    pub fn handovers(&self) -> impl Iterator<Item = &Arc<Container>> {
        self.derived.handovers.iter().filter_map(|id| self.container(*id))
    }

    /// Whether `container` may run on `node` or has room reserved there.
    pub fn claim(&self, node: NodeId, container: ContainerId) -> Option<Claim> {
        self.derived.by_node.get(&node)?.get(&container).copied()
    }

    pub fn template(&self, name: &Name) -> Option<&Arc<Template>> {
        self.truth.templates.get(name)
    }

    pub fn templates(&self) -> impl Iterator<Item = &Arc<Template>> {
        self.truth.templates.values()
    }

    /// Whether `node` finds a template's files on any storage, as it said in its present incarnation.
    pub fn sight(&self, node: &Node, template: &Template) -> TemplateSight {
        let kept = self.node_report(node.id).filter(|kept| node.up() == Some(kept.incarnation));
        let on = |storage: &Arc<Storage>| kept.map(|kept| kept.report.templates.sight(template, storage));
        self.storages()
            .map(|storage| on(storage).unwrap_or(TemplateSight::Unknown))
            .min()
            .unwrap_or(TemplateSight::Unknown)
    }

    pub fn storage(&self, name: &Name) -> Option<&Arc<Storage>> {
        self.truth.storages.get(name)
    }

    pub fn storages(&self) -> impl Iterator<Item = &Arc<Storage>> {
        self.truth.storages.values()
    }

    /// How many containers have their private area there.
    pub fn storage_uses(&self, name: &Name) -> u64 {
        self.derived.storage_uses.get(name).copied().unwrap_or(0)
    }

    /// The decision recorded at `revision`, while it is kept.
    pub fn decision(&self, revision: Revision) -> Option<&Arc<Decision>> {
        self.truth.decisions.get(&revision)
    }

    pub fn sessions(&self) -> &Sessions {
        &self.truth.sessions
    }
}
