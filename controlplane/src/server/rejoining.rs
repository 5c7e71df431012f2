//! How a member that lost data comes back: the healthy ones burn its id and give it a new one, the damaged store is put
//! aside, and a newcomer starts. In: what it still knows of itself, or an address somebody gives. Out: new papers first.

use std::sync::Arc;
use std::time::Duration;

use cluster::MemberId;
use proto::v1::cluster_service_client::ClusterServiceClient;
use proto::{Problem, v1};
use tonic::Code;
use tonic::transport::Endpoint;
use tracing::info;
use uuid::Uuid;

use super::{Server, ServerError, blocking, broken};
use crate::admission::{Admission, AdmissionError};
use crate::clock;
use crate::runtime::chain;
use crate::standing::Burnt;

/// A healthy member answers within this when a damaged one wants to come back.
const REJOIN: Duration = Duration::from_secs(20);

impl Server {
    /// The healthy members burn the old id and give a new one; the damaged store is put aside, and a newcomer starts.
    pub(super) async fn rejoin(&mut self, burnt: &Burnt, via: &str) -> Result<v1::RejoinReply, Problem> {
        let before = match Admission::read(&self.config.data_dir) {
            // As good as gone: what it says cannot be believed.
            Err(AdmissionError::Unreadable { .. }) => None,
            read => read.map_err(|error| broken(&error.into()))?,
        };
        let known = before.as_ref().map(|papers| (papers.name.to_string(), papers.learner));
        let seeds = before.iter().flat_map(|admission| &admission.seeds);
        let others = seeds.filter(|seed| Some(MemberId(seed.member)) != burnt.member).map(|seed| seed.api.clone());
        let doors: Vec<String> = if via.is_empty() { others.collect() } else { vec![via.to_owned()] };
        if doors.is_empty() {
            return Err(Problem::invalid("via", "is needed: this member remembers no other")
                .hint("give the address of a healthy member"));
        }
        let address = v1::MemberAddress { api: self.advertised_api(), peer: self.advertised_peer() };
        let mut last = None;
        for door in doors {
            match readmit(&door, known.clone(), burnt.member, &address).await {
                Ok((message, revision)) => {
                    let admission = Admission::from_message(message)?;
                    if burnt.cluster.is_some_and(|cluster| cluster != admission.cluster) {
                        return Err(Problem::invalid("via", format!("{door} belongs to another cluster")));
                    }
                    let (member, learner) = (admission.member.0, admission.learner);
                    // The new papers first: an empty folder with the old ones would be a start under the burnt id.
                    let (folder, data, papers) =
                        (Arc::clone(&self.folder), self.config.data_dir.clone(), admission.clone());
                    let retired = blocking(move || {
                        papers.write(&data)?;
                        Ok::<_, ServerError>(folder.retire()?)
                    });
                    let retired = retired.await.map_err(|error| broken(&error))?;
                    info!(retired = %retired.display(), member, "the damaged store is put aside");
                    // The id is new, and so is the moment from which this member can have promised anything.
                    self.started = clock::lease_clock();
                    self.join(admission).await.map_err(|error| broken(&error))?;
                    let old_member = burnt.member.map_or(0, |member| member.0);
                    return Ok(v1::RejoinReply { old_member, member, learner, revision });
                }
                Err(problem) => last = Some(problem),
            }
        }
        Err(last.unwrap_or_else(|| Problem::invalid("via", "names nobody")))
    }
}

/// Asks a healthy member to burn what had the name of this one and to admit it anew; gives the revision of that too.
/// `known` is its name and whether it only learns; where that is lost, the others say what they call the `burnt` id: a
/// name guessed wrong would be another member's.
async fn readmit(
    door: &str,
    known: Option<(String, bool)>,
    burnt: Option<MemberId>,
    address: &v1::MemberAddress,
) -> Result<(v1::Admission, u64), Problem> {
    let unreachable = |error: tonic::transport::Error| {
        Problem::new(Code::Unavailable, "unreachable", format!("cannot reach {door}: {}", chain(&error)))
    };
    let endpoint = Endpoint::from_shared(format!("http://{door}")).map_err(unreachable)?;
    let channel =
        endpoint.connect_timeout(Duration::from_secs(2)).timeout(REJOIN).connect().await.map_err(unreachable)?;
    let mut members = ClusterServiceClient::new(channel);
    let (name, learner) = match known {
        Some(known) => known,
        None => who_was(&mut members, burnt).await?,
    };
    let removal = v1::RemoveMemberRequest { request_id: fresh_request(), member: name.clone() };
    if let Err(refusal) = members.remove_member(removal).await
        && refusal.code() != Code::NotFound
    {
        return Err(Problem::from(&refusal));
    }
    let admission = v1::AddMemberRequest { request_id: fresh_request(), name, address: Some(address.clone()), learner };
    let reply = members.add_member(admission).await.map_err(|refusal| Problem::from(&refusal))?.into_inner();
    let none = || Problem::new(Code::Internal, "internal", "the answer holds no admission");
    Ok((reply.admission.ok_or_else(none)?, reply.revision))
}

/// Name of the member with the id `burnt`, and whether it only learns.
async fn who_was(
    members: &mut ClusterServiceClient<tonic::transport::Channel>,
    burnt: Option<MemberId>,
) -> Result<(String, bool), Problem> {
    let status = members.status(v1::StatusRequest {}).await.map_err(|refusal| Problem::from(&refusal))?.into_inner();
    let was = status.members.into_iter().find(|member| Some(MemberId(member.id)) == burnt);
    was.map(|member| (member.name.clone(), member.role() == v1::MemberRole::Learner)).ok_or_else(|| {
        let text = "nobody knows which member this was: its papers are gone, and the others do not know its id";
        Problem::new(Code::FailedPrecondition, "unknown-member", text)
            .hint("`quorated retire` puts its data aside, `quoratectl cluster add-member` admits it as a new one")
    })
}

fn fresh_request() -> String {
    Uuid::now_v7().to_string()
}
