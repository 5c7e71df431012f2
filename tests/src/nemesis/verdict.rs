//! The verdict of a run: from the folder, from the observer, from the clients, and from the members, which must show one thing at
//! one revision. In: what everybody wrote and was told. Out: what is broken, in the report. Absent: doing anything about it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::checker::{self, Broken, Judge, Record};
use super::clients;
use super::deeds::MEMBERS;
use super::hosts::api_of;
use super::witness::{RECORD, now_ns};
use super::{Nemesis, api, container_of, events};
use crate::history::{End, Rule, judge};

impl Nemesis {
    /// What members have applied at one revision is one thing.
    pub(super) fn compare(&mut self, after: &str) {
        self.clients.stop();
        let deadline = Instant::now() + Duration::from_secs(15);
        let seed = self.report.done.len() as u64;
        loop {
            let states: Vec<Option<(String, Value)>> = MEMBERS.map(|host| visible(api_of(host))).into();
            let revisions: BTreeSet<&String> = states.iter().flatten().map(|(revision, _)| revision).collect();
            if states.iter().all(Option::is_some) && revisions.len() == 1 {
                self.report.compared += 1;
                let shown: Vec<Value> = states.into_iter().flatten().map(|(_, shown)| shown).collect();
                let mut found = Vec::new();
                shown[1..].iter().for_each(|other| differences("", &shown[0], other, &mut found));
                if !found.is_empty() {
                    self.report.broken.push(format!("after {after}: members differ at one revision: {found:?}"));
                }
                break;
            }
            if Instant::now() > deadline {
                self.report.broken.push(format!("after {after}: members never came to one revision: {revisions:?}"));
                break;
            }
        }
        self.clients.start(self.report.seed ^ seed << 8, self.each);
    }

    /// The verdict, from the folder, from the observer, from the clients.
    pub(super) fn judge_all(&mut self) -> io::Result<()> {
        let mut broken = self.observer.broken();
        let mut storage = Judge::new(Record::Storage);
        let areas = self.hosts.lab.dir.join("shared/containers");
        for area in fs::read_dir(&areas)?.flatten() {
            if let Ok(text) = fs::read(area.path().join(RECORD)) {
                storage.take_all(&String::from_utf8_lossy(&text));
            }
        }
        let (mut violations, _) = checker::judge(storage.broken(), &self.exposures);
        broken = checker::judge(broken, &self.exposures).0;
        broken.retain(|fault| !violations.contains(fault));
        violations.extend(broken);
        self.report.witness_lines = storage.lines;
        self.report.observer_lines = self.observer.lines();
        let running = |container: &&String| {
            self.observer.latest(container).is_some_and(|life| now_ns() - life.last_ns < 5_000_000_000)
        };
        let lost = self.containers.iter().filter(|it| !running(it));
        violations.extend(lost.map(|container| Broken::Lost { container: container.clone() }));
        violations.extend(self.judge_ledger());
        for fault in violations {
            match fault {
                Broken::Overlap { .. } | Broken::Shared { .. } => self.report.overlaps += 1,
                Broken::Lost { .. } => self.report.lost_containers += 1,
                Broken::Unacknowledged { .. } => self.report.lost_acknowledgements += 1,
                _ => {}
            }
            let words = fault.to_string();
            if !self.report.broken.iter().any(|known| known.ends_with(&words)) {
                self.report.broken.push(words);
            }
        }
        Ok(())
    }

    /// What the cluster says happened, beside the evidence.
    pub(super) fn note_events(&self, dir: &Path) -> io::Result<()> {
        let text: String = events(&self.hosts).iter().map(|event| format!("{event}\n")).collect();
        fs::write(dir.join("events.jsonl"), text)
    }

    fn judge_ledger(&mut self) -> Vec<Broken> {
        let numbers = 1..=self.clients.ledger().histories.len();
        let mut found = Vec::new();
        for number in numbers.clone() {
            match self.clients.read_ends(number) {
                Err(error) => self.report.broken.push(format!("{} cannot be read: {error}", clients::object(number))),
                Ok(ends) => {
                    let first = ends.first().cloned().unwrap_or_default();
                    if ends.iter().any(|other| *other != first) {
                        self.report.broken.push(format!("{}: members differ: {ends:?}", clients::object(number)));
                    }
                    let ends = clients::keys().map(|key| (key.clone(), clients::held(&first, &key))).collect();
                    let ledger = self.clients.ledger();
                    let own = ledger.histories[number - 1].ops.iter().filter(|op| op.key != clients::SHARED).cloned();
                    found.extend(checker::single_writer(&own.collect::<Vec<_>>(), &ends));
                }
            }
        }
        let present: BTreeSet<String> = self
            .clients
            .ledger()
            .created
            .iter()
            .filter(|container| container_of(&self.hosts, container).is_some())
            .cloned()
            .collect();
        let ledger = self.clients.ledger();
        found.extend(checker::missing(&ledger.created, &present));
        let report = &mut self.report;
        for told in &ledger.histories {
            report.histories += 1;
            report.operations += told.history.operations.len();
            let (undecided, anomalies): (Vec<_>, Vec<_>) =
                judge(&told.history).into_iter().partition(|anomaly| anomaly.rule == Rule::Undecided);
            report.undecided += undecided.len();
            report.anomalies += anomalies.len();
            report.broken.extend(anomalies.iter().map(|anomaly| format!("history {}: {anomaly}", report.histories)));
        }
        let acknowledged = |told: &clients::Told| {
            told.ops
                .iter()
                .filter(|op| matches!(op.call, checker::Call::Write(_)) && op.outcome == checker::Outcome::Ok)
                .count()
        };
        report.acknowledged = ledger.histories.iter().map(acknowledged).sum::<usize>() + ledger.created.len();
        report.stale_reads = (ledger.stale, ledger.ages.len() as u64);
        let told = ledger.histories.iter().flat_map(|told| &told.history.operations);
        let known: Vec<(u64, u64)> = told
            .filter(|operation| operation.request.is_some())
            .filter_map(|operation| match operation.end {
                End::Answered { at, revision, .. } => Some((revision?, at)),
                End::Unknown => None,
            })
            .collect();
        report.flattering_ms =
            checker::understated(&known, &ledger.ages).into_iter().map(|ns| ns / 1_000_000).collect();
        report.repeated = ledger.repeated;
        found
    }
}

/// Revision, and what the member shows of what it has applied, by path of the API; of containers the thousand first. Not its
/// events: those are its own memory, which reaches back to its snapshot.
fn visible(member: std::net::SocketAddr) -> Option<(String, Value)> {
    let mut shown = serde_json::Map::new();
    let mut revisions = BTreeSet::new();
    for what in ["containers", "nodes", "storages", "templates", "cluster/settings"] {
        let path = match what {
            "cluster/settings" => format!("/v1/{what}?stale=true"),
            _ => format!("/v1/{what}?stale=true&page.size=1000"),
        };
        let (status, reply) = api::call(member, "GET", &path, None).ok()?;
        if status != 200 {
            return None;
        }
        revisions.insert(reply["revision"].as_str().map(str::to_owned).unwrap_or_default());
        shown.insert(what.to_owned(), reply);
    }
    let mut revisions = revisions.into_iter();
    let revision = revisions.next()?;
    revisions.next().is_none().then_some((revision, Value::Object(shown)))
}

/// Places where two values differ, each with what stands there.
fn differences(place: &str, one: &Value, other: &Value, found: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            keys.iter().for_each(|key| differences(&format!("{place}.{key}"), &one[*key], &other[*key], found));
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            (0..a.len()).for_each(|at| differences(&format!("{place}[{at}]"), &a[at], &b[at], found));
        }
        _ if one != other => found.push(format!("{place}: {one:.200} / {other:.200}")),
        _ => {}
    }
}
