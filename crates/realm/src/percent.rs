//! Text in header fields, paths and forms.

/// Percent-encoded UTF-8 (RFC 3986, 2.1): all but the unreserved characters and those of `also`.
pub fn encode(text: &str, also: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) || also.contains(&b) => out.push(char::from(b)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_means_something_elsewhere_is_written_as_bytes() {
        assert_eq!(super::encode("a b%\r\n/?&=+~-._", b""), "a%20b%25%0D%0A%2F%3F%26%3D%2B~-._");
        assert_eq!((super::encode("민@a", b"@"), super::encode("@", b"")), ("%EB%AF%BC@a".into(), "%40".into()));
    }
}
