//! What a node runs: which orders count, which epochs may start, handover, and what is said of it.
//! The claims are the marked rules of safety.md, "Epochs" and "Handover".

mod bench;

use bench::*;
use cluster::agent::*;
use cluster::*;
use decide::*;

#[test]
fn a_desired_set_of_another_time_or_another_life_is_dropped() {
    type Change = fn(&mut DesiredSet);
    let rows: [(&str, Change, bool); 6] = [
        ("another generation", |set| set.generation = Generation::numbered(2), false),
        ("an older incarnation", |set| set.incarnation = Incarnation(4), false),
        ("a newer incarnation", |set| set.incarnation = Incarnation(6), false),
        ("below the registration", |set| set.revision = Revision(4), false),
        ("at the registration", |set| set.revision = Revision(5), true),
        ("above it", |set| set.revision = Revision(10), true),
    ];
    for (what, change, taken) in rows {
        let mut bench = Bench::leased();
        let mut set = bench.set(10, &[item(1, 7, Wanted::Run)]);
        change(&mut set);
        assert_eq!(has(&bench.push(set), "start c1 e7"), taken, "{what}");
    }
}

#[test]
fn a_set_below_the_newest_seen_is_dropped_also_after_a_restart() {
    let mut bench = Bench::leased();
    bench.want(10, &[]);
    assert!(!has(&bench.want(9, &[item(1, 7, Wanted::Run)]), "start"));
    bench.restart();
    assert!(!has(&bench.want(9, &[item(1, 7, Wanted::Run)]), "start"));
    assert!(has(&bench.want(10, &[item(1, 7, Wanted::Run)]), "start"));
}

#[test]
fn the_intent_is_durable_before_the_start_and_the_closing_before_the_word() {
    let mut bench = Bench::leased();
    bench.answers.disk = false;
    assert!(!has(&bench.want(10, &[item(1, 7, Wanted::Run)]), "start"));
    let written = bench.sync();
    bench.release(written);
    in_order(&bench.take(), &["start c1 e7", "journal ran c1 e7", "report c1 e7 running"]);
    bench.happened(1, 7, Happened::Exited { exit: Exit::Code(3) });
    let orders = bench.take();
    in_order(&orders, &["stop c1 e7 0", "journal closed c1 e7: exit code 3"]);
    assert!(!has(&orders, "report c1 e7 closed"), "{:?}", lines(&orders));
    let written = bench.sync();
    bench.release(written);
    assert!(has(&bench.take(), "report c1 e7 closed, exit code 3"));
}

#[test]
fn each_end_closes_the_epoch_by_its_own_word_and_only_when_nothing_is_left() {
    let rows = [
        (Happened::StartFailed { reason: "no room".into() }, "closed, start failed: no room"),
        (Happened::ClaimRefused { reason: "e9 holds it".into() }, "closed, refused: e9 holds it"),
        (Happened::Exited { exit: Exit::Signal(9) }, "closed, signal 9"),
        (Happened::Stopped, "closed, unknown end"),
    ];
    for (what, word) in rows {
        let mut bench = Bench::leased();
        bench.answers.hands = false;
        bench.want(10, &[item(1, 7, Wanted::Run)]);
        bench.take();
        let orders = bench.happened(1, 7, what.clone());
        if what != Happened::Stopped {
            assert_eq!(lines(&orders), ["stop c1 e7 0"], "what it left behind goes first");
            bench.happened(1, 7, Happened::Stopped);
        }
        assert!(has(&bench.orders, &format!("report c1 e7 {word}")), "{:?}", lines(&bench.orders));
        bench.take();
        assert!(!has(&bench.want(11, &[item(1, 7, Wanted::Run)]), "start"), "{word}");
        assert!(has(&bench.want(12, &[item(1, 8, Wanted::Run)]), "start c1 e8"), "the next epoch may");
    }
}

#[test]
fn a_stop_of_an_epoch_never_seen_closes_it_and_everything_below() {
    let mut bench = Bench::leased();
    let orders = bench.want(10, &[item(1, 7, Wanted::Stop)]);
    in_order(&orders, &["journal closed c1 e7: stopped", "report c1 e7 closed, stopped"]);
    bench.restart();
    bench.send(Input::LeaderConnected { member: MemberId(1) });
    bench.take();
    for epoch in [7, 6] {
        let orders = bench.want(11, &[item(1, epoch, Wanted::Run)]);
        assert!(!has(&orders, "journal begun") && !has(&orders, "start"), "e{epoch}: {:?}", lines(&orders));
        assert!(has(&orders, &format!("report c1 e{epoch} closed")), "e{epoch}: {:?}", lines(&orders));
    }
    assert!(has(&bench.want(11, &[item(1, 8, Wanted::Run)]), "start c1 e8"));
}

#[test]
fn once_a_stop_was_seen_the_epoch_never_goes_back() {
    let mut bench = Bench::running();
    bench.answers.hands = false;
    assert_eq!(
        lines(&bench.want(11, &[item(1, 7, Wanted::Stop)])),
        ["journal seen r11", "stop c1 e7 10000", "holding r11", "report c1 e7 stopping"]
    );
    let orders = bench.want(12, &[item(1, 7, Wanted::Run)]);
    assert_eq!(lines(&orders), ["journal seen r12", "holding r12"]);
    bench.happened(1, 7, Happened::Stopped);
    assert!(has(&bench.orders, "report c1 e7 closed, stopped"));
    assert!(!has(&bench.take(), "start"));
}

#[test]
fn what_the_set_does_not_name_is_stopped() {
    let mut bench = Bench::running();
    assert!(has(&bench.want(11, &[]), "stop c1 e7 10000"));
}

#[test]
fn the_next_epoch_starts_only_when_the_one_before_is_closed_on_disk() {
    let mut bench = Bench::running();
    bench.answers.hands = false;
    bench.answers.disk = false;
    bench.want(11, &[item(1, 8, Wanted::Run)]);
    bench.happened(1, 7, Happened::Stopped);
    let orders = bench.take();
    in_order(&orders, &["stop c1 e7 10000", "journal closed c1 e7"]);
    assert!(!has(&orders, "journal begun c1 e8"));
    bench.answers.disk = true;
    let written = bench.sync();
    bench.release(written);
    in_order(&bench.take(), &["journal begun c1 e8", "start c1 e8"]);
}

#[test]
fn an_intent_withdrawn_before_it_was_durable_starts_nothing() {
    let mut bench = Bench::leased();
    bench.answers.disk = false;
    bench.want(10, &[item(1, 7, Wanted::Run)]);
    bench.want(11, &[item(1, 7, Wanted::Stop)]);
    bench.answers.disk = true;
    let written = bench.sync();
    bench.release(written);
    let orders = bench.take();
    assert!(!has(&orders, "start") && !has(&orders, "stop"), "{:?}", lines(&orders));
    assert!(has(&orders, "report c1 e7 closed, stopped"));
}

#[test]
fn the_policy_belongs_to_the_epoch() {
    let mut bench = Bench::running();
    let orders = bench.want(11, &[kept(item(1, 7, Wanted::Run))]);
    assert!(!has(&orders, "stop") && !has(&orders, "start"), "{:?}", lines(&orders));
    assert_eq!(bench.disk.begun(ContainerId(1), Epoch(7)).map(|begun| begun.policy), Some(OnQuorumLoss::Stop));
    bench.run(4_000);
    assert!(bench.tree.is_empty(), "it ends with the lease, as its epoch says");
}

#[test]
fn a_failed_stop_is_tried_again_until_it_succeeds() {
    let mut bench = Bench::running();
    bench.answers.hands = false;
    bench.want(11, &[]);
    bench.happened(1, 7, Happened::StopFailed { reason: "busy".into() });
    bench.take();
    bench.run_leased(900);
    assert!(!has(&bench.orders, "stop"));
    bench.run_leased(100);
    assert!(has(&bench.take(), "stop c1 e7 0"));
    assert!(!bench.disk.is_closed(ContainerId(1), Epoch(7)));
}

#[test]
fn the_target_of_a_handover_prepares_and_starts_only_the_epoch_after() {
    let mut bench = Bench::leased();
    let orders = bench.want(10, &[item(1, 7, Wanted::Prepare)]);
    assert!(has(&orders, "prepare c1 e7") && !has(&orders, "start") && !has(&orders, "journal begun"));
    let orders = bench.happened(1, 7, Happened::Prepared);
    assert_eq!(lines(&orders), ["report c1 e7 prepared"]);
    assert!(!has(&bench.want(11, &[item(1, 7, Wanted::Prepare)]), "prepare"), "once");
    let orders = bench.want(12, &[item(1, 8, Wanted::Run)]);
    assert!(has(&orders, "start c1 e8") && !has(&orders, "unprepare"), "{:?}", lines(&orders));
}

#[test]
fn a_target_goes_on_saying_that_it_is_ready_for_the_same_handover_may_have_been_ordered_again() {
    let mut bench = Bench::leased();
    bench.want(10, &[item(1, 7, Wanted::Prepare)]);
    bench.happened(1, 7, Happened::Prepared);
    bench.run_leased(60_000);
    bench.take();
    // Given up and ordered again between two sets, it is the same set: only the word itself tells the leader.
    bench.run_leased(10_000);
    let said = lines(&bench.take()).iter().filter(|line| *line == "report c1 e7 prepared").count();
    assert!((4..=6).contains(&said), "said {said} times in ten seconds");
}

#[test]
fn a_handover_that_will_not_come_leaves_nothing_behind() {
    for set in [&[][..], &[item(1, 8, Wanted::Stop)], &[item(1, 6, Wanted::Run)]] {
        let mut bench = Bench::leased();
        bench.want(10, &[item(1, 7, Wanted::Prepare)]);
        assert!(has(&bench.want(11, set), "unprepare c1 e7"), "{set:?}");
        bench.take();
        assert!(!has(&bench.happened(1, 7, Happened::Prepared), "report"), "nobody asks any more");
    }
}

#[test]
fn a_target_that_cannot_says_why_and_is_not_asked_twice() {
    let mut bench = Bench::leased();
    bench.want(10, &[item(1, 7, Wanted::Prepare)]);
    let orders = bench.happened(1, 7, Happened::CannotPrepare { reason: "no template".into() });
    assert_eq!(lines(&orders), ["report c1 e7 cannot prepare, no template"]);
    assert!(!has(&bench.want(11, &[item(1, 7, Wanted::Prepare)]), "prepare"));
}

/// In the middle of a handoff the agent dies, and then its lease runs out: what is kept would be adopted by the next
/// incarnation. It stays on its way out all the same, and the way there is on disk before the first step.
#[test]
fn an_end_that_was_begun_of_what_is_kept_outlives_the_agent_and_its_incarnation() {
    let mut bench = Bench::running_as(kept(item(1, 7, Wanted::Run)));
    bench.answers = Answers { hands: false, disk: false, ..Answers::ALL };
    assert!(!has(&bench.want(11, &[kept(item(1, 7, Wanted::Stop))]), "stop"), "the order is not on disk yet");
    bench.answers.disk = true;
    let written = bench.sync();
    bench.release(written);
    in_order(&bench.take(), &["journal stopping c1 e7", "stop c1 e7 10000", "report c1 e7 stopping"]);

    bench.restart();
    bench.send(Input::LeaderConnected { member: MemberId(1) });
    let orders = bench.take();
    assert!(has(&orders, "stop c1 e7 10000") && !has(&orders, "report c1 e7 running"), "{:?}", lines(&orders));
    bench.run(4_000);
    let orders = bench.take();
    assert!(has(&orders, "latch i5") && !has(&orders, "register"), "it has to go first: {:?}", lines(&orders));
    bench.tree.clear();
    bench.happened(1, 7, Happened::Stopped);
    in_order(&bench.take(), &["journal closed c1 e7: stopped", "ended i5 guard", "register ends i5, empty"]);
    bench.register_as(20);
    bench.grant();
    assert!(has(&bench.take(), "report c1 e7 closed, stopped"));
    // Where the state took what is kept over at the epoch it had.
    bench.want(21, &[kept(item(1, 7, Wanted::Run))]);
    bench.run_leased(2_000);
    let orders = bench.take();
    assert!(has(&orders, "report c1 e7 closed, stopped") && !has(&orders, "start"), "{:?}", lines(&orders));
}

#[test]
fn what_was_stopping_and_is_gone_after_a_restart_was_stopped() {
    let mut bench = Bench::running_as(kept(item(1, 7, Wanted::Run)));
    bench.answers.hands = false;
    bench.want(11, &[kept(item(1, 7, Wanted::Stop))]);
    bench.tree.clear();
    bench.restart();
    assert!(has(&bench.take(), "journal closed c1 e7: stopped"), "nobody asked for a restart of it");
}

#[test]
fn the_end_of_an_incarnation_waits_for_no_disk() {
    let mut bench = Bench::running_as(kept(item(1, 7, Wanted::Run)));
    bench.answers = Answers { hands: false, disk: false, ..Answers::ALL };
    bench.want(11, &[]);
    bench.take();
    bench.send(Input::FromLeader(ToAgent::Void { incarnation: Incarnation(5) }));
    assert!(has(&bench.take(), "stop c1 e7 0"));
}

/// A node that lives for years sees many containers come and go: its journal holds those that may still be named.
#[test]
fn a_closed_epoch_is_forgotten_when_no_set_can_name_it_any_more() {
    let mut bench = Bench::running();
    bench.want(11, &[item(1, 7, Wanted::Stop)]);
    bench.want(12, &[item(1, 7, Wanted::Stop), item(2, 1, Wanted::Run)]);
    assert_eq!(bench.disk.closed_epoch(ContainerId(1)), Some(Epoch(7)), "it is still asked for");
    bench.take();
    in_order(&bench.want(13, &[item(2, 1, Wanted::Run)]), &["journal seen r13", "journal forgotten c1"]);
    assert!(bench.disk.closed.is_empty());
    for agent in ["this agent", "the next"] {
        for revision in [10, 11, 12] {
            let orders = bench.want(revision, &[item(1, 7, Wanted::Run)]);
            assert!(!has(&orders, "journal begun") && !has(&orders, "start"), "{agent} at {revision}");
        }
        bench.restart();
    }
    assert!(has(&bench.want(14, &[item(1, 8, Wanted::Run), item(2, 1, Wanted::Run)]), "start c1 e8"));
}

#[test]
fn a_closed_epoch_is_not_forgotten_while_a_later_one_is_still_here() {
    let mut bench = Bench::running();
    bench.want(11, &[item(1, 8, Wanted::Run)]);
    assert_eq!(bench.disk.closed_epoch(ContainerId(1)), Some(Epoch(7)));
    bench.answers.hands = false;
    assert!(!has(&bench.want(12, &[]), "journal forgotten"));
    bench.tree.clear();
    bench.happened(1, 8, Happened::Stopped);
    assert_eq!(bench.disk.closed_epoch(ContainerId(1)), Some(Epoch(8)));
    assert!(has(&bench.want(13, &[]), "journal forgotten c1"));
}

#[test]
fn a_closing_is_said_until_a_newer_set_no_longer_asks_for_it() {
    let mut bench = Bench::running();
    bench.happened(1, 7, Happened::Exited { exit: Exit::Code(0) });
    assert!(has(&bench.take(), "report c1 e7 closed"));
    bench.run_leased(1_000);
    assert!(has(&bench.take(), "report c1 e7 closed"), "it may have been lost");
    bench.want(11, &[item(1, 7, Wanted::Run)]);
    bench.run_leased(2_000);
    assert!(has(&bench.take(), "report c1 e7 closed"), "the set still asks for it");
    bench.want(12, &[item(1, 8, Wanted::Run)]);
    bench.run_leased(10_000);
    assert!(!has(&bench.take(), "report c1 e7"));
}

#[test]
fn everything_is_said_again_to_a_new_leader() {
    let mut bench = Bench::running();
    bench.send(Input::LeaderLost);
    let orders = bench.send(Input::LeaderConnected { member: MemberId(2) });
    assert_eq!(lines(&orders), ["holding r10", "report c1 e7 running", "in force 3000"]);
}

#[test]
fn reports_are_batched_and_wait_for_a_leader() {
    let mut bench = Bench::leased();
    bench.send(Input::LeaderLost);
    bench.want(10, &[item(1, 7, Wanted::Run), item(2, 3, Wanted::Run)]);
    assert!(!has(&bench.take(), "report"));
    let orders = bench.send(Input::LeaderConnected { member: MemberId(2) });
    assert!(has(&orders, "report c1 e7 running; c2 e3 running"), "{:?}", lines(&orders));
}

#[test]
fn a_missing_spec_is_asked_for_and_its_container_waits() {
    let mut bench = Bench::leased();
    let whole = bench.set(10, &[item(1, 7, Wanted::Run), item(2, 3, Wanted::Run)]);
    let thin = DesiredSet { specs: whole.specs[1..].to_vec(), ..whole.clone() };
    let orders = bench.push(thin);
    assert!(has(&orders, "holding r10 c1") && has(&orders, "start c2 e3") && !has(&orders, "start c1"));
    bench.take();
    let rest = DesiredSet { specs: whole.specs[..1].to_vec(), ..whole };
    let orders = bench.push(rest);
    assert!(has(&orders, "start c1 e7"), "{:?}", lines(&orders));
    assert_eq!(lines(&orders)[position(&orders, "holding")], "holding r10");
}

#[test]
fn what_runs_is_left_alone_while_nothing_is_known_of_what_is_wanted() {
    let mut bench = Bench::running();
    bench.restart();
    bench.run_leased(5_000);
    assert!(!has(&bench.take(), "stop"));
}
