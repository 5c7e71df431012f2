//! Events: everything that happened, and what happens from now on.

use anyhow::{Context, Result};
use clap::Args;
use proto::v1;

use crate::output::{Format, dash, emit, harmless, json, line_of_json, table, utc, yaml};
use crate::session::Session;

#[derive(Args)]
pub struct Events {
    /// Go on with what happens from now on, through whichever member answers, without gap or repetition
    #[arg(short, long)]
    follow: bool,
    /// The first revision of interest [default: the oldest kept; with --follow, the next one]
    #[arg(long, value_name = "REVISION")]
    from: Option<u64>,
    /// Only those about that node
    #[arg(long, default_value = "", hide_default_value = true)]
    node: String,
    /// Only those about that container
    #[arg(long, default_value = "", hide_default_value = true)]
    container: String,
    /// Only those kinds, such as node-fenced
    #[arg(long, value_name = "KIND,…", value_delimiter = ',')]
    kind: Vec<String>,
    /// Answer from what the member asked has applied, also without a majority
    #[arg(long, conflicts_with = "follow")]
    stale: bool,
}

pub async fn run(session: &Session, asked: Events) -> Result<()> {
    let filter = v1::EventFilter { node: asked.node, container: asked.container, kinds: asked.kind };
    if asked.follow {
        return follow(session, asked.from, filter).await;
    }
    let from_revision = asked.from.unwrap_or_default();
    let request = v1::ListEventsRequest { page: None, from_revision, filter: Some(filter), stale: asked.stale };
    let reply = session.client.ask_all(request).await.context("list the events")?;
    session.print("ListEventsReply", &reply, || {
        let rows = reply.events.iter().map(|event| {
            let mut row = vec![utc(event.time_unix_ms), event.revision.to_string(), event.kind.clone()];
            if session.is_wide() {
                row.extend([dash(&event.node), dash(&event.container)]);
            }
            row.push(event.text.clone());
            row
        });
        match session.is_wide() {
            true => table(&["time (utc)", "revision", "kind", "node", "container", "what"], rows),
            false => table(&["time (utc)", "revision", "kind", "what"], rows),
        }
    });
    Ok(())
}

/// One line, or one document, for each event as it comes; ends only by an error or with the program.
async fn follow(session: &Session, from: Option<u64>, filter: v1::EventFilter) -> Result<()> {
    let from = match from {
        Some(from) if from > 0 => from,
        _ => now(session).await.context("ask for the present revision")? + 1,
    };
    let mut watch = session.client.watch(from, filter);
    loop {
        let reply = watch.next().await.context("follow the events")?;
        for event in &reply.events {
            match session.format {
                Format::Table => emit(&harmless(&line(event, ""))),
                Format::Wide => emit(&harmless(&line(event, &about(event)))),
                Format::Json => emit(&line_of_json("Event", event)),
                Format::Yaml => emit(&format!("---\n{}", yaml(&json("Event", event)))),
            }
        }
    }
}

/// The revision of a read that asked the majority: what happens after it happens after this command was given.
async fn now(session: &Session) -> Result<u64> {
    let page = Some(v1::PageRequest { size: 1, token: String::new() });
    let request = v1::ListEventsRequest { page, ..v1::ListEventsRequest::default() };
    Ok(session.client.ask(request).await?.revision)
}

/// Node and container, in columns that most names fit.
fn about(event: &v1::Event) -> String {
    format!("{:<12}  {:<16}  ", dash(&event.node), dash(&event.container))
}

fn line(event: &v1::Event, about: &str) -> String {
    format!("{}  {:>6}  {:<24}  {about}{}", utc(event.time_unix_ms), event.revision, event.kind, event.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = v1::Event {
            revision: 42,
            kind: "node-fenced".into(),
            text: "node-3 is fenced".into(),
            time_unix_ms: 1_709_208_061_042,
            ..v1::Event::default()
        };
        let line = |about: &str| super::line(&event, about);
        assert_eq!(line(""), "2024-02-29 12:01:01.042      42  node-fenced               node-3 is fenced");
        assert!(line(&about(&event)).ends_with("  -             -                 node-3 is fenced"));
    }
}
