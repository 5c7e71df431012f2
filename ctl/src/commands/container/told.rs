//! Containers as people read them: one a line, one whole, and why it is where it is.

use std::collections::BTreeMap;

use proto::v1;

use crate::output::{cores, dash, facts, memory, table, time, word};

pub(super) fn runs(name: &str, container: &v1::Container) -> String {
    let node = node_of(container).unwrap_or("-");
    format!("{name} ({}) runs on {node}, epoch {}", container.id, container.epoch)
}

pub(super) fn node_of(container: &v1::Container) -> Option<&str> {
    container.assignment.as_ref().map(|assignment| assignment.node.as_str())
}

pub(super) fn state(container: &v1::Container) -> String {
    let word = word(container.state().as_str_name(), "CONTAINER_STATE_");
    let on = node_of(container).map_or(String::new(), |node| format!(" on {node}"));
    let text = if container.text.is_empty() { String::new() } else { format!(": {}", container.text) };
    format!("{word}{on}{text}")
}

pub(super) fn listed(containers: &[v1::Container], wide: bool) -> String {
    let rows = containers.iter().map(|container| {
        let spec = container.spec.clone().unwrap_or_default();
        let asks = spec.resources.unwrap_or_default();
        let mut row = vec![
            spec.name.clone(),
            word(container.state().as_str_name(), "CONTAINER_STATE_"),
            dash(node_of(container).unwrap_or_default()),
            container.epoch.to_string(),
            container.restarts.to_string(),
            container.id.clone(),
        ];
        if wide {
            row.extend([
                word(container.desired().as_str_name(), "DESIRED_STATE_"),
                word(spec.class().as_str_name(), "CONTAINER_CLASS_"),
                spec.priority.map_or("-".to_owned(), |it| it.to_string()),
                cores(asks.cpu_millis),
                memory(asks.memory_bytes),
                [std::slice::from_ref(&spec.template), &spec.application_templates].concat().join("+"),
                spec.storage.clone(),
                dash(&container.home),
            ]);
        }
        row.push(dash(&container.text));
        row
    });
    let mut headings = vec!["name", "state", "node", "epoch", "restarts", "id"];
    if wide {
        headings.extend(["desired", "class", "priority", "cpu", "memory", "template", "storage", "home"]);
    }
    headings.push("what");
    table(&headings, rows)
}

pub(super) fn shown(container: &v1::Container) -> String {
    let spec = container.spec.clone().unwrap_or_default();
    let asks = spec.resources.unwrap_or_default();
    let restart = spec.restart.unwrap_or_default();
    let place = container.assignment.as_ref().map(|held| {
        let loss = word(held.on_quorum_loss().as_str_name(), "ON_QUORUM_LOSS_");
        format!("{}, epoch {}, since revision {}; on quorum loss: {loss}", held.node, held.epoch, held.revision)
    });
    let tiers: Vec<String> = spec.preferred_owners.iter().map(|tier| tier.nodes.join(", ")).collect();
    facts(&[
        ("name", format!("{} ({})", spec.name, container.id)),
        ("state", format!("{} since revision {}", state(container), container.since_revision)),
        ("desired", word(container.desired().as_str_name(), "DESIRED_STATE_")),
        ("place", place.unwrap_or_else(|| format!("none; the last epoch was {}", container.epoch))),
        ("home", container.home.clone()),
        ("last end", container.last_end.clone()),
        (
            "lost its node",
            if container.displacements == 0 { String::new() } else { format!("{} times", container.displacements) },
        ),
        ("template", spec.template.clone()),
        ("laid over it", spec.application_templates.join(", then ")),
        ("storage", spec.storage.clone()),
        ("command", words(&spec.command)),
        ("asks for", format!("{} cpu, {} memory", cores(asks.cpu_millis), memory(asks.memory_bytes))),
        ("class", word(spec.class().as_str_name(), "CONTAINER_CLASS_")),
        ("priority", spec.priority.map_or(String::new(), |it| it.to_string())),
        ("possible owners", spec.possible_owners.join(", ")),
        ("preferred owners", tiers.join("\n")),
        (
            "restart",
            format!(
                "{}, at most {} times in {}; {} count now",
                word(restart.condition().as_str_name(), "RESTART_CONDITION_"),
                restart.max.unwrap_or_default(),
                time(restart.period_ms.unwrap_or_default()),
                container.restarts
            ),
        ),
        ("stop grace", time(spec.stop_grace_ms.unwrap_or_default())),
        ("environment", lines(&spec.environment)),
        ("annotations", lines(&spec.annotations)),
        ("created", format!("revision {}", container.created_revision)),
    ])
}

/// As a shell would take it.
fn words(command: &[String]) -> String {
    let plain = |word: &&String| {
        !word.is_empty() && word.chars().all(|it| it.is_ascii_alphanumeric() || "-_./:=,@%+".contains(it))
    };
    let quoted = |word: &String| match Some(word).filter(plain) {
        Some(word) => word.clone(),
        None => format!("'{}'", word.replace('\'', r"'\''")),
    };
    command.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

fn lines(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("\n")
}

/// The facts, most important first; `wide`: with the whole decision.
pub(super) fn why(why: &v1::WhyReply, wide: bool) -> String {
    let mut text = why.lines.join("\n");
    let Some(decision) = why.decision.as_ref().filter(|_| wide) else { return text };
    text.push_str(&format!(
        "\n\ndecision {}, on {}: {}; {} nodes could take it, {} was chosen (from the state of revision {})\n",
        decision.id,
        decision.trigger,
        if decision.chosen.is_empty() { "nothing fitted" } else { "placed" },
        decision.feasible,
        dash(&decision.chosen),
        decision.revision
    ));
    let candidates = decision.candidates.iter().map(|candidate| {
        let score: Vec<String> = candidate.score.iter().map(|it| format!("{} {}", it.name, it.value)).collect();
        vec![candidate.node.clone(), score.join(", ")]
    });
    if !decision.candidates.is_empty() {
        text.push_str(&format!("\n{}\n", table(&["candidate", "score"], candidates)));
    }
    let rejections = decision.rejections.iter().map(|rejection| {
        let examples = decision.examples.iter().filter(|it| it.rule == rejection.rule);
        let examples: Vec<String> = examples.map(|it| format!("{}: {}", it.node, it.text)).collect();
        vec![rejection.rule.clone(), rejection.nodes.to_string(), examples.join("; ")]
    });
    if !decision.rejections.is_empty() {
        text.push_str(&format!("\n{}\n", table(&["refused by", "nodes", "such as"], rejections)));
    }
    text
}

#[cfg(test)]
pub(super) fn example() -> v1::Container {
    let spec = v1::ContainerSpec {
        name: "web".into(),
        template: "nginx".into(),
        storage: "shared".into(),
        command: vec!["serve".into(), "it's".into()],
        resources: Some(v1::Resources { cpu_millis: 250, memory_bytes: 64 << 20 }),
        priority: Some(500),
        preferred_owners: vec![v1::OwnerTier { nodes: vec!["node-1".into(), "node-2".into()] }],
        environment: [("B".to_owned(), "2".to_owned()), ("A".to_owned(), "1".to_owned())].into(),
        ..v1::ContainerSpec::default()
    };
    v1::Container {
        id: "c12".into(),
        spec: Some(spec),
        desired: v1::DesiredState::Running as i32,
        state: v1::ContainerState::Running as i32,
        assignment: Some(v1::Assignment { node: "node-2".into(), epoch: 3, ..v1::Assignment::default() }),
        epoch: 3,
        restarts: 1,
        ..v1::Container::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_listed_with_state_place_and_epoch() {
        let unplaced = v1::Container {
            state: v1::ContainerState::Unplaced as i32,
            assignment: None,
            text: "2 nodes: memory".into(),
            ..example()
        };
        let text = listed(&[example(), unplaced], false);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "NAME  STATE     NODE    EPOCH  RESTARTS  ID   WHAT",
                "web   running   node-2  3      1         c12  -",
                "web   unplaced  -       3      1         c12  2 nodes: memory",
            ]
        );
        assert!(listed(&[example()], true).contains("250") || listed(&[example()], true).contains("0.25"));
    }

    #[test]
    fn a_container_is_shown_whole() {
        let text = shown(&example());
        for part in ["web (c12)", "running on node-2", "0.25 cpu, 64 MiB memory", r"serve 'it'\''s'", "node-1, node-2"]
        {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        let at = |part: &str| text.find(part);
        assert!(at("A=1") < at("B=2"), "the environment is sorted");
    }

    #[test]
    fn why_is_read_line_by_line_and_wide_adds_the_decision() {
        let decision = v1::Decision {
            id: 9,
            trigger: "created".into(),
            chosen: "node-2".into(),
            rejections: vec![v1::RejectionCount { rule: "memory".into(), nodes: 1 }],
            examples: vec![v1::RejectionExample { node: "node-1".into(), rule: "memory".into(), text: "full".into() }],
            feasible: 1,
            ..v1::Decision::default()
        };
        let reply =
            v1::WhyReply { lines: vec!["first".into(), "second".into()], decision: Some(decision), revision: 9 };
        assert_eq!(why(&reply, false), "first\nsecond");
        assert!(why(&reply, true).contains("node-1: full"));
    }
}
