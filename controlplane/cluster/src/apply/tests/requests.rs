use std::collections::BTreeMap;
use std::sync::Arc;

use crate::apply::{Done, Rejected, apply_membership};
use crate::command::{Command, Entry, SettingsChange};
use crate::model::container::Desired;
use crate::model::ids::*;
use crate::model::member::Membership;
use crate::model::time::{Span, WallTime};
use crate::sessions::{SESSIONS, WINDOW};
use crate::state::State;
use crate::story::*;

fn request(session: u128, sequence: u64) -> Option<RequestId> {
    Some(RequestId { session: SessionId(session), sequence })
}

fn create(story: &Story, session: u128, sequence: u64) -> Entry {
    let spec = Arc::new(spec("web"));
    let command = Command::CreateContainer { spec, annotations: Arc::default(), desired: Desired::Running };
    Entry { at: story.now, request: request(session, sequence), command }
}

#[test]
fn repeated_request_has_one_effect_and_the_same_answer() {
    let mut story = Story::with_nodes(1);
    let entry = create(&story, 1, 1);
    let first = story.apply(entry.clone());
    assert_eq!(first.outcome, Ok(Done::Container(ContainerId(1))));
    let second = story.apply(entry);
    assert!(second.repeated && second.events.is_empty());
    assert_eq!((second.revision, second.outcome), (first.revision, first.outcome));
    assert_eq!(story.state.container_count(), 1);
}

#[test]
fn refusals_are_remembered_too() {
    let mut story = Story::with_nodes(1);
    story.create(spec("web"));
    let entry = create(&story, 1, 1);
    let first = story.apply(entry.clone()).outcome;
    assert!(matches!(first, Err(Rejected::NameTaken { .. })));
    story.done(Command::SetDesired { container: ContainerId(1), desired: Desired::Deleted });
    let second = story.apply(entry);
    assert!(second.repeated && second.outcome == first, "the name is free by now, the answer stays");
}

#[test]
fn what_may_have_been_forgotten_is_refused() {
    let mut story = Story::bare();
    let settle =
        |session, sequence| Entry { at: WallTime(0), request: request(session, sequence), command: Command::Settle };
    (0..=WINDOW as u64).for_each(|sequence| drop(story.apply(settle(5, sequence))));
    assert_eq!(story.apply(settle(5, 0)).outcome, Err(Rejected::RequestExpired));
    assert!(story.apply(settle(5, 1)).repeated);
}

#[test]
fn sessions_are_bounded_and_the_eldest_goes_first() {
    let mut story = Story::bare();
    for session in 0..=SESSIONS as u128 {
        let index = Revision(story.state.revision().0 + 1);
        let entry = Entry { at: WallTime(0), request: request(session, 1), command: Command::Settle };
        crate::apply(&mut story.state, index, &entry);
    }
    assert_eq!(story.state.sessions().iter().count(), SESSIONS);
    let old = Entry { at: WallTime(0), request: request(0, 1), command: Command::Settle };
    assert_eq!(story.apply(old).outcome, Err(Rejected::RequestExpired));
}

/// A thousand years ahead, more of them than are remembered: all that was drawn by right clocks counted as forgotten.
#[test]
fn sessions_of_a_clock_that_is_ahead_push_out_nobody_else() {
    let now = WallTime(1_790_000_000_000);
    let mut story = Story::bare();
    let settle = |story: &mut Story, at: WallTime, born: u64, number: u128| {
        let session = SessionId::first_of(WallTime(born)).0 + number;
        let entry = Entry { at, request: request(session, 0), command: Command::Settle };
        let index = Revision(story.state.revision().0 + 1);
        crate::apply(&mut story.state, index, &entry).outcome
    };
    let far = now.0 + 31_557_600_000_000;
    let ahead: Vec<_> = (0..=SESSIONS as u128).map(|number| settle(&mut story, now, far, number)).collect();
    let taken = ahead.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(taken, SESSIONS / 2);
    assert!(matches!(ahead.last(), Some(Err(Rejected::Invalid { field: "request_id", .. }))), "{:?}", ahead.last());
    for number in 0..=SESSIONS as u128 {
        // Clocks are never quite equal.
        let born = now.0 + number as u64 % 50_000;
        assert_eq!(settle(&mut story, now, born, number << 8), Ok(Done::Nothing), "{number}");
    }
    assert!(story.state.sessions().horizon().expect("some went").born() <= WallTime(now.0 + 60_000));
    assert_eq!(settle(&mut story, now, far, 0), Ok(Done::Nothing), "what was taken is remembered");
    let then = WallTime(far);
    assert_eq!(settle(&mut story, then, far, 1 << 40), Ok(Done::Nothing), "by then it is a session like any other");
}

#[test]
fn clock_never_goes_back() {
    let mut story = Story::bare();
    let clock = story.state.clock();
    story.now = WallTime(5);
    story.done(Command::Settle);
    assert_eq!(story.state.clock(), clock);
}

#[test]
fn restored_state_equals_the_one_it_was_taken_from() {
    let mut story = Story::with_nodes(2);
    let web = story.run(spec("web"));
    let entry = create(&story, 3, 9);
    story.apply(entry);
    let changes = BTreeMap::from([("a".to_owned(), Some("b".to_owned()))]);
    story.done(Command::AnnotateContainer { container: web, changes });
    let restored = State::restore(story.state.truth().clone());
    assert_eq!((restored.hash(), restored.truth()), (story.state.hash(), story.state.truth()));
}

#[test]
fn any_difference_changes_the_hash() {
    let story = Story::with_nodes(2);
    let mut hashes = vec![story.state.hash()];
    let changes: [fn(&mut crate::state::Truth); 5] = [
        |truth| truth.generation = Generation::numbered(2),
        |truth| truth.clock = WallTime(truth.clock.0 + 1),
        |truth| truth.next_container += 1,
        |truth| truth.membership.learners = Arc::new([MemberId(9)]),
        |truth| truth.brake = crate::state::Brake::On { since: Revision(3), silent: 1, of: 2 },
    ];
    for change in changes {
        let mut truth = story.state.truth().clone();
        change(&mut truth);
        hashes.push(State::restore(truth).hash());
    }
    let distinct: std::collections::BTreeSet<u128> = hashes.iter().map(|hash| hash.0).collect();
    assert_eq!(distinct.len(), hashes.len());
}

#[test]
fn member_that_votes_cannot_be_forgotten_and_its_id_is_burnt() {
    let mut story = Story::bare();
    let add = |name_: &str, port: u16| Command::AddMember {
        name: name(name_),
        peer_address: format!("127.0.0.1:{port}").into(),
        api_address: "127.0.0.1:1".into(),
        secret: SecretHash(1),
    };
    assert_eq!(story.refused(add("m9", 0)).field(), Some("peer_address"));
    assert!(matches!(story.refused(add("m1", 9)), Rejected::NameTaken { .. }));
    assert_eq!(story.done(add("m4", 7104)), Done::Member(MemberId(4)));
    assert!(matches!(story.refused(Command::RemoveMember { member: MemberId(3) }), Rejected::InUse { .. }));
    let index = Revision(story.state.revision().0 + 1);
    let voters: Arc<[MemberId]> = Arc::new([MemberId(1), MemberId(2), MemberId(4)]);
    apply_membership(&mut story.state, index, Membership { term: 1, index: index.0, voters, ..Membership::default() });
    story.done(Command::RemoveMember { member: MemberId(3) });
    assert_eq!(story.done(add("m3", 7103)), Done::Member(MemberId(5)));
}

#[test]
fn bad_settings_are_refused_with_the_field() {
    let mut story = Story::bare();
    let update = |change: SettingsChange| Command::UpdateSettings { settings: Box::new(change) };
    let mut terms = story.state.settings().terms;
    terms.heartbeat = terms.lease;
    let brake = crate::model::settings::BrakeSettings { percent: 0, ..story.state.settings().brake };
    for (field, change) in [
        ("terms.heartbeat", SettingsChange { terms: Some(terms), ..Default::default() }),
        ("brake.percent", SettingsChange { brake: Some(brake), ..Default::default() }),
        ("handovers", SettingsChange { handovers: Some(0), ..Default::default() }),
        ("boot_grace", SettingsChange { boot_grace: Some(Span::seconds(1 << 20)), ..Default::default() }),
    ] {
        assert_eq!(story.refused(update(change)).field(), Some(field));
    }
}
