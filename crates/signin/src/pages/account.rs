//! placeholder
use super::layout::{Notice, page};
use super::{Me, Trouble};
use crate::realm::Realm;
use crate::web::answer::Answer;
use crate::web::parse::Form;
use crate::web::request::Visit;
use http::StatusCode;
pub fn show(_realm: &Realm, visit: &Visit, me: &Me, notice: Option<&Notice>) -> Result<Answer, Trouble> {
    Ok(page(visit, StatusCode::OK, visit.lang.text().account, notice, &maud::html! { p { (me.user.login) } }))
}
pub async fn post(_: &Realm, _: &Visit, _: Me, _: &str, _: &Form) -> Result<Answer, Trouble> {
    Err(Trouble::NotFound)
}
