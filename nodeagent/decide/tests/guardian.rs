//! The guard's logic: a deadline that passed stays passed, and everything ends within K.

mod bench;

use bench::ms;
use cluster::*;
use decide::*;

const I5: Incarnation = Incarnation(5);

/// Opened for `i5`, L 3 s, K 300 ms, deadline at 2 s.
fn armed() -> Guardian {
    let mut guardian = Guardian::new();
    guardian.handle(ms(0), GuardInput::Terms { lease: Span::millis(3_000), kill: Span::millis(300) });
    guardian.handle(ms(0), GuardInput::Deadline { incarnation: I5, at: None });
    guardian.handle(ms(0), GuardInput::Deadline { incarnation: I5, at: Some(ms(2_000)) });
    guardian
}

#[test]
fn it_asks_to_be_woken_at_the_deadline_and_does_nothing_before() {
    let mut guardian = armed();
    assert_eq!(guardian.handle(ms(1_999), GuardInput::Tick), [GuardEffect::Wake { at: ms(2_000) }]);
    assert!(guardian.handle(ms(2_000), GuardInput::Tick).contains(&GuardEffect::Sweep { incarnation: I5 }));
    assert!(guardian.slot().latched);
}

#[test]
fn a_deadline_that_passed_stays_passed() {
    let mut guardian = armed();
    guardian.handle(ms(2_001), GuardInput::Deadline { incarnation: I5, at: Some(ms(5_000)) });
    assert!(guardian.slot().latched, "it is late already when the agent writes");
    assert_eq!(guardian.slot().deadline, Some(ms(2_000)));
}

#[test]
fn a_deadline_further_away_than_a_lease_is_not_taken() {
    let mut guardian = armed();
    guardian.handle(ms(1_000), GuardInput::Deadline { incarnation: I5, at: Some(ms(4_001)) });
    assert_eq!(guardian.slot().deadline, Some(ms(2_000)));
    guardian.handle(ms(1_000), GuardInput::Deadline { incarnation: I5, at: Some(ms(4_000)) });
    assert_eq!(guardian.slot().deadline, Some(ms(4_000)));
}

#[test]
fn the_end_is_shown_only_when_the_record_is_on_disk_and_sweeping_goes_on() {
    let mut guardian = armed();
    guardian.handle(ms(2_000), GuardInput::Tick);
    assert!(guardian.handle(ms(2_010), GuardInput::Recorded { incarnation: I5 }).len() == 1 && !guardian.slot().ended);
    let effects = guardian.handle(ms(2_010), GuardInput::Emptied { incarnation: I5 });
    assert!(effects.contains(&GuardEffect::Record { incarnation: I5 }) && !guardian.slot().ended);
    guardian.handle(ms(2_020), GuardInput::Recorded { incarnation: I5 });
    assert!(guardian.slot().ended);
    let effects = guardian.handle(ms(3_000), GuardInput::Tick);
    assert!(effects.contains(&GuardEffect::Sweep { incarnation: I5 }), "what is born late dies young");
}

#[test]
fn at_k_it_gives_the_order_of_last_resort_once() {
    let mut guardian = armed();
    let overdue = GuardEffect::Overdue { incarnation: I5 };
    assert!(!guardian.handle(ms(2_299), GuardInput::Tick).contains(&overdue));
    assert!(guardian.handle(ms(2_300), GuardInput::Tick).contains(&overdue), "counted from the deadline");
    assert!(!guardian.handle(ms(2_400), GuardInput::Tick).contains(&overdue));
}

#[test]
fn a_guard_that_starts_without_a_valid_deadline_ends_first() {
    let slot = armed().slot();
    assert!(!Guardian::restarted(slot, ms(1_000)).slot().latched, "a planned restart fences nothing");
    assert!(Guardian::restarted(slot, ms(2_000)).slot().latched);
    assert!(Guardian::restarted(GuardSays { deadline: None, ..slot }, ms(1_000)).slot().latched);
    assert!(!Guardian::restarted(GuardSays::default(), ms(1_000)).slot().latched, "nothing was ever opened");
}

#[test]
fn no_incarnation_comes_back_and_a_new_one_waits_for_the_end_of_the_old() {
    let mut guardian = armed();
    let open = |number| GuardInput::Deadline { incarnation: Incarnation(number), at: None };
    guardian.handle(ms(100), open(9));
    assert_eq!(guardian.slot().incarnation, I5);
    guardian.handle(ms(200), GuardInput::Latch { incarnation: I5 });
    guardian.handle(ms(200), GuardInput::Emptied { incarnation: I5 });
    guardian.handle(ms(200), GuardInput::Recorded { incarnation: I5 });
    guardian.handle(ms(300), open(5));
    assert!(guardian.slot().latched);
    guardian.handle(ms(300), open(9));
    assert_eq!((guardian.slot().incarnation, guardian.slot().latched), (Incarnation(9), false));
    guardian.handle(ms(400), GuardInput::Latch { incarnation: Incarnation(12) });
    assert_eq!(guardian.slot().incarnation, Incarnation(9), "i9 has not ended");
}
