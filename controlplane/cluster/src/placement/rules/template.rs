//! Its templates must be registered, and be where the node can lay them over each other: on the container's own storage or,
//! where a digest says that a copy is the same, on any other the node finds it on. A node is refused only for what it has
//! itself said is missing, in this incarnation, after the template was registered: one that has not looked yet, or cannot,
//! is not refused for ever by what was so once. It looks again every few seconds, and whoever was refused is tried again.

use super::Case;
use crate::model::inventory::{Inventory, TemplateSight};
use crate::model::template::Template;
use crate::placement::Rejection;

pub(super) fn rule(case: &Case) -> Result<(), Rejection> {
    let seeker = case.seeker;
    if let Some(template) = seeker.unknown_template {
        return Err(Rejection::TemplateUnknown { template: template.clone() });
    }
    let Some(kept) = seeker.state().node_report(case.node.id) else {
        // Older agents report nothing, and would start it without what is to be laid over its template.
        let layered = !case.container.spec.application_templates.is_empty();
        return if layered { Err(Rejection::AgentTooOld) } else { Ok(()) };
    };
    if case.node.up() != Some(kept.incarnation) {
        return Ok(());
    }
    seeker.templates().try_for_each(|template| found(case, &kept.report.templates, template))
}

fn found(case: &Case, inventory: &Inventory, template: &Template) -> Result<(), Rejection> {
    if template.path.is_empty() {
        return Ok(());
    }
    let Some(own) = case.seeker.storage else { return Ok(()) };
    let (template_name, storage) = (|| template.name.clone(), || own.name.clone());
    let sight = match inventory.sight(template, own) {
        sight @ (TemplateSight::Present | TemplateSight::Unknown) => sight,
        _ if template.is_imported() && is_elsewhere(case, inventory, template) => TemplateSight::Present,
        sight => sight,
    };
    match sight {
        TemplateSight::Present | TemplateSight::Unknown => Ok(()),
        TemplateSight::Absent => Err(Rejection::TemplateMissing { template: template_name(), storage: storage() }),
        TemplateSight::Damaged => Err(Rejection::TemplateDamaged { template: template_name(), storage: storage() }),
    }
}

fn is_elsewhere(case: &Case, inventory: &Inventory, template: &Template) -> bool {
    case.seeker.state().storages().any(|storage| inventory.sight(template, storage) == TemplateSight::Present)
}
