//! The pages in a real browser with an authenticator, with their Content-Security-Policy in force, behind a gateway that is no more
//! than its two questions.
#![allow(clippy::unwrap_used)]

#[path = "../../console/tests/driver/mod.rs"]
mod driver;
mod harness;

use bytes::Bytes;
use driver::Browser;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::sync::Arc;

const HOST: &str = "docs.localhost";

#[test]
fn child() {
    harness::child();
}

/// Pages go to the process; the application says who its gateway says it is.
async fn pass_on(process: &harness::Process, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().unwrap().as_str();
    if !path.starts_with("/.pumasi/") {
        let cookies = parts.headers.get("cookie").and_then(|c| c.to_str().ok()).unwrap_or_default().to_owned();
        let secret = cookies.split("; ").find_map(|c| c.strip_prefix("__Host-pumasi_session="));
        let login = match secret {
            Some(secret) => process.who(secret).await,
            None => None,
        };
        let page = format!(
            "<!doctype html><title>App</title><link rel=icon href=data:,><p>hello {}",
            login.as_deref().unwrap_or("nobody")
        );
        return Response::builder().header("content-type", "text/html; charset=utf-8").body(page.into()).unwrap();
    }
    let body = body.collect().await.unwrap().to_bytes();
    let mut asked = process.http.request(parts.method, format!("{}{path}", process.base)).body(body);
    for (name, value) in parts.headers.iter().filter(|(n, _)| *n != "content-length" && *n != "connection") {
        asked = asked.header(name, value);
    }
    asked = asked
        .header("pumasi-gate", harness::GATE)
        .header("x-forwarded-for", "127.0.0.1")
        .header("x-forwarded-proto", "http");
    let said = asked.send().await.unwrap();
    let mut answer = Response::builder().status(said.status());
    for (name, value) in said.headers().iter().filter(|(n, _)| *n != "content-length" && *n != "transfer-encoding") {
        answer = answer.header(name, value);
    }
    answer.body(Full::new(said.bytes().await.unwrap())).unwrap()
}

/// The port of a gateway before a process of its own, which both end with the runtime.
fn gateway(runtime: &tokio::runtime::Runtime, dir: &std::path::Path) -> u16 {
    let mut settings = harness::settings();
    settings["hosts"] = json!([HOST]);
    runtime.block_on(async {
        let process = Arc::new(harness::Process::start(dir, &settings).await);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let process = process.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| {
                        let process = process.clone();
                        async move { Ok::<_, std::convert::Infallible>(pass_on(&process, request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        port
    })
}

fn fill(b: &Browser, field: &str, text: &str) {
    b.click(&format!("input[name={field}]"));
    b.run("document.activeElement.select()");
    b.press(text);
}

fn authenticator(b: &Browser) -> String {
    let device = json!({
        "protocol": "ctap2", "transport": "internal", "hasResidentKey": true, "hasUserVerification": true,
        "isUserVerified": true, "isUserConsenting": true,
    });
    b.call("POST", "/webauthn/authenticator", &device).as_str().unwrap().to_owned()
}

/// As on a phone; nothing may stick out. With PUMASI_AXE, the path of axe-core's `axe.min.js`, also what that finds.
fn is_fit_for_everybody(b: &Browser, page: &str) {
    let metrics = |width: u32| json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": true});
    let cdp = |cmd: &str, params: Value| b.call("POST", "/goog/cdp/execute", &json!({"cmd": cmd, "params": params}));
    cdp("Emulation.setDeviceMetricsOverride", metrics(390));
    assert_eq!(b.run("return document.documentElement.scrollWidth <= 390"), true, "{page} is wider than a phone");
    let unnamed = "return [...document.querySelectorAll('input:not([type=hidden]):not([hidden]), button')]
        .filter((e) => !(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim())).map((e) => e.outerHTML)";
    assert_eq!(b.run(unnamed), json!([]), "{page}: without a name");
    b.picture(page);
    if let Some(axe) = std::env::var_os("PUMASI_AXE") {
        b.run(&std::fs::read_to_string(axe).unwrap());
        for scheme in ["light", "dark"] {
            cdp("Emulation.setEmulatedMedia", json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}));
            b.run("window.found = null; axe.run().then((r) => { window.found = r.violations.map((v) => [v.id, v.nodes.map((n) => n.html)]) })");
            b.wait("axe's findings", "window.found");
            assert_eq!(b.run("return window.found"), json!([]), "{page} in {scheme}");
        }
    }
    cdp("Emulation.clearDeviceMetricsOverride", json!({}));
}

#[test]
fn a_passkey_is_made_and_used_in_both_languages() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let base = format!("http://{HOST}:{}", gateway(&runtime, dir.path()));
    let page = |name: &str| format!("{base}/.pumasi/{name}");
    for (lang, login, words) in [
        (
            "ko",
            "민준",
            [
                "패스키로 계정 만들기",
                "내 계정",
                "패스키로 로그인",
                "로그아웃되었습니다",
                "패스키를 사용하지 않았습니다",
            ],
        ),
        (
            "en",
            "minjun",
            [
                "Create the account with a passkey",
                "Your account",
                "Sign in with a passkey",
                "You are signed out",
                "No passkey was used",
            ],
        ),
    ] {
        let b = Browser::start();
        let device = authenticator(&b);
        b.open(&page(&format!("sign-up?lang={lang}")));
        b.wait_text(words[0]);
        assert_eq!(b.run("return document.documentElement.lang"), lang);
        is_fit_for_everybody(&b, &format!("sign-up-{lang}"));
        fill(&b, "login", login);
        b.click("[data-begin]");
        b.wait_text(&format!("hello {login}"));

        b.open(&page("account"));
        b.wait_text(words[1]);
        fill(&b, "app_name", "calendar");
        b.click("form[action$='account/app-password'] button");
        b.wait("an app password", "document.querySelector('.secret')?.textContent.length === 43");
        is_fit_for_everybody(&b, &format!("account-{lang}"));
        fill(&b, "password", "correct horse battery");
        b.click("form[action$='account/password'] button");
        b.wait("the password is set", "location.search === '?done=1'");

        b.open(&page("sign-out"));
        b.click("main form button");
        b.wait_text(words[3]);
        b.open(&format!("{base}/"));
        b.wait_text("hello nobody");
        b.open(&page("sign-in?return=/notes%3Fa=b"));
        b.wait_text(words[2]);
        is_fit_for_everybody(&b, &format!("sign-in-{lang}"));
        // The user turns away, then does not.
        b.call("POST", &format!("/webauthn/authenticator/{device}/uv"), &json!({"isUserVerified": false}));
        b.click("[data-begin]");
        b.wait_text(words[4]);
        b.call("POST", &format!("/webauthn/authenticator/{device}/uv"), &json!({"isUserVerified": true}));
        b.click("[data-begin]");
        b.wait_text(&format!("hello {login}"));
        assert_eq!(b.run("return location.pathname + location.search"), "/notes?a=b");

        b.open(&page("sign-out"));
        b.click("main form button");
        b.wait_text(words[3]);
        fill(&b, "login", login);
        fill(&b, "password", "wrong horse battery");
        b.press("\u{e007}");
        b.wait("the alert", "document.querySelector('[role=alert]')");
        is_fit_for_everybody(&b, &format!("wrong-{lang}"));
        fill(&b, "password", "correct horse battery");
        b.press("\u{e007}");
        b.wait_text(&format!("hello {login}"));
        let log: Vec<String> = b.log().into_iter().filter(|l| !l.contains("403")).collect();
        assert_eq!(log, Vec::<String>::new(), "the browser complains");
    }
}
