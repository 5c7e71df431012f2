//! The form of a snapshot: the whole state as records, each preceded by its length, in the order of the state's keys.
//! In: `cluster::State`. Out: pieces of bytes in order; a reader takes them back in pieces of any size.
//! Absent: no file, no compression, no hash of the bytes; whoever stores or sends a snapshot adds those.
//!
//! A reader accepts a snapshot only whole: header first, end last. It must also hash to what the end says, unless it is
//! of a level from before states hashed as they do now.

use std::sync::Arc;

use cluster::sessions::{Remembered, Session, Sessions};
use cluster::{
    Brake, ClusterId, ContainerId, Decision, Incarnation, KeptReport, NodeId, Revision, SessionId, State, StateHash,
    Status, Truth, WallTime,
};
use planted::planted;
use prost::Message;
use prost::bytes::{Buf, Bytes, BytesMut};

use crate::convert::{ConvertError, generation, generation_id, outcome, part, wide, wide_bytes};
use crate::level;
use crate::log::DecodeError;
use crate::wire::{self, brake, snapshot_record::Record};

/// A piece has at least so many bytes, except the last.
const PIECE_BYTES: usize = 64 << 10;
/// A longer record is damage: the largest one, a session with all its results, stays far below.
const RECORD_BYTES_MAX: usize = 16 << 20;

/// The pieces of the snapshot of `state`, in order. Memory in use stays near one piece, whatever the size of the state.
pub fn encode(state: &State) -> impl Iterator<Item = Bytes> + '_ {
    let mut records = records(state);
    std::iter::from_fn(move || {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES + (PIECE_BYTES >> 3));
        while piece.len() < PIECE_BYTES {
            let Some(record) = records.next() else { break };
            let message = wire::SnapshotRecord { record: Some(record) };
            message.encode_length_delimited(&mut piece).expect("a growing buffer has room");
        }
        (!piece.is_empty()).then(|| piece.freeze())
    })
}

fn records(state: &State) -> impl Iterator<Item = Record> + '_ {
    let truth = state.truth();
    let objects = (truth.members.values().map(|member| Record::Member((&**member).into())))
        .chain(truth.nodes.values().map(|node| Record::Node((&**node).into())))
        .chain(truth.node_reports.iter().map(|(node, kept)| Record::NodeReport(kept_report(*node, kept))))
        .chain(truth.containers.values().map(|container| Record::Container((&**container).into())))
        .chain(truth.statuses.iter().map(|(id, status)| {
            Record::Status(wire::ContainerStatus { container: id.0, status: Some((&**status).into()) })
        }))
        .chain(truth.templates.values().map(|template| Record::Template((&**template).into())))
        .chain(truth.storages.values().map(|storage| Record::Storage((&**storage).into())))
        .chain(truth.decisions.iter().map(|(revision, decision)| {
            Record::Decision(wire::RecordedDecision { revision: revision.0, decision: Some((&**decision).into()) })
        }))
        .chain(truth.sessions.iter().map(|(id, open)| Record::Session(session(*id, open))));
    let hash = state.hash();
    let mut written = 0;
    let counted = std::iter::once(Record::Header(header(truth))).chain(objects).map(Some).chain(std::iter::once(None));
    counted.map(move |record| {
        written += 1;
        record.unwrap_or_else(|| Record::End(wire::SnapshotEnd { records: written, state_hash: wide_bytes(hash.0) }))
    })
}

fn header(truth: &Truth) -> wire::SnapshotHeader {
    let Truth {
        cluster,
        generation,
        revision,
        clock,
        next_member,
        next_node,
        next_container,
        membership,
        members: _,
        nodes: _,
        node_reports: _,
        containers: _,
        statuses: _,
        templates: _,
        storages: _,
        settings,
        brake,
        decisions: _,
        sessions,
    } = truth;
    let brake = match *brake {
        Brake::Off => brake::Brake::Off(wire::Nothing {}),
        Brake::On { since, silent, of } => brake::Brake::On(brake::On { since: since.0, silent, of }),
    };
    wire::SnapshotHeader {
        feature_level: level::of_state(truth),
        cluster: wide_bytes(cluster.0),
        generation: generation.number,
        generation_id: generation_id(*generation),
        revision: revision.0,
        clock_unix_ms: clock.0,
        next_member: *next_member,
        next_node: *next_node,
        next_container: *next_container,
        membership: Some(membership.into()),
        settings: Some((&**settings).into()),
        brake: Some(wire::Brake { brake: Some(brake) }),
        sessions_horizon: sessions.horizon().map_or_else(Bytes::new, |id| wide_bytes(id.0)),
    }
}

fn kept_report(node: NodeId, kept: &KeptReport) -> wire::KeptReport {
    let KeptReport { incarnation, since, report } = kept;
    let report = Some((&**report).into());
    wire::KeptReport { node: node.0, incarnation: incarnation.0, since: since.0, report }
}

fn session(id: SessionId, session: &Session) -> wire::Session {
    let Session { forgotten, results } = session;
    let result = |(sequence, remembered): (&u64, &Remembered)| {
        let Remembered { revision, outcome } = remembered;
        wire::Remembered { sequence: *sequence, revision: revision.0, outcome: Some(outcome.into()) }
    };
    wire::Session { id: wide_bytes(id.0), forgotten: *forgotten, results: results.iter().map(result).collect() }
}

/// Takes a snapshot in, piece by piece. Nothing of it is a state before all of it has arrived and proved right.
#[derive(Debug, Default)]
pub struct Reader {
    held: BytesMut,
    records: u64,
    truth: Option<Truth>,
    feature_level: u32,
    open: Vec<(SessionId, Session)>,
    horizon: Option<SessionId>,
    end: Option<wire::SnapshotEnd>,
}

impl Reader {
    pub fn new() -> Reader {
        Reader::default()
    }

    /// Takes the next bytes in. Errs on damage; the reader is of no use afterwards.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        self.held.extend_from_slice(bytes);
        while let Some(record) = self.next_record()? {
            let message = wire::SnapshotRecord::decode(record)?;
            let record = message.record.ok_or_else(|| ConvertError::missing("record"))?;
            self.take(record)?;
        }
        Ok(())
    }

    /// The state, if all of it has arrived and it hashes to what the writer said.
    pub fn finish(self) -> Result<State, DecodeError> {
        let (Some(mut truth), Some(end), true) = (self.truth, self.end, self.held.is_empty()) else {
            return Err(damage("snapshot", "is cut short").into());
        };
        truth.sessions = Sessions::restore(self.open, self.horizon);
        let state = State::restore(truth);
        let said = StateHash(wide("end.state_hash", &end.state_hash)?);
        let differs = state.hash() != said && !planted!("snapshot-without-its-hash");
        if self.feature_level >= level::HASHES && differs {
            return Err(damage("end.state_hash", format!("is {said}, but what was read makes {}", state.hash())).into());
        }
        Ok(state)
    }

    /// The bytes of the next whole record; `None` until there is one.
    fn next_record(&mut self) -> Result<Option<Bytes>, DecodeError> {
        let mut ahead = &self.held[..];
        let length = match prost::decode_length_delimiter(&mut ahead) {
            Ok(length) => length,
            // A varint that is cut off may become whole; ten bytes without an end are none.
            Err(error) if self.held.len() >= 10 => return Err(error.into()),
            Err(_) => return Ok(None),
        };
        if length > RECORD_BYTES_MAX {
            return Err(damage("record", format!("claims {length} bytes")).into());
        }
        if ahead.len() < length {
            return Ok(None);
        }
        let prefix = self.held.len() - ahead.len();
        self.held.advance(prefix);
        Ok(Some(self.held.split_to(length).freeze()))
    }

    fn take(&mut self, record: Record) -> Result<(), ConvertError> {
        if self.end.is_some() {
            return Err(damage("record", "comes after the end"));
        }
        self.records += 1;
        let record = match record {
            Record::Header(header) if self.truth.is_none() => return self.begin(header),
            Record::Header(_) => return Err(damage("header", "comes twice")),
            record => record,
        };
        let Some(truth) = &mut self.truth else { return Err(damage("header", "must come first")) };
        match record {
            Record::Header(_) => unreachable!("taken above"),
            Record::Member(member) => {
                let member: cluster::Member = part("member", Some(member))?;
                once(truth.members.insert(member.id, Arc::new(member)), "member")
            }
            Record::Node(node) => {
                let node: cluster::Node = part("node", Some(node))?;
                once(truth.nodes.insert(node.id, Arc::new(node)), "node")
            }
            Record::NodeReport(of) => {
                let (incarnation, since) = (Incarnation(of.incarnation), Revision(of.since));
                let report = Arc::new(part("node_report.report", of.report)?);
                let kept = KeptReport { incarnation, since, report };
                once(truth.node_reports.insert(NodeId(of.node), Arc::new(kept)), "node_report")
            }
            Record::Container(container) => {
                let container: cluster::Container = part("container", Some(container))?;
                once(truth.containers.insert(container.id, Arc::new(container)), "container")
            }
            Record::Status(of) => {
                let status: Status = part("status.status", of.status)?;
                once(truth.statuses.insert(ContainerId(of.container), Arc::new(status)), "status")
            }
            Record::Template(template) => {
                let template: cluster::Template = part("template", Some(template))?;
                once(truth.templates.insert(template.name.clone(), Arc::new(template)), "template")
            }
            Record::Storage(storage) => {
                let storage: cluster::Storage = part("storage", Some(storage))?;
                once(truth.storages.insert(storage.name.clone(), Arc::new(storage)), "storage")
            }
            Record::Decision(of) => {
                let decision: Decision = part("decision.decision", of.decision)?;
                once(truth.decisions.insert(Revision(of.revision), Arc::new(decision)), "decision")
            }
            Record::Session(session) => {
                self.open.push(open_session(session)?);
                Ok(())
            }
            Record::End(end) if end.records == self.records => {
                self.end = Some(end);
                Ok(())
            }
            Record::End(end) => {
                Err(damage("end.records", format!("is {}, but {} were read", end.records, self.records)))
            }
        }
    }

    fn begin(&mut self, header: wire::SnapshotHeader) -> Result<(), ConvertError> {
        crate::readable(header.feature_level)?;
        self.feature_level = header.feature_level;
        let brake = match header.brake.and_then(|brake| brake.brake).ok_or_else(|| ConvertError::missing("brake"))? {
            brake::Brake::Off(_) => Brake::Off,
            brake::Brake::On(on) => Brake::On { since: Revision(on.since), silent: on.silent, of: on.of },
        };
        if !header.sessions_horizon.is_empty() {
            self.horizon = Some(SessionId(wide("sessions_horizon", &header.sessions_horizon)?));
        }
        self.truth = Some(Truth {
            cluster: ClusterId(wide("cluster", &header.cluster)?),
            generation: generation(header.generation, &header.generation_id)?,
            revision: Revision(header.revision),
            clock: WallTime(header.clock_unix_ms),
            next_member: header.next_member,
            next_node: header.next_node,
            next_container: header.next_container,
            membership: part("membership", header.membership)?,
            members: Default::default(),
            nodes: Default::default(),
            node_reports: Default::default(),
            containers: Default::default(),
            statuses: Default::default(),
            templates: Default::default(),
            storages: Default::default(),
            settings: Arc::new(part("settings", header.settings)?),
            brake,
            decisions: Default::default(),
            sessions: Sessions::default(),
        });
        Ok(())
    }
}

/// The state of a snapshot that is at hand as a whole.
pub fn decode(bytes: &[u8]) -> Result<State, DecodeError> {
    let mut reader = Reader::new();
    reader.push(bytes)?;
    reader.finish()
}

fn open_session(session: wire::Session) -> Result<(SessionId, Session), ConvertError> {
    let id = SessionId(wide("session.id", &session.id)?);
    let result = |result: wire::Remembered| {
        let outcome = outcome(result.outcome)?;
        Ok((result.sequence, Remembered { revision: Revision(result.revision), outcome }))
    };
    let results = session.results.into_iter().map(result).collect::<Result<_, ConvertError>>()?;
    Ok((id, Session { forgotten: session.forgotten, results }))
}

fn once<T>(before: Option<T>, what: &str) -> Result<(), ConvertError> {
    before.map_or(Ok(()), |_| Err(damage(what, "comes twice")))
}

fn damage(field: &str, problem: impl Into<String>) -> ConvertError {
    ConvertError::invalid(field, problem).hint("the snapshot is damaged or was written by another version")
}
