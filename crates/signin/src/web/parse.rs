//! Outside bytes, read strictly: forms, cookies, paths to go back to, origins. Pure.

use std::collections::BTreeMap;

pub const FIELDS_MAX: usize = 32;
pub const RETURN_BYTES_MAX: usize = 2_048;

/// The fields of a form (`application/x-www-form-urlencoded`), each at most once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Form(BTreeMap<String, String>);

impl Form {
    /// None: it is no form, or one that this process never made.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = BTreeMap::new();
        for pair in bytes.split(|b| *b == b'&').filter(|p| !p.is_empty()) {
            let eq = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
            let (name, value) = pair.split_at(eq);
            let (name, value) = (unescape(name)?, unescape(value.get(1..).unwrap_or_default())?);
            if fields.len() == FIELDS_MAX || fields.insert(name, value).is_some() {
                return None;
            }
        }
        Some(Self(fields))
    }

    /// Empty where it is not there.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn write(&self) -> String {
        let pairs: Vec<String> = self.0.iter().map(|(n, v)| format!("{}={}", escape(n), escape(v))).collect();
        pairs.join("&")
    }
}

fn unescape(bytes: &[u8]) -> Option<String> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(b) = rest.next() {
        out.push(match b {
            b'+' => b' ',
            b'%' => {
                let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
                digit(rest.next()?)? << 4 | digit(rest.next()?)?
            }
            b => *b,
        });
    }
    String::from_utf8(out).ok()
}

/// For a query or a form.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(b)),
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// A segment of a path.
pub fn segment(text: &str) -> Option<String> {
    unescape(&text.bytes().flat_map(|b| if b == b'+' { b"%2B".to_vec() } else { vec![b] }).collect::<Vec<_>>())
}

/// The value of the cookie `name`. None also where it stands twice: somebody else put one of them there.
pub fn cookie<'a>(headers: impl Iterator<Item = &'a str>, name: &str) -> Option<&'a str> {
    let mut found = headers
        .flat_map(|h| h.split(';'))
        .filter_map(|pair| pair.trim_matches([' ', '\t']).split_once('='))
        .filter_map(|(n, value)| (n == name).then_some(value));
    let first = found.next();
    if found.next().is_some() { None } else { first }
}

/// Where on this host a user wanted to go; never another host, however a browser reads it.
pub fn return_path(text: &str) -> Option<&str> {
    let path = text.split(['?', '#']).next().unwrap_or_default();
    let fine = text.len() <= RETURN_BYTES_MAX
        && path.starts_with('/')
        && !path.contains("//")
        && !text.contains('\\')
        // Browsers drop tabs and line ends, and a header field can hold no others of these.
        && text.bytes().all(|b| b.is_ascii_graphic());
    fine.then_some(text)
}

/// `scheme://host[:port]`, as browsers write it (RFC 6454, 6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    pub https: bool,
    pub host: &'a str,
    pub port: Option<u16>,
}

impl<'a> Origin<'a> {
    pub fn parse(text: &'a str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let https = match scheme {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let (host, port) = split_port(authority)?;
        let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        (!host.is_empty() && host.bytes().all(fine)).then_some(Self { https, host, port })
    }
}

/// `host[:port]`.
pub fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    match authority.split_once(':') {
        None => Some((authority, None)),
        Some((host, port)) => {
            let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
            Some((host, Some(digits.then(|| port.parse().ok()).flatten()?)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forms_are_read_as_browsers_write_them() {
        let form = Form::parse("login=%EB%AF%BC%EC%A4%80&password=a+b%2B%26%3D&empty=&bare&".as_bytes()).unwrap();
        assert_eq!((form.get("login"), form.get("password")), ("민준", "a b+&="));
        assert_eq!((form.get("empty"), form.get("bare"), form.get("none")), ("", "", ""));
        assert!(form.has("bare") && !form.has("none"));
        for bad in ["a=%", "a=%4", "a=%zz", "a=%ff", "a=1&a=2", "a=%+1"] {
            assert_eq!(Form::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Form::parse("a&".repeat(33).as_bytes()), None);
        assert_eq!(segment("a+b%40c").as_deref(), Some("a+b@c"));
    }

    #[test]
    fn a_cookie_that_stands_twice_is_none() {
        let of = |text: &'static str| cookie([text].into_iter(), "__Host-a");
        assert_eq!(of("x=1; __Host-a=2; y"), Some("2"));
        assert_eq!(of("__Host-a=2;__Host-a=3"), None);
        assert_eq!(of("x__Host-a=2; __host-a=3"), None);
        assert_eq!(cookie(["__Host-a=2", "__Host-a=2"].into_iter(), "__Host-a"), None);
    }

    #[test]
    fn nobody_is_sent_to_another_host() {
        for fine in
            ["/", "/a/b?c=d#e", "/?next=https://elsewhere.example/", "/.pumasi/account", "/%2f%2felsewhere.example"]
        {
            assert_eq!(return_path(fine), Some(fine));
        }
        let long = format!("/{}", "a".repeat(RETURN_BYTES_MAX));
        let hostile = [
            "",
            "a",
            "//elsewhere.example",
            "///elsewhere.example",
            "/\\elsewhere.example",
            "\\/elsewhere.example",
            "\\\\elsewhere.example",
            "https://elsewhere.example",
            "https:elsewhere.example",
            "http:/elsewhere.example",
            "javascript:alert(1)",
            "data:text/html,x",
            " //elsewhere.example",
            "/\t/elsewhere.example",
            "/\n/elsewhere.example",
            "/a\r\nSet-Cookie: x=y",
            "\t/",
            "/a b",
            "/a//b",
            "/./\\elsewhere.example",
            "/.//elsewhere.example",
            "/..//elsewhere.example",
            "?//elsewhere.example",
            "#",
            "@elsewhere.example",
            ".elsewhere.example",
            ":80/",
            "/\u{ff0f}elsewhere.example",
            "/\u{0}",
            "/a\u{2028}b",
            "//[::1]/",
            "ftp://elsewhere.example",
            &long,
        ];
        for bad in hostile {
            assert_eq!(return_path(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn origins() {
        let of = |text: &'static str| Origin::parse(text).map(|o| (o.https, o.host, o.port));
        assert_eq!(of("https://docs.example"), Some((true, "docs.example", None)));
        assert_eq!(of("http://docs.localhost:8080"), Some((false, "docs.localhost", Some(8080))));
        for bad in [
            "null",
            "",
            "https://",
            "https://a:b",
            "https://a:",
            "https://a/",
            "https://a@b",
            "https://A",
            "ftp://a",
            "https://a:99999",
        ] {
            assert_eq!(Origin::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(fields in prop::collection::btree_map(".{0,20}", ".{0,20}", 0..20)) {
            // A pair of which nothing is left is none.
            let form = Form(fields.into_iter().filter(|(n, _)| !n.is_empty()).collect());
            prop_assert_eq!(Form::parse(form.write().as_bytes()), Some(form));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(form) = Form::parse(&bytes) {
                prop_assert_eq!(Form::parse(form.write().as_bytes()), Some(form));
            }
        }
    }
}
