//! The cluster itself: members, settings, quorum, the brake, and what a process is told to become.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cluster::apply::Done;
use cluster::{Generation, Member, MemberId, Membership, Names as _, Node, Profile, RequestId, State};
use proto::convert::request::{self, Mutation, add_member, said_as};
use proto::convert::view;
use proto::v1::cluster_service_server::ClusterService;
use proto::{Problem, v1};
use replica::{Change, ProposeError};
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use super::change;
use super::door::{Door, Failure, Identity, Manners, leader, sight};
use super::error::{self, status};
use super::nodes::{said_before, wrong_answer};
use crate::admission::Admission;
use crate::standing::{Order, Seated, Standing, Way};

/// Changes of membership wait for each other and for two heartbeats; so often it is tried again.
const RETRY: Duration = Duration::from_millis(150);

/// A voter that keeps a change from being made and is not heard for so long is not waited for.
const HOPE: Duration = Duration::from_secs(2);
/// Names in one line; more are counted.
const NAMED: usize = 8;

#[derive(Clone)]
pub struct ClusterDoor(pub Door);

macro_rules! path {
    ($method:literal) => {
        concat!("/quorate.v1.ClusterService/", $method)
    };
}

#[tonic::async_trait]
impl ClusterService for ClusterDoor {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        Ok(Response::new(shown(&self.0.standing())))
    }

    async fn get_settings(
        &self,
        call: Request<v1::GetSettingsRequest>,
    ) -> Result<Response<v1::GetSettingsReply>, Status> {
        self.0
            .look(
                call,
                path!("GetSettings"),
                |asked| asked.stale,
                |_, state, _| {
                    let settings = Some(view::settings(state.settings()));
                    Ok(v1::GetSettingsReply { settings, revision: state.revision().0 })
                },
            )
            .await
    }

    async fn update_settings(
        &self,
        call: Request<v1::UpdateSettingsRequest>,
    ) -> Result<Response<v1::UpdateSettingsReply>, Status> {
        let manners = Manners::of(call.metadata());
        let mut asked = call.into_inner();
        let identity = Identity::of(&mut asked, &self.0)?;
        let id = identity.id;
        let updated = self.0.led(manners, path!("UpdateSettings"), true, asked, move |seated, asked| async move {
            let applied = super::door::change(&seated.handle, id, asked).await?;
            let view = seated.handle.view();
            let paths = v1::UpdateSettingsRequest::path_of;
            applied.outcome.map_err(|refusal| error::refused(&refusal, paths, &view))?;
            let state = view.state.as_ref().ok_or(Failure::Moved)?;
            let settings = Some(view::settings(state.settings()));
            Ok(v1::UpdateSettingsReply { settings, revision: applied.revision.0 })
        });
        identity.said(updated.await)
    }

    async fn init(&self, call: Request<v1::InitRequest>) -> Result<Response<v1::InitReply>, Status> {
        let asked = call.into_inner();
        let profile = request::profile("lease_profile", asked.lease_profile).map_err(|error| status(error.into()))?;
        cluster_name(&asked.name).map_err(status)?;
        let (name, profile) = (asked.name, profile.unwrap_or(Profile::Default));
        self.0.order(|reply| Order::Init { name, profile, reply }).await.map(Response::new).map_err(status)
    }

    /// The entry in the directory is the wish; the leader's steward makes a learner and then a voter of it.
    async fn add_member(&self, call: Request<v1::AddMemberRequest>) -> Result<Response<v1::AddMemberReply>, Status> {
        let manners = Manners::of(call.metadata());
        let mut asked = call.into_inner();
        let identity = Identity::of(&mut asked, &self.0)?;
        let id = identity.id;
        let admitted = |seated: Arc<Seated>, asked| async move { admit(&seated, id, asked).await };
        identity.said(self.0.led(manners, path!("AddMember"), true, asked, admitted).await)
    }

    async fn enrol(&self, call: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolReply>, Status> {
        let admission =
            call.into_inner().admission.ok_or_else(|| status(Problem::invalid("admission", "is required")))?;
        let admission = Box::new(Admission::from_message(admission).map_err(status)?);
        let member = self.0.order(|reply| Order::Enrol { admission, reply }).await.map_err(status)?;
        Ok(Response::new(v1::EnrolReply { member: member.0 }))
    }

    /// Out of the configuration first, then out of the directory.
    async fn remove_member(&self, call: Request<v1::RemoveMemberRequest>) -> Result<Response<v1::Change>, Status> {
        let manners = Manners::of(call.metadata());
        let mut asked = call.into_inner();
        let identity = Identity::of(&mut asked, &self.0)?;
        let id = identity.id;
        let removed = move |seated: Arc<Seated>, asked: v1::RemoveMemberRequest| async move {
            let state = seated.handle.read().await?;
            let _leaving = match request::member(&state, "member", &asked.member) {
                Ok(member) => Some(take_out(&seated, &state, member, manners.deadline).await?),
                Err(_) => None,
            };
            let applied = super::door::change(&seated.handle, id, asked).await?;
            let paths = v1::RemoveMemberRequest::path_of;
            let refused = |refusal| error::refused(&refusal, paths, &seated.handle.view());
            let done = applied.outcome.map_err(refused)?;
            Ok(change(done, applied.revision))
        };
        identity.said(self.0.led(manners, path!("RemoveMember"), true, asked, removed).await)
    }

    async fn transfer_leader(
        &self,
        call: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderReply>, Status> {
        let manners = Manners::of(call.metadata());
        self.0
            .led(manners, path!("TransferLeader"), false, call.into_inner(), |seated, asked| async move {
                transfer(&seated, asked).await
            })
            .await
    }

    /// Asked of the leader, which alone has streams with everybody; without one this member says what it sees itself.
    async fn quorum(&self, call: Request<v1::QuorumRequest>) -> Result<Response<v1::QuorumReply>, Status> {
        let seated = self.0.seated().map_err(status)?;
        let view = seated.handle.view();
        let state = view.state.as_ref().ok_or_else(|| status(error::no_state()))?;
        if !view.leads && leader(&view).is_some() {
            let manners = Manners::of(call.metadata());
            let asked = call.into_inner();
            return self
                .0
                .led(manners, path!("Quorum"), true, asked, |seated, _| async move {
                    let view = seated.handle.view();
                    let state = view.state.as_ref().ok_or(Failure::Moved)?;
                    Ok(quorum(&seated, state))
                })
                .await;
        }
        Ok(Response::new(quorum(&seated, state)))
    }

    async fn release_brake(&self, call: Request<v1::ReleaseBrakeRequest>) -> Result<Response<v1::Change>, Status> {
        self.0.mutate(call, path!("ReleaseBrake"), change).await
    }

    async fn rejoin(&self, call: Request<v1::RejoinRequest>) -> Result<Response<v1::RejoinReply>, Status> {
        let via = call.into_inner().via;
        self.0.order(|reply| Order::Rejoin { via, reply }).await.map(Response::new).map_err(status)
    }
}

/// A name for people: no control characters, at most 63 bytes.
fn cluster_name(name: &str) -> Result<(), Problem> {
    match name {
        "" => Err(Problem::invalid("name", "is required")),
        name if name.len() > 63 => {
            Err(Problem::invalid("name", format!("has {} bytes; at most 63 are allowed", name.len())))
        }
        name if name.chars().any(char::is_control) => Err(Problem::invalid("name", "has control characters")),
        _ => Ok(()),
    }
}

fn shown(standing: &Standing) -> v1::StatusReply {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let bare = |standing: v1::MemberStanding| v1::StatusReply {
        standing: standing.into(),
        version: version.clone(),
        ..v1::StatusReply::default()
    };
    match standing {
        Standing::Empty => bare(v1::MemberStanding::Empty),
        Standing::Removed => bare(v1::MemberStanding::Removed),
        Standing::Quarantined(burnt) => v1::StatusReply {
            cluster_id: burnt.cluster.map_or_else(String::new, |cluster| cluster.to_string()),
            member: burnt.member.map_or(0, |member| member.0),
            trouble: format!("{}; {}", burnt.why, burnt.remedy),
            ..bare(v1::MemberStanding::Quarantined)
        },
        Standing::Member(seated) => v1::StatusReply { version: version.clone(), ..seated_shown(seated) },
    }
}

fn seated_shown(seated: &Seated) -> v1::StatusReply {
    let (view, status) = (seated.handle.view(), seated.handle.status());
    let standing = match view.leader {
        _ if view.leads => v1::MemberStanding::Leader,
        Some(leader) if leader != seated.handle.id => v1::MemberStanding::Follower,
        // Elected, and not yet settled: it decides nothing before it has applied an entry of its own term.
        Some(_) | None => v1::MemberStanding::Leaderless,
    };
    let mut reply = v1::StatusReply {
        cluster_id: seated.credentials.cluster.to_string(),
        cluster_name: seated.admission.cluster_name.clone(),
        generation: seated.credentials.generation.number,
        generation_id: drawn(seated.credentials.generation),
        member: seated.handle.id.0,
        standing: standing.into(),
        leader: view.leader.map_or(0, |leader| leader.0),
        term: status.term,
        committed_index: status.commit,
        feature_level: proto::FEATURE_LEVEL,
        ..v1::StatusReply::default()
    };
    let Some(state) = &view.state else { return reply };
    reply.feature_level = seated.handle.levels().common(state);
    let sight = sight(&seated.handle);
    let member = |member: &Arc<Member>| v1::Member {
        reachable: seated.handle.reaches(member.id),
        matched_index: status.matched.get(&member.id).copied().unwrap_or(0),
        ..view::member(state.membership(), member)
    };
    reply.revision = state.revision().0;
    // What is applied is committed; the status may be a moment older than the state.
    reply.committed_index = status.commit.max(reply.revision);
    reply.members = state.members().map(member).collect();
    reply.joint = state.membership().is_joint();
    reply.nodes = Some(view::node_counts(state, &sight));
    reply.containers = Some(view::container_counts(state, |node| sight(node).suspect));
    reply.brake = view::brake(state.brake());
    reply.alarms = alarms(state, &status);
    reply
}

/// Things a person must look at.
fn alarms(state: &State, status: &replica::Status) -> Vec<String> {
    let mut alarms = Vec::new();
    if let cluster::Brake::On { silent, of, .. } = state.brake() {
        alarms.push(format!(
            "the brake holds back time-based fencing: {silent} of {of} nodes fell silent together; look at the network, \
             then `quoratectl cluster release-brake`"
        ));
    }
    for (node, seen) in &status.nodes {
        if let (Some(why), Some(node)) = (&seen.held_back, state.node(*node)) {
            alarms.push(format!("{} is silent for {} and nothing is done about it: {why}", node.name, seen.silent_for));
        }
    }
    alarms.extend(waiting_for_you(state));
    let blocked = |container: &&Arc<cluster::Container>| {
        container.assignment().is_some_and(|held| matches!(held.order, cluster::Order::Blocked { .. }))
    };
    for container in state.handovers().filter(blocked).take(100) {
        alarms.push(format!("the handover of {} is stuck: its source does not stop it", container.spec.name));
    }
    alarms
}

/// Fencings that end only when somebody has looked.
fn waiting_for_you(state: &State) -> impl Iterator<Item = String> {
    let said =
        |node: &Node| Some(format!("the fencing of {} waits for you: {}", node.name, view::awaits_operator(node)?));
    state.fencing().filter_map(move |node| said(node))
}

async fn admit(seated: &Seated, id: RequestId, asked: v1::AddMemberRequest) -> Result<v1::AddMemberReply, Failure> {
    let (secret, learner) = (seated.secrets.for_request(id), asked.learner);
    let command = add_member(asked, secret.hash()).map_err(Problem::from)?;
    let applied = seated.handle.propose(Some(id), command).await?;
    let member = match applied.outcome {
        Ok(Done::Member(member)) => member,
        Ok(_) => return Err(wrong_answer()),
        Err(refusal) => return Err(Failure::Final(error::refused(&refusal, said_as, &seated.handle.view()))),
    };
    let view = seated.handle.view();
    let state = view.state.as_ref().ok_or(Failure::Moved)?;
    let known = state.member(member);
    let secret = match known {
        Some(known) if known.secret == secret.hash() => secret,
        known => return Err(said_before("member", known.map(|known| &known.name), "cluster remove-member", "add")),
    };
    let admission = v1::Admission {
        cluster_id: state.cluster().to_string(),
        generation: state.generation().number,
        generation_id: drawn(state.generation()),
        member: member.0,
        name: known.map_or_else(String::new, |known| known.name.to_string()),
        secret: secret.hex(),
        members: state.members().map(|member| view::member(state.membership(), member)).collect(),
        cluster_name: seated.admission.cluster_name.clone(),
        learner,
    };
    Ok(v1::AddMemberReply { admission: Some(admission), revision: applied.revision.0 })
}

/// Takes a member out of the configuration; what stands in the way for a moment is waited for. It is not taken in again
/// as long as the value is held.
async fn take_out(seated: &Seated, state: &State, member: MemberId, deadline: Instant) -> Result<Way, Failure> {
    let membership = state.membership();
    if *membership.voters == [member] {
        let problem = Problem::new(Code::FailedPrecondition, "last-voter", "the last voter cannot be removed");
        return Err(Failure::Final(problem.hint("add another member first")));
    }
    let leaving = seated.passing.leave(member);
    let hopeless = Instant::now() + HOPE;
    loop {
        // Asked for first: whoever is taken in no more is in the state that is read then, or not in the log at all.
        let is_coming = seated.passing.is_coming(member);
        let state = &seated.handle.read().await?;
        if !is_in(state.membership(), member) {
            if !is_coming {
                return Ok(leaving);
            }
            if Instant::now() + RETRY * 2 >= deadline {
                return Err(ProposeError::NotNow("it is being taken in; try again when that is done".to_owned()).into());
            }
            tokio::time::sleep(RETRY).await;
            continue;
        }
        if member == seated.handle.id {
            // A leader does not remove itself: another takes over, and this call follows it there.
            seated.handle.transfer_leader(None).await?;
            return Err(Failure::Moved);
        }
        match seated.handle.change_membership(Change::Remove(member)).await {
            Ok(()) => {}
            Err(ProposeError::NotNow(_)) if Instant::now() + RETRY * 2 < deadline => {
                let voters = state.membership().voters.iter().copied();
                let lost = voters.filter(|voter| *voter != member).find(|voter| !seated.handle.reaches(*voter));
                if let Some(lost) = lost.filter(|_| Instant::now() >= hopeless) {
                    return Err(Failure::Final(too_few_left(state, member, lost)));
                }
                tokio::time::sleep(RETRY).await;
            }
            Err(other) => return Err(other.into()),
        }
    }
}

/// Without `member` the loss of `lost`, which nobody hears, could cost the quorum; waiting for it has no end.
fn too_few_left(state: &State, member: MemberId, lost: MemberId) -> Problem {
    let (member, lost) = (state.member_name(member), state.member_name(lost));
    let text = format!("{lost} is not reachable: without {member} too, the quorum could be lost");
    Problem::new(Code::FailedPrecondition, "voter-unreachable", text)
        .hint(format!("bring {lost} back, or remove it first"))
}

fn is_in(membership: &Membership, member: MemberId) -> bool {
    membership.votes(member) || membership.learners.contains(&member) || membership.learners_next.contains(&member)
}

async fn transfer(seated: &Seated, asked: v1::TransferLeaderRequest) -> Result<v1::TransferLeaderReply, Failure> {
    let state = seated.handle.read().await?;
    let to = match asked.member.as_str() {
        "" => None,
        name => Some(request::member(&state, "member", name).map_err(Problem::from)?),
    };
    let (me, term) = (seated.handle.id, seated.handle.status().term);
    if to == Some(me) {
        return Ok(v1::TransferLeaderReply { leader: me.0, term });
    }
    seated.handle.transfer_leader(to).await?;
    // It stepped down, for whatever reason: who leads the next term is the answer.
    let mut statuses = seated.handle.statuses();
    let next = statuses.wait_for(|status| status.term > term && status.leader.is_some()).await;
    let (leader, term) = next.map(|status| (status.leader, status.term)).map_err(|_| Failure::Unknown)?;
    took_over(&state, me, to, leader.ok_or(Failure::Unknown)?, term).map_err(Failure::Final)
}

/// What to say when `leader` leads `term` after `me` was to hand over to `to`, or to anybody else.
fn took_over(
    state: &State,
    me: MemberId,
    to: Option<MemberId>,
    leader: MemberId,
    term: u64,
) -> Result<v1::TransferLeaderReply, Problem> {
    if to.map_or(leader != me, |to| leader == to) {
        return Ok(v1::TransferLeaderReply { leader: leader.0, term });
    }
    let wanted = to.map_or("another member".to_owned(), |to| state.member_name(to));
    let text = format!("{} leads, in term {term}: it was elected before {wanted} took over", state.member_name(leader));
    Err(Problem::new(Code::FailedPrecondition, "another-leads", text).hint("ask again; nothing else was changed"))
}

fn quorum(seated: &Seated, state: &State) -> v1::QuorumReply {
    let membership = state.membership();
    let up: BTreeSet<MemberId> = membership.all_voters().into_iter().filter(|id| seated.handle.reaches(*id)).collect();
    let needed = membership.voters.len() / 2 + 1;
    let holds_without = |gone: MemberId| membership.majority(|id| id != gone && up.contains(&id));
    let loss = |member: &Arc<Member>| {
        let survived =
            !membership.votes(member.id) && membership.majority(|id| up.contains(&id)) || holds_without(member.id);
        let text = match (membership.votes(member.id), up.contains(&member.id), survived) {
            (false, _, _) => format!("{} does not vote: its loss changes nothing", member.name),
            (true, false, true) => format!("{} is lost already, and the cluster decides without it", member.name),
            (true, false, false) => format!("{} is lost, and without it there is no majority", member.name),
            (true, true, true) => format!("without {} the others still decide", member.name),
            (true, true, false) => format!("without {} nothing is decided until it returns", member.name),
        };
        v1::MemberLoss { member: member.id.0, name: member.name.to_string(), survived, text }
    };
    let survives = (0..up.len()).rev().find(|lost| worst_case(membership, &up, *lost));
    v1::QuorumReply {
        needed: small(needed),
        voters: small(membership.voters.len()),
        reachable: small(up.len()),
        survives: small(survives.unwrap_or(0)),
        losses: state.members().map(loss).collect(),
        advice: advice(state, &up),
    }
}

/// Whether any `lost` of those that are up may go without the loss of a majority, in every voting set.
fn worst_case(membership: &Membership, up: &BTreeSet<MemberId>, lost: usize) -> bool {
    let holds = |voters: &[MemberId]| {
        let there = voters.iter().filter(|id| up.contains(id)).count();
        there.saturating_sub(lost) > voters.len() / 2
    };
    holds(&membership.voters) && (membership.outgoing.is_empty() || holds(&membership.outgoing))
}

fn advice(state: &State, up: &BTreeSet<MemberId>) -> Vec<String> {
    let membership = state.membership();
    let mut advice = Vec::new();
    let name = |id: &MemberId| state.member(*id).map_or_else(|| id.to_string(), |member| member.name.to_string());
    match membership.voters.len() {
        1 => advice.push("one voter survives no loss: add two members".to_owned()),
        2 => advice.push("two voters survive no loss: add a third member, a witness is enough".to_owned()),
        voters if voters % 2 == 0 => {
            advice.push(format!("{voters} voters survive no more losses than {}: add or remove one", voters - 1));
        }
        _ => {}
    }
    for id in membership.all_voters().iter().filter(|id| !up.contains(id)) {
        advice.push(format!("{} is not reachable: bring it back or remove it", name(id)));
    }
    advice.extend(waiting_for_you(state));
    let weak: Vec<&Arc<Node>> =
        state.nodes().filter(|node| node.up().is_some() && !node.class().lease_proves_end()).collect();
    if let Some(first) = weak.first() {
        let names: Vec<&str> = weak.iter().take(NAMED).map(|node| node.name.as_str()).collect();
        let more = if weak.len() > NAMED { format!(" and {} more", weak.len() - NAMED) } else { String::new() };
        let why = first.facts.as_ref().map_or("", |facts| &facts.class_reason);
        advice.push(format!(
            "if one of {}{more} is lost you will have to confirm it: class {} ({why})",
            names.join(", "),
            first.class(),
        ));
    }
    for id in membership.learners.iter() {
        advice.push(format!("{} follows the log and does not vote yet", name(id)));
    }
    advice
}

fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The id of a generation for people, empty where none was drawn.
pub fn drawn(generation: Generation) -> String {
    if generation.id == 0 { String::new() } else { format!("{:032x}", generation.id) }
}

#[cfg(test)]
mod tests {
    use cluster::{Bootstrap, ClusterId, Settings};

    use super::*;

    fn ids(ids: &[u64]) -> Arc<[MemberId]> {
        ids.iter().copied().map(MemberId).collect()
    }

    #[test]
    fn the_worst_case_counts_both_sets() {
        let three = Membership { voters: ids(&[1, 2, 3]), ..Membership::default() };
        let up: BTreeSet<MemberId> = [1, 2, 3].map(MemberId).into();
        assert!(worst_case(&three, &up, 1));
        assert!(!worst_case(&three, &up, 2));
        let joint = Membership { outgoing: ids(&[3]), ..three };
        assert!(!worst_case(&joint, &up, 1));
    }

    #[test]
    fn leadership_that_went_elsewhere_is_no_success() {
        let state =
            State::bootstrap(Bootstrap { cluster: ClusterId(1), settings: Settings::default(), members: Vec::new() });
        let (me, asked, third) = (MemberId(1), MemberId(2), MemberId(3));
        let said = |to, leader| took_over(&state, me, to, leader, 7).map(|reply| (reply.leader, reply.term));
        assert_eq!(said(Some(asked), asked), Ok((2, 7)));
        assert_eq!(said(None, third), Ok((3, 7)));
        for (to, leader) in [(Some(asked), third), (Some(asked), me), (None, me)] {
            let problem = said(to, leader).expect_err("not what was asked for");
            assert_eq!((problem.code, &*problem.reason), (Code::FailedPrecondition, "another-leads"));
            assert!(problem.message.starts_with(&format!("@{leader} leads")), "who leads: {}", problem.message);
        }
    }

    #[test]
    fn cluster_names_are_for_people_and_for_one_line() {
        assert!(cluster_name("Zürich 1").is_ok());
        for bad in ["", "a\nb", &"x".repeat(64)] {
            assert_eq!(cluster_name(bad).map_err(|problem| problem.field), Err(Some("name".into())), "{bad:?}");
        }
    }
}
