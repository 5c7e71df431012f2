//! Templates: what containers are made of.

use anyhow::{Context, Result};
use clap::{Subcommand, ValueEnum};
use proto::v1;

use crate::output::{dash, table, word};
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
    /// The templates, by name
    #[command(visible_alias = "ls")]
    List {
        /// Answer from what the member asked has applied, also without a majority
        #[arg(long)]
        stale: bool,
    },
    /// Forgets a template that no container uses
    Remove { name: String },
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
            let kind = match kind {
                Kind::Os => v1::TemplateKind::Os,
                Kind::Application => v1::TemplateKind::Application,
            } as i32;
            let template = v1::Template { name: name.clone(), version, digest, kind, path, registered_revision: 0 };
            let request = v1::RegisterTemplateRequest { request_id: String::new(), template: Some(template) };
            session
                .change(request, &format!("register template {name}"), &format!("template {name} is registered"))
                .await
        }
        Template::List { stale } => {
            let request = v1::ListTemplatesRequest { page: None, stale };
            let reply = session.client.ask_all(request).await.context("list the templates")?;
            session.print("ListTemplatesReply", &reply, || shown(&reply.templates, session.is_wide()));
            Ok(())
        }
        Template::Remove { name } => {
            let request = v1::RemoveTemplateRequest { request_id: String::new(), template: name.clone() };
            session.change(request, &format!("remove template {name}"), &format!("template {name} is removed")).await
        }
    }
}

fn shown(templates: &[v1::Template], wide: bool) -> String {
    let rows = templates.iter().map(|template| {
        let mut row = vec![
            template.name.clone(),
            word(template.kind().as_str_name(), "TEMPLATE_KIND_"),
            dash(&template.version),
            dash(&template.path),
            dash(&template.digest),
        ];
        if wide {
            row.push(template.registered_revision.to_string());
        }
        row
    });
    let mut headings = vec!["name", "kind", "version", "path", "digest"];
    if wide {
        headings.push("since revision");
    }
    table(&headings, rows)
}
