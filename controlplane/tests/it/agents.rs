//! The door for agents and members: who speaks is proven, and speaks for nobody else.

use controlplane::runtime::STREAM;
use proto::v1;
use proto::v1::template_service_client::TemplateServiceClient;
use proto::wire::agents_client::AgentsClient;
use proto::wire::peers_client::PeersClient;
use proto::wire::{self, from_agent, heartbeat_down, heartbeat_up, peer_message, to_agent};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::support::{TestMember, furnish, id, reason, roles, single, three, until};

fn inner(member: &TestMember) -> Channel {
    Channel::from_shared(format!("http://{}", member.peer)).expect("an address").connect_lazy()
}

async fn joined(member: &TestMember, name: &str) -> wire::AgentHello {
    let request = v1::JoinRequest { request_id: id(), name: name.into(), ..v1::JoinRequest::default() };
    let reply = member.nodes().join(request).await.expect("joined").into_inner();
    let wide = |text: &str| u128::from_str_radix(text, 16).expect("hexadecimal").to_be_bytes().to_vec();
    wire::AgentHello {
        cluster: wide(&reply.cluster_id).into(),
        generation: reply.generation,
        node: reply.node.trim_start_matches('n').parse().expect("an id"),
        secret: wide(&reply.secret).into(),
        feature_level: proto::FEATURE_LEVEL,
        generation_id: Default::default(),
    }
}

/// What a stream of heartbeats answers to a hello and one heartbeat of `node`.
async fn beat(member: &TestMember, hello: wire::AgentHello, node: u64) -> Option<heartbeat_down::Message> {
    let terms = wire::LeaseTerms::from(&cluster::Profile::Default.terms());
    let generation = hello.generation;
    let heartbeat = wire::Heartbeat {
        generation,
        node,
        incarnation: 1,
        boot: vec![7; 16].into(),
        terms: Some(terms),
        seq: 1,
        sent_at_ns: 1,
        generation_id: Default::default(),
    };
    let (out, stream) = mpsc::channel(4);
    for message in [heartbeat_up::Message::Hello(hello), heartbeat_up::Message::Heartbeat(heartbeat)] {
        out.send(wire::HeartbeatUp { message: Some(message) }).await.expect("room");
    }
    let mut answers =
        AgentsClient::new(inner(member)).heartbeats(ReceiverStream::new(stream)).await.expect("open").into_inner();
    answers.message().await.expect("whole").and_then(|answer| answer.message)
}

fn refusal(message: Option<heartbeat_down::Message>) -> String {
    match message {
        Some(heartbeat_down::Message::Refused(refused)) => refused.reason,
        other => format!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_is_taken_only_from_the_node_itself() {
    let dir = tempfile::tempdir().expect("a folder");
    let member = single(dir.path()).await;
    let hello = joined(&member, "node-1").await;
    let node = hello.node;
    let answer = beat(&member, hello.clone(), node).await;
    assert!(matches!(&answer, Some(heartbeat_down::Message::Reply(reply)) if reply.member == 1), "{answer:?}");
    assert_eq!(refusal(beat(&member, hello.clone(), node + 1).await), "other-node");
    let forged = wire::AgentHello { secret: vec![0; 16].into(), ..hello.clone() };
    assert_eq!(refusal(beat(&member, forged, node).await), "wrong-secret");
    let foreign = wire::AgentHello { cluster: vec![1; 16].into(), ..hello.clone() };
    assert_eq!(refusal(beat(&member, foreign, node).await), "other-cluster");
    let unknown = wire::AgentHello { node: 999, ..hello };
    assert_eq!(refusal(beat(&member, unknown, 999).await), "unknown-node");
}

async fn open_session(
    member: &TestMember,
    hello: wire::AgentHello,
) -> (mpsc::Sender<wire::FromAgent>, tonic::Streaming<wire::ToAgent>) {
    let (out, stream) = mpsc::channel(4);
    out.send(wire::FromAgent { message: Some(from_agent::Message::Hello(hello)) }).await.expect("room");
    let answers = AgentsClient::new(inner(member)).session(ReceiverStream::new(stream)).await.expect("open");
    (out, answers.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_sent_to_the_leader_and_registers_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let members = three(dir.path()).await;
    let (leader, others) = roles(&members).await;
    let hello = joined(leader, "node-1").await;
    let node = hello.node;
    until("the others know the node", async || {
        let request = v1::GetNodeRequest { node: "node-1".into(), stale: true };
        others[0].nodes().get(request).await.is_ok()
    })
    .await;
    let (_out, mut answers) = open_session(others[0], hello.clone()).await;
    match answers.message().await.expect("whole").and_then(|answer| answer.message) {
        Some(to_agent::Message::NotLeader(hint)) => assert_eq!(hint.peer_address, leader.peer.to_string()),
        other => panic!("{other:?}"),
    }
    let (out, mut answers) = open_session(leader, hello).await;
    let welcome = answers.message().await.expect("whole").and_then(|answer| answer.message);
    assert!(matches!(welcome, Some(to_agent::Message::Welcome(_))), "{welcome:?}");
    let facts = wire::NodeFacts {
        class: wire::FencingClass::F1.into(),
        class_reason: String::new(),
        capacity: Some(wire::Resources { cpu_millis: 4_000, memory_bytes: 8 << 30 }),
        runtimes: vec!["process".into()],
        runtimes_refused: Vec::new(),
        version: "test".into(),
        terms: Some(wire::LeaseTerms::from(&cluster::Profile::Default.terms())),
    };
    let boot = vec![7; 16].into();
    let register = wire::RegisterNode { node, ends: 0, boot, empty: true, facts: Some(facts), run: 0 };
    let register = wire::FromAgent { message: Some(from_agent::Message::Register(register)) };
    out.send(register).await.expect("room");
    let registered = answers.message().await.expect("whole").and_then(|answer| answer.message);
    assert!(
        matches!(&registered, Some(to_agent::Message::Registered(registered)) if registered.incarnation > 0),
        "{registered:?}"
    );
    // What an operator wants reaches the agent on the same stream.
    let request = v1::LeaveNodeRequest { request_id: id(), node: format!("@n{node}") };
    others[1].nodes().leave(request).await.expect("asked");
    loop {
        match answers.message().await.expect("whole").and_then(|answer| answer.message) {
            Some(to_agent::Message::PleaseLeave(_)) => break,
            Some(to_agent::Message::Desired(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_an_older_version_is_not_asked_what_it_does_not_know() {
    let dir = tempfile::tempdir().expect("a folder");
    let member = single(dir.path()).await;
    furnish(&member, "web").await;
    for (name, feature_level) in [("older", proto::level::TEMPLATES - 1), ("today", proto::FEATURE_LEVEL)] {
        let hello = wire::AgentHello { feature_level, ..joined(&member, name).await };
        let (_out, mut answers) = open_session(&member, hello).await;
        let welcome = answers.message().await.expect("whole").and_then(|answer| answer.message);
        assert!(matches!(welcome, Some(to_agent::Message::Welcome(_))), "{welcome:?}");
        let request = v1::ImportTemplateRequest {
            request_id: id(),
            name: "debian-12".into(),
            source: "/srv/debian-12.tar".into(),
            storage: "shared".into(),
            node: name.into(),
            ..v1::ImportTemplateRequest::default()
        };
        let imported = TemplateServiceClient::new(member.channel()).import(request).await;
        if name == "older" {
            let refused = imported.expect_err("refused");
            assert_eq!(reason(&refused), "agent-too-old", "{refused}");
            assert!(refused.message().contains("older version"), "{refused}");
            continue;
        }
        let _waiting = imported.expect("asked");
        let order = answers.message().await.expect("whole").and_then(|answer| answer.message);
        assert!(matches!(&order, Some(to_agent::Message::Errand(_))), "{order:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_among_members_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let member = single(dir.path()).await;
    let cluster = u128::from_str_radix(&member.status().await.cluster_id, 16).expect("hexadecimal");
    let hello = wire::PeerHello {
        cluster: cluster.to_be_bytes().to_vec().into(),
        generation: 1,
        member: 1,
        secret: vec![9; 16].into(),
        feature_level: proto::FEATURE_LEVEL,
        durable: Some(wire::LogPoint { term: 1, index: 1 }),
        learner: false,
        generation_id: Default::default(),
    };
    let cases = [
        (hello.clone(), "wrong-secret"),
        (wire::PeerHello { member: 77, ..hello.clone() }, "unknown-member"),
        (wire::PeerHello { cluster: vec![1; 16].into(), ..hello.clone() }, "other-cluster"),
        (wire::PeerHello { generation: 2, ..hello }, "other-generation"),
    ];
    for (hello, reason) in cases {
        let hello = wire::PeerMessage { message: Some(peer_message::Message::Hello(hello)) };
        let mut request = tonic::Request::new(tokio_stream::iter([hello]));
        request.metadata_mut().insert(STREAM, "raft".parse().expect("a word"));
        let mut answers = PeersClient::new(inner(&member)).exchange(request).await.expect("open").into_inner();
        let answer = answers.message().await.expect("whole").and_then(|answer| answer.message);
        assert!(
            matches!(&answer, Some(peer_message::Message::Refused(refused)) if refused.reason == reason),
            "{answer:?}"
        );
    }
}
