//! Forged histories for the judge of the nemesis: five that are as promised, and what each kind of lie must be called.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// `e<epoch> <node> i<incarnation> b<boot> #<sequence> @<ms>`, one line each.
fn lines(record: Record, text: &str) -> Judge {
    let mut judge = Judge::new(record);
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [epoch, node, incarnation, boot, sequence, at] = words[..] else { panic!("{line:?}") };
        let number = |word: &str| word[1..].parse::<u64>().expect("a number");
        judge.take(
            &serde_json::json!({"container": "c", "epoch": number(epoch), "node": node, "incarnation": number(incarnation),
                "boot": boot, "sequence": number(sequence), "at_ns": number(at) * 1_000_000})
            .to_string(),
        );
    }
    judge
}

#[track_caller]
fn is_good(record: Record, text: &str) {
    assert_eq!(lines(record, text).broken(), []);
}

#[track_caller]
fn is_bad(record: Record, text: &str, says: &str) {
    let broken: Vec<String> = lines(record, text).broken().iter().map(ToString::to_string).collect();
    assert!(broken.iter().any(|fault| fault.contains(says)), "{broken:?} does not say {says:?}");
}

#[test]
fn f01_one_life_after_another_is_good() {
    is_good(Record::Storage, "e1 a i5 b1 #0 @100\ne1 a i5 b1 #1 @110\ne2 b i7 b2 #0 @120\ne2 b i7 b2 #1 @130");
}

#[test]
fn f02_coming_home_under_a_higher_epoch_is_good() {
    is_good(Record::Storage, "e1 a i5 b1 #0 @100\ne4 b i7 b2 #0 @200\ne9 a i8 b3 #0 @300");
}

#[test]
fn f03_an_observer_that_missed_lines_is_good() {
    is_good(Record::Observer, "e1 a i5 b1 #4 @100\ne1 a i5 b1 #9 @150\ne2 b i7 b2 #1 @200");
}

#[test]
fn f04_the_old_one_goes_on() {
    let text = "e1 a i5 b1 #0 @100\ne2 b i7 b2 #0 @150\ne1 a i5 b1 #1 @200\ne2 b i7 b2 #1 @250";
    is_bad(Record::Storage, text, "e1 on a i5 boot b1 still wrote 50 ms after e2 on b i7 boot b2");
    is_bad(Record::Observer, text, "OVERLAP of c");
}

#[test]
fn f05_one_line_in_the_same_moment() {
    is_bad(Record::Observer, "e1 a i5 b1 #0 @100\ne2 b i7 b2 #0 @100", "OVERLAP of c");
}

#[test]
fn f06_a_late_line_with_an_early_time_is_told_by_its_place() {
    is_bad(Record::Storage, "e1 a i5 b1 #0 @100\ne2 b i7 b2 #0 @150\ne1 a i5 b1 #1 @140", "still wrote 0 ms after");
}

#[test]
fn f07_a_late_line_that_stands_before_is_told_by_its_time() {
    is_bad(Record::Storage, "e1 a i5 b1 #0 @100\ne1 a i5 b1 #1 @900\ne2 b i7 b2 #0 @500\ne2 b i7 b2 #1 @990", "400 ms");
}

#[test]
fn f08_one_epoch_on_two_nodes() {
    is_bad(Record::Storage, "e1 a i5 b1 #0 @100\ne1 b i7 b2 #0 @200", "one epoch ran as e1 on a");
}

#[test]
fn f09_one_epoch_in_two_boots() {
    is_bad(Record::Storage, "e1 a i5 b1 #0 @100\ne1 a i5 b2 #0 @200", "one epoch ran as");
}

#[test]
fn f10_one_epoch_in_two_incarnations() {
    is_bad(Record::Storage, "e1 a i5 b1 #0 @100\ne1 a i6 b1 #0 @200", "one epoch ran as");
}

#[test]
fn f11_an_old_epoch_is_started_again() {
    is_bad(Record::Storage, "e2 b i7 b2 #0 @100\ne1 a i5 b1 #0 @200", "e1 on a i5 boot b1 began after e2");
}

#[test]
fn f12_started_twice_under_one_epoch() {
    is_bad(Record::Storage, "e1 a i5 b1 #0 @100\ne1 a i5 b1 #1 @110\ne1 a i5 b1 #0 @200", "wrote line 0 where line 2");
    is_bad(Record::Observer, "e1 a i5 b1 #0 @100\ne1 a i5 b1 #1 @110\ne1 a i5 b1 #0 @200", "wrote line 0");
}

#[test]
fn f13_lines_taken_out_of_the_folder() {
    is_bad(Record::Storage, "e1 a i5 b1 #0 @100\ne1 a i5 b1 #2 @120", "wrote line 2 where line 1 was due");
}

#[test]
fn f14_a_clock_that_goes_back() {
    is_bad(Record::Observer, "e1 a i5 b1 #0 @100\ne1 a i5 b1 #1 @90", "wrote line 1");
}

#[test]
fn f15_what_is_no_witness_is_not_passed_over() {
    for text in ["hello\n", "{}\n", "{\"container\": \"c\"}\n", "7\n"] {
        let mut judge = Judge::new(Record::Storage);
        judge.take_all(text);
        assert!(matches!(judge.broken()[..], [Broken::Unreadable(_)]), "{text:?}");
    }
    let mut cut_off = Judge::new(Record::Storage);
    cut_off.take_all("{\"container\": \"c\", \"epo");
    assert_eq!(cut_off.broken(), []);
}

#[test]
fn f16_an_exposure_excuses_its_node_its_time_and_nothing_else() {
    let overlap = "e1 a i5 b1 #0 @100\ne2 b i7 b2 #0 @150\ne1 a i5 b1 #1 @200\ne2 b i7 b2 #1 @250";
    let broken = lines(Record::Observer, overlap).broken();
    let exposed = |node: &str, from: u64, until: u64| {
        let it = Exposure { node: node.to_owned(), from_ns: from * 1_000_000, until_ns: until * 1_000_000 };
        judge(broken.clone(), &[it])
    };
    assert_eq!(exposed("a", 100, 300), (vec![], vec![50_000_000]));
    for (node, from, until) in [("b", 100, 300), ("a", 160, 300), ("a", 100, 190)] {
        assert_eq!(exposed(node, from, until).0.len(), 1, "{node} {from} {until}");
    }
    assert_eq!(judge(broken, &[]).0.len(), 1);
    // Two runners of one epoch are never excused.
    let all = Exposure { node: "a".into(), from_ns: 0, until_ns: u64::MAX };
    let shared = lines(Record::Observer, "e1 a i5 b1 #0 @100\ne1 b i7 b2 #0 @150\ne1 a i5 b1 #1 @200").broken();
    assert!(!judge(shared, &[all]).0.is_empty());
}

// ---- What clients were told ----

/// `w<value>` or `r<value>` (`r-` nothing), `<from>..<to>`, then `ok`, `fail` or `?`.
fn ops(text: &str) -> Vec<Op> {
    let op = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [call, span, outcome] = words[..] else { panic!("{line:?}") };
        let (from, to) = span.split_once("..").expect("a span");
        let value = call[1..].parse::<u64>().ok();
        Op {
            client: 1,
            member: 2,
            key: "k".into(),
            call: if call.starts_with('w') { Call::Write(value.expect("a value")) } else { Call::Read(value) },
            from_ns: from.parse().expect("a time"),
            to_ns: to.parse().expect("a time"),
            outcome: match outcome {
                "ok" => Outcome::Ok,
                "fail" => Outcome::Failed,
                _ => Outcome::Unknown,
            },
        }
    };
    text.lines().map(op).collect()
}

#[track_caller]
fn told(text: &str, end: Option<u64>, says: Option<&str>) {
    let found = single_writer(&ops(text), &BTreeMap::from([("k".to_owned(), end)]));
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    match says {
        None => assert!(found.is_empty(), "{found:?}"),
        Some(says) => assert!(found.iter().any(|it| it.contains(says)), "{found:?} does not say {says:?}"),
    }
}

#[test]
fn f17_unknown_writes_may_be_there_or_not() {
    let text = "r- 0..5 ok\nw1 10..20 ok\nw2 30..40 ?\nr1 50..60 ok\nw3 70..80 fail";
    told(text, Some(1), None);
    told(text, Some(2), None);
    // A write that is under way may be read by one and, as it is there now, by all that come after.
    told("w1 10..20 ok\nw2 30..90 ok\nr1 40..50 ok\nr2 60..70 ok", Some(2), None);
    // One that was held up may even come after newer ones.
    told("w1 10..20 ?\nw2 30..40 ok\nr2 50..60 ok\nr1 70..80 ok", Some(1), None);
}

#[test]
fn f18_an_acknowledged_write_that_is_gone() {
    told("w1 10..20 ok\nw2 30..40 ok", Some(1), Some("LOST ACKNOWLEDGEMENT"));
    told("w1 10..20 ok", None, Some("LOST ACKNOWLEDGEMENT"));
    told("w1 10..20 ok\nw2 30..40 fail", Some(2), Some("which nobody wrote"));
    let names = |all: &[&str]| all.iter().map(|it| (*it).to_owned()).collect::<BTreeSet<String>>();
    assert_eq!(missing(&names(&["a", "b"]), &names(&["b", "c"])).len(), 1);
    assert!(missing(&names(&["a"]), &names(&["a", "b"])).is_empty());
}

#[test]
fn f19_a_read_of_the_past() {
    told("w1 10..20 ok\nw2 30..40 ok\nr1 50..60 ok", Some(2), Some("gave 1 after Some(2) had been acknowledged"));
    told("w1 10..20 ok\nr- 50..60 ok", Some(1), Some("gave 0 after"));
    told("w1 10..20 ok\nw2 30..90 ?\nr2 40..50 ok\nr1 60..70 ok", Some(2), Some("gave 1 after another gave Some(2)"));
    told("w1 10..20 ok\nw2 30..40 ?\nw3 50..60 ok\nr1 70..80 ok", Some(3), Some("gave 1 after Some(3)"));
}

#[test]
fn f20_a_read_of_the_future_or_of_nothing() {
    told("w1 10..20 ok\nr2 30..40 ok\nw2 50..60 ok", Some(2), Some("before anybody wrote it"));
    told("w1 10..20 ok\nr7 30..40 ok", Some(1), Some("before anybody wrote it"));
}

#[test]
fn f21_an_age_that_flatters() {
    let look =
        |from_ns, revision, age_ns| understated(&[(7, 100), (9, 300), (8, 200)], &[Look { from_ns, revision, age_ns }]);
    // Nothing is lacking, or nothing that was known before the question.
    assert!(look(1_000, 9, 0).is_empty());
    assert!(look(250, 8, 0).is_empty());
    // What it lacks was known 700 before.
    assert!(look(1_000, 8, 700).is_empty());
    assert_eq!(look(1_000, 8, 600), [100]);
    assert_eq!(look(1_000, 7, 0), [800]);
}
