//! Plans as files, for `tests/regressions`: a run that once failed, short enough to be read.
//! In: a plan and why it is kept. Out: text, one deed a line, and the plan that such a text is.
//! Lines with `#` say what it shows; then comes the layout as JSON, then the deeds, each as JSON.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::sim::clock::God;
use crate::sim::deeds::{Layout, Plan, Timed};

/// The first line that is no comment.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    seed: u64,
    faults_until: God,
    layout: Layout,
}

/// `why`: what it shows, for whoever reads the file.
pub fn write(plan: &Plan, why: &str) -> String {
    let Plan { seed, layout, schedule, faults_until } = plan.clone();
    let json = |line: Result<String, serde_json::Error>| line.expect("a plan is numbers and names");
    let comments = why.lines().map(|line| format!("# {line}"));
    let head = json(serde_json::to_string(&Head { seed, faults_until, layout }));
    let deeds = schedule.iter().map(|timed| json(serde_json::to_string(timed)));
    comments.chain([head]).chain(deeds).map(|line| line + "\n").collect()
}

/// Errs with the line that cannot be read and why.
pub fn read(text: &str) -> Result<Plan, String> {
    let mut lines = (1..).zip(text.lines()).filter(|(_, line)| !line.starts_with('#') && !line.trim().is_empty());
    let wrong = |number: usize| move |error: serde_json::Error| format!("line {number}: {error}");
    let (number, head) = lines.next().ok_or("there is no layout")?;
    let Head { seed, faults_until, layout } = serde_json::from_str(head).map_err(wrong(number))?;
    let schedule = lines
        .map(|(number, line)| serde_json::from_str::<Timed>(line).map_err(wrong(number)))
        .collect::<Result<Vec<_>, _>>()?;
    if schedule.windows(2).any(|pair| pair[0].at > pair[1].at) {
        return Err("the deeds stand in the order of their times".to_owned());
    }
    Ok(Plan { seed, layout, schedule, faults_until })
}

/// Where runs that once failed are kept.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("regressions")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::clock::SECOND;

    #[test]
    fn a_plan_is_its_file() {
        for seed in 1..=200 {
            let plan = Plan::random(seed, 60 * SECOND);
            assert_eq!(read(&write(&plan, "two\nlines")), Ok(plan));
        }
        let text = write(&Plan::random(1, 10 * SECOND), "why");
        assert!(read(&text.replace("\"seed\"", "\"sead\"")).is_err_and(|problem| problem.starts_with("line 2")));
        assert!(read("# nothing else").is_err());
    }
}
