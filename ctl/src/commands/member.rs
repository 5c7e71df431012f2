//! One member, asked itself: taking up an admission, coming back after it lost data.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use proto::v1;

use crate::args;
use crate::commands::cluster::Joining;
use crate::session::{Session, Wait};
use crate::trouble::Trouble;

#[derive(Subcommand)]
pub enum Member {
    /// Brings a quarantined member, one that lost data, back under a new id, and waits until it takes part again
    Rejoin {
        /// Public API of the quarantined member [default: the one --server names]
        #[arg(long, value_name = "HOST:PORT", value_parser = args::address)]
        member: Option<String>,
        /// Public API of a healthy member [default: those it remembers]
        #[arg(long, value_name = "HOST:PORT", value_parser = args::address)]
        via: Option<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Hands an empty member the admission that `cluster add-member` printed; asked of that member (--server)
    Enrol {
        /// The admission as JSON; - reads it from standard input
        admission: PathBuf,
    },
}

pub async fn run(session: &Session, verb: Member) -> Result<()> {
    match verb {
        Member::Rejoin { member, via, wait } => {
            let request = v1::RejoinRequest { request_id: session.client.request_id(), via: via.unwrap_or_default() };
            let its_own;
            let itself = match member {
                Some(member) => {
                    its_own = session.only(&member);
                    &its_own
                }
                None => {
                    session.ensure_sole("the quarantined member")?;
                    &session.client
                }
            };
            let reply = itself.ask(request).await.context("rejoin")?;
            let v1::RejoinReply { old_member, member: id, learner, revision: admitted } = reply;
            let done = format!("it is member m{id} now; m{old_member} is never used again");
            let name = format!("m{id}");
            let joining = Joining { name: &name, id, learner, admitted };
            let does = if wait.or(true) {
                joining.wait(session, itself).await.context(done.clone())?;
                format!("; it {}", joining.goal())
            } else {
                "; it learns the log".to_owned()
            };
            session.print("RejoinReply", &reply, || format!("{done}{does}"));
        }
        Member::Enrol { admission } => {
            session.ensure_sole("the new member")?;
            let admission = Some(read("Admission", &admission)?);
            let request = v1::EnrolRequest { request_id: String::new(), admission };
            let reply = session.client.ask(request).await.context("enrol the member")?;
            session.print("EnrolReply", &reply, || format!("it is member m{} and learns the log", reply.member));
        }
    }
    Ok(())
}

/// The message of that name in `quorate.v1` that a file of JSON holds.
pub fn read<M: prost::Message + Default>(name: &str, path: &Path) -> Result<M> {
    let what = || format!("read {}", path.display());
    let text = match path.as_os_str() == "-" {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(path),
    };
    let read = proto::rest::from_json(&format!("quorate.v1.{name}"), &text.with_context(what)?);
    read.map_err(Trouble::usage).with_context(what)
}
