//! Guards in the world: what reaches a `Guardian`, and what it kills.
//! In: wakes, what the agent writes into the slot. Out: ends of containers, reboots, the slot as the agent sees it.

use cluster::{Incarnation, NodeId, OnQuorumLoss};
use decide::{GuardEffect, GuardInput, GuardSays, Guardian};
use planted::planted;

use crate::sim::agents::{KILL, UNMOUNT};
use crate::sim::clock::{MS, SECOND};
use crate::sim::happenings::{Act, Happening, ToGuard, ToNode};
use crate::sim::host::{Work, WorkPhase};
use crate::sim::transcript::{Line, Show};
use crate::sim::world::World;
impl World {
    pub(crate) fn guard_event(&mut self, id: NodeId, life: u32, what: ToGuard) {
        let Some(node) = self.nodes.get(&id).filter(|node| node.guard.is_some() && node.guard_life == life) else {
            return self.counts.void += 1;
        };
        self.counts.handled += 1;
        match what {
            ToGuard::Wake { number } if number != node.guard_wake => {}
            ToGuard::Wake { .. } => self.guard_input(id, GuardInput::Tick),
            ToGuard::Emptied { incarnation } => self.guard_input(id, GuardInput::Emptied { incarnation }),
            ToGuard::Recorded { incarnation } => self.guard_input(id, GuardInput::Recorded { incarnation }),
        }
    }

    pub(crate) fn guard_input(&mut self, id: NodeId, input: GuardInput) {
        let node = self.nodes.get_mut(&id).expect("it has a guard");
        let (site, life) = (node.site, node.guard_life);
        let clock = self.machines[&site].clock;
        // Of the process this stands for, `guard/src/sys.rs` reads the clock.
        let wrong_clock = planted!("guard-reads-the-wrong-clock");
        let now = if wrong_clock { clock.monotonic(self.now) } else { clock.lease(self.now) };
        let Some(guard) = &mut node.guard else {
            // Nobody watches the slot; it keeps what the agent writes, for the next guard to find.
            let mut shared = Guardian::restarted(node.slot, now);
            shared.handle(now, input);
            node.slot = GuardSays { alive: false, ..shared.slot() };
            return;
        };
        let was_latched = guard.slot().latched;
        let effects = guard.handle(now, input);
        self.counts.coverage.slot(&node.slot, &guard.slot());
        node.slot = guard.slot();
        if !was_latched && node.slot.latched {
            let incarnation = node.slot.incarnation;
            *self.counts.transitions.entry("guard latched").or_default() += 1;
            if self.transcript.wants(Show::Guards) {
                self.note(Line { show: Show::Guards, text: format!("guard of {id} ends {incarnation}") });
            }
        }
        for effect in effects {
            match effect {
                GuardEffect::Sweep { incarnation } => self.guard_sweeps(id, incarnation),
                GuardEffect::Record { incarnation } => {
                    let took = self.jitter(2 * MS);
                    let what = ToGuard::Recorded { incarnation };
                    self.after(took, Happening::Guard { node: id, life, what });
                }
                GuardEffect::Overdue { .. } => {
                    self.judge_reboot(id);
                    *self.counts.transitions.entry("guard rebooted the machine").or_default() += 1;
                    self.power_off(site);
                    return self.after(3 * SECOND, Happening::Booted { site });
                }
                GuardEffect::Show(slot) => self.show_slot(id, slot),
                GuardEffect::Wake { at } => {
                    let Some(node) = self.nodes.get_mut(&id) else { return };
                    node.guard_wake += 1;
                    let number = node.guard_wake;
                    let at = if wrong_clock { at + clock.lease(self.now).since(now) } else { at };
                    self.at(clock.when(at), Happening::Guard { node: id, life, what: ToGuard::Wake { number } });
                }
            }
        }
    }

    /// Kills what is in the `stop` tree of the incarnation; says so once nothing is left.
    fn guard_sweeps(&mut self, id: NodeId, incarnation: Incarnation) {
        let node = self.nodes.get_mut(&id).expect("it has a guard");
        let life = node.guard_life;
        let boot = self.machines[&node.site].boot.0;
        let hung = node.hung_until.saturating_sub(self.now);
        let of_it = |work: &Work| work.policy == OnQuorumLoss::Stop && work.incarnation <= incarnation;
        node.works.retain(|_, work| !(of_it(work) && work.phase == WorkPhase::Starting));
        let left: Vec<_> = node.works.iter().filter(|(_, work)| of_it(work)).map(|(key, _)| *key).collect();
        if left.is_empty() {
            let what = ToGuard::Emptied { incarnation };
            return self.after(MS, Happening::Guard { node: id, life, what });
        }
        for (container, epoch) in left {
            let took = self.runtime_jitter(KILL).max(hung);
            self.after(took, Happening::Hands { node: id, boot, act: Act::End { container, epoch } });
            let unmounted = took + self.runtime_jitter(UNMOUNT);
            self.after(
                unmounted,
                Happening::Hands { node: id, boot, act: Act::Gone { container, epoch, tell: false } },
            );
        }
    }

    pub(crate) fn show_slot(&mut self, id: NodeId, slot: GuardSays) {
        let Some(node) = self.nodes.get(&id).filter(|node| node.agent.is_some()) else { return };
        self.after(MS / 10, Happening::Node { node: id, life: node.life, what: ToNode::Slot(slot) });
    }
}
