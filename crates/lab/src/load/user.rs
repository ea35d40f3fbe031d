//! What one user keeps between requests: cookies and idle connections.

use super::Jars;
use bytes::Bytes;
use http::header::{HeaderMap, SET_COOKIE};
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use std::net::SocketAddr;
use std::sync::PoisonError;

/// Names the user to the service and to the gateway; see `routing.user_cookie` of the Service document.
pub const USER_COOKIE: &str = "user";

const COOKIES_MAX: usize = 32;
const COOKIE_BYTES_MAX: usize = 4096;
const IDLE_MAX: usize = 4;

#[derive(Debug)]
pub(super) struct User {
    number: u32,
    cookies: Vec<(String, String)>,
    idle: Vec<(SocketAddr, SendRequest<Full<Bytes>>)>,
}

impl User {
    pub fn new(number: u32, jars: &Jars) -> Self {
        let kept = jars.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned();
        let cookies = kept.unwrap_or_else(|| vec![(USER_COOKIE.into(), format!("u{number}"))]);
        Self { number, cookies, idle: Vec::new() }
    }

    pub fn cookie_header(&self) -> String {
        let mut header = String::with_capacity(16);
        for (name, value) in &self.cookies {
            if !header.is_empty() {
                header.push_str("; ");
            }
            header.push_str(name);
            header.push('=');
            header.push_str(value);
        }
        header
    }

    /// Keeps and drops cookies as an answer says. The whole service counts as one site.
    pub fn take_cookies(&mut self, headers: &HeaderMap, jars: &Jars) {
        if !headers.contains_key(SET_COOKIE) {
            return;
        }
        for line in headers.get_all(SET_COOKIE).iter().filter_map(|v| v.to_str().ok()) {
            let mut parts = line.split(';').map(str::trim);
            let Some((name, value)) = parts.next().and_then(|p| p.split_once('=')) else { continue };
            let gone = parts.any(|p| p.eq_ignore_ascii_case("max-age=0"));
            self.cookies.retain(|(n, _)| n != name);
            if !gone && self.cookies.len() < COOKIES_MAX && name.len() + value.len() <= COOKIE_BYTES_MAX {
                self.cookies.push((name.into(), value.into()));
            }
        }
        jars.lock().unwrap_or_else(PoisonError::into_inner).insert(self.number, self.cookies.clone());
    }

    pub fn take_idle(&mut self, to: SocketAddr) -> Option<SendRequest<Full<Bytes>>> {
        self.idle.retain(|(_, c)| !c.is_closed());
        let at = self.idle.iter().rposition(|(a, _)| *a == to)?;
        Some(self.idle.swap_remove(at).1)
    }

    pub fn keep_idle(&mut self, to: SocketAddr, connection: SendRequest<Full<Bytes>>) {
        if self.idle.len() < IDLE_MAX && !connection.is_closed() {
            self.idle.push((to, connection));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_kept_replaced_and_dropped() {
        let jars = Jars::default();
        let mut user = User::new(7, &jars);
        let answer = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            lines.iter().for_each(|l| {
                headers.append(SET_COOKIE, l.parse().unwrap());
            });
            headers
        };
        user.take_cookies(&answer(&["pumasi_pos=a=1; Path=/; HttpOnly", "x=1"]), &jars);
        user.take_cookies(&answer(&["pumasi_pos=b", "x=; Max-Age=0", "nonsense"]), &jars);
        assert_eq!(user.cookie_header(), "user=u7; pumasi_pos=b");
        assert_eq!(User::new(7, &jars).cookie_header(), "user=u7; pumasi_pos=b", "it comes again");
        assert_eq!(User::new(8, &jars).cookie_header(), "user=u8");
    }
}
