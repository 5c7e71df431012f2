//! Imports of templates: what a caller asks, what the node is told, what the log says when it is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::{Command, Name, Node, RequestId, State, TemplateKind};

use super::object::template_defaults;
use super::request::{node, unset_or};
use super::{ConvertError, Result, name};
use crate::v1;
use crate::wire::{self, TemplateTreatment};

/// A request that was looked at: everything it names is there.
pub struct Import {
    pub name: Name,
    pub version: Arc<str>,
    pub kind: TemplateKind,
    /// Who does it, where the caller said.
    pub node: Option<Arc<Node>>,
    pub order: wire::ImportTemplate,
}

impl Import {
    /// Errs with what is wrong with the request; whether the name is taken is not looked at.
    pub fn read(request: v1::ImportTemplateRequest, id: RequestId, state: &State) -> Result<Import> {
        let v1::ImportTemplateRequest { name: called, version, kind, source, storage, digest, plain_http, .. } =
            &request;
        if source.is_empty() {
            return Err(ConvertError::missing("source"));
        }
        let storage = name("storage", storage)?;
        let found = state.storage(&storage).ok_or_else(|| {
            let hint = "list them with `quoratectl storage list`";
            ConvertError::not_found("storage", format!("there is no storage {storage}")).hint(hint)
        })?;
        let path = found.kind.path();
        let treatments = treatments(&request)?;
        let kind = unset_or::<v1::TemplateKind, _>("kind", *kind, TemplateKind::Os)?;
        let of = |it: v1::TemplateTrait| treatments.get(&it).copied().unwrap_or_default().into();
        let order = wire::ImportTemplate {
            source: source.clone(),
            storage_path: path.to_string(),
            digest: digest.clone(),
            plain_http: *plain_http,
            set_id: of(v1::TemplateTrait::SetId),
            capabilities: of(v1::TemplateTrait::Capabilities),
            devices: of(v1::TemplateTrait::Devices),
            fifos: of(v1::TemplateTrait::Fifos),
            claim: format!("{}/{}", id.session, id.sequence),
            over_others: kind == TemplateKind::Application,
        };
        let asked = Some(request.node.as_str()).filter(|asked| !asked.is_empty());
        Ok(Import {
            name: name("name", called)?,
            version: version.as_str().into(),
            kind,
            node: asked.map(|asked| node(state, "node", asked).map(Arc::clone)).transpose()?,
            order,
        })
    }

    /// What the log is asked to say of what the node brought.
    pub fn registration(&self, imported: &wire::TemplateImported) -> Command {
        let variable = |text: &String| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (name.to_owned(), value.to_owned())
        };
        let environment = imported.environment.iter().map(variable).collect();
        Command::RegisterTemplate {
            name: self.name.clone(),
            version: Arc::clone(&self.version),
            digest: imported.digest.as_str().into(),
            kind: self.kind,
            path: imported.path.as_str().into(),
            bytes: imported.bytes,
            defaults: template_defaults(imported.command.clone(), environment, imported.working_dir.clone()),
        }
    }
}

fn treatments(request: &v1::ImportTemplateRequest) -> Result<BTreeMap<v1::TemplateTrait, TemplateTreatment>> {
    let mut treatments = BTreeMap::new();
    let lists = [
        ("leave_out", &request.leave_out, TemplateTreatment::LeaveOut),
        ("refuse", &request.refuse, TemplateTreatment::Refuse),
    ];
    for (field, list, treatment) in lists {
        for (place, said) in list.iter().enumerate() {
            let field = format!("{field}[{place}]");
            let it = match v1::TemplateTrait::try_from(*said) {
                Ok(v1::TemplateTrait::Unspecified) | Err(_) => {
                    return Err(ConvertError::invalid(&field, format!("{said} names nothing a template may hold")));
                }
                Ok(it) => it,
            };
            if treatments.insert(it, treatment).is_some_and(|before| before != treatment) {
                return Err(ConvertError::invalid(&field, "is to be left out and refused"));
            }
        }
    }
    Ok(treatments)
}

impl v1::ImportPhase {
    pub fn of(phase: wire::ErrandPhase) -> v1::ImportPhase {
        match phase {
            wire::ErrandPhase::Unspecified => v1::ImportPhase::Waiting,
            wire::ErrandPhase::Fetching => v1::ImportPhase::Fetching,
            wire::ErrandPhase::Reading => v1::ImportPhase::Reading,
            wire::ErrandPhase::Checking => v1::ImportPhase::Checking,
            wire::ErrandPhase::Keeping => v1::ImportPhase::Keeping,
        }
    }
}
