//! placeholder
use crate::realm::Realm;
use crate::web::answer::{Answer, bare};
use crate::web::request::Visit;
use http::StatusCode;
pub async fn answer(_realm: &Realm, _visit: &Visit) -> Answer {
    bare(StatusCode::NOT_FOUND)
}
