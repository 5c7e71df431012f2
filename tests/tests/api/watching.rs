//! A watch has no gap, and goes on wherever it is served.

use super::*;

#[test]
fn watch_has_no_gap_and_goes_on_through_another_member() {
    let cluster = furnished("watched", 3);
    let start = cluster.members[0].revision();
    let path = format!("/v1/events:watch?fromRevision={}", start + 1);
    let mut stream = Events::open(&cluster.members[0].api, &path, None).expect("a stream");
    for value in 0..6 {
        let action = if value % 2 == 0 { "cordon" } else { "uncordon" };
        cluster.members[1].order("POST", &format!("/v1/nodes/node-1:{action}"), json!({}));
    }
    let wanted = cluster.read(&format!("/v1/events?fromRevision={}", start + 1))["events"].clone();
    let wanted = wanted.as_array().expect("events");
    assert!(wanted.len() >= 6, "{wanted:?}");
    let mut seen: Vec<Value> = Vec::new();
    let mut last = 0;
    while seen.len() < wanted.len() / 2 {
        let event = stream.next_event().expect("an event");
        let id = event.id.expect("the revision");
        assert_eq!((event.kind.as_str(), number(&event.data["revision"])), ("message", id));
        assert!(id > last, "{id} after {last}");
        last = id;
        seen.extend(event.data["events"].as_array().cloned().unwrap_or_default());
    }
    // The connection breaks; the rest comes from another member, after the last id seen.
    drop(stream);
    let mut stream = Events::open(&cluster.members[2].api, "/v1/events:watch", Some(last)).expect("a stream");
    while seen.len() < wanted.len() {
        let event = stream.next_event().expect("an event");
        assert!(event.id > Some(last), "{event:?} after {last}");
        last = event.id.expect("the revision");
        seen.extend(event.data["events"].as_array().cloned().unwrap_or_default());
    }
    assert_eq!(&seen, wanted, "the watch and the list tell the same story");

    // The same over gRPC, from the start.
    let streamed = block(async {
        let mut client = EventServiceClient::new(channel(&cluster.members[1]));
        let request = v1::WatchRequest { from_revision: start + 1, filter: None };
        let mut stream = client.watch(request).await.expect("a stream").into_inner();
        let mut seen = Vec::new();
        while seen.len() < wanted.len() {
            let message = stream.message().await.expect("sound").expect("endless");
            seen.extend(message.events.iter().map(|event| rest::to_json("quorate.v1.Event", event)));
        }
        seen
    });
    assert_eq!(&streamed, wanted);
}

#[test]
fn watch_that_cannot_begin_is_refused_with_a_problem() {
    let cluster = Cluster::start("unwatched", 1, "default");
    let member = &cluster.members[0];
    let (status, _, field) = http::raw(&member.api, "GET", "/v1/events:watch", &[("last-event-id", "yesterday")], b"")
        .expect("answered")
        .problem();
    assert_eq!((status, field.as_str()), (400, "Last-Event-ID"));
    let answer = member.get("/v1/events:watch?fromRevision=now");
    assert_eq!(answer.problem().0, 400);
    let answer = member.get("/v1/events:watch?since=1");
    assert_eq!((answer.problem().0, answer.problem().1.as_str()), (400, "unknown-field"));
}
