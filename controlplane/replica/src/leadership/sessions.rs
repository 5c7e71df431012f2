//! What the leader tells each agent, and what it makes of what they say.
//! In: sessions of authenticated nodes, their words, applied events. Out: desired sets, replies, commands to propose.
//! One desired set in flight per node, coalesced; complete but thin: specs the agent holds are not sent again.
//! Absent: no lease. A session that ends says nothing about the node.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use cluster::agent::{DesiredItem, DesiredSet, SpecDigest, ToAgent, ToLeader, Wanted, WantedSpec, Watch};
use cluster::apply::Done;
use cluster::command::{Command, Registration, Report, Reported};
use cluster::{
    Claim, Container, ContainerId, Event, FenceCause, Health, Incarnation, LeaseTerms, Moment, NodeId, Order, Outcome,
    Proof, ReceiptScope, Rejected, Revision, Span, State,
};
use planted::planted;

use super::fencing::awaits_receipt;
use super::{Desk, Leadership, Pending};
use crate::proposals::Origin;
use crate::{Effect, Link};

/// A desired set that was not acknowledged within this is sent again, whole.
const REPEAT_AFTER: Span = Span::seconds(2);

#[derive(Default)]
pub struct Sessions {
    open: BTreeMap<Link, Session>,
    by_node: BTreeMap<NodeId, Link>,
    /// Sessions that may have something to be told.
    dirty: BTreeSet<Link>,
    /// Sets under way, oldest first: when they are sent again unless they are acknowledged.
    under_way: VecDeque<(Moment, Link, Revision)>,
}

struct Session {
    node: NodeId,
    /// The incarnation the agent speaks for; `None` until it has said so.
    incarnation: Option<Incarnation>,
    /// Something changed that waits for a word of the agent's.
    behind: bool,
    /// The revision of the set under way and when it was sent.
    in_flight: Option<Revision>,
    /// What was last told in this session; a new one begins with everything, and be it nothing.
    told: Option<Told>,
    specs: BTreeSet<SpecDigest>,
}

#[derive(PartialEq)]
struct Told {
    terms: LeaseTerms,
    items: Vec<DesiredItem>,
    watch: Arc<Watch>,
}

impl Sessions {
    pub fn links(&self) -> Vec<Link> {
        self.open.keys().copied().collect()
    }

    pub fn all_dirty(&mut self) {
        self.dirty.extend(self.open.keys());
    }

    /// Marks the nodes that events concern; owners and targets alike.
    pub fn applied(&mut self, state: &State, events: &[Event], outcome: &Outcome) {
        // A restart is ordered without an event; what comes of it has some.
        if let (Ok(Done::Container(id)), []) = (outcome, events)
            && let Some(assignment) = state.container(*id).and_then(|container| container.placement.assignment())
        {
            self.mark(assignment.node);
        }
        for event in events.iter().filter(|event| !matches!(event, Event::ContainerAnnotated { .. })) {
            if let Some(node) = event.node() {
                self.mark(node);
            }
            let container = event.container().and_then(|id| state.container(id));
            if let Some(assignment) = container.and_then(|container| container.placement.assignment()) {
                self.mark(assignment.node);
                if let Some(target) = assignment.target() {
                    self.mark(target);
                }
            }
            match event {
                // The former target is no longer named anywhere; it finds out from its next set.
                Event::HandoverAborted { .. } => self.all_dirty(),
                // What everybody watches has changed.
                Event::StorageRegistered { .. }
                | Event::StorageRemoved { .. }
                | Event::TemplateRegistered { .. }
                | Event::TemplateRemoved { .. } => self.all_dirty(),
                _ => {}
            }
        }
    }

    fn mark(&mut self, node: NodeId) {
        self.dirty.extend(self.by_node.get(&node));
    }

    fn open(&mut self, link: Link, node: NodeId) {
        self.open.insert(link, Session::new(node, None));
    }

    /// The node speaks over `link`, so it has done with the one before, which is given back. One that is open and silent
    /// ends nothing: an agent that knows its leader by two names opens two, and keeps whichever welcomes it first.
    fn spoke(&mut self, link: Link, node: NodeId) -> Option<Link> {
        let before = self.by_node.insert(node, link).filter(|before| *before != link);
        before.inspect(|before| {
            self.open.remove(before);
        })
    }

    fn close(&mut self, link: Link) {
        if let Some(session) = self.open.remove(&link)
            && self.by_node.get(&session.node) == Some(&link)
        {
            self.by_node.remove(&session.node);
        }
    }

    /// Sends what agents have not acknowledged.
    pub fn repeat(&mut self, desk: &mut Desk<'_>) {
        while let Some((_, link, revision)) = self.under_way.pop_front_if(|(due, ..)| *due <= desk.now) {
            if let Some(session) = self.open.get_mut(&link).filter(|session| session.in_flight == Some(revision)) {
                *session = Session::new(session.node, session.incarnation);
                self.dirty.insert(link);
            }
        }
        self.push(desk);
    }

    /// Tells what is new to those who have acknowledged what is old.
    pub fn push(&mut self, desk: &mut Desk<'_>) {
        for link in std::mem::take(&mut self.dirty) {
            let Some(session) = self.open.get_mut(&link) else { continue };
            if session.in_flight.is_some() || session.incarnation.is_none() {
                // Both end with a word of the agent's, which brings it back here.
                session.behind = true;
                continue;
            }
            session.behind = false;
            if let Some(revision) = session.push(link, desk) {
                self.under_way.push_back((desk.now + REPEAT_AFTER, link, revision));
            }
        }
    }
}

impl Session {
    /// The revision of the set that is under way now, if one is needed.
    fn push(&mut self, link: Link, desk: &mut Desk<'_>) -> Option<Revision> {
        let (incarnation, node) = (self.incarnation?, desk.state.node(self.node)?);
        // Once applied it is over for good: the sooner the node ends it, the sooner there is a receipt. An older one is over
        // as well: whoever registered after it, a clone maybe, has ended it, and its agent might wait for a lease for ever.
        let over = match &node.health {
            Health::Fencing { incarnation: over, .. } => incarnation <= *over,
            Health::Fenced { receipt } => incarnation <= receipt.incarnation,
            Health::Up { incarnation: current, .. } => incarnation < *current,
            Health::Joined => false,
        };
        if over {
            desk.effects.push(Effect::ToAgent { link, message: ToAgent::Void { incarnation } });
        }
        if !is_up(&node.health, incarnation) {
            return None;
        }
        let (items, wanted) = desired(desk.state, self.node, incarnation);
        let told = Told { terms: desk.state.settings().terms, items, watch: Arc::new(Watch::of(desk.state)) };
        if self.told.as_ref() == Some(&told) {
            return None;
        }
        let specs: Vec<_> = wanted.into_iter().filter(|(digest, _)| self.specs.insert(*digest)).collect();
        let set = DesiredSet {
            generation: desk.state.generation(),
            incarnation,
            revision: desk.state.revision(),
            terms: told.terms,
            items: told.items.clone(),
            specs,
            watch: told.watch.clone(),
        };
        let revision = set.revision;
        self.told = Some(told);
        self.in_flight = Some(revision);
        desk.effects.push(Effect::ToAgent { link, message: ToAgent::Desired(Arc::new(set)) });
        Some(revision)
    }
}

/// Everything `node` should have under `incarnation`, by container, with the specs referred to.
fn desired(
    state: &State,
    node: NodeId,
    incarnation: Incarnation,
) -> (Vec<DesiredItem>, Vec<(SpecDigest, Arc<WantedSpec>)>) {
    let mut items = Vec::new();
    let mut specs = Vec::new();
    for (container, claim) in state.claims(node) {
        let Some(item) = wanted(container, claim, incarnation) else { continue };
        let Some(spec) = WantedSpec::of(state, container) else { continue };
        let digest = SpecDigest::of(&spec);
        items.push(DesiredItem { spec: digest, ..item });
        specs.push((digest, Arc::new(spec)));
    }
    (items, specs)
}

fn wanted(container: &Container, claim: Claim, incarnation: Incarnation) -> Option<DesiredItem> {
    let assignment = container.placement.assignment()?;
    let item = |epoch, wanted| DesiredItem {
        container: container.id,
        epoch,
        on_quorum_loss: assignment.on_quorum_loss,
        wanted,
        spec: SpecDigest(0),
    };
    match (claim, &assignment.order) {
        (Claim::Owner, _) if assignment.incarnation != incarnation => None,
        (Claim::Owner, Order::Run | Order::Prepare { .. }) => Some(item(assignment.epoch, Wanted::Run)),
        (Claim::Owner, Order::Stop { .. } | Order::Handoff { .. } | Order::Blocked { .. }) => {
            Some(item(assignment.epoch, Wanted::Stop))
        }
        (Claim::Owner, Order::AwaitingReceipt { .. }) => None,
        (Claim::Target, Order::Prepare { target_incarnation, .. } | Order::Handoff { target_incarnation, .. }) => {
            (*target_incarnation == incarnation).then(|| item(assignment.epoch, Wanted::Prepare))
        }
        (Claim::Target, _) => None,
    }
}

impl Leadership {
    pub fn agent_opened(&mut self, link: Link, node: NodeId) {
        self.sessions.open(link, node);
    }

    pub fn agent_closed(&mut self, link: Link) {
        self.sessions.close(link);
    }

    /// What an agent said, over a session that was opened with its node's secret.
    pub fn agent_said(&mut self, link: Link, message: ToLeader, desk: &mut Desk<'_>) {
        let Some(node) = self.sessions.open.get(&link).map(|session| session.node) else { return };
        if let Some(before) = self.sessions.spoke(link, node) {
            desk.effects.push(Effect::DropAgent { link: before });
        }
        let Some(session) = self.sessions.open.get_mut(&link) else { return };
        let Some(health) = desk.state.node(node).map(|node| node.health.clone()) else {
            desk.effects.push(Effect::DropAgent { link });
            return;
        };
        match message {
            ToLeader::Register(registration) => self.register(link, node, *registration, desk),
            ToLeader::Ended { incarnation, proof } => {
                let key = Pending::Receipt(node, incarnation);
                // Of its own end a node knows these two; the others are somebody else's to say.
                let its_own = matches!(proof, Proof::Left | Proof::Guard);
                if its_own && is_awaited(desk.state, node, &health, incarnation, &proof) {
                    if self.pending_keys.insert(key.clone()) {
                        let command = Command::RecordFenced { node, incarnation, proof };
                        desk.propose.push((Origin::Duty, Some(key), command));
                    }
                } else if is_past(&health, incarnation) {
                    // It repeats this until it hears that it is known.
                    desk.effects.push(Effect::ToAgent { link, message: ToAgent::Void { incarnation } });
                }
            }
            ToLeader::Report { incarnation, reports } => {
                session.speaks_for(incarnation);
                let reports: Vec<Report> = reports.into_iter().filter(|it| is_news(desk.state, node, it)).collect();
                if is_up(&health, incarnation) && !reports.is_empty() {
                    desk.propose.push((Origin::Duty, None, Command::ReportStatus { node, incarnation, reports }));
                }
            }
            ToLeader::TermsInForce { incarnation, terms } => {
                session.speaks_for(incarnation);
                let known = desk.state.node(node).and_then(|node| node.facts.as_ref()).map(|facts| facts.terms);
                if is_up(&health, incarnation) && known != Some(terms) {
                    desk.propose.push((Origin::Duty, None, Command::AcknowledgeTerms { node, incarnation, terms }));
                }
            }
            ToLeader::ClassChanged { incarnation, class, reason } => {
                session.speaks_for(incarnation);
                let current = desk.state.node(node).filter(|_| health.incarnation() == incarnation);
                // Of a node that is being fenced the state takes only a class that falls.
                let news = current.is_some_and(|node| match node.health {
                    Health::Up { .. } => node.class() != class,
                    Health::Fencing { .. } => class < node.class(),
                    Health::Joined | Health::Fenced { .. } => false,
                });
                if news {
                    let command = Command::NoteNodeClass { node, incarnation, class, reason };
                    desk.propose.push((Origin::Duty, None, command));
                }
            }
            ToLeader::Finds { incarnation, report } => {
                session.speaks_for(incarnation);
                let kept = desk.state.node_report(node);
                let news = kept.is_none_or(|kept| kept.incarnation != incarnation || kept.report != report);
                if is_up(&health, incarnation) && news {
                    desk.propose.push((Origin::Duty, None, Command::ReportNode { node, incarnation, report }));
                }
            }
            ToLeader::Holding { incarnation, revision, missing } => {
                session.speaks_for(incarnation);
                if session.in_flight.is_some_and(|sent| sent <= revision) {
                    session.in_flight = None;
                }
                if !missing.is_empty() {
                    session.forget(desk.state, &missing);
                }
            }
        }
        if self.sessions.open.get(&link).is_some_and(|session| session.behind) {
            self.sessions.dirty.insert(link);
        }
        self.sessions.push(desk);
    }

    fn register(&mut self, link: Link, node: NodeId, registration: Registration, desk: &mut Desk<'_>) {
        if registration.node != node {
            desk.effects.push(Effect::DropAgent { link });
            return;
        }
        let Some(health) = desk.state.node(node).map(|node| &node.health) else { return };
        let current = health.incarnation();
        let not_yet =
            |reason: &str| Effect::ToAgent { link, message: ToAgent::NotRegistered { current, reason: reason.into() } };
        match health {
            Health::Up { boot, .. } if *boot != registration.boot && registration.ends == current => {
                let key = Pending::Fencing(node, current);
                if self.pending_keys.insert(key.clone()) {
                    let cause = FenceCause::RebootSeen { boot: registration.boot };
                    let command = Command::BeginFencing { node, incarnation: current, cause };
                    desk.propose.push((Origin::Duty, Some(key), command));
                }
                desk.effects.push(not_yet("the incarnation before another boot must be fenced first"));
            }
            Health::Fencing { boot, .. } if *boot != registration.boot || !registration.empty => {
                desk.effects.push(not_yet("the incarnation before is being fenced"));
            }
            _ => {
                let command = Command::RegisterNode(Box::new(registration));
                desk.propose.push((Origin::Registration(link), None, command));
            }
        }
    }

    /// The entry of a registration was applied, or refused by the state.
    pub fn registered(&mut self, link: Link, outcome: &cluster::Outcome, desk: &mut Desk<'_>) {
        let Some(session) = self.sessions.open.get_mut(&link) else { return };
        let message = match outcome {
            Ok(Done::Registered(incarnation)) => {
                *session = Session::new(session.node, Some(*incarnation));
                self.sessions.dirty.insert(link);
                ToAgent::Registered {
                    generation: desk.state.generation(),
                    incarnation: *incarnation,
                    revision: desk.state.revision(),
                    terms: desk.state.settings().terms,
                }
            }
            Ok(_) => return,
            Err(rejected) => not_registered(desk.state, session.node, rejected),
        };
        desk.effects.push(Effect::ToAgent { link, message });
    }
}

fn not_registered(state: &State, node: NodeId, rejected: &Rejected) -> ToAgent {
    let current = state.node(node).map(|node| node.health.incarnation()).unwrap_or_default();
    ToAgent::NotRegistered { current, reason: rejected.to_string().into() }
}

fn is_up(health: &Health, incarnation: Incarnation) -> bool {
    matches!(health, Health::Up { incarnation: current, .. } if *current == incarnation)
}

/// Whether the node's word that `incarnation` is over is the receipt that is missing, or frees what the receipt left.
fn is_awaited(state: &State, node: NodeId, health: &Health, incarnation: Incarnation, proof: &Proof) -> bool {
    match health {
        Health::Fenced { .. } => proof.scope() == ReceiptScope::Node && awaits_receipt(state, node, incarnation),
        _ => health.incarnation() == incarnation,
    }
}

/// It has its receipt, or another one came after it.
fn is_past(health: &Health, incarnation: Incarnation) -> bool {
    match health {
        Health::Fenced { receipt } => incarnation <= receipt.incarnation,
        Health::Joined | Health::Up { .. } | Health::Fencing { .. } => incarnation < health.incarnation(),
    }
}

/// Whether the state would learn anything from it: agents repeat until they see that it was taken.
fn is_news(state: &State, node: NodeId, report: &Report) -> bool {
    let Some(container) = state.container(report.container) else { return false };
    let Some(assignment) = container.placement.assignment() else { return false };
    match &report.what {
        Reported::Prepared | Reported::CannotPrepare { .. } => {
            assignment.target() == Some(node) && !matches!(assignment.order, Order::Prepare { ready: true, .. })
        }
        Reported::Observed(observed) => {
            let status = state.status(report.container).filter(|status| status.epoch == report.epoch);
            let further = status.is_none_or(|status| status.observed < *observed);
            let current =
                assignment.node == node && (assignment.epoch == report.epoch || planted!("stale-report-believed"));
            // An epoch from the future is news too: the state refuses it, loudly.
            (current && further) || report.epoch > container.epoch
        }
    }
}

impl Session {
    fn speaks_for(&mut self, incarnation: Incarnation) {
        if self.incarnation != Some(incarnation) {
            *self = Session::new(self.node, Some(incarnation));
        }
    }

    fn new(node: NodeId, incarnation: Option<Incarnation>) -> Session {
        Session { node, incarnation, behind: true, in_flight: None, told: None, specs: BTreeSet::new() }
    }

    /// The agent has not got these after all.
    fn forget(&mut self, state: &State, missing: &[ContainerId]) {
        for container in missing.iter().filter_map(|id| state.container(*id)) {
            if let Some(spec) = WantedSpec::of(state, container) {
                self.specs.remove(&SpecDigest::of(&spec));
            }
        }
        self.told = None;
        self.behind = true;
    }
}
