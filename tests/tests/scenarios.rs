//! Every story of `scenarios/` is told again and must read the same; `UPDATE=1` writes down what came of it.
//! The names are claims, and each file says in its first lines what it shows and why that matters.

use std::collections::BTreeSet;
use std::path::PathBuf;

use tests::sim::script::Story;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

#[track_caller]
fn tell(file: &str) {
    let path = folder().join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {file}: {error}"));
    let story = Story::parse(&text).unwrap_or_else(|problem| panic!("{file}: {problem}"));
    let transcript = story.run().unwrap_or_else(|wrong| panic!("{file}:\n{wrong}"));
    if std::env::var_os("UPDATE").is_some() {
        return std::fs::write(&path, story.with(&transcript)).expect("the story can be written");
    }
    if transcript != story.expected {
        let at = transcript.lines().zip(story.expected.lines()).take_while(|(now, then)| now == then).count();
        panic!("{file} reads otherwise from line {at} of its transcript on (UPDATE=1 takes this over):\n{transcript}");
    }
}

macro_rules! stories {
    ($($name:ident $file:literal)*) => {
        $(#[test]
        fn $name() {
            tell($file);
        })*

        const TOLD: &[&str] = &[$($file),*];
    };
}

stories! {
    node_loses_power "node-loses-power.txt"
    node_and_leader_lose_power_together "node-and-leader-lose-power-together.txt"
    node_is_cut_off_and_comes_back "node-is-cut-off-and-comes-back.txt"
    killed_agent_adopts_its_containers "killed-agent-adopts-its-containers.txt"
    frozen_agent_is_stopped_by_its_guard "frozen-agent-is-stopped-by-its-guard.txt"
    slow_link_to_the_leader_fences_nobody "slow-link-to-the-leader-fences-nobody.txt"
    leader_stalls_and_nobody_is_fenced "leader-stalls-and-nobody-is-fenced.txt"
    lost_majority_decides_nothing "lost-majority-decides-nothing.txt"
    member_is_added_while_a_node_is_silent "member-is-added-while-a-node-is-silent.txt"
    stale_command_is_refused "stale-command-is-refused.txt"
    standby_is_used_last "standby-is-used-last.txt"
    storage_lost_on_one_node_moves_only_what_needs_it "storage-lost-on-one-node-moves-only-what-needs-it.txt"
    hung_storage_that_cannot_be_let_go_of_costs_its_node "hung-storage-that-cannot-be-let-go-of-costs-its-node.txt"
    no_room_anywhere_is_said "no-room-anywhere-is-said.txt"
    drain_moves_everything_off "drain-moves-everything-off.txt"
    repeated_request_has_one_effect "repeated-request-has-one-effect.txt"
    damaged_store_is_noticed_and_replaced "damaged-store-is-noticed-and-replaced.txt"
    kept_container_waits_for_the_operator "kept-container-waits-for-the-operator.txt"
    changed_policy_waits_for_the_next_epoch "changed-policy-waits-for-the-next-epoch.txt"
    graceful_leave_needs_no_fence "graceful-leave-needs-no-fence.txt"
    leaving_frees_what_was_kept "leaving-frees-what-was-kept.txt"
    crashed_container_is_started_again "crashed-container-is-started-again.txt"
    power_switch_fences_sooner "power-switch-fences-sooner.txt"
    hanging_container_blocks_its_handover "container-that-cannot-be-killed-blocks-its-handover.txt"
    shorter_lease_terms_come_into_force "shorter-lease-terms-come-into-force.txt"
}

#[test]
fn every_story_is_told() {
    let files = std::fs::read_dir(folder()).expect("the stories are there");
    let names: BTreeSet<String> =
        files.map(|file| file.expect("a story has a name").file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(names, TOLD.iter().map(|name| (*name).to_owned()).collect());
}
