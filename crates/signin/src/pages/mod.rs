//! Pages for users, below [`pumasi_realm::PAGES`]: HTML that works without a script, but for passkeys.
//!
//! Always holds: a change needs a token that belongs to this browser and session, from a page of this host; a sign-in begins a new
//! session; what a page says of a login that does not exist is what it says of a wrong password.

mod account;
mod layout;
mod passkeys;
mod sign_in;
mod sign_out;
mod sign_up;

use crate::clock;
use crate::db::users::User;
use crate::db::{DbError, sessions};
use crate::realm::Realm;
use crate::web::answer::{self, Answer, Life, retry_after, see, set_cookie};
use crate::web::parse::{Form, return_path};
use crate::web::request::{FORM_COOKIE, LANG_COOKIE, Visit};
use http::{Method, StatusCode};
use layout::{Notice, page, path};
use pumasi_realm::SESSION_COOKIE;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("passkey.js");
const YEAR_SECONDS: u64 = 365 * 86_400;

/// Who is signed in, and by what.
#[derive(Debug, Clone)]
pub struct Me {
    pub user: User,
    pub session: sessions::Session,
}

impl Me {
    fn is_recent(&self) -> bool {
        self.session.is_recent(clock::now_ms())
    }
}

/// Why a page was not answered as asked.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("a form that is not ours")]
    Stale,
    #[error("nobody is signed in")]
    Nobody,
    #[error("the sign-in is too long ago")]
    Again,
    #[error("not possible here")]
    NotPossible,
    #[error("there is no such page")]
    NotFound,
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<rusqlite::Error> for Trouble {
    fn from(e: rusqlite::Error) -> Self {
        Self::Db(e.into())
    }
}

pub async fn answer(realm: &Realm, visit: &Visit) -> Answer {
    match visit.page.as_str() {
        "style.css" => return answer::asset("text/css; charset=utf-8", STYLE),
        "passkey.js" => return answer::asset("text/javascript; charset=utf-8", SCRIPT),
        _ => {}
    }
    // Cookies of one host are not another's: a host that is none of the service's gets none.
    if !realm.settings.hosts.iter().any(|h| h.eq_ignore_ascii_case(visit.host())) {
        return answer::bare(StatusCode::MISDIRECTED_REQUEST);
    }
    let mut answer = match dispatch(realm, visit).await {
        Ok(answer) => answer,
        Err(trouble) => troubled(visit, &trouble),
    };
    if visit.browser_is_new {
        set_cookie(&mut answer, FORM_COOKIE, &visit.browser, Life::Browser);
    }
    if visit.lang_chosen {
        set_cookie(&mut answer, LANG_COOKIE, visit.lang.tag(), Life::Seconds(YEAR_SECONDS));
    }
    answer
}

async fn dispatch(realm: &Realm, visit: &Visit) -> Result<Answer, Trouble> {
    let get = visit.method == Method::GET || visit.method == Method::HEAD;
    if !get && visit.method != Method::POST {
        return Ok(answer::bare(StatusCode::METHOD_NOT_ALLOWED));
    }
    let page = visit.page.as_str();
    if !get && page.starts_with("passkey/") {
        return Ok(passkeys::answer(realm, visit).await);
    }
    if get {
        let me = me(realm, visit)?;
        return match page {
            "" => Ok(see(&path("account"))),
            "sign-in" => Ok(sign_in::show(realm, visit, me.as_ref())),
            "sign-up" => sign_up::show(realm, visit),
            "sign-out" => Ok(sign_out::show(realm, visit)),
            "account" => account::show(realm, visit, &me.ok_or(Trouble::Nobody)?, None),
            _ => Err(Trouble::NotFound),
        };
    }
    let form = Form::parse(&visit.body).filter(|form| visit.is_ours(form.get("token"))).ok_or(Trouble::Stale)?;
    match page {
        "sign-in" => sign_in::post(realm, visit, &form).await,
        "sign-up" => sign_up::post(realm, visit, &form).await,
        "sign-out" => sign_out::post(realm, visit).await,
        _ => match page.strip_prefix("account/") {
            Some(act) => {
                let me = me(realm, visit)?.ok_or(Trouble::Nobody)?;
                account::post(realm, visit, me, act, &form).await
            }
            None => Err(Trouble::NotFound),
        },
    }
}

fn me(realm: &Realm, visit: &Visit) -> Result<Option<Me>, Trouble> {
    let Some(digest) = &visit.session else { return Ok(None) };
    let found = realm.db.read(|view| sessions::who(&view.realm, digest, clock::now_ms()).map_err(DbError::from))?;
    Ok(found.map(|(user, session)| Me { user, session }))
}

fn troubled(visit: &Visit, trouble: &Trouble) -> Answer {
    let text = visit.lang.text();
    let back = crate::web::parse::escape(&path("account"));
    let (status, told) = match trouble {
        Trouble::Nobody => return see(&format!("{}?return={back}", path("sign-in"))),
        Trouble::Again => return see(&format!("{}?again=1&return={back}", path("sign-in"))),
        Trouble::Stale => (StatusCode::FORBIDDEN, text.stale_form),
        Trouble::NotPossible => (StatusCode::FORBIDDEN, text.not_possible),
        Trouble::NotFound => (StatusCode::NOT_FOUND, text.not_found),
        Trouble::Db(e) => {
            tracing::warn!("answering a page: {e}");
            (StatusCode::SERVICE_UNAVAILABLE, text.failed)
        }
    };
    let body = maud::html! { p { a href=(path("account")) { (text.back) } } };
    let answer = page(visit, status, text.problem, Notice::bad(told).as_ref(), &body);
    if status == StatusCode::SERVICE_UNAVAILABLE { retry_after(answer, 1_000) } else { answer }
}

/// Where to go after a sign-in: a path of this host, or its root.
fn wanted(text: &str) -> &str {
    return_path(text).unwrap_or("/")
}

/// On to `to` with a new session.
fn signed_in(secret: &str, to: &str) -> Answer {
    let mut answer = see(to);
    keep_session(&mut answer, secret);
    answer
}

fn keep_session(answer: &mut Answer, secret: &str) {
    set_cookie(answer, SESSION_COOKIE, secret, Life::Seconds(sessions::LIFE_MS / 1_000));
}
