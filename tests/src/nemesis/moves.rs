//! Moves of containers: every node shall have a victim before the next deed. In: where containers write. Out: orders that are
//! carried out, or given up by the cluster in words. An order that was taken and comes to nothing in silence is a broken promise.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use super::deeds::{Host, NODES, name};
use super::{Nemesis, RECOVERY, container_of};

/// A move that was taken is done by then, or the cluster has said that it was given up: above what a target has to get ready, a
/// handoff has to end, and an election.
const MOVE: Duration = Duration::from_secs(60);
impl Nemesis {
    /// Nothing moves back by itself: where a node runs nothing, one whose home it is goes there, so that every deed has a victim.
    /// An order that was taken is carried out, or the cluster says why it was given up; only then it is given again.
    pub(super) fn go_home(&mut self) {
        let places = self.places();
        let empty = |home: &Host| !places.values().any(|node| *node == name(*home));
        let homes: Vec<Host> = NODES.into_iter().filter(empty).collect();
        if homes.is_empty() {
            return;
        }
        for home in homes {
            let at = NODES.iter().position(|node| *node == home).unwrap_or(0);
            if let Err(what) = self.move_to(&self.containers[at].clone(), home) {
                self.report.broken.push(format!("NOT MOVED to {}: {what}", name(home)));
                return;
            }
        }
        if let Err(what) = self.until_well(RECOVERY) {
            self.report.broken.push(format!("NOT RECOVERED after a move: {what}"));
        }
    }

    /// Errs with what is missing, once a move that was taken came to nothing in silence, or nobody takes it.
    fn move_to(&mut self, container: &str, home: Host) -> Result<(), String> {
        let (path, deadline) = (format!("/v1/containers/{container}:move"), Instant::now() + RECOVERY);
        let mut ordered: Option<(u64, Instant)> = None;
        loop {
            if self.places().get(container).is_some_and(|node| *node == name(home)) {
                return Ok(());
            }
            let Some((revision, since)) = ordered else {
                match self.hosts.order("POST", &path, json!({"node": name(home)})) {
                    Ok(reply) => {
                        let revision = reply["revision"].as_str().and_then(|it| it.parse().ok()).unwrap_or_default();
                        ordered = Some((revision, Instant::now()));
                    }
                    Err(what) if Instant::now() > deadline => return Err(format!("never taken: {what}")),
                    Err(_) => std::thread::sleep(Duration::from_millis(100)),
                }
                continue;
            };
            let kinds = "filter.kinds=handover-aborted&filter.kinds=container-displaced";
            let asked = format!("/v1/events?fromRevision={}&filter.container={container}&{kinds}", revision + 1);
            let said = self.hosts.get(&asked).and_then(|reply| reply["events"].as_array().cloned());
            if let Some(event) = said.into_iter().flatten().next() {
                let text = event["text"].as_str().unwrap_or_default().to_owned();
                eprintln!("          given up, and ordered again: {text}");
                self.report.moves_given_up.push(text);
                ordered = None;
                if Instant::now() > deadline {
                    return Err("given up again and again".into());
                }
            } else if since.elapsed() > MOVE {
                let now = container_of(&self.hosts, container).unwrap_or_default();
                return Err(format!("taken at {revision}, and for {MOVE:?} nothing is seen or said of it: {now}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Where each container wrote last.
    pub(super) fn places(&self) -> BTreeMap<String, String> {
        let latest = |name: &String| Some((name.clone(), self.observer.latest(name)?.runner.node));
        self.containers.iter().filter_map(latest).collect()
    }
}
