//! Whether some order of concurrent operations, each somewhere between its begin and its end, explains every answer.
//! In: a model, the operations of one object. Out: yes, or the operation that no order explains, or "gave up".
//! Source: Wing and Gong 1993, with the memory of Lowe 2017 (state and set of done operations are visited once), as in
//! Porcupine. A model may leave open what happened: the search carries every state that is possible.

use std::collections::HashSet;
use std::hash::Hash;

use crate::history::Time;

/// What one object may do.
pub trait Model {
    type State: Clone + Eq + Ord + Hash;
    type Call;
    type Reply;

    fn initial() -> Self::State;

    /// Every state the call may leave behind if it is answered so; none if it cannot be answered so. `reply` is `None`
    /// for a call whose answer nobody has: the states in which it has had its effect.
    fn step(state: &Self::State, call: &Self::Call, reply: Option<&Self::Reply>) -> Vec<Self::State>;
}

/// One operation. Without an `answer` it may take effect at any time after `begun`, or never.
pub struct Operand<'a, M: Model> {
    pub call: &'a M::Call,
    pub begun: Time,
    pub answer: Option<(Time, &'a M::Reply)>,
    /// Where the answer claims to stand; tried first, and never believed.
    pub claims: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// `stuck`: the operation, by its place, that stood in the way of the longest order found; `explained`: how many that
    /// order holds.
    Broken {
        stuck: usize,
        explained: usize,
    },
    /// The budget of steps was used up.
    Undecided,
}

/// Judges the operations of one object in at most `budget` steps.
pub fn check<M: Model>(operations: &[Operand<'_, M>], budget: usize) -> Verdict {
    if claimed_order_holds(operations, budget / 8) {
        return Verdict::Linearizable;
    }
    let mut moments = Moments::of(operations);
    let mut open = operations.iter().filter(|operation| operation.answer.is_some()).count();
    let mut states = vec![M::initial()];
    let mut done = vec![0u64; operations.len().div_ceil(64)];
    let mut seen = HashSet::new();
    let mut path: Vec<(usize, Vec<M::State>)> = Vec::new();
    let (mut stuck, mut explained, mut steps) = (0, 0, 0);
    let mut at = moments.first();
    while open > 0 {
        steps += 1;
        if steps > budget {
            return Verdict::Undecided;
        }
        let moment = at.expect("an open operation has its end in the list");
        match moments.what(moment) {
            What::Begin(place) => {
                let operation = &operations[place];
                let reply = operation.answer.map(|(_, reply)| reply);
                let mut after: Vec<_> = states.iter().flat_map(|state| M::step(state, operation.call, reply)).collect();
                after.sort_unstable();
                after.dedup();
                done[place / 64] ^= 1 << (place % 64);
                if !after.is_empty() && seen.insert((done.clone(), after.clone())) {
                    path.push((moment, std::mem::replace(&mut states, after)));
                    open -= usize::from(operation.answer.is_some());
                    moments.lift(moment);
                    at = moments.first();
                } else {
                    done[place / 64] ^= 1 << (place % 64);
                    at = moments.next(moment);
                }
            }
            What::End(place) => {
                if path.len() >= explained {
                    (stuck, explained) = (place, path.len());
                }
                let Some((moment, before)) = path.pop() else { return Verdict::Broken { stuck, explained } };
                let What::Begin(place) = moments.what(moment) else { unreachable!("only begins are lifted") };
                states = before;
                done[place / 64] ^= 1 << (place % 64);
                open += usize::from(operations[place].answer.is_some());
                moments.put_back(moment);
                at = moments.next(moment);
            }
        }
    }
    Verdict::Linearizable
}

/// Whether the order that the answers claim explains them, with operations of unknown outcome put in where they help. Many
/// operations that were under way for long at once have too many orders to be tried without such a hint.
fn claimed_order_holds<M: Model>(operations: &[Operand<'_, M>], budget: usize) -> bool {
    let answered = || operations.iter().filter(|operation| operation.answer.is_some());
    if answered().any(|operation| operation.claims.is_none()) {
        return false;
    }
    let mut order: Vec<&Operand<'_, M>> = answered().collect();
    order.sort_by_key(|operation| (operation.claims, operation.begun));
    let unknown: Vec<&Operand<'_, M>> = operations.iter().filter(|operation| operation.answer.is_none()).collect();
    let mut latest_begin = 0;
    for operation in &order {
        latest_begin = latest_begin.max(operation.begun);
        if operation.answer.is_some_and(|(at, _)| at < latest_begin) {
            return false;
        }
    }
    let mut seen = HashSet::new();
    let mut open = vec![(0, vec![false; unknown.len()], M::initial())];
    for _ in 0..budget {
        let Some((place, used, state)) = open.pop() else { return false };
        let Some(operation) = order.get(place) else { return true };
        // The last pushed is tried first: without anything unknown.
        for (number, inserted) in unknown.iter().enumerate() {
            let ends_first = order[place..].iter().any(|it| it.answer.is_some_and(|(at, _)| at < inserted.begun));
            if used[number] || ends_first {
                continue;
            }
            let mut used = used.clone();
            used[number] = true;
            for state in M::step(&state, inserted.call, None) {
                if seen.insert((place, used.clone(), state.clone())) {
                    open.push((place, used.clone(), state));
                }
            }
        }
        let reply = operation.answer.map(|(_, reply)| reply);
        for state in M::step(&state, operation.call, reply) {
            if seen.insert((place + 1, used.clone(), state.clone())) {
                open.push((place + 1, used.clone(), state));
            }
        }
    }
    false
}

#[derive(Clone, Copy)]
enum What {
    Begin(usize),
    End(usize),
}

/// Begins and ends by time, as a list from which an operation can be taken and put back. Index 0 is the head.
struct Moments {
    what: Vec<What>,
    next: Vec<usize>,
    before: Vec<usize>,
    /// Of a begin: its end; 0 for none.
    end: Vec<usize>,
}

impl Moments {
    fn of<M: Model>(operations: &[Operand<'_, M>]) -> Moments {
        // At one moment begins come before ends: what touches is concurrent.
        let begins = operations.iter().enumerate().map(|(place, it)| (it.begun, 0, place));
        let ends = operations.iter().enumerate().filter_map(|(place, it)| Some((it.answer?.0.max(it.begun), 1, place)));
        let mut order: Vec<(Time, u8, usize)> = begins.chain(ends).collect();
        order.sort_unstable();
        let length = order.len() + 1;
        let mut moments = Moments {
            what: vec![What::Begin(usize::MAX); length],
            next: (1..=length).map(|next| next % length).collect(),
            before: (0..length).map(|place| (place + length - 1) % length).collect(),
            end: vec![0; length],
        };
        let mut begin_of = vec![0; operations.len()];
        for (index, (_, kind, place)) in (1..).zip(order) {
            if kind == 0 {
                moments.what[index] = What::Begin(place);
                begin_of[place] = index;
            } else {
                moments.what[index] = What::End(place);
                moments.end[begin_of[place]] = index;
            }
        }
        moments
    }

    fn what(&self, moment: usize) -> What {
        self.what[moment]
    }

    fn first(&self) -> Option<usize> {
        self.next(0)
    }

    fn next(&self, moment: usize) -> Option<usize> {
        Some(self.next[moment]).filter(|next| *next != 0)
    }

    /// Takes a begin and its end out.
    fn lift(&mut self, moment: usize) {
        for index in [moment, self.end[moment]].into_iter().filter(|index| *index != 0) {
            let (before, next) = (self.before[index], self.next[index]);
            self.next[before] = next;
            self.before[next] = before;
        }
    }

    /// Undoes the latest `lift` that is not undone.
    fn put_back(&mut self, moment: usize) {
        for index in [self.end[moment], moment].into_iter().filter(|index| *index != 0) {
            let (before, next) = (self.before[index], self.next[index]);
            self.next[before] = index;
            self.before[next] = index;
        }
    }
}
