//! What the leader and the machines say to each other. In: what the speaker knows. Out: what the hearer makes of it.
//! Follows `replica/src/leadership/sessions.rs` and `decide/src/{desired,standing}.rs`.

use super::*;

impl Handover {
    pub(super) fn say_somehow(&self, state: &State, word: Word, steps: &mut Vec<Step>) {
        steps.push(Step::Say(word, Fate::Arrives));
        if state.late.is_none() && self.late_words {
            steps.push(Step::Say(word, Fate::Late));
        }
    }

    /// What is said, if there is something to say, with what its author does first.
    pub(super) fn word(&self, state: &mut State, word: Word) -> Option<Message> {
        match word {
            Word::Set(at) => {
                let Node { incarnation, health: Health::Up, .. } = state.nodes[at] else { return None };
                let (wanted, revision) = (Handover::wanted(state, at), state.revision);
                Some(Message::Set { node: at as u8, incarnation, revision, wanted })
            }
            Word::Void(at) => {
                let Node { incarnation, health, .. } = state.nodes[at];
                (health != Health::Up).then_some(Message::Void { node: at as u8, incarnation })
            }
            Word::Register(at) => self.registration(state, at),
            Word::Ended(at) => {
                let machine = &state.machines[at];
                let (node, incarnation) = (node_of(at) as u8, machine.incarnation);
                machine.work.is_none_or(|work| work.keep).then_some(Message::Ended { node, incarnation })
            }
            Word::Closed(at) => self.closing(state, at),
            Word::Prepared(at) => {
                let machine = &mut state.machines[at];
                let Wanted::Prepare { epoch } = machine.wanted else { return None };
                machine.mounted |= machine.lease && !self.on(Rule::PreparedWithoutMount);
                let (node, incarnation) = (node_of(at) as u8, machine.incarnation);
                machine.lease.then_some(Message::Prepared { node, incarnation, epoch })
            }
        }
    }

    pub(super) fn say(&self, state: &mut State, word: Word, fate: Fate) -> bool {
        let before = state.nodes;
        let Some(message) = self.word(state, word) else { return false };
        match (fate, message) {
            (Fate::Late, _) => state.late = Some(message),
            (_, Message::Register { machine, .. }) => {
                let changed = self.hear(state, message);
                let at = node_of(usize::from(machine));
                let Node { incarnation, health, .. } = state.nodes[at];
                let registered = changed && health == Health::Up && incarnation != before[at].incarnation;
                if fate == Fate::Arrives && registered {
                    self.hear(state, Message::Registered { machine, incarnation, revision: state.revision });
                } else if fate == Fate::Arrives && incarnation > state.machines[usize::from(machine)].incarnation {
                    // The state holds another incarnation than the one it would end: that one is to be ended first.
                    let machine = &mut state.machines[usize::from(machine)];
                    (machine.incarnation, machine.life) = (incarnation, Life::Adopted);
                }
            }
            _ => {
                self.hear(state, message);
            }
        }
        true
    }

    pub(super) fn hear(&self, state: &mut State, message: Message) -> bool {
        match message {
            Message::Set { node, incarnation, revision, wanted } => {
                let mut heard = false;
                for at in (0..MACHINES).filter(|at| node_of(*at) == usize::from(node)) {
                    let machine = &mut state.machines[at];
                    let current = machine.incarnation == incarnation || !self.on(Rule::SetOfIncarnation);
                    let newer = machine.revision <= revision || !self.on(Rule::SetNotOlder);
                    if Handover::serves(machine) && current && newer {
                        (machine.wanted, machine.revision) = (wanted, machine.revision.max(revision));
                        machine.mounted &= matches!(wanted, Wanted::Prepare { .. });
                        heard = true;
                    }
                }
                heard
            }
            Message::Void { node, incarnation } => {
                let machine = &mut state.machines[usize::from(node)];
                if !Handover::serves(machine) || machine.incarnation != incarnation {
                    return false;
                }
                Handover::latch(machine);
                if let Some(work) = machine.work.as_mut().filter(|work| work.phase == Phase::Runs) {
                    work.phase = Phase::Stopping;
                }
                true
            }
            Message::Registered { machine, incarnation, revision } => {
                let machine = &mut state.machines[usize::from(machine)];
                let asks = machine.on && matches!(machine.life, Life::Ended | Life::Lost | Life::Adopted);
                if !asks || incarnation <= machine.incarnation {
                    return false;
                }
                let wanted = Wanted::Unknown;
                *machine = Machine { incarnation, revision, life: Life::Current, wanted, lease: false, ..*machine };
                true
            }
            Message::Register { machine, ends, boot, empty } => {
                let changed = self.register(state, machine, ends, boot, empty);
                state.revision += u8::from(changed);
                changed
            }
            Message::Ended { node, incarnation } => {
                let Node { incarnation: current, health, .. } = state.nodes[usize::from(node)];
                if incarnation != current || !matches!(health, Health::Up | Health::Fencing) {
                    return false;
                }
                self.fence(state, usize::from(node), false);
                state.revision += 1;
                true
            }
            Message::Closed { node, incarnation, epoch } => {
                let current = Handover::current(state, node) == Some(incarnation);
                let changed = current && self.closed(state, node, incarnation, epoch);
                state.revision += u8::from(changed);
                changed
            }
            Message::Prepared { node, incarnation, epoch } => {
                let current = Handover::current(state, node) == Some(incarnation);
                let changed = current && Handover::prepared(state, node, incarnation, epoch);
                state.revision += u8::from(changed);
                changed
            }
        }
    }

    pub(super) fn closing(&self, state: &mut State, at: usize) -> Option<Message> {
        let machine = &mut state.machines[at];
        if !Handover::serves(machine) {
            return None;
        }
        let (node, incarnation) = (node_of(at) as u8, machine.incarnation);
        let epoch = match (machine.wanted, machine.work) {
            (_, Some(work)) => work.epoch,
            (Wanted::Stop { epoch }, None) => {
                if self.on(Rule::NeverSeenIsClosed) {
                    machine.closed = machine.closed.max(epoch);
                }
                epoch
            }
            (Wanted::Run { epoch, .. }, None) if epoch <= machine.closed => epoch,
            _ => return None,
        };
        Some(Message::Closed { node, incarnation, epoch })
    }

    pub(super) fn registration(&self, state: &State, at: usize) -> Option<Message> {
        let machine = &state.machines[at];
        let gone = machine.work.is_none() || !self.on(Rule::EmptyIsSeen);
        let empty = machine.life != Life::Lost && gone;
        // What it does not keep has to be gone in any case.
        let may = machine.work.is_none_or(|work| work.keep) || !self.on(Rule::EmptyIsSeen);
        let register = Message::Register { machine: at as u8, ends: machine.incarnation, boot: machine.boot, empty };
        may.then_some(register)
    }
}
