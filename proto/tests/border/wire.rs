//! What is written down reads back as it was, by this version and by every later one: round trips, and frozen bytes.

use crate::samples;

use std::collections::BTreeMap;

use cluster::agent::{Heartbeat, HeartbeatReply, ToAgent, ToLeader};
use cluster::{RequestId, SessionId};
use proptest::prelude::*;
use prost::Message;
use proto::convert::{ConvertError, Fault, request};
use proto::{log, snapshot, wire};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal")).collect()
}

/// Name and bytes of each frozen line.
fn frozen() -> BTreeMap<&'static str, &'static str> {
    let lines = include_str!("frozen/log.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').expect("name and bytes")).collect()
}

/// The fields of `oneof command`, as log.proto names them.
fn command_fields() -> Vec<&'static str> {
    let text = include_str!("../../quorate/wire/v1/log.proto");
    let (_, oneof) = text.split_once("oneof command {").expect("the commands");
    let (oneof, _) = oneof.split_once('}').expect("their end");
    oneof.lines().filter_map(|line| line.split_whitespace().nth(1)).collect()
}

#[test]
fn every_command_has_the_bytes_it_always_had() {
    let frozen = frozen();
    let mut missing = String::new();
    for (name, entry) in samples::entries() {
        let bytes = hex(&log::encode(&entry));
        match frozen.get(name.as_str()) {
            Some(before) => assert_eq!(&bytes, before, "{name}: logs of older versions would be read differently"),
            None => missing.push_str(&format!("{name} {bytes}\n")),
        }
    }
    assert!(missing.is_empty(), "add to tests/border/frozen/log.txt, and never change a line of it:\n{missing}");
}

#[test]
fn every_frozen_entry_still_reads_as_what_it_meant() {
    let samples: BTreeMap<String, _> = samples::entries().into_iter().collect();
    for (name, bytes) in frozen() {
        let entry = log::decode(&unhex(bytes)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(Some(&entry), samples.get(name), "{name}");
    }
}

#[test]
fn no_command_is_without_frozen_bytes() {
    let fields = command_fields();
    assert!(fields.len() >= 30, "{fields:?}");
    for field in fields {
        let found = frozen().keys().any(|name| name.split('.').next() == Some(field));
        assert!(found, "{field} has no line in tests/border/frozen/log.txt");
    }
}

#[test]
fn what_a_newer_version_wrote_is_refused_not_guessed() {
    let (_, entry) = samples::entries().remove(0);
    let mut message = wire::LogEntry::from(&entry);
    message.feature_level = proto::FEATURE_LEVEL + 1;
    let error = log::decode(&message.encode_to_vec()).expect_err("too new");
    assert!(error.to_string().starts_with(&format!("feature_level: is {}", proto::FEATURE_LEVEL + 1)), "{error}");
    message.feature_level = 0;
    assert!(log::decode(&message.encode_to_vec()).is_err());
    // A command this version does not know decodes as none.
    let unknown = [&[0x08, 0x01][..], &[0xfa, 0x3f, 0x00]].concat();
    let error = log::decode(&unknown).expect_err("an unknown command");
    assert!(error.to_string().starts_with("command: is required"), "{error}");
}

#[test]
fn errors_name_the_field() {
    let (_, entry) = samples::entries().into_iter().find(|(name, _)| name == "assign.0").expect("there is one");
    let mut message = wire::LogEntry::from(&entry);
    if let Some(wire::log_entry::Command::Assign(assign)) = &mut message.command
        && let Some(decision) = &mut assign.decision
    {
        decision.candidates[1].score.as_mut().expect("a score").role = 77;
    }
    let error = log::decode(&message.encode_to_vec()).expect_err("no such role");
    assert!(error.to_string().starts_with("command.decision.candidates[1].score.role: value 77"), "{error}");
}

#[test]
fn a_snapshot_holds_everything_and_is_written_the_same_twice() {
    let state = samples::state();
    let bytes: Vec<u8> = snapshot::encode(&state).flatten().collect();
    for piece in [1, 7, 4_096, bytes.len()] {
        let mut reader = snapshot::Reader::new();
        bytes.chunks(piece).for_each(|piece| reader.push(piece).expect("sound"));
        let read = reader.finish().expect("whole");
        assert_eq!(read.truth(), state.truth());
        assert_eq!(read.hash(), state.hash());
        assert_eq!(snapshot::encode(&read).flatten().collect::<Vec<u8>>(), bytes);
    }
}

#[test]
fn a_snapshot_cut_short_anywhere_is_refused() {
    let bytes: Vec<u8> = snapshot::encode(&samples::state()).flatten().collect();
    // Every length near both ends, where header and end stand; one in seventeen between.
    let ends = (0..bytes.len()).filter(|end| end % 17 == 0 || *end < 300 || bytes.len() - end < 100);
    for end in ends {
        assert!(snapshot::decode(&bytes[..end]).is_err(), "{end} of {} bytes were taken for all", bytes.len());
    }
    let more = [&bytes[..], &[0]].concat();
    assert!(snapshot::decode(&more).is_err(), "bytes after the end were ignored");
}

#[test]
fn the_snapshot_reads_as_it_always_did() {
    let frozen = include_str!("frozen/snapshot.txt").trim();
    let written = hex(&snapshot::encode(&samples::state()).flatten().collect::<Vec<u8>>());
    assert_eq!(written, frozen, "snapshots of older versions would be read differently");
    let read = snapshot::decode(&unhex(frozen)).expect("snapshots of older versions can be read");
    assert_eq!(read.truth(), samples::state().truth());
}

#[test]
fn what_agents_and_members_say_survives_the_way() {
    let beat = samples::heartbeat();
    assert_eq!(Heartbeat::try_from(wire::Heartbeat::from(&beat)), Ok(beat));
    for reply in samples::heartbeat_replies() {
        assert_eq!(HeartbeatReply::try_from(wire::HeartbeatReply::from(&reply)), Ok(reply));
    }
    for said in samples::to_leader() {
        assert_eq!(ToLeader::try_from(wire::FromAgent::from(&said)), Ok(said));
    }
    for said in samples::to_agent() {
        assert_eq!(ToAgent::try_from(wire::ToAgent::from(&said)), Ok(said));
    }
}

#[test]
fn voters_out_of_order_are_refused() {
    let reply = samples::heartbeat_replies().remove(0);
    let mut message = wire::HeartbeatReply::from(&reply);
    if let Some(wire::heartbeat_reply::Answer::Acknowledged(identity)) = &mut message.answer {
        identity.voters.reverse();
    }
    let error = HeartbeatReply::try_from(message).expect_err("majorities are counted over them");
    assert_eq!((error.fault, error.field.as_str()), (Fault::Invalid, "acknowledged.voters"));
}

#[test]
fn request_ids_name_a_session_and_a_number() {
    let uuid = 0x0199_c3a0_7a51_7e0c_b4a2_5f0f_6f1c_9b1e_u128;
    let of = |sequence| Ok::<_, ConvertError>(RequestId { session: SessionId(uuid), sequence });
    assert_eq!(request::request_id("0199c3a0-7a51-7e0c-b4a2-5f0f6f1c9b1e/17"), of(17));
    assert_eq!(request::request_id("0199C3A07A517E0CB4A25F0F6F1C9B1E"), of(0));
    assert_eq!(request::request_id(&format!("{}", of(17).expect("an id"))), of(17), "the id as shown is an id");
    let bad = [
        "",
        "x",
        "0199c3a0-7a51-4e0c-b4a2-5f0f6f1c9b1e",
        "0199c3a0-7a51-7e0c-b4a2-5f0f6f1c9b1e/",
        "0199c3a0-7a51-7e0c-b4a2-5f0f6f1c9b1e/-1",
        "0199c3a0-7a51-7e0c-b4a2-5f0f6f1c9b1e/+1",
        "0199c3a0-7a51-7e0c-b4a2-5f0f6f1c9b1e/18446744073709551616",
        "0199c3a0-7a517-e0c-b4a2-5f0f6f1c9b1e",
        "0199c3a0-7a51-7e0c-b4a2-5f0f6f1c9b1e-",
    ];
    for bad in bad {
        assert_eq!(request::request_id(bad).expect_err(bad).field, "request_id");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a peer or a disk hands over: an error or a value, never a panic; and a value is what its bytes say.
    #[test]
    fn damaged_entries_never_panic(pick in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let entries = samples::entries();
        let mut bytes = log::encode(&pick.get(&entries).1);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(entry) = log::decode(&bytes) {
            prop_assert_eq!(log::decode(&log::encode(&entry)), Ok(entry));
        }
    }

    #[test]
    fn a_changed_byte_in_a_snapshot_never_makes_another_state(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let state = samples::state();
        let mut bytes: Vec<u8> = snapshot::encode(&state).flatten().collect();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(read) = snapshot::decode(&bytes) {
            prop_assert_eq!(read.truth(), state.truth());
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = log::decode(&bytes);
        let _ = snapshot::decode(&bytes);
    }
}

/// What a cluster that was never recovered writes is what it always wrote; what one that was writes, only a version that
/// knows of recovery reads.
#[test]
fn a_recovered_state_is_read_whole_and_says_what_it_takes_to_read_it() {
    use cluster::recovery::{Recovery, recover};
    use cluster::{FenceCause, Generation, LogsRead};

    let state = samples::state();
    let survivor = state.members().next().expect("a member").clone();
    let level = |state: &cluster::State| {
        let first = proto::snapshot::encode(state).next().expect("a header");
        let record = wire::SnapshotRecord::decode_length_delimited(first).expect("a record").record;
        match record {
            Some(wire::snapshot_record::Record::Header(header)) => header.feature_level,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(level(&state), 1);
    for logs in [LogsRead::Majority, LogsRead::Fewer] {
        let generation = Generation { number: state.generation().number + 1, id: 0x9e };
        let recovery = Recovery { generation, survivor: survivor.clone(), term: 9, logs };
        let recovered = recover(&state, &recovery).expect("a later generation");
        assert_eq!(level(&recovered), proto::level::RECOVERY);
        let bytes = proto::snapshot::encode(&recovered).fold(Vec::new(), |all, piece| [all, piece.to_vec()].concat());
        let read = proto::snapshot::decode(&bytes).expect("read");
        assert_eq!((read.hash(), read.generation()), (recovered.hash(), generation));
    }
    let bytes = |logs| wire::FenceCause::from(&FenceCause::Recovered { logs }).encode_to_vec();
    assert_eq!((bytes(LogsRead::Majority), bytes(LogsRead::Fewer)), (vec![0x30, 1], vec![0x30, 2]));
}

/// Added after the first logs were frozen: what is not said is as it was, what is said comes back.
#[test]
fn how_a_template_is_run_comes_back_from_the_log() {
    let (_, mut entry) = samples::entries().into_iter().find(|(name, _)| name == "register_template.0").expect("there");
    let cluster::Command::RegisterTemplate { bytes, defaults, .. } = &mut entry.command else { panic!("{entry:?}") };
    *bytes = 412 << 20;
    *defaults = std::sync::Arc::new(cluster::TemplateDefaults {
        command: ["/init".into(), "--loud".into()].into(),
        environment: std::sync::Arc::new([("LANG".to_owned(), "C".to_owned())].into()),
        working_dir: "/srv".into(),
    });
    assert_eq!(log::decode(&log::encode(&entry)).expect("reads"), entry);
}

#[test]
fn the_layers_of_a_container_come_back_and_ask_for_their_level() {
    let (_, mut entry) = samples::entries().into_iter().find(|(name, _)| name == "create_container.0").expect("there");
    let cluster::Command::CreateContainer { spec, .. } = &mut entry.command else { panic!("{entry:?}") };
    std::sync::Arc::make_mut(spec).application_templates = [samples::name("web"), samples::name("shop")].into();
    let written = log::encode(&entry);
    assert_eq!(log::decode(&written).expect("reads"), entry);
    assert_eq!(wire::LogEntry::from(&entry).feature_level, proto::level::SYSTEM);
    let layered = |said: &ToAgent| match said {
        ToAgent::Desired(set) => {
            let mut set = (**set).clone();
            let wanted = std::sync::Arc::make_mut(&mut set.specs[0].1);
            wanted.applications = [wanted.template.clone(), wanted.template.clone()].into();
            Some(ToAgent::Desired(std::sync::Arc::new(set)))
        }
        _ => None,
    };
    let order = samples::to_agent().iter().find_map(layered).expect("there is a desired set");
    assert_eq!(ToAgent::try_from(wire::ToAgent::from(&order)).expect("reads"), order);
}

#[test]
fn where_templates_are_comes_back_and_so_does_who_is_refused_for_it() {
    use cluster::placement::Rejection;
    use std::sync::Arc;
    let names = |names: &[&str]| names.iter().map(|text| samples::name(text)).collect();
    let shelf = cluster::Shelf { seen: cluster::Revision(9), present: names(&["a", "b"]), damaged: names(&["c"]) };
    let shelves = [(samples::name("fast"), cluster::Shelf::default()), (samples::name("shared"), shelf)].into();
    let templates = cluster::Inventory { shelves: Arc::new(shelves) };
    let report = Arc::new(cluster::NodeReport { templates, ..samples::report() });
    let said = ToLeader::Finds { incarnation: cluster::Incarnation(20), report };
    assert_eq!(ToLeader::try_from(wire::FromAgent::from(&said)).expect("reads"), said);

    let hex = "ab".repeat(32);
    let watched = |name: &str, digest: String, path: String| cluster::agent::WatchedTemplate {
        name: samples::name(name),
        digest: digest.into(),
        path: path.into(),
        registered: cluster::Revision(7),
    };
    let templates = vec![
        watched("by-hand", String::new(), "templates/by-hand".into()),
        watched("elsewhere", format!("sha256:{hex}"), "somewhere/else".into()),
        watched("imported", format!("sha256:{hex}"), cluster::Template::imported_path(&hex)),
    ];
    let watching = |said: &ToAgent| match said {
        ToAgent::Desired(set) => {
            let watch = cluster::agent::Watch { templates: templates.clone(), ..(*set.watch).clone() };
            Some(ToAgent::Desired(Arc::new(cluster::agent::DesiredSet { watch: Arc::new(watch), ..(**set).clone() })))
        }
        _ => None,
    };
    let order = samples::to_agent().iter().find_map(watching).expect("there is a desired set");
    assert_eq!(ToAgent::try_from(wire::ToAgent::from(&order)).expect("reads"), order);

    let (template, storage) = (samples::name("a"), samples::name("shared"));
    for reason in [
        Rejection::TemplateMissing { template: template.clone(), storage: storage.clone() },
        Rejection::TemplateDamaged { template, storage },
        Rejection::AgentTooOld,
    ] {
        let (_, mut entry) = samples::entries().into_iter().find(|(name, _)| name == "assign.0").expect("there");
        let cluster::Command::Assign { decision, .. } = &mut entry.command else { panic!("{entry:?}") };
        decision.rejections = [cluster::RejectionCount { reason, nodes: 1, examples: [].into() }].into();
        assert_eq!(log::decode(&log::encode(&entry)).expect("reads"), entry);
        assert_eq!(wire::LogEntry::from(&entry).feature_level, proto::level::SYSTEM);
    }
}

/// Members of two versions go on together until something new is used.
#[test]
fn entries_and_snapshots_ask_for_no_higher_level_than_they_need() {
    let level_of = |entry: &cluster::Entry| wire::LogEntry::from(entry).feature_level;
    for (name, mut entry) in samples::entries() {
        let since = match entry.command {
            cluster::Command::ReportNode { .. } => proto::level::SYSTEM,
            _ => 1,
        };
        assert_eq!(level_of(&entry), since, "{name} has been there since then");
        if let cluster::Command::RegisterTemplate { bytes, .. } = &mut entry.command {
            *bytes = 1;
            assert_eq!(level_of(&entry), proto::level::TEMPLATES, "{name} says what the first level does not know");
        }
    }
    let header_of = |state: &cluster::State| {
        let bytes: Vec<u8> = snapshot::encode(state).flatten().collect();
        let record = wire::SnapshotRecord::decode_length_delimited(&bytes[..]).expect("a record").record;
        let Some(wire::snapshot_record::Record::Header(header)) = record else { panic!("{record:?}") };
        assert_eq!(snapshot::decode(&bytes).expect("sound").hash(), state.hash());
        header.feature_level
    };
    let state = samples::state();
    assert_eq!(header_of(&state), 1);
    let mut truth = state.truth().clone();
    let (name, template) = truth.templates.iter().next().map(|(name, it)| (name.clone(), it.clone())).expect("one");
    truth.templates.insert(name, std::sync::Arc::new(cluster::Template { bytes: 1, ..(*template).clone() }));
    assert_eq!(header_of(&cluster::State::restore(truth)), proto::level::TEMPLATES);
    let mut truth = state.truth().clone();
    truth.node_reports.extend([samples::kept_report()]);
    assert_eq!(header_of(&cluster::State::restore(truth)), proto::level::SYSTEM);
}

/// Added with the reports of nodes: none of it is in entries that the first level reads.
#[test]
fn what_storages_brought_comes_back_and_asks_for_its_level() {
    use cluster::placement::Rejection;
    use cluster::{Command, Entry, NodeId, RejectionCount, StorageKind, Trigger};
    let (disks, fault) = (samples::name("disks"), "it hangs".into());
    let lost = Trigger::StorageLost { from: NodeId(4), storage: disks.clone() };
    let reasons = [
        Rejection::StorageLost { storage: disks.clone(), fault },
        Rejection::AreaElsewhere { storage: disks.clone(), home: NodeId(5) },
    ];
    let recorded = samples::entries().into_iter().find_map(|(_, entry)| match entry.command {
        Command::RecordUnplaceable { container, decision } => Some((container, decision, entry.at)),
        _ => None,
    });
    let (container, decision, at) = recorded.expect("there is one");
    let none = cluster::Decision { rejections: [].into(), trigger: Trigger::Created, ..(*decision).clone() };
    let with = |decision| Command::RecordUnplaceable { container, decision: Box::new(decision) };
    let count = |reason: Rejection| RejectionCount { reason, nodes: 1, examples: [NodeId(2)].into() };
    let local = StorageKind::Local { path: "/srv/disks".into() };
    let mut commands = vec![
        Command::RegisterStorage { name: disks.clone(), kind: local },
        with(cluster::Decision { trigger: lost, ..none.clone() }),
    ];
    commands
        .extend(reasons.map(|reason| with(cluster::Decision { rejections: [count(reason)].into(), ..none.clone() })));
    for command in commands {
        let entry = Entry { at, request: None, command };
        assert_eq!(log::decode(&log::encode(&entry)).expect("reads"), entry);
        assert_eq!(wire::LogEntry::from(&entry).feature_level, proto::level::SYSTEM, "{entry:?}");
    }
}
