//! Its template must be registered.

use super::Case;
use crate::placement::Rejection;

pub(super) fn rule(case: &Case) -> Result<(), Rejection> {
    let template = &case.container.spec.template;
    match case.state.template(template) {
        Some(_) => Ok(()),
        None => Err(Rejection::TemplateUnknown { template: template.clone() }),
    }
}
