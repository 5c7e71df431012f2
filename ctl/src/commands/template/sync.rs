//! Templates brought to nodes: a bar for each node that copies, then what came of each.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use proto::v1;

use super::how_far;
use crate::output::{Format, dash, harmless, table};
use crate::session::Session;
use crate::trouble::Trouble;

#[derive(Args)]
pub struct Sync {
    /// The templates [default: every one that was imported]
    names: Vec<String>,
    /// The storage they are brought to
    #[arg(long, value_name = "NAME")]
    storage: String,
    /// The nodes that shall find them there [default: every one that is up]
    #[arg(long, value_name = "NODE,…", value_delimiter = ',')]
    node: Vec<String>,
    /// Where the one template comes from, as the nodes see it; as for an import [default: another storage they find it on]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "SOURCE")]
    from: String,
    /// Ask a registry that is not on the node itself by plain http
    #[arg(long)]
    plain_http: bool,
    /// Read what is there already once more, and say what is damaged
    #[arg(long)]
    verify: bool,
}

/// Errs, after it has shown what came of every node, unless all of them have all of it.
pub async fn run(session: &Session, wanted: Sync) -> Result<()> {
    let Sync { names, storage, node, from, plain_http, verify } = wanted;
    let what = match &names[..] {
        [] => format!("bring every template to {storage}"),
        names => format!("bring {} to {storage}", names.join(", ")),
    };
    let request = v1::SyncTemplatesRequest {
        request_id: String::new(),
        templates: names,
        storage,
        nodes: node,
        source: from,
        plain_http,
        verify,
    };
    let mut bars = Bars::new(session.format);
    let outcome = session.client.sync(request, |reply| bars.tell(reply)).await;
    bars.clear();
    let reply = outcome.with_context(|| what.clone())?;
    session.print("SyncTemplatesReply", &reply, || shown(&reply.nodes));
    whole(&reply.nodes).context(what)
}

fn shown(nodes: &[v1::SyncedTemplate]) -> String {
    let rows = nodes.iter().map(|it| {
        let became = match (&it.problem, it.was_there, it.from.as_str()) {
            (Some(_), ..) => "failed".to_owned(),
            (None, true, _) => "was there".to_owned(),
            (None, false, "") => "brought".to_owned(),
            (None, false, from) => format!("copied from {from}"),
        };
        let problem = it.problem.as_ref().map_or("", |problem| problem.message.as_str());
        vec![it.template.clone(), it.node.clone(), became, dash(problem)]
    });
    table(&["template", "node", "what", "problem"], rows)
}

fn whole(nodes: &[v1::SyncedTemplate]) -> Result<()> {
    let failed: Vec<(&v1::SyncedTemplate, &v1::Problem)> =
        nodes.iter().filter_map(|it| Some((it, it.problem.as_ref()?))).collect();
    match failed[..] {
        [] => Ok(()),
        [(it, problem), ref others @ ..] => {
            let more = if others.is_empty() { String::new() } else { format!(", and {} more", others.len()) };
            let text = format!("{} is not on {}{more}: {}", it.template, it.node, problem.message);
            let hint = if problem.hint.is_empty() { "mend that and repeat it" } else { &problem.hint };
            bail!(Trouble::refused(text, hint))
        }
    }
}

/// One bar for each template and node on a terminal; elsewhere lines, for each phase and tenth, and nothing for programs.
struct Bars {
    format: Format,
    all: Option<MultiProgress>,
    of: BTreeMap<(String, String), Bar>,
}

struct Bar {
    shown: Option<ProgressBar>,
    said: Option<(v1::ImportPhase, u64)>,
}

impl Bars {
    fn new(format: Format) -> Bars {
        let all = std::io::stderr().is_terminal().then(MultiProgress::new);
        Bars { format, all, of: BTreeMap::new() }
    }

    fn tell(&mut self, reply: &v1::SyncTemplatesReply) {
        let v1::SyncTemplatesReply { template, node, bytes, bytes_total, entries, .. } = reply;
        let bar = self.of.entry((template.clone(), node.clone())).or_insert_with(|| Bar {
            shown: self.all.as_ref().map(|all| all.add(fresh(&format!("{template} on {node}")))),
            said: None,
        });
        let line = how_far(node, reply.phase(), *bytes, *bytes_total, *entries);
        match &bar.shown {
            Some(shown) => {
                shown.set_length(*bytes_total);
                shown.set_position(*bytes);
                shown.set_message(harmless(&line));
            }
            None => {
                let tenth = (bytes * 10).checked_div(*bytes_total).unwrap_or_default();
                if !self.format.is_for_programs() && bar.said != Some((reply.phase(), tenth)) {
                    bar.said = Some((reply.phase(), tenth));
                    eprintln!("{}: {}", harmless(template), harmless(&line));
                }
            }
        }
    }

    fn clear(self) {
        if let Some(all) = self.all {
            // The table that follows says all of it.
            let _ = all.clear();
        }
    }
}

fn fresh(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} [{bar:24}] {msg}").expect("a good template");
    ProgressBar::new(0).with_style(style.progress_chars("=> ")).with_prefix(harmless(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synced(node: &str, problem: Option<&str>) -> v1::SyncedTemplate {
        let problem = problem.map(|text| v1::Problem { message: text.into(), ..v1::Problem::default() });
        v1::SyncedTemplate { template: "t".into(), node: node.into(), problem, ..v1::SyncedTemplate::default() }
    }

    #[test]
    fn one_node_that_lacks_it_is_an_error_that_names_it() {
        assert!(whole(&[]).is_ok() && whole(&[synced("a", None)]).is_ok());
        let some = [synced("a", None), synced("b", Some("no room")), synced("c", Some("silent"))];
        let error = whole(&some).expect_err("two lack it").to_string();
        assert_eq!(error, "t is not on b, and 1 more: no room");
    }

    #[test]
    fn what_came_of_a_node_is_one_word() {
        let from = v1::SyncedTemplate { from: "nfs".into(), ..synced("a", None) };
        let there = v1::SyncedTemplate { was_there: true, ..synced("b", None) };
        let table = shown(&[from, there, synced("c", None), synced("d", Some("no room"))]);
        for words in ["copied from nfs", "was there", "brought", "failed", "no room"] {
            assert!(table.contains(words), "{words:?} is not in\n{table}");
        }
    }
}
