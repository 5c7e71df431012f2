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

    /// Whether `call` may rather be answered so in `after` than in `before`; false only if that is certain. Spares the
    /// search effects that explain nothing.
    fn helps(before: &Self::State, after: &Self::State, _call: &Self::Call, _reply: &Self::Reply) -> bool {
        before != after
    }
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

/// Whether the order that the answers claim explains them, with operations of unknown outcome put in where an answer
/// cannot be explained without. Many operations that were under way for long at once have too many orders to be tried
/// without such a hint. An effect that nobody answered for is put in as late as it may be: before what it explains, for
/// what comes between either does not see it or undoes it.
fn claimed_order_holds<M: Model>(operations: &[Operand<'_, M>], budget: usize) -> bool {
    let mut order = Vec::with_capacity(operations.len());
    for operation in operations {
        if let Some((at, reply)) = operation.answer {
            let Some(claims) = operation.claims else { return false };
            order.push((claims, operation.begun, at, operation.call, reply));
        }
    }
    order.sort_by_key(|(claims, begun, ..)| (*claims, *begun));
    let mut latest_begin = 0;
    for (_, begun, at, ..) in &order {
        latest_begin = latest_begin.max(*begun);
        if *at < latest_begin {
            return false;
        }
    }
    let mut unknown: Vec<&Operand<'_, M>> = operations.iter().filter(|operation| operation.answer.is_none()).collect();
    unknown.sort_by_key(|operation| operation.begun);
    // The earliest end from a place on: what begins after it cannot stand before that place.
    let mut horizon = vec![Time::MAX; order.len() + 1];
    for (place, (_, _, at, ..)) in order.iter().enumerate().rev() {
        horizon[place] = horizon[place + 1].min(*at);
    }
    let mut seen = HashSet::new();
    let mut open = vec![(0, vec![false; unknown.len()], M::initial())];
    let mut steps = 0;
    while let Some((mut place, used, mut state)) = open.pop() {
        loop {
            steps += 1;
            if steps > budget {
                return false;
            }
            let Some((_, _, _, call, reply)) = order.get(place) else { return true };
            let mut after = M::step(&state, call, Some(reply));
            let Some(next) = after.pop() else { break };
            for other in after {
                if seen.insert((place + 1, used.clone(), other.clone())) {
                    open.push((place + 1, used.clone(), other));
                }
            }
            (place, state) = (place + 1, next);
        }
        let Some((_, _, _, call, reply)) = order.get(place) else { return true };
        let may_stand_here = unknown.partition_point(|operation| operation.begun <= horizon[place]);
        for (number, inserted) in unknown[..may_stand_here].iter().enumerate().filter(|(number, _)| !used[*number]) {
            for after in M::step(&state, inserted.call, None) {
                let mut used = used.clone();
                used[number] = true;
                if M::helps(&state, &after, call, reply) && seen.insert((place, used.clone(), after.clone())) {
                    open.push((place, used, after));
                }
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
