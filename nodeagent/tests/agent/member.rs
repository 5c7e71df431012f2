//! A member as an agent sees one, without a cluster behind it: answers heartbeats, registers, hands out desired sets.
//! Everything it hears is kept for the test to look at.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use cluster::agent::{
    Answer, DesiredItem, DesiredSet, Heartbeat, HeartbeatReply, MembershipIdentity, SpecDigest, ToAgent, ToLeader,
    Wanted, WantedSpec,
};
use cluster::command::{Registration, Reported};
use cluster::{
    Class, ContainerId, ContainerSpec, Epoch, Generation, Incarnation, LeaseTerms, MemberId, Name, Observed,
    OnQuorumLoss, Proof, Resources, RestartPolicy, Revision, Span, Storage, StorageKind, Template, TemplateKind,
};
use futures_util::Stream;
use proto::wire::agents_server::{Agents, AgentsServer};
use proto::wire::{self, from_agent, heartbeat_down, heartbeat_up, to_agent};
use tokio::sync::{oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub const SECRET: &[u8] = b"a secret of sixteen and more bytes";
pub const NODE: u64 = 3;
pub const CLUSTER: u128 = 7;

/// What all members of the test agree on, as if it were replicated.
pub struct Truth {
    pub terms: LeaseTerms,
    pub incarnation: u64,
    pub registrations: Vec<Registration>,
    pub ended: Vec<(u64, Proof)>,
    pub revision: u64,
    pub wanted: BTreeMap<u64, (DesiredItem, Arc<WantedSpec>)>,
    /// Every word about an epoch, as it came.
    pub reports: Vec<(u64, u64, Reported)>,
    pub heartbeats: Vec<Heartbeat>,
    /// Members that welcomed the agent, in order.
    pub sessions: Vec<u64>,
    /// How often a member that does not lead was asked for a session, and named who does.
    pub asked_in_vain: u64,
    /// Member that leads; 0 for nobody.
    pub leader: u64,
    pub silent: bool,
    /// A member whose answers get lost while its connections stay open.
    pub mute: u64,
    pub leave: bool,
    pub membership: Option<Arc<MembershipIdentity>>,
}

/// Shared by all members.
#[derive(Clone)]
pub struct Shared {
    truth: Arc<Mutex<Truth>>,
    changed: watch::Sender<u64>,
}

impl Shared {
    pub fn new(terms: LeaseTerms) -> Shared {
        let truth = Truth {
            terms,
            incarnation: 0,
            registrations: Vec::new(),
            ended: Vec::new(),
            revision: 100,
            wanted: BTreeMap::new(),
            reports: Vec::new(),
            heartbeats: Vec::new(),
            sessions: Vec::new(),
            asked_in_vain: 0,
            leader: 1,
            silent: false,
            mute: 0,
            leave: false,
            membership: None,
        };
        Shared { truth: Arc::new(Mutex::new(truth)), changed: watch::channel(0).0 }
    }

    pub fn truth(&self) -> MutexGuard<'_, Truth> {
        self.truth.lock().expect("no panic while it is held")
    }

    /// Changes what is true and lets every session know.
    pub fn change(&self, change: impl FnOnce(&mut Truth)) {
        let mut truth = self.truth();
        change(&mut truth);
        truth.revision += 1;
        drop(truth);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Wants `container` to run `script` under `epoch` on the storage at `share`.
    pub fn want(&self, container: u64, epoch: u64, policy: OnQuorumLoss, script: &[&str], share: &std::path::Path) {
        let spec = Arc::new(WantedSpec {
            container: ContainerId(container),
            spec: Arc::new(ContainerSpec {
                name: Name::new(&format!("c{container}")).expect("good"),
                template: Name::new("plain").expect("good"),
                storage: Name::new("share").expect("good"),
                command: script.iter().map(|word| Box::from(*word)).collect(),
                environment: Arc::new(BTreeMap::from([("COLOUR".to_owned(), "blue".to_owned())])),
                resources: Resources { cpu_millis: 10, memory_bytes: 1 << 20 },
                class: Class::Guaranteed,
                priority: 500,
                possible_owners: [].into(),
                preferred_owners: [].into(),
                restart: RestartPolicy::default(),
                on_quorum_loss: policy,
                stop_grace: Span::millis(500),
                application_templates: Arc::default(),
            }),
            template: Arc::new(Template {
                name: Name::new("plain").expect("good"),
                version: "1".into(),
                digest: "".into(),
                kind: TemplateKind::Os,
                path: "".into(),
                registered: Revision(1),
                bytes: 0,
                defaults: Default::default(),
            }),
            storage: Arc::new(Storage {
                name: Name::new("share").expect("good"),
                kind: StorageKind::Directory { path: share.to_str().expect("text").into() },
                registered: Revision(1),
            }),
            applications: Arc::default(),
        });
        let item = DesiredItem {
            container: ContainerId(container),
            epoch: Epoch(epoch),
            on_quorum_loss: policy,
            wanted: Wanted::Run,
            spec: SpecDigest(u128::from(container) << 64 | u128::from(epoch)),
        };
        self.change(|truth| drop(truth.wanted.insert(container, (item, spec))));
    }

    pub fn want_stopped(&self, container: u64) {
        self.change(|truth| truth.wanted.get_mut(&container).expect("wanted before").0.wanted = Wanted::Stop);
    }

    /// The last word about an epoch.
    pub fn said(&self, container: u64, epoch: u64) -> Option<Observed> {
        let truth = self.truth();
        let said = truth.reports.iter().rev().find(|report| (report.0, report.1) == (container, epoch));
        match said.map(|report| report.2.clone()) {
            Some(Reported::Observed(observed)) => Some(observed),
            _ => None,
        }
    }
}

impl Truth {
    fn desired(&self) -> wire::ToAgent {
        let set = DesiredSet {
            generation: Generation::numbered(1),
            incarnation: Incarnation(self.incarnation),
            revision: Revision(self.revision),
            terms: self.terms,
            items: self.wanted.values().map(|(item, _)| *item).collect(),
            specs: self.wanted.values().map(|(item, spec)| (item.spec, spec.clone())).collect(),
            watch: Arc::default(),
        };
        (&ToAgent::Desired(Arc::new(set))).into()
    }

    fn not_leader(&mut self) -> wire::NotLeader {
        self.asked_in_vain += 1;
        let addresses = self.membership.iter().flat_map(|membership| membership.addresses.iter());
        let hint = addresses.clone().find(|(member, _)| member.0 == self.leader);
        let peer_address = hint.map_or_else(String::new, |(_, address)| address.to_string());
        wire::NotLeader { leader: self.leader, peer_address, api_address: String::new() }
    }

    fn hear(&mut self, said: ToLeader) -> Vec<wire::ToAgent> {
        match said {
            ToLeader::Register(registration) if registration.ends.0 == self.incarnation => {
                self.revision += 1;
                self.incarnation = self.revision;
                // A new incarnation holds no assignment.
                // As the real state: what was to keep running belongs to the new incarnation, the rest is displaced.
                self.wanted.retain(|_, (item, _)| item.on_quorum_loss == OnQuorumLoss::Keep);
                self.registrations.push(*registration);
                let registered = ToAgent::Registered {
                    generation: Generation::numbered(1),
                    incarnation: Incarnation(self.incarnation),
                    revision: Revision(self.revision),
                    terms: self.terms,
                };
                vec![(&registered).into(), self.desired()]
            }
            ToLeader::Register(_) => {
                let reason = "another incarnation is current".into();
                vec![(&ToAgent::NotRegistered { current: Incarnation(self.incarnation), reason }).into()]
            }
            ToLeader::Report { incarnation, reports } => {
                assert!(incarnation.0 <= self.incarnation, "a report of the future");
                let report = |report: cluster::command::Report| (report.container.0, report.epoch.0, report.what);
                self.reports.extend(reports.into_iter().map(report));
                Vec::new()
            }
            ToLeader::Ended { incarnation, proof } => {
                self.ended.push((incarnation.0, proof));
                vec![(&ToAgent::Void { incarnation }).into()]
            }
            ToLeader::TermsInForce { .. } | ToLeader::ClassChanged { .. } | ToLeader::Finds { .. } => Vec::new(),
            ToLeader::Holding { .. } => vec![self.desired()],
        }
    }
}

/// One member, serving. Dropping it closes every connection at once.
pub struct Member {
    pub id: u64,
    pub address: SocketAddr,
    _stop: oneshot::Sender<()>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Member {
    /// `address`: port 0 for any.
    pub fn start(id: u64, shared: &Shared, address: SocketAddr) -> Member {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
        let listener = {
            let _within = runtime.enter();
            let listen = || {
                let socket = tokio::net::TcpSocket::new_v4()?;
                socket.set_reuseaddr(true)?;
                socket.bind(address)?;
                socket.listen(64)
            };
            let mut listener = listen();
            // The member before on this port may still be closing its connections.
            crate::until("the port is free", || {
                if listener.is_err() {
                    listener = listen();
                }
                listener.is_ok()
            });
            listener.expect("listens")
        };
        let address = listener.local_addr().expect("address");
        let (stop, stopped) = oneshot::channel::<()>();
        let service = AgentsServer::new(Service { id, shared: shared.clone() });
        runtime.spawn(async move {
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let stopped = async { drop(stopped.await) };
            let _ = tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming_shutdown(incoming, stopped)
                .await;
        });
        Member { id, address, _stop: stop, runtime: Some(runtime) }
    }
}

/// The membership of `members`, acknowledged by all from now on.
pub fn agree(shared: &Shared, members: &[&Member]) {
    agree_at(shared, members, 1);
}

/// The same, as a later entry of the log.
pub fn agree_later(shared: &Shared, members: &[&Member]) {
    agree_at(shared, members, 2);
}

fn agree_at(shared: &Shared, members: &[&Member], index: u64) {
    let voters: Arc<[MemberId]> = members.iter().map(|member| MemberId(member.id)).collect();
    let addresses = members.iter().map(|member| (MemberId(member.id), member.address.to_string().into())).collect();
    let identity = MembershipIdentity { term: 1, index, voters, outgoing: [].into(), addresses };
    shared.truth().membership = Some(Arc::new(identity));
}

struct Service {
    id: u64,
    shared: Shared,
}

type Sent<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn check(hello: &wire::AgentHello) -> Result<(), wire::Refused> {
    let right = hello.cluster == CLUSTER.to_be_bytes()[..] && hello.node == NODE && hello.secret == SECRET;
    let refused = || wire::Refused { reason: "wrong-secret".into(), text: "who are you?".into() };
    right.then_some(()).ok_or_else(refused)
}

#[tonic::async_trait]
impl Agents for Service {
    type HeartbeatsStream = Sent<wire::HeartbeatDown>;
    type SessionStream = Sent<wire::ToAgent>;

    async fn join(&self, _: Request<wire::AgentJoin>) -> Result<Response<wire::AgentJoined>, Status> {
        Err(Status::unimplemented("this member admits nobody"))
    }

    async fn heartbeats(
        &self,
        request: Request<Streaming<wire::HeartbeatUp>>,
    ) -> Result<Response<Self::HeartbeatsStream>, Status> {
        let (mut incoming, shared, id) = (request.into_inner(), self.shared.clone(), self.id);
        let (down, answers) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok(Some(up)) = incoming.message().await {
                let message = match up.message {
                    Some(heartbeat_up::Message::Hello(hello)) => match check(&hello) {
                        Ok(()) => continue,
                        Err(refused) => heartbeat_down::Message::Refused(refused),
                    },
                    Some(heartbeat_up::Message::Heartbeat(heartbeat)) => {
                        let echo = Heartbeat::try_from(heartbeat).expect("a whole heartbeat");
                        let mut truth = shared.truth();
                        truth.heartbeats.push(echo);
                        let current = echo.incarnation.0 == truth.incarnation;
                        let (true, false, Some(membership)) =
                            (current, truth.silent || truth.mute == id, &truth.membership)
                        else {
                            continue;
                        };
                        let answer = Answer::Acknowledged(membership.clone());
                        let reply = HeartbeatReply { member: MemberId(id), echo, answer };
                        heartbeat_down::Message::Reply((&reply).into())
                    }
                    None => continue,
                };
                if down.send(Ok(wire::HeartbeatDown { message: Some(message) })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn session(
        &self,
        request: Request<Streaming<wire::FromAgent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (mut incoming, shared, id) = (request.into_inner(), self.shared.clone(), self.id);
        let (down, answers) = tokio::sync::mpsc::channel(64);
        tokio::spawn(async move {
            let Ok(Some(wire::FromAgent { message: Some(from_agent::Message::Hello(hello)) })) =
                incoming.message().await
            else {
                return;
            };
            let say = |message| Ok(wire::ToAgent { message: Some(message) });
            if let Err(refused) = check(&hello) {
                let _ = down.send(say(to_agent::Message::Refused(refused))).await;
                return;
            }
            if shared.truth().leader != id {
                let not = shared.truth().not_leader();
                let _ = down.send(say(to_agent::Message::NotLeader(not))).await;
                return;
            }
            let _ = down
                .send(say(to_agent::Message::Welcome(wire::AgentWelcome {
                    member: id,
                    feature_level: proto::FEATURE_LEVEL,
                })))
                .await;
            shared.truth().sessions.push(id);
            let mut changed = shared.changed.subscribe();
            loop {
                let words = tokio::select! {
                    said = incoming.message() => match said {
                        Ok(Some(said)) => {
                            let said = ToLeader::try_from(said).expect("whole words");
                            shared.truth().hear(said)
                        }
                        _ => return,
                    },
                    _ = changed.changed() => {
                        let truth = shared.truth();
                        if truth.leader != id {
                            return;
                        }
                        let mut words = vec![truth.desired()];
                        if truth.leave {
                            words.push(wire::ToAgent { message: Some(to_agent::Message::PleaseLeave(wire::Nothing {})) });
                        }
                        words
                    }
                };
                for word in words {
                    if down.send(Ok(word)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}
