//! The list of bad input, item by item and door by door, at real programs. Whatever comes in gets words that say what is
//! wrong, where, and what to do, with a reason and a field for programs; it changes nothing, and everything serves on.

mod doors;
mod requests;
mod starts;
mod streams;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use doors::Ground;

use super::given;

/// One way in, and what tries it.
type Way = (&'static str, fn(&Ground));

/// Every item of the list, in its order.
const LIST: [(&str, &[Way]); 21] = [
    (
        "names: ../x, empty, 300 characters, a line break, -rf, tricks of Unicode",
        &[("REST and gRPC", requests::names), ("quoratectl", requests::names_on_the_command_line)],
    ),
    (
        "negative or absurd resources",
        &[("REST and gRPC", requests::resources), ("quoratectl", requests::resources_on_the_command_line)],
    ),
    ("absurd commands and environments", &[("REST and gRPC", requests::commands_and_environments)]),
    (
        "unknown template, storage, owner, container or member",
        &[("REST, gRPC, quoratectl", requests::unknown_template)],
    ),
    ("unknown fields", &[("REST, a file of quoratectl", requests::unknown_fields)]),
    ("keys given twice", &[("REST, a file of quoratectl", requests::keys_given_twice)]),
    ("text that is no request", &[("REST", requests::no_request_at_all)]),
    ("names that are taken", &[("REST, gRPC, quoratectl", requests::taken_names)]),
    ("owners that contradict each other", &[("REST and gRPC", requests::contradicting_owners)]),
    ("values nobody knows", &[("REST and gRPC", requests::unknown_values)]),
    ("a body of 100 MiB", &[("REST", requests::huge_body), ("gRPC", requests::huge_message)]),
    ("a heartbeat for another node", &[("heartbeats", streams::heartbeat_for_another_node)]),
    ("a registration for another node", &[("session", streams::registration_for_another_node)]),
    ("a stranger among the nodes", &[("heartbeats, session", streams::stranger_among_nodes)]),
    ("a report with an epoch from the future", &[("session", streams::epoch_from_the_future)]),
    ("a peer message from an unknown member", &[("peers", streams::stranger_among_members)]),
    (
        "a configuration with a typo",
        &[("quorated, quorate-agent", |_| given::typo_in_a_configuration_names_the_right_key())],
    ),
    ("a data folder of another cluster", &[("quorated", |_| given::data_folder_of_another_cluster_is_refused())]),
    ("a port or a folder in use", &[("quorated, quorate-agent", |_| given::port_or_folder_in_use_is_named())]),
    (
        "a full disk",
        &[("at the start", starts::full_disk_at_the_start), ("while it runs", starts::full_disk_while_it_runs)],
    ),
    ("a missing runtime, or one that does not work", &[("quorate-agent", starts::missing_runtime)]),
];

#[test]
fn everything_on_the_list_is_refused_in_words_and_changes_nothing() {
    let ground = Ground::new();
    let mut wrong = Vec::new();
    for (item, ways) in LIST {
        for (door, tried) in ways {
            let before = ground.facts();
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| tried(&ground))) {
                wrong.push(format!("{item} ({door}): {}", words(&*panic)));
            }
            let after = ground.facts();
            if after != before {
                wrong.push(format!("{item} ({door}): something was changed:\nbefore {before}\nafter  {after}"));
            }
            if let Some(silent) = ground.who_does_not_serve() {
                wrong.push(format!("{item} ({door}): {silent} serves no more"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of the list:\n{}", wrong.len(), wrong.join("\n\n"));
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words")
}
