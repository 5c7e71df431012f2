//! One member, asked itself: taking up an admission, coming back after it lost data.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::Subcommand;
use proto::v1;

use crate::args;
use crate::session::Session;

#[derive(Subcommand)]
pub enum Member {
    /// Brings a quarantined member, one that lost data, back under a new id
    Rejoin {
        /// Public API of the quarantined member [default: the one --server names]
        #[arg(long, value_name = "HOST:PORT", value_parser = args::address)]
        member: Option<String>,
        /// Public API of a healthy member [default: those it remembers]
        #[arg(long, value_name = "HOST:PORT", value_parser = args::address)]
        via: Option<String>,
    },
    /// Hands an empty member the admission that `cluster add-member` printed; asked of that member (--server)
    Enrol {
        /// The admission as JSON; - reads it from standard input
        admission: PathBuf,
    },
}

pub async fn run(session: &Session, verb: Member) -> Result<()> {
    match verb {
        Member::Rejoin { member, via } => {
            let request = v1::RejoinRequest { request_id: session.client.request_id(), via: via.unwrap_or_default() };
            let asked = match member {
                Some(member) => session.only(&member).ask(request).await,
                None => {
                    session.ensure_sole("the quarantined member")?;
                    session.client.ask(request).await
                }
            };
            let reply = asked.context("rejoin")?;
            session.print("RejoinReply", &reply, || {
                format!("it is member m{} now; m{} is never used again", reply.member, reply.old_member)
            });
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
    read.map_err(|problem| anyhow!(crate::output::Usage(problem))).with_context(what)
}
