//! What agents and members say to each other keeps its bytes, and no field of any proto ever changes its number or type.
//! In: one of every kind of message, and the proto files. Out: what differs from `frozen/`.
//!
//! The rule that is held here: a version reads everything the version before it wrote, as it was meant; what a newer version
//! added to a message is passed over, what it added as a kind of its own is refused by name. So clusters are upgraded
//! member by member. The log and snapshots, which are read with no loss or not at all, are held in `proto/tests/border`.

#[allow(dead_code)]
#[path = "../../proto/tests/border/samples.rs"]
mod samples;

use std::collections::{BTreeMap, BTreeSet};

use cluster::agent::{Heartbeat, HeartbeatReply, ToAgent, ToLeader};
use prost::Message;
use prost::bytes::Bytes;
use proto::wire::{
    self, errand, errand_word, from_agent, heartbeat_down, heartbeat_up, peer_message, snapshot_chunk, to_agent,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal")).collect()
}

/// Name and rest of each line that is not a comment.
fn lines(text: &'static str) -> BTreeMap<&'static str, &'static str> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').expect("a name and what it stands for")).collect()
}

fn frozen() -> BTreeMap<&'static str, &'static str> {
    lines(include_str!("frozen/streams.txt"))
}

fn of(bytes: &'static [u8]) -> Bytes {
    Bytes::from_static(bytes)
}

fn point() -> wire::LogPoint {
    wire::LogPoint { term: 4, index: 300 }
}

/// By a recovery.
fn drawn() -> Bytes {
    of(&[0x9e; 16])
}

fn agent_hello() -> wire::AgentHello {
    wire::AgentHello {
        cluster: of(&[0xc1; 16]),
        generation: 1,
        node: 2,
        secret: of(&[0x5e; 32]),
        feature_level: 1,
        generation_id: Default::default(),
    }
}

fn peer_hello() -> wire::PeerHello {
    wire::PeerHello {
        cluster: of(&[0xc1; 16]),
        generation: 1,
        member: 2,
        secret: of(&[0x5e; 32]),
        feature_level: 1,
        durable: Some(point()),
        learner: true,
        generation_id: Default::default(),
    }
}

fn snapshot_meta() -> wire::SnapshotMeta {
    wire::SnapshotMeta { term: 4, index: 300, membership: of(&[1, 2, 3]), bytes: 65_536, hash: of(&[0x4a; 32]) }
}

fn raft_message() -> wire::RaftMessage {
    let entry = wire::RaftEntry { kind: 2, term: 4, index: 301, data: of(b"data"), context: of(b"context") };
    wire::RaftMessage {
        msg_type: wire::RaftMessageType::RequestPreVoteResponse as i32,
        to: 2,
        from: 1,
        term: 5,
        log_term: 4,
        index: 300,
        entries: vec![entry],
        commit: 299,
        commit_term: 3,
        snapshot: Some(snapshot_meta()),
        request_snapshot: 6,
        reject: true,
        reject_hint: 7,
        context: of(b"context"),
        priority: -8,
    }
}

fn refused() -> wire::Refused {
    wire::Refused { reason: "wrong-secret".into(), text: "the secret is wrong".into() }
}

fn beats_up() -> Vec<heartbeat_up::Message> {
    use heartbeat_up::Message as Up;
    let heartbeat = samples::heartbeat();
    vec![
        Up::Hello(agent_hello()),
        Up::Heartbeat(wire::Heartbeat::from(&heartbeat)),
        Up::Hello(wire::AgentHello { generation: 2, generation_id: drawn(), ..agent_hello() }),
        Up::Heartbeat(wire::Heartbeat { generation: 2, generation_id: drawn(), ..(&heartbeat).into() }),
    ]
}

fn beats_down() -> Vec<heartbeat_down::Message> {
    use heartbeat_down::Message as Down;
    let replies = samples::heartbeat_replies();
    let mut all: Vec<Down> = replies.iter().map(|reply| Down::Reply(wire::HeartbeatReply::from(reply))).collect();
    all.push(Down::Refused(refused()));
    all
}

fn agent_says() -> Vec<from_agent::Message> {
    let mut all = vec![from_agent::Message::Hello(agent_hello())];
    all.extend(samples::to_leader().iter().filter_map(|said| wire::FromAgent::from(said).message));
    let word = |word| from_agent::Message::Errand(wire::ErrandWord { errand: 7, word: Some(word) });
    let progress =
        wire::ErrandProgress { phase: wire::ErrandPhase::Reading.into(), bytes: 300, bytes_total: 4096, entries: 9 };
    let imported = wire::TemplateImported {
        digest: "sha256:ab".into(),
        path: "templates/sha256-ab/rootfs".into(),
        bytes: 300,
        command: vec!["/init".into()],
        environment: vec!["LANG=C".into()],
        working_dir: "/srv".into(),
        notes: vec!["left out: x".into()],
        was_there: true,
    };
    let failed = wire::ErrandFailed { reason: "bad-archive".into(), text: "entry".into() };
    all.push(word(errand_word::Word::Progress(progress)));
    all.push(word(errand_word::Word::Imported(imported)));
    all.push(word(errand_word::Word::Failed(failed)));
    let found = wire::TemplateFound {
        presence: wire::TemplatePresence::Damaged.into(),
        bytes: 300,
        claim: "ab/1".into(),
        problem: "etc/hosts is changed".into(),
    };
    all.push(word(errand_word::Word::Templates(wire::TemplatesFound { found: vec![found] })));
    all
}

fn agent_hears() -> Vec<to_agent::Message> {
    use to_agent::Message as To;
    let mut all: Vec<To> = samples::to_agent().iter().filter_map(|said| wire::ToAgent::from(said).message).collect();
    all.push(To::Welcome(wire::AgentWelcome { member: 3, feature_level: 0 }));
    all.push(To::Welcome(wire::AgentWelcome { member: 3, feature_level: 4 }));
    all.push(To::NotLeader(wire::NotLeader {
        leader: 2,
        peer_address: "10.0.0.2:7441".into(),
        api_address: "10.0.0.2:7440".into(),
    }));
    all.push(To::Refused(refused()));
    all.push(To::PleaseLeave(wire::Nothing {}));
    // Of a cluster that was recovered.
    let again: Vec<To> = all
        .iter()
        .filter_map(|said| match said.clone() {
            To::Registered(it) => Some(To::Registered(wire::Registered { generation_id: drawn(), ..it })),
            To::Desired(it) => Some(To::Desired(wire::DesiredSet { generation_id: drawn(), ..it })),
            _ => None,
        })
        .collect();
    all.extend(again);
    let import = wire::ImportTemplate {
        source: "/srv/a.tar".into(),
        storage_path: "/srv/quorate".into(),
        digest: "sha256:ab".into(),
        plain_http: true,
        set_id: wire::TemplateTreatment::Refuse.into(),
        capabilities: wire::TemplateTreatment::LeaveOut.into(),
        devices: wire::TemplateTreatment::LeaveOut.into(),
        fifos: wire::TemplateTreatment::Refuse.into(),
        claim: "ab/1".into(),
        over_others: false,
    };
    let place = wire::TemplatePlace {
        storage_path: "/srv/quorate".into(),
        path: "templates/sha256-ab/rootfs".into(),
        digest: "sha256:ab".into(),
        claim: "ab/1".into(),
    };
    let places = || wire::TemplatePlaces { places: vec![place.clone()] };
    let errands = [
        errand::What::ImportTemplate(import),
        errand::What::SurveyTemplates(places()),
        errand::What::VerifyTemplates(places()),
        errand::What::DiscardTemplates(places()),
    ];
    all.extend(errands.map(|what| To::Errand(wire::Errand { id: 7, what: Some(what) })));
    all.push(To::CancelErrand(7));
    all
}

fn peers_say() -> Vec<peer_message::Message> {
    use peer_message::Message as Peer;
    let incarnation = wire::NodeIncarnation { node: 2, incarnation: 9 };
    let age = wire::NodeAge { node: 2, incarnation: 9, age_ns: 1_000_000_007 };
    vec![
        Peer::Hello(peer_hello()),
        Peer::Raft(raft_message()),
        Peer::YouLostData(wire::YouLostData { had: 300, have: 299 }),
        Peer::AskAges(wire::AskAges { round: 1, nodes: vec![incarnation] }),
        Peer::Ages(wire::Ages { round: 1, ages: vec![age], started_cold: true, up_for_ns: 5_000_000_011 }),
        Peer::AskRemaining(wire::AskRemaining { round: 2, node: 2, incarnation: 9, fencing: Some(point()) }),
        Peer::Remaining(wire::Remaining {
            round: 2,
            node: 2,
            incarnation: 9,
            fencing: Some(point()),
            remaining_ns: 3_000_000_019,
        }),
        Peer::StateHash(wire::StateHash { revision: 300, hash: of(&[0x4a; 16]) }),
        Peer::Refused(refused()),
        Peer::Hello(wire::PeerHello { generation: 2, generation_id: drawn(), ..peer_hello() }),
    ]
}

fn chunks() -> Vec<snapshot_chunk::Message> {
    use snapshot_chunk::Message as Chunk;
    vec![
        Chunk::Hello(peer_hello()),
        Chunk::Head(wire::SnapshotHead { meta: Some(snapshot_meta()), message: Some(raft_message()) }),
        Chunk::Data(of(b"a piece")),
        Chunk::Hash(of(&[0x4a; 32])),
    ]
}

/// The kind as its proto names it. A kind that is added does not compile until it is here, and then wants its bytes.
trait Kind {
    fn kind(&self) -> &'static str;
}

macro_rules! kinds {
    ($($message:path { $($variant:ident => $field:literal),* $(,)? })*) => {
        $(impl Kind for $message {
            fn kind(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $field,)*
                }
            }
        })*
    };
}

kinds! {
    heartbeat_up::Message { Hello => "hello", Heartbeat => "heartbeat" }
    heartbeat_down::Message { Reply => "reply", Refused => "refused" }
    from_agent::Message {
        Hello => "hello", Register => "register", Report => "report", Ended => "ended", TermsInForce => "terms_in_force",
        Holding => "holding", Finds => "finds", ClassChanged => "class_changed", Errand => "errand",
    }
    to_agent::Message {
        Welcome => "welcome", Registered => "registered", NotRegistered => "not_registered", Desired => "desired",
        VoidIncarnation => "void_incarnation", NotLeader => "not_leader", Refused => "refused", PleaseLeave => "please_leave",
        Errand => "errand", CancelErrand => "cancel_errand",
    }
    peer_message::Message {
        Hello => "hello", Raft => "raft", YouLostData => "you_lost_data", AskAges => "ask_ages", Ages => "ages",
        AskRemaining => "ask_remaining", Remaining => "remaining", StateHash => "state_hash", Refused => "refused",
    }
    snapshot_chunk::Message { Hello => "hello", Head => "head", Data => "data", Hash => "hash" }
}

/// Decodes and encodes again: what it reads it must also write.
fn again<M: Message + Default>(bytes: &[u8]) -> Vec<u8> {
    M::decode(bytes).expect("a message of this kind").encode_to_vec()
}

/// One thing that is said: its name in `frozen/`, its bytes now, and how this version reads them.
struct Said {
    name: String,
    bytes: Vec<u8>,
    again: fn(&[u8]) -> Vec<u8>,
}

fn said<K: Kind, M: Message + Default>(message: &str, all: Vec<K>, wrap: impl Fn(K) -> M) -> Vec<Said> {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    let name = |kind: K| {
        let field = kind.kind();
        let number = seen.entry(field).and_modify(|number| *number += 1).or_insert(0);
        Said { name: format!("{message}.{field}.{number}"), bytes: wrap(kind).encode_to_vec(), again: again::<M> }
    };
    all.into_iter().map(name).collect()
}

fn everything() -> Vec<Said> {
    let single = |name: &str, bytes: Vec<u8>, again| Said { name: name.into(), bytes, again };
    let join = wire::AgentJoin {
        request: Some(wire::RequestId { session: of(&[0x01; 16]), sequence: 17 }),
        name: "node-1".into(),
        role: wire::NodeRole::Standby as i32,
        labels: [("disk".to_owned(), "fast".to_owned())].into(),
        failure_domain: "rack-1".into(),
    };
    let joined = wire::AgentJoined {
        cluster: of(&[0xc1; 16]),
        generation: 1,
        node: 2,
        secret: of(&[0x5e; 32]),
        members: vec!["10.0.0.1:7441".into()],
        generation_id: Default::default(),
    };
    let mut all = vec![
        single("AgentJoin", join.encode_to_vec(), again::<wire::AgentJoin>),
        single("AgentJoined", joined.encode_to_vec(), again::<wire::AgentJoined>),
        single("SnapshotTaken", wire::SnapshotTaken { index: 300 }.encode_to_vec(), again::<wire::SnapshotTaken>),
    ];
    all.extend(said("HeartbeatUp", beats_up(), |it| wire::HeartbeatUp { message: Some(it) }));
    all.extend(said("HeartbeatDown", beats_down(), |it| wire::HeartbeatDown { message: Some(it) }));
    all.extend(said("FromAgent", agent_says(), |it| wire::FromAgent { message: Some(it) }));
    all.extend(said("ToAgent", agent_hears(), |it| wire::ToAgent { message: Some(it) }));
    all.extend(said("PeerMessage", peers_say(), |it| wire::PeerMessage { message: Some(it) }));
    all.extend(said("SnapshotChunk", chunks(), |it| wire::SnapshotChunk { message: Some(it) }));
    all
}

#[test]
fn everything_said_has_the_bytes_it_always_had() {
    let frozen = frozen();
    let mut missing = String::new();
    for Said { name, bytes, .. } in everything() {
        match frozen.get(name.as_str()) {
            Some(before) => assert_eq!(hex(&bytes), *before, "{name}: the version before would read it differently"),
            None => missing.push_str(&format!("{name} {}\n", hex(&bytes))),
        }
    }
    assert!(missing.is_empty(), "add to tests/tests/frozen/streams.txt, and never change a line of it:\n{missing}");
}

#[test]
fn everything_the_version_before_said_is_still_read_whole() {
    let known: BTreeMap<String, Said> = everything().into_iter().map(|said| (said.name.clone(), said)).collect();
    for (name, bytes) in frozen() {
        let said = known.get(name).unwrap_or_else(|| panic!("nobody reads {name} any more"));
        assert_eq!(hex(&(said.again)(&unhex(bytes))), bytes, "{name}");
    }
}

#[test]
fn every_message_of_a_stream_has_frozen_bytes() {
    let frozen: BTreeSet<String> =
        frozen().keys().map(|name| name.splitn(3, '.').take(2).collect::<Vec<_>>().join(".")).collect();
    let fields = fields();
    for file in ["agent", "peer"] {
        let streams = rpcs(source(file));
        assert!(streams.len() >= 3, "{streams:?}");
        for message in streams {
            let prefix = format!("quorate.wire.v1.{message}.");
            let own: Vec<&str> = fields.keys().filter_map(|field| field.strip_prefix(&prefix)).collect();
            assert!(!own.is_empty(), "{message} has no fields");
            for field in own {
                // Messages of one kind have one line; those of a stream one for each kind.
                let found = frozen.contains(message) || frozen.contains(&format!("{message}.{field}"));
                assert!(found, "{message}.{field} has no line in frozen/streams.txt");
            }
        }
    }
}

#[test]
fn what_a_newer_version_added_to_a_message_is_passed_over() {
    // Field 2047, a word: `fa 7f 03 "new"`.
    let new = [0xfa, 0x7f, 0x03, b'n', b'e', b'w'];
    for Said { name, bytes, again } in everything() {
        let with_more = [&bytes[..], &new[..]].concat();
        assert_eq!(hex(&again(&with_more)), hex(&bytes), "{name}");
    }
}

#[test]
fn a_kind_of_message_this_version_does_not_know_is_refused_by_name() {
    let new: &[u8] = &[0xfa, 0x7f, 0x00];
    let error = ToLeader::try_from(wire::FromAgent::decode(new).expect("decodes")).expect_err("says nothing known");
    assert_eq!(error.field, "message");
    let error = ToAgent::try_from(wire::ToAgent::decode(new).expect("decodes")).expect_err("says nothing known");
    assert_eq!(error.field, "message");
    let reply = wire::HeartbeatReply::from(&samples::heartbeat_replies()[0]);
    let unknown = wire::HeartbeatReply { answer: None, ..reply };
    assert_eq!(HeartbeatReply::try_from(unknown).expect_err("neither yes nor no").field, "answer");
    let bare = wire::Heartbeat { terms: None, ..wire::Heartbeat::from(&samples::heartbeat()) };
    assert_eq!(Heartbeat::try_from(bare).expect_err("no lease without terms").field, "terms");
}

// ---- Numbers and types of every field ----

const PUBLIC: [(&str, &str); 7] = [
    ("common", include_str!("../../proto/quorate/v1/common.proto")),
    ("cluster", include_str!("../../proto/quorate/v1/cluster.proto")),
    ("nodes", include_str!("../../proto/quorate/v1/nodes.proto")),
    ("containers", include_str!("../../proto/quorate/v1/containers.proto")),
    ("templates", include_str!("../../proto/quorate/v1/templates.proto")),
    ("storages", include_str!("../../proto/quorate/v1/storages.proto")),
    ("events", include_str!("../../proto/quorate/v1/events.proto")),
];

const INNER: [(&str, &str); 5] = [
    ("model", include_str!("../../proto/quorate/wire/v1/model.proto")),
    ("log", include_str!("../../proto/quorate/wire/v1/log.proto")),
    ("snapshot", include_str!("../../proto/quorate/wire/v1/snapshot.proto")),
    ("agent", include_str!("../../proto/quorate/wire/v1/agent.proto")),
    ("peer", include_str!("../../proto/quorate/wire/v1/peer.proto")),
];

fn source(file: &str) -> &'static str {
    INNER.iter().find(|(name, _)| *name == file).expect("a proto").1
}

/// The messages that the rpcs of a file take and give.
fn rpcs(text: &str) -> BTreeSet<&str> {
    let lines = text.lines().map(str::trim).filter(|line| line.starts_with("rpc "));
    lines
        .flat_map(|line| line.split('(').skip(1).filter_map(|part| part.split(')').next()))
        .map(|message| message.trim_start_matches("stream ").trim())
        .collect()
}

/// Number and type of every field and enum value, by its full name, as `3 repeated RaftEntry`.
fn fields() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (_, text) in PUBLIC.iter().chain(&INNER) {
        parse(text, &mut all);
    }
    all
}

/// Reads a proto as this project writes them: one declaration a line. `oneof` opens no name of its own.
fn parse(text: &str, all: &mut BTreeMap<String, String>) {
    let mut rooms: Vec<String> = Vec::new();
    let mut service = 0;
    for line in text.lines().map(|line| line.split("//").next().unwrap_or_default().trim()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["package", name] = words[..] {
            rooms.push(name.trim_end_matches(';').to_owned());
        } else if service > 0 || line.starts_with("service ") {
            service += line.matches('{').count();
            service -= line.matches('}').count();
        } else if let ["message" | "enum", name, ..] = words[..] {
            if !line.ends_with('}') {
                rooms.push(name.to_owned());
            }
        } else if line.starts_with("oneof ") {
            rooms.push(String::new());
        } else if line == "}" {
            rooms.pop();
        } else if let Some((left, number)) = line.strip_suffix(';').and_then(|line| line.split_once(" = "))
            && let Ok(number) = number.split(' ').next().unwrap_or_default().parse::<i32>()
        {
            let (kind, name) = left.rsplit_once(' ').unwrap_or(("value", left));
            let room: Vec<&str> = rooms.iter().map(String::as_str).filter(|room| !room.is_empty()).collect();
            all.insert(format!("{}.{name}", room.join(".")), format!("{number} {kind}"));
        }
    }
    assert_eq!(rooms.len(), 1, "a bracket is not closed: {rooms:?}");
}

#[test]
fn no_field_changes_its_number_or_type() {
    let now = fields();
    let frozen = lines(include_str!("frozen/fields.txt"));
    for (name, before) in &frozen {
        match now.get(*name) {
            Some(now) => assert_eq!(now, before, "{name}: what is stored or said would be read differently"),
            // A field may go when nobody writes it any more; its number may never come back.
            None => assert!(retired(name, before), "{name} is gone: write `reserved` for its number and its name"),
        }
    }
    let missing: Vec<String> = now
        .iter()
        .filter(|(name, _)| !frozen.contains_key(name.as_str()))
        .map(|(name, what)| format!("{name} {what}"))
        .collect();
    let missing = missing.join("\n");
    assert!(missing.is_empty(), "add to tests/tests/frozen/fields.txt, and never change a line of it:\n{missing}");
}

/// Whether the message of a field that is gone reserves its number.
fn retired(name: &str, before: &str) -> bool {
    let (message, _) = name.rsplit_once('.').expect("a message and a field");
    let message = message.rsplit('.').next().expect("a name");
    let number = before.split(' ').next().expect("a number");
    PUBLIC.iter().chain(&INNER).any(|(_, text)| {
        let inside = text.lines().skip_while(|line| !line.trim().starts_with(&format!("message {message} ")));
        let mut inside = inside.take_while(|line| *line != "}");
        inside.any(|line| {
            let numbers = line.trim().strip_prefix("reserved ").map(|rest| rest.trim_end_matches(';'));
            numbers.is_some_and(|numbers| numbers.split(',').any(|it| it.trim() == number))
        })
    })
}

#[test]
fn the_reader_of_protos_sees_what_is_there() {
    let mut all = BTreeMap::new();
    let text = "package a.v1;\n\nservice S {\n  rpc Go(X) returns (X) {\n    option (http) = {get: \"/x\"};\n  }\n}\n\
                message X {\n  message Y {}\n  // not = 9;\n  repeated uint64 one = 1;\n  oneof two {\n    string three = 3; // a word\n  }\n\
                  map<string, string> labels = 4;\n}\nenum E {\n  E_ZERO = 0;\n}\n";
    parse(text, &mut all);
    let all: Vec<String> = all.into_iter().map(|(name, what)| format!("{name} {what}")).collect();
    let expected = [
        "a.v1.E.E_ZERO 0 value",
        "a.v1.X.labels 4 map<string, string>",
        "a.v1.X.one 1 repeated uint64",
        "a.v1.X.three 3 string",
    ];
    assert_eq!(all, expected);
    assert_eq!(Vec::from_iter(rpcs("  rpc Go(stream X) returns (stream Y);")), ["X", "Y"]);
}
