//! The checker is checked: forged histories, sound ones and broken ones, and an exhaustive judge of small ones.

use super::*;

fn done(revision: u64, at: Time) -> End {
    End::Answered { at, revision: Some(revision), reply: Reply::Done { id: None } }
}

fn saw(revision: u64, at: Time, view: Option<(u64, &[(&str, &str)])>) -> End {
    let view = view.map(|(id, annotations)| View {
        id,
        annotations: annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    });
    End::Answered { at, revision: Some(revision), reply: Reply::Saw(view) }
}

fn operation(client: u64, request: &str, call: Call, begun: Time, end: End) -> Operation {
    let request = (!request.is_empty()).then(|| request.to_owned());
    Operation { client, request, object: "web".to_owned(), call, begun, end }
}

fn annotate(value: &str) -> Call {
    Call::Annotate { of: None, key: "k".to_owned(), value: Some(value.to_owned()) }
}

fn event(revision: u64, place: u32, text: &str) -> Event {
    Event { revision, place, text: text.into(), request: None }
}

#[track_caller]
fn is(history: &History, wanted: &[Rule]) {
    let anomalies = judge(history);
    let mut found: Vec<Rule> = anomalies.iter().map(|anomaly| anomaly.rule).collect();
    found.sort_unstable();
    found.dedup();
    assert_eq!(found, wanted, "{anomalies:?}");
}

#[track_caller]
fn operations(operations: &[Operation], wanted: &[Rule]) {
    is(&History { operations: operations.to_vec(), watches: Vec::new() }, wanted);
}

#[test]
fn what_happened_in_order_is_sound() {
    operations(
        &[
            operation(1, "a", Call::Create, 0, done(1, 5)),
            operation(1, "b", annotate("x"), 10, done(2, 15)),
            operation(2, "", Call::Look, 20, saw(2, 25, Some((7, &[("k", "x")])))),
            operation(1, "c", Call::Delete { of: None }, 30, done(3, 35)),
            operation(2, "", Call::Look, 40, saw(3, 45, Some((7, &[("k", "x")])))),
            operation(2, "", Call::Look, 50, saw(4, 55, None)),
            operation(1, "d", Call::Create, 60, done(5, 65)),
            operation(2, "", Call::Look, 70, saw(5, 75, Some((8, &[])))),
        ],
        &[],
    );
}

#[test]
fn concurrent_writes_may_go_either_way_but_only_one_way() {
    let base = [
        operation(1, "a", Call::Create, 0, done(1, 5)),
        operation(1, "b", annotate("x"), 10, End::Answered { at: 30, revision: None, reply: Reply::Done { id: None } }),
        operation(2, "c", annotate("y"), 10, End::Answered { at: 30, revision: None, reply: Reply::Done { id: None } }),
    ];
    let look = |client, begun, value: &str| {
        operation(client, "", Call::Look, begun, saw(9, begun + 5, Some((7, &[("k", value)]))))
    };
    for value in ["x", "y"] {
        operations(&[&base[..], &[look(3, 40, value)]].concat(), &[]);
    }
    operations(&[&base[..], &[look(3, 12, "x"), look(3, 40, "y")]].concat(), &[]);
    operations(&[&base[..], &[look(3, 40, "x"), look(4, 50, "y")]].concat(), &[Rule::Linearizable]);
}

#[test]
fn a_read_of_the_past_is_found() {
    let mut history = [
        operation(1, "a", Call::Create, 0, done(1, 5)),
        operation(1, "b", annotate("x"), 10, done(2, 15)),
        operation(1, "c", annotate("y"), 20, done(3, 25)),
        operation(2, "", Call::Look, 30, saw(2, 35, Some((7, &[("k", "x")])))),
    ];
    operations(&history, &[Rule::Linearizable, Rule::RealTime]);
    // It does not hide behind a newer revision.
    history[3] = operation(2, "", Call::Look, 30, saw(3, 35, Some((7, &[("k", "x")]))));
    operations(&history, &[Rule::Linearizable]);
    // Nor behind the right value of an old revision.
    history[3] = operation(2, "", Call::Look, 30, saw(2, 35, Some((7, &[("k", "y")]))));
    operations(&history, &[Rule::RealTime]);
    // Asked for with --stale it is what was asked for.
    history[3] = operation(2, "", Call::LookStale, 30, saw(2, 35, Some((7, &[("k", "x")]))));
    operations(&history, &[]);
    history[3] = operation(2, "", Call::LookStale, 30, saw(2, 35, Some((7, &[("k", "y")]))));
    operations(&history, &[Rule::Stale]);
    history[3] = operation(2, "", Call::LookStale, 30, saw(2, 35, None));
    operations(&history, &[Rule::Stale]);
}

#[test]
fn an_acknowledged_write_that_is_lost_is_found() {
    let created = operation(1, "a", Call::Create, 0, done(1, 5));
    let look = operation(2, "", Call::Look, 30, saw(5, 35, Some((7, &[]))));
    operations(
        &[created.clone(), operation(1, "b", annotate("x"), 10, done(2, 15)), look.clone()],
        &[Rule::Linearizable],
    );
    // One whose answer never came may be lost, or come late, but not come and go.
    let unknown = operation(1, "b", annotate("x"), 10, End::Unknown);
    let late = operation(2, "", Call::Look, 50, saw(6, 55, Some((7, &[("k", "x")]))));
    let again = operation(2, "", Call::Look, 60, saw(7, 65, Some((7, &[]))));
    operations(&[created.clone(), unknown.clone(), look.clone()], &[]);
    operations(&[created.clone(), unknown.clone(), look.clone(), late.clone()], &[]);
    operations(&[created, unknown, look, late, again], &[Rule::Linearizable]);
}

#[test]
fn two_creations_of_one_name_are_found() {
    let refused = End::Answered { at: 35, revision: Some(3), reply: Reply::Refused(Refusal::Taken) };
    let first = operation(1, "a", Call::Create, 0, done(1, 5));
    operations(&[first.clone(), operation(2, "b", Call::Create, 10, done(2, 15))], &[Rule::Linearizable]);
    operations(&[first.clone(), operation(2, "b", Call::Create, 10, refused.clone())], &[]);
    operations(&[operation(2, "b", Call::Create, 10, refused)], &[Rule::Linearizable]);
    let unknown = End::Answered { at: 35, revision: Some(3), reply: Reply::Refused(Refusal::Unknown) };
    operations(&[first, operation(2, "b", annotate("x"), 10, unknown)], &[Rule::Linearizable]);
}

#[test]
fn a_call_for_another_container_of_the_name_is_refused() {
    let id = |id, revision, at| End::Answered { at, revision: Some(revision), reply: Reply::Done { id: Some(id) } };
    let aimed = |of| Call::Annotate { of: Some(of), key: "k".to_owned(), value: None };
    let refused = End::Answered { at: 35, revision: Some(3), reply: Reply::Refused(Refusal::Unknown) };
    let first = operation(1, "a", Call::Create, 0, id(7, 1, 5));
    operations(&[first.clone(), operation(2, "b", aimed(6), 10, refused.clone())], &[]);
    operations(&[first.clone(), operation(2, "b", aimed(7), 10, refused)], &[Rule::Linearizable]);
    operations(&[first, operation(2, "b", aimed(6), 10, done(2, 15))], &[Rule::Linearizable]);
}

#[test]
fn a_repeated_request_is_one_operation_with_one_answer() {
    let created = operation(1, "a", Call::Create, 0, done(1, 5));
    let first = operation(1, "b", annotate("x"), 10, End::Unknown);
    let other = operation(2, "c", annotate("y"), 20, done(3, 25));
    let look = operation(2, "", Call::Look, 60, saw(4, 65, Some((7, &[("k", "y")]))));
    // The repetition is answered late with the early effect.
    let again = operation(1, "b", annotate("x"), 40, done(2, 45));
    operations(&[created.clone(), first.clone(), other.clone(), again.clone(), look.clone()], &[]);
    // A request of its own could not have come before what was answered before it began.
    let anew = operation(1, "d", annotate("x"), 40, done(2, 45));
    operations(&[created.clone(), first, other, anew, look], &[Rule::Linearizable, Rule::RealTime]);
    let twice = operation(1, "b", annotate("x"), 50, done(4, 55));
    operations(&[created, again, twice], &[Rule::OnceOnly]);
}

#[test]
fn a_watch_with_a_gap_a_repeat_or_another_truth_is_found() {
    let whole = [event(2, 0, "a"), event(4, 0, "b"), event(4, 1, "c"), event(7, 0, "d")];
    let watches = |second: &[Event], after| History {
        operations: Vec::new(),
        watches: vec![
            Watch { client: 1, after: 0, seen: whole.to_vec() },
            Watch { client: 2, after, seen: second.to_vec() },
        ],
    };
    is(&watches(&whole, 0), &[]);
    is(&watches(&whole[1..], 2), &[]);
    is(&watches(&whole[..2], 0), &[]);
    is(&watches(&[], 0), &[]);
    is(&watches(&whole[1..], 1), &[Rule::Watch]);
    is(&watches(&[whole[0].clone(), whole[2].clone(), whole[3].clone()], 0), &[Rule::Watch]);
    is(&watches(&[whole[0].clone(), whole[0].clone()], 0), &[Rule::Watch]);
    is(&watches(&[whole[1].clone(), whole[0].clone()], 0), &[Rule::Watch]);
    is(&watches(&whole, 2), &[Rule::Watch]);
    is(&watches(&[whole[0].clone(), event(4, 0, "x")], 0), &[Rule::Watch]);
}

#[test]
fn an_effect_that_comes_twice_or_elsewhere_is_found() {
    let of = |revision, request: &str| Event { request: Some(request.to_owned()), ..event(revision, 0, "annotated") };
    let seen = |events: &[Event], end: End| History {
        operations: vec![operation(1, "a", Call::Create, 0, done(1, 5)), operation(1, "b", annotate("x"), 10, end)],
        watches: vec![Watch { client: 1, after: 0, seen: events.to_vec() }],
    };
    is(&seen(&[of(2, "b")], done(2, 15)), &[]);
    is(&seen(&[of(2, "b"), of(3, "b")], End::Unknown), &[Rule::OnceOnly]);
    is(&seen(&[of(3, "b")], done(2, 15)), &[Rule::OnceOnly]);
    let refused = End::Answered { at: 15, revision: Some(2), reply: Reply::Refused(Refusal::Other) };
    is(&seen(&[of(2, "b")], refused), &[Rule::OnceOnly]);
}

/// The search against a judge that tries every order there is, over every small history of a register.
#[test]
fn the_search_agrees_with_trying_every_order() {
    use RegisterCall::*;
    use RegisterReply::*;
    let kinds = [
        (Write(1), Written),
        (Write(2), Written),
        (Read, Value(1)),
        (Read, Value(2)),
        (Swap(1, 2), Written),
        (Swap(1, 2), Differs),
    ];
    let shapes: [[(Time, Option<Time>); 4]; 4] = [
        [(0, Some(9)), (1, Some(8)), (2, Some(3)), (4, Some(5))],
        [(0, Some(1)), (2, Some(5)), (3, Some(6)), (4, Some(7))],
        [(0, Some(3)), (2, Some(5)), (4, Some(7)), (6, Some(9))],
        [(0, None), (1, Some(2)), (3, Some(6)), (4, Some(5))],
    ];
    let (mut sound, mut broken) = (0, 0);
    for shape in shapes {
        for number in 0..kinds.len().pow(4) {
            let picked: Vec<(RegisterCall, RegisterReply)> =
                (0..4).map(|place| kinds[number / kinds.len().pow(place) % kinds.len()]).collect();
            let operands: Vec<Operand<'_, Register>> = picked
                .iter()
                .zip(shape)
                .map(|((call, reply), (begun, at))| Operand {
                    call,
                    begun,
                    answer: at.map(|at| (at, reply)),
                    claims: None,
                })
                .collect();
            let holds = check(&operands, BUDGET) == Verdict::Linearizable;
            assert_eq!(holds, some_order(&operands, 0, 0), "{picked:?} in {shape:?}");
            if holds { sound += 1 } else { broken += 1 }
        }
    }
    assert!(sound > 100 && broken > 1000, "{sound} sound, {broken} broken: too one-sided to mean much");
}

/// Tries everything: which of the rest comes next?
fn some_order(operands: &[Operand<'_, Register>], done: u32, state: u64) -> bool {
    let rest = || (0..operands.len()).filter(|place| done & 1 << place == 0);
    let Some(first_end) = rest().filter_map(|place| operands[place].answer.map(|(at, _)| at)).min() else {
        return true;
    };
    rest().filter(|place| operands[*place].begun <= first_end).any(|place| {
        let operand = &operands[place];
        let after = Register::step(&state, operand.call, operand.answer.map(|(_, reply)| reply));
        after.into_iter().any(|state| some_order(operands, done | 1 << place, state))
    })
}

#[test]
fn a_thousand_operations_are_judged_and_one_wrong_answer_among_them_is_found() {
    let mut history = vec![operation(0, "create", Call::Create, 0, done(1, 1))];
    // Six clients at a time, each write answered before the second next begins.
    for number in 1..=600u64 {
        let request = format!("w{number}");
        history.push(operation(
            number % 6,
            &request,
            annotate(&request),
            number * 10,
            done(number + 1, number * 10 + 15),
        ));
        let value = format!("w{number}");
        let at = number * 10 + 7;
        let view = View { id: 7, annotations: BTreeMap::from([("k".to_owned(), value)]) };
        let end = End::Answered { at: at + 1, revision: Some(number + 1), reply: Reply::Saw(Some(view)) };
        history.push(operation(9, "", Call::Look, at, end));
    }
    operations(&history, &[]);
    let place = history.len() - 39;
    let (Call::Look, End::Answered { reply: Reply::Saw(Some(view)), .. }) =
        (history[place].call.clone(), &mut history[place].end)
    else {
        panic!("every second operation is a look");
    };
    view.annotations.insert("k".to_owned(), "w3".to_owned());
    operations(&history, &[Rule::Linearizable]);
}

/// Forty writes that were all under way at once have more orders than anybody can try; what their answers claim is tried
/// first, and a wrong claim changes no verdict.
#[test]
fn what_answers_claim_is_tried_and_not_believed() {
    let call: Vec<RegisterCall> = (1..=40).map(RegisterCall::Write).collect();
    let written = RegisterReply::Written;
    let forty = |claims: fn(u64) -> u64| {
        (1..).zip(&call).map(move |(number, call)| Operand::<Register> {
            call,
            begun: number,
            answer: Some((100, &RegisterReply::Written)),
            claims: Some(claims(number)),
        })
    };
    let read = |reply| Operand { call: &RegisterCall::Read, begun: 200, answer: Some((201, reply)), claims: Some(900) };
    let (one, never) = (RegisterReply::Value(1), RegisterReply::Value(77));
    let backwards: Vec<_> = forty(|number| 500 - number).chain([read(&one)]).collect();
    assert_eq!(check(&backwards, BUDGET), Verdict::Linearizable);
    assert_ne!(
        check(&forty(|number| 500 - number).chain([read(&never)]).collect::<Vec<_>>(), 20_000),
        Verdict::Linearizable
    );
    // A claim against time is no order, and the search finds the right one.
    let call = RegisterCall::Write(5);
    let early = [
        Operand::<Register> { call: &call, begun: 1, answer: Some((2, &written)), claims: Some(9) },
        Operand { call: &RegisterCall::Read, begun: 3, answer: Some((4, &RegisterReply::Value(5))), claims: Some(1) },
    ];
    assert_eq!(check(&early, BUDGET), Verdict::Linearizable);
}
