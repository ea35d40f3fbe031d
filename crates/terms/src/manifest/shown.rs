//! What `pumasi get service NAME -o yaml` and `pumasi get services -o json` print, read as a manifest again.
//!
//! Always holds: a value that was hidden from whoever printed it is never taken for the value.

use super::Readable;
use crate::document::FieldError;
use crate::service::{Service, ServiceSpec};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// What stands in the place of a value that is not shown. It is refused as a value, so that a redacted manifest cannot be applied by mistake.
pub const NOT_SHOWN: &str = "(not shown)";

/// A service and how it does; the latter is dropped. Later versions may show more beside it.
#[derive(Deserialize)]
pub(super) struct View {
    service: Service,
    #[serde(default, rename = "status")]
    _status: IgnoredAny,
}

#[derive(Deserialize)]
pub(super) struct List {
    items: Vec<View>,
}

impl Readable for View {
    fn services(self) -> Vec<(String, Service)> {
        vec![("service".to_owned(), self.service)]
    }
}

impl Readable for List {
    fn services(self) -> Vec<(String, Service)> {
        let each = self.items.into_iter().enumerate();
        each.map(|(i, view)| (format!("items[{i}].service"), view.service)).collect()
    }
}

pub(super) fn hidden(at: &str, spec: &ServiceSpec, errors: &mut Vec<FieldError>) {
    for (key, _) in spec.application.env.iter().filter(|(_, value)| *value == NOT_SHOWN) {
        errors.push(FieldError {
            field: format!("{at}.application.env.{key}"),
            problem: format!(
                "{NOT_SHOWN:?} stands for a value that was not shown to whoever printed this; write the value, \
                 or print the service with a token that may see it"
            ),
        });
    }
}
