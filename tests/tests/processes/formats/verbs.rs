//! The rows: each verb with what it prints for programs. Words in capitals stand for what the ground puts there; `%` is a
//! letter of its own for each format.

/// What a verb prints for programs.
#[derive(Clone, Copy)]
pub enum Says {
    /// One message of the API.
    Message(&'static str),
    /// One after another, for as long as somebody listens.
    Stream(&'static str),
    /// One message as JSON in every format: it is a file that another verb reads.
    Always(&'static str),
    /// Something of the program itself, with these keys; nobody is asked.
    Own(&'static [&'static str]),
}

use Says::{Always, Message, Own, Stream};

pub struct Row {
    pub line: &'static str,
    pub says: Says,
}

const fn row(line: &'static str, says: Says) -> Row {
    Row { line, says }
}

const CHANGE: Says = Message("Change");

/// In an order in which each finds what it needs, and leaves the cluster as it was.
pub const ROWS: &[Row] = &[
    row("cluster init --name new --server EMPTY", Message("InitReply")),
    row("cluster status", Message("StatusReply")),
    row("cluster settings", Message("GetSettingsReply")),
    row("cluster settings --handovers 5", Message("UpdateSettingsReply")),
    row("cluster quorum", Message("QuorumReply")),
    row("cluster release-brake", CHANGE),
    row("cluster transfer-leader", Message("TransferLeaderReply")),
    row("cluster add-member brief --api 127.0.0.1:1 --peer 127.0.0.1:2", Always("Admission")),
    row("cluster remove-member brief", CHANGE),
    row("cluster add-member more --api EMPTY --peer ITS-PEER --enrol", Message("Member")),
    row("cluster remove-member more", CHANGE),
    row("cluster add-member other --api EMPTY --peer ITS-PEER --learner", Always("Admission")),
    row("member enrol PRINTED --server ITS-API", Message("EnrolReply")),
    row("cluster remove-member other", CHANGE),
    row("member rejoin --server DAMAGED", Message("RejoinReply")),
    row("node join far --identity NEW-FILE --role standby --label rack=a", Message("JoinReply")),
    row("node list", Message("ListNodesReply")),
    row("node show node-1", Message("GetNodeReply")),
    row("node set-role far active", CHANGE),
    row("node cordon far", CHANGE),
    row("node uncordon far", CHANGE),
    row("node remove far", CHANGE),
    row("template register t --path templates/t --kind application", CHANGE),
    row("template list", Message("ListTemplatesReply")),
    row("template remove t", CHANGE),
    row("template import i --from TREE --storage shared", Message("ImportTemplateReply")),
    row("template show i", Message("TemplateInventoryReply")),
    row("template verify i", Message("VerifyTemplateReply")),
    row("template sync i --storage shared --verify", Message("SyncTemplatesReply")),
    row("template remove i", CHANGE),
    row("template discard DIGEST-OF-NOTHING", Message("DiscardTemplateReply")),
    row("storage register s --directory /srv", CHANGE),
    row("storage show s", Message("GetStorageReply")),
    row("storage list", Message("ListStoragesReply")),
    row("storage remove s", CHANGE),
    row("storage add s --local STORAGE-OF-ITS-OWN", Message("Storage")),
    row("storage remove s", CHANGE),
    row(
        "container create c --template plain --storage shared --memory 1MiB --cpu 10m -- COMMAND",
        Message("CreateContainerReply"),
    ),
    row(
        "container run r --template plain --storage shared --memory 1MiB --cpu 10m --stop-grace 1s -- COMMAND",
        Message("Container"),
    ),
    row("container batch-create FILE-OF-ONE-SPEC", Message("BatchCreateContainersReply")),
    row("container list", Message("ListContainersReply")),
    row("container show r", Message("GetContainerReply")),
    row("container why r", Message("WhyReply")),
    row("container annotate r colour=blue", CHANGE),
    row("container batch-annotate FILE-OF-ONE-ANNOTATION", Message("BatchAnnotateContainersReply")),
    row("container set-on-quorum-loss c keep", CHANGE),
    row("container start c", CHANGE),
    row("container delete c --wait", CHANGE),
    row("container move r", Message("Container")),
    row("container restart r --wait", Message("Container")),
    row("container stop r --wait", Message("Container")),
    row("container delete r", CHANGE),
    row("node drain node-1", Message("Node")),
    row("node maintain node-1", CHANGE),
    row("node return node-1", CHANGE),
    row("node leave node-1 --wait", Message("Node")),
    row("node confirm-down DARK --reason seen --i-verified", CHANGE),
    row("events", Message("ListEventsReply")),
    row("events --follow --from LATELY", Stream("Event")),
    row("completion bash", Own(&["script", "shell"])),
    row("verbs", Own(&["methods", "verbs"])),
];
