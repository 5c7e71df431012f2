//! Lease terms change without a moment at which the members count on less than the guard keeps *(a3)*.

mod bench;

use bench::*;
use cluster::agent::*;
use cluster::*;
use decide::*;

fn want_terms(bench: &mut Bench, revision: u64, profile: Profile) -> Vec<Effect> {
    let set = DesiredSet { terms: profile.terms(), ..bench.set(revision, &[]) };
    bench.push(set)
}

fn named(effects: &[Effect]) -> Vec<LeaseTerms> {
    let heartbeats = effects.iter().filter_map(|effect| match effect {
        Effect::Heartbeat { heartbeat, .. } => Some(heartbeat.terms),
        _ => None,
    });
    heartbeats.collect()
}

#[test]
fn before_shorter_terms_are_named_the_guard_has_them_and_the_deadline_is_within() {
    let mut bench = Bench::leased();
    bench.answers.guard = false;
    let orders = want_terms(&mut bench, 10, Profile::Fast);
    in_order(&orders, &["guard L 1500 K 250", "deadline i5 11500"]);
    assert!(!has(&orders, "journal terms"), "the guard has not shown that it keeps them");
    bench.run(600);
    assert_eq!(named(&bench.take()), [Profile::Default.terms()]);

    bench.answers.disk = false;
    bench.answers.guard = true;
    bench.send(Input::Guard(bench.guardian.slot()));
    bench.run(600);
    let orders = bench.take();
    assert!(has(&orders, "journal terms 1500") && !has(&orders, "in force"), "{:?}", lines(&orders));
    assert_eq!(named(&orders), [Profile::Default.terms()], "not durable: a restart would fall back to longer ones");

    bench.answers.disk = true;
    let written = bench.sync();
    bench.release(written);
    let orders = bench.take();
    assert_eq!(named(&orders), [Profile::Fast.terms()], "at once");
    assert!(!has(&orders, "in force"), "no lease rests on them yet");
    bench.grant();
    assert!(has(&bench.take(), "in force 1500"));
    assert_eq!(bench.agent.lease_end(), Some(ms(11_200 + 1_500)));
}

#[test]
fn acknowledgements_of_the_longer_terms_do_not_reach_beyond_the_shorter_lease_meanwhile() {
    let mut bench = Bench::leased();
    bench.answers.guard = false;
    want_terms(&mut bench, 10, Profile::Fast);
    bench.run(100);
    bench.grant();
    assert_eq!(bench.agent.lease_end(), Some(ms(10_100 + 1_500)));
}

#[test]
fn longer_terms_give_the_guard_its_longer_time_only_when_a_lease_rests_on_them() {
    let mut bench = Bench::leased();
    let late = bench.heartbeat();
    let orders = want_terms(&mut bench, 10, Profile::Relaxed);
    assert!(!has(&orders, "deadline"), "nothing comes nearer");
    in_order(&orders, &["journal terms 10000", "guard L 10000 K 300", "heartbeat i5"]);
    assert_eq!(named(&orders), [Profile::Relaxed.terms()]);
    bench.now = bench.now + Span::millis(100);
    for member in [1, 2, 3] {
        let answer = Answer::Acknowledged(membership(1, &[1, 2, 3]));
        bench.send(Input::Reply(HeartbeatReply { member: MemberId(member), echo: late, answer }));
    }
    assert!(!has(&bench.take(), "guard L 10000 K 5000"), "that was the old terms' acknowledgement");
    bench.grant();
    in_order(&bench.take(), &["deadline i5 20100", "guard L 10000 K 5000", "in force 10000"]);
}

#[test]
fn a_change_called_off_before_it_was_written_leaves_the_old_terms_whole() {
    let mut bench = Bench::leased();
    bench.answers.guard = false;
    want_terms(&mut bench, 10, Profile::Fast);
    want_terms(&mut bench, 11, Profile::Default);
    bench.answers.guard = true;
    bench.send(Input::Guard(bench.guardian.slot()));
    bench.run(600);
    bench.grant();
    assert_eq!(bench.agent.lease_end(), Some(ms(10_600 + 3_000)));
    assert!(!has(&bench.take(), "journal terms"));
    assert_eq!(bench.guardian.slot().kill, Profile::Default.terms().kill);
}

#[test]
fn terms_survive_a_restart_of_the_agent() {
    let mut bench = Bench::leased();
    want_terms(&mut bench, 10, Profile::Fast);
    bench.grant();
    bench.restart();
    assert_eq!(named(&bench.take()), [Profile::Fast.terms()]);
}

#[test]
fn a_new_incarnation_takes_the_terms_it_is_registered_with() {
    let mut bench = Bench::connected();
    bench.take();
    bench.send(Input::FromLeader(ToAgent::Registered {
        generation: Generation::numbered(1),
        incarnation: Incarnation(5),
        revision: Revision(5),
        terms: Profile::Fast.terms(),
    }));
    let orders = bench.take();
    in_order(&orders, &["journal registered i5", "open i5", "guard L 1500 K 250", "heartbeat i5", "in force 1500"]);
    assert_eq!(named(&orders), [Profile::Fast.terms()]);
}
