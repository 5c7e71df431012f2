//! The composition root: binds, opens, starts, and turns one standing into the next.
//! In: a checked configuration, orders from the API, the end of the replica. Out: two listening ports and a member behind
//! them. A quarantined or removed member keeps its public port, so that somebody can learn why and what to do.

mod ports;
mod rejoining;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::{Bootstrap, ClusterId, Generation, Member, MemberId, Moment, Profile, Revision, Settings, State};
use proto::{Problem, v1};
use record::{Group, HardState, Identity, Loaded, LogPoint, RaftDisk, SnapshotMeta, StoreError};
use replica::{Halt, Start, encode_membership};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tonic::Code;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::admission::{Admission, AdmissionError, Seed};
use crate::api::door::Door;
use crate::api::front::{self, Front};
use crate::clock;
use crate::config::Config;
use crate::runtime::fencing::Fences;
use crate::runtime::{Credentials, Ended, Runtime, Seat, StoreMeter, chain};
use crate::secret::Secret;
use crate::standing::{Burnt, Order, Passing, Seated, Standing};
use crate::steward;
use crate::store::{Folder, OpenOutcome, Quarantine};
use ports::{AGENT_WINDOW, bind, describing, http, incoming, said_end};

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("{key}: {address} is in use by another process; stop that one, or give another port")]
    PortInUse { key: &'static str, address: SocketAddr },
    #[error("{key}: cannot listen on {address}")]
    Listen { key: &'static str, address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    #[error(
        "the data folder holds a store but not whose it is: its making was interrupted; begin with an empty folder"
    )]
    Unfinished,
    #[error("member.toml is that of {papers}, the store beside it that of {store}; put the right one back")]
    OtherMember { papers: Box<Identity>, store: Box<Identity> },
    #[error("member.toml is of generation {papers}, the store beside it of {store}; put the right one back")]
    OtherGeneration { papers: Generation, store: Generation },
    #[error("the snapshot in the data folder cannot be read: {0}")]
    Snapshot(String),
    #[error("cannot start from what is stored")]
    Replica(#[from] replica::CannotStart),
    #[error("cannot take the admission in {path}: {problem}")]
    Join { path: String, problem: String },
    #[error("this member stops: {0}")]
    Halted(Halt),
    #[error("this member stops because of its disk")]
    Disk(#[source] StoreError),
    #[error("this member stops because of a fault in the program; the log says where")]
    Panicked,
}

/// A process that listens.
pub struct Server {
    config: Config,
    folder: Arc<Folder>,
    /// By the lease clock, read after the folder's lock was held *(18)*.
    started: Moment,
    standing: watch::Sender<Standing>,
    orders: mpsc::Receiver<Order>,
    running: Option<Running>,
    streams: tokio::runtime::Handle,
    health: HealthReporter,
    ports: [JoinHandle<()>; 2],
    pub api: SocketAddr,
    pub peer: SocketAddr,
}

struct Running {
    runtime: Runtime,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ports.iter().for_each(JoinHandle::abort);
    }
}

impl Server {
    /// Binds, opens the data folder and starts what it finds there. Streams of agents and members run on `streams`, so
    /// that a flood of client calls delays no heartbeat.
    pub async fn start(config: Config, streams: tokio::runtime::Handle) -> Result<Server, ServerError> {
        let api_listener = bind("listen", config.listen)?;
        let peer_listener = bind("peer_listen", config.peer_listen)?;
        let [api, peer] = [(&api_listener, config.listen), (&peer_listener, config.peer_listen)]
            .map(|(listener, asked)| listener.local_addr().unwrap_or(asked));
        let data = config.data_dir.clone();
        let folder = Arc::new(blocking(move || Folder::lock(&data)).await?);
        let started = clock::lease_clock();

        let (standing, shown) = watch::channel(Standing::Empty);
        let (give, orders) = mpsc::channel(4);
        let door = Door::new(shown, give, &config.limits);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status("", ServingStatus::NotServing).await;
        let front = Front::new(door.clone(), config.limits.clone(), describing(health_service));
        let incoming =
            incoming(api_listener).map_err(|source| ServerError::Listen { key: "listen", address: api, source })?;
        let public = tokio::spawn(async move {
            let served = http(None).accept_http1(true).serve_with_incoming(front, incoming).await;
            said_end("api", served);
        });
        let inner = front::inner(&door);
        let (bound, is_bound) = oneshot::channel();
        let private = streams.spawn(async move {
            let incoming = match ports::incoming(peer_listener) {
                Ok(incoming) => incoming,
                Err(error) => return drop(bound.send(Err(error))),
            };
            let _ = bound.send(Ok(()));
            let served = http(Some(AGENT_WINDOW)).serve_with_incoming(inner, incoming).await;
            said_end("peer", served);
        });
        let bound = is_bound.await.unwrap_or(Ok(()));
        bound.map_err(|source| ServerError::Listen { key: "peer_listen", address: peer, source })?;

        let mut server = Server {
            config,
            folder,
            started,
            standing,
            orders,
            running: None,
            streams,
            health,
            ports: [public, private],
            api,
            peer,
        };
        info!(%api, %peer, data = %server.config.data_dir.display(), "listening");
        server.open().await?;
        Ok(server)
    }

    /// Serves until `shutdown`, or until the member may not go on.
    pub async fn serve(mut self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        tokio::pin!(shutdown);
        loop {
            let event = tokio::select! {
                order = self.orders.recv() => Happened::Order(order),
                ended = ended(&mut self.running) => Happened::Ended(ended),
                () = &mut shutdown => Happened::Shutdown,
            };
            match event {
                Happened::Order(Some(order)) => self.obey(order).await?,
                Happened::Order(None) => return Ok(()),
                Happened::Ended(ended) => self.over(ended).await?,
                Happened::Shutdown => return self.stop().await,
            }
        }
    }

    /// What this process is just now; for tests and for `main`.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Hands leadership over, closes the store.
    async fn stop(mut self) -> Result<(), ServerError> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        if running.runtime.handle.view().leads {
            // Without another member there is nobody to take it, and that is no reason to stay.
            let transfer = running.runtime.handle.transfer_leader(None);
            let _ = tokio::time::timeout(Duration::from_secs(1), transfer).await;
        }
        running.runtime.stop();
        match running.runtime.ended().await {
            Ended::Store(error) => Err(ServerError::Disk(error)),
            Ended::Panicked => Err(ServerError::Panicked),
            Ended::Stopped | Ended::Halted(_) => Ok(()),
        }
    }

    async fn open(&mut self) -> Result<(), ServerError> {
        let papers = Admission::read(&self.config.data_dir);
        let cluster = papers.as_ref().ok().and_then(Option::as_ref).map(|papers| papers.cluster.0.to_be_bytes());
        let (folder, backend) = (Arc::clone(&self.folder), self.config.store);
        let outcome = blocking(move || folder.open(backend, cluster)).await?;
        match (outcome, papers) {
            (OpenOutcome::Quarantined(quarantine), _) => {
                self.quarantined(quarantine).await;
                Ok(())
            }
            (OpenOutcome::Ready(disk, loaded), Ok(Some(mut papers))) => {
                let (papers_of, store_of) = (identity(&papers), loaded.identity);
                if papers_of != store_of {
                    return Err(ServerError::OtherMember { papers: Box::new(papers_of), store: Box::new(store_of) });
                }
                if !papers.made {
                    papers.made = true;
                    let (data, written) = (self.config.data_dir.clone(), papers.clone());
                    blocking(move || written.write(&data)).await?;
                }
                self.take_seat(disk, *loaded, papers, true).await
            }
            (OpenOutcome::Ready(_, loaded), Ok(None)) if !took_part(&loaded) => Err(ServerError::Unfinished),
            (OpenOutcome::Ready(disk, _), Ok(None)) => {
                drop(disk);
                self.condemn("member.toml is gone, but this member has taken part".to_owned()).await
            }
            // Without its secret it is nobody; only the others can say who it may be next.
            (OpenOutcome::Ready(disk, _), Err(unreadable @ AdmissionError::Unreadable { .. })) => {
                drop(disk);
                self.condemn(unreadable.to_string()).await
            }
            (_, Err(error)) => Err(error.into()),
            (OpenOutcome::Fresh, Ok(Some(papers))) if papers.made => {
                self.condemn("the store is gone, but member.toml says that there was one".to_owned()).await
            }
            (OpenOutcome::Fresh, Ok(Some(papers))) => self.join(papers).await,
            (OpenOutcome::Fresh, Ok(None)) => self.begin().await,
        }
    }

    /// What is stored must not be used again.
    async fn condemn(&mut self, reason: String) -> Result<(), ServerError> {
        let folder = Arc::clone(&self.folder);
        let quarantine = blocking(move || folder.condemn(&reason)).await?;
        self.quarantined(quarantine).await;
        Ok(())
    }

    /// What an empty member was told on its command line.
    async fn begin(&mut self) -> Result<(), ServerError> {
        if let Some(path) = self.config.join.clone() {
            let shown = path.display().to_string();
            let wrong = |problem: String| ServerError::Join { path: shown.clone(), problem };
            let json = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
            let message = proto::rest::from_json::<v1::Admission>("quorate.v1.Admission", &json);
            let message = message.map_err(wrong)?;
            let admission = Admission::from_message(message).map_err(|problem| wrong(problem.to_string()))?;
            return self.enrol(admission).await;
        }
        if let Some(bootstrap) = self.config.bootstrap.clone() {
            self.init(bootstrap.cluster_name, bootstrap.profile).await?;
        }
        Ok(())
    }

    async fn obey(&mut self, order: Order) -> Result<(), ServerError> {
        let busy = |standing: &Standing| match standing {
            Standing::Member(_) => {
                Problem::new(Code::FailedPrecondition, "has-cluster", "this member has a cluster already")
            }
            other => other.problem(),
        };
        let standing = self.standing.borrow().clone();
        match order {
            Order::Init { name, profile, reply } => {
                let outcome = match standing {
                    Standing::Empty => self.init(name, profile).await,
                    other => return answer(reply, Err(busy(&other))),
                };
                answer(reply, outcome.as_ref().map(Clone::clone).map_err(broken))?;
                outcome.map(drop)
            }
            Order::Enrol { admission, reply } => {
                let member = admission.member;
                let outcome = match standing {
                    Standing::Empty => self.enrol(*admission).await,
                    other => return answer(reply, Err(busy(&other))),
                };
                answer(reply, outcome.as_ref().map(|()| member).map_err(broken))?;
                outcome
            }
            Order::Rejoin { via, reply } => match standing {
                Standing::Quarantined(burnt) => {
                    let outcome = self.rejoin(&burnt, &via).await;
                    answer(reply, outcome)
                }
                Standing::Member(_) => {
                    let text = "this member is not quarantined: there is nothing to rejoin";
                    answer(reply, Err(Problem::new(Code::FailedPrecondition, "not-quarantined", text)))
                }
                other => answer(reply, Err(other.problem())),
            },
        }
    }

    /// A cluster of one.
    async fn init(&mut self, cluster_name: String, profile: Profile) -> Result<v1::InitReply, ServerError> {
        let (cluster, member, generation) = (ClusterId(Uuid::new_v4().as_u128()), MemberId(1), Generation::numbered(1));
        let secret = Secret::draw();
        let me = Member {
            id: member,
            name: self.config.name.clone(),
            peer_address: self.advertised_peer().into(),
            api_address: self.advertised_api().into(),
            secret: secret.hash(),
            added: Revision(1),
        };
        let admission = Admission {
            cluster,
            cluster_name,
            generation,
            member,
            name: me.name.clone(),
            secret,
            learner: false,
            made: true,
            seeds: vec![seed(&me)],
        };
        let settings = Settings { terms: profile.terms(), ..Settings::default() };
        let state = State::bootstrap(Bootstrap { cluster, settings, members: vec![me] });
        let (folder, backend, data, papers) =
            (Arc::clone(&self.folder), self.config.store, self.config.data_dir.clone(), admission.clone());
        let revision = state.revision();
        let opened = blocking(move || {
            let identity = identity(&papers);
            let (mut disk, _) = folder.create(backend, identity)?;
            let point = LogPoint { index: state.revision().0, term: 1 };
            let body = body_of(&state);
            let meta = SnapshotMeta::of(point, encode_membership(state.membership()), &body);
            disk.save_snapshot(&meta, &body)?;
            let hard_state = HardState { term: point.term, vote: 0, commit: point.index };
            disk.append_group(&Group { hard_state, restored: Some(point), entries: Vec::new() })?;
            disk.close()?;
            drop(disk);
            // Last: without its papers a store is unfinished.
            papers.write(&data)?;
            Ok::<_, ServerError>(folder.open(backend, Some(identity.cluster))?)
        })
        .await?;
        let OpenOutcome::Ready(disk, loaded) = opened else { return Err(ServerError::Unfinished) };
        info!(%cluster, %member, "cluster begun");
        self.take_seat(disk, *loaded, admission, false).await?;
        Ok(v1::InitReply { cluster_id: cluster.to_string(), member: member.0, revision: revision.0 })
    }

    /// Papers first: with them an interrupted start goes on.
    async fn enrol(&mut self, admission: Admission) -> Result<(), ServerError> {
        let (data, papers) = (self.config.data_dir.clone(), admission.clone());
        blocking(move || papers.write(&data)).await?;
        self.join(admission).await
    }

    /// A newcomer: an empty log that waits for a leader.
    async fn join(&mut self, mut admission: Admission) -> Result<(), ServerError> {
        admission.made = true;
        let (folder, backend, data) = (Arc::clone(&self.folder), self.config.store, self.config.data_dir.clone());
        let papers = admission.clone();
        let (disk, loaded) = blocking(move || {
            let made = folder.create(backend, identity(&papers))?;
            papers.write(&data)?;
            Ok::<_, ServerError>(made)
        })
        .await?;
        info!(cluster = %admission.cluster, member = %admission.member, "admitted; waiting for the leader");
        self.take_seat(disk, loaded, admission, false).await
    }

    /// Starts the member that the disk holds. `cold`: it found a log.
    async fn take_seat(
        &mut self,
        mut disk: Box<dyn RaftDisk>,
        loaded: Loaded,
        admission: Admission,
        cold: bool,
    ) -> Result<(), ServerError> {
        let Loaded { hard_state, entries, snapshot, .. } = loaded;
        let wants_state = snapshot.is_some();
        let (state, disk) = blocking(move || {
            let state = if wants_state { state_of(&mut *disk)? } else { None };
            Ok::<_, ServerError>((state, disk))
        })
        .await?;
        if let Some(other) = state.as_ref().map(State::generation).filter(|other| *other != admission.generation) {
            return Err(ServerError::OtherGeneration { papers: admission.generation, store: other });
        }
        let credentials = Credentials {
            cluster: admission.cluster,
            generation: admission.generation,
            member: admission.member,
            secret: admission.secret.clone(),
            learner: admission.learner,
        };
        let meter = StoreMeter::default();
        let seat = Seat {
            config: replica::Config {
                id: admission.member,
                cluster: admission.cluster,
                started: self.started,
                cold: cold && state.is_some(),
                snapshot_every: self.config.snapshot_every,
            },
            start: Start { state, snapshot, hard_state, entries },
            disk,
            credentials: credentials.clone(),
            seeds: admission.members(),
            meter: meter.clone(),
            fences: Fences::new(self.config.fence.clone(), self.streams.clone()),
            streams: self.streams.clone(),
        };
        let runtime = Runtime::start(seat)?;
        let seated = Arc::new(Seated {
            handle: runtime.handle.clone(),
            admission,
            credentials,
            arrivals: runtime.arrivals.clone(),
            meter,
            secrets: Default::default(),
            sessions: Default::default(),
            imports: Arc::default(),
            stays_learner: Mutex::new(BTreeSet::new()),
            passing: Passing::default(),
        });
        let tasks = vec![
            self.streams.spawn(steward::run(Arc::clone(&seated))),
            tokio::spawn(keep_papers(Arc::clone(&seated), self.config.data_dir.clone())),
        ];
        self.running = Some(Running { runtime, tasks });
        self.stand(Standing::Member(seated)).await;
        Ok(())
    }

    /// The replica is over. Some ends are a standing of their own, the others are the end of the process.
    async fn over(&mut self, ended: Ended) -> Result<(), ServerError> {
        self.running = None;
        match ended {
            Ended::Stopped => Ok(()),
            Ended::Halted(Halt::Removed) => {
                info!("this member was removed from its cluster");
                self.stand(Standing::Removed).await;
                Ok(())
            }
            Ended::Halted(reason @ Halt::LostData { .. }) => self.condemn(reason.to_string()).await,
            Ended::Store(StoreError::Damaged(damage)) => self.condemn(damage.to_string()).await,
            Ended::Halted(reason) => Err(ServerError::Halted(reason)),
            Ended::Store(error) => Err(ServerError::Disk(error)),
            Ended::Panicked => Err(ServerError::Panicked),
        }
    }

    async fn quarantined(&mut self, quarantine: Quarantine) {
        let Quarantine { reason, identity } = quarantine;
        let remedy =
            format!("`quoratectl member rejoin --member {}` brings it back under a new id", self.advertised_api());
        error!(reason, remedy, "quarantined: this member lost data and takes no part");
        let burnt = Burnt {
            why: reason,
            member: identity.map(|identity| MemberId(identity.member)),
            cluster: identity.map(|identity| ClusterId(u128::from_be_bytes(identity.cluster))),
            remedy,
        };
        self.stand(Standing::Quarantined(Arc::new(burnt))).await;
    }

    async fn stand(&self, standing: Standing) {
        let serving = match &standing {
            Standing::Member(_) => ServingStatus::Serving,
            Standing::Empty | Standing::Quarantined(_) | Standing::Removed => ServingStatus::NotServing,
        };
        self.health.set_service_status("", serving).await;
        self.standing.send_replace(standing);
    }

    fn advertised_api(&self) -> String {
        self.config.advertise_api.clone().unwrap_or_else(|| self.api.to_string())
    }

    fn advertised_peer(&self) -> String {
        self.config.advertise_peer.clone().unwrap_or_else(|| self.peer.to_string())
    }
}

enum Happened {
    Order(Option<Order>),
    Ended(Ended),
    Shutdown,
}

/// Never, while nothing runs.
async fn ended(running: &mut Option<Running>) -> Ended {
    match running {
        Some(running) => running.runtime.ended().await,
        None => std::future::pending().await,
    }
}

/// Writes down who can be asked, whenever that changes: a damaged member needs to know it.
async fn keep_papers(seated: Arc<Seated>, data: std::path::PathBuf) {
    let mut views = seated.handle.views();
    let mut papers = seated.admission.clone();
    while views.changed().await.is_ok() {
        let view = Arc::clone(&views.borrow_and_update());
        let Some(state) = &view.state else { continue };
        let same = state.members().count() == papers.seeds.len()
            && state.members().zip(&papers.seeds).all(|(member, known)| {
                member.id.0 == known.member && *member.api_address == *known.api && *member.peer_address == *known.peer
            });
        if same {
            continue;
        }
        papers.seeds = state.members().map(|member| seed(member)).collect();
        let (written, data) = (papers.clone(), data.clone());
        if let Err(error) = blocking(move || written.write(&data)).await {
            warn!(error = %chain(&error), "the members could not be written down");
        }
    }
}

pub(crate) fn seed(member: &Member) -> Seed {
    Seed {
        member: member.id.0,
        name: member.name.to_string(),
        peer: member.peer_address.to_string(),
        api: member.api_address.to_string(),
    }
}

/// Whether the member ever spoke to others or took an order; what a start of a cluster left half made did not.
fn took_part(loaded: &Loaded) -> bool {
    loaded.hard_state.vote != 0 || loaded.hard_state.term > 1 || !loaded.entries.is_empty()
}

pub(crate) fn identity(admission: &Admission) -> Identity {
    Identity {
        cluster: admission.cluster.0.to_be_bytes(),
        member: admission.member.0,
        incarnation: admission.generation.number,
    }
}

pub(crate) fn body_of(state: &State) -> Vec<u8> {
    proto::snapshot::encode(state).fold(Vec::new(), |mut body, piece| {
        body.extend_from_slice(&piece);
        body
    })
}

pub(crate) fn state_of(disk: &mut dyn RaftDisk) -> Result<Option<State>, ServerError> {
    let Some((_, body)) = disk.load_snapshot()? else { return Ok(None) };
    proto::snapshot::decode(&body).map(Some).map_err(|error| ServerError::Snapshot(error.to_string()))
}

/// A failure of this process in the words of the API; the process itself stops with the same.
fn broken(error: &ServerError) -> Problem {
    Problem::new(Code::Internal, "internal", chain(error))
}

/// Whoever asked and went away needs no answer.
fn answer<T>(reply: oneshot::Sender<Result<T, Problem>>, outcome: Result<T, Problem>) -> Result<(), ServerError> {
    let _ = reply.send(outcome);
    Ok(())
}

/// Disk work away from the tasks that answer calls.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
