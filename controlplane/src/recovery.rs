//! Recovery of a cluster that lost a majority of its members for good: `quorated recover plan` and `recover apply`.
//! In: data folders of members that are stopped. Out: a plan with a digest that a person has to type, and then one survivor
//! that begins a new generation alone, beside stores that are never started again.
//! Absent: what the logs say together (`replica::recovery`) and what the new state is (`cluster::recovery`).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use cluster::{Generation, LogsRead, MemberId, Revision, State};
use record::{Group, HardState, Loaded, RaftDisk, SnapshotMeta, StoreError};
use replica::recovery::{Reading, Survey, Unread, next_generation, read_through, survey};
use replica::{Start, encode_membership};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::admission::{Admission, AdmissionError};
use crate::server::{ServerError, body_of, identity, seed, state_of};
use crate::store::{Backend, Folder, OpenOutcome};

#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error("{0} is no data folder of a member")]
    NoMember(String),
    #[error("{folder} cannot be read: it is quarantined, {reason}")]
    Quarantined { folder: String, reason: String },
    #[error("{folder} is of cluster {found}, the others of {expected}")]
    OtherCluster { folder: String, found: String, expected: String },
    #[error(transparent)]
    Unread(#[from] Unread),
    #[error("cannot {operation} {path}")]
    Io { operation: &'static str, path: String, source: std::io::Error },
    #[error("{path} is no plan of this command: {problem}")]
    Unreadable { path: String, problem: String },
    #[error("the digest is not that of the plan; read the plan again, and type what stands at its end")]
    WrongDigest,
    #[error("{0} has changed since the plan was made; make another")]
    Changed(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    #[error(transparent)]
    Member(#[from] ServerError),
}

/// What is going to be done, and on what grounds. Kept as JSON; the digest covers all else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub cluster: String,
    pub cluster_name: String,
    pub generation: Generation,
    pub next: Generation,
    pub survivor: u64,
    pub logs: LogsRead,
    pub read: Vec<Read>,
    /// Of the newest membership found.
    pub voters: Vec<u64>,
    /// While that is joint, else empty.
    pub outgoing: Vec<u64>,
    pub unread: Vec<u64>,
    /// Entries of the survivor's log above what anybody read knows as committed.
    pub uncommitted: u64,
    pub nodes: usize,
    pub containers: usize,
    pub digest: String,
}

/// One member that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Read {
    pub member: u64,
    pub name: String,
    pub data_dir: PathBuf,
    pub last_term: u64,
    pub last_index: u64,
    pub committed: u64,
    pub snapshot: u64,
}

/// A stopped member, locked for as long as this lives.
struct Stopped {
    folder: Folder,
    data_dir: PathBuf,
    backend: Backend,
    papers: Admission,
    reading: Reading,
}

/// Reads the members in `data_dirs` as a start of each would, damage included; changes nothing else. The new generation is
/// above every one that was read and above `above`.
pub fn plan(data_dirs: &[PathBuf], above: u64) -> Result<Plan, RecoveryError> {
    let stopped = data_dirs.iter().map(|data_dir| Stopped::open(data_dir)).collect::<Result<Vec<_>, _>>()?;
    let (_, plan) = decide(&stopped, |generation| Generation {
        number: generation.number.max(above) + 1,
        id: Uuid::new_v4().as_u128(),
    })?;
    Ok(plan)
}

/// Does what `plan` says, if `digest` is its digest and every store is still as it was. The stores that were read beside
/// the survivor's are quarantined first; then the survivor has either the store it had or the new one. What was cut off is
/// done again by the same command.
pub fn apply(plan: &Plan, digest: &str) -> Result<PathBuf, RecoveryError> {
    if plan.digest != plan.digest() || digest.trim() != plan.digest {
        return Err(RecoveryError::WrongDigest);
    }
    let why = plan.epitaph();
    let (mut stopped, mut done) = (Vec::new(), BTreeSet::new());
    for read in &plan.read {
        match Stopped::open(&read.data_dir) {
            // All of it was done: the others are quarantined before the survivor begins.
            Ok(open) if open.papers.generation == plan.next => return Ok(open.data_dir.join(plan.aside())),
            Ok(open) => stopped.push(open),
            // An attempt that was cut off had come as far as this one.
            Err(RecoveryError::Quarantined { reason, .. }) if reason == why => {
                done.insert(read.member);
            }
            Err(error) => return Err(error),
        }
    }
    let readings = stopped.iter().map(|open| &open.reading);
    for (reading, read) in readings.zip(plan.read.iter().filter(|read| !done.contains(&read.member))) {
        let changed = || RecoveryError::Changed(read.data_dir.display().to_string());
        let (last, commit) = end_of(reading);
        let same = reading.member.0 == read.member
            && (last.term, last.index, commit) == (read.last_term, read.last_index, read.committed);
        same.then_some(()).ok_or_else(changed)?;
    }
    let place = stopped.iter().position(|open| open.reading.member.0 == plan.survivor);
    let survivor = stopped.swap_remove(place.ok_or_else(|| RecoveryError::Changed(format!("m{}", plan.survivor)))?);
    for other in stopped {
        other.folder.condemn(&why)?;
    }
    survivor.begin(plan, &why)
}

/// What the stores say together, as a plan to begin the generation that `next` makes of theirs.
fn decide(stopped: &[Stopped], next: impl FnOnce(Generation) -> Generation) -> Result<(Survey, Plan), RecoveryError> {
    if let Some(pair) = stopped.windows(2).find(|pair| pair[0].papers.cluster != pair[1].papers.cluster) {
        let folder = pair[1].data_dir.display().to_string();
        let (found, expected) = (pair[1].papers.cluster.to_string(), pair[0].papers.cluster.to_string());
        return Err(RecoveryError::OtherCluster { folder, found, expected });
    }
    let found = {
        let readings: Vec<&Reading> = stopped.iter().map(|open| &open.reading).collect();
        survey(&readings)?
    };
    let survivor = stopped.iter().find(|open| open.reading.member == found.newest).ok_or(Unread::Nothing)?;
    let state = read_through(&survivor.reading)?;
    let read = |open: &Stopped| {
        let (last, committed) = end_of(&open.reading);
        Read {
            member: open.reading.member.0,
            name: open.papers.name.to_string(),
            data_dir: open.data_dir.clone(),
            last_term: last.term,
            last_index: last.index,
            committed,
            snapshot: open.reading.start.state.as_ref().map_or(0, |state| state.revision().0),
        }
    };
    let ids = |from: &[MemberId]| from.iter().map(|id| id.0).collect();
    let mut plan = Plan {
        cluster: survivor.papers.cluster.to_string(),
        cluster_name: survivor.papers.cluster_name.clone(),
        generation: state.generation(),
        next: next(state.generation()),
        survivor: found.newest.0,
        logs: found.logs,
        read: stopped.iter().map(read).collect(),
        voters: ids(&found.membership.voters),
        outgoing: ids(&found.membership.outgoing),
        unread: ids(&found.unread),
        uncommitted: found.uncommitted,
        nodes: state.node_count(),
        containers: state.container_count(),
        digest: String::new(),
    };
    plan.digest = plan.digest();
    Ok((found, plan))
}

fn end_of(reading: &Reading) -> (record::LogPoint, u64) {
    let Start { state, snapshot, hard_state, entries } = &reading.start;
    let below = snapshot.as_ref().map(SnapshotMeta::point).unwrap_or_default();
    let last = entries.last().map_or(below, record::Entry::point);
    (last, hard_state.commit.max(state.as_ref().map_or(0, |state| state.revision().0)))
}

impl Stopped {
    fn open(data_dir: &Path) -> Result<Stopped, RecoveryError> {
        let shown = data_dir.display().to_string();
        let data_dir = fs::canonicalize(data_dir).map_err(|_| RecoveryError::NoMember(shown.clone()))?;
        let folder = Folder::lock(&data_dir)?;
        if let Some(quarantine) = folder.quarantine()? {
            return Err(RecoveryError::Quarantined { folder: shown, reason: quarantine.reason });
        }
        let papers = Admission::read(&data_dir)?.ok_or_else(|| RecoveryError::NoMember(shown.clone()))?;
        let backend = folder.backend()?;
        match folder.open(backend, Some(papers.cluster.0.to_be_bytes()))? {
            OpenOutcome::Ready(mut disk, loaded) => {
                let state = state_of(&mut *disk)?;
                disk.close()?;
                let Loaded { hard_state, entries, snapshot, identity: of, .. } = *loaded;
                if of != identity(&papers) {
                    let (papers, store) = (Box::new(identity(&papers)), Box::new(of));
                    return Err(ServerError::OtherMember { papers, store }.into());
                }
                let start = Start { state, snapshot, hard_state, entries };
                let reading = Reading { member: papers.member, start };
                Ok(Stopped { folder, data_dir, backend, papers, reading })
            }
            OpenOutcome::Quarantined(quarantine) => {
                Err(RecoveryError::Quarantined { folder: shown, reason: quarantine.reason })
            }
            OpenOutcome::Fresh => Err(RecoveryError::NoMember(shown)),
        }
    }

    /// The new store and its papers, whole beside the old ones, and then in their place.
    fn begin(self, plan: &Plan, why: &str) -> Result<PathBuf, RecoveryError> {
        let Stopped { folder, backend, papers, reading, .. } = self;
        let state = read_through(&reading)?;
        let survivor = state.member(reading.member).cloned().ok_or(Unread::NoState(reading.member))?;
        let (state, point) = next_generation(&reading, plan.next, survivor.clone(), plan.logs)?;
        let papers =
            Admission { generation: plan.next, seeds: vec![seed(&survivor)], learner: false, made: true, ..papers };
        let next = folder.next()?;
        let (mut disk, _) = next.create(backend, identity(&papers))?;
        write_state(&mut *disk, &state, point)?;
        disk.close()?;
        drop(disk);
        papers.write(&folder.next_path())?;
        drop(next);
        Ok(folder.succeed(&plan.aside(), why)?)
    }
}

fn write_state(disk: &mut dyn RaftDisk, state: &State, point: record::LogPoint) -> Result<(), StoreError> {
    let body = body_of(state);
    let meta = SnapshotMeta::of(point, encode_membership(state.membership()), &body);
    disk.save_snapshot(&meta, &body)?;
    let hard_state = HardState { term: point.term, vote: 0, commit: point.index };
    disk.append_group(&Group { hard_state, restored: Some(point), entries: Vec::new() })?;
    Ok(())
}

impl Plan {
    pub fn read_from(path: &Path) -> Result<Plan, RecoveryError> {
        let shown = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|source| RecoveryError::Io {
            operation: "read",
            path: shown.clone(),
            source,
        })?;
        serde_json::from_str(&text)
            .map_err(|error| RecoveryError::Unreadable { path: shown, problem: error.to_string() })
    }

    pub fn write(&self, path: &Path) -> Result<(), RecoveryError> {
        let text = serde_json::to_string_pretty(self).expect("names and numbers are always JSON") + "\n";
        let shown = path.display().to_string();
        fs::write(path, text).map_err(|source| RecoveryError::Io { operation: "write", path: shown, source })
    }

    /// Of everything else it says; short enough to be typed.
    fn digest(&self) -> String {
        let bare = Plan { digest: String::new(), ..self.clone() };
        let text = serde_json::to_string(&bare).expect("names and numbers are always JSON");
        let hash = Sha256::digest(text.as_bytes());
        hash[..6].chunks(2).map(|pair| format!("{:02x}{:02x}", pair[0], pair[1])).collect::<Vec<_>>().join("-")
    }

    /// What the survivor's store before is called, in its data folder.
    fn aside(&self) -> String {
        format!("generation-{}", self.generation.number)
    }

    /// What is said of a store that is never started again. One line.
    fn epitaph(&self) -> String {
        let Plan { next, survivor, digest, .. } = self;
        format!("its cluster went on as generation {next} from m{survivor} (plan {digest})")
    }

    /// What a person needs to know before typing the digest.
    pub fn told(&self) -> String {
        let mut text = String::new();
        let names = |ids: &[u64]| ids.iter().map(|id| format!("m{id}")).collect::<Vec<_>>().join(", ");
        let mut line = |label: &str, value: String| {
            let _ = writeln!(text, "{label:<14} {value}");
        };
        line("cluster", format!("{} ({}), generation {}", self.cluster_name, self.cluster, self.generation));
        for read in &self.read {
            let Read { member, name, data_dir, last_term, last_index, committed, snapshot } = read;
            let here = if *member == self.survivor { ", the newest: the survivor" } else { "" };
            line(&format!("m{member} {name}"), format!("{}{here}", data_dir.display()));
            line(
                "",
                format!("log to r{last_index} in term {last_term}, committed to r{committed}, snapshot of r{snapshot}"),
            );
        }
        line(
            "voters",
            match self.outgoing.is_empty() {
                true => format!("{}, as the newest log has it", names(&self.voters)),
                false => format!("{}, and of the change under way {}", names(&self.outgoing), names(&self.voters)),
            },
        );
        let unread = names(&self.unread);
        line("not read", if unread.is_empty() { "none".to_owned() } else { unread.clone() });
        line("keeps", format!("{} nodes, {} containers", self.nodes, self.containers));
        if self.uncommitted > 0 {
            let one = if self.uncommitted == 1 { "entry" } else { "entries" };
            line("counts now", format!("{} {one} that nobody read knows as committed", self.uncommitted));
        }
        match self.logs {
            LogsRead::Majority => {
                line("lost", "nothing: the logs of a majority were read".to_owned());
                line("nodes", "each is fenced by time, or by its own word once it has crossed over".to_owned());
            }
            LogsRead::Fewer => {
                let survivor = self.read.iter().find(|read| read.member == self.survivor);
                let from = Revision(survivor.map_or(0, |read| read.last_index));
                line("may be lost", format!("whatever {unread} decided after {from}, and the nodes that joined since"));
                line(
                    "nodes",
                    "no time counts: nothing is placed before every node has crossed over or an operator has \
                    confirmed that it is down"
                        .to_owned(),
                );
                line("", "one that is confirmed must not come back before it is told of the new generation".to_owned());
            }
        }
        line(
            "then",
            format!(
                "generation {}, m{} its only member; the other stores are never started again",
                self.next, self.survivor
            ),
        );
        line("digest", self.digest.clone());
        text
    }
}

#[cfg(test)]
mod tests {
    use cluster::{Bootstrap, ClusterId, Member, Name, SecretHash, Settings};
    use record::{Entry, LogPoint};
    use tempfile::TempDir;

    use super::*;
    use crate::secret::Secret;

    /// Member `id` of three, stopped, with a log of empty entries to `last`.
    fn stopped(temporary: &TempDir, id: u64, last: LogPoint) -> PathBuf {
        let data_dir = temporary.path().join(format!("m{id}"));
        let name = |id: u64| Name::new(&format!("m{id}")).expect("a name");
        let member = |id: u64| Member {
            id: MemberId(id),
            name: name(id),
            peer_address: format!("m{id}:7441").into(),
            api_address: format!("m{id}:7440").into(),
            secret: SecretHash(id.into()),
            added: Revision(1),
        };
        let papers = Admission {
            cluster: ClusterId(7),
            cluster_name: "home".into(),
            generation: Generation::numbered(1),
            member: MemberId(id),
            name: name(id),
            secret: Secret::draw(),
            learner: false,
            made: true,
            seeds: Vec::new(),
        };
        let members = (1..=3).map(member).collect();
        let state = State::bootstrap(Bootstrap { cluster: papers.cluster, settings: Settings::default(), members });
        let folder = Folder::lock(&data_dir).expect("a folder");
        let (mut disk, _) = folder.create(Backend::File, identity(&papers)).expect("made");
        write_state(&mut *disk, &state, LogPoint { index: 1, term: 1 }).expect("written");
        append(&mut *disk, 2, last);
        disk.close().expect("closed");
        papers.write(&data_dir).expect("written");
        data_dir
    }

    fn append(disk: &mut dyn RaftDisk, first: u64, last: LogPoint) {
        let entry = |index| Entry { term: last.term, index, ..Entry::default() };
        let hard_state = HardState { term: last.term, vote: 0, commit: 1 };
        let entries = (first..=last.index).map(entry).collect();
        disk.append_group(&Group { hard_state, restored: None, entries }).expect("appended");
    }

    fn at(term: u64, index: u64) -> LogPoint {
        LogPoint { term, index }
    }

    fn papers(data_dir: &Path) -> Admission {
        Admission::read(data_dir).expect("readable").expect("there")
    }

    #[test]
    fn the_newest_survives_and_the_others_never_start_again() {
        let temporary = TempDir::new().expect("a folder");
        let dirs = [stopped(&temporary, 1, at(2, 9)), stopped(&temporary, 3, at(3, 4))];
        let plan = plan(&dirs, 0).expect("planned");
        assert_eq!((plan.survivor, plan.logs, plan.next.number), (3, LogsRead::Majority, 2));
        assert_eq!((&plan.voters[..], &plan.unread[..], plan.uncommitted), (&[1, 2, 3][..], &[2][..], 3));
        let path = temporary.path().join("plan.json");
        plan.write(&path).expect("written");
        assert_eq!(Plan::read_from(&path).expect("read"), plan);
        assert!(matches!(apply(&plan, "0000-0000-0000"), Err(RecoveryError::WrongDigest)));
        let forged = Plan { survivor: 1, ..plan.clone() };
        assert!(matches!(apply(&forged, &plan.digest), Err(RecoveryError::WrongDigest)));

        let aside = apply(&plan, &plan.digest).expect("applied");
        assert!(aside.join("identity").exists());
        assert_eq!(papers(&dirs[1]).generation, plan.next);
        let survivor = Stopped::open(&dirs[1]).expect("it starts");
        let state = survivor.reading.start.state.as_ref().expect("a state");
        assert_eq!((state.generation(), &state.membership().voters[..]), (plan.next, &[MemberId(3)][..]));
        drop(survivor);
        let refused = Stopped::open(&dirs[0]).err().expect("it never starts again").to_string();
        assert!(refused.contains("went on as generation 2-") && refused.contains("from m3"), "{refused}");
        assert_eq!(apply(&plan, &plan.digest).expect("done already"), aside);
    }

    /// Wherever it ended: behind the quarantine of the others, or behind the moment of the survivor.
    #[test]
    fn what_was_cut_off_is_done_again() {
        let temporary = TempDir::new().expect("a folder");
        let dirs = [stopped(&temporary, 1, at(2, 9)), stopped(&temporary, 3, at(3, 4))];
        let plan = plan(&dirs, 0).expect("planned");
        Folder::lock(&dirs[0]).expect("free").condemn(&plan.epitaph()).expect("condemned");
        apply(&plan, &plan.digest).expect("applied");
        assert_eq!(papers(&dirs[1]).generation, plan.next);
    }

    #[test]
    fn a_store_that_has_changed_since_is_not_touched() {
        let temporary = TempDir::new().expect("a folder");
        let dirs = [stopped(&temporary, 1, at(2, 9)), stopped(&temporary, 3, at(3, 4))];
        let plan = plan(&dirs, 0).expect("planned");
        let folder = Folder::lock(&dirs[0]).expect("free");
        let OpenOutcome::Ready(mut disk, _) = folder.open(Backend::File, None).expect("opened") else {
            panic!("it is whole")
        };
        append(&mut *disk, 10, at(4, 11));
        disk.close().expect("closed");
        drop((disk, folder));
        assert!(matches!(apply(&plan, &plan.digest), Err(RecoveryError::Changed(_))));
        assert!(dirs.iter().all(|dir| papers(dir).generation == Generation::numbered(1)));
        assert!(dirs.iter().all(|dir| Folder::lock(dir).expect("free").quarantine().expect("read").is_none()));
    }

    #[test]
    fn what_is_no_stopped_member_is_named() {
        let temporary = TempDir::new().expect("a folder");
        let whole = stopped(&temporary, 1, at(2, 9));
        let nothing = temporary.path().join("nothing");
        assert!(matches!(plan(&[whole.clone(), nothing.clone()], 0), Err(RecoveryError::NoMember(_))));
        assert!(!nothing.exists(), "nothing is made where nothing was");
        let runs = Folder::lock(&whole).expect("free");
        assert!(matches!(plan(std::slice::from_ref(&whole), 0), Err(RecoveryError::Store(StoreError::Locked { .. }))));
        drop(runs);
        Folder::lock(&whole).expect("free").condemn("its leader knows of more").expect("condemned");
        assert!(matches!(plan(&[whole], 0), Err(RecoveryError::Quarantined { .. })));
    }

    #[test]
    fn a_number_that_was_seen_elsewhere_is_not_used_again() {
        let temporary = TempDir::new().expect("a folder");
        let plan = plan(&[stopped(&temporary, 2, at(1, 2))], 4).expect("planned");
        assert_eq!((plan.next.number, plan.logs), (5, LogsRead::Fewer));
        let told = plan.told();
        for line in ["not read       m1, m3", "may be lost    whatever m1, m3 decided after r2", "no time counts"] {
            assert!(told.contains(line), "{line}: {told}");
        }
    }
}
