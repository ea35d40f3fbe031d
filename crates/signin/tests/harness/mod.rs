//! A sign-in process of its own, and browsers that are no more than a cookie jar.
#![allow(clippy::unwrap_used, dead_code)]

pub mod authenticator;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const GATE: &str = "1111111111111111111111111111111111111111111111111111111111111111";
pub const ADMIN: &str = "2222222222222222222222222222222222222222222222222222222222222222";
pub const HOST: &str = "docs.example";
pub const SESSION: &str = "__Host-pumasi_session";
pub const FORM: &str = "__Host-pumasi_form";

/// What this test program does instead of testing where it is the process that is tested.
pub fn child() {
    if std::env::var_os("PUMASI_REALM").is_some() {
        pumasi_signin::run().unwrap();
        std::process::exit(0);
    }
}

pub fn settings() -> Value {
    json!({
        "version": 1, "cloud": "city-a", "service": "docs", "epoch": 1, "hosts": [HOST], "sign_up": "open", "passwords": true,
        "hashes": "withheld", "basic": true, "gate_key": GATE, "admin_key": ADMIN,
    })
}

pub struct Process {
    pub child: Child,
    pub base: String,
    pub http: reqwest::Client,
}

impl Process {
    /// On the directories `realm` and `own` below `dir`.
    pub async fn start(dir: &Path, settings: &Value) -> Self {
        let own = dir.join("own");
        std::fs::create_dir_all(&own).unwrap();
        Self::start_at(dir, Some(&own), settings).await
    }

    pub async fn start_at(dir: &Path, own: Option<&Path>, settings: &Value) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self::start_on(dir, own, settings, port).await
    }

    pub async fn start_on(dir: &Path, own: Option<&Path>, settings: &Value, port: u16) -> Self {
        let realm = dir.join("realm");
        std::fs::create_dir_all(&realm).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child", "--nocapture"]).stdin(Stdio::null()).stdout(Stdio::null());
        command.env("PUMASI_REALM", settings.to_string()).env("HOST", "127.0.0.1").env("PORT", port.to_string());
        command.env("DATA_PUMASI_REALM", &realm).env_remove("DATA_PUMASI_OWN");
        if let Some(own) = own {
            command.env("DATA_PUMASI_OWN", own);
        }
        let child = command.spawn().unwrap();
        let mut process = Self { child, base: format!("http://127.0.0.1:{port}"), http: client() };
        let end = Instant::now() + Duration::from_secs(20);
        while !process.http.get(format!("{}/ready", process.base)).send().await.is_ok_and(|r| r.status() == 204) {
            assert!(process.child.try_wait().unwrap().is_none(), "it ended before it was ready");
            assert!(Instant::now() < end, "it was never ready");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        process
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub async fn gate(&self, check: Value) -> Value {
        let request = self.http.post(format!("{}/gate/v1/check", self.base)).header("pumasi-gate", GATE).json(&check);
        request.send().await.unwrap().json().await.unwrap()
    }

    /// The login of whom a session's secret shows.
    pub async fn who(&self, secret: &str) -> Option<String> {
        let checked = self.gate(json!({"by": "session", "digest": digest(secret)})).await;
        checked["user"]["login"].as_str().map(str::to_owned)
    }

    pub async fn app(&self, login: &str, secret: &str) -> Option<String> {
        let checked = self.gate(json!({"by": "app", "login": login, "digest": digest(secret)})).await;
        checked["user"]["login"].as_str().map(str::to_owned)
    }

    pub async fn ended(&self, after: u64) -> Value {
        let request = self.http.get(format!("{}/gate/v1/ended?after={after}", self.base)).header("pumasi-gate", GATE);
        request.send().await.unwrap().json().await.unwrap()
    }

    /// Status and body.
    pub async fn admin(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let request = self.http.request(method.parse().unwrap(), format!("{}/admin/v1/{path}", self.base));
        let request = request.header("pumasi-admin", ADMIN);
        let answer = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = answer.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
    }

    pub async fn invite(&self, invite: Value) -> String {
        let (status, invitation) = self.admin("POST", "invitations", Some(invite)).await;
        assert_eq!(status, 201, "{invitation}");
        invitation["path"].as_str().unwrap().strip_prefix("/.pumasi/").unwrap().to_owned()
    }

    pub fn browser(&self) -> Browser {
        Browser::new(&self.base, &self.http)
    }

    /// Resident memory, KiB.
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn client() -> reqwest::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    client.timeout(Duration::from_secs(60)).build().unwrap()
}

pub fn digest(secret: &str) -> String {
    pumasi_realm::gate::digest_of(secret.as_bytes())
}

#[derive(Clone)]
pub struct Browser {
    base: String,
    http: reqwest::Client,
    pub cookies: BTreeMap<String, String>,
    /// Of the last page with a form.
    pub token: String,
    /// Sent with each request.
    pub fields: Vec<(&'static str, String)>,
}

#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub location: String,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Browser {
    fn new(base: &str, http: &reqwest::Client) -> Self {
        let fields = vec![
            ("pumasi-gate", GATE.to_owned()),
            ("host", HOST.to_owned()),
            ("x-forwarded-proto", "https".to_owned()),
            ("x-forwarded-for", "192.0.2.1".to_owned()),
            ("user-agent", "A browser".to_owned()),
        ];
        Self { base: base.to_owned(), http: http.clone(), cookies: BTreeMap::new(), token: String::new(), fields }
    }

    pub fn from(mut self, address: &str) -> Self {
        self.set("x-forwarded-for", address);
        self
    }

    pub fn set(&mut self, name: &'static str, value: &str) {
        self.fields.retain(|(n, _)| *n != name);
        self.fields.push((name, value.to_owned()));
    }

    pub fn session(&self) -> Option<&str> {
        self.cookies.get(SESSION).map(String::as_str)
    }

    fn dress(&self, mut request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        for (name, value) in &self.fields {
            request = request.header(*name, value);
        }
        let cookies: Vec<String> = self.cookies.iter().map(|(n, v)| format!("{n}={v}")).collect();
        if cookies.is_empty() { request } else { request.header("cookie", cookies.join("; ")) }
    }

    /// Status 0: the process died before it answered.
    async fn send(&mut self, request: reqwest::RequestBuilder) -> Page {
        let Ok(answer) = self.dress(request).send().await else {
            return Page { status: 0, location: String::new(), headers: Default::default(), text: String::new() };
        };
        for cookie in answer.headers().get_all("set-cookie") {
            let cookie = cookie.to_str().unwrap();
            assert!(cookie.contains("; Secure; HttpOnly; SameSite=Lax; Path=/"), "{cookie}");
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            if cookie.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let location = headers.get("location").map(|l| l.to_str().unwrap().to_owned()).unwrap_or_default();
        let text = answer.text().await.unwrap_or_default();
        if let Some((_, rest)) = text.split_once(r#"name="token" value=""#) {
            self.token = rest[..64].to_owned();
        }
        Page { status, location, headers, text }
    }

    pub async fn get(&mut self, path: &str) -> Page {
        self.send(self.http.get(format!("{}/.pumasi/{path}", self.base))).await
    }

    /// A form with the token of the last page.
    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Page {
        let mut form = vec![("token", self.token.as_str())];
        form.extend(fields.iter().filter(|(n, _)| *n != "token"));
        form.extend(fields.iter().filter(|(n, _)| *n == "token"));
        let mut last: BTreeMap<&str, &str> = BTreeMap::new();
        last.extend(form);
        self.send(self.http.post(format!("{}/.pumasi/{path}", self.base)).form(&last)).await
    }

    pub async fn post_json(&mut self, path: &str, mut body: Value) -> (u16, Value) {
        body["token"] = self.token.clone().into();
        let page = self.send(self.http.post(format!("{}/.pumasi/{path}", self.base)).json(&body)).await;
        (page.status, serde_json::from_str(&page.text).unwrap_or(Value::String(page.text)))
    }

    pub async fn sign_up(&mut self, login: &str, password: &str) -> Page {
        self.get("sign-up").await;
        self.post("sign-up", &[("login", login), ("password", password)]).await
    }

    pub async fn sign_in(&mut self, login: &str, password: &str) -> Page {
        self.get("sign-in?again=1").await;
        self.post("sign-in", &[("login", login), ("password", password)]).await
    }
}
