//! What the daemon asks: users, invitations, status ([`pumasi_realm::admin`]).

use crate::clock::{self, HOUR_MS};
use crate::db::end::{End, end_user};
use crate::db::invitations::{self, For};
use crate::db::{DbError, View, passwords, sessions, users};
use crate::fields;
use crate::realm::Realm;
use crate::web::answer::{Answer, bare, json, retry_after};
use crate::web::parse::{self, Form};
use http::request::Parts;
use http::{Method, StatusCode};
use pumasi_realm::admin::{Change, Invitation, Invite, Refusal, Status, USERS_MAX, User, Users};
use pumasi_realm::{Login, PAGES};
use serde::de::DeserializeOwned;

const TTL_HOURS_MAX: u32 = 720;

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("no user has the login {0}")]
    NoSuchUser(Login),
    #[error("{0}")]
    BadRequest(String),
    #[error("a user has the login {0} already")]
    Exists(Login),
    #[error("{} invitations are open; some must be used or end first", invitations::INVITATIONS_MAX)]
    Full,
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<rusqlite::Error> for Refused {
    fn from(e: rusqlite::Error) -> Self {
        Self::Db(e.into())
    }
}

impl Refused {
    fn answer(&self) -> Answer {
        let (status, code) = match self {
            Self::NoSuchUser(_) => (StatusCode::NOT_FOUND, "no_such_user"),
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::Exists(_) => (StatusCode::CONFLICT, "exists"),
            Self::Full => (StatusCode::CONFLICT, "full"),
            Self::Db(e) => {
                tracing::warn!("answering the daemon: {e}");
                (StatusCode::SERVICE_UNAVAILABLE, "busy")
            }
        };
        let answer = json(status, &Refusal { code: code.into(), detail: self.to_string() });
        if status == StatusCode::SERVICE_UNAVAILABLE { retry_after(answer, 1_000) } else { answer }
    }
}

pub async fn answer(realm: &Realm, parts: &Parts, body: &[u8]) -> Answer {
    let path = parts.uri.path().strip_prefix("/admin/v1/").unwrap_or_default();
    let done = match (&parts.method, path) {
        (&Method::GET, "status") => status(realm).map(|s| json(StatusCode::OK, &s)),
        (&Method::GET, "users") => list(realm, parts.uri.query().unwrap_or_default()).map(|u| json(StatusCode::OK, &u)),
        (&Method::POST, "invitations") => invite(realm, body).await.map(|i| json(StatusCode::CREATED, &i)),
        (method, path) => match path.strip_prefix("users/").and_then(parse::segment).map(|l| Login::parse(&l)) {
            None => return bare(StatusCode::NOT_FOUND),
            Some(Err(e)) => Err(Refused::BadRequest(e.to_string())),
            Some(Ok(login)) => match *method {
                Method::GET => one(realm, &login),
                Method::POST => change(realm, login, body).await,
                Method::DELETE => delete(realm, login).await,
                _ => return bare(StatusCode::METHOD_NOT_ALLOWED),
            }
            .map(|user| json(StatusCode::OK, &user)),
        },
    };
    done.unwrap_or_else(|refused| refused.answer())
}

fn message<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|e| Refused::BadRequest(format!("the message cannot be read: {e}")))
}

fn status(realm: &Realm) -> Result<Status, Refused> {
    let now_ms = clock::now_ms();
    realm
        .db
        .read(|view| Ok(Status { users: users::count(&view.realm)?, sessions: sessions::count(&view.realm, now_ms)? }))
}

fn list(realm: &Realm, query: &str) -> Result<Users, Refused> {
    let bad = || Refused::BadRequest("the query is not ?after=LOGIN&limit=N".into());
    let query = Form::parse(query.as_bytes()).ok_or_else(bad)?;
    let limit = if query.has("limit") { query.get("limit").parse().map_err(|_| bad())? } else { USERS_MAX };
    if !(1..=USERS_MAX).contains(&limit) {
        return Err(Refused::BadRequest(format!("limit is 1 to {USERS_MAX}")));
    }
    realm.db.read(|view| {
        let mut found = users::page(&view.realm, query.get("after"), limit + 1)?;
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let next = if more { found.last().map(|u| u.login.clone()) } else { None };
        let items = found.into_iter().map(|u| told(view, u)).collect::<Result<_, Refused>>()?;
        Ok(Users { items, next })
    })
}

fn told(view: &View, user: users::User) -> Result<User, Refused> {
    let count = |table| users::count_of(&view.realm, table, &user.subject);
    Ok(User {
        passkeys: count("passkey")?,
        password: passwords::hash_of(view, &user)?.is_some(),
        app_passwords: count("app_password")?,
        sessions: count("session")?,
        subject: user.subject,
        login: user.login,
        name: user.name,
        email: user.email,
        groups: user.groups,
        disabled: user.disabled,
        created_at_ms: user.created_at_ms,
        signed_in_at_ms: user.signed_in_at_ms,
    })
}

fn one(realm: &Realm, login: &Login) -> Result<User, Refused> {
    realm.db.read(|view| match users::by_login(&view.realm, login)? {
        None => Err(Refused::NoSuchUser(login.clone())),
        Some(user) => told(view, user),
    })
}

async fn change(realm: &Realm, login: Login, body: &[u8]) -> Result<User, Refused> {
    let change: Change = message(body)?;
    if let Some(groups) = &change.groups {
        fields::groups(groups).map_err(Refused::BadRequest)?;
    }
    let of = login.clone();
    realm
        .db
        .write(move |tx| {
            let user = users::by_login(tx.realm, &of)?.ok_or(Refused::NoSuchUser(of))?;
            if let Some(groups) = &change.groups {
                users::regroup(tx, &user.subject, groups)?;
            }
            match change.disabled {
                Some(true) => end_user(tx, &user.subject, End::Disable)?,
                Some(false) => users::set_disabled(tx, &user.subject, false)?,
                None => {}
            }
            if change.sign_out {
                end_user(tx, &user.subject, End::SignOut)?;
            }
            Ok::<_, Refused>(())
        })
        .await?;
    one(realm, &login)
}

async fn delete(realm: &Realm, login: Login) -> Result<User, Refused> {
    let was = one(realm, &login)?;
    let subject = was.subject.clone();
    realm
        .db
        .write(move |tx| match users::by_subject(tx.realm, &subject)? {
            // Two asked at the same time.
            None => Err(Refused::NoSuchUser(login)),
            Some(_) => Ok(end_user(tx, &subject, End::Delete)?),
        })
        .await?;
    Ok(was)
}

async fn invite(realm: &Realm, body: &[u8]) -> Result<Invitation, Refused> {
    let Invite { login, groups, recovery, ttl_hours } = message(body)?;
    if !(1..=TTL_HOURS_MAX).contains(&ttl_hours) {
        return Err(Refused::BadRequest(format!("ttl_hours is 1 to {TTL_HOURS_MAX}")));
    }
    fields::groups(&groups).map_err(Refused::BadRequest)?;
    let ends_at_ms = clock::now_ms() + u64::from(ttl_hours) * HOUR_MS;
    let secret = realm
        .db
        .write(move |tx| {
            let known = login.as_ref().map(|l| users::by_login(tx.realm, l)).transpose()?.flatten();
            let what = match (login, known, recovery) {
                (None, _, true) => return Err(Refused::BadRequest("whoever gets back in has a login: name it".into())),
                (Some(login), None, true) => return Err(Refused::NoSuchUser(login)),
                (_, Some(user), true) if user.disabled => {
                    return Err(Refused::BadRequest(format!("{} is disabled: enable it first", user.login)));
                }
                (_, Some(_), true) if !groups.is_empty() => {
                    return Err(Refused::BadRequest(
                        "groups are for new users; change those of a user by itself".into(),
                    ));
                }
                (_, Some(user), true) => For::Back { subject: user.subject, login: user.login },
                (Some(login), Some(_), false) => return Err(Refused::Exists(login)),
                (login, None, false) => For::New { login, groups },
                (None, Some(_), false) => return Err(Refused::BadRequest("a login is missing".into())),
            };
            invitations::make(tx, &what, ends_at_ms)?.ok_or(Refused::Full)
        })
        .await?;
    Ok(Invitation { path: format!("{PAGES}sign-up?invitation={secret}"), ends_at_ms })
}
