//! A user's own page: what is known of it, and everything by which it is let in.

use super::layout::{Field, Notice, act, day, fill, page, passkey_status, path, token};
use super::{Me, Trouble};
use crate::clock;
use crate::db::end::{End, end_user};
use crate::db::sessions::Session;
use crate::db::{DbError, Tx, app_passwords, passkeys, passwords, sessions, users};
use crate::fields;
use crate::password;
use crate::realm::Realm;
use crate::text::Text;
use crate::web::answer::{Answer, Life, retry_after, see, set_cookie};
use crate::web::parse::Form;
use crate::web::request::Visit;
use http::StatusCode;
use maud::{Markup, html};
use pumasi_realm::SESSION_COOKIE;

/// Why something stays as it is.
#[derive(Debug, thiserror::Error)]
enum Kept {
    #[error("the last way to sign in")]
    LastWay,
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<rusqlite::Error> for Kept {
    fn from(e: rusqlite::Error) -> Self {
        Self::Db(e.into())
    }
}

pub fn show(realm: &Realm, visit: &Visit, me: &Me, notice: Option<&Notice>) -> Result<Answer, Trouble> {
    shown(realm, visit, me, StatusCode::OK, notice, None)
}

fn shown(
    realm: &Realm,
    visit: &Visit,
    me: &Me,
    status: StatusCode,
    notice: Option<&Notice>,
    made: Option<&str>,
) -> Result<Answer, Trouble> {
    let text = visit.lang.text();
    let subject = &me.user.subject;
    let (keys, apps, sessions) = realm.db.read(|view| {
        let keys = passkeys::of_user(&view.realm, subject)?;
        let apps = app_passwords::of_user(&view.realm, subject)?;
        Ok::<_, DbError>((keys, apps, sessions::of_user(&view.realm, subject, clock::now_ms())?))
    })?;
    let done = (notice.is_none() && visit.query.has("done")).then(|| Notice { bad: false, text: text.saved.into() });
    let no_way = keys.is_empty() && !(realm.settings.passwords && me.user.password_no > 0);
    let body = html! {
        @if no_way { p.notice.bad { (text.no_way) } }
        p { (fill(text.signed_in_as, me.user.login.as_str())) " " a href=(path("sign-out")) { (text.sign_out) } }
        p { a href="/" { (text.go_on) } }
        (about(visit, me))
        (passkey_section(realm, visit, &keys))
        @if realm.settings.passwords { (password_section(realm, visit, me, !keys.is_empty())) }
        @if realm.settings.basic { (app_section(visit, &apps, made)) }
        (session_section(visit, me, &sessions))
        section aria-labelledby="deleting" {
            h2 id="deleting" { (text.delete_account) }
            p { (text.delete_hint) }
            form method="post" action=(path("account/delete")) {
                (token(visit))
                (Field { name: "confirm", label: text.delete_confirm, ..Field::default() }.show(text))
                button.danger type="submit" { (text.delete_account) }
            }
        }
    };
    Ok(page(visit, status, text.account, notice.or(done.as_ref()), &body))
}

fn about(visit: &Visit, me: &Me) -> Markup {
    let text = visit.lang.text();
    html! {
        section aria-labelledby="about" {
            h2 id="about" { (text.about_you) }
            form method="post" action=(path("account/profile")) {
                (token(visit))
                (Field { name: "name", label: text.name, value: &me.user.name, autocomplete: "name", required: false,
                    bytes_max: fields::NAME_BYTES_MAX, ..Field::default() }.show(text))
                (Field { name: "email", label: text.email, kind: "email", value: &me.user.email, autocomplete: "email", required: false,
                    bytes_max: fields::EMAIL_BYTES_MAX, ..Field::default() }.show(text))
                @if !me.user.groups.is_empty() { p { (text.groups) ": " (me.user.groups.join(", ")) } }
                button type="submit" { (text.save) }
            }
        }
    }
}

fn passkey_section(realm: &Realm, visit: &Visit, keys: &[passkeys::Passkey]) -> Markup {
    let text = visit.lang.text();
    let host = realm.challenges.rp_id();
    html! {
        section aria-labelledby="passkeys" {
            h2 id="passkeys" { (text.passkeys) }
            p { (text.passkeys_hint) }
            @if keys.is_empty() { p { (text.no_passkeys) } }
            ul.things {
                @for (i, key) in keys.iter().enumerate() {
                    @let id = hex::encode(&key.id);
                    @let field = format!("passkey-{i}");
                    li {
                        strong { (key.name) }
                        (when(text, key.created_at_ms, key.used_at_ms))
                        @if key.rp_id != host { p.hint { (fill(text.passkeys_at_host, &key.rp_id)) } }
                        form.acts method="post" action=(path("account/passkey/rename")) {
                            (token(visit))
                            input type="hidden" name="id" value=(id);
                            span.grow {
                                label for=(field) { (text.passkey_name) }
                                input id=(field) name="name" value=(key.name) required maxlength=(fields::NAME_BYTES_MAX);
                            }
                            button.quiet type="submit" aria-label={ (text.rename) ": " (key.name) } { (text.rename) }
                        }
                        (act(visit, "account/passkey/remove", &[("id", &id)], text.remove, &key.name))
                    }
                }
            }
            @if visit.host() == host {
                form data-passkey="add" data-path=(path("passkey/add")) {
                    (token(visit))
                    (Field { name: "passkey_name", label: text.passkey_name, value: text.default_passkey_name,
                        bytes_max: fields::NAME_BYTES_MAX, ..Field::default() }.show(text))
                    button type="button" data-begin { (text.add_passkey) }
                    (passkey_status(realm, text))
                }
            } @else {
                p { (fill(text.passkeys_at_host, host)) }
            }
        }
    }
}

fn password_section(realm: &Realm, visit: &Visit, me: &Me, has_passkey: bool) -> Markup {
    let text = visit.lang.text();
    let has = me.user.password_no > 0;
    html! {
        section aria-labelledby="password-title" {
            h2 id="password-title" { (text.password) }
            p { (if has { text.password_is_set } else { text.no_password }) }
            @if realm.passwords {
                form method="post" action=(path("account/password")) {
                    (token(visit))
                    input type="text" name="login" value=(me.user.login) autocomplete="username" hidden;
                    (Field { name: "password", label: text.new_password, kind: "password", hint: text.password_hint,
                        autocomplete: "new-password", bytes_max: password::BYTES_MAX, ..Field::default() }.show(text))
                    button type="submit" { (if has { text.change_password } else { text.set_password }) }
                }
            } @else {
                p.notice { (text.passwords_not_here) }
            }
            @if has && has_passkey { p { (act(visit, "account/password/remove", &[], text.remove_password, "")) } }
        }
    }
}

fn app_section(visit: &Visit, apps: &[app_passwords::AppPassword], made: Option<&str>) -> Markup {
    let text = visit.lang.text();
    html! {
        section aria-labelledby="apps" {
            h2 id="apps" { (text.app_passwords) }
            p { (text.app_passwords_hint) }
            @if let Some(secret) = made {
                div.notice role="status" { (text.app_password_made) " " code.secret { (secret) } }
            }
            ul.things {
                @for app in apps {
                    li {
                        strong { (app.name) }
                        (when(text, app.created_at_ms, app.used_at_ms))
                        (act(visit, "account/app-password/revoke", &[("digest", &app.digest)], text.revoke, &app.name))
                    }
                }
            }
            form method="post" action=(path("account/app-password")) {
                (token(visit))
                (Field { name: "app_name", label: text.app_password_name, bytes_max: fields::NAME_BYTES_MAX, ..Field::default() }.show(text))
                button type="submit" { (text.make_app_password) }
            }
        }
    }
}

fn session_section(visit: &Visit, me: &Me, sessions: &[Session]) -> Markup {
    let text = visit.lang.text();
    html! {
        section aria-labelledby="sessions" {
            h2 id="sessions" { (text.sessions) }
            ul.things {
                @for session in sessions {
                    @let label = if session.label.is_empty() { text.unknown_browser } else { session.label.as_str() };
                    li {
                        (label)
                        @if session.digest == me.session.digest { " " strong { "(" (text.this_session) ")" } }
                        div.hint { (text.last_seen) " " (day(session.seen_at_ms)) }
                        @if session.digest != me.session.digest {
                            (act(visit, "account/session/end", &[("digest", &session.digest)], text.end, label))
                        }
                    }
                }
            }
            @if sessions.len() > 1 { (act(visit, "account/sessions/end-others", &[], text.end_others, "")) }
        }
    }
}

fn when(text: &Text, created_at_ms: u64, used_at_ms: Option<u64>) -> Markup {
    html! {
        div.hint {
            (text.created) " " (day(created_at_ms)) ", " (text.last_used) " "
            @match used_at_ms { Some(at) => (day(at)), None => (text.never) }
        }
    }
}

/// Ways by which it can sign in at the service's home.
fn ways(tx: &Tx<'_>, subject: &str, passwords: bool) -> rusqlite::Result<u32> {
    let has = users::by_subject(tx.realm, subject)?.is_some_and(|u| u.password_no > 0) && passwords;
    Ok(users::count_of(tx.realm, "passkey", subject)? + u32::from(has))
}

pub async fn post(realm: &Realm, visit: &Visit, me: Me, act: &str, form: &Form) -> Result<Answer, Trouble> {
    let text = visit.lang.text();
    let subject = me.user.subject.clone();
    let sensitive = ["password", "password/remove", "app-password", "passkey/remove", "delete"];
    if sensitive.contains(&act) && !me.is_recent() {
        return Err(Trouble::Again);
    }
    let refused = |told: &str| shown(realm, visit, &me, StatusCode::FORBIDDEN, Notice::bad(told).as_ref(), None);
    let digest = form.get("digest").to_owned();
    let allowed = realm.settings.passwords;
    let done = match act {
        "profile" => {
            let Some(name) = fields::name(form.get("name")) else { return refused(text.bad_name) };
            let Some(email) = fields::email(form.get("email")) else { return refused(text.bad_email) };
            realm.db.write(move |tx| Ok(users::describe(tx, &subject, &name, &email)?)).await
        }
        "password" => return set_password(realm, visit, &me, form).await,
        "password/remove" => {
            let hashes = realm.settings.hashes;
            let remove = move |tx: &mut Tx<'_>| {
                passwords::set(tx, hashes, &subject, None)?;
                if ways(tx, &subject, allowed)? == 0 { Err(Kept::LastWay) } else { Ok(()) }
            };
            realm.db.write(remove).await
        }
        "app-password" => {
            if !realm.settings.basic {
                return Err(Trouble::NotPossible);
            }
            let name = fields::name(form.get("app_name")).filter(|n| !n.is_empty());
            let Some(name) = name else { return refused(text.bad_name) };
            let made = realm.db.write(move |tx| app_passwords::make(tx, &subject, &name)).await?;
            return match made {
                None => refused(text.too_many),
                Some(secret) => shown(realm, visit, &me, StatusCode::OK, None, Some(&secret)),
            };
        }
        "app-password/revoke" => realm.db.write(move |tx| Ok(app_passwords::revoke(tx, &subject, &digest)?)).await,
        "session/end" => realm.db.write(move |tx| Ok(sessions::end(tx, &subject, &digest)?)).await,
        "sessions/end-others" => {
            let mine = me.session.digest.clone();
            realm.db.write(move |tx| Ok(sessions::end_others(tx, &subject, &mine)?)).await
        }
        "passkey/rename" => {
            let name = fields::name(form.get("name")).filter(|n| !n.is_empty());
            let (Some(name), Ok(id)) = (name, hex::decode(form.get("id"))) else { return refused(text.bad_name) };
            realm.db.write(move |tx| Ok(passkeys::rename(tx, &subject, &id, &name)?)).await
        }
        "passkey/remove" => {
            let Ok(id) = hex::decode(form.get("id")) else { return Err(Trouble::NotFound) };
            let remove = move |tx: &mut Tx<'_>| {
                passkeys::remove(tx, &subject, &id)?;
                if ways(tx, &subject, allowed)? == 0 { Err(Kept::LastWay) } else { Ok(()) }
            };
            realm.db.write(remove).await
        }
        "delete" => {
            if form.get("confirm").trim() != me.user.login.as_str() {
                return refused(text.delete_confirm);
            }
            realm.db.write(move |tx| end_user(tx, &subject, End::Delete).map_err(DbError::from)).await?;
            let mut answer = see(&format!("{}?deleted=1", path("sign-in")));
            set_cookie(&mut answer, SESSION_COOKIE, "", Life::Ends);
            return Ok(answer);
        }
        _ => return Err(Trouble::NotFound),
    };
    match done {
        Ok(()) => Ok(see(&format!("{}?done=1", path("account")))),
        Err(Kept::LastWay) => refused(text.last_way),
        Err(Kept::Db(e)) => Err(e.into()),
    }
}

async fn set_password(realm: &Realm, visit: &Visit, me: &Me, form: &Form) -> Result<Answer, Trouble> {
    let text = visit.lang.text();
    if !realm.passwords {
        return Err(Trouble::NotPossible);
    }
    let refused = |status, told: &str| shown(realm, visit, me, status, Notice::bad(told).as_ref(), None);
    if let Err(weak) = password::judge(form.get("password"), &me.user.login) {
        return refused(StatusCode::FORBIDDEN, super::sign_up::weak_text(weak, text));
    }
    let Ok(hash) = realm.hashes.hash(form.get("password").to_owned()).await else {
        return Ok(retry_after(refused(StatusCode::SERVICE_UNAVAILABLE, text.busy)?, 2_000));
    };
    let phc = hash.ok_or(DbError::NotKept)?;
    let (subject, mine, hashes) = (me.user.subject.clone(), me.session.digest.clone(), realm.settings.hashes);
    let set = move |tx: &mut Tx<'_>| {
        let set = passwords::set(tx, hashes, &subject, Some(&phc))?;
        // Whoever knew the old one is signed in nowhere.
        sessions::end_others(tx, &subject, &mine)?;
        if set { Ok(()) } else { Err(DbError::NotKept) }
    };
    realm.db.write(set).await?;
    Ok(see(&format!("{}?done=1", path("account"))))
}
