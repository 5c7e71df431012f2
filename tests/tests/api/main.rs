//! The public API as a stranger uses it, at a cluster of real processes: gRPC and REST answer alike and are complete, a request
//! has its effect once whichever member hears it, a watch has no gap, and what cannot be done is said with what can.

mod alike;
mod answers;
mod complete;
mod limits;
mod once;
mod reads;
mod watching;

use std::collections::BTreeSet;
use std::future::Future;

use proto::v1::{
    self, cluster_service_client::ClusterServiceClient, container_service_client::ContainerServiceClient,
    event_service_client::EventServiceClient, node_service_client::NodeServiceClient,
    storage_service_client::StorageServiceClient, template_service_client::TemplateServiceClient,
};
use proto::{Problem, rest};
use serde_json::{Value, json};
use tests::processes::http::{self, Events};
use tests::processes::{Cluster, Member, number, request_id, run, until, until_so};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// One thread is enough: the servers are processes of their own.
fn block<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

fn channel(member: &Member) -> Channel {
    Endpoint::from_shared(format!("http://{}", member.api)).expect("an address").connect_lazy()
}

/// A cluster with one of everything.
fn furnished(name: &str, size: usize) -> Cluster {
    let cluster = Cluster::start(name, size, "default");
    cluster.furnish();
    cluster.members[0].order("POST", "/v1/nodes", json!({ "name": "node-1", "labels": { "rack": "a" } }));
    cluster.members[0].order("POST", "/v1/nodes", json!({ "name": "node-2", "role": "NODE_ROLE_STANDBY" }));
    cluster.create("web", json!({ "environment": { "COLOUR": "blue" }, "possibleOwners": ["node-1"] }));
    cluster
}
