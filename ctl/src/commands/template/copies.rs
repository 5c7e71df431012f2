//! Copies of templates: who lacks them, whether they are whole, whether they are gone.

use anyhow::{Context, Result, bail};
use proto::v1::{self, TemplatePresence};

use super::Telling;
use crate::output::{dash, facts, memory, table, word};
use crate::session::Session;
use crate::trouble::Trouble;

/// Where imports put what they brought.
const IMPORTED: &str = "templates/sha256-";

pub fn table_of(copies: &[v1::TemplateCopy]) -> String {
    let rows = copies.iter().map(|copy| {
        let presence = word(copy.presence().as_str_name(), "TEMPLATE_PRESENCE_");
        vec![dash(&copy.node), dash(&copy.storage), presence, dash(&copy.problem)]
    });
    table(&["node", "storage", "found", "problem"], rows)
}

pub async fn show(session: &Session, name: &str) -> Result<()> {
    let what = || format!("show template {name}");
    let request = v1::TemplateInventoryRequest { page: None, template: name.to_owned() };
    let reply = session.client.ask_all(request).await.with_context(what)?;
    let list = v1::ListTemplatesRequest::default();
    let listed = session.client.ask_all(list).await.with_context(what)?.templates;
    let template = listed.into_iter().find(|it| it.name == name);
    let missing = || Trouble::missing(format!("there is no template {name}"), "`quoratectl template list` shows them");
    let template = template.ok_or_else(missing).with_context(what)?;
    session.print("TemplateInventoryReply", &reply, || {
        let told = facts(&[
            ("name", template.name.clone()),
            ("kind", word(template.kind().as_str_name(), "TEMPLATE_KIND_")),
            ("version", template.version.clone()),
            ("digest", template.digest.clone()),
            ("path", template.path.clone()),
            ("size", if template.bytes == 0 { String::new() } else { memory(template.bytes) }),
            ("command", template.command.join(" ")),
            ("working dir", template.working_dir.clone()),
        ]);
        match reply.templates.first().map(|it| it.copies.as_slice()) {
            None | Some([]) => told,
            Some(copies) => format!("{told}\n\n{}", table_of(copies)),
        }
    });
    Ok(())
}

/// Errs, after it has shown what was found, unless there is a copy and every copy is whole.
pub async fn verify(session: &Session, request: v1::VerifyTemplateRequest) -> Result<()> {
    let what = format!("verify template {}", request.template);
    let mut telling = Telling::new(session.format, &what);
    let outcome = session.client.verify(request, |reply| {
        telling.tell(&reply.node, reply.phase(), reply.bytes, reply.bytes_total, reply.entries);
    });
    let outcome = outcome.await;
    drop(telling);
    let reply = outcome.with_context(|| what.clone())?;
    session.print("VerifyTemplateReply", &reply, || table_of(&reply.copies));
    whole(&reply.copies).context(what)
}

fn whole(copies: &[v1::TemplateCopy]) -> Result<()> {
    let wrong =
        |copy: &&v1::TemplateCopy| !matches!(copy.presence(), TemplatePresence::Present | TemplatePresence::Absent);
    if let Some(copy) = copies.iter().find(wrong) {
        let presence = word(copy.presence().as_str_name(), "TEMPLATE_PRESENCE_");
        let text = format!("on {} it is {presence}: {}", copy.storage, copy.problem);
        bail!(Trouble::refused(text, "import it under another name, and make its containers of that"));
    }
    match copies.iter().any(|copy| copy.presence() == TemplatePresence::Present) {
        true => Ok(()),
        false => bail!(Trouble::refused("it is on no storage that was looked at", "import it again")),
    }
}

/// The digest of an imported template whose files no other template shares.
pub async fn unshared(session: &Session, name: &str) -> Result<Option<String>> {
    let listed = session.client.ask_all(v1::ListTemplatesRequest::default()).await;
    let listed = listed.with_context(|| format!("remove template {name}"))?.templates;
    let Some(own) = listed.iter().find(|it| it.name == name && it.path.starts_with(IMPORTED)) else { return Ok(None) };
    let is_shared = listed.iter().any(|it| it.name != name && (it.digest == own.digest || it.path == own.path));
    Ok(Some(own.digest.clone()).filter(|digest| !is_shared && !digest.is_empty()))
}

/// Errs where something is left.
pub fn gone(reply: &v1::DiscardTemplateReply) -> Result<()> {
    let is_gone =
        |copy: &v1::TemplateCopy| matches!(copy.presence(), TemplatePresence::Discarded | TemplatePresence::Absent);
    match reply.copies.iter().find(|copy| !is_gone(copy)) {
        None => Ok(()),
        Some(copy) if copy.presence() == TemplatePresence::Claimed => {
            let text = format!("on {} it was imported again meanwhile, and stays", copy.storage);
            bail!(Trouble::refused(text, "look at the templates again"))
        }
        Some(copy) => {
            let text = format!("on {}: {}", copy.storage, copy.problem);
            bail!(Trouble::refused(text, "repeat it where the storage can be written, by --node"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(node: &str, storage: &str, presence: TemplatePresence) -> v1::TemplateCopy {
        let (node, storage) = (node.to_owned(), storage.to_owned());
        v1::TemplateCopy { node, storage, presence: presence.into(), problem: "why".into() }
    }

    #[test]
    fn whole_is_what_is_there_and_nowhere_damaged() {
        let present = copy("n", "a", TemplatePresence::Present);
        let says = |copies: &[v1::TemplateCopy]| whole(copies).err().map(|error| error.to_string());
        assert_eq!(says(&[present.clone(), copy("n", "b", TemplatePresence::Absent)]), None);
        assert_eq!(says(&[present, copy("n", "b", TemplatePresence::Damaged)]), Some("on b it is damaged: why".into()));
        let absent = copy("n", "b", TemplatePresence::Absent);
        assert_eq!(says(&[absent]), Some("it is on no storage that was looked at".into()));
        assert!(says(&[]).is_some());
    }

    #[test]
    fn what_was_imported_again_is_not_gone() {
        let reply = |presence| v1::DiscardTemplateReply { copies: vec![copy("n", "a", presence)] };
        assert!(gone(&reply(TemplatePresence::Discarded)).is_ok());
        assert!(gone(&reply(TemplatePresence::Absent)).is_ok());
        assert!(gone(&reply(TemplatePresence::Claimed)).is_err());
        assert!(gone(&reply(TemplatePresence::Unreadable)).is_err());
    }
}
