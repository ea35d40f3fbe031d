//! What the gateway asks: who somebody is, and what ended ([`pumasi_realm::gate`]).

use crate::clock::{self, MINUTE_MS};
use crate::db::users::User;
use crate::db::{DbError, app_passwords, sessions};
use crate::realm::Realm;
use crate::web::answer::{Answer, bare, json, retry_after};
use crate::web::parse::Form;
use http::request::Parts;
use http::{Method, StatusCode};
use pumasi_realm::gate::{self, Check, Checked, FRESH_MS, WAIT_MS};
use std::time::Duration;
use tokio::sync::watch;

/// That an app password was used is written at most so often.
const USED_EACH_MS: u64 = 60 * MINUTE_MS;

pub async fn answer(realm: &Realm, parts: &Parts, body: &[u8], mut stopping: watch::Receiver<bool>) -> Answer {
    match (&parts.method, parts.uri.path()) {
        (&Method::POST, gate::CHECK) => match serde_json::from_slice(body) {
            Err(_) => bare(StatusCode::BAD_REQUEST),
            Ok(asked) => match check(realm, &asked, clock::now_ms()) {
                Ok(checked) => json(StatusCode::OK, &checked),
                Err(e) => {
                    tracing::warn!("answering the gateway who somebody is: {e}");
                    retry_after(bare(StatusCode::SERVICE_UNAVAILABLE), 1_000)
                }
            },
        },
        (&Method::GET, gate::ENDED) => {
            let query = Form::parse(parts.uri.query().unwrap_or_default().as_bytes());
            let after = query.and_then(|q| q.get("after").parse().ok());
            let Some(after) = after else { return bare(StatusCode::BAD_REQUEST) };
            tokio::select! {
                ended = realm.ring.ended(after, Duration::from_millis(WAIT_MS)) => json(StatusCode::OK, &ended),
                _ = stopping.wait_for(|stop| *stop) => bare(StatusCode::SERVICE_UNAVAILABLE),
            }
        }
        (_, gate::CHECK | gate::ENDED) => bare(StatusCode::METHOD_NOT_ALLOWED),
        _ => bare(StatusCode::NOT_FOUND),
    }
}

pub fn check(realm: &Realm, asked: &Check, now_ms: u64) -> Result<Checked, DbError> {
    // Secrets are random: what is nobody's now will not become somebody's.
    let nobody = Checked { user: None, holds_ms: FRESH_MS };
    match asked {
        Check::Session { digest } => {
            let found = realm.db.read(|view| sessions::who(&view.realm, digest, now_ms).map_err(DbError::from))?;
            let Some((user, session)) = found else { return Ok(nobody) };
            if now_ms.saturating_sub(session.seen_at_ms) >= sessions::SEEN_EACH_MS {
                let digest = digest.clone();
                realm.db.write_soon(move |tx| sessions::seen(tx, &digest));
            }
            let left_ms = session.ends_ms().saturating_sub(now_ms);
            Ok(Checked { user: Some(told(user)), holds_ms: left_ms.min(FRESH_MS) })
        }
        Check::App { .. } if !realm.settings.basic => Ok(nobody),
        Check::App { login, digest } => {
            let Ok(login) = pumasi_realm::Login::parse(login) else { return Ok(nobody) };
            let of =
                |view: &crate::db::View| app_passwords::who(&view.realm, login.as_str(), digest).map_err(DbError::from);
            let Some((user, used_at_ms)) = realm.db.read(of)? else { return Ok(nobody) };
            if used_at_ms.is_none_or(|at| now_ms.saturating_sub(at) >= USED_EACH_MS) {
                let digest = digest.clone();
                realm.db.write_soon(move |tx| app_passwords::used(tx, &digest));
            }
            Ok(Checked { user: Some(told(user)), holds_ms: FRESH_MS })
        }
    }
}

fn told(user: User) -> gate::User {
    let User { subject, login, name, email, groups, .. } = user;
    gate::User { subject, login, name, email, groups }
}
