//! What a run came to. In: every deed and how it went, what the judges found. Out: a table for people, an object for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

/// One deed, done.
pub struct Done {
    pub what: String,
    pub kind: &'static str,
    pub packets: u64,
    /// From the deed to the first line of each container that came back elsewhere meanwhile.
    pub moved_ms: Vec<u64>,
    /// How long containers ran twice where class F1 does not promise more.
    pub exposed_ms: Vec<u64>,
    /// From the end of the deed until everything was well.
    pub healed_ms: u64,
    pub not_run: Option<String>,
    pub refused: Option<String>,
}

#[derive(Default)]
pub struct Report {
    pub seed: u64,
    pub profile: String,
    pub runtime: String,
    pub done: Vec<Done>,
    /// Whatever is not as promised, in words.
    pub broken: Vec<String>,
    pub overlaps: usize,
    pub lost_acknowledgements: usize,
    pub lost_containers: usize,
    pub histories: usize,
    pub operations: usize,
    pub anomalies: usize,
    /// Histories with too many riddles to be judged.
    pub undecided: usize,
    pub acknowledged: usize,
    /// Asked for, and those that told their age.
    pub stale_reads: (u64, u64),
    /// By how much ages of stale reads fell short of the truth, where they did.
    pub flattering_ms: Vec<u64>,
    pub repeated: u64,
    pub witness_lines: u64,
    pub observer_lines: u64,
    pub quarantined: usize,
    /// Nodes whose class fell below F1, and why.
    pub degraded: Vec<String>,
    /// Moves that were taken and then given up by the cluster, in its words.
    pub moves_given_up: Vec<String>,
    pub compared: usize,
    pub seconds: u64,
}

/// Median and largest; nothing where there is nothing.
fn figures(spans: &mut [u64]) -> Option<(u64, u64)> {
    spans.sort_unstable();
    Some((*spans.get(spans.len() / 2)?, *spans.last()?))
}

impl Report {
    pub fn is_good(&self) -> bool {
        self.broken.is_empty()
            && self.overlaps + self.lost_acknowledgements + self.lost_containers + self.anomalies == 0
    }

    fn kinds(&self) -> BTreeMap<&'static str, Vec<&Done>> {
        let mut kinds: BTreeMap<&'static str, Vec<&Done>> = BTreeMap::new();
        self.done.iter().for_each(|done| kinds.entry(done.kind).or_default().push(done));
        kinds
    }

    pub fn for_people(&self) -> String {
        let mut text = format!(
            "{:<28}{:>6}  {:>9}  {:<24}{:<22}{}\n",
            "fault", "times", "packets", "back elsewhere p50/max", "exposed p50/max", "well again max"
        );
        let pair = |spans: Vec<u64>| {
            let (mut spans, count) = (spans.clone(), spans.len());
            figures(&mut spans).map_or("-".to_owned(), |(p50, max)| format!("{p50}/{max} ms of {count}"))
        };
        for (kind, all) in self.kinds() {
            let ran: Vec<&&Done> = all.iter().filter(|done| done.not_run.is_none()).collect();
            let moved = pair(ran.iter().flat_map(|done| done.moved_ms.clone()).collect());
            let exposed = pair(ran.iter().flat_map(|done| done.exposed_ms.clone()).collect());
            let healed = ran.iter().map(|done| done.healed_ms).max().unwrap_or(0);
            let packets: u64 = ran.iter().map(|done| done.packets).sum();
            let _ = writeln!(
                text,
                "{kind:<28}{:>6}  {packets:>9}  {moved:<24}{exposed:<22}{healed} ms{}",
                ran.len(),
                all.iter()
                    .find_map(|done| done.not_run.as_ref())
                    .map_or(String::new(), |why| format!("  NOT RUN: {why}"))
            );
        }
        let _ = write!(
            text,
            "\n{} faults in {} s, {} profile, {}, seed {}\n\
             overlaps {}, lost acknowledgements {} of {}, lost containers {}\n\
             {} histories of {} operations, {} anomalies, {} undecided; {} calls repeated under their request id\n\
             {} stale reads where asked for, {} of them told their age, {} too low (by {} ms at most)\n\
             {} lines of witnesses, {} seen by the observer; members compared {} times; {} quarantined\n\
             {} incarnations below class F1, whose power cuts an operator confirmed; {} moves given up aloud\n",
            self.done.len(),
            self.seconds,
            self.profile,
            self.runtime,
            self.seed,
            self.overlaps,
            self.lost_acknowledgements,
            self.acknowledged,
            self.lost_containers,
            self.histories,
            self.operations,
            self.anomalies,
            self.undecided,
            self.repeated,
            self.stale_reads.0,
            self.stale_reads.1,
            self.flattering_ms.len(),
            self.flattering_ms.iter().max().unwrap_or(&0),
            self.witness_lines,
            self.observer_lines,
            self.compared,
            self.quarantined,
            self.degraded.len(),
            self.moves_given_up.len(),
        );
        for what in &self.broken {
            let _ = writeln!(text, "BROKEN: {what}");
        }
        text
    }

    pub fn for_programs(&self) -> Value {
        let kind = |all: &Vec<&Done>| {
            let mut moved: Vec<u64> = all.iter().flat_map(|done| done.moved_ms.clone()).collect();
            let mut exposed: Vec<u64> = all.iter().flat_map(|done| done.exposed_ms.clone()).collect();
            let spans = |of: &mut Vec<u64>| {
                let (count, found) = (of.len(), figures(of));
                json!({"count": count, "p50_ms": found.map(|it| it.0), "max_ms": found.map(|it| it.1)})
            };
            json!({
                "times": all.iter().filter(|done| done.not_run.is_none()).count(),
                "packets": all.iter().map(|done| done.packets).sum::<u64>(),
                "back_elsewhere": spans(&mut moved),
                "exposed": spans(&mut exposed),
                "well_again_max_ms": all.iter().map(|done| done.healed_ms).max(),
            })
        };
        let kinds: BTreeMap<&str, Value> = self.kinds().iter().map(|(name, all)| (*name, kind(all))).collect();
        json!({
            "seed": self.seed, "profile": self.profile, "runtime": self.runtime, "seconds": self.seconds,
            "faults": kinds,
            "deeds": self.done.iter().map(|done| done.what.clone()).collect::<Vec<_>>(),
            "overlaps": self.overlaps,
            "lost_acknowledgements": self.lost_acknowledgements, "acknowledged": self.acknowledged,
            "lost_containers": self.lost_containers,
            "histories": self.histories, "operations": self.operations, "anomalies": self.anomalies,
            "undecided": self.undecided,
            "repeated_calls": self.repeated,
            "stale_reads": self.stale_reads.0, "stale_reads_with_age": self.stale_reads.1,
            "stale_ages_too_low": self.flattering_ms.len(), "too_low_by_max_ms": self.flattering_ms.iter().max(),
            "witness_lines": self.witness_lines, "observer_lines": self.observer_lines,
            "members_compared": self.compared, "quarantined": self.quarantined,
            "below_f1": self.degraded, "moves_given_up": self.moves_given_up,
            "broken": self.broken,
        })
    }
}
