//! What a container shall be, as flags say it.

use anyhow::Result;
use clap::{Args, ValueEnum};
use proto::v1;

use crate::args;

#[derive(Args, Debug)]
pub struct Spec {
    /// Unique among the living
    name: String,
    /// Name of a registered template
    #[arg(long)]
    template: String,
    /// Name of a registered application template that is laid over it; repeat it for the next one above
    #[arg(long = "app", value_name = "NAME")]
    apps: Vec<String>,
    /// Name of the registered storage that holds its private area
    #[arg(long)]
    storage: String,
    /// Memory it asks for, as 512MiB or 1.5GiB
    #[arg(long, value_name = "SIZE", value_parser = args::bytes)]
    memory: u64,
    /// Cores it asks for, as 500m, 2 or 1.5
    #[arg(long, value_name = "CORES", value_parser = args::cpu_millis)]
    cpu: u64,
    /// Environment; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = args::pair)]
    env: Vec<(String, String)>,
    /// Free words about it; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = args::pair)]
    annotation: Vec<(String, String)>,
    /// How it counts when room is short
    #[arg(long, value_enum, default_value = "guaranteed")]
    class: Class,
    /// 0 to 1000, higher is recovered first; 0 is never started by itself [default: 500]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(0..=1000))]
    priority: Option<u32>,
    /// Nodes that may run it [default: all]; may be repeated
    #[arg(long, value_name = "NODE,…", value_delimiter = ',')]
    possible_owner: Vec<String>,
    /// A tier of nodes that are equally preferred; repeat it for the next best tier
    #[arg(long, value_name = "NODE,…", value_parser = args::tier)]
    preferred_owner: Vec<v1::OwnerTier>,
    /// When it is started again in place after it ended by itself: always, on-failure or never, then perhaps :MAX/PERIOD
    /// [default: always:3/15m]
    #[arg(long, value_name = "POLICY", value_parser = args::restart)]
    restart: Option<v1::RestartPolicy>,
    /// What becomes of it when its node hears no majority any more [default: stop; keep below three voters]
    #[arg(long, value_enum)]
    on_quorum_loss: Option<OnQuorumLoss>,
    /// From the stop signal to the kill [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = args::millis)]
    stop_grace: Option<u64>,
    /// Program and arguments [default: the template's own]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Class {
    /// Room for it is part of the failure plan
    Guaranteed,
    /// Restarted elsewhere if there is room
    BestEffort,
    /// Never restarted elsewhere
    None,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum OnQuorumLoss {
    /// It is ended when its lease ends, and is then started elsewhere by itself
    Stop,
    /// It keeps running. The cost: time alone never proves that it has ended, so when its node is lost it stays down until an
    /// outside fence confirms, or somebody gives their word (`node confirm-down`)
    Keep,
}

impl OnQuorumLoss {
    pub fn message(self) -> v1::OnQuorumLoss {
        match self {
            OnQuorumLoss::Stop => v1::OnQuorumLoss::Stop,
            OnQuorumLoss::Keep => v1::OnQuorumLoss::Keep,
        }
    }

    pub fn does(self) -> &'static str {
        match self {
            OnQuorumLoss::Stop => "ends with its lease",
            OnQuorumLoss::Keep => "keeps running without a lease",
        }
    }
}

impl Spec {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn message(self) -> Result<v1::ContainerSpec> {
        let class = match self.class {
            Class::Guaranteed => v1::ContainerClass::Guaranteed,
            Class::BestEffort => v1::ContainerClass::BestEffort,
            Class::None => v1::ContainerClass::None,
        };
        let on_quorum_loss = self.on_quorum_loss.map_or(v1::OnQuorumLoss::Unspecified, OnQuorumLoss::message);
        Ok(v1::ContainerSpec {
            name: self.name,
            template: self.template,
            command: self.command,
            environment: args::pairs("--env", self.env)?,
            annotations: args::pairs("--annotation", self.annotation)?,
            resources: Some(v1::Resources { cpu_millis: self.cpu, memory_bytes: self.memory }),
            class: class as i32,
            priority: self.priority,
            possible_owners: self.possible_owner,
            preferred_owners: self.preferred_owner,
            restart: self.restart,
            on_quorum_loss: on_quorum_loss as i32,
            storage: self.storage,
            stop_grace_ms: self.stop_grace,
            application_templates: self.apps,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        spec: Spec,
    }

    fn parse(flags: &str) -> Result<Spec, clap::Error> {
        let least = "x web --template t --storage s --memory 512MiB --cpu 500m";
        Line::try_parse_from(least.split(' ').chain(flags.split_whitespace())).map(|line| line.spec)
    }

    #[test]
    fn every_flag_reaches_its_field() {
        let flags = "-e A=1 --env B=x=y --annotation team=db --class best-effort --priority 700 --possible-owner n1,n2 \
                     --possible-owner n3 --preferred-owner n1,n2 --preferred-owner n3 --restart on-failure:5/10m \
                     --on-quorum-loss keep --stop-grace 10s --app web --app shop -- serve --port 80";
        let spec = parse(flags).expect("parsed").message().expect("a spec");
        assert_eq!((spec.name.as_str(), spec.template.as_str(), spec.storage.as_str()), ("web", "t", "s"));
        assert_eq!(spec.resources, Some(v1::Resources { cpu_millis: 500, memory_bytes: 512 << 20 }));
        assert_eq!(spec.environment["B"], "x=y");
        assert_eq!(spec.annotations["team"], "db");
        assert_eq!((spec.class(), spec.priority), (v1::ContainerClass::BestEffort, Some(700)));
        assert_eq!(spec.possible_owners, ["n1", "n2", "n3"]);
        let tiers: Vec<Vec<String>> = spec.preferred_owners.iter().map(|tier| tier.nodes.clone()).collect();
        assert_eq!(tiers, [vec!["n1", "n2"], vec!["n3"]]);
        assert_eq!(spec.restart.as_ref().and_then(|it| it.max), Some(5));
        assert_eq!((spec.on_quorum_loss(), spec.stop_grace_ms), (v1::OnQuorumLoss::Keep, Some(10_000)));
        assert_eq!(spec.command, ["serve", "--port", "80"]);
        assert_eq!(spec.application_templates, ["web", "shop"]);
    }

    #[test]
    fn what_is_not_said_is_left_to_the_cluster() {
        let spec = parse("").expect("parsed").message().expect("a spec");
        assert_eq!((spec.priority, spec.restart, spec.stop_grace_ms), (None, None, None));
        assert_eq!(spec.on_quorum_loss, v1::OnQuorumLoss::Unspecified as i32);
    }

    #[test]
    fn what_is_obviously_wrong_is_refused_here() {
        for flags in ["-e A", "-e =1", "--priority 1001", "--priority -1", "--class best", "--restart often", "stray"] {
            assert_eq!(parse(flags).expect_err(flags).exit_code(), 2, "{flags}");
        }
        let twice = parse("-e A=1 -e A=2").expect("parsed").message().expect_err("contradicts itself");
        assert!(twice.downcast_ref::<crate::trouble::Trouble>().is_some());
    }
}
