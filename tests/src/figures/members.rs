//! Three members as real processes on this machine, made into one cluster through the public API.
//! In: an empty folder. Out: their addresses and pids; they end when this is dropped.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proto::v1;
use proto::v1::cluster_service_client::ClusterServiceClient;
use proto::v1::container_service_client::ContainerServiceClient;
use proto::v1::storage_service_client::StorageServiceClient;
use proto::v1::template_service_client::TemplateServiceClient;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

pub struct Members {
    all: Vec<Member>,
}

pub struct Member {
    pub name: String,
    /// Public API, `host:port`.
    pub api: String,
    /// Agents and members, `host:port`.
    pub peer: String,
    child: Child,
}

impl Member {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // It may be gone already; either way nothing of it is left when this returns.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Members {
    /// Starts `quorated` three times, with its own data folder in `dir` each and real syncs, `store` as its engine.
    pub async fn start(dir: &Path, store: &str) -> Result<Members> {
        let program = beside("quorated")?;
        let mut all = Vec::new();
        for number in 1..=3 {
            all.push(launch(&program, dir, &format!("member-{number}"), store, number == 1)?);
        }
        let members = Members { all };
        let [first, others @ ..] = members.all.as_slice() else { unreachable!("three were started") };
        within(Duration::from_secs(20), "the first member leads", async || {
            let status = status(&first.api).await?;
            Ok(status.standing() == v1::MemberStanding::Leader)
        })
        .await?;
        for member in others {
            admit(first, member).await?;
        }
        Ok(members)
    }

    pub fn all(&self) -> &[Member] {
        &self.all
    }

    /// The one that leads now.
    pub async fn leader(&self) -> Result<&Member> {
        for member in &self.all {
            if status(&member.api).await?.standing() == v1::MemberStanding::Leader {
                return Ok(member);
            }
        }
        anyhow::bail!("no member leads")
    }

    /// Registers what containers need, and creates `count` of them, stopped: they are there to be written to.
    pub async fn create_containers(&self, dir: &Path, count: usize) -> Result<()> {
        let leader = self.leader().await?;
        let channel = connect(&leader.api).await?;
        let path = dir.join("shared").display().to_string();
        std::fs::create_dir_all(&path)?;
        let kind = Some(v1::storage::Kind::Directory(v1::DirectoryStorage { path }));
        let storage = v1::Storage { name: "shared".into(), kind, ..v1::Storage::default() };
        StorageServiceClient::new(channel.clone())
            .register(v1::RegisterStorageRequest { request_id: request_id(), storage: Some(storage) })
            .await?;
        let template = v1::Template { name: "plain".into(), version: "1".into(), ..v1::Template::default() };
        TemplateServiceClient::new(channel.clone())
            .register(v1::RegisterTemplateRequest { request_id: request_id(), template: Some(template) })
            .await?;
        let item = |number: usize| v1::CreateContainerRequest {
            request_id: request_id(),
            desired: v1::DesiredState::Stopped.into(),
            spec: Some(v1::ContainerSpec {
                name: container(number),
                template: "plain".into(),
                storage: "shared".into(),
                command: vec!["/bin/true".into()],
                resources: Some(v1::Resources { cpu_millis: 100, memory_bytes: 64 << 20 }),
                ..v1::ContainerSpec::default()
            }),
        };
        let request = v1::BatchCreateContainersRequest { items: (0..count).map(item).collect() };
        let reply = ContainerServiceClient::new(channel).batch_create(request).await?.into_inner();
        for result in reply.results {
            ensure!(result.problem.is_none(), "create a container: {:?}", result.problem);
        }
        Ok(())
    }
}

/// Name of the container of this number.
pub fn container(number: usize) -> String {
    format!("figure-{number}")
}

pub fn request_id() -> String {
    Uuid::now_v7().to_string()
}

/// One connection, as a client that cares for latency makes it.
pub async fn connect(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(5))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    endpoint.connect().await.with_context(|| format!("connect to {address}"))
}

pub async fn status(address: &str) -> Result<v1::StatusReply> {
    Ok(ClusterServiceClient::new(connect(address).await?).status(v1::StatusRequest {}).await?.into_inner())
}

/// Asks until the answer is yes; errs with what was waited for and the last answer.
pub async fn within(limit: Duration, what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    loop {
        match holds().await {
            Ok(true) => return Ok(()),
            Ok(false) if began.elapsed() > limit => anyhow::bail!("waited {} s in vain until {what}", limit.as_secs()),
            Err(error) if began.elapsed() > limit => return Err(error.context(format!("waited until {what}"))),
            Ok(false) | Err(_) => tokio::time::sleep(Duration::from_millis(25)).await,
        }
    }
}

/// A program that was built beside this one.
pub fn beside(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe().context("find this program")?.with_file_name(name);
    ensure!(path.is_file(), "{} is missing: `cargo build --release` first", path.display());
    Ok(path)
}

fn launch(program: &Path, dir: &Path, name: &str, store: &str, first: bool) -> Result<Member> {
    let (api, peer) = (free_address()?, free_address()?);
    let log = File::create(dir.join(format!("{name}.log")))?;
    let mut command = Command::new(program);
    command.arg("run").arg("--data-dir").arg(dir.join(name)).args(["--name", name, "--store", store]);
    command.args(["--listen", &api, "--peer-listen", &peer]);
    if first {
        command.args(["--bootstrap", "figures"]);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
    Ok(Member { name: name.to_owned(), api, peer, child })
}

/// A port nobody listens on now.
fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0").context("find a free port")?.local_addr()?.to_string())
}

async fn admit(first: &Member, newcomer: &Member) -> Result<()> {
    let request = v1::AddMemberRequest {
        request_id: request_id(),
        name: newcomer.name.clone(),
        address: Some(v1::MemberAddress { api: newcomer.api.clone(), peer: newcomer.peer.clone() }),
        learner: false,
    };
    let admission = ClusterServiceClient::new(connect(&first.api).await?).add_member(request).await?.into_inner();
    let request = v1::EnrolRequest { request_id: request_id(), admission: admission.admission };
    within(Duration::from_secs(10), "the newcomer takes its admission", async || {
        ClusterServiceClient::new(connect(&newcomer.api).await?).enrol(request.clone()).await?;
        Ok(true)
    })
    .await?;
    within(Duration::from_secs(20), "the newcomer votes", async || {
        let status = status(&first.api).await?;
        let votes = |it: &v1::Member| it.name == newcomer.name && it.role() == v1::MemberRole::Voter;
        Ok(!status.joint && status.members.iter().any(votes))
    })
    .await
}
