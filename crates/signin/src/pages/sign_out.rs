//! Signing out.

use super::Trouble;
use super::layout::{fill, page, path, service, token};
use crate::db::{DbError, sessions};
use crate::realm::Realm;
use crate::web::answer::{Answer, Life, see, set_cookie};
use crate::web::request::Visit;
use http::StatusCode;
use maud::html;
use pumasi_realm::SESSION_COOKIE;

pub fn show(realm: &Realm, visit: &Visit) -> Answer {
    let text = visit.lang.text();
    let body = html! {
        p { (fill(text.sign_out_question, service(realm))) }
        form method="post" action=(path("sign-out")) {
            (token(visit))
            button.main type="submit" { (text.sign_out) }
        }
        p { a href=(path("account")) { (text.back) } }
    };
    page(visit, StatusCode::OK, text.sign_out, None, &body)
}

pub async fn post(realm: &Realm, visit: &Visit) -> Result<Answer, Trouble> {
    if let Some(digest) = visit.session.clone() {
        realm.db.write(move |tx| sessions::end_any(tx, &digest).map_err(DbError::from)).await?;
    }
    let mut answer = see(&format!("{}?out=1", path("sign-in")));
    set_cookie(&mut answer, SESSION_COOKIE, "", Life::Ends);
    Ok(answer)
}
