//! One run of this program: whom it asks, how it prints, how long it waits.
//! In: the global flags. Out: changes that are said when done, and waiting that shows what happens meanwhile.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use prost::Message;
use proto::v1;

use crate::args;
use crate::client::Client;
use crate::output::{self, Format};
use crate::progress::Progress;
use crate::rpcs::Ask;
use crate::trouble::Trouble;

/// How long a call is tried where nothing is said: an election and a restart of a member fit in.
const WITHIN: Duration = Duration::from_secs(15);
/// How long is waited for one container or member where nothing is said.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks when no event says that something changed; what is not replicated changes without one.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Members to ask, best all of them; whichever answers leads to the leader
    #[arg(
        long,
        global = true,
        env = "QUORATE_SERVERS",
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        value_parser = args::address,
        default_value = "127.0.0.1:7440"
    )]
    pub server: Vec<String>,
    /// How long to try, and to wait where something is awaited [default: 15s to be heard, 5m to wait]
    #[arg(long, global = true, value_name = "TIME", value_parser = args::span)]
    pub timeout: Option<Duration>,
    /// How results are printed
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Format,
    /// The id of the change: one that was sent before has its effect once, however often it is repeated
    #[arg(long, global = true, value_name = "UUID[/N]")]
    pub request_id: Option<String>,
}

/// Whether to wait until what was asked for is so.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Wait {
    /// Wait until it is so, showing what happens
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Return once the order is stored
    #[arg(long, overrides_with = "wait")]
    no_wait: bool,
}

impl Wait {
    pub fn or(self, by_itself: bool) -> bool {
        (by_itself || self.wait) && !self.no_wait
    }
}

/// What is awaited, and what is shown meanwhile.
pub struct Awaited {
    /// As `draining node-1`.
    pub what: String,
    /// What to do when it does not come.
    pub next: String,
    /// How long, where `--timeout` does not say.
    pub patience: Duration,
    /// Events are shown from this revision on, …
    pub from: u64,
    /// … those that pass.
    pub about: v1::EventFilter,
}

/// What one look found.
pub enum Look<T> {
    Reached(T),
    /// In words, what is the case instead.
    NotYet(String),
}

pub struct Session {
    pub client: Client,
    pub format: Format,
    global: Global,
}

impl Session {
    pub fn new(global: Global) -> Session {
        let within = global.timeout.unwrap_or(WITHIN);
        let client = Client::new(global.server.clone(), within).choose_id(global.request_id.clone());
        Session { client, format: global.output, global }
    }

    /// A client of that one member.
    pub fn only(&self, server: &str) -> Client {
        Client::new(vec![server.to_owned()], self.global.timeout.unwrap_or(WITHIN))
    }

    /// Errs unless one member is named: what is asked of it must not reach another.
    pub fn ensure_sole(&self, whom: &str) -> Result<(), Trouble> {
        match self.global.server.as_slice() {
            [_] => Ok(()),
            several => Err(Trouble::usage(format!(
                "this is asked of {whom} itself, and {} members are named: name that one with --server",
                several.len()
            ))),
        }
    }

    /// Prints `message` (of that name in `quorate.v1`) for programs, or what `people` makes of it; then how old it may be if it is stale.
    pub fn print(&self, name: &str, message: &impl Message, people: impl FnOnce() -> String) {
        output::print(self.format, name, message, people);
        // Beside the result, so that programs read that alone.
        if let Some(note) = self.client.take_stale_note() {
            eprintln!("{note}");
        }
    }

    pub fn is_wide(&self) -> bool {
        self.format == Format::Wide
    }

    /// Makes a change. `doing` stands before what went wrong.
    pub async fn order<A: Ask<Reply = v1::Change>>(&self, request: A, doing: &str) -> Result<v1::Change> {
        self.client.ask(request).await.with_context(|| doing.to_owned())
    }

    /// Makes a change and says that it is done.
    pub async fn change<A: Ask<Reply = v1::Change>>(&self, request: A, doing: &str, done: &str) -> Result<()> {
        let change = self.order(request, doing).await?;
        self.print("Change", &change, || format!("{done} (revision {})", change.revision));
        Ok(())
    }

    /// Looks until it is `Reached`, at each event and now and then. Errs when the time is up.
    pub async fn until<T>(&self, awaited: Awaited, mut look: impl AsyncFnMut() -> Result<Look<T>>) -> Result<T> {
        let Awaited { what, next, patience, from, about } = awaited;
        let patience = self.global.timeout.unwrap_or(patience);
        let progress = Progress::new(self.format, &what);
        let changed = tokio::sync::Notify::new();
        let shown = async {
            let mut watch = self.client.watch(from, about);
            while let Ok(reply) = watch.next().await {
                for event in &reply.events {
                    progress.line(&format!("  {}", event.text));
                }
                changed.notify_one();
            }
            // Events are for show; what is awaited is looked at without them.
            std::future::pending::<()>().await;
        };
        let mut now = String::new();
        let looked = async {
            loop {
                match look().await? {
                    Look::Reached(it) => return anyhow::Ok(it),
                    Look::NotYet(is) if is != now => {
                        progress.say(&format!("{what}: {is}"));
                        now = is;
                    }
                    Look::NotYet(_) => {}
                }
                // Early or late makes no difference: either way it looks again.
                let _ = tokio::time::timeout(LOOK, changed.notified()).await;
            }
        };
        tokio::select! {
            found = looked => found,
            () = shown => unreachable!("it never ends"),
            () = tokio::time::sleep(patience) => {
                let is = if now.is_empty() { "nothing was heard" } else { &now };
                let waited = output::time(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
                Err(Trouble::late(format!("{what}: not done after {waited}: {is}; the order stands"), next).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_what_the_last_flag_says_or_what_the_verb_does_by_itself() {
        let waits = |wait, no_wait, by_itself| Wait { wait, no_wait }.or(by_itself);
        assert!(waits(false, false, true) && waits(true, false, false));
        assert!(!waits(false, false, false) && !waits(false, true, true));
    }
}
