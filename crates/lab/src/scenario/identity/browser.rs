//! A user's browser, as far as signing in needs one: cookies, and the hidden token of the last form.

use crate::load::{self, Planned};
use anyhow::{Context, ensure};
use http::header::{ACCEPT, AUTHORIZATION, COOKIE, LOCATION, SET_COOKIE};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use pumasi_realm::percent;
use std::collections::BTreeMap;
use std::net::SocketAddr;

const SESSION: &str = "__Host-pumasi_session";

#[derive(Debug, Clone)]
pub struct Browser {
    host: &'static str,
    cookies: BTreeMap<String, String>,
    token: String,
}

#[derive(Debug)]
pub struct Page {
    pub status: StatusCode,
    pub location: String,
    pub text: String,
}

impl Browser {
    pub fn new(host: &'static str) -> Self {
        Self { host, cookies: BTreeMap::new(), token: String::new() }
    }

    pub fn is_signed_in(&self) -> bool {
        self.cookies.contains_key(SESSION)
    }

    pub async fn ask(&mut self, at: SocketAddr, mut planned: Planned) -> anyhow::Result<Page> {
        if !self.cookies.is_empty() {
            let all: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            planned.fields.push((COOKIE, HeaderValue::try_from(all.join("; "))?));
        }
        let answer = load::ask_whole(at, self.host, &planned).await?;
        for cookie in answer.headers.get_all(SET_COOKIE) {
            let cookie = cookie.to_str()?;
            let (pair, rest) = cookie.split_once(';').unwrap_or((cookie, ""));
            let (name, value) = pair.split_once('=').context("a cookie without a value")?;
            match rest.contains("Max-Age=0") {
                true => drop(self.cookies.remove(name)),
                false => drop(self.cookies.insert(name.to_owned(), value.to_owned())),
            }
        }
        let location = answer.headers.get(LOCATION).map(|l| l.to_str().map(str::to_owned)).transpose()?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        if let Some((_, rest)) = text.split_once(r#"name="token" value=""#) {
            self.token = rest.split('"').next().unwrap_or_default().to_owned();
        }
        Ok(Page { status: answer.status, location: location.unwrap_or_default(), text })
    }

    pub async fn get(&mut self, at: SocketAddr, path: &str) -> anyhow::Result<Page> {
        let mut planned = Planned::get(path.to_owned());
        planned.fields.push((ACCEPT, HeaderValue::from_static("text/html")));
        self.ask(at, planned).await
    }

    /// A form with the token of the last page.
    pub async fn post(&mut self, at: SocketAddr, path: &str, fields: &[(&str, &str)]) -> anyhow::Result<Page> {
        let token = self.token.clone();
        let all = std::iter::once(("token", token.as_str())).chain(fields.iter().copied());
        let body =
            all.map(|(name, value)| format!("{name}={}", percent::encode(value, b""))).collect::<Vec<_>>().join("&");
        let kind = "application/x-www-form-urlencoded";
        self.ask(at, Planned::new(Method::POST, path, kind, body.into_bytes())).await
    }

    pub async fn sign_up(&mut self, at: SocketAddr, path: &str, login: &str, password: &str) -> anyhow::Result<()> {
        let page = self.get(at, path).await?;
        ensure!(page.status == StatusCode::OK, "{path}: {} {}", page.status, page.text);
        let invitation = path.split_once("invitation=").map(|(_, i)| i.split('&').next().unwrap_or_default());
        let mut fields = vec![("login", login), ("password", password)];
        fields.extend(invitation.map(|i| ("invitation", i)));
        let page = self.post(at, "/.pumasi/sign-up", &fields).await?;
        ensure!(page.status == StatusCode::SEE_OTHER && self.is_signed_in(), "{}: {}", page.status, page.text);
        Ok(())
    }

    pub async fn sign_in(&mut self, at: SocketAddr, login: &str, password: &str) -> anyhow::Result<Page> {
        self.get(at, "/.pumasi/sign-in").await?;
        self.post(at, "/.pumasi/sign-in", &[("login", login), ("password", password)]).await
    }

    pub async fn sign_out(&mut self, at: SocketAddr) -> anyhow::Result<()> {
        self.get(at, "/.pumasi/sign-out").await?;
        let page = self.post(at, "/.pumasi/sign-out", &[]).await?;
        ensure!(page.status == StatusCode::SEE_OTHER && !self.is_signed_in(), "{}: {}", page.status, page.text);
        Ok(())
    }

    /// What the application is told of who asks; the status where it is not asked.
    pub async fn whoami(&mut self, at: SocketAddr) -> anyhow::Result<Result<String, StatusCode>> {
        self.whoami_with(at, &[]).await
    }

    pub async fn whoami_with(
        &mut self,
        at: SocketAddr,
        fields: &[(&str, &str)],
    ) -> anyhow::Result<Result<String, StatusCode>> {
        let mut planned = Planned::get("/whoami".to_owned());
        for (name, value) in fields {
            planned.fields.push((HeaderName::from_bytes(name.as_bytes())?, HeaderValue::try_from(*value)?));
        }
        let page = self.ask(at, planned).await?;
        if page.status != StatusCode::OK {
            return Ok(Err(page.status));
        }
        let said: serde_json::Value = serde_json::from_str(&page.text)?;
        Ok(Ok(said["told"].to_string()))
    }

    pub fn basic(login: &str, password: &str) -> (HeaderName, String) {
        use base64::Engine;
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{login}:{password}"));
        (AUTHORIZATION, format!("Basic {pair}"))
    }
}
