//! Registered objects and settings.

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::{
    BrakeSettings, Revision, Settings, Span, Storage, StorageKind, Template, TemplateDefaults, TemplateKind,
};

use super::{ConvertError, Result, choice, each, name, part, required, same_variants, text};
use crate::wire;

same_variants! {
    TemplateKind = wire::TemplateKind { Os, Application }
}

impl From<&Template> for wire::Template {
    fn from(template: &Template) -> wire::Template {
        let Template { name, version, digest, kind, path, registered, bytes, defaults } = template;
        wire::Template {
            name: name.to_string(),
            version: text(version),
            digest: text(digest),
            kind: wire::TemplateKind::from(*kind).into(),
            path: text(path),
            registered: registered.0,
            bytes: *bytes,
            command: defaults.command.iter().map(ToString::to_string).collect(),
            environment: (*defaults.environment).clone(),
            working_dir: text(&defaults.working_dir),
        }
    }
}

impl TryFrom<wire::Template> for Template {
    type Error = ConvertError;

    fn try_from(template: wire::Template) -> Result<Template> {
        Ok(Template {
            name: name("name", &template.name)?,
            version: template.version.into(),
            digest: template.digest.into(),
            kind: choice::<wire::TemplateKind, _>("kind", template.kind)?,
            path: template.path.into(),
            registered: Revision(template.registered),
            bytes: template.bytes,
            defaults: template_defaults(template.command, template.environment, template.working_dir),
        })
    }
}

pub(super) fn template_defaults(
    command: Vec<String>,
    environment: BTreeMap<String, String>,
    working_dir: String,
) -> Arc<TemplateDefaults> {
    Arc::new(TemplateDefaults {
        command: command.into_iter().map(String::into_boxed_str).collect(),
        environment: Arc::new(environment),
        working_dir: working_dir.into(),
    })
}

impl From<&StorageKind> for wire::StorageKind {
    fn from(kind: &StorageKind) -> wire::StorageKind {
        let kind = match kind {
            StorageKind::Directory { path } => wire::storage_kind::Kind::Directory(text(path)),
            StorageKind::Local { path } => wire::storage_kind::Kind::Local(text(path)),
        };
        wire::StorageKind { kind: Some(kind) }
    }
}

impl TryFrom<wire::StorageKind> for StorageKind {
    type Error = ConvertError;

    fn try_from(kind: wire::StorageKind) -> Result<StorageKind> {
        Ok(match required("kind", kind.kind)? {
            wire::storage_kind::Kind::Directory(path) => StorageKind::Directory { path: path.into() },
            wire::storage_kind::Kind::Local(path) => StorageKind::Local { path: path.into() },
        })
    }
}

impl From<&Storage> for wire::Storage {
    fn from(storage: &Storage) -> wire::Storage {
        let Storage { name, kind, registered } = storage;
        wire::Storage { name: name.to_string(), kind: Some(kind.into()), registered: registered.0 }
    }
}

impl TryFrom<wire::Storage> for Storage {
    type Error = ConvertError;

    fn try_from(storage: wire::Storage) -> Result<Storage> {
        Ok(Storage {
            name: name("name", &storage.name)?,
            kind: part("kind", storage.kind)?,
            registered: Revision(storage.registered),
        })
    }
}

impl From<&BrakeSettings> for wire::BrakeSettings {
    fn from(brake: &BrakeSettings) -> wire::BrakeSettings {
        let BrakeSettings { enabled, nodes_min, percent, quiet, longest } = *brake;
        wire::BrakeSettings { enabled, nodes_min, percent, quiet_ns: quiet.0, longest_ns: longest.0 }
    }
}

impl TryFrom<wire::BrakeSettings> for BrakeSettings {
    type Error = ConvertError;

    fn try_from(brake: wire::BrakeSettings) -> Result<BrakeSettings> {
        let wire::BrakeSettings { enabled, nodes_min, percent, quiet_ns, longest_ns } = brake;
        Ok(BrakeSettings { enabled, nodes_min, percent, quiet: Span(quiet_ns), longest: Span(longest_ns) })
    }
}

impl From<&Settings> for wire::Settings {
    fn from(settings: &Settings) -> wire::Settings {
        let Settings {
            terms,
            terms_fading,
            brake,
            boot_grace,
            handover_budget,
            handovers_per_node,
            handovers,
            rejoin_cordoned,
        } = settings;
        wire::Settings {
            terms: Some(terms.into()),
            terms_fading: terms_fading.iter().map(Into::into).collect(),
            brake: Some(brake.into()),
            boot_grace_ns: boot_grace.0,
            handover_budget_ns: handover_budget.0,
            handovers_per_node: *handovers_per_node,
            handovers: *handovers,
            rejoin_cordoned: *rejoin_cordoned,
        }
    }
}

impl TryFrom<wire::Settings> for Settings {
    type Error = ConvertError;

    fn try_from(settings: wire::Settings) -> Result<Settings> {
        Ok(Settings {
            terms: part("terms", settings.terms)?,
            terms_fading: each("terms_fading", settings.terms_fading)?,
            brake: part("brake", settings.brake)?,
            boot_grace: Span(settings.boot_grace_ns),
            handover_budget: Span(settings.handover_budget_ns),
            handovers_per_node: settings.handovers_per_node,
            handovers: settings.handovers,
            rejoin_cordoned: settings.rejoin_cordoned,
        })
    }
}
