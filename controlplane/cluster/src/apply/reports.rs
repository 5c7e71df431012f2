//! What nodes say of their containers. A report about another node, incarnation or epoch changes nothing.
//! The rule that matters: only a closed epoch (or a receipt) frees an assignment; within an epoch status moves forward.

use std::sync::Arc;

use planted::planted;

use super::{Done, Outcome, Rejected, Step, invalid};
use crate::command::{Report, Reported};
use crate::event::Event;
use crate::model::container::{
    AfterStop, Container, Desired, End, Exit, Observed, Order, RestartCondition, StartFailure, Status, Unplaced,
};
use crate::model::ids::{ContainerId, Epoch, Incarnation, NodeId};
use crate::model::time::WallTime;
use crate::names::Names;

impl Step<'_> {
    pub(super) fn report_status(&mut self, node: NodeId, incarnation: Incarnation, reports: &[Report]) -> Outcome {
        self.node(node)?;
        for report in reports {
            self.refuse_the_future(node, report)?;
        }
        for Report { container: id, epoch, what } in reports {
            let Ok(container) = self.container(*id) else { continue };
            match what {
                Reported::Observed(observed) if owns(&container, node, incarnation, *epoch) => {
                    self.observe(container, observed);
                }
                Reported::Prepared if is_target(&container, node, incarnation, *epoch) => self.prepared(container),
                Reported::CannotPrepare { reason } if is_target(&container, node, incarnation, *epoch) => {
                    let container = self.penalised(container, node, reason);
                    self.back_to_run(container, Arc::clone(reason));
                }
                _ => {}
            }
        }
        Ok(Done::Node(node))
    }

    /// An epoch that was never given out cannot be reported on: somebody invents, or speaks to the wrong cluster.
    fn refuse_the_future(&self, node: NodeId, report: &Report) -> Result<(), Rejected> {
        let ContainerId(number) = report.container;
        if number >= self.state.truth.next_container {
            let problem = format!("{node} reports on {}, which was never created", report.container);
            return Err(invalid("reports.container", problem));
        }
        match self.state.container(report.container) {
            Some(container) if report.epoch > container.epoch => {
                let (id, given, current) = (report.container, report.epoch, container.epoch);
                let problem = format!("{node} reports on {id} {given}, which lies in the future of {current}");
                Err(invalid("reports.epoch", problem))
            }
            _ => Ok(()),
        }
    }

    fn observe(&mut self, container: Container, observed: &Observed) {
        let Some(assignment) = container.assignment() else { return };
        let (id, node, epoch) = (container.id, assignment.node, assignment.epoch);
        let before = self.state.status(id).filter(|status| status.node == node && status.epoch == epoch);
        if before.is_some_and(|status| status.observed >= *observed) {
            return;
        }
        self.state.put_status(id, Status { node, epoch, observed: observed.clone(), since: self.index });
        let name = container.spec.name.clone();
        match observed {
            Observed::Starting => self.events.push(Event::ContainerStarting { container: id, name, node, epoch }),
            Observed::Running => {
                self.events.push(Event::ContainerRunning { container: id, name, node, epoch });
                if !container.start_failures.is_empty() {
                    self.put(Container { start_failures: Arc::default(), ..container });
                }
            }
            Observed::Stopping => self.events.push(Event::ContainerStopping { container: id, name, node, epoch }),
            Observed::Closed { end } => {
                let end_event = end.clone();
                self.events.push(Event::ContainerClosed { container: id, name, node, epoch, end: end_event });
                self.close(container, node, end);
            }
        }
    }

    /// The epoch is closed, so nobody runs it: what was under way says what comes next.
    fn close(&mut self, container: Container, from: NodeId, end: &End) {
        let order = container.assignment().map(|assignment| assignment.order.clone());
        if container.desired != Desired::Running {
            return self.unplace(container, Unplaced::Stopped);
        }
        match order {
            Some(Order::Handoff { target, target_incarnation, .. }) => {
                self.hand_over(container, from, target, target_incarnation);
            }
            Some(Order::Stop { then: AfterStop::Restart | AfterStop::Rest } | Order::Blocked { .. }) => {
                self.unplace(container, Unplaced::Moving { from });
            }
            _ => self.close_unasked(container, from, end),
        }
    }

    /// It ended though nobody asked for that.
    fn close_unasked(&mut self, mut container: Container, on: NodeId, end: &End) {
        if let Some(Order::Prepare { .. }) = container.assignment().map(|assignment| &assignment.order) {
            let (name, epoch) = (container.spec.name.clone(), container.epoch);
            let reason = "it ended on the source".into();
            self.events.push(Event::HandoverAborted { container: container.id, name, epoch, reason });
        }
        match end {
            // Its node gives everything up, as when it shuts down: the same to the container as losing the node.
            End::Stopped => {
                container.displacements += 1;
                self.unplace(container, Unplaced::Displaced { from: on });
            }
            End::Exited(exit) => self.restart_or_hold(container, on, *exit),
            End::StartFailed { reason } | End::Refused { reason } => {
                let container = self.penalised(container, on, reason);
                if container.start_failures.len() >= StartFailure::KEPT {
                    let failures = container.start_failures.iter();
                    let nodes: Vec<String> = failures.map(|failure| self.state.node_name(failure.node)).collect();
                    let why = format!("could not be started on {}; the last said: {reason}", nodes.join(", "));
                    self.hold(container, why.into());
                } else {
                    self.unplace(container, Unplaced::StartFailed { on, reason: Arc::clone(reason) });
                }
            }
        }
    }

    fn restart_or_hold(&mut self, mut container: Container, on: NodeId, exit: Exit) {
        let policy = container.spec.restart;
        let wanted = match policy.condition {
            RestartCondition::Always => true,
            RestartCondition::OnFailure => !exit.is_success(),
            RestartCondition::Never => false,
        };
        if !wanted {
            return self.hold(container, format!("ended on {on}: {exit}; its policy asks for no restart").into());
        }
        let now = self.state.clock();
        let begin = WallTime(now.0.saturating_sub(policy.period.as_millis()));
        let mut recent: Vec<WallTime> = container.restarts.iter().copied().filter(|at| *at > begin).collect();
        if recent.len() >= policy.max as usize {
            let why = format!("ended on {on}: {exit}; {} restarts in {} are spent", policy.max, policy.period);
            return self.hold(container, why.into());
        }
        recent.push(now);
        container.restarts = recent.into();
        self.unplace(container, Unplaced::Ended { on, exit });
    }

    /// `container` with the failure on `node` noted; earlier ones that no longer count are dropped.
    fn penalised(&self, container: Container, node: NodeId, reason: &Arc<str>) -> Container {
        let at = self.state.clock();
        let earlier = container.start_failures.iter().filter(|failure| failure.node != node && failure.counts(at));
        let latest = StartFailure { node, at, reason: Arc::clone(reason) };
        let all: Vec<StartFailure> = earlier.cloned().chain([latest]).collect();
        let start_failures = all[all.len().saturating_sub(StartFailure::KEPT)..].into();
        Container { start_failures, ..container }
    }
}

fn owns(container: &Container, node: NodeId, incarnation: Incarnation, epoch: Epoch) -> bool {
    container.assignment().is_some_and(|assignment| {
        assignment.node == node
            && (assignment.incarnation == incarnation && assignment.epoch == epoch || planted!("stale-report-believed"))
    })
}

/// Whether `node` is asked to get ready for it.
fn is_target(container: &Container, node: NodeId, incarnation: Incarnation, epoch: Epoch) -> bool {
    container.assignment().is_some_and(|assignment| match assignment.order {
        Order::Prepare { target, target_incarnation, .. } => {
            target == node && target_incarnation == incarnation && assignment.epoch == epoch
        }
        _ => false,
    })
}
