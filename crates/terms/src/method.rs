//! Methods of HTTP: which of them ask for nothing to be changed. The one table of it.
//!
//! Source: the IANA HTTP Method Registry, column "Safe" (RFC 9110, 16.1). Methods are case-sensitive (RFC 9110, 9.1).
//! Always holds: what is not in the table is not safe.

/// PRI is safe by the registry and no request (RFC 9113, 3.4): it is left out.
pub const SAFE: [&str; 8] = ["GET", "HEAD", "OPTIONS", "PROPFIND", "QUERY", "REPORT", "SEARCH", "TRACE"];

/// The others that the registry knows. What they mean is not a service's to say.
const UNSAFE: [&str; 31] = [
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "ORDERPATCH",
    "PATCH",
    "PRI",
    "PROPPATCH",
    "PUT",
    "REBIND",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
];

pub const NAME_BYTES_MAX: usize = 32;

pub fn is_safe(method: &str) -> bool {
    matches!(method, "GET" | "HEAD") || SAFE.contains(&method)
}

/// Whether a request changes nothing, by the registry or by the service's own word.
pub fn is_safe_or(method: &str, of_service: &[String]) -> bool {
    is_safe(method) || of_service.iter().any(|m| m == method)
}

/// What is wrong with a method that a service wants to call safe. POST means what its resource says (RFC 9110, 9.3.3), so a service may
/// say that its own only reads.
pub fn check_claim(method: &str) -> Result<(), String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if method.is_empty() || method.len() > NAME_BYTES_MAX || !method.bytes().all(token) {
        return Err(format!("{method:?} is not a method's name (a token of at most {NAME_BYTES_MAX} bytes)"));
    }
    if UNSAFE.contains(&method) {
        return Err(format!("{method} is not safe by the IANA HTTP Method Registry"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn safe_is_what_the_registry_calls_safe_and_nothing_else() {
        for method in SAFE {
            assert!(is_safe(method) && check_claim(method).is_ok(), "{method}");
        }
        for method in UNSAFE.iter().chain(&["POST", "get", "Propfind", "GETS", "FETCH", ""]) {
            assert!(!is_safe(method), "{method}");
        }
    }

    #[test]
    fn a_service_may_say_more_and_never_what_the_registry_denies() {
        let own = ["POST".to_owned(), "FETCH".to_owned()];
        assert!(own.iter().all(|m| check_claim(m).is_ok() && is_safe_or(m, &own) && !is_safe(m)));
        assert!(!is_safe_or("post", &own) && !is_safe_or("PUT", &own));
        for method in UNSAFE.iter().chain(&["", "A B", "P\u{d6}ST", "X\n"]) {
            assert!(check_claim(method).is_err(), "{method}");
        }
        assert!(check_claim(&"X".repeat(NAME_BYTES_MAX + 1)).is_err());
    }
}
