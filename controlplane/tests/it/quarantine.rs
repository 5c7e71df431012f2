//! A member whose store is damaged takes no part, says so, and comes back under a new id.

use std::fs;
use std::path::Path;

use proto::v1;

use crate::support::{furnish, id, reason, three, until, voters};

/// Flips a bit in the middle of the largest file of the log.
fn damage(data_dir: &Path) {
    let files = fs::read_dir(data_dir.join("member/log")).expect("a log");
    let files = files.map(|file| file.expect("readable").path());
    let largest = files.max_by_key(|path| fs::metadata(path).map_or(0, |meta| meta.len())).expect("a file");
    let mut bytes = fs::read(&largest).expect("readable");
    // The beginning is always a record; what follows the end may be room not yet used.
    bytes[200] ^= 1;
    fs::write(&largest, bytes).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_member_is_quarantined_and_rejoins_under_a_new_id() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut members = three(dir.path()).await;
    furnish(&members[0], "web").await;
    let old = members[2].status().await.member;
    members[2].stop().await;
    damage(&members[2].data_dir);
    members[2].start_again().await;
    let burnt = &members[2];
    let status = burnt.status().await;
    assert_eq!((status.standing(), status.member), (v1::MemberStanding::Quarantined, old));
    assert!(status.trouble.contains("member rejoin"), "{}", status.trouble);
    let (ready, text) = burnt.http("GET", "/readyz", "").await;
    assert_eq!((ready, text.starts_with("quarantined")), (503, true), "{text}");
    let request = v1::GetContainerRequest { container: "web".into(), stale: true };
    assert_eq!(reason(&burnt.containers().get(request).await.expect_err("takes no part")), "quarantined");

    let request = v1::RejoinRequest { request_id: id(), via: String::new() };
    let back = burnt.cluster().rejoin(request).await.expect("rejoins").into_inner();
    assert_eq!(back.old_member, old);
    assert!(back.member > old);
    until("three voters again, the old id gone", async || {
        let status = members[0].status().await;
        voters(&status) == 3 && status.members.iter().all(|member| member.id != old)
    })
    .await;
    let request = v1::GetContainerRequest { container: "web".into(), stale: false };
    burnt.containers().get(request).await.expect("it serves again");
    assert!(burnt.data_dir.join("retired-1").is_dir());
}
