//! The only ways to write the state: each door changes one object and keeps every index and the hash right with it.
//! In: from `apply` alone. Out: the state, whole again after every call.
//! Absent: no rule; a door writes whatever it is given.

use std::cmp::Reverse;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use imbl::OrdMap;
use planted::planted;

use crate::digest::{Header, Room, StateHash};
use crate::model::container::{Container, Status};
use crate::model::decision::Decision;
use crate::model::ids::{ContainerId, MemberId, Name, NodeId, RequestId, Revision};
use crate::model::member::{Member, Membership};
use crate::model::node::{Health, Node};
use crate::model::report::KeptReport;
use crate::model::resources::Resources;
use crate::model::settings::Settings;
use crate::model::storage::Storage;
use crate::model::template::Template;
use crate::model::time::WallTime;
use crate::sessions::Remembered;
use crate::state::{Brake, Claim, DECISIONS, Derived, State, Truth};

impl State {
    /// The entry at `revision` is applied; the clock never goes back.
    pub(crate) fn advance(&mut self, revision: Revision, at: WallTime) {
        let clock = self.truth.clock.max(at);
        let hash = &mut self.derived.hash;
        hash.replace(Room::Header, &Header::Revision, &self.truth.revision, &revision);
        hash.replace(Room::Header, &Header::Clock, &self.truth.clock, &clock);
        self.truth.revision = revision;
        self.truth.clock = clock;
    }

    pub(crate) fn new_member_id(&mut self) -> MemberId {
        if planted!("burnt-id-given-again")
            && let Some(free) = (1..self.truth.next_member).map(MemberId).find(|id| self.member(*id).is_none())
        {
            return free;
        }
        MemberId(next(&mut self.truth.next_member, Header::NextMember, &mut self.derived.hash))
    }

    pub(crate) fn new_node_id(&mut self) -> NodeId {
        NodeId(next(&mut self.truth.next_node, Header::NextNode, &mut self.derived.hash))
    }

    pub(crate) fn new_container_id(&mut self) -> ContainerId {
        ContainerId(next(&mut self.truth.next_container, Header::NextContainer, &mut self.derived.hash))
    }

    pub(crate) fn set_membership(&mut self, membership: Membership) {
        self.derived.hash.replace(Room::Header, &Header::Membership, &self.truth.membership, &membership);
        self.truth.membership = membership;
    }

    pub(crate) fn set_settings(&mut self, settings: Settings) {
        let settings = Arc::new(settings);
        self.derived.hash.replace(Room::Header, &Header::Settings, &self.truth.settings, &settings);
        self.truth.settings = settings;
    }

    pub(crate) fn set_brake(&mut self, brake: Brake) {
        self.derived.hash.replace(Room::Header, &Header::Brake, &self.truth.brake, &brake);
        self.truth.brake = brake;
    }

    pub(crate) fn put_member(&mut self, member: Member) {
        let (id, member) = (member.id, Arc::new(member));
        self.derived.hash.add(Room::Member, &id, &member);
        if let Some(old) = self.truth.members.insert(id, member) {
            self.derived.hash.remove(Room::Member, &id, &old);
        }
    }

    pub(crate) fn drop_member(&mut self, id: MemberId) {
        if let Some(old) = self.truth.members.remove(&id) {
            self.derived.hash.remove(Room::Member, &id, &old);
        }
    }

    pub(crate) fn put_node(&mut self, node: Node) {
        let node = Arc::new(node);
        if let Some(old) = self.truth.nodes.insert(node.id, Arc::clone(&node)) {
            self.derived.leave_node(&old);
        }
        self.derived.enter_node(&node);
    }

    /// Forgets the node and what it said it finds.
    pub(crate) fn drop_node(&mut self, id: NodeId) {
        if let Some(old) = self.truth.nodes.remove(&id) {
            self.derived.leave_node(&old);
        }
        if let Some(old) = self.truth.node_reports.remove(&id) {
            self.derived.hash.remove(Room::NodeReport, &id, &old);
        }
    }

    pub(crate) fn put_node_report(&mut self, id: NodeId, kept: KeptReport) {
        let kept = Arc::new(kept);
        self.derived.hash.add(Room::NodeReport, &id, &kept);
        if let Some(old) = self.truth.node_reports.insert(id, kept) {
            self.derived.hash.remove(Room::NodeReport, &id, &old);
        }
    }

    pub(crate) fn put_container(&mut self, container: Container) {
        let container = Arc::new(container);
        match self.truth.containers.insert(container.id, Arc::clone(&container)) {
            Some(old) => self.derived.change_container(&old, &container),
            None => self.derived.enter_container(&container),
        }
    }

    /// Forgets the container and what was said of it.
    pub(crate) fn drop_container(&mut self, id: ContainerId) {
        if let Some(old) = self.truth.containers.remove(&id) {
            self.derived.leave_container(&old);
        }
        if let Some(old) = self.truth.statuses.remove(&id) {
            self.derived.hash.remove(Room::Status, &id, &old);
        }
    }

    pub(crate) fn put_status(&mut self, id: ContainerId, status: Status) {
        let status = Arc::new(status);
        self.derived.hash.add(Room::Status, &id, &status);
        if let Some(old) = self.truth.statuses.insert(id, status) {
            self.derived.hash.remove(Room::Status, &id, &old);
        }
    }

    pub(crate) fn put_template(&mut self, template: Template) {
        let (name, template) = (template.name.clone(), Arc::new(template));
        self.derived.hash.add(Room::Template, &name, &template);
        if let Some(old) = self.truth.templates.insert(name.clone(), template) {
            self.derived.hash.remove(Room::Template, &name, &old);
        }
    }

    pub(crate) fn drop_template(&mut self, name: &Name) {
        if let Some(old) = self.truth.templates.remove(name) {
            self.derived.hash.remove(Room::Template, name, &old);
        }
    }

    pub(crate) fn put_storage(&mut self, storage: Storage) {
        let (name, storage) = (storage.name.clone(), Arc::new(storage));
        self.derived.hash.add(Room::Storage, &name, &storage);
        if let Some(old) = self.truth.storages.insert(name.clone(), storage) {
            self.derived.hash.remove(Room::Storage, &name, &old);
        }
    }

    pub(crate) fn drop_storage(&mut self, name: &Name) {
        if let Some(old) = self.truth.storages.remove(name) {
            self.derived.hash.remove(Room::Storage, name, &old);
        }
    }

    /// Keeps the decision taken at `revision`; the oldest goes when there are too many.
    pub(crate) fn put_decision(&mut self, revision: Revision, decision: Decision) {
        let decision = Arc::new(decision);
        self.derived.hash.add(Room::Decision, &revision, &decision);
        if let Some(old) = self.truth.decisions.insert(revision, decision) {
            self.derived.hash.remove(Room::Decision, &revision, &old);
        }
        if self.truth.decisions.len() > DECISIONS
            && let Some((oldest, decision)) = self.truth.decisions.get_min().cloned()
        {
            self.truth.decisions.remove(&oldest);
            self.derived.hash.remove(Room::Decision, &oldest, &decision);
        }
    }

    pub(crate) fn remember(&mut self, request: RequestId, remembered: Remembered) {
        self.truth.sessions.remember(request, remembered, &mut self.derived.hash);
    }
}

fn next(counter: &mut u64, header: Header, hash: &mut StateHash) -> u64 {
    let id = *counter;
    hash.replace(Room::Header, &header, &id, &(id + 1));
    *counter = id + 1;
    id
}

impl Derived {
    /// Everything that follows from `truth`, computed from nothing.
    pub(crate) fn of(truth: &Truth) -> Derived {
        let mut derived = Derived::beside_decisions(truth);
        let hash = &mut derived.hash;
        truth.decisions.iter().for_each(|(revision, decision)| hash.add(Room::Decision, revision, decision));
        derived
    }

    /// The same but for the decisions, of which nothing but the hash is derived.
    pub(crate) fn beside_decisions(truth: &Truth) -> Derived {
        let mut derived = Derived::default();
        for node in truth.nodes.values() {
            derived.enter_node(node);
        }
        for container in truth.containers.values() {
            derived.enter_container(container);
        }
        let hash = &mut derived.hash;
        header(truth, hash);
        truth.members.iter().for_each(|(id, member)| hash.add(Room::Member, id, member));
        truth.node_reports.iter().for_each(|(id, kept)| hash.add(Room::NodeReport, id, kept));
        truth.statuses.iter().for_each(|(id, status)| hash.add(Room::Status, id, status));
        truth.templates.iter().for_each(|(name, template)| hash.add(Room::Template, name, template));
        truth.storages.iter().for_each(|(name, storage)| hash.add(Room::Storage, name, storage));
        truth.sessions.hash_into(hash);
        derived
    }

    fn enter_node(&mut self, node: &Node) {
        self.hash.add(Room::Node, &node.id, node);
        self.node_names.insert(node.name.clone(), node.id);
        if matches!(node.health, Health::Fencing { .. }) {
            self.fencing.insert(node.id);
        }
    }

    fn leave_node(&mut self, node: &Node) {
        self.hash.remove(Room::Node, &node.id, node);
        self.node_names.remove(&node.name);
        self.fencing.remove(&node.id);
    }

    fn enter_container(&mut self, container: &Container) {
        self.container_names.insert(container.spec.name.clone(), container.id);
        for template in container.spec.templates() {
            *self.template_uses.entry(template.clone()).or_default() += 1;
        }
        *self.storage_uses.entry(container.spec.storage.clone()).or_default() += 1;
        self.hash.add(Room::Spec, &container.id, &container.spec);
        self.hash.add(Room::Annotations, &container.id, &container.annotations);
        self.hash.add(Room::Container, &container.id, &Rest(container));
        self.stand(container);
    }

    fn leave_container(&mut self, container: &Container) {
        self.container_names.remove(&container.spec.name);
        container.spec.templates().for_each(|template| one_less(&mut self.template_uses, template));
        one_less(&mut self.storage_uses, &container.spec.storage);
        self.hash.remove(Room::Spec, &container.id, &container.spec);
        self.hash.remove(Room::Annotations, &container.id, &container.annotations);
        self.hash.remove(Room::Container, &container.id, &Rest(container));
        self.unstand(container);
    }

    fn change_container(&mut self, old: &Container, new: &Container) {
        if !Arc::ptr_eq(&old.spec, &new.spec) {
            self.leave_container(old);
            self.enter_container(new);
            return;
        }
        if !Arc::ptr_eq(&old.annotations, &new.annotations) {
            self.hash.replace(Room::Annotations, &new.id, &old.annotations, &new.annotations);
        }
        self.hash.remove(Room::Container, &old.id, &Rest(old));
        self.hash.add(Room::Container, &new.id, &Rest(new));
        if standing(old) != standing(new) {
            self.unstand(old);
            self.stand(new);
        }
    }

    fn stand(&mut self, container: &Container) {
        let Standing { claims, waits, handover } = standing(container);
        for (node, claim) in claims.into_iter().flatten() {
            self.by_node.entry(node).or_default().insert(container.id, claim);
            let used = self.used.entry(node).or_default();
            *used = used.plus(container.spec.resources);
        }
        if waits {
            self.unplaced.insert((Reverse(container.spec.priority), container.id));
        }
        if handover {
            self.handovers.insert(container.id);
        }
    }

    fn unstand(&mut self, container: &Container) {
        for (node, _) in standing(container).claims.into_iter().flatten() {
            if let Some(claims) = self.by_node.get_mut(&node) {
                claims.remove(&container.id);
                if claims.is_empty() {
                    self.by_node.remove(&node);
                }
            }
            if let Some(used) = self.used.get_mut(&node) {
                *used = used.minus(container.spec.resources);
                if *used == Resources::default() {
                    self.used.remove(&node);
                }
            }
        }
        self.unplaced.remove(&(Reverse(container.spec.priority), container.id));
        self.handovers.remove(&container.id);
    }
}

/// Where a container stands in the indexes.
#[derive(PartialEq, Eq)]
struct Standing {
    claims: [Option<(NodeId, Claim)>; 2],
    waits: bool,
    handover: bool,
}

fn standing(container: &Container) -> Standing {
    let assignment = container.assignment();
    Standing {
        claims: [
            assignment.map(|assignment| (assignment.node, Claim::Owner)),
            assignment.and_then(|assignment| Some((assignment.target()?, Claim::Target))),
        ],
        waits: container.wants_place(),
        handover: assignment.is_some_and(|assignment| assignment.is_handover()),
    }
}

/// A container without its spec and annotations. Taken apart field by field, so that none is forgotten.
struct Rest<'a>(&'a Container);

impl Hash for Rest<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Container {
            id,
            spec: _,
            annotations: _,
            desired,
            placement,
            epoch,
            home,
            restarts,
            start_failures,
            displacements,
            decision,
            created,
        } = self.0;
        (id, desired, placement, epoch, home, restarts, start_failures, displacements, decision, created).hash(state);
    }
}

fn one_less(uses: &mut OrdMap<Name, u64>, name: &Name) {
    if let Some(count) = uses.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            uses.remove(name);
        }
    }
}

fn header(truth: &Truth, hash: &mut StateHash) {
    hash.add(Room::Header, &Header::Cluster, &truth.cluster);
    hash.add(Room::Header, &Header::Generation, &truth.generation);
    hash.add(Room::Header, &Header::Revision, &truth.revision);
    hash.add(Room::Header, &Header::Clock, &truth.clock);
    hash.add(Room::Header, &Header::NextMember, &truth.next_member);
    hash.add(Room::Header, &Header::NextNode, &truth.next_node);
    hash.add(Room::Header, &Header::NextContainer, &truth.next_container);
    hash.add(Room::Header, &Header::Membership, &truth.membership);
    hash.add(Room::Header, &Header::Settings, &truth.settings);
    hash.add(Room::Header, &Header::Brake, &truth.brake);
}
