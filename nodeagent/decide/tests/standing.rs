//! Which incarnation a node is and when it is over: registration, latch, guard, restart.
//! The claims are the marked rules of safety.md, "Quorum leases" 1 to 7; each was once shown to matter by an execution.

mod bench;

use bench::*;
use cluster::agent::*;
use cluster::command::Registration;
use cluster::*;
use decide::*;

#[test]
fn a_fresh_node_registers_ending_nothing() {
    let mut bench = Bench::connected();
    assert_eq!(
        lines(&bench.take()),
        ["look", "seek", "look", "register ends i0, empty"],
        "the second look is the proof of emptiness"
    );
}

#[test]
fn class_that_changed_is_told_while_the_incarnation_serves_and_while_it_ends() {
    let with = |class| Box::new(NodeFacts { class, class_reason: "an end overran".into(), ..facts() });
    let mut bench = Bench::leased();
    assert!(!has(&bench.send(Input::Facts(with(FencingClass::F1))), "class"), "the registration said so");
    assert_eq!(lines(&bench.send(Input::Facts(with(FencingClass::F0)))), ["class F0"]);
    assert!(
        !has(&bench.send(Input::Facts(with(FencingClass::F0))), "class"),
        "another reason alone is told with it later"
    );
    bench.run_leased(1_200);
    assert!(has(&bench.take(), "class F0"), "it may have been lost");
    bench.send(Input::LeaderLost);
    assert!(has(&bench.send(Input::LeaderConnected { member: MemberId(2) }), "class F0"), "another leader listens");
    assert_eq!(lines(&bench.send(Input::Facts(with(FencingClass::F1)))), ["class F1"]);

    // An end that overruns: the guard has not recorded it, and the class falls meanwhile.
    bench.answers.sweep = false;
    bench.send(Input::FromLeader(ToAgent::Void { incarnation: Incarnation(5) }));
    bench.take();
    assert_eq!(lines(&bench.send(Input::Facts(with(FencingClass::F0)))), ["class F0"]);

    // The agent that takes over cannot know what the one before it registered.
    let mut bench = Bench::leased();
    bench.restart();
    let mut said = bench.send(Input::LeaderConnected { member: MemberId(1) });
    said.extend(bench.take());
    assert!(has(&said, "class F1"), "{:?}", lines(&said));
}

#[test]
fn nothing_is_said_before_the_guard_has_spoken_and_what_runs_was_seen() {
    for (guard, look) in [(false, false), (true, false), (false, true)] {
        let mut bench = Bench::leased();
        bench.answers.look = look;
        bench.restart_without_word();
        if guard {
            bench.send(Input::Guard(bench.guardian.slot()));
        }
        bench.send(Input::LeaderConnected { member: MemberId(1) });
        bench.run(1_000);
        let orders = bench.take();
        assert!(!has(&orders, "heartbeat") && !has(&orders, "holding"), "{:?}", lines(&orders));
    }
}

impl Bench {
    fn restart_without_word(&mut self) {
        self.answers.guard = false;
        let config = Config {
            node: NODE,
            generation: self.generation,
            boot: self.boot,
            run: AgentRun(2),
            facts: facts(),
            guard_found: true,
        };
        self.agent = Agent::new(config, self.disk.clone());
        self.take();
        self.send(Input::Tick);
    }
}

#[test]
fn registration_grants_no_lease_and_nothing_starts_without_one() {
    let mut bench = Bench::registered();
    let orders = bench.want(10, &[item(1, 7, Wanted::Run)]);
    assert!(!has(&orders, "journal begun") && !has(&orders, "start"), "{:?}", lines(&orders));
    bench.reply(1, Answer::Acknowledged(membership(1, &[1, 2, 3])));
    assert!(!has(&bench.orders, "start"), "one of three is no majority");
    let orders = bench.reply(2, Answer::Acknowledged(membership(1, &[1, 2, 3])));
    in_order(&orders, &["deadline i5 13000", "journal begun c1 e7", "start c1 e7 i5 stop", "report c1 e7"]);
}

#[test]
fn no_heartbeat_before_the_registration_is_durable_and_the_guard_stands_ready() {
    let mut bench = Bench::connected();
    bench.take();
    bench.answers.disk = false;
    assert!(!has(&bench.register_as(5), "heartbeat"), "not durable");
    let written = bench.sync();
    bench.release(written);
    assert!(has(&bench.take(), "heartbeat i5"));

    let mut bench = Bench::connected();
    bench.take();
    bench.answers.guard = false;
    assert!(!has(&bench.register_as(5), "heartbeat"), "the guard has not spoken");
    bench.send(Input::Guard(GuardSays { alive: false, ..bench.guardian.slot() }));
    assert!(!has(&bench.take(), "heartbeat"), "a dead guard keeps no deadline");
    bench.send(Input::Guard(GuardSays { lease: Span::ZERO, ..bench.guardian.slot() }));
    assert!(!has(&bench.take(), "heartbeat"), "it would refuse the deadlines these terms earn");
    bench.send(Input::Guard(GuardSays { kill: terms().kill + Span::millis(1), ..bench.guardian.slot() }));
    assert!(!has(&bench.take(), "heartbeat"), "it would take longer than the members wait");
    bench.send(Input::Guard(bench.guardian.slot()));
    assert!(has(&bench.take(), "heartbeat i5"));
}

#[test]
fn heartbeats_go_out_at_the_pace_of_the_terms_with_or_without_a_leader() {
    let mut bench = Bench::leased();
    bench.send(Input::LeaderLost);
    bench.run_leased(6_000);
    let beats = lines(&bench.orders).iter().filter(|line| *line == "heartbeat i5").count();
    assert_eq!(beats, 10, "6 s of 600 ms");
    assert_eq!(bench.agent.standing(), "serving", "a majority without a leader keeps the lease");
    assert!(has(&bench.take(), "seek"));
}

#[test]
fn a_refusal_is_asked_again_after_50_ms_and_ends_nothing() {
    for refusal in
        [Refusal::NotCurrent, Refusal::UnknownTerms, Refusal::Fencing, Refusal::OtherGeneration, Refusal::NotVoter]
    {
        let mut bench = Bench::running();
        assert_eq!(lines(&bench.reply(2, Answer::Refused(refusal))), Vec::<String>::new());
        bench.run(49);
        assert_eq!(lines(&bench.take()), Vec::<String>::new());
        bench.run(1);
        assert_eq!(lines(&bench.take()), ["heartbeat i5 to m2"], "{refusal:?}");
        assert_eq!(bench.agent.standing(), "serving");
        assert_eq!(bench.tree.len(), 1);
    }
}

#[test]
fn an_echo_that_is_not_of_this_incarnation_boot_generation_and_terms_counts_nothing() {
    type Change = fn(&mut Heartbeat);
    let other: [(&str, Change); 7] = [
        ("generation", |echo| echo.generation = Generation::numbered(2)),
        ("node", |echo| echo.node = NodeId(4)),
        ("incarnation", |echo| echo.incarnation = Incarnation(4)),
        ("boot", |echo| echo.boot = BootId(1)),
        ("terms", |echo| echo.terms = Profile::Relaxed.terms()),
        ("future", |echo| echo.sent_at = echo.sent_at + Span(1)),
        ("nothing", |_| {}),
    ];
    for (what, change) in other {
        let mut bench = Bench::registered();
        for member in [1, 2, 3] {
            let mut echo = bench.heartbeat();
            change(&mut echo);
            let answer = Answer::Acknowledged(membership(1, &[1, 2, 3]));
            bench.send(Input::Reply(HeartbeatReply { member: MemberId(member), echo, answer }));
        }
        assert_eq!(bench.agent.lease_end().is_some(), what == "nothing", "another {what}");
    }
}

#[test]
fn a_newer_membership_is_told_once_and_an_older_one_never() {
    let mut bench = Bench::leased();
    assert!(has(&bench.reply(1, Answer::Acknowledged(membership(4, &[1, 2, 3, 4]))), "membership"));
    assert!(!has(&bench.reply(2, Answer::Acknowledged(membership(4, &[1, 2, 3, 4]))), "membership"));
    assert!(!has(&bench.reply(2, Answer::Acknowledged(membership(3, &[1, 2, 3]))), "membership"));
}

#[test]
fn acknowledgements_that_waited_while_the_agent_slept_do_not_bring_a_lease_back() {
    let mut bench = Bench::running();
    let echo = bench.heartbeat();
    bench.now = bench.now + terms().lease;
    for member in [1, 2, 3] {
        let echo = Heartbeat { sent_at: echo.sent_at + Span::millis(2_000), ..echo };
        let answer = Answer::Acknowledged(membership(1, &[1, 2, 3]));
        let orders = bench.send(Input::Reply(HeartbeatReply { member: MemberId(member), echo, answer }));
        assert!(!has(&orders, "deadline") && !has(&orders, "heartbeat"), "{:?}", lines(&orders));
    }
    assert!(bench.disk.life != Life::Current);
}

#[test]
fn when_the_lease_ends_the_latch_is_everywhere_before_a_word_is_said_and_the_record_is_carried() {
    let mut bench = Bench::running();
    bench.answers.sweep = false;
    bench.run(4_000);
    assert!(!has(&bench.orders, "ended") && !has(&bench.orders, "register"), "the guard has no record yet");
    bench.answers.sweep = true;
    bench.run(100);
    let orders = bench.take();
    in_order(
        &orders,
        &[
            "journal latched i5",
            "latch i5",
            "stop c1 e7 0",
            "look",
            "journal over i5 guard",
            "ended i5 guard",
            "register",
        ],
    );
    assert_eq!(lines(&orders)[position(&orders, "register")], "register ends i5, empty");
    let latched = position(&orders, "journal latched i5");
    assert!(!has(&orders[latched..], "heartbeat") && !has(&orders[latched..], "deadline"));
    assert!(!has(&orders[latched..], "report"), "the record covers all of it");
}

#[test]
fn the_guards_latch_alone_ends_the_incarnation() {
    let mut bench = Bench::running();
    bench.tell_guard(GuardInput::Latch { incarnation: Incarnation(5) });
    bench.run(100);
    let orders = bench.take();
    in_order(&orders, &["journal latched i5", "ended i5 guard", "register ends i5, empty"]);
    assert!(!has(&orders, "heartbeat"));
}

#[test]
fn nothing_is_said_of_an_end_whose_latch_is_not_durable() {
    let mut bench = Bench::running();
    bench.answers.disk = false;
    bench.run(5_000);
    assert!(!has(&bench.orders, "ended") && !has(&bench.orders, "register"));
    bench.answers.disk = true;
    let written = bench.sync();
    bench.release(written);
    in_order(&bench.take(), &["journal latched i5", "look", "ended i5 guard", "register ends i5, empty"]);
}

#[test]
fn nothing_is_said_of_an_end_before_a_look_has_shown_that_nothing_is_left() {
    let mut bench = Bench::running();
    bench.answers.look = false;
    bench.run(5_000);
    let orders = bench.take();
    assert!(has(&orders, "look") && !has(&orders, "journal over") && !has(&orders, "ended"), "{:?}", lines(&orders));
    bench.answers.look = true;
    let stranger = Workload {
        container: ContainerId(9),
        epoch: Epoch(1),
        incarnation: Incarnation(5),
        policy: OnQuorumLoss::Stop,
        shape: Shape::Remains,
    };
    bench.tree.insert((ContainerId(9), Epoch(1)), stranger);
    let shown = bench.show();
    bench.release(shown);
    in_order(
        &bench.take(),
        &["stop c9 e1 0", "look", "journal over i5 guard", "ended i5 guard", "register ends i5, empty"],
    );
}

#[test]
fn nothing_starts_once_the_lease_is_over() {
    let mut bench = Bench::leased();
    bench.now = bench.now + terms().lease;
    let orders = bench.want(10, &[item(1, 7, Wanted::Run)]);
    assert!(!has(&orders, "journal begun") && !has(&orders, "start"), "{:?}", lines(&orders));
}

#[test]
fn an_intent_that_became_durable_only_after_the_lease_starts_nothing() {
    let mut bench = Bench::leased();
    bench.answers.disk = false;
    bench.want(10, &[item(1, 7, Wanted::Run)]);
    bench.now = bench.now + terms().lease;
    bench.answers.disk = true;
    let written = bench.sync();
    bench.release(written);
    let orders = bench.take();
    assert!(has(&orders, "journal closed c1 e7") && !has(&orders, "start"), "{:?}", lines(&orders));
}

#[test]
fn what_is_kept_outlives_the_lease_is_not_called_empty_and_is_taken_over() {
    let kept_item = kept(item(1, 7, Wanted::Run));
    let mut bench = Bench::running_as(kept_item);
    bench.run(4_000);
    let orders = bench.take();
    assert!(!has(&orders, "stop"), "{:?}", lines(&orders));
    in_order(&orders, &["ended i5 guard", "register ends i5"]);
    assert_eq!(lines(&orders)[position(&orders, "register")], "register ends i5");
    bench.register_as(9);
    bench.grant();
    assert!(has(&bench.take(), "report c1 e7 running"));
    assert!(!has(&bench.want(12, &[kept_item]), "st"), "neither stopped nor started");
    assert_eq!(bench.tree.len(), 1);
    assert!(has(&bench.want(13, &[]), "stop c1 e7"), "the new incarnation's set is the judge of it");
}

#[test]
fn a_void_incarnation_ends_whole_and_the_node_registers_anew() {
    let mut bench = Bench::running_as(kept(item(1, 7, Wanted::Run)));
    assert!(!has(&bench.send(Input::FromLeader(ToAgent::Void { incarnation: Incarnation(4) })), "latch"), "another's");
    bench.send(Input::FromLeader(ToAgent::Void { incarnation: Incarnation(5) }));
    bench.run(100);
    let orders = bench.take();
    in_order(&orders, &["journal latched i5", "latch i5", "stop c1 e7 0", "register ends i5, empty"]);
    assert!(bench.tree.is_empty());
}

#[test]
fn a_late_answer_to_an_earlier_registration_is_not_taken() {
    let mut bench = Bench::running();
    bench.register_as(5);
    bench.register_as(9);
    assert_eq!(bench.agent.incarnation(), Incarnation(5), "it is registered already");
    bench.run(4_000);
    assert_eq!(bench.agent.standing(), "registering");
    assert!(!has(&bench.register_as(5), "journal registered"), "i5 is over");
    bench.register_as(9);
    assert_eq!(bench.agent.incarnation(), Incarnation(9));
}

#[test]
fn an_incarnation_the_state_knows_and_the_journal_does_not_is_latched_and_then_ended_without_a_claim() {
    let mut bench = Bench::connected();
    bench.take();
    bench.send(Input::FromLeader(ToAgent::NotRegistered { current: Incarnation(57), reason: "stale".into() }));
    bench.run(1_000);
    let orders = bench.take();
    in_order(&orders, &["journal adopted i57", "latch i57", "look", "register ends i57, empty"]);
    assert!(!has(&orders, "ended"), "on a cloned machine the original may still run it");
    assert!(!has(&orders, "heartbeat"));
}

#[test]
fn a_registration_whose_answer_is_lost_is_asked_for_again_as_the_same() {
    let asked = |orders: &[Effect]| -> Vec<Registration> {
        let registration = |effect: &Effect| match effect {
            Effect::ToLeader(ToLeader::Register(registration)) => Some(Registration::clone(registration)),
            _ => None,
        };
        orders.iter().filter_map(registration).collect()
    };
    let mut bench = Bench::connected();
    bench.run(1_000);
    bench.send(Input::LeaderLost);
    bench.send(Input::LeaderConnected { member: MemberId(2) });
    let orders = bench.take();
    let [first, rest @ ..] = &asked(&orders)[..] else { panic!("{:?}", lines(&orders)) };
    assert!(rest.len() >= 2 && rest.iter().all(|again| again == first), "{rest:?}");
    // Another run of the agent cannot know what was answered to this one.
    bench.restart();
    bench.send(Input::LeaderConnected { member: MemberId(2) });
    let again = asked(&bench.take());
    assert!(again.iter().all(|again| (again.ends, again.boot) == (first.ends, first.boot) && again.run != first.run));
    assert!(!again.is_empty());
}

#[test]
fn a_registration_that_cannot_be_had_yet_is_asked_for_again_after_a_heartbeat() {
    let mut bench = Bench::connected();
    bench.take();
    bench.send(Input::FromLeader(ToAgent::NotRegistered { current: Incarnation(0), reason: "not yet".into() }));
    bench.run(599);
    assert!(!has(&bench.orders, "register"));
    bench.run(1);
    assert!(has(&bench.take(), "register ends i0, empty"));
}

#[test]
fn after_another_boot_nothing_is_claimed_and_nothing_of_the_old_one_is_said() {
    let mut bench = Bench::running();
    bench.boot = BootId(0xb008);
    bench.guardian = Guardian::new();
    bench.tree.clear();
    bench.restart();
    bench.send(Input::LeaderConnected { member: MemberId(1) });
    let orders = bench.take();
    assert_eq!(lines(&orders)[position(&orders, "register")], "register ends i5", "no proof of emptiness");
    assert!(!has(&orders, "ended") && !has(&orders, "heartbeat") && !has(&orders, "report"));
    assert_eq!(bench.disk.closed_epoch(ContainerId(1)), Some(Epoch(7)));
    bench.register_as(9);
    bench.grant();
    bench.take();
    let orders = bench.want(12, &[item(1, 7, Wanted::Run)]);
    assert!(!has(&orders, "journal begun") && !has(&orders, "start"));
}

#[test]
fn an_agent_that_is_killed_comes_back_as_the_same_incarnation_and_adopts_what_runs() {
    let mut bench = Bench::running();
    bench.run(500);
    bench.restart();
    bench.send(Input::LeaderConnected { member: MemberId(1) });
    let orders = bench.take();
    in_order(&orders, &["look", "heartbeat i5", "holding r10", "report c1 e7 running"]);
    assert!(!has(&orders, "start") && !has(&orders, "stop") && !has(&orders, "register"), "{:?}", lines(&orders));
    assert_eq!(bench.agent.lease_end(), Some(ms(13_000)), "as the slot holds it");
    let orders = bench.want(10, &[item(1, 7, Wanted::Run), item(2, 1, Wanted::Run)]);
    assert!(has(&orders, "start c2 e1") && !has(&orders, "start c1"), "{:?}", lines(&orders));
}

#[test]
fn what_was_begun_and_is_gone_after_a_restart_is_closed_and_not_started_again() {
    let mut bench = Bench::running();
    bench.tree.clear();
    bench.restart();
    bench.send(Input::LeaderConnected { member: MemberId(1) });
    in_order(&bench.take(), &["journal closed c1 e7: unknown end", "report c1 e7 closed, unknown end"]);
    assert!(!has(&bench.want(10, &[item(1, 7, Wanted::Run)]), "start"));

    let mut bench = Bench::leased();
    bench.answers.hands = false;
    bench.want(10, &[item(1, 7, Wanted::Run)]);
    bench.restart();
    assert!(has(&bench.take(), "journal closed c1 e7: start failed"), "it was never seen running");
}

/// What ends with its guard is the node's loss and costs none of its own restarts; what does not has ended by itself.
#[test]
fn a_container_is_not_blamed_for_the_end_of_its_guard() {
    let rows = [
        (item(1, 7, Wanted::Run), "closed, stopped", "closed, stopped"),
        (kept(item(1, 7, Wanted::Run)), "closed, signal 9", "closed, unknown end"),
    ];
    for (item, seen, unseen) in rows {
        let mut bench = Bench::running_as(item);
        bench.happened(1, 7, Happened::EndedWithGuard);
        assert!(has(&bench.orders, &format!("report c1 e7 {seen}")), "{:?}", lines(&bench.orders));

        let mut bench = Bench::running_as(item);
        bench.tree.clear();
        bench.guard_found = false;
        bench.restart();
        bench.send(Input::LeaderConnected { member: MemberId(1) });
        assert!(has(&bench.orders, &format!("report c1 e7 {unseen}")), "{:?}", lines(&bench.orders));
    }
}

#[test]
fn remains_and_strangers_are_cleared_away_at_a_restart() {
    let mut bench = Bench::running();
    let alive = bench.tree[&(ContainerId(1), Epoch(7))];
    bench.tree.insert((ContainerId(1), Epoch(7)), Workload { shape: Shape::Remains, ..alive });
    let stranger = Workload { container: ContainerId(9), incarnation: Incarnation(2), ..alive };
    bench.tree.insert((ContainerId(9), Epoch(7)), stranger);
    bench.restart();
    let orders = bench.take();
    assert!(has(&orders, "stop c1 e7 0") && has(&orders, "stop c9 e7 0"), "{:?}", lines(&orders));
    assert!(has(&orders, "journal closed c9 e7"));
}

#[test]
fn an_agent_that_restarts_after_the_latch_goes_on_ending() {
    let mut bench = Bench::running();
    bench.answers.sweep = false;
    bench.run(3_000);
    bench.restart();
    bench.send(Input::LeaderConnected { member: MemberId(1) });
    assert!(!has(&bench.orders, "heartbeat") && !has(&bench.orders, "register"));
    bench.answers.sweep = true;
    bench.run(100);
    in_order(&bench.take(), &["journal over i5 guard", "ended i5 guard", "register ends i5, empty"]);
}

#[test]
fn a_lease_that_ran_out_while_no_agent_lived_is_seen_before_the_first_heartbeat() {
    let mut bench = Bench::running();
    bench.now = bench.now + terms().lease;
    bench.restart();
    let orders = bench.take();
    assert!(has(&orders, "journal latched i5") && !has(&orders, "heartbeat"), "{:?}", lines(&orders));
}

#[test]
fn a_slot_that_no_longer_knows_the_incarnation_ends_it() {
    let mut bench = Bench::running();
    bench.guardian = Guardian::new();
    bench.send(Input::Guard(bench.guardian.slot()));
    bench.run(100);
    in_order(&bench.take(), &["journal latched i5", "latch i5", "ended i5 guard", "register ends i5, empty"]);

    let mut bench = Bench::running();
    bench.guardian = Guardian::new();
    bench.restart();
    bench.run(100);
    assert!(has(&bench.orders, "journal latched i5") && !has(&bench.take(), "heartbeat"));
}

#[test]
fn a_journal_older_than_the_slot_is_not_believed() {
    let mut bench = Bench::running();
    let old = bench.disk.clone();
    bench.run(4_000);
    bench.register_as(9);
    bench.disk = old;
    bench.restart();
    bench.send(Input::LeaderConnected { member: MemberId(1) });
    bench.run(100);
    let orders = bench.take();
    in_order(&orders, &["journal over i5", "latch i9", "register ends i5"]);
    assert!(!has(&orders, "heartbeat") && !has(&orders, "ended"));
}

#[test]
fn without_a_guard_no_heartbeat_leaves_and_nothing_starts() {
    let mut bench = Bench::leased();
    bench.send(Input::Guard(GuardSays { alive: false, ..bench.guardian.slot() }));
    bench.want(10, &[item(1, 7, Wanted::Run)]);
    bench.run(1_000);
    let orders = bench.take();
    assert!(!has(&orders, "heartbeat") && !has(&orders, "journal begun"), "{:?}", lines(&orders));
}

#[test]
fn while_one_container_still_stops_the_closing_of_another_is_not_said() {
    let mut bench = Bench::leased();
    bench.want(10, &[item(1, 7, Wanted::Run), item(2, 3, Wanted::Run)]);
    bench.answers.hands = false;
    bench.send(Input::Leave);
    bench.take();
    bench.happened(1, 7, Happened::Stopped);
    bench.run_leased(2_000);
    let orders = bench.take();
    assert!(has(&orders, "journal closed c1 e7") && has(&orders, "report c2 e3 stopping"), "{:?}", lines(&orders));
    assert!(!lines(&orders).iter().any(|line| line.contains("closed, ")), "{:?}", lines(&orders));
}

#[test]
fn what_seems_to_have_outlived_its_boot_is_cleared_away_and_not_adopted() {
    let mut bench = Bench::running_as(kept(item(1, 7, Wanted::Run)));
    bench.boot = BootId(0xb008);
    bench.guardian = Guardian::new();
    bench.restart();
    assert!(has(&bench.take(), "stop c1 e7 0"));
}
