//! A cluster to measure: nodes of 64 GiB and containers of one common kind, built by the same commands as any other.

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::model::resources::Resources;
use cluster::*;

pub struct Measured {
    pub state: State,
}

pub fn name(text: String) -> Name {
    Name::new(&text).expect("a good name")
}

impl Measured {
    pub fn new(nodes: u64, node_memory_gib: u64) -> Measured {
        let member = |id: u64| Member {
            id: MemberId(id),
            name: name(format!("m{id}")),
            peer_address: format!("127.0.0.1:{id}").into(),
            api_address: format!("127.0.0.1:{id}").into(),
            secret: SecretHash(1),
            added: Revision(1),
        };
        let members = (1..=3).map(member).collect();
        let bootstrap = Bootstrap { cluster: ClusterId(1), settings: Settings::default(), members };
        let mut measured = Measured { state: State::bootstrap(bootstrap) };
        measured.done(Command::RegisterTemplate {
            name: name("debian".into()),
            version: "12".into(),
            digest: "".into(),
            kind: TemplateKind::Os,
            path: "".into(),
            bytes: 0,
            defaults: Default::default(),
        });
        let kind = StorageKind::Directory { path: "/srv".into() };
        measured.done(Command::RegisterStorage { name: name("shared".into()), kind });
        for id in 1..=nodes {
            measured.node(NodeId(id), node_memory_gib);
        }
        measured
    }

    fn node(&mut self, node: NodeId, memory_gib: u64) {
        self.done(Command::JoinNode {
            name: name(format!("node-{}", node.0)),
            role: if node.0.is_multiple_of(10) { Role::Standby } else { Role::Active },
            labels: BTreeMap::new(),
            failure_domain: "".into(),
            secret: SecretHash(u128::from(node.0)),
        });
        let facts = NodeFacts {
            class: FencingClass::F1,
            class_reason: "".into(),
            capacity: Resources { cpu_millis: 64_000, memory_bytes: memory_gib << 30 },
            runtimes: Arc::new(["crun".into()]),
            runtimes_refused: Arc::default(),
            version: "0.1.0".into(),
            terms: Profile::Default.terms(),
        };
        let boot = BootId(u128::from(node.0));
        let registration = Registration { node, ends: Incarnation(0), boot, empty: false, facts, run: AgentRun(0) };
        self.done(Command::RegisterNode(Box::new(registration)));
    }

    /// Each with a spec of its own, as they arrive from a log: nothing is shared between them.
    pub fn create(&mut self, number: u64, memory_mib: u64) {
        let spec = ContainerSpec {
            name: name(format!("c-{number}")),
            template: name("debian".into()),
            storage: name("shared".into()),
            command: Arc::default(),
            environment: Arc::new(BTreeMap::new()),
            resources: Resources { cpu_millis: 100, memory_bytes: memory_mib << 20 },
            class: Class::Guaranteed,
            priority: 500,
            possible_owners: Arc::default(),
            preferred_owners: Arc::default(),
            restart: RestartPolicy::default(),
            on_quorum_loss: OnQuorumLoss::Stop,
            stop_grace: Span::seconds(30),
            application_templates: Arc::default(),
        };
        let annotations = Arc::new(BTreeMap::new());
        self.done(Command::CreateContainer { spec: Arc::new(spec), annotations, desired: Desired::Running });
    }

    pub fn done(&mut self, command: Command) {
        let index = Revision(self.state.revision().0 + 1);
        let entry = Entry { at: WallTime(index.0), request: None, command };
        apply(&mut self.state, index, &entry).outcome.expect("a command that is right");
    }
}
