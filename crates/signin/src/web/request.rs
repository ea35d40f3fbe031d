//! A user's request as the gateway passed it on.

use super::parse::{self, Form, Origin};
use crate::secret;
use crate::text::Lang;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method};
use pumasi_realm::SESSION_COOKIE;
use std::net::{IpAddr, Ipv4Addr};

/// What a browser is known by before it has signed in, and what its forms are bound to.
pub const FORM_COOKIE: &str = "__Host-pumasi_form";
pub const LANG_COOKIE: &str = "__Host-pumasi_lang";
/// 256 bits in base64.
const SECRET_BYTES: usize = 43;

#[derive(Debug)]
pub struct Visit {
    pub method: Method,
    /// Below [`pumasi_realm::PAGES`].
    pub page: String,
    pub query: Form,
    pub body: Bytes,
    pub lang: Lang,
    /// That it was chosen on the page, and is to be kept.
    pub lang_chosen: bool,
    /// As the browser wrote it, with its port.
    authority: String,
    pub https: bool,
    pub address: IpAddr,
    /// The digest of its session's secret; not whether it counts.
    pub session: Option<String>,
    /// The browser's own secret, and whether it has still to be told.
    pub browser: String,
    pub browser_is_new: bool,
    /// What the browser says it is.
    pub label: String,
    origin: Option<String>,
    fetch_site: Option<String>,
}

fn one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

impl Visit {
    /// None: its query is not to be understood.
    pub fn read(parts: &Parts, page: &str, body: Bytes) -> Option<Self> {
        let h = &parts.headers;
        let query = Form::parse(parts.uri.query().unwrap_or_default().as_bytes())?;
        let cookies = || h.get_all(http::header::COOKIE).iter().filter_map(|v| v.to_str().ok());
        let known = parse::cookie(cookies(), FORM_COOKIE).filter(|c| is_secret(c)).map(str::to_owned);
        let session = parse::cookie(cookies(), SESSION_COOKIE).map(|c| secret::digest_of(c.as_bytes()));
        let chosen = Lang::parse(query.get("lang"));
        let accepted = || Lang::accepted(one(h, "accept-language").unwrap_or_default());
        let lang =
            chosen.or_else(|| parse::cookie(cookies(), LANG_COOKIE).and_then(Lang::parse)).unwrap_or_else(accepted);
        let address = one(h, "x-forwarded-for").and_then(|a| a.trim().parse().ok());
        Some(Self {
            method: parts.method.clone(),
            page: page.to_owned(),
            query,
            body,
            lang,
            lang_chosen: chosen.is_some(),
            authority: one(h, "host").unwrap_or_default().to_ascii_lowercase(),
            https: one(h, "x-forwarded-proto") == Some("https"),
            address: address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            session,
            browser_is_new: known.is_none(),
            browser: known.unwrap_or_else(secret::fresh),
            label: label(h.get(http::header::USER_AGENT).map(http::HeaderValue::as_bytes).unwrap_or_default()),
            origin: one(h, "origin").map(str::to_owned),
            fetch_site: one(h, "sec-fetch-site").map(str::to_owned),
        })
    }

    /// Without its port.
    pub fn host(&self) -> &str {
        parse::split_port(&self.authority).map_or("", |(host, _)| host)
    }

    /// Whether browsers keep our cookies here.
    pub fn is_secure(&self) -> bool {
        self.https || self.host() == "localhost" || self.host().ends_with(".localhost")
    }

    /// What its forms have to show. It is bound to the session, so none from before a sign-in counts after it.
    pub fn token(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("pumasi signin 2026-12 the token of a form");
        hasher.update(self.browser.as_bytes());
        hasher.update(self.session.as_deref().unwrap_or_default().as_bytes());
        hasher.finalize().to_hex().to_string()
    }

    /// Whether the request was made by a page of this process, for this browser.
    pub fn is_ours(&self, token: &str) -> bool {
        // Browsers say from where a form was sent; what says nothing has to have the token all the same.
        let origin = self.origin.as_deref().is_none_or(|text| {
            let ours = format!("{}://{}", if self.https { "https" } else { "http" }, self.authority);
            Origin::parse(text).is_some() && text == ours
        });
        let site = self.fetch_site.as_deref().is_none_or(|s| s == "same-origin");
        origin && site && !self.browser_is_new && secret::same(token.as_bytes(), self.token().as_bytes())
    }
}

fn is_secret(text: &str) -> bool {
    text.len() == SECRET_BYTES && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// Bounded, and nothing but plain characters.
fn label(agent: &[u8]) -> String {
    let plain = agent.iter().filter(|b| (0x20..0x7f).contains(*b));
    plain.take(crate::db::sessions::LABEL_BYTES_MAX).map(|b| char::from(*b)).collect()
}
