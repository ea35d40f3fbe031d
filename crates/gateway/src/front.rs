//! Proxies in front of this gateway that its operator trusts: whom they speak for.
//!
//! Enters: what a trusted proxy says of its user (`X-Forwarded-For`, `X-Forwarded-Proto`). Leaves: the user's address and scheme.
//! Always holds: nobody else's word counts; of a chain the last address that is not a trusted proxy's is taken, since whoever stands
//! before it may have written the rest.

use crate::headers::{FORWARDED_FOR, FORWARDED_PROTO};
use http::header::HeaderMap;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};

/// Longer chains are cut; what is left out was said by strangers.
const CHAIN_MAX: usize = 32;

/// Whether the operator trusts what comes from there to say whom it speaks for.
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

/// For whom a trusted proxy speaks, and by which scheme that user came; None for what it does not say, or not so that it reads.
pub fn user(fields: &HeaderMap, trusted: &[IpNet]) -> (Option<IpAddr>, Option<&'static str>) {
    (address(fields, trusted), scheme(fields))
}

fn address(fields: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let values = fields.get_all(FORWARDED_FOR).iter().rev().map(|v| v.to_str().unwrap_or_default());
    let mut last = None;
    for text in values.flat_map(|v| v.rsplit(',')).take(CHAIN_MAX) {
        let Some(address) = read(text.trim()) else { break };
        last = Some(address);
        if !is_trusted(address, trusted) {
            break;
        }
    }
    last
}

/// Some proxies write the port as well, and an IPv6 address in brackets.
fn read(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|a| a.ip())).ok()?;
    Some(IpAddr::to_canonical(&address))
}

fn scheme(fields: &HeaderMap) -> Option<&'static str> {
    let last = fields.get_all(FORWARDED_PROTO).iter().next_back()?.to_str().ok()?.rsplit(',').next()?.trim();
    ["https", "http"].into_iter().find(|known| last.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn said(values: &[&str]) -> Option<String> {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append(FORWARDED_FOR, HeaderValue::from_str(value).unwrap());
        }
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap());
        address(&fields, &trusted).map(|a| a.to_string())
    }

    #[test]
    fn the_last_that_is_no_trusted_proxy_is_the_user() {
        let user = |values: &[&str]| said(values).unwrap_or_default();
        assert_eq!(user(&["198.51.100.7"]), "198.51.100.7");
        assert_eq!(user(&["6.6.6.6, 198.51.100.7"]), "198.51.100.7", "what the user wrote before is nothing");
        assert_eq!(user(&["6.6.6.6, 198.51.100.7, 10.1.2.3", "10.0.0.9"]), "198.51.100.7");
        assert_eq!(user(&["10.1.2.3, 10.0.0.9"]), "10.1.2.3", "an inner user");
        assert_eq!(user(&["198.51.100.7:4711"]), "198.51.100.7");
        assert_eq!(user(&["[2001:db8::7]:4711, fd00::1"]), "2001:db8::7");
        assert_eq!(user(&["[2001:db8::7]"]), "2001:db8::7");
        assert_eq!(user(&["::ffff:198.51.100.7"]), "198.51.100.7");
        assert_eq!(
            user(&["198.51.100.7, unknown, 10.0.0.9"]),
            "10.0.0.9",
            "beyond what does not read nothing is believed"
        );
        assert_eq!(said(&[]), None);
        assert_eq!(said(&["unknown"]), None);
    }

    #[test]
    fn the_scheme_is_one_of_two() {
        let of = |text: &'static str| {
            let fields = HeaderMap::from_iter([(FORWARDED_PROTO, HeaderValue::from_static(text))]);
            scheme(&fields)
        };
        assert_eq!(
            ["https", "http, HTTPS", "https,http", "gopher", ""].map(of),
            [Some("https"), Some("https"), Some("http"), None, None]
        );
    }
}
