//! The only file that names the raft crate: raft-rs behind values of our own.
//! In: ticks, messages, proposals, "this is durable". Out: `Turn`s: what to persist, send, apply, and which reads are good.
//! Absent: no thread, no clock, no disk, and no forwarding of proposals: who is not the leader says so.
//!
//! The traps of raft-rs 0.7 that this file springs on purpose, so that nobody else meets them: batched proposals are one
//! step; a proposal is never made on a follower; the randomized election timeout is set by us after every call, from the
//! member's rank, so that runs repeat and survivors do not tie; local messages and proposals from peers are dropped; the
//! conditions on which raft panics (commit beyond the log, applied beyond commit) are checked before it starts.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cluster::{MemberId, Membership};
use planted::planted;
use raft::eraftpb;
use raft::prelude::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, EntryType, MessageType};
use raft::{GetEntriesContext, ProgressState, RaftState, RawNode, SnapshotStatus, StateRole, Storage, StorageError};
use record::{Entry, Group, HardState, LogPoint, SnapshotMeta};

use crate::codec::{self, MembershipChange, Step};
use crate::log::{Encoded, Tail};
use crate::message::RaftMessage;

/// Raft ticks from silence to candidacy, at least; the randomized timeout lies in this to twice this. The tick's length
/// follows the lease profile, so the number of ticks need not.
pub const ELECTION_TICKS: usize = 12;
/// Raft ticks between a leader's heartbeats.
pub const HEARTBEAT_TICKS: usize = 4;
/// One append message carries at most this: large enough for a full disk group, small enough not to delay heartbeats.
const MESSAGE_BYTES: u64 = 1 << 20;
/// Append messages under way per follower.
const MESSAGES_IN_FLIGHT: usize = 64;
/// Proposed and not committed, in bytes: the only back-pressure raft has.
const UNCOMMITTED_BYTES: u64 = 64 << 20;

pub struct Consensus {
    node: RawNode<Stored>,
    /// Readies handed out and not yet reported durable, oldest first.
    outstanding: VecDeque<Outstanding>,
    encoded: Encoded,
}

struct Outstanding {
    number: u64,
    /// `None`: nothing to write, waits only for those before it.
    writes: Option<LogPoint>,
    /// Changes term or vote: nothing that speaks for the new term may leave before.
    votes: bool,
    messages: Vec<RaftMessage>,
    done: bool,
}

/// What one round of raft asks for, in the order it must be done: send, persist, then apply.
#[derive(Default)]
pub struct Turn {
    pub messages: Vec<RaftMessage>,
    pub persist: Option<Write>,
    /// Indexes that are committed and durable here, to be applied in order.
    pub committed: Range<u64>,
    /// Reads (by their context) that are good once this index is applied.
    pub reads: Vec<(u64, u64)>,
}

/// One write of the store. Report it by its number, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    pub number: u64,
    pub group: Group,
    /// Received from the leader: save it before the group.
    pub snapshot: Option<SnapshotMeta>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Follower,
    Candidate,
    Leader,
}

#[derive(Debug, thiserror::Error)]
#[error("raft cannot start from what is stored: {0}")]
pub struct CannotStart(String);

/// Dropped by raft: a transfer is under way, or too much is uncommitted. Nothing was appended.
#[derive(Debug)]
pub struct Dropped;

impl Consensus {
    /// `applied`: the index the state stands at; 0 for a newcomer that waits for its first snapshot.
    pub fn new(id: MemberId, tail: Tail, applied: u64) -> Result<Consensus, CannotStart> {
        let (commit, last) = (tail.hard_state.commit, tail.last().index);
        if commit > last {
            return Err(CannotStart(format!("commit {commit} is beyond the last entry {last}")));
        }
        if applied > commit {
            return Err(CannotStart(format!("applied {applied} is beyond commit {commit}")));
        }
        let config = raft::Config {
            id: id.0,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied,
            max_size_per_msg: MESSAGE_BYTES,
            max_inflight_msgs: MESSAGES_IN_FLIGHT,
            max_uncommitted_size: UNCOMMITTED_BYTES,
            max_committed_size_per_ready: 16 << 20,
            check_quorum: true,
            pre_vote: true,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, Stored(tail), &logger).map_err(|error| CannotStart(error.to_string()))?;
        let mut consensus = Consensus { node, outstanding: VecDeque::new(), encoded: Encoded::default() };
        consensus.settle_timeout();
        Ok(consensus)
    }

    pub fn tail(&self) -> &Tail {
        &self.node.store().0
    }

    pub fn tail_mut(&mut self) -> &mut Tail {
        &mut self.node.mut_store().0
    }

    pub fn role(&self) -> Role {
        match self.node.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        }
    }

    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    pub fn commit(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    pub fn leader(&self) -> Option<MemberId> {
        Some(MemberId(self.node.raft.leader_id)).filter(|leader| leader.0 != 0)
    }

    pub fn transferring(&self) -> bool {
        self.node.raft.lead_transferee.is_some()
    }

    pub fn tick(&mut self) {
        if !self.is_installing() {
            self.node.tick();
        }
        self.settle_timeout();
    }

    /// A snapshot of the leader's took the place of entries that raft still counts as not applied: until it is durable
    /// this member may not campaign, raft would look for changes of membership in entries that are gone, and panic.
    fn is_installing(&self) -> bool {
        self.node.raft.raft_log.applied + 1 < self.tail().first_index()
    }

    /// Takes a peer's message. What raft cannot use (a response from a stranger, an old term) it ignores.
    pub fn step(&mut self, message: RaftMessage) {
        let campaigns = message.kind == MessageType::MsgTimeoutNow as i32 && self.is_installing();
        if !campaigns && let Some(message) = into_raft(message) {
            // The only errors are about strangers and lost proposals; neither is news to anybody.
            let _ = self.node.step(message);
        }
        self.settle_timeout();
    }

    /// Appends `proposed` as one step. Only on a leader. Gives the indexes they got, all in the current term.
    pub fn propose(&mut self, proposed: Vec<cluster::Entry>) -> Result<Range<u64>, Dropped> {
        let (first, term) = (self.node.raft.raft_log.last_index() + 1, self.term());
        let payloads: Vec<Bytes> = proposed.iter().map(|entry| codec::encode(entry).into()).collect();
        let mut message = eraftpb::Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.node.raft.id;
        message.entries =
            payloads.iter().map(|data| eraftpb::Entry { data: data.clone(), ..eraftpb::Entry::default() }).collect();
        let indexes = first..first + payloads.len() as u64;
        let stepped = self.node.step(message);
        self.settle_timeout();
        stepped.map_err(|_| Dropped)?;
        for (index, (data, entry)) in indexes.clone().zip(payloads.into_iter().zip(proposed)) {
            self.encoded.put(LogPoint { term, index }, data, Arc::new(entry));
        }
        Ok(indexes)
    }

    /// Appends a change of who votes. An empty change leaves the joint configuration.
    pub fn propose_change(&mut self, change: &MembershipChange) -> Result<LogPoint, Dropped> {
        let index = self.node.raft.raft_log.last_index() + 1;
        let term = self.term();
        let proposed = self.node.propose_conf_change(Vec::new(), conf_change(change));
        self.settle_timeout();
        proposed.map(|()| LogPoint { index, term }).map_err(|_| Dropped)
    }

    /// Asks for a read index; it comes back in a `Turn` under `context`, or never: ask again.
    pub fn read_index(&mut self, context: u64) {
        self.node.read_index(context.to_le_bytes().to_vec());
    }

    pub fn transfer_leader(&mut self, to: MemberId) {
        self.node.transfer_leader(to.0);
        self.settle_timeout();
    }

    pub fn report_unreachable(&mut self, peer: MemberId) {
        self.node.report_unreachable(peer.0);
    }

    pub fn report_snapshot(&mut self, peer: MemberId, taken: bool) {
        let status = if taken { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.node.report_snapshot(peer.0, status);
    }

    /// Whether raft is about to hand out the snapshot at `index` to be installed.
    pub fn takes_snapshot(&self, index: u64) -> bool {
        self.node.snap().is_some_and(|snapshot| snapshot.get_metadata().index == index)
    }

    /// What the leader knows `peer` to hold durably; `None` unless leader, or for strangers.
    pub fn matched(&self, peer: MemberId) -> Option<u64> {
        (self.role() == Role::Leader).then(|| self.node.raft.prs().get(peer.0).map(|progress| progress.matched))?
    }

    /// Whether the leader heard from `peer` within the last election timeout and replicates to it without a gap.
    pub fn is_caught_up(&self, peer: MemberId, lag_max: u64) -> bool {
        let last = self.tail().last().index;
        self.node.raft.prs().get(peer.0).is_some_and(|progress| {
            // raft goes from probing to replicating only at an entry the peer did not have: in a silent cluster never. One
            // that has everything and was heard since the last check of the quorum keeps up as well.
            let has_all = progress.state == ProgressState::Probe && progress.recent_active && progress.matched >= last;
            let follows = progress.state == ProgressState::Replicate && progress.matched + lag_max >= last;
            peer.0 == self.node.raft.id || follows || has_all
        })
    }

    /// Tells raft that a configuration entry is applied; gives the membership it made.
    pub fn apply_change(&mut self, change: &MembershipChange, at: LogPoint) -> Result<Membership, String> {
        let applied = self.node.apply_conf_change(&conf_change(change)).map_err(|error| error.to_string())?;
        self.settle_timeout();
        Ok(membership(&applied, at))
    }

    pub fn applied(&mut self, index: u64) {
        self.node.advance_apply_to(index);
    }

    /// The next round, if raft has anything to say.
    pub fn turn(&mut self) -> Option<Turn> {
        if !self.node.has_ready() {
            return None;
        }
        let mut ready = self.node.ready();
        let committed = ready.take_committed_entries();
        // That a change of membership is committed must outlive a restart, though nothing be written after it: whoever
        // forgets it is back under the membership before, and waits for members that were removed since.
        let durable =
            ready.must_sync() || committed.iter().any(|entry| entry.get_entry_type() != EntryType::EntryNormal);
        let mut turn = Turn {
            messages: ready.take_messages().into_iter().filter_map(from_raft).collect(),
            reads: ready.take_read_states().into_iter().filter_map(read).collect(),
            committed: range(&committed),
            ..Turn::default()
        };
        let entries: Vec<Entry> = ready.take_entries().into_iter().map(entry_from_raft).collect();
        let before = self.tail().hard_state;
        if let Some(hard_state) = ready.hs() {
            let eraftpb::HardState { term, vote, commit, .. } = *hard_state;
            self.tail_mut().hard_state = HardState { term, vote, commit };
        }
        let hard_state = self.tail().hard_state;
        let snapshot = Some(ready.snapshot()).filter(|snapshot| !snapshot.is_empty()).and_then(snapshot_meta);
        if let Some(meta) = &snapshot {
            let beneath = codec::decode_membership(&meta.membership).unwrap_or_default();
            self.tail_mut().restore(meta.clone(), beneath);
        }
        self.node.mut_store().0.append(&entries, &mut self.encoded);

        let held: Vec<RaftMessage> = ready.take_persisted_messages().into_iter().filter_map(from_raft).collect();
        let held = if planted!("messages-before-sync") {
            turn.messages.extend(held);
            Vec::new()
        } else {
            held
        };
        let number = ready.number();
        let writes = durable.then(|| self.tail().last());
        if durable {
            let restored = snapshot.as_ref().map(SnapshotMeta::point);
            let mut hard_state = hard_state;
            if planted!("commit-without-its-entries") {
                hard_state.commit = self.tail().snapshot().map_or(0, |snapshot| snapshot.index);
            }
            turn.persist = Some(Write { number, group: Group { hard_state, restored, entries }, snapshot });
        }
        self.node.advance_append_async(ready);
        let votes = (hard_state.term, hard_state.vote) != (before.term, before.vote);
        self.outstanding.push_back(Outstanding { number, writes, votes, messages: held, done: writes.is_none() });
        self.release(&mut turn.messages);
        self.settle_timeout();
        Some(turn)
    }

    /// The write of this number, and so every one before it, is durable. Gives the messages that waited for it.
    pub fn persisted(&mut self, number: u64) -> Vec<RaftMessage> {
        for waiting in self.outstanding.iter_mut().filter(|waiting| waiting.number <= number) {
            waiting.done = true;
        }
        let mut messages = Vec::new();
        self.release(&mut messages);
        self.settle_timeout();
        messages
    }

    /// Reports everything at the front that is durable, in order, and lets go of what waited for it.
    fn release(&mut self, out: &mut Vec<RaftMessage>) {
        let mut last = None;
        while let Some(front) = self.outstanding.pop_front_if(|front| front.done) {
            if let Some(point) = front.writes {
                self.tail_mut().persisted(point);
            }
            let vouches =
                |message: &&RaftMessage| message.kind == MessageType::MsgAppendResponse as i32 && !message.reject;
            if let Some(index) = front.messages.iter().filter(vouches).map(|message| message.index).max() {
                self.tail_mut().vouch(index);
            }
            out.extend(front.messages);
            last = Some(front.number);
        }
        if let Some(number) = last {
            self.node.on_persist_ready(number);
        }
        // A stalled disk must not look like a dead member: answers to a leader's heartbeat promise nothing durable but
        // the term, so they wait only for writes that change it.
        let mut blocked = false;
        for waiting in &mut self.outstanding {
            blocked |= waiting.votes && !waiting.done;
            if !blocked {
                let heartbeat = |message: &mut RaftMessage| message.kind == MessageType::MsgHeartbeatResponse as i32;
                out.extend(waiting.messages.extract_if(.., heartbeat));
            }
        }
    }

    /// Distinct for every voter of one term, and repeatable: raft's own choice is random.
    fn settle_timeout(&mut self) {
        let voters = &self.tail().membership.voters;
        let count = voters.len().max(1);
        let rank = voters.iter().position(|id| id.0 == self.node.raft.id).unwrap_or(0);
        let place = (rank + self.node.raft.term as usize) % count;
        let timeout = ELECTION_TICKS + place * ELECTION_TICKS / count;
        self.node.raft.set_randomized_election_timeout(timeout);
    }
}

/// The tail as raft wants to read it.
struct Stored(Tail);

impl Storage for Stored {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let HardState { term, vote, commit } = self.0.hard_state;
        let hard_state = eraftpb::HardState { term, vote, commit, ..eraftpb::HardState::default() };
        Ok(RaftState { hard_state, conf_state: conf_state(&self.0.membership) })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low < self.0.first_index() {
            return Err(StorageError::Compacted.into());
        }
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        Ok(self.0.entries(low, high, bytes_max).cloned().map(entry_into_raft).collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let missing = if index < self.0.first_index() { StorageError::Compacted } else { StorageError::Unavailable };
        self.0.term(index).ok_or(missing.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.0.first_index())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.0.last().index)
    }

    /// Only its description: the body travels beside, in chunks. Raft refuses a snapshot that does not know its
    /// receiver; a newer one is made then (`snapshots`).
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<eraftpb::Snapshot> {
        match self.0.snapshot() {
            Some(meta) if meta.index >= request_index && self.0.snapshot_knows(MemberId(to)) => {
                Ok(snapshot_into_raft(meta))
            }
            _ => Err(StorageError::SnapshotTemporarilyUnavailable.into()),
        }
    }
}

/// Raft's kinds by their numbers on the wire; those that never leave a member are not among them.
fn message_type(kind: i32) -> Option<MessageType> {
    use MessageType::*;
    let known = [
        MsgAppend,
        MsgAppendResponse,
        MsgRequestVote,
        MsgRequestVoteResponse,
        MsgSnapshot,
        MsgHeartbeat,
        MsgHeartbeatResponse,
        MsgTransferLeader,
        MsgTimeoutNow,
        MsgReadIndex,
        MsgReadIndexResp,
        MsgRequestPreVote,
        MsgRequestPreVoteResponse,
    ];
    known.into_iter().find(|known| *known as i32 == kind)
}

fn range(entries: &[eraftpb::Entry]) -> Range<u64> {
    match (entries.first(), entries.last()) {
        (Some(first), Some(last)) => first.index..last.index + 1,
        _ => 0..0,
    }
}

fn read(state: raft::ReadState) -> Option<(u64, u64)> {
    let context = state.request_ctx.as_slice().try_into().ok()?;
    Some((u64::from_le_bytes(context), state.index))
}

fn ids(from: &[MemberId]) -> Vec<u64> {
    from.iter().map(|id| id.0).collect()
}

fn members(from: &[u64]) -> std::sync::Arc<[MemberId]> {
    codec::sorted(from.iter().copied().map(MemberId).collect())
}

fn conf_state(membership: &Membership) -> ConfState {
    ConfState {
        voters: ids(&membership.voters),
        voters_outgoing: ids(&membership.outgoing),
        learners: ids(&membership.learners),
        learners_next: ids(&membership.learners_next),
        auto_leave: membership.auto_leave,
        ..ConfState::default()
    }
}

/// The order of voters in raft's ConfState is not stable: ours is.
fn membership(state: &ConfState, at: LogPoint) -> Membership {
    Membership {
        term: at.term,
        index: at.index,
        voters: members(&state.voters),
        outgoing: members(&state.voters_outgoing),
        learners: members(&state.learners),
        learners_next: members(&state.learners_next),
        auto_leave: state.auto_leave,
    }
}

/// Always explicit: raft then never leaves the joint configuration by itself, and we see both steps.
fn conf_change(change: &MembershipChange) -> ConfChangeV2 {
    let single = |step: &Step| {
        let (kind, id) = match *step {
            Step::AddVoter(id) => (ConfChangeType::AddNode, id),
            Step::AddLearner(id) => (ConfChangeType::AddLearnerNode, id),
            Step::Remove(id) => (ConfChangeType::RemoveNode, id),
        };
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = id.0;
        single
    };
    let mut encoded = ConfChangeV2::default();
    if !change.steps.is_empty() {
        encoded.set_transition(eraftpb::ConfChangeTransition::Explicit);
        encoded.set_changes(change.steps.iter().map(single).collect::<Vec<_>>().into());
    }
    encoded
}

fn entry_into_raft(entry: Entry) -> eraftpb::Entry {
    let Entry { term, index, kind, data, context } = entry;
    let mut encoded = eraftpb::Entry { term, index, data, context, ..eraftpb::Entry::default() };
    encoded.set_entry_type(match kind {
        codec::CHANGE => EntryType::EntryConfChangeV2,
        _ => EntryType::EntryNormal,
    });
    encoded
}

fn entry_from_raft(entry: eraftpb::Entry) -> Entry {
    let kind = entry.get_entry_type() as u32;
    let eraftpb::Entry { term, index, data, context, .. } = entry;
    Entry { term, index, kind, data, context }
}

/// Hash and length ride in raft's snapshot data; the body is elsewhere.
fn snapshot_into_raft(meta: &SnapshotMeta) -> eraftpb::Snapshot {
    let mut snapshot = eraftpb::Snapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.index = meta.index;
    metadata.term = meta.term;
    let membership = codec::decode_membership(&meta.membership).unwrap_or_default();
    metadata.set_conf_state(conf_state(&membership));
    let mut data = meta.hash.to_vec();
    data.extend(meta.len.to_le_bytes());
    data.extend(&meta.membership);
    snapshot.data = data.into();
    snapshot
}

fn snapshot_meta(snapshot: &eraftpb::Snapshot) -> Option<SnapshotMeta> {
    let (hash, rest) = snapshot.data.split_first_chunk::<32>()?;
    let (len, membership) = rest.split_first_chunk::<8>()?;
    Some(SnapshotMeta {
        index: snapshot.get_metadata().index,
        term: snapshot.get_metadata().term,
        membership: membership.to_vec(),
        hash: *hash,
        len: u64::from_le_bytes(*len),
    })
}

fn from_raft(mut message: eraftpb::Message) -> Option<RaftMessage> {
    let kind = message.get_msg_type();
    let snapshot = match kind {
        MessageType::MsgSnapshot => Some(snapshot_meta(message.get_snapshot())?),
        _ => None,
    };
    Some(RaftMessage {
        kind: kind as i32,
        to: MemberId(message.to),
        from: MemberId(message.from),
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.take_entries().into_iter().map(entry_from_raft).collect(),
        commit: message.commit,
        commit_term: message.commit_term,
        snapshot,
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.take_context().into(),
        priority: message.priority,
    })
}

fn into_raft(message: RaftMessage) -> Option<eraftpb::Message> {
    let mut encoded = eraftpb::Message::default();
    encoded.set_msg_type(message_type(message.kind)?);
    encoded.to = message.to.0;
    encoded.from = message.from.0;
    encoded.term = message.term;
    encoded.log_term = message.log_term;
    encoded.index = message.index;
    encoded.entries = message.entries.into_iter().map(entry_into_raft).collect();
    encoded.commit = message.commit;
    encoded.commit_term = message.commit_term;
    if let Some(meta) = &message.snapshot {
        codec::decode_membership(&meta.membership)?;
        encoded.set_snapshot(snapshot_into_raft(meta));
    }
    encoded.request_snapshot = message.request_snapshot;
    encoded.reject = message.reject;
    encoded.reject_hint = message.reject_hint;
    encoded.context = message.context.into();
    encoded.priority = message.priority;
    Some(encoded)
}
