//! Templates: what containers are made of.

mod copies;
mod sync;

use anyhow::{Context, Result};
use clap::{Subcommand, ValueEnum};
use proto::v1;

use crate::output::{Format, dash, memory, table, word};
use crate::progress::Progress;
use crate::session::Session;

#[derive(Subcommand)]
pub enum Template {
    /// Registers a template, or replaces it; running containers keep what they were started from
    Register {
        name: String,
        /// Folder below the shared storage that holds the root file system, as templates/debian-12 [default: the node's own]
        #[arg(long, default_value = "", hide_default_value = true)]
        path: String,
        /// For people
        #[arg(long, default_value = "", hide_default_value = true)]
        version: String,
        /// What its content hashes to, as sha256:…; kept for people, the content is not compared with it
        #[arg(long, default_value = "", hide_default_value = true)]
        digest: String,
        #[arg(long, value_enum, default_value = "os")]
        kind: Kind,
    },
    /// Has a node bring a template onto a storage, and registers it
    ///
    /// The tree is verified, and kept under the digest of what it holds: the same content is there once, whatever it came from.
    Import {
        name: String,
        /// Where it comes from, as the node sees it: an absolute path of a folder, a tar archive (plain, gzip, zstd) or an OCI
        /// image layout, or an image in a registry as host[:port]/name[:tag|@digest]
        #[arg(long, value_name = "SOURCE")]
        from: String,
        /// The storage it is brought to
        #[arg(long, value_name = "NAME")]
        storage: String,
        #[arg(long, value_enum, default_value = "os")]
        kind: Kind,
        /// For people
        #[arg(long, default_value = "", hide_default_value = true)]
        version: String,
        /// The node that does it [default: any that is up]
        #[arg(long, default_value = "", hide_default_value = true)]
        node: String,
        /// What the tree must hash to, as sha256:…; anything else is not kept
        #[arg(long, default_value = "", hide_default_value = true)]
        digest: String,
        /// What is left out where it is found
        #[arg(long, value_enum, value_name = "WHAT,…", value_delimiter = ',')]
        leave_out: Vec<Trait>,
        /// What ends the import where it is found; devices and fifos do anyway
        #[arg(long, value_enum, value_name = "WHAT,…", value_delimiter = ',')]
        refuse: Vec<Trait>,
        /// Ask a registry that is not on the node itself by plain http
        #[arg(long)]
        plain_http: bool,
    },
    /// The templates, by name, and the nodes that have said that they lack them, or have not looked yet (?)
    #[command(visible_alias = "ls")]
    List {
        /// Answer from what the member asked has applied, also without a majority
        #[arg(long)]
        stale: bool,
    },
    /// A template, and what every node finds of it on every storage
    Show { name: String },
    /// Has a node read a template again, and says what is damaged; exits with an error then
    Verify {
        name: String,
        /// The storage it is read on [default: every storage]
        #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
        storage: String,
        /// The node that does it [default: any that is up]
        #[arg(long, default_value = "", hide_default_value = true)]
        node: String,
    },
    /// Brings imported templates to the nodes that lack them on a storage; exits with an error where one still does
    ///
    /// Each node copies from another storage it finds them on, and keeps what has the right digest. Repeat it after it was
    /// broken off: what is there is not brought again.
    Sync(sync::Sync),
    /// Forgets a template that no container uses, and removes its files if it was imported and no other template shares them
    Remove {
        name: String,
        /// Leave its files on the storage
        #[arg(long)]
        keep_files: bool,
    },
    /// Removes the files of an imported template that is not registered any more
    Discard {
        /// What its content hashes to, as sha256:…
        digest: String,
        /// The node that does it [default: any that is up]
        #[arg(long, default_value = "", hide_default_value = true)]
        node: String,
    },
}

/// What a template may hold that could harm a node.
#[derive(Clone, Copy, ValueEnum)]
pub enum Trait {
    /// Set-uid and set-gid bits of files
    SetId,
    /// Capabilities of files
    Capabilities,
    /// Device nodes
    Devices,
    /// Fifos and sockets
    Fifos,
}

impl Trait {
    fn wire(self) -> i32 {
        let it = match self {
            Trait::SetId => v1::TemplateTrait::SetId,
            Trait::Capabilities => v1::TemplateTrait::Capabilities,
            Trait::Devices => v1::TemplateTrait::Devices,
            Trait::Fifos => v1::TemplateTrait::Fifos,
        };
        it as i32
    }
}

impl Kind {
    fn wire(self) -> i32 {
        match self {
            Kind::Os => v1::TemplateKind::Os as i32,
            Kind::Application => v1::TemplateKind::Application as i32,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Kind {
    /// A whole root file system
    Os,
    /// An application on top of one
    Application,
}

pub async fn run(session: &Session, verb: Template) -> Result<()> {
    match verb {
        Template::Register { name, path, version, digest, kind } => {
            let kind = kind.wire();
            let template = v1::Template { name: name.clone(), version, digest, kind, path, ..v1::Template::default() };
            let request = v1::RegisterTemplateRequest { request_id: String::new(), template: Some(template) };
            session
                .change(request, &format!("register template {name}"), &format!("template {name} is registered"))
                .await
        }
        Template::Import { name, from, storage, kind, version, node, digest, leave_out, refuse, plain_http } => {
            let request = v1::ImportTemplateRequest {
                request_id: String::new(),
                name,
                version,
                kind: kind.wire(),
                source: from,
                storage,
                node,
                digest,
                plain_http,
                leave_out: leave_out.into_iter().map(Trait::wire).collect(),
                refuse: refuse.into_iter().map(Trait::wire).collect(),
            };
            import(session, request).await
        }
        Template::List { stale } => {
            let request = v1::ListTemplatesRequest { page: None, stale };
            let reply = session.client.ask_all(request).await.context("list the templates")?;
            session.print("ListTemplatesReply", &reply, || shown(&reply.templates, session.is_wide()));
            Ok(())
        }
        Template::Show { name } => copies::show(session, &name).await,
        Template::Verify { name, storage, node } => {
            copies::verify(session, v1::VerifyTemplateRequest { template: name, storage, node }).await
        }
        Template::Sync(wanted) => sync::run(session, wanted).await,
        Template::Remove { name, keep_files } => {
            let digest = if keep_files { None } else { copies::unshared(session, &name).await? };
            let request = v1::RemoveTemplateRequest { request_id: String::new(), template: name.clone() };
            session.change(request, &format!("remove template {name}"), &format!("template {name} is removed")).await?;
            let Some(digest) = digest else { return Ok(()) };
            let request =
                v1::DiscardTemplateRequest { digest: digest.clone(), ..v1::DiscardTemplateRequest::default() };
            let outcome =
                session.client.ask(request).await.map_err(anyhow::Error::from).and_then(|reply| copies::gone(&reply));
            outcome.with_context(|| {
                format!(
                    "remove the files of {name}, which are still there; `quoratectl template discard {digest}` does it"
                )
            })
        }
        Template::Discard { digest, node } => {
            let what = format!("discard {digest}");
            let request = v1::DiscardTemplateRequest { request_id: String::new(), digest, node };
            let reply = session.client.ask(request).await.with_context(|| what.clone())?;
            session.print("DiscardTemplateReply", &reply, || copies::table_of(&reply.copies));
            copies::gone(&reply).context(what)
        }
    }
}

async fn import(session: &Session, request: v1::ImportTemplateRequest) -> Result<()> {
    let what = format!("import template {}", request.name);
    let mut telling = Telling::new(session.format, &what);
    let outcome = session.client.import(request, |reply| {
        telling.tell(&reply.node, reply.phase(), reply.bytes, reply.bytes_total, reply.entries);
    });
    let outcome = outcome.await;
    drop(telling);
    let reply = outcome.with_context(|| what)?;
    session.print("ImportTemplateReply", &reply, || imported(&reply));
    Ok(())
}

/// One line.
fn how_far(node: &str, phase: v1::ImportPhase, bytes: u64, bytes_total: u64, entries: u64) -> String {
    let doing = word(phase.as_str_name(), "IMPORT_PHASE_");
    let part = match bytes_total {
        0 if bytes == 0 => String::new(),
        0 => format!(" {}", memory(bytes)),
        total => format!(" {} of {} ({} %)", memory(bytes), memory(total), bytes.min(total) * 100 / total),
    };
    let entries = if entries == 0 { String::new() } else { format!(", {entries} entries") };
    format!("{node}: {doing}{part}{entries}")
}

/// Says how far something is: on a terminal in a line that is written over; elsewhere lines stay, and a tenth is news enough.
/// Begins with the first word; until then it is a member that is waited for, and the client says so.
struct Telling {
    format: Format,
    what: String,
    progress: Option<Progress>,
    said: Option<(v1::ImportPhase, u64)>,
}

impl Telling {
    fn new(format: Format, what: &str) -> Telling {
        Telling { format, what: what.to_owned(), progress: None, said: None }
    }

    fn tell(&mut self, node: &str, phase: v1::ImportPhase, bytes: u64, bytes_total: u64, entries: u64) {
        let tenth = (bytes * 10).checked_div(bytes_total).unwrap_or_default();
        let progress = self.progress.get_or_insert_with(|| Progress::new(self.format, &self.what));
        if progress.is_written_over() || self.said != Some((phase, tenth)) {
            progress.say(&how_far(node, phase, bytes, bytes_total, entries));
            self.said = Some((phase, tenth));
        }
    }
}

fn imported(reply: &v1::ImportTemplateReply) -> String {
    let template = reply.template.clone().unwrap_or_default();
    let how = if reply.was_there { "was on the storage already" } else { "is on the storage" };
    let mut lines = vec![format!("template {} {how} and is registered: {}", template.name, template.digest)];
    lines.extend(reply.notes.iter().map(|note| format!("note: {note}")));
    lines.join("\n")
}

fn shown(templates: &[v1::Template], wide: bool) -> String {
    let rows = templates.iter().map(|template| {
        let mut row = vec![
            template.name.clone(),
            word(template.kind().as_str_name(), "TEMPLATE_KIND_"),
            dash(&template.version),
            dash(&template.path),
            if template.bytes == 0 { dash("") } else { memory(template.bytes) },
            dash(&template.digest),
            dash(&lacking(template, wide)),
        ];
        if wide {
            row.push(template.registered_revision.to_string());
        }
        row
    });
    let mut headings = vec!["name", "kind", "version", "path", "size", "digest", "missing on"];
    if wide {
        headings.push("since revision");
    }
    table(&headings, rows)
}

/// The nodes that do not have it, as they reported; one that has not said yet with a question mark.
fn lacking(template: &v1::Template, wide: bool) -> String {
    const NAMED: usize = 3;
    let missing = template.missing_on.iter().cloned();
    let damaged = template.damaged_on.iter().map(|node| format!("{node} (damaged)"));
    let unknown = template.unknown_on.iter().map(|node| format!("{node}?"));
    let mut all: Vec<String> = missing.chain(damaged).chain(unknown).collect();
    if !wide && all.len() > NAMED {
        let more = all.len() - NAMED;
        all.truncate(NAMED);
        all.push(format!("and {more} more"));
    }
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_lack_it_are_named_the_certain_ones_first() {
        let names = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect();
        let template = v1::Template {
            missing_on: names(&["n-2"]),
            damaged_on: names(&["n-1"]),
            unknown_on: names(&["n-3", "n-4"]),
            ..v1::Template::default()
        };
        assert_eq!(lacking(&template, true), "n-2, n-1 (damaged), n-3?, n-4?");
        assert_eq!(lacking(&template, false), "n-2, n-1 (damaged), n-3?, and 1 more");
        assert_eq!(lacking(&v1::Template::default(), false), "");
    }
}
