//! `/metrics`: what this member knows of itself in numbers, for Prometheus.
//! In: published state and status, counters. Out: text. Read when asked; nothing is kept for it on the hot path.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};
use proto::v1;
use replica::Role;

use super::limits::Traffic;
use crate::standing::{Seated, Standing};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Member {
    member: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Health {
    health: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: String,
}

/// The exposition text.
pub fn text(standing: &Standing, traffic: &Traffic) -> String {
    let mut registry = Registry::with_prefix("quorate");
    let up = u64::from(standing.seated().is_some());
    gauge(&mut registry, "member_up", "1 while this process is a running member of a cluster", up);
    let under_way = traffic.under_way.load(Ordering::Relaxed) as u64;
    gauge(&mut registry, "api_calls_under_way", "calls that have no answer yet", under_way);
    counter(&mut registry, "api_calls", "calls begun", traffic.begun.load(Ordering::Relaxed));
    counter(&mut registry, "api_calls_refused", "calls refused as overload", traffic.refused.load(Ordering::Relaxed));
    if let Some(seated) = standing.seated() {
        member(&mut registry, seated);
    }
    let mut text = String::new();
    encode(&mut text, &registry).expect("a string takes any text");
    text
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(name, help, ConstGauge::new(value));
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(name, help, ConstCounter::new(value));
}

fn member(registry: &mut Registry, seated: &Seated) {
    let (view, status) = (seated.handle.view(), seated.handle.status());
    let leads = u64::from(status.role == Role::Leader);
    gauge(registry, "raft_leader", "1 while this member leads", leads);
    gauge(registry, "raft_leader_known", "1 while this member knows a leader", u64::from(view.leader.is_some()));
    gauge(registry, "raft_term", "current term", status.term);
    gauge(registry, "raft_commit_index", "last entry known to be committed", status.commit);
    gauge(registry, "raft_applied_index", "last entry applied, the revision of reads", status.applied.0);
    gauge(registry, "raft_durable_index", "last entry durable on this member", status.durable.index);
    gauge(registry, "raft_first_index", "first entry still in the log", status.first_index);
    let matched: Family<Member, Gauge> = Family::default();
    for (member, index) in &status.matched {
        matched.get_or_create(&Member { member: member.0 }).set(i64::try_from(*index).unwrap_or(i64::MAX));
    }
    registry.register("raft_matched_index", "leader only: last entry each member is known to hold", matched);

    let stats = *seated.meter.stats.lock().unwrap_or_else(PoisonError::into_inner);
    let appends = "time from the start of an append to the store until it was durable";
    registry.register_with_unit("store_append", appends, Unit::Seconds, seated.meter.append_seconds.clone());
    counter(registry, "store_groups", "groups made durable, one sync each", stats.groups_appended);
    counter(registry, "store_entries", "entries made durable", stats.entries_appended);
    registry.register_with_unit("store_kept", "records kept", Unit::Bytes, ConstGauge::new(stats.bytes_kept));
    gauge(registry, "store_snapshot_index", "entry the newest snapshot stands at", stats.snapshot_index);

    let tally = seated.handle.events.tally();
    counter(registry, "leases_ended", "incarnations of nodes fenced, leases that ended among them", tally.fenced);
    counter(registry, "fencings_begun", "decisions to fence an incarnation of a node", tally.fencing_begun);
    counter(registry, "failovers", "containers assigned elsewhere because their node was fenced", tally.failovers);
    let decisions: Family<Outcome, prometheus_client::metrics::counter::Counter> = Family::default();
    for (outcome, count) in [("placed", tally.placed), ("unplaceable", tally.unplaceable)] {
        decisions.get_or_create(&Outcome { outcome: outcome.to_owned() }).inc_by(count);
    }
    registry.register("decisions", "placement decisions", decisions);

    let Some(state) = &view.state else { return };
    let sight = super::door::sight(&seated.handle);
    let counts: v1::NodeCounts = proto::convert::view::node_counts(state, &sight);
    let nodes: Family<Health, Gauge> = Family::default();
    let all = [
        ("up", counts.up),
        ("suspect", counts.suspect),
        ("fencing", counts.fencing),
        ("fenced", counts.fenced),
        ("joined", counts.joined),
    ];
    for (health, count) in all {
        nodes.get_or_create(&Health { health: health.to_owned() }).set(i64::from(count));
    }
    registry.register("nodes", "nodes by health; up means that a lease is renewed", nodes);
    gauge(registry, "containers", "containers known", state.container_count() as u64);
    gauge(registry, "containers_unplaced", "containers that wait for a place", state.unplaced().count() as u64);
    let brake = u64::from(!matches!(state.brake(), cluster::Brake::Off));
    gauge(registry, "brake_engaged", "1 while the brake holds back time-based fencing", brake);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_a_cluster_has_numbers_too() {
        let text = text(&Standing::Empty, &Traffic::default());
        assert!(text.contains("# HELP quorate_member_up"), "{text}");
        assert!(text.contains("quorate_member_up 0"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
