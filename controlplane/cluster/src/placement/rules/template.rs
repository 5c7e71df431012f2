//! Its template must be registered.

use super::Case;
use crate::placement::Rejection;

pub(super) fn rule(case: &Case) -> Result<(), Rejection> {
    if case.seeker.template_known {
        return Ok(());
    }
    Err(Rejection::TemplateUnknown { template: case.container.spec.template.clone() })
}
