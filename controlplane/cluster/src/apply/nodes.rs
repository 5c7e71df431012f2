//! Nodes join, register, change role and intent, and leave for good.
//! The rule that matters: a registration ends the incarnation it names, and only one that is proven over *(3, a6, b10)*.

use std::collections::BTreeMap;
use std::sync::Arc;

use planted::planted;

use super::{Done, Kind, Outcome, Rejected, Step, invalid, valid, wrong_state};
use crate::command::{IntentOrder, Registration};
use crate::event::Event;
use crate::model::fence::{FencingClass, Proof, ReceiptScope};
use crate::model::ids::{Incarnation, Name, NodeId, SecretHash};
use crate::model::lease::LeaseTerms;
use crate::model::node::{Health, Intent, Node, RegisteredBy, Role};

impl Step<'_> {
    pub(super) fn join_node(
        &mut self,
        name: &Name,
        role: Role,
        labels: &BTreeMap<String, String>,
        failure_domain: &Arc<str>,
        secret: SecretHash,
    ) -> Outcome {
        valid::labels(labels)?;
        valid::failure_domain(failure_domain)?;
        if let Some(holder) = self.state.node_named(name) {
            let holder = holder.id.to_string().into();
            return Err(Rejected::NameTaken { kind: Kind::Node, name: name.as_str().into(), holder });
        }
        let id = self.state.new_node_id();
        self.state.put_node(Node {
            id,
            name: name.clone(),
            role,
            intent: Intent::Schedulable,
            health: Health::Joined,
            secret,
            labels: Arc::new(labels.clone()),
            failure_domain: Arc::clone(failure_domain),
            facts: None,
            joined: self.index,
            registered_by: RegisteredBy::default(),
        });
        self.events.push(Event::NodeJoined { node: id, name: name.clone(), role });
        Ok(Done::Node(id))
    }

    pub(super) fn register_node(&mut self, registration: &Registration) -> Outcome {
        let Registration { node: id, ends, boot, empty, facts, run } = registration;
        let node = self.node(*id)?;
        let current = node.health.incarnation();
        let by = RegisteredBy::new(*run, *ends);
        let repeated = node.registered_by.is(by) && matches!(node.health, Health::Up { boot: of, .. } if of == *boot);
        if repeated && !planted!("registration-ends-anything") {
            // Its answer was lost, or it arrives late: the same answer, and no effect. What the agent says of itself may
            // be older by now than what is known.
            return Ok(Done::Registered(current));
        }
        if *ends != current && !planted!("registration-ends-anything") {
            return Err(Rejected::StaleIncarnation { node: *id, given: *ends, current });
        }
        valid::facts(facts)?;
        let same_boot = node.health.boot() == Some(*boot);
        let proves_empty = (*empty && same_boot) || (!same_boot && planted!("another-boot-is-empty"));
        match &node.health {
            Health::Joined => {}
            Health::Up { .. } | Health::Fencing { .. } if proves_empty => self.fence(&node, Proof::Empty),
            Health::Up { .. } | Health::Fencing { .. } => {
                return Err(Rejected::NotFenced { node: *id, old: current });
            }
            // Fenced for `stop` containers only: what was kept is over, or still runs and belongs to this incarnation
            // from here on. Another boot says nothing: it may be another machine.
            Health::Fenced { receipt } if receipt.proof.scope() == ReceiptScope::Stop => {
                if proves_empty && self.awaits_receipt(*id, current) {
                    self.fence(&node, Proof::Empty);
                } else if same_boot {
                    self.adopt_kept(*id, current);
                }
            }
            Health::Fenced { .. } => {}
        }
        let mut node = self.node(*id)?;
        let incarnation = Incarnation(self.index.0);
        if self.state.settings().rejoin_cordoned && was_lost(&node.health) && node.intent == Intent::Schedulable {
            node.intent = Intent::Cordoned;
            self.events.push(intent_changed(&node));
        }
        node.health = Health::Up { incarnation, boot: *boot };
        // Of a first registration only a class that proves nothing is news.
        let class_is_news = match &node.facts {
            Some(before) => before.class != facts.class,
            None => !facts.class.lease_proves_end(),
        };
        node.facts = Some(Arc::new(facts.clone()));
        node.registered_by = by;
        let name = node.name.clone();
        let class = class_is_news.then(|| class_changed(&node));
        self.state.put_node(node);
        self.settle_terms();
        self.events.push(Event::NodeRegistered { node: *id, name, incarnation, boot: *boot });
        self.events.extend(class);
        Ok(Done::Registered(incarnation))
    }

    /// The class of the incarnation that serves. Once its fencing has begun the class may only fall: what is shown
    /// afterwards says nothing about an end that may be overdue.
    pub(super) fn note_node_class(
        &mut self,
        id: NodeId,
        incarnation: Incarnation,
        class: FencingClass,
        reason: &Arc<str>,
    ) -> Outcome {
        valid::reason(reason)?;
        let mut node = self.node(id)?;
        let (before, current) = (node.class(), node.health.incarnation());
        if incarnation != current || matches!(node.health, Health::Joined | Health::Fenced { .. }) {
            return Err(Rejected::StaleIncarnation { node: id, given: incarnation, current });
        }
        if matches!(node.health, Health::Fencing { .. }) && class >= before {
            return Err(wrong_state(format!("{} is being fenced; its class can only fall now", node.name)));
        }
        let Some(facts) = node.facts.as_mut().filter(|facts| facts.class != class) else { return Ok(Done::Node(id)) };
        let facts = Arc::make_mut(facts);
        (facts.class, facts.class_reason) = (class, Arc::clone(reason));
        self.events.push(class_changed(&node));
        self.say_who_is_awaited(&node);
        self.state.put_node(node);
        Ok(Done::Node(id))
    }

    pub(super) fn set_node_role(&mut self, id: NodeId, role: Role) -> Outcome {
        let mut node = self.node(id)?;
        if node.role != role {
            node.role = role;
            self.events.push(Event::NodeRoleChanged { node: id, name: node.name.clone(), role });
            self.state.put_node(node);
        }
        Ok(Done::Node(id))
    }

    pub(super) fn set_node_intent(&mut self, id: NodeId, order: IntentOrder) -> Outcome {
        let mut node = self.node(id)?;
        let since = self.index;
        let intent = match (order, node.intent) {
            (IntentOrder::Cordon, Intent::Maintenance { .. }) => {
                return Err(wrong_state(format!("{} is in maintenance and takes nothing anyway", node.name)));
            }
            (IntentOrder::Cordon, _) => Intent::Cordoned,
            (IntentOrder::Uncordon, Intent::Schedulable | Intent::Cordoned) => Intent::Schedulable,
            (IntentOrder::Uncordon, intent) => {
                return Err(wrong_state(format!("{} is {intent}, not cordoned; return it instead", node.name)));
            }
            (IntentOrder::Drain, intent @ Intent::Draining { .. }) => intent,
            (IntentOrder::Drain, _) => Intent::Draining { since },
            (IntentOrder::Maintenance, intent @ Intent::Maintenance { .. }) => intent,
            (IntentOrder::Maintenance, _) if self.state.claim_count(id) > 0 => {
                let problem =
                    format!("{} still has {} containers; drain it first", node.name, self.state.claim_count(id));
                return Err(wrong_state(problem));
            }
            (IntentOrder::Maintenance, _) => Intent::Maintenance { since },
            (IntentOrder::Return, Intent::Cordoned) => {
                return Err(wrong_state(format!("{} is only cordoned; uncordon it instead", node.name)));
            }
            (IntentOrder::Return, _) => Intent::Schedulable,
        };
        if intent != node.intent {
            node.intent = intent;
            self.events.push(intent_changed(&node));
            self.touched.insert(id);
            self.state.put_node(node);
        }
        Ok(Done::Node(id))
    }

    pub(super) fn acknowledge_terms(&mut self, id: NodeId, incarnation: Incarnation, terms: LeaseTerms) -> Outcome {
        let mut node = self.node(id)?;
        let current = node.health.incarnation();
        if incarnation != current || matches!(node.health, Health::Joined | Health::Fenced { .. }) {
            return Err(Rejected::StaleIncarnation { node: id, given: incarnation, current });
        }
        if !self.state.settings().legal(terms) {
            return Err(invalid("terms", "these are not the cluster's terms, nor any that are being left"));
        }
        if let Some(facts) = node.facts.as_mut().filter(|facts| facts.terms != terms) {
            Arc::make_mut(facts).terms = terms;
            self.state.put_node(node);
            self.settle_terms();
        }
        Ok(Done::Node(id))
    }

    pub(super) fn remove_node(&mut self, id: NodeId) -> Outcome {
        let node = self.node(id)?;
        if matches!(node.health, Health::Up { .. } | Health::Fencing { .. }) {
            let problem = format!("{} is {}; let it leave, or confirm that it is down", node.name, node.health);
            return Err(wrong_state(problem));
        }
        let claims = self.state.claim_count(id);
        if claims > 0 {
            let by = format!("{claims} containers that may still run there; confirm that it is down").into();
            return Err(Rejected::InUse { kind: Kind::Node, what: node.name.as_str().into(), by });
        }
        self.state.drop_node(id);
        self.settle_terms();
        self.events.push(Event::NodeRemoved { node: id, name: node.name });
        Ok(Done::Node(id))
    }
}

fn class_changed(node: &Node) -> Event {
    let reason = node.facts.as_ref().map_or_else(Arc::default, |facts| Arc::clone(&facts.class_reason));
    Event::NodeClassChanged { node: node.id, name: node.name.clone(), class: node.class(), reason }
}

/// Whether its last incarnation ended against its will.
fn was_lost(health: &Health) -> bool {
    matches!(health, Health::Fenced { receipt } if receipt.proof != Proof::Left)
}

fn intent_changed(node: &Node) -> Event {
    Event::NodeIntentChanged { node: node.id, name: node.name.clone(), intent: node.intent.to_string().into() }
}
