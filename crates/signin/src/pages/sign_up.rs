//! Becoming a user, and getting back in by an invitation.

use super::layout::{Field, Notice, fill, page, passkey_status, path, service, token};
use super::{Trouble, signed_in, wanted};
use crate::db::invitations::{self, For};
use crate::db::passkeys::{self, Passkey};
use crate::db::users::{self, MakeError, NewUser};
use crate::db::{DbError, Tx, passwords, sessions};
use crate::fields;
use crate::password::{self, Weak};
use crate::realm::Realm;
use crate::text::Text;
use crate::throttle::network;
use crate::web::answer::{Answer, retry_after};
use crate::web::parse::{Form, escape};
use crate::web::request::Visit;
use crate::{clock, secret};
use http::StatusCode;
use maud::html;
use pumasi_realm::Login;
use pumasi_terms::identity::{Hashes, SignUp};

/// Why somebody did not become a user.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("needs an invitation")]
    Uninvited,
    #[error("the invitation was used or has ended")]
    Ended,
    #[error("no login")]
    BadLogin,
    #[error("no name")]
    BadName,
    #[error("no e-mail address")]
    BadEmail,
    #[error("the passkey is known already")]
    KnownPasskey,
    #[error(transparent)]
    Make(#[from] MakeError),
}

impl From<DbError> for Refused {
    fn from(e: DbError) -> Self {
        Self::Make(e.into())
    }
}

impl From<rusqlite::Error> for Refused {
    fn from(e: rusqlite::Error) -> Self {
        Self::Make(e.into())
    }
}

impl Refused {
    pub fn told(&self, text: &'static Text) -> &'static str {
        match self {
            Self::Uninvited => text.only_invited,
            Self::Ended => text.invitation_ended,
            Self::BadLogin => text.bad_login,
            Self::BadName => text.bad_name,
            Self::BadEmail => text.bad_email,
            Self::KnownPasskey => text.not_possible,
            Self::Make(MakeError::Taken) => text.taken,
            Self::Make(MakeError::Full) => text.full,
            Self::Make(MakeError::Db(e)) => {
                tracing::warn!("making a user: {e}");
                text.failed
            }
        }
    }
}

pub fn weak_text(weak: Weak, text: &'static Text) -> &'static str {
    match weak {
        Weak::Short => text.weak_short,
        Weak::Long => text.weak_long,
        Weak::Common => text.weak_common,
    }
}

/// What somebody who wants to become a user said of itself.
#[derive(Debug, Clone)]
pub struct Wish {
    pub login: Login,
    pub name: String,
    pub email: String,
    pub invitation: String,
}

impl Wish {
    /// Checked as far as it can be before anything is changed.
    pub fn read(realm: &Realm, get: impl Fn(&str) -> String) -> Result<Self, Refused> {
        let invitation = get("invitation");
        let invited = match open(realm, &invitation)? {
            Some(For::New { login, .. }) => login,
            Some(For::Back { .. }) => return Err(Refused::Ended),
            None if !invitation.is_empty() => return Err(Refused::Ended),
            None if realm.settings.sign_up == SignUp::Invited => return Err(Refused::Uninvited),
            None => None,
        };
        let login = invited.map_or_else(|| Login::parse(&get("login")), Ok).map_err(|_| Refused::BadLogin)?;
        let name = fields::name(&get("name")).ok_or(Refused::BadName)?;
        let email = fields::email(&get("email")).ok_or(Refused::BadEmail)?;
        let taken = realm.db.read(|view| users::by_login(&view.realm, &login).map_err(DbError::from))?.is_some();
        if taken {
            return Err(MakeError::Taken.into());
        }
        Ok(Self { login, name, email, invitation })
    }
}

/// What a new user can prove itself by.
#[derive(Debug, Clone)]
pub enum Proof {
    Password(String, Hashes),
    Passkey(Passkey),
}

/// The user with its proof and its first session, or nothing: in one transaction.
pub fn make(
    tx: &mut Tx<'_>,
    subject: &str,
    wish: Wish,
    proof: &Proof,
    label: &str,
    old: Option<&str>,
) -> Result<String, Refused> {
    let groups = if wish.invitation.is_empty() {
        Vec::new()
    } else {
        match invitations::take(tx, &wish.invitation)? {
            Some(For::New { login, groups }) if login.as_ref().is_none_or(|l| *l == wish.login) => groups,
            _ => return Err(Refused::Ended),
        }
    };
    let password_no = match proof {
        Proof::Password(..) => tx.at_ms,
        Proof::Passkey(_) => 0,
    };
    let Wish { login, name, email, .. } = wish;
    users::make(tx, &NewUser { subject: subject.to_owned(), login, name, email, groups, password_no })?;
    match proof {
        Proof::Password(phc, hashes) => {
            if !passwords::keep(tx, *hashes, subject, password_no, phc)? {
                return Err(DbError::NotKept.into());
            }
        }
        Proof::Passkey(passkey) => {
            if !passkeys::add(tx, subject, passkey)? {
                return Err(Refused::KnownPasskey);
            }
        }
    }
    Ok(sessions::begin(tx, subject, label, old)?)
}

fn open(realm: &Realm, invitation: &str) -> Result<Option<For>, DbError> {
    if invitation.is_empty() {
        return Ok(None);
    }
    realm.db.read(|view| Ok(invitations::find(&view.realm, invitation, clock::now_ms())?))
}

pub fn show(realm: &Realm, visit: &Visit) -> Result<Answer, Trouble> {
    shown(realm, visit, StatusCode::OK, None, &visit.query)
}

fn shown(
    realm: &Realm,
    visit: &Visit,
    status: StatusCode,
    notice: Option<&Notice>,
    form: &Form,
) -> Result<Answer, Trouble> {
    let text = visit.lang.text();
    let title = fill(text.sign_up_for_service, service(realm));
    let invitation = form.get("invitation");
    let invited = open(realm, invitation)?;
    let to = wanted(form.get("return"));
    let body = match invited {
        Some(For::Back { login, .. }) => html! {
            p { (fill(text.come_back_as, login.as_str())) }
            form method="post" action=(path("sign-up")) {
                (token(visit))
                input type="hidden" name="invitation" value=(invitation);
                button.main type="submit" { (text.come_back) }
            }
        },
        None if !invitation.is_empty() => html! { p.notice { (text.invitation_ended) } },
        None if realm.settings.sign_up == SignUp::Invited => {
            let nobody = realm.db.read(|view| users::count(&view.realm).map_err(DbError::from))? == 0;
            html! { p { (if nobody { text.nobody_yet } else { text.only_invited }) } }
        }
        invited => {
            let named = match &invited {
                Some(For::New { login, .. }) => login.as_ref(),
                _ => None,
            };
            let here = visit.host() == realm.challenges.rp_id();
            html! {
                form method="post" action=(path("sign-up")) data-passkey=[here.then_some("sign-up")] data-path=(path("passkey/sign-up")) {
                    (token(visit))
                    input type="hidden" name="invitation" value=(invitation);
                    input type="hidden" name="return" value=(to);
                    @if let Some(login) = named {
                        p { (text.login) ": " strong { (login) } }
                        input type="hidden" name="login" value=(login) autocomplete="username";
                    } @else {
                        (Field { name: "login", label: text.login, value: form.get("login"), hint: text.login_hint,
                            autocomplete: "username", bytes_max: pumasi_realm::login::LOGIN_BYTES_MAX, ..Field::default() }.show(text))
                    }
                    (Field { name: "name", label: text.name, value: form.get("name"), autocomplete: "name", required: false,
                        bytes_max: fields::NAME_BYTES_MAX, ..Field::default() }.show(text))
                    (Field { name: "email", label: text.email, kind: "email", value: form.get("email"), autocomplete: "email",
                        required: false, bytes_max: fields::EMAIL_BYTES_MAX, ..Field::default() }.show(text))
                    @if here {
                        button.main type="button" data-begin { (text.sign_up_with_passkey) }
                        (passkey_status(realm, text))
                    } @else {
                        p { (fill(text.passkeys_at_host, realm.challenges.rp_id())) }
                    }
                    @if realm.passwords {
                        p.or { (text.or) }
                        (Field { name: "password", label: text.password, kind: "password", hint: text.password_hint,
                            autocomplete: "new-password", bytes_max: password::BYTES_MAX, ..Field::default() }.show(text))
                        button type="submit" { (text.sign_up_with_password) }
                    }
                }
            }
        }
    };
    let whole = html! {
        (body)
        p { a href={ (path("sign-in")) "?return=" (escape(to)) } { (text.have_account) } }
    };
    Ok(page(visit, status, &title, notice, &whole))
}

pub async fn post(realm: &Realm, visit: &Visit, form: &Form) -> Result<Answer, Trouble> {
    let text = visit.lang.text();
    let refused = |status, told: &str| shown(realm, visit, status, Notice::bad(told).as_ref(), form);
    if let Err(wait_ms) = admit(realm, visit) {
        let told = fill(text.wait_seconds, &wait_ms.div_ceil(1_000).to_string());
        return Ok(retry_after(refused(StatusCode::TOO_MANY_REQUESTS, &told)?, wait_ms));
    }
    let label = visit.label.clone();
    let old = visit.session.clone();
    if let Some(For::Back { .. }) = open(realm, form.get("invitation"))? {
        let invitation = form.get("invitation").to_owned();
        let begun = realm
            .db
            .write(move |tx| match invitations::take(tx, &invitation)? {
                Some(For::Back { subject, .. }) => Ok(Some(sessions::begin(tx, &subject, &label, old.as_deref())?)),
                _ => Ok::<_, DbError>(None),
            })
            .await?;
        return match begun {
            Some(secret) => Ok(signed_in(&secret, &path("account"))),
            None => refused(StatusCode::FORBIDDEN, text.invitation_ended),
        };
    }
    if !realm.passwords {
        return Err(Trouble::NotPossible);
    }
    let wish = match Wish::read(realm, |name| form.get(name).to_owned()) {
        Ok(wish) => wish,
        Err(e) => return refused(StatusCode::FORBIDDEN, e.told(text)),
    };
    if let Err(weak) = password::judge(form.get("password"), &wish.login) {
        return refused(StatusCode::FORBIDDEN, weak_text(weak, text));
    }
    let Ok(hash) = realm.hashes.hash(form.get("password").to_owned()).await else {
        return Ok(retry_after(refused(StatusCode::SERVICE_UNAVAILABLE, text.busy)?, 2_000));
    };
    let phc = hash.ok_or(DbError::NotKept)?;
    let proof = Proof::Password(phc, realm.settings.hashes);
    let subject = secret::subject();
    let made = realm.db.write(move |tx| make(tx, &subject, wish, &proof, &label, old.as_deref())).await;
    match made {
        Ok(secret) => Ok(signed_in(&secret, wanted(form.get("return")))),
        Err(e) => refused(StatusCode::FORBIDDEN, e.told(text)),
    }
}

/// Accounts from one address get slower, too.
pub fn admit(realm: &Realm, visit: &Visit) -> Result<(), u64> {
    realm.throttles().sign_up.admit(&network(visit.address), clock::now_ms())
}
