//! Three members: any door leads to the same cluster, and a request has its effect once through whichever it comes.

use std::collections::BTreeSet;

use proto::v1;

use crate::support::{annotate, create, furnish, id, reason, roles, three, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_call_reaches_the_leader_through_every_door() {
    let dir = tempfile::tempdir().expect("a folder");
    let members = three(dir.path()).await;
    let (leader, others) = roles(&members).await;
    furnish(others[0], "web").await;
    for door in &members {
        // Not stale: what was acknowledged through one door is seen through every other.
        let request = v1::GetContainerRequest { container: "web".into(), stale: false };
        let found = door.containers().get(request).await.expect("seen").into_inner();
        assert!(found.container.is_some());
    }
    let refusal = others[1].containers().create(create("web")).await.expect_err("taken");
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (tonic::Code::AlreadyExists, "name-taken"));
    let mut passed_on = tonic::Request::new(create("other"));
    passed_on.metadata_mut().insert(controlplane::api::door::HOP, "1".parse().expect("a digit"));
    let refusal = others[0].containers().create(passed_on).await.expect_err("passed on once");
    assert_eq!(reason(&refusal), "not-leader");
    let hint = refusal.metadata().get("quorate-leader").and_then(|leader| leader.to_str().ok());
    assert_eq!(hint, Some(&*leader.api.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_repeated_through_another_member_has_one_effect() {
    let dir = tempfile::tempdir().expect("a folder");
    let members = three(dir.path()).await;
    furnish(&members[0], "web").await;
    let request = create("once");
    let mut answers = BTreeSet::new();
    for door in &members {
        let reply = door.containers().create(request.clone()).await.expect("created once").into_inner();
        answers.insert((reply.container, reply.revision));
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    // The repetition of a removal names what is gone, and gets its first answer all the same.
    let request = v1::RemoveTemplateRequest { request_id: id(), template: "debian".into() };
    let mut templates = proto::v1::template_service_client::TemplateServiceClient::new(members[1].channel());
    let first = templates.remove(request.clone()).await.map(drop).map_err(|refusal| reason(&refusal));
    let again = templates.remove(request).await.map(drop).map_err(|refusal| reason(&refusal));
    assert_eq!((first.clone(), again), (Err("in-use".to_owned()), first));
    let request = v1::JoinRequest { request_id: id(), name: "node-1".into(), ..v1::JoinRequest::default() };
    let first = members[1].nodes().join(request.clone()).await.expect("joined").into_inner();
    let again = members[2].nodes().join(request).await.expect("the same").into_inner();
    assert_eq!((first.node, first.secret), (again.node, again.secret));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_goes_on_without_its_leader_and_takes_it_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut members = three(dir.path()).await;
    furnish(&members[0], "web").await;
    let (leader, _) = roles(&members).await;
    let place = members.iter().position(|member| member.api == leader.api).expect("one of them");
    members[place].stop().await;
    let other = (place + 1) % 3;
    // Through a door that must first learn who leads now.
    for number in 0..50 {
        members[other].containers().annotate(annotate("web", "n", &number.to_string())).await.expect("goes on");
    }
    until("none may be lost", async || {
        let reply = members[other].cluster().quorum(v1::QuorumRequest {}).await.expect("answers").into_inner();
        (reply.needed, reply.voters, reply.reachable, reply.survives) == (2, 3, 2, 0)
    })
    .await;
    members[place].start_again().await;
    let revision = members[other].status().await.revision;
    until("it has caught up", async || members[place].status().await.revision >= revision).await;
    until("one may be lost again", async || {
        let reply = members[other].cluster().quorum(v1::QuorumRequest {}).await.expect("answers").into_inner();
        reply.survives == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_on_request_and_a_member_can_be_taken_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let members = three(dir.path()).await;
    let (_, others) = roles(&members).await;
    let to = others[0].name.clone();
    let request = v1::TransferLeaderRequest { request_id: id(), member: to.clone() };
    let moved = others[1].cluster().transfer_leader(request).await.expect("moved").into_inner();
    until("all know it", async || {
        let mut known = BTreeSet::new();
        for member in &members {
            known.insert(member.status().await.leader);
        }
        known == [moved.leader].into()
    })
    .await;
    // The leader itself: another takes over, and finishes it.
    let request = v1::RemoveMemberRequest { request_id: id(), member: to.clone() };
    let left: Vec<_> = members.iter().filter(|member| member.name != to).collect();
    left[0].cluster().remove_member(request).await.expect("taken out");
    until("two are left", async || left[0].status().await.members.len() == 2).await;
}

/// The steward takes in whoever is in the directory; a removal right behind an admission must neither trip over that nor
/// leave a learner that the directory does not know.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_just_admitted_can_be_taken_out_while_it_is_taken_in() {
    let dir = tempfile::tempdir().expect("a folder");
    let members = three(dir.path()).await;
    let learners = async || {
        let filter = Some(v1::EventFilter { kinds: vec!["membership-changed".into()], ..v1::EventFilter::default() });
        let request = v1::ListEventsRequest { filter, ..v1::ListEventsRequest::default() };
        let events = members[0].events().list(request).await.expect("told").into_inner().events;
        events.iter().filter(|event| event.text.contains("learners @m")).count()
    };
    // Until the two have met a few times; a change of membership rests for two heartbeats.
    let mut round = 0;
    while learners().await < 5 {
        round += 1;
        let address = v1::MemberAddress { api: format!("127.0.0.1:{round}"), peer: format!("127.0.0.2:{round}") };
        let name = format!("brief-{round}");
        let request =
            v1::AddMemberRequest { request_id: id(), name: name.clone(), address: Some(address), learner: true };
        members[round % 3].cluster().add_member(request).await.expect("admitted");
        let request = v1::RemoveMemberRequest { request_id: id(), member: name };
        members[(round + 1) % 3].cluster().remove_member(request).await.expect("taken out");
    }
    let status = members[0].status().await;
    assert_eq!((status.members.len(), status.joint), (3, false));
}
