//! What a node finds reaches the leader: at once, not too often, whole to whoever leads next and as whoever registers next.

mod bench;

use std::collections::BTreeMap;
use std::sync::Arc;

use bench::*;
use cluster::agent::*;
use cluster::*;
use decide::*;

fn shared() -> Name {
    Name::new("shared").expect("a good name")
}

fn found(fault: &str) -> Input {
    let finding = StorageFinding { fault: fault.into(), ..StorageFinding::default() };
    Input::Finds(Arc::new(NodeReport {
        storages: Arc::new(BTreeMap::from([(shared(), finding)])),
        ..NodeReport::default()
    }))
}

fn finds(effects: &[Effect]) -> Vec<String> {
    lines(effects).into_iter().filter(|line| line.starts_with("finds")).collect()
}

#[test]
fn first_finding_is_said_at_once_and_the_next_after_a_pause_and_only_the_newest() {
    let mut bench = Bench::leased();
    assert_eq!(finds(&bench.send(found(""))), ["finds i5 shared well"]);
    bench.run_leased(500);
    bench.take();
    assert_eq!(finds(&bench.send(found("gone"))), [""; 0], "too soon");
    assert_eq!(finds(&bench.send(found("hangs"))), [""; 0]);
    bench.run_leased(2_400);
    assert_eq!(finds(&bench.take()), [""; 0]);
    bench.run_leased(200);
    assert_eq!(finds(&bench.take()), ["finds i5 shared hangs"]);
}

#[test]
fn what_was_found_is_repeated_ever_more_slowly_for_it_may_be_lost_with_any_leader() {
    let mut bench = Bench::leased();
    bench.send(found(""));
    bench.take();
    bench.run_leased(60_000);
    assert_eq!(finds(&bench.take()).len(), 5, "after 1, 3, 7, 15 and 31 s");
    assert_eq!(finds(&bench.send(found(""))), [""; 0], "nothing changed");
}

#[test]
fn next_leader_and_next_incarnation_are_told_in_full() {
    let mut bench = Bench::leased();
    bench.send(found("gone"));
    bench.run_leased(200);
    bench.take();
    bench.send(Input::LeaderLost);
    assert_eq!(finds(&bench.send(Input::LeaderConnected { member: MemberId(2) })), ["finds i5 shared gone"]);
    bench.take();
    bench.send(Input::FromLeader(ToAgent::Void { incarnation: Incarnation(5) }));
    assert_eq!(finds(&bench.send(found("hangs"))), [""; 0], "an incarnation that ends says nothing more");
    bench.run(2_000);
    assert_eq!(finds(&bench.take()), [""; 0]);
    assert_eq!(finds(&bench.register_as(9)), ["finds i9 shared hangs"]);
}

#[test]
fn watch_of_an_accepted_set_is_ordered_when_it_is_new() {
    let mut bench = Bench::leased();
    let kind = StorageKind::Directory { path: "/srv".into() };
    let storage = Arc::new(Storage { name: shared(), kind, registered: Revision(2) });
    let watch = Arc::new(Watch { storages: vec![storage], ..Watch::default() });
    let set = |bench: &Bench, revision| DesiredSet { watch: watch.clone(), ..bench.set(revision, &[]) };
    let first = set(&bench, 10);
    assert!(has(&bench.push(first), "watch shared"));
    let same = set(&bench, 11);
    assert!(!has(&bench.push(same), "watch"));
    let older = DesiredSet { watch: Arc::default(), ..bench.set(9, &[]) };
    assert!(!has(&bench.push(older), "watch"), "an older set counts for nothing");
    let none = bench.set(12, &[]);
    assert!(has(&bench.push(none), "watch"));
}
