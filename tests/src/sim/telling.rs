//! Deeds in words: a line for people, and the word under which a kind is counted.

use std::fmt;

use cluster::OnQuorumLoss;

use crate::sim::clock::{MS, SECOND};
use crate::sim::deeds::{Ask, Deed};
use crate::sim::net::Site;

impl Deed {
    /// The word under which it is counted.
    pub fn kind(&self) -> &'static str {
        match self {
            Deed::PowerOff(_) => "power off",
            Deed::PowerOn(_) => "power on",
            Deed::Freeze(_) => "freeze",
            Deed::StopClock(_) => "stop clock",
            Deed::Wall { .. } => "wall clock",
            Deed::FullDisk { .. } => "full disk",
            Deed::BreakSnapshots { .. } => "break snapshots",
            Deed::LyingStarts { .. } => "lying starts",
            Deed::Clone(_) => "clone",
            Deed::Echo(_) => "echo",
            Deed::Recover { .. } => "recover",
            Deed::Cross(_) => "cross over",
            Deed::Thaw(_) => "thaw",
            Deed::Cut(..) => "cut",
            Deed::Mend(..) => "mend",
            Deed::Isolate(_) => "isolate",
            Deed::Rejoin(_) => "rejoin",
            Deed::Slow(..) => "slow link",
            Deed::ResetStreams(_) => "reset streams",
            Deed::Weather(_) => "weather",
            Deed::KillMember { .. } => "kill member",
            Deed::CrashMember { .. } => "crash point",
            Deed::PauseMember(_) => "pause member",
            Deed::ResumeMember(_) => "resume member",
            Deed::KillAgent { .. } => "kill agent",
            Deed::PauseAgent(_) => "pause agent",
            Deed::ResumeAgent(_) => "resume agent",
            Deed::KillGuard { .. } => "kill guard",
            Deed::KillNode { .. } => "kill agent and guard",
            Deed::StallDisk { .. } => "stall disk",
            Deed::FailSync(_) => "fail sync",
            Deed::WipeDisk(_) => "wipe disk",
            Deed::RotDisk { .. } => "rot disk",
            Deed::Rate { .. } => "clock rate",
            Deed::SlowStops { .. } => "slow stops",
            Deed::FailStarts { .. } => "failing starts",
            Deed::LoseStorage { .. } => "lost storages",
            Deed::HangKills { .. } => "hanging kills",
            Deed::Suspend(_) => "suspend",
            Deed::Exit { .. } => "exit",
            Deed::TransferLeader(_) => "transfer leader",
            Deed::AddMember(_) => "add member",
            Deed::RemoveMember(_) => "remove member",
            Deed::Leave(_) => "leave",
            Deed::ConfirmDown(_) => "confirm down",
            Deed::Replay(_) => "replay",
            Deed::Ask { .. } => "ask",
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { f.write_str("the clients") } else { write!(f, "machine {}", self.0) }
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |nanos: &u64| format!("{}.{:03} s", nanos / SECOND, nanos % SECOND / MS);
        match self {
            Deed::PowerOff(site) => write!(f, "{site} loses power"),
            Deed::PowerOn(site) => write!(f, "{site} gets power"),
            Deed::Freeze(site) => write!(f, "{site} stands still"),
            Deed::Suspend(site) => write!(f, "{site} is suspended"),
            Deed::StopClock(site) => write!(f, "{site} stands still, and its clocks"),
            Deed::Thaw(site) => write!(f, "{site} goes on"),
            Deed::Wall { at, ms } => write!(f, "wall clock of {at} jumps by {ms:+} ms"),
            Deed::Cut(from, to) => write!(f, "nothing gets from {from} to {to}"),
            Deed::Mend(from, to) => write!(f, "link from {from} to {to} is well"),
            Deed::Isolate(site) => write!(f, "{site} is cut off"),
            Deed::Rejoin(site) => write!(f, "{site} is connected"),
            Deed::Slow(from, to, extra) => write!(f, "link from {from} to {to} is slow by {}", seconds(extra)),
            Deed::ResetStreams(site) => write!(f, "streams of {site} break"),
            Deed::Weather(_) => f.write_str("the weather of the network changes"),
            Deed::KillMember { at, .. } => write!(f, "member on {at} is killed"),
            Deed::CrashMember { at, point, after, .. } => {
                write!(f, "member on {at} will die at {point:?} number {after}")
            }
            Deed::PauseMember(site) => write!(f, "member on {site} is paused"),
            Deed::ResumeMember(site) => write!(f, "member on {site} goes on"),
            Deed::KillAgent { at, .. } => write!(f, "agent on {at} is killed"),
            Deed::PauseAgent(site) => write!(f, "agent on {site} is paused"),
            Deed::ResumeAgent(site) => write!(f, "agent on {site} goes on"),
            Deed::KillGuard { at, .. } => write!(f, "guard on {at} is killed"),
            Deed::KillNode { at, .. } => write!(f, "agent and guard on {at} are killed"),
            Deed::StallDisk { at, length } => write!(f, "disk of {at} stalls for {}", seconds(length)),
            Deed::FailSync(site) => write!(f, "next sync on {site} fails"),
            Deed::FullDisk { at, length } => write!(f, "disk of {at} is full for {}", seconds(length)),
            Deed::BreakSnapshots { at, length } => write!(f, "snapshots from {at} break for {}", seconds(length)),
            Deed::WipeDisk(site) => write!(f, "member on {site} loses its disk"),
            Deed::RotDisk { at, .. } => write!(f, "a bit flips on the disk of {at}"),
            Deed::Rate { at, ppm } => write!(f, "clock of {at} runs at {ppm:+} ppm"),
            Deed::SlowStops { at, stop, .. } => write!(f, "stops on {at} take {}", seconds(stop)),
            Deed::HangKills { at, length } => write!(f, "no kill works on {at} for {}", seconds(length)),
            Deed::FailStarts { at, length } => write!(f, "starts on {at} fail for {}", seconds(length)),
            Deed::LoseStorage { at, length } => write!(f, "no storage answers on {at} for {}", seconds(length)),
            Deed::LyingStarts { at, length } => write!(f, "starts on {at} are said to fail for {}", seconds(length)),
            Deed::Exit { at, code } => write!(f, "a container on {at} exits with {code}"),
            Deed::TransferLeader(Some(site)) => write!(f, "leadership is to move to {site}"),
            Deed::TransferLeader(None) => f.write_str("leadership is to move"),
            Deed::AddMember(site) => write!(f, "a member is to be added on {site}"),
            Deed::RemoveMember(site) => write!(f, "the member on {site} is to be removed"),
            Deed::Leave(site) => write!(f, "node on {site} leaves"),
            Deed::ConfirmDown(site) => write!(f, "operator confirms that {site} is off"),
            Deed::Replay(site) => write!(f, "an old desired set arrives on {site} once more"),
            Deed::Clone(site) => write!(f, "a clone of the node on {site} speaks"),
            Deed::Echo(site) => write!(f, "old words of the node on {site} arrive once more"),
            Deed::Recover { at, with } => write!(f, "the cluster is recovered from {at}, {} read with it", with.len()),
            Deed::Cross(site) => write!(f, "the node on {site} is told to cross over"),
            Deed::Ask { client, ask } => write!(f, "client {client} asks: {ask}"),
        }
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ask::Create { name, .. } => write!(f, "create {name}"),
            Ask::Start(name) => write!(f, "start {name}"),
            Ask::Stop(name) => write!(f, "stop {name}"),
            Ask::Delete(name) => write!(f, "delete {name}"),
            Ask::Restart(name) => write!(f, "restart {name}"),
            Ask::Move { name, to: Some(to) } => write!(f, "move {name} to n{}", to.0),
            Ask::Move { name, to: None } => write!(f, "move {name}"),
            Ask::Annotate { name, key, value } => write!(f, "annotate {name} {key}={value}"),
            Ask::SetPolicy { name, policy: OnQuorumLoss::Stop } => write!(f, "let {name} end with its lease"),
            Ask::SetPolicy { name, policy: OnQuorumLoss::Keep } => write!(f, "let {name} outlive its lease"),
            Ask::Cordon(site) => write!(f, "cordon n{}", site.0),
            Ask::Uncordon(site) => write!(f, "uncordon n{}", site.0),
            Ask::Drain(site) => write!(f, "drain n{}", site.0),
            Ask::Fence(site) => write!(f, "fence n{}", site.0),
            Ask::Maintain(site) => write!(f, "maintain n{}", site.0),
            Ask::Return(site) => write!(f, "return n{}", site.0),
            Ask::SetRole(site, role) => write!(f, "make n{} {role}", site.0),
            Ask::SetProfile(profile) => write!(f, "set profile {}", profile.name()),
            Ask::ReleaseBrake => f.write_str("release the brake"),
            Ask::Read => f.write_str("read"),
            Ask::Look { name, stale: false } => write!(f, "look at {name}"),
            Ask::Look { name, stale: true } => write!(f, "look at {name}, stale"),
        }
    }
}
