//! What `passkey.js` asks: two steps each of signing in, signing up and adding a passkey, in JSON.

use super::layout::path;
use super::sign_up::{self, Proof, Wish};
use super::{Me, Trouble, keep_session, wanted};
use crate::clock;
use crate::db::passkeys::{self, Passkey};
use crate::db::{DbError, sessions, users};
use crate::fields;
use crate::realm::Realm;
use crate::secret;
use crate::text::Text;
use crate::web::answer::{Answer, json, retry_after};
use crate::web::request::Visit;
use crate::webauthn::{Act, Assertion, LIFE_MS, Purpose, Refused, key};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde_json::{Map, Value, json as value};

/// A flat object of texts.
struct Asked(Map<String, Value>);

impl Asked {
    fn get(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or_default()
    }
    fn bytes(&self, name: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(self.get(name)).unwrap_or_default()
    }
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Trouble(#[from] Trouble),
    #[error(transparent)]
    Passkey(#[from] Refused),
    #[error(transparent)]
    SignUp(#[from] sign_up::Refused),
    #[error("the passkey is not known here")]
    Unknown,
    #[error("too many")]
    TooMany,
    #[error("not yet, but in {0} ms")]
    Wait(u64),
    #[error("the passkey's name is no name")]
    BadName,
}

impl From<DbError> for Failed {
    fn from(e: DbError) -> Self {
        Self::Trouble(e.into())
    }
}

impl From<rusqlite::Error> for Failed {
    fn from(e: rusqlite::Error) -> Self {
        Self::Trouble(e.into())
    }
}

pub async fn answer(realm: &Realm, visit: &Visit) -> Answer {
    match dispatch(realm, visit).await {
        Ok(answer) => answer,
        Err(failed) => told(realm, visit, &failed),
    }
}

fn told(realm: &Realm, visit: &Visit, failed: &Failed) -> Answer {
    let text: &'static Text = visit.lang.text();
    let refused = |told: String| json(StatusCode::FORBIDDEN, &value!({ "error": told }));
    let fill = super::layout::fill;
    match failed {
        Failed::Trouble(Trouble::Nobody) => json(StatusCode::FORBIDDEN, &value!({"to": path("sign-in")})),
        Failed::Trouble(Trouble::Again) => {
            let to = format!("{}?again=1&return=%2F.pumasi%2Faccount", path("sign-in"));
            json(StatusCode::FORBIDDEN, &value!({ "to": to }))
        }
        Failed::Trouble(Trouble::Stale) => refused(text.stale_form.into()),
        Failed::Trouble(Trouble::NotFound | Trouble::NotPossible) => refused(text.not_possible.into()),
        Failed::Trouble(Trouble::Db(e)) => {
            tracing::warn!("a passkey: {e}");
            retry_after(json(StatusCode::SERVICE_UNAVAILABLE, &value!({"error": text.failed})), 1_000)
        }
        Failed::Passkey(Refused::Expired) => refused(text.passkey_expired.into()),
        Failed::Passkey(e) => {
            tracing::info!("a passkey was refused: {e}");
            refused(fill(text.passkey_refused, realm.challenges.rp_id()))
        }
        Failed::SignUp(e) => refused(e.told(text).into()),
        Failed::Unknown => refused(text.passkey_unknown.into()),
        Failed::TooMany => refused(text.too_many.into()),
        Failed::BadName => refused(text.bad_name.into()),
        Failed::Wait(wait_ms) => {
            let error = fill(text.wait_seconds, &wait_ms.div_ceil(1_000).to_string());
            retry_after(json(StatusCode::TOO_MANY_REQUESTS, &value!({ "error": error })), *wait_ms)
        }
    }
}

async fn dispatch(realm: &Realm, visit: &Visit) -> Result<Answer, Failed> {
    let asked: Map<String, Value> = serde_json::from_slice(&visit.body).map_err(|_| Trouble::Stale)?;
    let asked = Asked(asked);
    if !visit.is_ours(asked.get("token")) {
        return Err(Trouble::Stale.into());
    }
    // Who has just shown that it is itself; a stolen session alone gets no passkey.
    let recent = || match super::me(realm, visit)? {
        None => Err(Trouble::Nobody),
        Some(me) if !me.is_recent() => Err(Trouble::Again),
        Some(me) => Ok(me),
    };
    match visit.page.as_str() {
        "passkey/sign-in/begin" => Ok(begin_sign_in(realm, visit)),
        "passkey/sign-in/finish" => finish_sign_in(realm, visit, &asked).await,
        "passkey/sign-up/begin" => begin_sign_up(realm, visit, &asked),
        "passkey/sign-up/finish" => finish_sign_up(realm, visit, &asked).await,
        "passkey/add/begin" => begin_add(realm, visit, &recent()?),
        "passkey/add/finish" => finish_add(realm, visit, &recent()?, &asked).await,
        _ => Err(Trouble::NotFound.into()),
    }
}

fn purpose<'a>(act: Act, subject: &'a str, visit: &'a Visit) -> Purpose<'a> {
    Purpose { act, subject, browser: &visit.browser }
}

fn begin_sign_in(realm: &Realm, visit: &Visit) -> Answer {
    let challenge = realm.challenges.make(purpose(Act::SignIn, "", visit), clock::now_ms());
    let options = value!({
        "challenge": challenge, "rpId": realm.challenges.rp_id(), "userVerification": "required", "timeout": LIFE_MS,
    });
    json(StatusCode::OK, &value!({ "options": options }))
}

async fn finish_sign_in(realm: &Realm, visit: &Visit, asked: &Asked) -> Result<Answer, Failed> {
    let id = asked.bytes("id");
    let found = realm.db.read(|view| passkeys::find(&view.realm, &id).map_err(DbError::from))?;
    let (user, passkey) = found.filter(|(user, _)| !user.disabled).ok_or(Failed::Unknown)?;
    if passkey.rp_id != realm.challenges.rp_id() {
        return Err(Refused::OtherHost.into());
    }
    // The passkey was made for this user, and says so itself.
    if hex::encode(asked.bytes("user_handle")) != user.subject {
        return Err(Failed::Unknown);
    }
    let assertion = Assertion {
        client: asked.bytes("client_data"),
        authenticator: asked.bytes("authenticator_data"),
        signature: asked.bytes("signature"),
    };
    let counter =
        realm.challenges.verify(purpose(Act::SignIn, "", visit), &passkey.key, &assertion, clock::now_ms())?;
    if counter < passkey.counter {
        tracing::info!("a passkey's counter went back, as that of a copy may");
    }
    let (label, old) = (visit.label.clone(), visit.session.clone());
    let begun = realm
        .db
        .write(move |tx| {
            // It may have ended, or lost this passkey, since it was read.
            match passkeys::find(tx.realm, &id)? {
                Some((user, _)) if !user.disabled => {
                    passkeys::used(tx, &id, counter)?;
                    Ok(Some(sessions::begin(tx, &user.subject, &label, old.as_deref())?))
                }
                _ => Ok::<_, DbError>(None),
            }
        })
        .await?;
    let secret = begun.ok_or(Failed::Unknown)?;
    Ok(entered(&secret, wanted(asked.get("return"))))
}

fn entered(secret: &str, to: &str) -> Answer {
    let mut answer = json(StatusCode::OK, &value!({ "to": to }));
    keep_session(&mut answer, secret);
    answer
}

/// What `navigator.credentials.create` is asked for.
fn creation(realm: &Realm, challenge: &str, subject: &str, login: &str, name: &str, known: &[Passkey]) -> Value {
    let handle = hex::decode(subject).unwrap_or_default();
    let known: Vec<Value> =
        known.iter().map(|k| value!({"type": "public-key", "id": URL_SAFE_NO_PAD.encode(&k.id)})).collect();
    let algorithms: Vec<Value> = key::ALGORITHMS.iter().map(|a| value!({"type": "public-key", "alg": a})).collect();
    value!({
        "challenge": challenge,
        "rp": {"id": realm.challenges.rp_id(), "name": realm.settings.service.as_str()},
        "user": {
            "id": URL_SAFE_NO_PAD.encode(handle), "name": login, "displayName": if name.is_empty() { login } else { name },
        },
        "pubKeyCredParams": algorithms,
        "authenticatorSelection": {"residentKey": "required", "requireResidentKey": true, "userVerification": "required"},
        "attestation": "none",
        "excludeCredentials": known,
        "timeout": LIFE_MS,
    })
}

fn begin_sign_up(realm: &Realm, visit: &Visit, asked: &Asked) -> Result<Answer, Failed> {
    let wish = Wish::read(realm, |name| asked.get(name).to_owned())?;
    let subject = secret::subject();
    let challenge = realm.challenges.make(purpose(Act::SignUp, &subject, visit), clock::now_ms());
    let options = creation(realm, &challenge, &subject, wish.login.as_str(), &wish.name, &[]);
    Ok(json(StatusCode::OK, &value!({"options": options, "subject": subject})))
}

fn registered(realm: &Realm, visit: &Visit, act: Act, subject: &str, asked: &Asked) -> Result<Passkey, Failed> {
    let name = fields::name(asked.get("passkey_name")).ok_or(Failed::BadName)?;
    let name = if name.is_empty() { visit.lang.text().default_passkey_name.to_owned() } else { name };
    let now_ms = clock::now_ms();
    let (client, attestation) = (asked.bytes("client_data"), asked.bytes("attestation"));
    let new = realm.challenges.register(purpose(act, subject, visit), &client, &attestation, now_ms)?;
    let rp_id = realm.challenges.rp_id().to_owned();
    Ok(Passkey { id: new.id, rp_id, key: new.key, counter: new.counter, name, created_at_ms: now_ms, used_at_ms: None })
}

async fn finish_sign_up(realm: &Realm, visit: &Visit, asked: &Asked) -> Result<Answer, Failed> {
    sign_up::admit(realm, visit).map_err(Failed::Wait)?;
    let wish = Wish::read(realm, |name| asked.get(name).to_owned())?;
    // Whether it is the one that was told is sealed into the challenge.
    let subject = asked.get("subject").to_owned();
    let proof = Proof::Passkey(registered(realm, visit, Act::SignUp, &subject, asked)?);
    let (label, old) = (visit.label.clone(), visit.session.clone());
    let make = move |tx: &mut crate::db::Tx<'_>| sign_up::make(tx, &subject, wish, &proof, &label, old.as_deref());
    let secret = realm.db.write(make).await?;
    Ok(entered(&secret, wanted(asked.get("return"))))
}

fn begin_add(realm: &Realm, visit: &Visit, me: &Me) -> Result<Answer, Failed> {
    let known = realm.db.read(|view| passkeys::of_user(&view.realm, &me.user.subject).map_err(DbError::from))?;
    if known.len() >= passkeys::PASSKEYS_MAX as usize {
        return Err(Failed::TooMany);
    }
    let user = &me.user;
    let challenge = realm.challenges.make(purpose(Act::Add, &user.subject, visit), clock::now_ms());
    let options = creation(realm, &challenge, &user.subject, user.login.as_str(), &user.name, &known);
    Ok(json(StatusCode::OK, &value!({ "options": options })))
}

async fn finish_add(realm: &Realm, visit: &Visit, me: &Me, asked: &Asked) -> Result<Answer, Failed> {
    let subject = me.user.subject.clone();
    let passkey = registered(realm, visit, Act::Add, &subject, asked)?;
    let add = move |tx: &mut crate::db::Tx<'_>| match users::by_subject(tx.realm, &subject)? {
        None => Err(Failed::Unknown),
        Some(_) if passkeys::add(tx, &subject, &passkey)? => Ok(()),
        Some(_) => Err(Failed::TooMany),
    };
    realm.db.write(add).await?;
    Ok(json(StatusCode::OK, &value!({"to": format!("{}?done=1", path("account"))})))
}
