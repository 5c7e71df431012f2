//! Members to start and stop, clients of their doors, and a way to wait for what must become true.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cluster::Name;
use controlplane::api::limits::Limits;
use controlplane::config::Config;
use controlplane::server::{Server, ServerError};
use controlplane::store::Backend;
use proto::v1;
use proto::v1::cluster_service_client::ClusterServiceClient;
use proto::v1::container_service_client::ContainerServiceClient;
use proto::v1::event_service_client::EventServiceClient;
use proto::v1::node_service_client::NodeServiceClient;
use proto::v1::storage_service_client::StorageServiceClient;
use proto::v1::template_service_client::TemplateServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::Channel;
use uuid::Uuid;

/// Generous: the machine may be busy. What is waited for usually takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

pub struct TestMember {
    pub api: SocketAddr,
    pub peer: SocketAddr,
    pub data_dir: PathBuf,
    pub name: String,
    stop: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<Result<(), ServerError>>>,
    /// Its own, as a process has its own: when it ends, every connection does.
    runtime: Option<Runtime>,
}

impl Drop for TestMember {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub fn config(name: &str, data_dir: &Path) -> Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Config {
        data_dir: data_dir.to_owned(),
        name: Name::new(name).expect("a name"),
        listen: any,
        peer_listen: any,
        advertise_api: None,
        advertise_peer: None,
        store: Backend::File,
        limits: Limits::default(),
        fence: Vec::new(),
        snapshot_every: 200,
        bootstrap: None,
        join: None,
    }
}

impl TestMember {
    pub async fn start(name: &str, data_dir: &Path) -> TestMember {
        TestMember::start_with(name, config(name, data_dir)).await
    }

    pub async fn start_with(name: &str, config: Config) -> TestMember {
        let data_dir = config.data_dir.clone();
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
        let starting = Server::start(config, runtime.handle().clone());
        let server = runtime.spawn(starting).await.expect("no panic").expect("the member starts");
        let (api, peer) = (server.api, server.peer);
        let (stop, stopped) = oneshot::channel();
        let served = runtime.spawn(server.serve(async move {
            let _ = stopped.await;
        }));
        let (stop, served, runtime) = (Some(stop), Some(served), Some(runtime));
        TestMember { api, peer, data_dir, name: name.to_owned(), stop, served, runtime }
    }

    /// Stopped in good order; its addresses and its data stay.
    pub async fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(served) = self.served.take() {
            served.await.expect("no panic").expect("a good end");
        }
        if let Some(runtime) = self.runtime.take() {
            let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE));
            ended.await.expect("no panic");
        }
    }

    /// On the same addresses and data as before.
    pub async fn start_again(&mut self) {
        let config = Config { listen: self.api, peer_listen: self.peer, ..config(&self.name, &self.data_dir) };
        *self = TestMember::start_with(&self.name.clone(), config).await;
    }

    pub fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.api)).expect("an address").connect_lazy()
    }

    pub fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel())
    }

    pub fn nodes(&self) -> NodeServiceClient<Channel> {
        NodeServiceClient::new(self.channel())
    }

    pub fn containers(&self) -> ContainerServiceClient<Channel> {
        ContainerServiceClient::new(self.channel())
    }

    pub fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel())
    }

    pub async fn status(&self) -> v1::StatusReply {
        self.cluster().status(v1::StatusRequest {}).await.expect("a status always answers").into_inner()
    }

    /// Status line and body of an HTTP/1.1 exchange.
    pub async fn http(&self, verb: &str, path: &str, body: &str) -> (u16, String) {
        http(self.api, verb, path, body).await
    }
}

/// A member that has a cluster of its own.
pub async fn single(dir: &Path) -> TestMember {
    let member = TestMember::start("one", &dir.join("one")).await;
    let request = v1::InitRequest { request_id: id(), name: "test".into(), lease_profile: 0 };
    member.cluster().init(request).await.expect("initialised");
    until("it leads", async || member.status().await.standing() == v1::MemberStanding::Leader).await;
    member
}

/// Three voters; the first one has begun the cluster.
pub async fn three(dir: &Path) -> Vec<TestMember> {
    let first = single(dir).await;
    let mut members = vec![first];
    for name in ["two", "three"] {
        let member = TestMember::start(name, &dir.join(name)).await;
        admit(&members[0], &member).await;
        members.push(member);
    }
    for member in &members {
        until("three voters", async || voters(&member.status().await) == 3).await;
    }
    members
}

/// Takes `newcomer` in through `door`.
pub async fn admit(door: &TestMember, newcomer: &TestMember) {
    let address = v1::MemberAddress { api: newcomer.api.to_string(), peer: newcomer.peer.to_string() };
    let request =
        v1::AddMemberRequest { request_id: id(), name: newcomer.name.clone(), address: Some(address), learner: false };
    let added = door.cluster().add_member(request).await.expect("admitted").into_inner();
    let request = v1::EnrolRequest { request_id: id(), admission: added.admission };
    newcomer.cluster().enrol(request).await.expect("enrolled");
}

pub fn voters(status: &v1::StatusReply) -> usize {
    status.members.iter().filter(|member| member.role() == v1::MemberRole::Voter).count()
}

/// The one that leads, and the others.
pub async fn roles(members: &[TestMember]) -> (&TestMember, Vec<&TestMember>) {
    let mut leader = None;
    until("somebody leads", async || {
        leader = None;
        for (place, member) in members.iter().enumerate() {
            if member.status().await.standing() == v1::MemberStanding::Leader {
                leader = Some(place);
            }
        }
        leader.is_some()
    })
    .await;
    let leader = leader.expect("found");
    let others = members.iter().enumerate().filter(|(place, _)| *place != leader).map(|(_, member)| member).collect();
    (&members[leader], others)
}

/// A template, a storage and a container of them; gives its id.
pub async fn furnish(door: &TestMember, name: &str) -> String {
    let template = v1::Template { name: "debian".into(), ..v1::Template::default() };
    let request = v1::RegisterTemplateRequest { request_id: id(), template: Some(template) };
    TemplateServiceClient::new(door.channel()).register(request).await.expect("a template");
    let kind = v1::storage::Kind::Directory(v1::DirectoryStorage { path: "/srv/shared".into() });
    let storage = v1::Storage { name: "shared".into(), kind: Some(kind), ..v1::Storage::default() };
    let request = v1::RegisterStorageRequest { request_id: id(), storage: Some(storage) };
    StorageServiceClient::new(door.channel()).register(request).await.expect("a storage");
    let created = door.containers().create(create(name)).await.expect("a container").into_inner();
    created.container
}

pub fn create(name: &str) -> v1::CreateContainerRequest {
    let resources = Some(v1::Resources { cpu_millis: 100, memory_bytes: 64 << 20 });
    let spec = v1::ContainerSpec {
        name: name.into(),
        template: "debian".into(),
        storage: "shared".into(),
        resources,
        ..v1::ContainerSpec::default()
    };
    v1::CreateContainerRequest { request_id: id(), spec: Some(spec), desired: 0 }
}

pub fn annotate(container: &str, key: &str, value: &str) -> v1::AnnotateContainerRequest {
    let set = [(key.to_owned(), value.to_owned())].into();
    v1::AnnotateContainerRequest { request_id: id(), container: container.into(), set, remove: Vec::new() }
}

/// A request id nobody used before.
pub fn id() -> String {
    format!("{}/0", Uuid::now_v7())
}

/// The stable reason of a refusal.
pub fn reason(status: &Status) -> String {
    proto::Problem::from(status).reason.into()
}

/// Waits until `holds`; panics with what was waited for when it never does.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

pub async fn http(address: SocketAddr, verb: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("the port is open");
    let head = format!(
        "{verb} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    // A server that refuses a body early closes before all of it is taken.
    let _ = stream.write_all(body.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, body.to_owned())
}
