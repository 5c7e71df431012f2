//! Searches both models to the last state: with every rule nothing breaks, and without any one of them something does.
//! Prints the number of states, and with `--nocapture` the shortest run that each missing rule allows.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use models::handover::{self, Handover};
use models::lease::{self, Change, Lease};
use models::{Alike, RuleSet, Rules, exhaust, refute};
use stateright::Model;

/// Every reachable state keeps every invariant, and what should be possible is.
#[track_caller]
fn holds<M>(what: &str, model: M, alike: Option<Alike<M>>)
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: Clone + Debug + PartialEq + Hash + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let began = Instant::now();
    let searched = exhaust(model, alike);
    println!("{what}: {} states, depth {}, {:.1?}", searched.states, searched.depth, began.elapsed());
    if let Some((name, run)) = searched.broken.into_iter().next() {
        let end = run.last_state().clone();
        panic!("{what} breaks {name}: {:#?}, which ends in {end:?}", run.into_actions());
    }
    assert!(searched.unseen.is_empty(), "{what}: never seen: {:?}", searched.unseen);
}

/// Without the rules, `breaks` breaks.
fn bites<M, R>(what: &str, left_out: &[R], model: M, breaks: &'static str) -> Result<(), String>
where
    R: Rules,
    M: Model + Clone + Send + Sync + 'static,
    M::State: Clone + Debug + PartialEq + Hash + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let began = Instant::now();
    let searched = refute(model, breaks);
    println!("{what} without {left_out:?}: {} states, {:.1?}", searched.states, began.elapsed());
    let Some((_, run)) = searched.broken.into_iter().find(|(name, _)| *name == breaks) else {
        return Err(format!("{what}: {breaks} holds without {left_out:?}"));
    };
    for (at, step) in run.into_actions().iter().enumerate() {
        println!("    {:>2} {step:?}", at + 1);
    }
    Ok(())
}

/// Every rule of the model is left out in some case, and every case bites.
#[track_caller]
fn every_rule_bites<R: Rules + PartialEq>(cases: Vec<(Vec<R>, Result<(), String>)>) {
    let idle: Vec<&R> = R::ALL.iter().filter(|rule| !cases.iter().any(|(rules, _)| rules.contains(*rule))).collect();
    let blunt: Vec<&String> = cases.iter().filter_map(|(_, result)| result.as_ref().err()).collect();
    assert!(idle.is_empty() && blunt.is_empty(), "never left out: {idle:?}; {blunt:#?}");
}

// ---- The lease ----

/// Three members that stay, one election, one restart.
const STILL: Lease = Lease {
    rules: RuleSet::all(),
    change: Change::None,
    elections: 1,
    restarts: 1,
    heartbeats: u8::MAX,
    length: 2,
    kill: 1,
    drift: 1,
    slow_disks: false,
    late_replies: false,
    liveness: false,
};

/// One tick of lease, nothing to kill, no drift: for what is about order and not about lengths.
const BRIEF: Lease = Lease { elections: 0, restarts: 0, heartbeats: 2, length: 1, kill: 0, drift: 0, ..STILL };
const MEMBERS: Lease = Lease { change: Change::Members, ..BRIEF };

#[test]
fn a_lease_is_over_before_its_receipt() {
    holds("lease, members that stay", STILL, Some(lease::alike));
}

#[test]
fn a_lease_is_over_before_its_receipt_where_replies_and_disks_are_slow() {
    let slow = Lease { slow_disks: true, late_replies: true, elections: 0, heartbeats: 3, ..STILL };
    holds("lease, slow disks and replies", slow, Some(lease::alike));
}

#[test]
fn a_lease_is_over_before_its_receipt_while_members_change() {
    holds("lease, members change", Lease { length: 2, ..MEMBERS }, Some(lease::alike_but_one));
}

#[test]
fn a_lease_is_over_before_its_receipt_while_terms_change() {
    let terms = |change, elections| Lease { change, elections, restarts: 1, ..BRIEF };
    holds("lease, longer terms, one election", terms(Change::LongerTerms, 1), Some(lease::alike));
    holds("lease, shorter terms", terms(Change::ShorterTerms, 0), Some(lease::alike));
}

#[test]
fn an_open_fencing_and_a_joint_membership_end() {
    let open = Lease { elections: 1, heartbeats: 0, liveness: true, ..MEMBERS };
    holds("lease ends", open, Some(lease::alike_but_one));
}

/// What the young membership's wait, or the refusal, covers as well: nothing breaks without one of these alone.
#[test]
fn some_rules_of_the_lease_are_held_twice() {
    use lease::Rule::*;
    let spare = |rule, bounds: Lease, alike| {
        let model = Lease { rules: bounds.rules.without(rule), ..bounds };
        holds(&format!("lease without {rule:?}"), model, Some(alike));
    };
    spare(UnknownFromVoting, Lease { length: 2, ..MEMBERS }, lease::alike_but_one);
    spare(ChangeAppliedFirst, Lease { length: 2, ..MEMBERS }, lease::alike_but_one);
    spare(QuestionAfterCommit, Lease { elections: 2, ..BRIEF }, lease::alike);
    spare(AnswerNamesFencing, Lease { elections: 2, ..BRIEF }, lease::alike);
}

#[test]
#[ignore = "takes minutes and gigabytes"]
fn further_bounds_of_the_lease() {
    let shorter = Lease { change: Change::ShorterTerms, elections: 1, restarts: 1, ..BRIEF };
    holds("lease, shorter terms, one election", shorter, Some(lease::alike));
    holds("lease, members change, one election", Lease { elections: 1, ..MEMBERS }, Some(lease::alike_but_one));
}

#[test]
fn each_rule_of_the_lease_is_needed() {
    use lease::Rule::*;
    let without = |rules: &[lease::Rule], bounds: Lease, breaks| {
        let model = Lease { rules: rules.iter().fold(bounds.rules, |set, rule| set.without(*rule)), ..bounds };
        (rules.to_vec(), bites("lease", rules, model, breaks))
    };
    let longer = Lease { change: Change::LongerTerms, restarts: 1, ..BRIEF };
    let shorter = Lease { change: Change::ShorterTerms, restarts: 1, ..BRIEF };
    let members = Lease { length: 2, ..MEMBERS };
    let raft = Lease { elections: 1, restarts: 1, heartbeats: 0, ..MEMBERS };
    let open = Lease { elections: 1, heartbeats: 0, liveness: true, ..MEMBERS };
    every_rule_bites(vec![
        without(&[Refusal], BRIEF, "NoAckAfterFencing"),
        without(&[Refusal], BRIEF, "FenceAfterLease"),
        without(&[RefusalBeforeAnswer], BRIEF, "FenceAfterLease"),
        without(&[RefusalDurable], Lease { slow_disks: true, restarts: 1, ..BRIEF }, "FenceAfterLease"),
        without(&[QuestionAfterCommit, AnswerNamesFencing], Lease { elections: 2, ..BRIEF }, "FenceAfterLease"),
        without(&[CaughtUpAfterRestart], longer, "FenceAfterLease"),
        without(&[UnknownFromStart], Lease { restarts: 1, ..BRIEF }, "FenceAfterLease"),
        without(&[UnknownByLongestTerms], shorter, "FenceAfterLease"),
        without(&[WaitCoversKill], Lease { kill: 1, ..BRIEF }, "FenceAfterLease"),
        without(&[WaitCoversDrift], Lease { drift: 1, ..BRIEF }, "FenceAfterLease"),
        without(&[CountedFromSend], Lease { length: 2, heartbeats: 3, late_replies: true, ..BRIEF }, "FenceAfterLease"),
        without(&[Majority], BRIEF, "FenceAfterLease"),
        without(&[LearnersDoNotCount], MEMBERS, "FenceAfterLease"),
        without(&[OneMembership], members, "FenceAfterLease"),
        without(&[MembershipBeneathSnapshot], members, "FenceAfterLease"),
        without(&[YoungMembershipWaits], members, "FenceAfterLease"),
        without(&[CommitWithEntries], raft, "AckDurable"),
        without(&[TermsTightenedFirst], shorter, "FenceAfterLease"),
        without(&[WhoeverLeadsFinishes], open, "NoWedge"),
        without(&[WhoeverLeadsLeavesJoint], open, "NoWedge"),
        without(&[YoungMembershipWaits, UnknownFromVoting, ChangeAppliedFirst], MEMBERS, "FenceAfterLease"),
    ]);
}

// ---- The handover ----

const MOVE: Handover = Handover {
    rules: RuleSet::all(),
    keep: false,
    clone: false,
    placed: true,
    moves: 1,
    faults: 1,
    incarnations: 4,
    epochs: 3,
    late_words: true,
    liveness: false,
};
/// Not placed yet, nothing moves: for what is about registrations and late words.
const PLACE: Handover = Handover { placed: false, moves: 0, incarnations: 4, epochs: 3, ..MOVE };

#[test]
fn one_machine_at_most_runs_it() {
    holds("handover, one fault", MOVE, None);
}

#[test]
fn one_machine_at_most_runs_it_after_two_faults() {
    holds("handover, two faults, no late word", Handover { faults: 2, late_words: false, ..MOVE }, None);
}

#[test]
fn one_machine_at_most_runs_it_where_it_is_kept() {
    holds("handover, kept", Handover { keep: true, epochs: 2, ..MOVE }, None);
}

#[test]
fn one_machine_at_most_runs_it_beside_a_clone() {
    let beside = Handover { clone: true, moves: 0, epochs: 2, ..MOVE };
    holds("handover, a clone and a late word", Handover { faults: 0, ..beside }, None);
    holds("handover, a clone and a fault", Handover { late_words: false, incarnations: 5, ..beside }, None);
}

#[test]
fn every_handover_ends() {
    holds("handover ends", Handover { epochs: 2, liveness: true, ..MOVE }, None);
    holds("handover ends, kept", Handover { epochs: 2, keep: true, late_words: false, liveness: true, ..MOVE }, None);
}

#[test]
#[ignore = "takes minutes and gigabytes"]
fn further_bounds_of_the_handover() {
    holds("handover, two faults", Handover { faults: 2, epochs: 2, incarnations: 3, ..MOVE }, None);
    holds("handover, kept, two faults", Handover { faults: 2, keep: true, late_words: false, ..MOVE }, None);
}

/// What a late set could do is held off by its revision, by its incarnation and by what is closed: nothing breaks without
/// one of these alone.
#[test]
fn some_rules_of_the_handover_are_held_twice() {
    use handover::Rule::*;
    for rule in [SetOfIncarnation, SetNotOlder, NeverSeenIsClosed] {
        let model = Handover { rules: MOVE.rules.without(rule), epochs: 2, ..MOVE };
        holds(&format!("handover without {rule:?}"), model, None);
    }
}

#[test]
fn each_rule_of_the_handover_is_needed() {
    use handover::Rule::*;
    let without = |rules: &[handover::Rule], bounds: Handover, breaks| {
        let model = Handover { rules: rules.iter().fold(bounds.rules, |set, rule| set.without(*rule)), ..bounds };
        (rules.to_vec(), bites("handover", rules, model, breaks))
    };
    let two = Handover { faults: 2, ..PLACE };
    let kept = Handover { keep: true, moves: 0, ..MOVE };
    let ends = Handover { epochs: 2, late_words: false, liveness: true, ..MOVE };
    every_rule_bites(vec![
        without(&[LatchedBeforeSaid], PLACE, "SingleRunner"),
        without(&[LatchKept], Handover { incarnations: 2, ..two }, "SingleRunner"),
        without(&[RegistrationNamesEnded], PLACE, "SingleRunner"),
        without(&[OtherBootWaits], Handover { clone: true, ..kept }, "SingleRunner"),
        without(&[EmptyIsSeen], kept, "SingleRunner"),
        without(&[PolicyOfEpoch], kept, "SingleRunner"),
        without(&[SetOfIncarnation, SetNotOlder], PLACE, "SingleRunner"),
        without(&[NeverSeenIsClosed, SetNotOlder], Handover { moves: 1, ..PLACE }, "SingleRunner"),
        without(&[PreparedWithoutMount], MOVE, "SingleMount"),
        without(&[GoneBeforeSaid], MOVE, "SingleRunner"),
        without(&[ClosedKept], Handover { faults: 2, moves: 0, ..MOVE }, "SingleRunner"),
        without(&[ClosedNeverStarts], MOVE, "SingleRunner"),
        without(&[EpochRises], MOVE, "EpochMonotone"),
        without(&[ReceiptBeforeMove], MOVE, "SingleRunner"),
        without(&[ReportNamesEpoch], Handover { moves: 0, ..MOVE }, "SingleRunner"),
        without(&[StartsUnderLease], Handover { incarnations: 3, ..two }, "SingleRunner"),
        without(&[LostTargetGoesBack], ends, "NoWedge"),
        without(&[KeptIsAdopted], Handover { keep: true, ..ends }, "NoWedge"),
    ]);
}
