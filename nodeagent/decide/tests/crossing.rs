//! A node that is told to serve a later generation of its cluster *(8)*: everything the one before gave it ends first,
//! whatever it was to outlive, and nothing of the one before is heard any more.

mod bench;

use bench::*;
use cluster::agent::*;
use cluster::*;
use decide::*;

const NEXT: Generation = Generation { number: 2, id: 0xfeed };

/// Container 1 runs at epoch 7 under generation 1, kept or not.
fn serving(policy: OnQuorumLoss) -> Bench {
    Bench::running_as(DesiredItem { on_quorum_loss: policy, ..item(1, 7, Wanted::Run) })
}

fn cross(bench: &mut Bench) {
    bench.generation = NEXT;
    bench.restart();
}

#[test]
fn what_runs_ends_before_the_new_generation_is_entered() {
    for policy in [OnQuorumLoss::Stop, OnQuorumLoss::Keep] {
        let mut bench = serving(policy);
        bench.answers.hands = false;
        bench.answers.sweep = false;
        cross(&mut bench);
        bench.send(Input::LeaderConnected { member: MemberId(1) });
        bench.run(5_000);
        let orders = bench.take();
        assert!(!has(&orders, "register") && !has(&orders, "heartbeat"), "{policy:?}: {:?}", lines(&orders));
        bench.answers = Answers::ALL;
        bench.restart();
        bench.run(5_000);
        bench.send(Input::LeaderConnected { member: MemberId(1) });
        bench.run(2_000);
        assert!(bench.tree.is_empty(), "{policy:?}: something of the old generation runs");
        assert!(has(&bench.take(), "register ends i5, empty"), "{policy:?}");
        bench.register_as(1 << 38);
        assert_eq!(bench.agent.journal().generation, NEXT);
        assert!(has(&bench.take(), "heartbeat i274877906944"));
    }
}

/// However often its agent is killed on the way.
#[test]
fn a_crossing_that_was_cut_off_is_taken_up_again() {
    let mut bench = serving(OnQuorumLoss::Keep);
    bench.answers.hands = false;
    bench.generation = NEXT;
    for _ in 0..3 {
        bench.restart();
        bench.run(1_000);
        assert!(!has(&bench.take(), "heartbeat"));
    }
    bench.answers.hands = true;
    bench.restart();
    bench.run(3_000);
    bench.send(Input::LeaderConnected { member: MemberId(1) });
    bench.run(1_000);
    assert!(bench.tree.is_empty() && has(&bench.take(), "register"));
}

#[test]
fn the_word_of_another_generation_is_not_taken() {
    let mut bench = serving(OnQuorumLoss::Stop);
    let old = bench.set(20, &[item(2, 1, Wanted::Run)]);
    cross(&mut bench);
    bench.run(5_000);
    bench.push(old);
    assert!(!has(&bench.take(), "start"), "a set of the generation before");
    bench.send(Input::FromLeader(ToAgent::Registered {
        generation: Generation::numbered(1),
        incarnation: Incarnation(30),
        revision: Revision(30),
        terms: terms(),
    }));
    assert_eq!(bench.agent.standing(), "registering");
    let other = Generation { id: NEXT.id + 1, ..NEXT };
    let (incarnation, revision) = (Incarnation(1 << 38), Revision(1 << 38));
    let registered = ToAgent::Registered { generation: other, incarnation, revision, terms: terms() };
    bench.send(Input::FromLeader(registered));
    assert_eq!(bench.agent.standing(), "registering", "the same number is not the same generation");
}

#[test]
fn a_journal_admits_its_own_generation_and_later_ones() {
    let mut journal = Journal::fresh(BOOT, terms());
    assert!(journal.admits(Generation::numbered(1)).is_ok());
    journal.generation = NEXT;
    assert!(journal.admits(NEXT).is_ok());
    assert!(journal.admits(Generation { number: 3, id: 1 }).is_ok());
    for other in [Generation::numbered(1), Generation::numbered(2), Generation { id: NEXT.id + 1, ..NEXT }] {
        let refused = journal.admits(other).expect_err("it may have been given anything since");
        assert!(refused.to_string().contains(&other.to_string()), "{refused}");
    }
}
