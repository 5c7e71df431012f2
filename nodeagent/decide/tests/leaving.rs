//! How a node leaves: everything ends first, then one word, and nothing after it.

mod bench;

use bench::*;
use cluster::agent::*;
use cluster::*;
use decide::*;

#[test]
fn who_leaves_stops_everything_latches_and_only_then_says_so() {
    let mut bench = Bench::running_as(kept(item(1, 7, Wanted::Run)));
    bench.answers.hands = false;
    bench.send(Input::Leave);
    assert_eq!(lines(&bench.take()), ["journal stopping c1 e7", "stop c1 e7 10000", "report c1 e7 stopping"]);
    assert!(!has(&bench.want(11, &[item(2, 1, Wanted::Run)]), "journal begun"), "nothing starts any more");
    bench.run_leased(2_000);
    assert!(has(&bench.take(), "heartbeat"), "the lease is kept while it stops");
    bench.tree.clear();
    bench.happened(1, 7, Happened::Stopped);
    bench.run(100);
    let orders = bench.take();
    in_order(
        &orders,
        &["journal closed c1 e7", "journal latched i5", "latch i5", "look", "journal over i5 left", "ended i5 left"],
    );
    assert!(!has(&orders, "report"), "closings would be answered by new starts here");
    assert!(!has(&orders, "register") && !has(&orders, "farewell"));
    bench.run(1_000);
    assert!(has(&bench.take(), "ended i5 left"), "said until the leader knows");
    let orders = bench.send(Input::FromLeader(ToAgent::Void { incarnation: Incarnation(5) }));
    assert_eq!(lines(&orders), ["farewell"]);
    bench.take();
    bench.run(5_000);
    assert_eq!(lines(&bench.take()), Vec::<String>::new());
}

#[test]
fn a_node_that_left_registers_when_it_is_started_again() {
    let mut bench = Bench::leased();
    bench.send(Input::Leave);
    bench.run(100);
    bench.restart();
    bench.send(Input::LeaderConnected { member: MemberId(1) });
    in_order(&bench.take(), &["ended i5 left", "register ends i5, empty"]);
}

#[test]
fn who_was_never_registered_leaves_at_once() {
    let mut bench = Bench::fresh();
    bench.start();
    bench.take();
    assert_eq!(lines(&bench.send(Input::Leave)), ["farewell"]);

    let mut bench = Bench::connected();
    bench.take();
    assert_eq!(lines(&bench.send(Input::Leave)), Vec::<String>::new(), "it has asked to be");
    let refusal = ToAgent::NotRegistered { current: Incarnation(0), reason: "no".into() };
    assert_eq!(lines(&bench.send(Input::FromLeader(refusal))), ["farewell"]);
}

#[test]
fn a_lease_that_ends_while_leaving_still_ends_in_having_left() {
    let mut bench = Bench::running_as(kept(item(1, 7, Wanted::Run)));
    bench.answers.hands = false;
    bench.send(Input::Leave);
    bench.run(4_000);
    assert!(!has(&bench.orders, "ended"));
    bench.tree.clear();
    bench.happened(1, 7, Happened::Stopped);
    in_order(&bench.take(), &["journal latched i5", "journal closed c1 e7", "journal over i5 left", "ended i5 left"]);
}

/// The registration had been taken, and nobody told the agent: it repeated the end of the incarnation before for ever.
#[test]
fn who_leaves_while_a_registration_is_under_way_first_hears_what_became_of_it() {
    let mut bench = Bench::leased();
    bench.run(4_000);
    assert!(has(&bench.take(), "register ends i5, empty"));
    bench.send(Input::Leave);
    bench.run(1_000);
    let orders = bench.take();
    assert!(has(&orders, "register ends i5, empty") && !has(&orders, "farewell"), "{:?}", lines(&orders));
    bench.register_as(9);
    bench.run(100);
    in_order(&bench.take(), &["journal registered i9", "latch i9", "look", "journal over i9 left", "ended i9 left"]);
    assert_eq!(lines(&bench.send(Input::FromLeader(ToAgent::Void { incarnation: Incarnation(9) }))), ["farewell"]);
}

#[test]
fn who_leaves_after_a_registration_was_refused_leaves_at_once() {
    let mut bench = Bench::leased();
    bench.run(4_000);
    bench.send(Input::FromLeader(ToAgent::NotRegistered { current: Incarnation(5), reason: "fencing".into() }));
    bench.take();
    bench.send(Input::Leave);
    let orders = bench.take();
    assert!(has(&orders, "ended i5 left") && !has(&orders, "register"), "{:?}", lines(&orders));
}

#[test]
fn what_was_kept_beyond_the_lease_is_stopped_before_its_node_has_left() {
    for connected in [false, true] {
        let mut bench = Bench::running_as(kept(item(1, 7, Wanted::Run)));
        bench.send(Input::LeaderLost);
        bench.run(4_000);
        assert_eq!((bench.agent.standing(), bench.tree.len()), ("registering", 1));
        if connected {
            bench.send(Input::LeaderConnected { member: MemberId(1) });
        }
        bench.take();
        bench.send(Input::Leave);
        in_order(&bench.take(), &["journal stopping c1 e7", "stop c1 e7 0", "journal closed c1 e7"]);
        assert!(bench.tree.is_empty(), "whether anybody answers or not");
        let refusal = ToAgent::NotRegistered { current: Incarnation(5), reason: "fencing".into() };
        if connected {
            bench.send(Input::FromLeader(refusal));
        } else {
            bench.send(Input::LeaderConnected { member: MemberId(1) });
        }
        bench.run(100);
        let orders = bench.take();
        in_order(&orders, &["ended i5 left"]);
        assert!(!has(&orders, "farewell"), "{:?}", lines(&orders));
    }
}

/// Its disk is a copy: the original may keep what this one does not see.
#[test]
fn who_leaves_under_another_boot_claims_no_more_than_the_guard_recorded() {
    let mut bench = Bench::running_as(kept(item(1, 7, Wanted::Run)));
    bench.run(4_000);
    bench.send(Input::LeaderLost);
    bench.boot = BootId(0xb008);
    bench.guardian = Guardian::new();
    bench.tree.clear();
    bench.restart();
    bench.send(Input::Leave);
    bench.send(Input::LeaderConnected { member: MemberId(1) });
    bench.run(100);
    let orders = bench.take();
    assert!(!has(&orders, "ended i5 left") && !has(&orders, "journal over i5 left"), "{:?}", lines(&orders));
}
