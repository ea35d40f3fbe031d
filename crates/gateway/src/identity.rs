//! The gate of a service whose users sign in: who is it, may he come in, and how is the application told.
//!
//! Enters: requests of users, at the owner of the service; the word of its sign-in process ([`crate::known`]). Leaves: requests that say
//! who sent them, or an answer in their place. Always holds: the fields that name a user are the gateway's, on every request, whatever a
//! user wrote and however it was spelled; no application sees a session or an app password; whom nobody can vouch for is nobody.

use crate::admission::{Admission, Destination};
use crate::alias::is_navigation;
use crate::answer;
use crate::body::AnswerBody;
use crate::gateway::Worker;
use crate::headers;
use crate::known::{Known, NotAsked, Process};
use crate::table::Service;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONNECTION, HOST, HeaderMap, HeaderName, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use pumasi_door::Place;
use pumasi_realm::gate::{Check, User, digest_of};
use pumasi_realm::{Login, PAGES, SESSION_COOKIE, gate, percent};
use pumasi_route::table::{Admission as Bounds, HomeBackend, IdentityRoute};
use pumasi_terms::ServiceName;
use pumasi_terms::identity::{Claim, Gate};
use std::sync::Arc;

/// By these, too, applications and what they are made of customarily hear of a user from a proxy: of a service whose users sign in here
/// nobody else says them.
const CUSTOMARY: [&str; 12] = [
    "remote-user",
    "remote-name",
    "remote-email",
    "remote-groups",
    "x-remote-user",
    "x-remote-name",
    "x-remote-email",
    "x-remote-groups",
    "x-auth-request-user",
    "x-auth-request-email",
    "x-auth-request-groups",
    "x-webauth-user",
];
/// What a field that names a user may be long; what goes beyond is left out whole.
const FIELD_BYTES_MAX: usize = 1 << 10;
/// A cookie, or a name and password, that is longer proves nothing.
const PROOF_BYTES_MAX: usize = 1 << 10;
/// The longest path that a user is sent back to after signing in.
const RETURN_BYTES_MAX: usize = 1 << 10;
/// Requests for pages that wait, or are under way at one time.
const PAGES_MAX: u32 = 64;

/// As the table has it, made ready.
#[derive(Debug)]
pub struct Identity {
    pub route: IdentityRoute,
    fields: Vec<(Claim, HeaderName)>,
    process: Option<Process>,
    known: Arc<Known>,
    /// For pages: a queue of its own.
    pub pages: Arc<Admission>,
}

impl Identity {
    /// What was heard before counts on, if it was the same process that said it.
    pub fn new(route: IdentityRoute, service: &ServiceName, before: Option<&Identity>) -> Self {
        let fields = route.headers.iter();
        let fields = fields.filter_map(|(claim, name)| Some((*claim, name.parse::<HeaderName>().ok()?))).collect();
        let same = before.filter(|b| b.route.signin == route.signin && b.route.key == route.key);
        let pages = before.map_or_else(|| Admission::new(bounds()), |b| b.pages.clone());
        let process = route.signin.as_ref().filter(|s| !s.draining).and_then(|s| process(s, &route.key, service));
        let known = same.map_or_else(Known::new, |b| b.known.clone());
        Self { route, fields, process, known, pages }
    }
}

/// Of the pages: few, and none of them slow.
pub fn bounds() -> Bounds {
    let (queue_max, wait_max_ms) = (PAGES_MAX * 2, 5_000);
    let (limit_initial, limit_max) = (PAGES_MAX, PAGES_MAX);
    let (answer_timeout_ms, body_bytes_max) = (30_000, 64 << 10);
    Bounds { queue_max, wait_max_ms, limit_initial, limit_max, answer_timeout_ms, body_bytes_max, ..Bounds::default() }
}

fn process(signin: &HomeBackend, key: &str, service: &ServiceName) -> Option<Process> {
    let place = Place::new(signin.address, signin.door.as_deref());
    let mut key = HeaderValue::from_str(key).ok()?;
    key.set_sensitive(true);
    let host = HeaderValue::from_str(service.as_str()).ok()?;
    Some(Process { at: Arc::new(Destination::Instance(place, signin.protocol)), key, host })
}

/// What becomes of a request.
pub enum Goes {
    /// To the application, for this user.
    Application(Option<Arc<User>>),
    /// To the pages of the sign-in process.
    Pages,
    Answer(Box<Response<AnswerBody>>),
}

/// The path of the pages, as it is written and in no other way: what is disguised goes to the application.
fn is_page(path: &str) -> bool {
    path.starts_with(PAGES)
}

/// Of a path that nobody reads in two ways.
fn is_public(path: &str, prefixes: &[String]) -> bool {
    let plain = !path.contains(['%', '\\', ';']) && !path.contains("//") && !path.contains("/.");
    plain && prefixes.iter().any(|prefix| path.starts_with(prefix.as_str()))
}

/// Who proves itself by what.
#[derive(Debug, PartialEq, Eq)]
enum Proof {
    None,
    Session(String),
    App(Login, String),
    /// It says that it is one, and is none.
    Malformed,
}

fn proof(fields: &HeaderMap, basic: bool) -> Proof {
    if basic && let Some(found) = basic_of(fields) {
        return found;
    }
    // A second cookie of that name is somebody's attempt: the first is what a browser sends for this host.
    match headers::cookies(fields, SESSION_COOKIE).next() {
        Some(value) if !value.is_empty() && value.len() <= PROOF_BYTES_MAX => Proof::Session(digest_of(value)),
        _ => Proof::None,
    }
}

/// RFC 7617; other schemes are the application's.
fn basic_of(fields: &HeaderMap) -> Option<Proof> {
    let text = fields.get(AUTHORIZATION)?.as_bytes();
    let (scheme, rest) = text.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let read = || {
        let decoded = STANDARD.decode(rest.trim_ascii()).ok().filter(|d| d.len() <= PROOF_BYTES_MAX)?;
        let (login, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        Some(Proof::App(Login::parse(login).ok()?, digest_of(password.as_bytes())))
    };
    Some(read().unwrap_or(Proof::Malformed))
}

/// Decides who comes in, and makes the request's fields say so. At the owner, before anything is asked of an instance.
pub async fn enter(
    worker: &Arc<Worker>,
    service: &Service,
    scheme: &str,
    identity: &Identity,
    request: &mut Request<Incoming>,
) -> Goes {
    strip(request.headers_mut(), &identity.fields);
    let host = request.headers().get(HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let safe = scheme == "https" || is_local(host);
    if is_page(request.uri().path()) {
        return if safe { pages(service, identity, request) } else { Goes::Answer(Box::new(needs_tls())) };
    }
    let proof = proof(request.headers(), identity.route.basic);
    let is_app = matches!(proof, Proof::App(..) | Proof::Malformed);
    // What came in the clear is known to others by now.
    let proof = if safe { proof } else { Proof::None };
    let user = match who(worker, identity, proof).await {
        Ok(user) => user,
        Err(why) => {
            tracing::warn!(service = %service.name, ?why, "who a user is cannot be asked");
            return Goes::Answer(Box::new(nobody_to_ask()));
        }
    };
    let fields = request.headers_mut();
    headers::strip_cookie(fields, SESSION_COOKIE);
    if is_app {
        fields.remove(AUTHORIZATION);
    }
    let must = identity.route.gate == Gate::Required && !is_public(request.uri().path(), &identity.route.public);
    if user.is_none() && (must || is_app) {
        return Goes::Answer(Box::new(if safe { refuse(service, identity, is_app, request) } else { needs_tls() }));
    }
    tell(request.headers_mut(), &identity.fields, user.as_deref());
    Goes::Application(user)
}

async fn who(worker: &Arc<Worker>, identity: &Identity, proof: Proof) -> Result<Option<Arc<User>>, NotAsked> {
    let (digest, login) = match proof {
        Proof::None | Proof::Malformed => return Ok(None),
        Proof::Session(digest) => (digest, None),
        Proof::App(login, digest) => (digest, Some(login)),
    };
    let Some(process) = &identity.process else {
        return Err(NotAsked("the sign-in process is not ready".into()));
    };
    let check = match &login {
        None => Check::Session { digest: digest.clone() },
        Some(login) => Check::App { login: login.to_string(), digest: digest.clone() },
    };
    let user = identity.known.who(&worker.gateway, &worker.pool, process, &digest, check).await?;
    // It may have been said for another login, which this one is not.
    Ok(user.filter(|user| login.is_none_or(|login| login == user.login)))
}

fn nobody_to_ask() -> Response<AnswerBody> {
    answer::unavailable("sign-in", "who you are cannot be looked up at the moment; try again")
}

/// Takes off every spelling of what only the gateway says, also from the list of those that end here.
fn strip(fields: &mut HeaderMap, ours: &[(Claim, HeaderName)]) {
    let is_ours = |name: &str| {
        let mut all = ours.iter().map(|(_, own)| own.as_str()).chain(CUSTOMARY);
        all.any(|own| same_variable(own, name))
    };
    for name in fields.keys().filter(|name| is_ours(name.as_str())).cloned().collect::<Vec<_>>() {
        fields.remove(name);
    }
    let names_ours = |value: &HeaderValue| value.to_str().is_ok_and(|v| v.split(',').any(|name| is_ours(name.trim())));
    if fields.get_all(CONNECTION).iter().any(names_ours) {
        let tokens = headers::tokens(fields, &CONNECTION).filter(|t| !is_ours(&String::from_utf8_lossy(t)));
        let kept = HeaderValue::from_bytes(&tokens.collect::<Vec<_>>().join(&b", "[..]));
        fields.remove(CONNECTION);
        if let Some(kept) = kept.ok().filter(|k| !k.is_empty()) {
            fields.insert(CONNECTION, kept);
        }
    }
}

/// CGI, WSGI, Rack and PHP read both as one (RFC 3875, 4.1.18).
fn same_variable(own: &str, name: &str) -> bool {
    let fold = |b: u8| if b == b'_' { b'-' } else { b.to_ascii_lowercase() };
    own.len() == name.len() && own.bytes().map(fold).eq(name.bytes().map(fold))
}

fn tell(fields: &mut HeaderMap, ours: &[(Claim, HeaderName)], user: Option<&User>) {
    for (claim, name) in ours {
        let said = user.map(|user| said(*claim, user)).unwrap_or_default();
        let said = if said.len() > FIELD_BYTES_MAX { String::new() } else { said };
        fields.insert(name.clone(), HeaderValue::try_from(said).unwrap_or(HeaderValue::from_static("")));
    }
}

fn said(claim: Claim, user: &User) -> String {
    match claim {
        Claim::Login => encode(user.login.as_str()),
        Claim::Subject => encode(&user.subject),
        Claim::Name => encode(&user.name),
        Claim::Email => encode(&user.email),
        Claim::Groups => user.groups.iter().map(|group| encode(group)).collect::<Vec<_>>().join(","),
    }
}

/// As an application decodes it.
fn encode(text: &str) -> String {
    percent::encode(text, b"@")
}

fn pages(service: &Service, identity: &Identity, request: &mut Request<Incoming>) -> Goes {
    let Some(process) = &identity.process else {
        let why = format!("the sign-in pages of {} are starting; try again", service.name);
        return Goes::Answer(Box::new(answer::unavailable("sign-in", &why)));
    };
    request.headers_mut().insert(gate::KEY, process.key.clone());
    Goes::Pages
}

/// A browser would neither send nor keep the cookie of a session.
fn needs_tls() -> Response<AnswerBody> {
    answer::problem(StatusCode::FORBIDDEN, "needs-tls", "users of this service sign in, and that needs https")
}

/// A person is sent to the page where one signs in; a program is told.
fn refuse(service: &Service, identity: &Identity, is_app: bool, request: &Request<Incoming>) -> Response<AnswerBody> {
    if !is_app && is_navigation(request) {
        let path = request.uri().path_and_query().map_or("/", |pq| pq.as_str());
        let back = if path.len() <= RETURN_BYTES_MAX { path } else { "/" };
        let mut answer = Response::new(AnswerBody::Empty);
        *answer.status_mut() = StatusCode::SEE_OTHER;
        let location = HeaderValue::try_from(format!("{PAGES}sign-in?return={}", encode(back)));
        let fields = answer.headers_mut();
        fields.insert(LOCATION, location.unwrap_or(HeaderValue::from_static("/.pumasi/sign-in")));
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return answer;
    }
    let mut answer = answer::problem(StatusCode::UNAUTHORIZED, "sign-in", "sign in first");
    // A browser's script gets no prompt for a password that it does not have.
    let by = if identity.route.basic && request.method() != Method::OPTIONS { "Basic" } else { "Cookie" };
    let challenge = format!("{by} realm=\"{}\", charset=\"UTF-8\"", service.name);
    if let Ok(challenge) = HeaderValue::try_from(challenge) {
        answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    answer
}

/// Browsers take a host of this machine for as safe as TLS (W3C Secure Contexts, 3.1).
fn is_local(host: &str) -> bool {
    let name = crate::public::name_of(host).unwrap_or_default().to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Vec<(Claim, HeaderName)> {
        vec![
            (Claim::Login, HeaderName::from_static("x-remote-user")),
            (Claim::Groups, HeaderName::from_static("remote-groups")),
        ]
    }

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut out = HeaderMap::new();
        for (n, v) in pairs {
            out.append(HeaderName::from_bytes(n.as_bytes()).unwrap(), HeaderValue::from_str(v).unwrap());
        }
        out
    }

    fn minjun() -> User {
        let groups = vec!["a,b".to_owned(), "직원".to_owned()];
        let login = "민준".parse().unwrap();
        User { subject: "s1".into(), login, name: "Kim Minjun".into(), email: "m@a.example".into(), groups }
    }

    #[test]
    fn nobody_else_says_who_a_user_is() {
        let forged = [
            "X-Remote-User",
            "x-remote-user",
            "X_Remote_User",
            "X-Remote_User",
            "x_remote-user",
            "X_REMOTE_USER",
            "Remote-Groups",
            "remote_groups",
            "REMOTE_GROUPS",
        ];
        for name in forged {
            let mut f = map(&[(name, "admin"), (name, "root"), ("accept", "*/*")]);
            strip(&mut f, &ours());
            assert_eq!(f, map(&[("accept", "*/*")]), "{name}");
        }
        for name in ["x-remote-users", "remote-user-x", "x--remote-user", "xremote-user"] {
            let mut f = map(&[(name, "1")]);
            strip(&mut f, &ours());
            assert_eq!(f.len(), 1, "{name} is another variable");
        }
        let mut f = map(&[("connection", "upgrade, X-Remote-User"), ("connection", "x_remote_user"), ("upgrade", "w")]);
        strip(&mut f, &ours());
        assert_eq!(f, map(&[("connection", "upgrade"), ("upgrade", "w")]));
        let mut f = map(&[("connection", "remote-groups")]);
        strip(&mut f, &ours());
        assert!(f.is_empty());
    }

    #[test]
    fn an_application_is_told_on_every_request() {
        let mut f = HeaderMap::new();
        tell(&mut f, &ours(), Some(&minjun()));
        assert_eq!(f, map(&[("x-remote-user", "%EB%AF%BC%EC%A4%80"), ("remote-groups", "a%2Cb,%EC%A7%81%EC%9B%90")]));
        tell(&mut f, &ours(), None);
        assert_eq!(f, map(&[("x-remote-user", ""), ("remote-groups", "")]));
        let many = User { groups: vec!["g".repeat(64); 32], ..minjun() };
        tell(&mut f, &ours(), Some(&many));
        assert_eq!(f["remote-groups"], "", "half of them would be another answer");
        assert_eq!(encode("a b%\r\n"), "a%20b%25%0D%0A");
    }

    #[test]
    fn who_says_so_by_basic_is_read_strictly() {
        let of = |text: &str| basic_of(&map(&[("authorization", text)]));
        let b64 = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let app =
            |login: &str, password: &str| Some(Proof::App(login.parse().unwrap(), digest_of(password.as_bytes())));
        assert_eq!(of(&b64("Minjun:a:b")), app("minjun", "a:b"));
        assert_eq!(of(&b64("민준:p").replace("Basic", "bASIC")), app("민준", "p"));
        for bad in ["Basic", "Basic ", "Basic !!", &b64("nocolon"), &b64(":p"), &b64("a b:p")] {
            assert!(matches!(of(bad), Some(Proof::Malformed) | None), "{bad}");
        }
        assert_eq!(of(&b64("a b:p")), Some(Proof::Malformed));
        assert_eq!(of(&b64(&format!("a:{}", "p".repeat(2_000)))), Some(Proof::Malformed));
        assert_eq!(of("Bearer x"), None);
        assert_eq!(proof(&map(&[("authorization", &b64("a:b"))]), false), Proof::None, "it is the application's");
        let cookie = map(&[("cookie", "a=1; __Host-pumasi_session=one; __Host-pumasi_session=two")]);
        assert_eq!(proof(&cookie, true), Proof::Session(digest_of(b"one")));
        assert_eq!(proof(&map(&[("cookie", "__Host-pumasi_session=")]), true), Proof::None);
    }

    #[test]
    fn what_is_public_is_read_in_one_way() {
        let public = ["/static/".to_owned()];
        assert!(is_public("/static/a.css", &public));
        for path in ["/static/../admin", "/static//x", "/static/%2e%2e/admin", "/static/;/x", "/statics", "/Static/a"] {
            assert!(!is_public(path, &public), "{path}");
        }
        assert!(is_page("/.pumasi/sign-in") && !is_page("/.pumasi") && !is_page("//.pumasi/"));
    }

    #[test]
    fn a_session_needs_a_host_that_a_browser_trusts() {
        for host in ["localhost:8080", "a.localhost", "A.LOCALHOST:1"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["a.example", "localhost.example", "xlocalhost", ""] {
            assert!(!is_local(host), "{host}");
        }
    }
}
