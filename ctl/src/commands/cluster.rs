//! The cluster itself: its members, its settings, what loss it would survive.

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use proto::v1;

use crate::args::{self, Profile, Switch};
use crate::client::Client;
use crate::output::{Format, emit, facts, json, table, time, word};
use crate::session::{Awaited, Look, PATIENCE, Session};

#[derive(Subcommand)]
pub enum Cluster {
    /// Makes a cluster of the one, empty member that is asked (--server)
    Init {
        /// Name of the cluster, for people
        #[arg(long, default_value = "quorate")]
        name: String,
        #[arg(long, value_enum, default_value_t)]
        profile: Profile,
    },
    /// How the member that answers sees the cluster; also without a majority
    Status,
    /// Shows the settings, or changes those that are given
    Settings(Settings),
    /// Admits a further member
    #[command(
        after_help = "Without --enrol the admission is printed as JSON, whatever -o says; it holds a secret. Keep it from other eyes and hand \
                            it to the new member with `quoratectl --server HOST:PORT member enrol FILE`."
    )]
    AddMember {
        name: String,
        /// Where its public API is reached
        #[arg(long, value_name = "HOST:PORT", value_parser = args::address)]
        api: String,
        /// Where members and agents reach it
        #[arg(long, value_name = "HOST:PORT", value_parser = args::address)]
        peer: String,
        /// Stay a learner: follow the log, never vote
        #[arg(long)]
        learner: bool,
        /// Hand the admission to the new member, which runs and is empty, and wait until it takes part
        #[arg(long)]
        enrol: bool,
    },
    /// Takes a member out; its id is never used again
    RemoveMember {
        /// Name, or id with @
        member: String,
    },
    /// Moves leadership
    TransferLeader {
        /// Name, or id with @ [default: the member that is best caught up]
        #[arg(default_value = "", hide_default_value = true)]
        member: String,
    },
    /// What loss of members would be survived, and what is wrong with the present set
    Quorum,
    /// Lets time-based fencing go on after the brake has stopped it because many nodes fell silent at once
    ReleaseBrake,
}

#[derive(Args)]
pub struct Settings {
    /// Show what the member that answers has applied, without asking the majority
    #[arg(long, conflicts_with_all = ["profile", "brake", "brake_nodes_min", "brake_percent", "brake_quiet", "brake_longest",
        "boot_grace", "handover_budget", "handovers_per_node", "handovers", "rejoin_cordoned"])]
    stale: bool,
    /// How soon the loss of a node is acted upon; nodes take it over one by one
    #[arg(long, value_enum)]
    profile: Option<Profile>,
    /// Whether the brake trips at all
    #[arg(long, value_enum)]
    brake: Option<Switch>,
    /// The brake trips at the larger of so many silent nodes …
    #[arg(long, value_name = "NODES")]
    brake_nodes_min: Option<u32>,
    /// … and so many percent of the nodes
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=100))]
    brake_percent: Option<u32>,
    /// The brake lets go so long after the last newly silent node …
    #[arg(long, value_name = "TIME", value_parser = args::millis)]
    brake_quiet: Option<u64>,
    /// … and at the latest so long after it tripped
    #[arg(long, value_name = "TIME", value_parser = args::millis)]
    brake_longest: Option<u64>,
    /// After a start of the whole cluster nobody is fenced on time for so long
    #[arg(long, value_name = "TIME", value_parser = args::millis)]
    boot_grace: Option<u64>,
    /// How long a handover may take on top of the stop grace until its source counts as stuck
    #[arg(long, value_name = "TIME", value_parser = args::millis)]
    handover_budget: Option<u64>,
    /// Handovers under way at once from one node
    #[arg(long, value_name = "COUNT")]
    handovers_per_node: Option<u32>,
    /// Handovers under way at once in the whole cluster
    #[arg(long, value_name = "COUNT")]
    handovers: Option<u32>,
    /// Cordon a fenced node that returns, until an operator uncordons it
    #[arg(long, value_enum)]
    rejoin_cordoned: Option<Switch>,
}

pub async fn run(session: &Session, verb: Cluster) -> Result<()> {
    match verb {
        Cluster::Init { name, profile } => init(session, name, profile).await,
        Cluster::Status => {
            let reply = session.client.ask(v1::StatusRequest {}).await.context("ask for the status")?;
            session.print("StatusReply", &reply, || status(&reply));
            Ok(())
        }
        Cluster::Settings(wanted) => settings(session, wanted).await,
        Cluster::AddMember { name, api, peer, learner, enrol } => {
            let address = v1::MemberAddress { api, peer };
            add_member(session, &name, address, learner, enrol).await
        }
        Cluster::RemoveMember { member } => {
            let request = v1::RemoveMemberRequest { request_id: String::new(), member: member.clone() };
            session.change(request, &format!("remove member {member}"), &format!("member {member} is removed")).await
        }
        Cluster::TransferLeader { member } => {
            let request = v1::TransferLeaderRequest { request_id: String::new(), member };
            let reply = session.client.ask(request).await.context("transfer leadership")?;
            // What was asked for is done; without its name the leader is called by its id.
            let known = session.client.ask(v1::StatusRequest {}).await.unwrap_or_default();
            let name = known.members.iter().find(|member| member.id == reply.leader).map(|member| &*member.name);
            let leader =
                name.map_or_else(|| format!("m{}", reply.leader), |name| format!("{name} (m{})", reply.leader));
            session.print("TransferLeaderReply", &reply, || format!("{leader} leads, in term {}", reply.term));
            Ok(())
        }
        Cluster::Quorum => {
            let reply = session.client.ask(v1::QuorumRequest {}).await.context("ask for the quorum")?;
            session.print("QuorumReply", &reply, || quorum(&reply));
            Ok(())
        }
        Cluster::ReleaseBrake => {
            let request = v1::ReleaseBrakeRequest { request_id: String::new() };
            session.change(request, "release the brake", "the brake is released").await
        }
    }
}

async fn init(session: &Session, name: String, profile: Profile) -> Result<()> {
    session.ensure_sole("the first member")?;
    let lease_profile = profile.message() as i32;
    let request = v1::InitRequest { request_id: String::new(), name: name.clone(), lease_profile };
    let reply = session.client.ask(request).await.context("make a cluster")?;
    session.print("InitReply", &reply, || {
        format!(
            "cluster {name} ({}) has its first member m{}\nnext: `quoratectl cluster add-member … --enrol` twice, so that the \
             loss of a member is survived",
            reply.cluster_id, reply.member
        )
    });
    Ok(())
}

async fn add_member(
    session: &Session,
    name: &str,
    address: v1::MemberAddress,
    learner: bool,
    enrol: bool,
) -> Result<()> {
    let api = address.api.clone();
    let request =
        v1::AddMemberRequest { request_id: String::new(), name: name.to_owned(), address: Some(address), learner };
    let reply = session.client.ask(request).await.with_context(|| format!("admit member {name}"))?;
    let admission = reply.admission.unwrap_or_default();
    if !enrol {
        // Always JSON, which is YAML too: the secret is said once, and `member enrol` must be able to read it.
        emit(&Format::Json.of(&json("Admission", &admission)));
        return Ok(());
    }
    let id = admission.member;
    let newcomer = session.only(&api);
    let request = v1::EnrolRequest { request_id: newcomer.request_id(), admission: Some(admission) };
    newcomer.ask(request).await.with_context(|| {
        format!("enrol {name} at {api} (it is admitted as m{id}; `cluster remove-member @m{id}` takes that back)")
    })?;
    let joining = Joining { name, id, learner, admitted: reply.revision };
    let member = joining.wait(session, &newcomer).await?;
    session.print("Member", &member, || format!("{name} is member m{id} and {}", joining.goal()));
    Ok(())
}

/// A member that was let in and does not take part yet.
pub struct Joining<'n> {
    pub name: &'n str,
    pub id: u64,
    pub learner: bool,
    /// The revision at which it was let in.
    pub admitted: u64,
}

impl Joining<'_> {
    /// What it does once it takes part.
    pub fn goal(&self) -> &'static str {
        if self.learner { "follows the log" } else { "votes" }
    }

    /// Waits until it takes part, as it says itself; gives it as it then is. `itself`: a client of that member alone.
    pub async fn wait(&self, session: &Session, itself: &Client) -> Result<v1::Member> {
        let awaited = Awaited {
            what: format!("waiting until {} {}", self.name, self.goal()),
            next: "`quoratectl cluster status` shows how far it is; its own log says what keeps it".to_owned(),
            patience: PATIENCE,
            from: self.admitted,
            about: v1::EventFilter::default(),
        };
        let asked = || itself.ask(v1::StatusRequest {});
        session.until(awaited, async || Ok(self.progress(&asked().await?))).await
    }

    /// `status`: what the newcomer itself says.
    fn progress(&self, status: &v1::StatusReply) -> Look<v1::Member> {
        let not_yet = |is: &str| Look::NotYet(is.to_owned());
        if !status.trouble.is_empty() {
            return Look::NotYet(status.trouble.clone());
        }
        let Some(member) = status.members.iter().find(|member| member.id == self.id) else {
            return not_yet("it has not received the state of the cluster");
        };
        if status.leader == 0 {
            return not_yet("it knows no leader");
        }
        let has_it_all = status.revision >= self.admitted;
        if has_it_all && (self.learner || member.role() == v1::MemberRole::Voter && !status.joint) {
            return Look::Reached(member.clone());
        }
        if !has_it_all {
            return Look::NotYet(format!("it has revision {} of {}", status.revision, self.admitted));
        }
        not_yet(if status.joint { "the set of voters is being changed" } else { "it has the state and does not vote" })
    }
}

async fn settings(session: &Session, wanted: Settings) -> Result<()> {
    let request = v1::GetSettingsRequest { stale: wanted.stale };
    let now = session.client.ask(request).await.context("ask for the settings")?;
    let Some(request) = wanted.request(now.settings.as_ref().and_then(|it| it.brake)) else {
        session.print("GetSettingsReply", &now, || shown_settings(&now.settings.clone().unwrap_or_default()));
        return Ok(());
    };
    let reply = session.client.ask(request).await.context("change the settings")?;
    session.print("UpdateSettingsReply", &reply, || shown_settings(&reply.settings.clone().unwrap_or_default()));
    Ok(())
}

impl Settings {
    /// The change that is wanted, `None` if none is. `brake`: as it is now, for it is replaced as a whole.
    fn request(&self, brake: Option<v1::BrakeSettings>) -> Option<v1::UpdateSettingsRequest> {
        let before = brake.unwrap_or_default();
        let brake = v1::BrakeSettings {
            enabled: self.brake.map_or(before.enabled, |it| it == Switch::On),
            nodes_min: self.brake_nodes_min.unwrap_or(before.nodes_min),
            percent: self.brake_percent.unwrap_or(before.percent),
            quiet_ms: self.brake_quiet.unwrap_or(before.quiet_ms),
            longest_ms: self.brake_longest.unwrap_or(before.longest_ms),
        };
        let brake_is_given = self.brake.is_some()
            || self.brake_nodes_min.is_some()
            || self.brake_percent.is_some()
            || self.brake_quiet.is_some()
            || self.brake_longest.is_some();
        let request = v1::UpdateSettingsRequest {
            request_id: String::new(),
            lease_profile: self.profile.map(|it| it.message() as i32),
            brake: brake_is_given.then_some(brake),
            boot_grace_ms: self.boot_grace,
            handover_budget_ms: self.handover_budget,
            handovers_per_node: self.handovers_per_node,
            handovers: self.handovers,
            rejoin_cordoned: self.rejoin_cordoned.map(|it| it == Switch::On),
        };
        (request != v1::UpdateSettingsRequest::default()).then_some(request)
    }
}

fn shown_settings(settings: &v1::Settings) -> String {
    let profile = match settings.lease_profile() {
        v1::LeaseProfile::Unspecified => "none of the named ones".to_owned(),
        named => word(named.as_str_name(), "LEASE_PROFILE_"),
    };
    let terms = |terms: &v1::LeaseTerms| {
        format!(
            "lease {}, heartbeat {}, kill {}, margin {}, drift {} ppm; nothing runs {} after the last acknowledgement",
            time(terms.lease_ms),
            time(terms.heartbeat_ms),
            time(terms.kill_ms),
            time(terms.margin_ms),
            terms.drift_ppm,
            time(terms.wait_ms)
        )
    };
    let fading: Vec<String> = settings.lease_terms_fading.iter().map(terms).collect();
    let brake = settings.brake.unwrap_or_default();
    let brake = match brake.enabled {
        true => format!(
            "trips at the larger of {} nodes and {} % of them; lets go after {} of quiet, at the latest after {}",
            brake.nodes_min,
            brake.percent,
            time(brake.quiet_ms),
            time(brake.longest_ms)
        ),
        false => "off".to_owned(),
    };
    facts(&[
        ("lease profile", profile),
        ("lease terms", settings.lease_terms.as_ref().map(terms).unwrap_or_default()),
        ("older terms still in use", fading.join("\n")),
        ("brake", brake),
        ("boot grace", time(settings.boot_grace_ms)),
        ("handover budget", time(settings.handover_budget_ms)),
        ("handovers at once", format!("{}, {} from one node", settings.handovers, settings.handovers_per_node)),
        ("a fenced node that returns", if settings.rejoin_cordoned { "is cordoned" } else { "takes work" }.to_owned()),
    ])
}

fn status(status: &v1::StatusReply) -> String {
    let name = |id: u64| match status.members.iter().find(|member| member.id == id) {
        Some(member) => format!("{} (m{id})", member.name),
        None if id == 0 => "none".to_owned(),
        None => format!("m{id}"),
    };
    use v1::MemberStanding::{Empty, Quarantined, Removed, Unspecified};
    let cluster = match status.standing() {
        Removed => "none any more: this member was removed; it is of use again with a new data folder",
        Quarantined => {
            "this member lost data and takes no part; `quoratectl member rejoin` brings it back under a new id"
        }
        Empty | Unspecified => {
            "none yet: `quoratectl cluster init` makes one of this member, `cluster add-member` takes it into one"
        }
        _ => {
            let drawn = if status.generation_id.is_empty() { "" } else { "-" };
            let generation = format!("{}{drawn}{}", status.generation, status.generation_id);
            &format!("{} ({}), generation {generation}", status.cluster_name, status.cluster_id)
        }
    };
    let answered = match status.member {
        0 => format!("a member that is {standing}", standing = standing(status)),
        id => format!("{}, {}", name(id), standing(status)),
    };
    let nodes = status.nodes.unwrap_or_default();
    let containers = status.containers.unwrap_or_default();
    let brake = status.brake.map(|brake| {
        format!(
            "holds back fencing since revision {}: {} of {} nodes fell silent together; `quoratectl cluster release-brake` \
             lets it go on",
            brake.since_revision, brake.silent, brake.of
        )
    });
    let takes_part = !matches!(status.standing(), Removed | Quarantined | Empty | Unspecified);
    let counted = |text: String| if takes_part { text } else { String::new() };
    let mut text = facts(&[
        ("cluster", cluster.to_owned()),
        ("answered by", format!("{answered}, version {}", status.version)),
        ("trouble", status.trouble.clone()),
        ("leader", counted(format!("{}, term {}", name(status.leader), status.term))),
        ("revision", counted(format!("{} of {} committed", status.revision, status.committed_index))),
        ("feature level", counted(status.feature_level.to_string())),
        (
            "nodes",
            counted(counts(&[
                (nodes.up, "up"),
                (nodes.suspect, "suspect"),
                (nodes.fencing, "being fenced"),
                (nodes.fenced, "fenced"),
                (nodes.joined, "never seen"),
            ])),
        ),
        (
            "containers",
            counted(counts(&[
                (containers.wanted, "wanted"),
                (containers.running, "running"),
                (containers.starting, "starting"),
                (containers.unplaced, "without a place"),
                (containers.stopped, "stopped"),
                (containers.failed, "failed"),
            ])),
        ),
        ("brake", brake.unwrap_or_default()),
        ("alarms", status.alarms.join("\n")),
    ]);
    if !status.members.is_empty() {
        let set = if status.joint { "\nmembers (the set is being changed)\n" } else { "\n" };
        text.push_str(set);
        text.push_str(&members(status));
    }
    text
}

fn standing(status: &v1::StatusReply) -> String {
    word(status.standing().as_str_name(), "MEMBER_STANDING_")
}

fn counts(counts: &[(u32, &str)]) -> String {
    let said: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if said.is_empty() { "none".to_owned() } else { said.join(", ") }
}

fn members(status: &v1::StatusReply) -> String {
    let rows = status.members.iter().map(|member| {
        let address = member.address.clone().unwrap_or_default();
        let role = match member.role() {
            v1::MemberRole::Unspecified => "admitted".to_owned(),
            role => word(role.as_str_name(), "MEMBER_ROLE_"),
        };
        vec![
            member.name.clone(),
            format!("m{}", member.id),
            if member.id == status.leader { format!("{role}, leads") } else { role },
            if member.reachable { "heard" } else { "silent" }.to_owned(),
            if member.matched_index == 0 { "-".to_owned() } else { member.matched_index.to_string() },
            address.api,
            address.peer,
        ]
    });
    table(&["member", "id", "role", "reachable", "holds up to", "api", "peer"], rows)
}

fn quorum(quorum: &v1::QuorumReply) -> String {
    let mut text = format!(
        "{} of {} voters are reachable, {} are needed: {}\n",
        quorum.reachable,
        quorum.voters,
        quorum.needed,
        match quorum.survives {
            0 if quorum.reachable < quorum.needed => "nothing can be decided".to_owned(),
            0 => "no further loss is survived".to_owned(),
            1 => "the loss of one more is survived".to_owned(),
            more => format!("the loss of {more} more is survived"),
        }
    );
    if !quorum.losses.is_empty() {
        let rows = quorum.losses.iter().map(|loss| {
            let survived = if loss.survived { "yes" } else { "NO" }.to_owned();
            vec![loss.name.clone(), format!("m{}", loss.member), survived, loss.text.clone()]
        });
        text.push('\n');
        text.push_str(&table(&["member", "id", "loss survived", "what it means"], rows));
        text.push('\n');
    }
    for advice in &quorum.advice {
        text.push_str(&format!("\nadvice: {advice}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, role: v1::MemberRole) -> v1::Member {
        let address = Some(v1::MemberAddress { api: format!("h{id}:7440"), peer: format!("h{id}:7441") });
        v1::Member {
            id,
            name: format!("member-{id}"),
            address,
            role: role as i32,
            reachable: id != 3,
            matched_index: 9,
        }
    }

    fn three() -> v1::StatusReply {
        v1::StatusReply {
            cluster_id: "00ff".into(),
            cluster_name: "demo".into(),
            generation: 1,
            member: 1,
            standing: v1::MemberStanding::Follower as i32,
            leader: 2,
            term: 5,
            revision: 8,
            committed_index: 9,
            members: [1, 2, 3].map(|id| member(id, v1::MemberRole::Voter)).into(),
            nodes: Some(v1::NodeCounts { up: 2, ..v1::NodeCounts::default() }),
            containers: Some(v1::ContainerCounts { wanted: 6, running: 6, ..v1::ContainerCounts::default() }),
            version: "0.1.0".into(),
            feature_level: 1,
            ..v1::StatusReply::default()
        }
    }

    #[test]
    fn the_status_is_read_at_a_glance() {
        let shown = status(&three());
        let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "cluster        demo (00ff), generation 1",
                "answered by    member-1 (m1), follower, version 0.1.0",
                "leader         member-2 (m2), term 5",
                "revision       8 of 9 committed",
                "feature level  1",
                "nodes          2 up",
                "containers     6 wanted, 6 running",
                "",
                "MEMBER    ID  ROLE          REACHABLE  HOLDS UP TO  API      PEER",
                "member-1  m1  voter         heard      9            h1:7440  h1:7441",
                "member-2  m2  voter, leads  heard      9            h2:7440  h2:7441",
                "member-3  m3  voter         silent     9            h3:7440  h3:7441",
            ]
        );
        let empty = v1::StatusReply { standing: v1::MemberStanding::Empty as i32, ..v1::StatusReply::default() };
        assert!(status(&empty).contains("cluster init") && !status(&empty).contains("leader"));
    }

    #[test]
    fn a_new_member_counts_when_it_votes_and_the_set_has_settled() {
        let joining = |id, learner| Joining { name: "m", id, learner, admitted: 5 };
        let mut status = three();
        status.members.push(member(4, v1::MemberRole::Learner));
        assert!(matches!(joining(4, false).progress(&status), Look::NotYet(is) if is.contains("does not vote")));
        assert!(matches!(joining(4, true).progress(&status), Look::Reached(_)));
        let behind = v1::StatusReply { revision: 3, ..status.clone() };
        assert!(matches!(joining(4, true).progress(&behind), Look::NotYet(is) if is == "it has revision 3 of 5"));
        status.members[3].role = v1::MemberRole::Voter as i32;
        status.joint = true;
        assert!(matches!(joining(4, false).progress(&status), Look::NotYet(_)));
        status.joint = false;
        assert!(matches!(joining(4, false).progress(&status), Look::Reached(it) if it.id == 4));
        assert!(matches!(joining(7, false).progress(&status), Look::NotYet(_)));
        let leaderless = v1::StatusReply { leader: 0, ..status };
        assert!(matches!(joining(4, false).progress(&leaderless), Look::NotYet(_)));
    }

    #[test]
    fn settings_that_are_not_given_stay() {
        let none = Settings {
            stale: false,
            profile: None,
            brake: None,
            brake_nodes_min: None,
            brake_percent: None,
            brake_quiet: None,
            brake_longest: None,
            boot_grace: None,
            handover_budget: None,
            handovers_per_node: None,
            handovers: None,
            rejoin_cordoned: None,
        };
        let brake = v1::BrakeSettings { enabled: true, nodes_min: 3, percent: 30, quiet_ms: 7, longest_ms: 9 };
        assert_eq!(none.request(Some(brake)), None);
        let request = Settings { brake_percent: Some(50), ..none }.request(Some(brake)).expect("a change");
        assert_eq!(request.brake, Some(v1::BrakeSettings { percent: 50, ..brake }));
        assert_eq!((request.lease_profile, request.handovers), (None, None));
    }

    #[test]
    fn the_quorum_says_what_may_be_lost() {
        let loss = v1::MemberLoss { member: 1, name: "member-1".into(), survived: false, text: "no majority".into() };
        let reply =
            v1::QuorumReply { needed: 2, voters: 2, reachable: 2, survives: 0, losses: vec![loss], advice: vec![] };
        let text = quorum(&reply);
        assert!(text.starts_with("2 of 2 voters are reachable, 2 are needed: no further loss is survived"), "{text}");
        assert!(text.contains("NO"), "{text}");
    }
}
