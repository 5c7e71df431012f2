//! What really runs: the hands of the kernel and of helpers, which outlive the agent and end with the boot.
//! In: orders to claim, run, end and unmount, each at its time. Out: starts and ends in god's time, and word to the agent.

use cluster::{ContainerId, Epoch, NodeId};
use decide::Happened;

use crate::sim::agents::START;
use crate::sim::checks::Runner;
use crate::sim::clock::MS;
use crate::sim::happenings::{Act, Happening, ToNode};
use crate::sim::host::{Work, WorkPhase};
use crate::sim::net::Site;
use crate::sim::transcript::{Line, Show};
use crate::sim::world::World;
impl World {
    pub(crate) fn hands(&mut self, id: NodeId, boot: u128, act: Act) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id).filter(|node| self.machines[&node.site].boot.0 == boot) else {
            return self.counts.void += 1;
        };
        self.counts.handled += 1;
        let (life, site) = (node.life, node.site);
        let tell = |container, epoch, what| Happening::Node {
            node: id,
            life,
            what: ToNode::Happened { container, epoch, what: Box::new(what) },
        };
        match act {
            Act::Claim { container, epoch } => {
                let Some(work) = node.works.get(&(container, epoch)).filter(|work| work.phase == WorkPhase::Starting)
                else {
                    return;
                };
                let mine = (epoch, id, (u128::from(work.incarnation.0) << 64) ^ boot);
                let held = self.claims.get(&container).copied();
                if held.is_some_and(|held| held.0 > epoch || held.0 == epoch && held != mine) {
                    node.works.remove(&(container, epoch));
                    *self.counts.transitions.entry("claim refused").or_default() += 1;
                    let reason = format!("the claim says {held:?}").into();
                    return self.after(MS, tell(container, epoch, Happened::ClaimRefused { reason }));
                }
                self.claims.insert(container, mine);
                let took = self.runtime_jitter(START);
                self.after(took, Happening::Hands { node: id, boot, act: Act::Run { container, epoch } });
            }
            Act::Run { container, epoch } => {
                let Some(work) =
                    node.works.get_mut(&(container, epoch)).filter(|work| work.phase == WorkPhase::Starting)
                else {
                    return;
                };
                work.phase = WorkPhase::Alive;
                let lies = now < node.lying_until;
                let Work { incarnation, policy, .. } = *work;
                let boot = self.machines[&site].boot;
                let runner = Runner { site, node: id, boot, incarnation, epoch, policy, since: now };
                self.judge_begin(id, container, epoch, policy);
                let machines = &self.machines;
                self.checks.begins(now, container, runner, |site| machines[&site].standing(now));
                self.note_run(id, container, epoch, "runs");
                let said = match lies {
                    true => Happened::StartFailed { reason: "so says the runtime".into() },
                    false => Happened::Started,
                };
                self.after(MS, tell(container, epoch, said));
            }
            Act::End { container, epoch } => {
                let Some(work) = node.works.get_mut(&(container, epoch)) else { return };
                if work.phase == WorkPhase::Starting {
                    node.works.remove(&(container, epoch));
                    let reason = "its helper was killed".into();
                    return self.after(MS, tell(container, epoch, Happened::StartFailed { reason }));
                }
                if work.phase != WorkPhase::Alive {
                    return;
                }
                work.phase = WorkPhase::Remains;
                let standing = self.machines[&site].standing(now);
                self.checks.ends(now, container, epoch, id, Some(standing));
                self.note_run(id, container, epoch, "ends");
                let what = match self.nodes[&id].guard {
                    Some(_) => Happened::Exited { exit: cluster::Exit::Signal(9) },
                    None => Happened::EndedWithGuard,
                };
                self.after(MS, tell(container, epoch, what));
            }
            Act::Gone { container, epoch, tell: asked } => {
                node.works.remove(&(container, epoch));
                if asked {
                    self.after(MS, tell(container, epoch, Happened::Stopped));
                }
            }
            Act::Prepared { container, epoch } => self.after(MS, tell(container, epoch, Happened::Prepared)),
        }
    }

    pub(crate) fn runtime_jitter(&mut self, about: u64) -> u64 {
        about / 2 + self.runtime_chance.below(about + 1)
    }

    /// Some container there ends by itself.
    pub(crate) fn exit_one(&mut self, site: Site, code: i32) -> bool {
        let Some(id) = self.machines.get(&site).and_then(|machine| machine.node) else { return false };
        let now = self.now;
        let pick = self.runtime_chance.draw() as usize;
        let node = self.nodes.get_mut(&id).expect("the machine has it");
        let life = node.life;
        let alive: Vec<_> =
            node.works.iter().filter(|(_, work)| work.phase == WorkPhase::Alive).map(|(key, _)| *key).collect();
        if alive.is_empty() {
            return false;
        }
        let (container, epoch) = alive[pick % alive.len()];
        node.works.get_mut(&(container, epoch)).expect("just seen").phase = WorkPhase::Remains;
        let standing = self.machines[&site].standing(now);
        self.checks.ends(now, container, epoch, id, Some(standing));
        self.note_run(id, container, epoch, "exits");
        let what = Box::new(Happened::Exited { exit: cluster::Exit::Code(code) });
        self.after(MS, Happening::Node { node: id, life, what: ToNode::Happened { container, epoch, what } });
        true
    }

    pub(crate) fn note_run(&mut self, node: NodeId, container: ContainerId, epoch: Epoch, what: &str) {
        if self.transcript.wants(Show::Runs) {
            let name =
                self.newest.container(container).map_or_else(|| container.to_string(), |c| c.spec.name.to_string());
            self.note(Line { show: Show::Runs, text: format!("{name} {epoch} {what} on {node}") });
        }
    }
}
