//! Fields at the border: what users may not say, what means one connection only, what must not change.

use super::{Case, Outcome, get};

fn honest(o: &Outcome) -> bool {
    o.refused() || (o.read(1) && !o.head_has("6.6.6.6"))
}
fn gone(o: &Outcome) -> bool {
    o.refused() || (o.read(1) && !o.head_has("secret"))
}

pub fn list() -> Vec<Case> {
    let field = |lines: &str| get("/x", &format!("{lines}\r\n"));
    vec![
        Case::new("X-Forwarded-For is the gateway's word", field("X-Forwarded-For: 6.6.6.6"), |o| {
            honest(o) && o.head_has("x-forwarded-for: 127.0.0.1")
        }),
        Case::new("said twice as well", field("X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 6.6.6.6"), honest),
        Case::new("with an underscore", field("X_Forwarded_For: 6.6.6.6"), honest),
        Case::new("with one underscore", field("X-Forwarded_For: 6.6.6.6"), honest),
        Case::new("X-Real-IP", field("X-Real-IP: 6.6.6.6"), honest),
        Case::new("X_Real_IP", field("X_Real_IP: 6.6.6.6"), honest),
        Case::new("Forwarded", field("Forwarded: for=6.6.6.6"), honest),
        Case::new("X-Forwarded-Host is no user's word", field("X-Forwarded-Host: secret.example"), gone),
        Case::new("X-Forwarded-Port is no user's word", field("X-Forwarded-Port: secret"), gone),
        Case::new("X-Forwarded-Prefix is no user's word", field("X-Forwarded-Prefix: /secret"), gone),
        Case::new("Proxy (httpoxy)", field("Proxy: http://secret.example"), gone),
        Case::new(
            "Connection cannot take off what the gateway says",
            field("Connection: X-Forwarded-For, X-Forwarded-Proto"),
            |o| o.refused() || o.head_has("x-forwarded-for: 127.0.0.1"),
        ),
        Case::new("Connection cannot take off the Host", field("Connection: Host"), |o| {
            o.refused() || o.head_has("host: ")
        }),
        Case::new("fields that Connection names are taken off", field("Connection: x-own\r\nX-Own: secret"), gone),
        Case::new("named in capitals and blanks as well", field("Connection: close ,  X-OWN\r\nX-Own: secret"), gone),
        Case::new("Keep-Alive is taken off", field("Keep-Alive: secret"), gone),
        Case::new("Proxy-Connection is taken off", field("Proxy-Connection: secret"), gone),
        Case::new("Proxy-Authorization is not the application's", field("Proxy-Authorization: Basic secret"), gone),
        Case::new("TE names nothing but trailers", field("TE: secret;q=0.5"), gone),
        Case::new("a cookie in UTF-8 stays", field("Cookie: a=\u{d55c}\u{ae00}; b=2"), |o| {
            o.passed(1) && o.head_has("a=\u{d55c}\u{ae00}; b=2")
        }),
        Case::new("two values stay in order", field("A: one\r\nB: x\r\nA: two"), |o| {
            let head = o.seen.requests.first().map(|r| r.head.to_ascii_lowercase()).unwrap_or_default();
            o.passed(1) && head.find("one") < head.find("two") && head.contains("two")
        }),
        Case::new("an empty value stays a field", field("A:"), |o| o.passed(1) && o.head_has("\r\na:")),
        Case::new("a query stays as it is", get("/x?a=%2f%2F&b=+&c", ""), |o| {
            o.passed(1) && o.head_has("/x?a=%2f%2f&b=+&c ")
        }),
        Case::new("a path stays as it is", get("/a/%2e%2E/b//c;d/%2F", ""), |o| {
            o.passed(1) && o.seen.requests[0].target() == "/a/%2e%2E/b//c;d/%2F"
        }),
        Case::new("the gateway names itself (Via)", get("/x", ""), |o| o.head_has("via: ")),
        Case::new("Authorization is passed on", field("Authorization: Bearer own"), |o| {
            o.passed(1) && o.head_has("authorization: bearer own")
        }),
        Case::new("Connection: close closes", field("Connection: close"), |o| o.passed(1) && o.users[0].closed),
    ]
}
