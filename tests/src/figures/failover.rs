//! Failovers: real power cuts of the playground's machines, by `quoratectl dev demo --rounds`.
//! In: how many, and the lease profile. Out: from the cut to the first line a container wrote elsewhere, one sample per
//! container and cut; the program that cuts also judges that nothing ran twice and nothing was lost.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Figure, Sample, members};

/// `cuts` of a node alone and as many of a node together with the leader, each on a cluster that has healed.
pub fn measure(dir: &Path, cuts: usize, profile: &str) -> Result<Figure> {
    let mut command = Command::new(members::beside("quoratectl")?);
    command.args(["dev", "demo", "--json", "--profile", profile, "--rounds", &cuts.to_string()]);
    command.arg("--dir").arg(dir.join("playground")).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().context("start quoratectl")?;
    ensure!(output.status.success(), "the power cuts ended badly ({}); see above", output.status);
    let report: Value = serde_json::from_slice(&output.stdout).context("read the report")?;
    let rounds = report["rounds"].as_array().context("the report has rounds")?;
    let (mut alone, mut with_leader) = (Sample::default(), Sample::default());
    let (mut alone_cuts, mut leader_cuts) = (0, 0);
    for round in rounds {
        let leader_lost = round["leader_lost"].as_bool().context("a round says who was lost")?;
        let (sample, count) =
            if leader_lost { (&mut with_leader, &mut leader_cuts) } else { (&mut alone, &mut alone_cuts) };
        *count += 1;
        for took in round["failover_ms"].as_object().context("a round says how long it took")?.values() {
            sample.add(Duration::from_millis(took.as_u64().context("in milliseconds")?));
        }
    }
    ensure!(alone_cuts == cuts && leader_cuts == cuts, "{alone_cuts} and {leader_cuts} cuts were made, not {cuts}");
    let (runtime, class) = (report["runtime"].clone(), report["fencing_class"].clone());
    let overlaps = report["overlaps"].as_u64().context("the report says whether anything ran twice")?;
    let text = format!(
        "failover, {profile} profile, {cuts} cuts each, runtime {}: node alone {}; node with leader {}; {overlaps} overlaps",
        runtime.as_str().unwrap_or("?"),
        in_words(&mut alone),
        in_words(&mut with_leader),
    );
    let json = json!({
        "figure": "failover", "profile": profile, "cuts": cuts, "runtime": runtime, "fencing_class": class,
        "overlaps": overlaps, "lost": report["lost"],
        "node_alone": in_numbers(&mut alone), "node_with_leader": in_numbers(&mut with_leader),
    });
    Ok(Figure::new(text, json))
}

fn in_words(sample: &mut Sample) -> String {
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| sample.quantile_ms(share) / 1_000.0);
    format!("p50 {p50:.2} s, p99 {p99:.2} s, max {max:.2} s ({} containers)", sample.len())
}

fn in_numbers(sample: &mut Sample) -> Value {
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| sample.quantile_ms(share));
    json!({ "containers": sample.len(), "p50_ms": p50, "p99_ms": p99, "max_ms": max })
}
