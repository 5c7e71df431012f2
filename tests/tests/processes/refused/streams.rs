//! Streams of agents and members: who speaks is proven at the opening, and speaks for nobody else.

use proto::wire::agents_client::AgentsClient;
use proto::wire::peers_client::PeersClient;
use proto::wire::{self, from_agent, heartbeat_down, heartbeat_up, peer_message, to_agent};
use serde_json::{Value, json};
use tests::processes::{Cluster, number, until, until_so};
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::{self, wrappers::ReceiverStream};

use super::doors::{Ground, block, channel};

/// A cluster of one member and a node whose agent is made up here: it registers and is given a container.
pub struct Speaker {
    pub cluster: Cluster,
    hello: wire::AgentHello,
    /// A node that was joined after it and never spoke.
    other: u64,
    incarnation: u64,
    container: u64,
}

impl Speaker {
    pub fn new() -> Speaker {
        let cluster = Cluster::start("speaker", 1, "default");
        cluster.furnish();
        let joined = cluster.members[0].order("POST", "/v1/nodes", json!({ "name": "node-1" }));
        let other = id_of(&cluster.members[0].order("POST", "/v1/nodes", json!({ "name": "node-2" }))["node"]);
        let wide = |text: &Value| {
            let text = text.as_str().expect("text");
            u128::from_str_radix(text, 16).expect("hexadecimal").to_be_bytes().to_vec().into()
        };
        let hello = wire::AgentHello {
            cluster: wide(&joined["clusterId"]),
            generation: number(&joined["generation"]),
            node: id_of(&joined["node"]),
            secret: wide(&joined["secret"]),
            feature_level: proto::FEATURE_LEVEL,
            generation_id: Default::default(),
        };
        let mut speaker = Speaker { cluster, hello, other, incarnation: 0, container: 0 };
        let register = from_agent::Message::Register(speaker.registration(speaker.hello.node));
        let answer = speaker.says(vec![register], |answer| matches!(answer, to_agent::Message::Registered(_)));
        let Some(to_agent::Message::Registered(registered)) = answer else { panic!("not registered: {answer:?}") };
        speaker.incarnation = registered.incarnation;
        let container = speaker.cluster.create("web", json!({}));
        speaker.container = container[1..].parse().expect("an id as c7");
        until_so("it is given to the node", || !matches!(&speaker.cluster.container("web")["assignment"], Value::Null));
        speaker
    }

    fn registration(&self, node: u64) -> wire::RegisterNode {
        let terms = wire::LeaseTerms::from(&cluster::Profile::Default.terms());
        let facts = wire::NodeFacts {
            class: wire::FencingClass::F1.into(),
            class_reason: String::new(),
            capacity: Some(wire::Resources { cpu_millis: 4_000, memory_bytes: 8 << 30 }),
            runtimes: vec!["process".into()],
            runtimes_refused: Vec::new(),
            version: "made up".into(),
            terms: Some(terms),
        };
        wire::RegisterNode { node, ends: 0, boot: vec![7; 16].into(), empty: true, facts: Some(facts), run: 1 }
    }

    /// Opens a session with the leader, says this, and hears until `last` holds or the stream ends.
    fn says(
        &self,
        words: Vec<from_agent::Message>,
        last: impl Fn(&to_agent::Message) -> bool,
    ) -> Option<to_agent::Message> {
        self.says_as(self.hello.clone(), words, last)
    }

    fn says_as(
        &self,
        hello: wire::AgentHello,
        words: Vec<from_agent::Message>,
        last: impl Fn(&to_agent::Message) -> bool,
    ) -> Option<to_agent::Message> {
        block(async {
            let (out, stream) = mpsc::channel(8);
            for message in std::iter::once(from_agent::Message::Hello(hello)).chain(words) {
                out.send(wire::FromAgent { message: Some(message) }).await.expect("room");
            }
            let mut client = AgentsClient::new(channel(&self.cluster.members[0].peer));
            let mut answers = client.session(ReceiverStream::new(stream)).await.expect("open").into_inner();
            while let Some(answer) = answers.message().await.expect("whole") {
                let message = answer.message.expect("a word");
                if last(&message) {
                    return Some(message);
                }
            }
            None
        })
    }

    /// What a stream of heartbeats answers first to a heartbeat of `node`.
    fn beats_as(&self, hello: wire::AgentHello, node: u64) -> heartbeat_down::Message {
        let heartbeat = wire::Heartbeat {
            generation: self.hello.generation,
            node,
            incarnation: self.incarnation,
            boot: vec![7; 16].into(),
            terms: Some(wire::LeaseTerms::from(&cluster::Profile::Default.terms())),
            seq: 1,
            sent_at_ns: 1,
            generation_id: Default::default(),
        };
        block(async {
            let words = [heartbeat_up::Message::Hello(hello), heartbeat_up::Message::Heartbeat(heartbeat)];
            let (out, stream) = mpsc::channel(2);
            for message in words {
                out.send(wire::HeartbeatUp { message: Some(message) }).await.expect("room");
            }
            let mut client = AgentsClient::new(channel(&self.cluster.members[0].peer));
            let mut answers = client.heartbeats(ReceiverStream::new(stream)).await.expect("open").into_inner();
            let answer = answers.message().await.expect("whole").expect("an answer");
            answer.message.expect("a word")
        })
    }

    /// Hellos of nobody in this cluster, and what is said of each.
    fn strangers(&self) -> [(wire::AgentHello, &'static str); 4] {
        let own = || self.hello.clone();
        [
            (wire::AgentHello { secret: vec![0; 16].into(), ..own() }, "wrong-secret"),
            (wire::AgentHello { node: 999, ..own() }, "unknown-node"),
            (wire::AgentHello { cluster: vec![1; 16].into(), ..own() }, "other-cluster"),
            (wire::AgentHello { generation: 9, ..own() }, "other-generation"),
        ]
    }
}

/// `3` of `n3`.
fn id_of(text: &Value) -> u64 {
    text.as_str().and_then(|id| id[1..].parse().ok()).expect("an id as n3")
}

#[track_caller]
fn is_refused(refused: &wire::Refused, reason: &str) {
    assert_eq!(refused.reason, reason, "{refused:?}");
    assert!(!refused.text.is_empty(), "{reason} without words");
}

pub fn heartbeat_for_another_node(ground: &Ground) {
    let speaker = &ground.speaker;
    let own = speaker.beats_as(speaker.hello.clone(), speaker.hello.node);
    assert!(matches!(own, heartbeat_down::Message::Reply(_)), "its own is taken: {own:?}");
    match speaker.beats_as(speaker.hello.clone(), speaker.other) {
        heartbeat_down::Message::Refused(refused) => is_refused(&refused, "other-node"),
        other => panic!("a heartbeat for another node was answered: {other:?}"),
    }
}

pub fn registration_for_another_node(ground: &Ground) {
    let speaker = &ground.speaker;
    let register = from_agent::Message::Register(speaker.registration(speaker.other));
    let answer = speaker.says(vec![register], |answer| matches!(answer, to_agent::Message::Refused(_)));
    let Some(to_agent::Message::Refused(refused)) = answer else { panic!("it may speak for another: {answer:?}") };
    is_refused(&refused, "other-node");
    let node = speaker.cluster.node("node-2");
    assert_eq!(node["health"], "NODE_HEALTH_JOINED", "{node}");
}

pub fn stranger_among_nodes(ground: &Ground) {
    let speaker = &ground.speaker;
    for (hello, reason) in speaker.strangers() {
        match speaker.beats_as(hello.clone(), hello.node) {
            heartbeat_down::Message::Refused(refused) => is_refused(&refused, reason),
            other => panic!("{reason}: {other:?}"),
        }
        let register = from_agent::Message::Register(speaker.registration(hello.node));
        match speaker.says_as(hello, vec![register], |_| true) {
            Some(to_agent::Message::Refused(refused)) => is_refused(&refused, reason),
            other => panic!("{reason}: {other:?}"),
        }
    }
}

/// It is repeated until a set shows that it was taken, so there is nothing to answer; the leader's log says who made it up.
pub fn epoch_from_the_future(ground: &Ground) {
    let speaker = &ground.speaker;
    let member = &speaker.cluster.members[0];
    let running = || wire::Observed { observed: Some(wire::observed::Observed::Running(wire::Nothing {})) };
    let report = |container, epoch| {
        let what = Some(wire::report::What::Observed(running()));
        let reports = vec![wire::Report { container, epoch, what }];
        from_agent::Message::Report(wire::StatusReport { incarnation: speaker.incarnation, reports })
    };
    let holding = wire::Holding { incarnation: speaker.incarnation, revision: 1, missing: Vec::new() };
    // One that was never created is nobody's, and a report of it is passed over.
    let words =
        vec![report(speaker.container + 999, 1), report(speaker.container, 999), from_agent::Message::Holding(holding)];
    let heard = speaker.says(words, |answer| matches!(answer, to_agent::Message::Desired(_)));
    assert!(heard.is_some(), "the session goes on");
    let says = "which lies in the future of";
    let said =
        until("the leader says so", || member.log().lines().rev().find(|line| line.contains(says)).map(str::to_owned));
    let who = format!("n{} reports on c{} e999", speaker.hello.node, speaker.container);
    assert!(said.contains(&who) && said.contains("refused: reports.epoch"), "{said}");
    assert_eq!(number(&speaker.cluster.container("web")["assignment"]["epoch"]), 1);
}

pub fn stranger_among_members(ground: &Ground) {
    let speaker = &ground.speaker;
    let hello = wire::PeerHello {
        cluster: speaker.hello.cluster.clone(),
        generation: speaker.hello.generation,
        member: 1,
        secret: vec![9; 16].into(),
        feature_level: proto::FEATURE_LEVEL,
        durable: Some(wire::LogPoint { term: 1, index: 1 }),
        learner: false,
        generation_id: Default::default(),
    };
    for (hello, reason) in [
        (wire::PeerHello { member: 77, ..hello.clone() }, "unknown-member"),
        (hello.clone(), "wrong-secret"),
        (wire::PeerHello { cluster: vec![1; 16].into(), ..hello.clone() }, "other-cluster"),
        (wire::PeerHello { generation: 9, ..hello }, "other-generation"),
    ] {
        let hello = wire::PeerMessage { message: Some(peer_message::Message::Hello(hello)) };
        let answer = block(async {
            let mut request = tonic::Request::new(tokio_stream::iter([hello]));
            request.metadata_mut().insert("quorate-stream", "raft".parse().expect("a word"));
            let mut client = PeersClient::new(channel(&speaker.cluster.members[0].peer));
            let mut answers = client.exchange(request).await.expect("open").into_inner();
            answers.message().await.expect("whole").and_then(|answer| answer.message)
        });
        match answer {
            Some(peer_message::Message::Refused(refused)) => is_refused(&refused, reason),
            other => panic!("{reason}: {other:?}"),
        }
    }
}
