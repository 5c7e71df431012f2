//! Which methods of the public API each verb calls. A test makes every verb call a recorder and compares.

/// A command line of every verb, and what it asks, in any order.
pub const VERBS: &[(&str, &[&str])] = &[
    ("cluster init", &["ClusterService.Init"]),
    ("cluster status", &["ClusterService.Status"]),
    ("cluster settings --handovers 4", &["ClusterService.GetSettings", "ClusterService.UpdateSettings"]),
    (
        "cluster add-member m --api SERVER --peer SERVER --enrol",
        &["ClusterService.AddMember", "ClusterService.Enrol", "ClusterService.Status", WATCH],
    ),
    ("cluster remove-member m", &["ClusterService.RemoveMember"]),
    ("cluster transfer-leader", &["ClusterService.TransferLeader", "ClusterService.Status"]),
    ("cluster quorum", &["ClusterService.Quorum"]),
    ("cluster release-brake", &["ClusterService.ReleaseBrake"]),
    ("member rejoin", &["ClusterService.Rejoin", "ClusterService.Status", WATCH]),
    ("member enrol EMPTY", &["ClusterService.Enrol"]),
    ("node join n --identity NEW", &["NodeService.Join"]),
    ("node list", &["NodeService.List"]),
    ("node show n", &["NodeService.Get"]),
    ("node set-role n standby", &["NodeService.SetRole"]),
    ("node cordon n", &["NodeService.Cordon"]),
    ("node uncordon n", &["NodeService.Uncordon"]),
    ("node drain n --no-wait", &["NodeService.Drain"]),
    ("node maintain n", &["NodeService.Maintain"]),
    ("node return n", &["NodeService.Return"]),
    ("node leave n --wait", &["NodeService.Leave", "NodeService.Get", WATCH]),
    ("node confirm-down n --reason seen --incarnation 1 --i-verified", &["NodeService.ConfirmDown"]),
    ("node remove n", &["NodeService.Remove"]),
    ("template register t", &["TemplateService.Register"]),
    ("template import t --from /srv/t.tar --storage s", &[IMPORT]),
    ("template list", &["TemplateService.List"]),
    ("template show t", &["TemplateService.List", "TemplateService.Inventory"]),
    ("template verify t", &[VERIFY]),
    ("template sync t --storage s", &[SYNC]),
    ("template remove t", &["TemplateService.List", "TemplateService.Remove"]),
    ("template discard sha256:0", &["TemplateService.Discard"]),
    ("storage register s --directory /srv", &["StorageService.Register"]),
    ("storage add s --local /srv", &["StorageService.Register", "StorageService.Get", "NodeService.List", WATCH]),
    ("storage show s", &["StorageService.Get"]),
    ("storage list", &["StorageService.List"]),
    ("storage remove s", &["StorageService.Remove"]),
    ("container create c --template t --storage s --memory 1MiB --cpu 1", &["ContainerService.Create"]),
    (
        "container run c --template t --storage s --memory 1MiB --cpu 1",
        &["ContainerService.Create", "ContainerService.Get", WATCH],
    ),
    ("container batch-create EMPTY-ITEMS", &["ContainerService.BatchCreate"]),
    ("container list", &["ContainerService.List"]),
    ("container show c", &["ContainerService.Get"]),
    ("container start c", &["ContainerService.Start"]),
    ("container stop c", &["ContainerService.Stop"]),
    ("container restart c", &["ContainerService.Restart"]),
    ("container move c", &["ContainerService.Get", "ContainerService.Move", WATCH]),
    ("container delete c", &["ContainerService.Delete"]),
    ("container why c", &["ContainerService.Why"]),
    ("container annotate c a=b", &["ContainerService.Annotate"]),
    ("container set-on-quorum-loss c keep", &["ContainerService.SetOnQuorumLoss"]),
    ("container batch-annotate EMPTY-ITEMS", &["ContainerService.BatchAnnotate"]),
    ("events", &["EventService.List"]),
    ("events --follow", &["EventService.List", WATCH]),
];

const WATCH: &str = crate::rpcs::WATCH;
const IMPORT: &str = crate::rpcs::IMPORT;
const VERIFY: &str = crate::rpcs::VERIFY;
const SYNC: &str = crate::rpcs::SYNC;

/// Every method some verb calls, as `NodeService.Drain`, in order, once.
pub fn called() -> Vec<&'static str> {
    let mut called: Vec<&str> = VERBS.iter().flat_map(|(_, rpcs)| rpcs.iter().copied()).collect();
    called.sort_unstable();
    called.dedup();
    called
}

/// Every verb there is, as `node drain`, hidden ones too.
pub fn all(command: &clap::Command) -> Vec<String> {
    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let mut verbs = command.get_subcommands().filter(|it| it.get_name() != "help").peekable();
        if verbs.peek().is_none() {
            found.push(path.to_owned());
        }
        for verb in verbs {
            leaves(verb, format!("{path} {}", verb.get_name()).trim_start(), found);
        }
    }
    let mut found = Vec::new();
    leaves(command, "", &mut found);
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::Duration;

    use clap::{CommandFactory, Parser};
    use tokio::sync::watch;

    use super::*;
    use crate::{Cli, fake};

    /// Leaves that ask nobody, or only what a playground asks.
    const ASK_NOBODY: [&str; 3] = ["dev", "completion", "verbs"];

    type Seen = watch::Sender<BTreeSet<String>>;

    /// Answers every call with a message in which everything is unset, and remembers what was called.
    async fn recorder() -> (String, Arc<Seen>) {
        let seen = Arc::new(watch::Sender::new(BTreeSet::new()));
        let told = seen.clone();
        let address = fake::member(move |method, _| {
            told.send_modify(|seen| {
                seen.insert(method);
            });
            (vec![Vec::new()], Ok(()))
        });
        (address.await, seen)
    }

    /// Ends by itself, or, where something that never comes is awaited, as soon as all that is `expected` was called.
    async fn called_by(line: &str, expected: &BTreeSet<String>) -> BTreeSet<String> {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path.display().to_string()
        };
        let (address, seen) = recorder().await;
        let words = ["quoratectl", "--server", &address, "--timeout", "60s"].map(str::to_owned);
        let line = line.split(' ').map(|word| match word {
            "SERVER" => address.clone(),
            "EMPTY" => file("empty", "{}"),
            "EMPTY-ITEMS" => file("items", r#"{"items": [{}]}"#),
            "NEW" => folder.path().join("identity.json").display().to_string(),
            word => word.to_owned(),
        });
        let cli = Cli::try_parse_from(words.into_iter().chain(line)).expect("a command line");
        let mut seen = seen.subscribe();
        let all = async {
            if !expected.contains(WATCH) {
                std::future::pending::<()>().await;
            }
            seen.wait_for(|seen| seen.is_superset(expected)).await.map(drop).expect("the recorder lives");
        };
        // What a verb makes of an answer in which everything is unset is its own affair.
        let _ = tokio::time::timeout(Duration::from_secs(60), async {
            tokio::select! { ended = crate::run(cli) => drop(ended), () = all => {} }
        })
        .await;
        seen.borrow().clone()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn verbs_call_what_is_said_of_them() {
        for (line, rpcs) in VERBS {
            let expected = rpcs.iter().map(|it| (*it).to_owned()).collect();
            assert_eq!(called_by(line, &expected).await, expected, "{line}");
        }
    }

    #[test]
    fn every_verb_is_in_the_table() {
        let found = all(&Cli::command());
        assert!(found.iter().any(|leaf| leaf == "node drain"), "{found:?}");
        for leaf in found.iter().filter(|leaf| !ASK_NOBODY.iter().any(|it| leaf.starts_with(it))) {
            let there = VERBS.iter().any(|(line, _)| *line == leaf || line.starts_with(&format!("{leaf} ")));
            assert!(there, "`{leaf}` is not in the table of verbs");
        }
    }

    #[test]
    fn every_method_with_a_route_has_a_verb() {
        let called = called();
        for route in proto::rest::routes() {
            let name = route.grpc_path.trim_start_matches("/quorate.v1.").replace('/', ".");
            assert!(called.contains(&name.as_str()), "{name} has no verb");
        }
    }
}
