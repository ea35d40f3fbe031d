//! Signing in, by passkey or by password.

use super::layout::{Field, Notice, fill, page, passkey_status, path, service, token};
use super::{Me, Trouble, signed_in, wanted};
use crate::clock;
use crate::db::{DbError, passwords, sessions, users};
use crate::password;
use crate::realm::Realm;
use crate::throttle::network;
use crate::web::answer::{Answer, retry_after};
use crate::web::parse::{Form, escape};
use crate::web::request::Visit;
use http::StatusCode;
use maud::{Markup, html};
use pumasi_realm::Login;
use pumasi_terms::identity::SignUp;

pub fn show(realm: &Realm, visit: &Visit, me: Option<&Me>) -> Answer {
    let text = visit.lang.text();
    let again = visit.query.has("again");
    if let (Some(me), false) = (me, again) {
        let body = html! {
            p { (fill(text.signed_in_as, me.user.login.as_str())) }
            p { a.button href=(wanted(visit.query.get("return"))) { (text.go_on) } }
            p { a href=(path("account")) { (text.account) } " " a href=(path("sign-out")) { (text.sign_out) } }
        };
        return page(visit, StatusCode::OK, &title(realm, visit), None, &body);
    }
    let notice = if again {
        Notice::good(text.sign_in_again)
    } else if visit.query.has("out") {
        Notice::good(text.signed_out)
    } else if visit.query.has("deleted") {
        Notice::good(text.deleted)
    } else {
        None
    };
    let login = if again { me.map_or("", |m| m.user.login.as_str()) } else { "" };
    shown(realm, visit, StatusCode::OK, notice.as_ref(), login, visit.query.get("return"))
}

fn title(realm: &Realm, visit: &Visit) -> String {
    fill(visit.lang.text().sign_in_to_service, service(realm))
}

fn shown(realm: &Realm, visit: &Visit, status: StatusCode, notice: Option<&Notice>, login: &str, to: &str) -> Answer {
    let text = visit.lang.text();
    let to = wanted(to);
    let body = html! {
        @if realm.settings.passwords && !realm.passwords {
            p.notice { (text.passwords_not_here) }
        } @else if realm.passwords_elsewhere() {
            p.notice { (text.passwords_elsewhere) }
        }
        (passkey(realm, visit, to))
        @if realm.passwords {
            p.or { (text.or) }
            form method="post" action=(path("sign-in")) {
                (token(visit))
                input type="hidden" name="return" value=(to);
                (Field { name: "login", label: text.login, value: login, autocomplete: "username", ..Field::default() }.show(text))
                (Field { name: "password", label: text.password, kind: "password", autocomplete: "current-password",
                    bytes_max: password::BYTES_MAX, ..Field::default() }.show(text))
                button type="submit" { (text.with_password) }
            }
        }
        @if realm.settings.sign_up == SignUp::Open {
            p { a href={ (path("sign-up")) "?return=" (escape(to)) } { (text.no_account) } }
        } @else {
            p.hint { (text.only_invited) }
        }
    };
    page(visit, status, &title(realm, visit), notice, &body)
}

fn passkey(realm: &Realm, visit: &Visit, to: &str) -> Markup {
    let text = visit.lang.text();
    let host = realm.challenges.rp_id();
    html! {
        @if visit.host() == host {
            form data-passkey="sign-in" data-path=(path("passkey/sign-in")) {
                (token(visit))
                input type="hidden" name="return" value=(to);
                button.main type="button" data-begin { (text.with_passkey) }
                (passkey_status(realm, text))
            }
        } @else {
            p { (fill(text.passkeys_at_host, host)) }
        }
    }
}

pub async fn post(realm: &Realm, visit: &Visit, form: &Form) -> Result<Answer, Trouble> {
    let text = visit.lang.text();
    if !realm.passwords {
        return Err(Trouble::NotPossible);
    }
    let (login, password, to) = (form.get("login"), form.get("password"), form.get("return"));
    let refused = |status, told: &str| shown(realm, visit, status, Notice::bad(told).as_ref(), login, to);
    let wrong = || Ok(refused(StatusCode::FORBIDDEN, text.wrong));
    let Ok(name) = Login::parse(login) else { return wrong() };
    if let Err(wait_ms) = admit(realm, &name, visit) {
        let told = fill(text.wait_seconds, &wait_ms.div_ceil(1_000).to_string());
        return Ok(retry_after(refused(StatusCode::TOO_MANY_REQUESTS, &told), wait_ms));
    }
    // One that nobody could have set is wrong at the same cost.
    let bounded = (password.len() <= password::BYTES_MAX).then(|| password.to_owned());
    let found = realm.db.read(|view| passwords::find(view, &name).map_err(DbError::from))?;
    let (user, phc) = match found {
        Some((user, phc)) if bounded.is_some() => (Some(user), phc),
        _ => (None, None),
    };
    let Ok(right) = realm.hashes.is_right(bounded.unwrap_or_default(), phc.clone()).await else {
        take_back(realm, &name, visit);
        return Ok(retry_after(refused(StatusCode::SERVICE_UNAVAILABLE, text.busy), 2_000));
    };
    let (Some(user), true) = (user.filter(|u| !u.disabled), right) else { return wrong() };
    let (subject, no, label, old) = (user.subject, user.password_no, visit.label.clone(), visit.session.clone());
    let begun = realm
        .db
        .write(move |tx| {
            // It may have ended, or got another password, while its hash was computed.
            let still = users::by_subject(tx.realm, &subject)?.is_some_and(|u| !u.disabled && u.password_no == no);
            if !still {
                return Ok(None);
            }
            sessions::begin(tx, &subject, &label, old.as_deref()).map(Some).map_err(DbError::from)
        })
        .await?;
    let Some(secret) = begun else { return wrong() };
    let mut throttles = realm.throttles();
    throttles.login.forget(&name);
    throttles.address.take_back(&network(visit.address));
    Ok(signed_in(&secret, wanted(to)))
}

fn admit(realm: &Realm, login: &Login, visit: &Visit) -> Result<(), u64> {
    let (now_ms, from) = (clock::now_ms(), network(visit.address));
    let mut throttles = realm.throttles();
    throttles.address.admit(&from, now_ms)?;
    throttles.login.admit(login, now_ms).inspect_err(|_| throttles.address.take_back(&from))
}

/// It was not worked on.
fn take_back(realm: &Realm, login: &Login, visit: &Visit) {
    let mut throttles = realm.throttles();
    throttles.login.take_back(login);
    throttles.address.take_back(&network(visit.address));
}
