//! Templates and storages: registered by name, removed only when no container names them.

use std::sync::Arc;

use super::{Done, Kind, Outcome, Rejected, Step, invalid, not_found, valid};
use crate::event::Event;
use crate::model::ids::Name;
use crate::model::storage::{Storage, StorageKind};
use crate::model::template::Template;

impl Step<'_> {
    pub(super) fn register_template(&mut self, template: Template) -> Outcome {
        valid::version(&template.version)?;
        valid::digest(&template.digest)?;
        valid::path("path", &template.path)?;
        valid::template_defaults(&template.defaults)?;
        let name = template.name.clone();
        if let Some(template) = self.state.template(&name) {
            let holder = format!("version {}", template.version).into();
            return Err(Rejected::NameTaken { kind: Kind::Template, name: name.as_str().into(), holder });
        }
        let version = Arc::clone(&template.version);
        self.state.put_template(template);
        self.events.push(Event::TemplateRegistered { name, version });
        Ok(Done::Nothing)
    }

    pub(super) fn remove_template(&mut self, name: &Name) -> Outcome {
        self.state.template(name).ok_or_else(|| not_found(Kind::Template, name))?;
        unused(Kind::Template, name, self.state.derived.template_uses.get(name))?;
        self.state.drop_template(name);
        self.events.push(Event::TemplateRemoved { name: name.clone() });
        Ok(Done::Nothing)
    }

    pub(super) fn register_storage(&mut self, name: &Name, kind: &StorageKind) -> Outcome {
        let field = match kind {
            StorageKind::Directory { .. } => "kind.directory.path",
            StorageKind::Local { .. } => "kind.local.path",
        };
        let path = kind.path();
        valid::path(field, path)?;
        if !path.starts_with('/') {
            return Err(invalid(field, format!("{path:?} is not absolute")));
        }
        if let Some(storage) = self.state.storage(name) {
            let holder = format!("{} {}", storage.kind.word(), storage.kind.path()).into();
            return Err(Rejected::NameTaken { kind: Kind::Storage, name: name.as_str().into(), holder });
        }
        self.state.put_storage(Storage { name: name.clone(), kind: kind.clone(), registered: self.index });
        self.events.push(Event::StorageRegistered { name: name.clone() });
        Ok(Done::Nothing)
    }

    pub(super) fn remove_storage(&mut self, name: &Name) -> Outcome {
        self.state.storage(name).ok_or_else(|| not_found(Kind::Storage, name))?;
        unused(Kind::Storage, name, self.state.derived.storage_uses.get(name))?;
        self.state.drop_storage(name);
        self.events.push(Event::StorageRemoved { name: name.clone() });
        Ok(Done::Nothing)
    }
}

fn unused(kind: Kind, name: &Name, uses: Option<&u64>) -> Result<(), Rejected> {
    match uses {
        None => Ok(()),
        Some(count) => {
            let by = format!("{count} container{}", if *count == 1 { "" } else { "s" }).into();
            Err(Rejected::InUse { kind, what: name.as_str().into(), by })
        }
    }
}
