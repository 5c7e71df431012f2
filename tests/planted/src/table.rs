//! Every planted bug: its name, what it stands for, the mistake. `tests/tests/tidy/` checks that each is planted
//! somewhere, that nothing else is, and that every mark of SAFETY.md stands here or in `ELSEWHERE`.

/// One mistake.
pub struct Bug {
    pub name: &'static str,
    /// The mark of SAFETY.md, or the point of the list of mistakes that every lease protocol invites.
    pub stands_for: &'static str,
    pub mistake: &'static str,
}

const fn bug(name: &'static str, stands_for: &'static str, mistake: &'static str) -> Bug {
    Bug { name, stands_for, mistake }
}

#[rustfmt::skip]
pub const TABLE: &[Bug] = &[
    // The lease, by the node.
    bug("lease-from-reply", "lease counted from the reply", "the lease starts when the answer arrives, not at the send"),
    bug("one-acknowledgement-enough", "one member's acknowledgement enough", "any voter alone grants a lease"),
    bug("memberships-count-together", "(1)", "acknowledgements under different memberships add up to one majority"),
    bug("joint-needs-one-majority", "(b15)", "a joint membership grants leases by its incoming half alone"),
    bug("gap-is-forgiven", "(a2)", "a node that slept through its deadline gives itself another lease"),
    bug("start-without-a-lease", "nothing starts without a lease", "a start asks only for a registration"),
    bug("terms-named-at-once", "(a3)", "shorter terms are named before the guard keeps them"),
    bug("refusal-ends", "(b11)", "one voter's refusal ends the incarnation"),
    bug("guard-reads-the-wrong-clock", "guard reading the wrong clock", "the simulated guard counts by the clock that stops in suspend"),
    // The end of an incarnation, by the node.
    bug("ended-said-before-it-is", "(4)", "the incarnation's end is said when it begins, not when nothing is left"),
    bug("latched-goes-on-beating", "(b9)", "an incarnation that is ending goes on sending heartbeats"),
    bug("nobody-looks-what-is-left", "(5)", "guard and agent take the first sweep for the last"),
    bug("guard-sweeps-once", "(5)", "the guard sweeps once and waits for ever"),
    bug("empty-without-a-look", "(b10)", "the same boot calls itself empty while kept containers run"),
    // What the node carries out.
    bug("desired-set-out-of-order", "(9); desired set applied out of order", "an older desired set is believed"),
    bug("desired-set-of-another-incarnation", "(9)", "a desired set for an earlier incarnation is believed"),
    bug("epoch-memory-lost", "epoch memory lost at agent restart", "closed epochs are forgotten when the agent restarts"),
    bug("stop-before-unmount", "stop reported before unmount", "an exit is taken for a stop: nothing is unmounted"),
    bug("target-starts-at-prepare", "(10)", "the target of a handover starts where it should get ready"),
    // What voters say and leaders do.
    bug("acknowledges-while-fencing", "acknowledgement while Fencing is in the log", "only the state is asked, not the log"),
    bug("age-of-another-incarnation", "age of another incarnation", "a registration does not count as the first heartbeat"),
    bug("unknown-not-counted", "(18)", "what a member forgot by restarting counts as never acknowledged"),
    bug("late-tick-blamed", "(a2); late tick blamed on the nodes", "time a member slept through counts as the nodes' silence"),
    bug("remaining-before-the-refusal", "answers before the refusal is in force", "a voter that lags behind answers at once"),
    bug("open-fencing-is-the-beginners", "(2)", "a leader finishes only what was begun in its own term"),
    bug("young-membership-not-waited", "(a1)", "a receipt under a joint or young membership waits for nothing more"),
    bug("fencing-at-suspicion", "(13)", "fencing begins at suspicion, not after the lease"),
    bug("fence-method-before-fencing", "(12)", "the power switch is asked before Fencing is committed"),
    bug("small-cluster-fences", "(b12)", "two voters fence on time"),
    bug("brake-never-trips", "(14)", "any number of nodes that fall silent together is fenced"),
    bug("boot-grace-forgotten", "(b13)", "a cluster that has just started fences who is late"),
    bug("unheard-node-moves-nobody", "(b16)", "a leader keeps a node that only others hear"),
    bug("dropped-proposal-stays-pending", "a dropped proposal still counts as under way", "its duty is never done"),
    bug("own-term-entry-not-awaited", "own-term entry not awaited", "a leader acts on a state that may lack what is committed"),
    bug("handoff-goes-back", "(b14)", "a handoff that takes too long goes back to the source"),
    bug("target-owns-at-handoff", "(10), (b14)", "the target gets the next epoch before the source has closed its own"),
    bug("joint-never-left", "(b15)", "nobody leaves a joint membership"),
    bug("membership-beneath-forgotten", "(b8)", "after a restart the membership beneath the state has no place in the log"),
    // The log, reads, snapshots.
    bug("messages-before-sync", "ready messages sent before fsync", "votes and acknowledgements leave before they are durable"),
    bug("commit-without-its-entries", "(a1)", "the commit index is not stored with the entries it came with"),
    bug("applied-index-not-with-the-state", "applied index not with the state", "a snapshot is labelled with the end of the log"),
    bug("read-index-skipped", "ReadIndex skipped", "a leader answers reads without asking whether it still leads"),
    bug("rejoins-under-the-burnt-id", "rejoin under the burnt id", "nobody asks a member whether it still has its log"),
    bug("burnt-id-given-again", "rejoin under the burnt id", "a new member gets the id of a removed one"),
    bug("watch-resumes-one-too-late", "watch resumes one too late", "behind a snapshot one revision is left out"),
    bug("requests-forgotten-at-snapshot", "request id forgotten at snapshot", "remembered results are not restored"),
    bug("snapshot-without-its-hash", "snapshot without its hash", "a damaged snapshot is loaded"),
    bug("entry-without-its-checksum", "damage is noticed", "a damaged log entry is replayed"),
    bug("slot-taken-early", "AckDurable", "a slot of the guard file is written before its former group is durable in the log"),
    bug("slot-written-once", "damage is noticed", "a slot of the guard file is written in one half only"),
    bug("guard-file-not-asked", "a log that lost its end is noticed", "a store that is shorter than it was is believed"),
    // The state.
    bug("wait-without-kill", "W without K", "the wait leaves out what the guard needs to end everything"),
    bug("drift-forgotten", "ε forgotten", "all clocks are taken to run at the same rate"),
    bug("fencing-frees", "no start without a receipt", "containers are freed when fencing begins"),
    bug("time-frees-kept", "(7)", "a lease that is over frees the containers that run on without one"),
    bug("policy-of-the-running-epoch", "(7, a4)", "a changed policy takes hold of the epoch that runs"),
    bug("adopted-under-another-policy", "(a4)", "an epoch that goes on gets another policy"),
    bug("registration-ends-anything", "(3)", "a late registration ends an incarnation it does not name"),
    bug("another-boot-is-empty", "(a6)", "another boot counts as proof that nothing of the one before runs"),
    bug("epoch-stays-with-the-node", "epoch off by one", "a container that comes back to its node keeps its epoch"),
    bug("stale-report-believed", "reports name their epoch", "a report about an earlier epoch closes the current one"),
    // Recovery to a new generation.
    bug("epochs-not-raised", "(8)", "a recovery goes on with the epochs that the survivor knows"),
    bug("recovery-waits-without-a-majority", "(a5)", "W is counted though the logs that were read are no majority"),
    bug("recovered-places-at-once", "(a5)", "containers are placed while a node may still serve the old generation"),
    bug("session-of-another-generation", "(8)", "a leader takes the word of a node that serves the old generation"),
    bug("crosses-with-what-it-keeps", "(8)", "a node enters the new generation with containers the old one gave it"),
    bug("standby-counted-as-free", "standby counted as free", "a standby node is as good as an active one"),
];

/// Caught within a few seeds: `--quick`.
pub const QUICK: &[&str] = &[
    "lease-from-reply",
    "one-acknowledgement-enough",
    "refusal-ends",
    "latched-goes-on-beating",
    "ended-said-before-it-is",
    "desired-set-out-of-order",
    "stop-before-unmount",
    "fencing-at-suspicion",
    "fence-method-before-fencing",
    "own-term-entry-not-awaited",
    "target-owns-at-handoff",
    "messages-before-sync",
    "commit-without-its-entries",
    "requests-forgotten-at-snapshot",
    "fencing-frees",
    "another-boot-is-empty",
    "epoch-stays-with-the-node",
    "wait-without-kill",
    "epochs-not-raised",
    "recovery-waits-without-a-majority",
];

/// Marks without a planted bug here, and why.
pub const ELSEWHERE: &[(&str, &str)] = &[
    (
        "(19)",
        "claims, and that they are read back, are I/O of the agent: the tests in nodeagent/src/drivers/claims.rs; simulated \
         claims are whole",
    ),
    ("(c19)", "what becomes of long-lived helpers is the kernel's; simulated helpers are short"),
    (
        "(c17)",
        "what the guard's process waits for is the kernel's: nodeagent/guard/tests/guard.rs; the simulator has no zombies",
    ),
    (
        "(c18)",
        "what namespaces a machine has is the kernel's: nodeagent/guard/src/selftest.rs; simulated nodes have them",
    ),
];
