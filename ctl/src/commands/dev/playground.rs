//! A whole cluster of real processes on this machine: where everything lies, how it is brought up and taken down.
//! In: a folder. Out: machines (pid namespaces) with members, agents and guards; what is known of them in `dev.json`.
//! Absent: no shortcuts; everything that can be asked of the cluster is asked through its public API.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use proto::v1;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::cgroups;
use super::machine::{self, Root, Service, Spec};
use super::net::{self, Net, Plug};
pub use crate::args::Profile;
use crate::client::Client;
use crate::identity;
use crate::progress::Progress;
use crate::trouble::Trouble;

/// What a playground's containers run from.
pub const TEMPLATE: &str = "demo";
pub const STORAGE: &str = "shared";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Playground {
    pub dir: PathBuf,
    pub profile: Profile,
    pub runtime: String,
    /// `None` where the machines share the host's network.
    pub net: Option<Net>,
    /// Keyed by name.
    pub machines: BTreeMap<String, Machine>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub member: Option<Member>,
    pub node: Option<Node>,
    /// In the playground's network, from 1.
    pub number: u8,
    /// `None` while its power is off.
    pub root: Option<Root>,
}

impl Machine {
    pub fn power(&self) -> &'static str {
        if self.root.is_some_and(Root::is_alive) { "on" } else { "off" }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Member {
    pub name: String,
    pub api: String,
    pub peer: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    pub standby: bool,
}

/// The programs a playground is made of, beside this one.
pub struct Programs {
    pub member: PathBuf,
    pub agent: PathBuf,
}

impl Programs {
    pub fn find() -> Result<Programs> {
        let own = std::env::current_exe().context("find this program")?;
        let beside = |name: &str| {
            let path = own.with_file_name(name);
            ensure!(path.is_file(), "{} is missing: build the whole workspace (cargo build --release)", path.display());
            Ok(path)
        };
        beside("quorate-guard")?;
        Ok(Programs { member: beside("quorated")?, agent: beside("quorate-agent")? })
    }
}

impl Playground {
    /// The guide's example: two active nodes and a standby one; a member beside each active node, the third alone.
    /// With `nodes`: so many active ones, and every member and node on a machine of its own.
    /// With `net`: each machine with addresses of its own in that network.
    pub fn plan(
        dir: &Path,
        profile: Profile,
        runtime: &str,
        nodes: Option<u8>,
        net: Option<Net>,
    ) -> Result<Playground> {
        let node = |at: u8, standby| Some(Node { name: format!("node-{at}"), standby });
        let layout: Vec<(bool, Option<Node>)> = match nodes {
            None => vec![(true, node(1, false)), (true, node(2, false)), (true, None), (false, node(3, true))],
            Some(nodes) => {
                let members = (0..3).map(|_| (true, None));
                members.chain((1..=nodes).map(|at| (false, node(at, false)))).collect()
            }
        };
        let mut ports = free_ports(6)?.into_iter();
        let mut members = 1u8..;
        let mut member = |machine: u8| {
            let mut address = |port: u16| match net {
                Some(_) => Ok(format!("{}:{port}", net::private_address(machine))),
                None => ports.next().map(|port| format!("127.0.0.1:{port}")).context("six ports are planned"),
            };
            let name = format!("member-{}", members.next().context("members are few")?);
            anyhow::Ok(Member { name, api: address(7440)?, peer: address(7441)? })
        };
        let mut machines = BTreeMap::new();
        for (number, (has_member, node)) in (1u8..).zip(layout) {
            let member = if has_member { Some(member(number)?) } else { None };
            machines.insert(format!("machine-{number}"), Machine { member, node, number, root: None });
        }
        Ok(Playground { dir: dir.to_owned(), profile, runtime: runtime.to_owned(), net, machines })
    }

    pub fn load(dir: &Path) -> Result<Playground> {
        let path = dir.join("dev.json");
        let text = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let text = format!("there is no playground in {}", dir.display());
                bail!(Trouble::missing(text, "`quoratectl dev up` starts one; --dir or QUORATE_DEV_DIR names another"));
            }
            text => text.with_context(|| format!("read {}", path.display()))?,
        };
        serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
    }

    pub fn save(&self) -> Result<()> {
        let path = self.dir.join("dev.json");
        fs::write(&path, serde_json::to_vec_pretty(self)?).with_context(|| format!("write {}", path.display()))
    }

    /// What programs are told of it.
    pub fn json(&self) -> Value {
        let machines = self.machines.iter().map(|(name, machine)| {
            json!({ "name": name, "power": machine.power(), "member": machine.member, "node": machine.node })
        });
        json!({ "dir": self.dir, "servers": self.apis(), "machines": machines.collect::<Value>() })
    }

    pub fn apis(&self) -> Vec<String> {
        self.members().map(|(_, member)| member.api.clone()).collect()
    }

    pub fn client(&self, within: Duration) -> Client {
        Client::new(self.apis(), within)
    }

    /// By machine name.
    pub fn members(&self) -> impl Iterator<Item = (&str, &Member)> {
        self.machines.iter().filter_map(|(name, machine)| Some((name.as_str(), machine.member.as_ref()?)))
    }

    /// By machine name.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.machines.iter().filter_map(|(name, machine)| Some((name.as_str(), machine.node.as_ref()?)))
    }

    /// The machine that `name` means: a machine, or the node or member that lives on it.
    pub fn machine_named(&self, name: &str) -> Result<String> {
        let is = |machine: &Machine| {
            machine.member.as_ref().is_some_and(|it| it.name == name)
                || machine.node.as_ref().is_some_and(|it| it.name == name)
        };
        let found = self.machines.iter().find(|(own, machine)| own.as_str() == name || is(machine));
        let known: Vec<&str> = self.machines.keys().map(String::as_str).collect();
        let found = found.map(|(name, _)| name.clone()).ok_or_else(|| {
            Trouble::missing(format!("there is no machine {name}"), format!("there are {}", known.join(", ")))
        });
        Ok(found?)
    }

    pub fn shared(&self) -> PathBuf {
        self.dir.join("shared")
    }

    fn spec(&self, name: &str, programs: &Programs) -> Spec {
        let machine = &self.machines[name];
        let home = self.dir.join(name);
        let mut services = Vec::new();
        let text = |path: &Path| path.display().to_string();
        if let Some(member) = &machine.member {
            let argv = [
                text(&programs.member),
                "run".into(),
                "--data-dir".into(),
                text(&home.join("member")),
                "--name".into(),
                member.name.clone(),
                "--listen".into(),
                member.api.clone(),
                "--peer-listen".into(),
                member.peer.clone(),
            ];
            let mut argv: Vec<String> = argv.into();
            // No address of a network that nobody else is in can be spoken to from outside.
            argv.extend(self.net.map(|_| "--insecure".into()));
            let log = home.join("member.log");
            services.push(Service { name: "member".into(), argv, log, needs: None });
        }
        if machine.node.is_some() {
            let state = home.join("agent");
            let argv = [
                text(&programs.agent),
                "run".into(),
                "--state-dir".into(),
                text(&state),
                "--runtime".into(),
                self.runtime.clone(),
                // A machine that is switched on again is another boot; the kernel below it knows nothing of that.
                "--boot-id".into(),
                Uuid::new_v4().to_string(),
                "--cpu-millis".into(),
                "4000".into(),
                "--memory-bytes".into(),
                (4u64 << 30).to_string(),
            ];
            let mut argv: Vec<String> = argv.into();
            if let Some(place) = cgroups::place(&self.dir, name) {
                argv.extend(["--cgroup-root".into(), text(&place)]);
            }
            let needs = Some(state.join("identity.json"));
            services.push(Service { name: "agent".into(), argv, log: home.join("agent.log"), needs });
        }
        let running = home.join("running.json");
        let plug = self.net.map(|net| Plug { net, number: machine.number });
        Spec { name: name.to_owned(), services, running, pid_file: home.join("root.json"), plug }
    }

    pub fn power_on(&mut self, name: &str) -> Result<()> {
        let machine = &self.machines[name];
        if machine.root.is_some_and(Root::is_alive) {
            bail!(Trouble::refused(format!("{name} is on already"), "`quoratectl dev status` shows what runs where"));
        }
        let home = self.dir.join(name);
        fs::create_dir_all(home.join("agent")).with_context(|| format!("make {}", home.display()))?;
        let spec = self.spec(name, &Programs::find()?);
        // A machine that boots knows no control group of its life before.
        cgroups::remove(&self.dir, Some(name));
        let root = machine::power_on(&spec, &home.join("machine.json"))?;
        if let Some(machine) = self.machines.get_mut(name) {
            machine.root = Some(root);
        }
        self.save()
    }

    /// Everything on it is gone, with no goodbye, when this returns.
    pub fn power_off(&mut self, name: &str) -> Result<()> {
        let root = self.machines[name].root.filter(|root| root.is_alive());
        let next = format!("`quoratectl dev power-on {name}` switches it on");
        root.ok_or_else(|| Trouble::refused(format!("{name} is off already"), next))?.power_off()?;
        if let Some(machine) = self.machines.get_mut(name) {
            machine.root = None;
        }
        self.save()
    }

    pub fn root(&self, name: &str) -> Result<Root> {
        let root = self.machines[name].root.filter(|root| root.is_alive());
        let next = format!("`quoratectl dev power-on {name}` switches it on");
        Ok(root.ok_or_else(|| Trouble::refused(format!("{name} is off"), next))?)
    }

    pub fn running_file(&self, name: &str) -> PathBuf {
        self.dir.join(name).join("running.json")
    }

    /// Cuts the power of every machine.
    pub fn down(&mut self) -> Result<()> {
        for name in self.machines.keys().cloned().collect::<Vec<_>>() {
            if self.machines[&name].root.is_some_and(Root::is_alive) {
                self.power_off(&name)?;
            }
        }
        cgroups::remove(&self.dir, None);
        if let Some(net) = self.net {
            net.stop();
        }
        Ok(())
    }

    /// From an empty folder to a cluster with its nodes up.
    pub async fn bring_up(&mut self, progress: &Progress) -> Result<()> {
        fs::create_dir_all(self.shared()).with_context(|| format!("make {}", self.shared().display()))?;
        progress.say("starting machines");
        for name in self.machines.keys().cloned().collect::<Vec<_>>() {
            self.power_on(&name)?;
        }
        progress.say("making a cluster of three members");
        let members: Vec<Member> = self.members().map(|(_, member)| member.clone()).collect();
        let [first, others @ ..] = members.as_slice() else { bail!("a playground has members") };
        self.init(first).await?;
        for member in others {
            self.add_member(first, member).await?;
        }
        progress.say("registering storage and template, joining nodes");
        self.register().await?;
        self.join_nodes().await?;
        progress.say("waiting for the nodes");
        self.wait_for_nodes(Duration::from_secs(20)).await
    }

    async fn init(&self, first: &Member) -> Result<()> {
        let client = Client::new(vec![first.api.clone()], Duration::from_secs(10));
        let request = v1::InitRequest {
            request_id: client.request_id(),
            name: "playground".into(),
            lease_profile: self.profile.message() as i32,
        };
        client
            .ask(request)
            .await
            .with_context(|| format!("make a cluster of {} ({})", first.name, self.log_of(&first.name)))?;
        Ok(())
    }

    async fn add_member(&self, first: &Member, member: &Member) -> Result<()> {
        let client = Client::new(vec![first.api.clone()], Duration::from_secs(20));
        let request = v1::AddMemberRequest {
            request_id: client.request_id(),
            name: member.name.clone(),
            address: Some(v1::MemberAddress { api: member.api.clone(), peer: member.peer.clone() }),
            learner: false,
        };
        let reply = client.ask(request).await.with_context(|| format!("admit {}", member.name))?;
        let newcomer = Client::new(vec![member.api.clone()], Duration::from_secs(10));
        let request = v1::EnrolRequest { request_id: newcomer.request_id(), admission: reply.admission };
        newcomer
            .ask(request)
            .await
            .with_context(|| format!("enrol {} ({})", member.name, self.log_of(&member.name)))?;
        let voter = |status: &v1::StatusReply| {
            let votes = |it: &v1::Member| it.name == member.name && it.role() == v1::MemberRole::Voter;
            !status.joint && status.members.iter().any(votes)
        };
        wait_until(Duration::from_secs(15), &format!("{} votes", member.name), async || {
            Ok(voter(&status(&client).await?))
        })
        .await
    }

    async fn register(&self) -> Result<()> {
        let client = self.client(Duration::from_secs(10));
        let path = self.shared().display().to_string();
        let storage = v1::Storage {
            name: STORAGE.into(),
            kind: Some(v1::storage::Kind::Directory(v1::DirectoryStorage { path })),
            ..v1::Storage::default()
        };
        let request = v1::RegisterStorageRequest { request_id: client.request_id(), storage: Some(storage) };
        client.ask(request).await.context("register the storage")?;
        let template = v1::Template {
            name: TEMPLATE.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: v1::TemplateKind::Os as i32,
            path: super::rootfs::lay_out(&self.shared(), &format!("templates/{TEMPLATE}"))?,
            ..v1::Template::default()
        };
        let request = v1::RegisterTemplateRequest { request_id: client.request_id(), template: Some(template) };
        client.ask(request).await.context("register the template")?;
        Ok(())
    }

    /// Joins every node and leaves its identity where its agent looks for it.
    async fn join_nodes(&self) -> Result<()> {
        let client = self.client(Duration::from_secs(10));
        for (machine, node) in self.nodes() {
            let role = if node.standby { v1::NodeRole::Standby } else { v1::NodeRole::Active };
            let request = v1::JoinRequest {
                request_id: client.request_id(),
                name: node.name.clone(),
                role: role as i32,
                labels: Default::default(),
                failure_domain: machine.to_owned(),
            };
            let reply = client.ask(request).await.with_context(|| format!("join {}", node.name))?;
            identity::write(&self.dir.join(machine).join("agent/identity.json"), &node.name, &reply)?;
        }
        Ok(())
    }

    pub async fn wait_for_nodes(&self, within: Duration) -> Result<()> {
        let client = self.client(Duration::from_secs(10));
        let on = |machine: &str| self.machines[machine].root.is_some();
        let wanted: Vec<&str> =
            self.nodes().filter(|(machine, _)| on(machine)).map(|(_, node)| node.name.as_str()).collect();
        wait_until(within, "every node is up", async || {
            let nodes = nodes(&client).await?;
            let up = |name: &&&str| nodes.iter().any(|it| it.name == **name && it.health() == v1::NodeHealth::Up);
            Ok(wanted.iter().all(|name| up(&name)))
        })
        .await
        .map_err(|error| {
            let logs: Vec<String> = self.nodes().map(|(_, node)| self.log_of(&node.name)).collect();
            error.context(format!("the agents' logs: {}", logs.join(", ")))
        })
    }

    /// Where to look when the node or member of this name does not do what it should.
    pub fn log_of(&self, name: &str) -> String {
        let machine = self.machine_named(name).unwrap_or_default();
        let kind = if name.starts_with("member") { "member.log" } else { "agent.log" };
        format!("log: {}", self.dir.join(machine).join(kind).display())
    }
}

pub async fn status(client: &Client) -> Result<v1::StatusReply> {
    Ok(client.ask(v1::StatusRequest {}).await?)
}

pub async fn nodes(client: &Client) -> Result<Vec<v1::Node>> {
    Ok(client.ask_all(v1::ListNodesRequest::default()).await?.nodes)
}

pub async fn containers(client: &Client) -> Result<Vec<v1::Container>> {
    Ok(client.ask_all(v1::ListContainersRequest::default()).await?.containers)
}

/// Asks until the answer is yes. A failed question is asked again; the last one's error is told.
pub async fn wait_until(within: Duration, what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    loop {
        let answer = holds().await;
        if matches!(answer, Ok(true)) {
            return Ok(());
        }
        if began.elapsed() >= within {
            let late = Trouble::late(format!("waited {} s in vain until {what}", within.as_secs()), "");
            return Err(match answer {
                Err(error) => error.context(late),
                Ok(_) => late.into(),
            });
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Ports nobody listens on now; held together, so that they differ.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>().context("find free ports")?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
