//! The two protocols on which everything rests, as transition systems that are searched to the last state.
//! In: bounds on faults, and which rules of the design are followed. Out: invariants that hold in every reachable state,
//! or the shortest run that breaks one. Each rule is a switch: a model that finds nothing when a rule is left out would
//! prove nothing when it is kept. Absent: the code of the product; the simulator runs that.

pub mod handover;
pub mod lease;

use std::fmt::Debug;
use std::marker::PhantomData;

use stateright::{Checker, Model, Path};

/// The rules of one model.
pub trait Rules: Copy + Debug + 'static {
    const ALL: &'static [Self];

    fn bit(self) -> u32;
}

/// Which rules are followed.
#[derive(Clone, Copy, Debug)]
pub struct RuleSet<R>(u32, PhantomData<R>);

impl<R: Rules> RuleSet<R> {
    pub const fn all() -> RuleSet<R> {
        RuleSet(u32::MAX, PhantomData)
    }

    pub fn without(self, rule: R) -> RuleSet<R> {
        RuleSet(self.0 & !rule.bit(), PhantomData)
    }

    pub fn has(self, rule: R) -> bool {
        self.0 & rule.bit() != 0
    }
}

/// A run of `M`, from its first state on.
pub type Run<M> = Path<<M as Model>::State, <M as Model>::Action>;

/// Gives the same state for all that differ only in names.
pub type Alike<M> = fn(&<M as Model>::State) -> <M as Model>::State;

/// What a search found.
pub struct Searched<M: Model> {
    pub states: usize,
    pub depth: usize,
    /// By invariant: the run that breaks it.
    pub broken: Vec<(&'static str, Run<M>)>,
    /// What should be possible and was never seen.
    pub unseen: Vec<&'static str>,
}

/// Visits every reachable state once, up to what `alike` takes for the same.
pub fn exhaust<M>(model: M, alike: Option<Alike<M>>) -> Searched<M>
where
    M: Model + Send + Sync + Clone + 'static,
    M::State: Clone + Debug + PartialEq + Send + Sync + std::hash::Hash,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let builder = model.clone().checker();
    match alike {
        Some(alike) => found(&model, builder.symmetry_fn(alike).spawn_dfs().join()),
        None => found(&model, builder.spawn_bfs().join()),
    }
}

/// Looks breadth first for one of the invariants `named`, and stops at the first run, which is a shortest one.
pub fn refute<M>(model: M, named: &'static str) -> Searched<M>
where
    M: Model + Send + Sync + Clone + 'static,
    M::State: Clone + Debug + PartialEq + Send + Sync + std::hash::Hash,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let stop = stateright::HasDiscoveries::AnyOf([named].into());
    found(&model, model.clone().checker().finish_when(stop).spawn_bfs().join())
}

fn found<M>(model: &M, checker: impl Checker<M>) -> Searched<M>
where
    M: Model,
    M::State: Clone + Debug + PartialEq + std::hash::Hash,
    M::Action: Clone + Debug + PartialEq,
{
    let mut discoveries = checker.discoveries();
    let mut searched = Searched {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        broken: Vec::new(),
        unseen: Vec::new(),
    };
    for property in model.properties() {
        let run = discoveries.remove(property.name);
        match (&property.expectation, run) {
            (stateright::Expectation::Sometimes, None) => searched.unseen.push(property.name),
            (stateright::Expectation::Sometimes, Some(_)) | (_, None) => {}
            (_, Some(run)) => searched.broken.push((property.name, run)),
        }
    }
    searched
}
