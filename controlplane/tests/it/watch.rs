//! Watching: everything once and in order, over gRPC and as server-sent events.

use std::time::Duration;

use proto::v1;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::support::{annotate, furnish, reason, single};

async fn annotated(member: &crate::support::TestMember, count: usize) -> Vec<u64> {
    let mut revisions = Vec::new();
    for number in 0..count {
        let reply = member.containers().annotate(annotate("web", "n", &number.to_string())).await.expect("annotated");
        revisions.push(reply.into_inner().revision);
    }
    revisions
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_sees_everything_once_wherever_it_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let member = single(dir.path()).await;
    furnish(&member, "web").await;
    let wanted = annotated(&member, 40).await;
    let filter =
        v1::EventFilter { kinds: vec!["container-annotated".into()], container: "web".into(), ..Default::default() };
    let (mut from, mut seen) = (wanted[0], Vec::new());
    // Broken off and gone on with, again and again.
    while seen.len() < wanted.len() {
        let request = v1::WatchRequest { from_revision: from, filter: Some(filter.clone()) };
        let mut watch = member.events().watch(request).await.expect("open").into_inner();
        for _ in 0..7 {
            let Ok(reply) = tokio::time::timeout(Duration::from_secs(20), watch.message()).await else { break };
            let reply = reply.expect("whole").expect("endless");
            seen.extend(reply.events.iter().map(|event| event.revision));
            from = reply.revision + 1;
            if seen.len() == wanted.len() {
                break;
            }
        }
    }
    assert_eq!(seen, wanted);
    let request = v1::ListEventsRequest { from_revision: wanted[0], filter: Some(filter), ..Default::default() };
    let listed = member.events().list(request).await.expect("listed").into_inner();
    assert_eq!(listed.events.iter().map(|event| event.revision).collect::<Vec<_>>(), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_before_the_snapshot_are_compacted() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut member = single(dir.path()).await;
    furnish(&member, "web").await;
    annotated(&member, 450).await;
    member.stop().await;
    member.start_again().await;
    crate::support::until("it leads", async || member.status().await.standing() == v1::MemberStanding::Leader).await;
    let request = v1::WatchRequest { from_revision: 2, filter: None };
    let refusal = member.events().watch(request).await.expect_err("gone");
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (tonic::Code::OutOfRange, "compacted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn server_sent_events_carry_the_revision_and_go_on_after_the_last_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let member = single(dir.path()).await;
    furnish(&member, "web").await;
    let wanted = annotated(&member, 5).await;
    let mut stream = TcpStream::connect(member.api).await.expect("open");
    let head = format!("GET /v1/events:watch HTTP/1.1\r\nhost: test\r\nlast-event-id: {}\r\n\r\n", wanted[1]);
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut lines = BufReader::new(stream).lines();
    let mut ids: Vec<u64> = Vec::new();
    while ids.len() < 3 {
        let line = tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await.expect("in time");
        let line = line.expect("whole").expect("endless");
        ids.extend(line.strip_prefix("id: ").and_then(|id| id.parse::<u64>().ok()));
    }
    assert_eq!(ids, wanted[2..]);
}
