//! Request lines, fields as they are written, hosts, targets, limits.

use super::{Case, Outcome, get};
use std::time::Duration;

fn refused(o: &Outcome) -> bool {
    o.refused()
}
fn one_or_refused(o: &Outcome) -> bool {
    o.one_or_refused()
}
fn passed(o: &Outcome) -> bool {
    o.passed(1)
}

pub fn list() -> Vec<Case> {
    let field = |line: &str| get("/x", &format!("{line}\r\n"));
    let line = |line: &str| format!("{line}\r\nHost: shop.example\r\n\r\n");
    vec![
        Case::new("an ordinary request", get("/x", ""), passed),
        Case::new("line ends without CR", "GET /x HTTP/1.1\nHost: shop.example\n\n", one_or_refused),
        Case::new("one line end without CR", "GET /x HTTP/1.1\r\nHost: shop.example\nA: b\r\n\r\n", one_or_refused),
        Case::new("a bare CR in a value", field("A: b\rc: d"), |o| {
            o.refused() || !o.seen.raw.windows(3).any(|w| w == b"b\rc")
        }),
        Case::new("a NUL in a value", field("A: b\0c"), |o| o.refused() || !o.seen.raw.contains(&0)),
        Case::new("a NUL in a name", field("A\0b: c"), refused),
        Case::new("a vertical tab in a value", field("A: b\x0bc"), |o| o.refused() || !o.seen.raw.contains(&0x0b)),
        Case::new("a byte above 0x7f in a value stays", field("A: caf\u{e9}"), |o| {
            o.passed(1) && o.head_has("caf\u{e9}")
        }),
        Case::new("a folded line", field("A: b\r\n c"), one_or_refused),
        Case::new(
            "a blank before the first field",
            "GET /x HTTP/1.1\r\n A: b\r\nHost: shop.example\r\n\r\n",
            one_or_refused,
        ),
        Case::new("a blank before the colon", field("A : b"), |o| o.refused() || (o.read(1) && !o.head_has("a :"))),
        Case::new("a tab before the colon", field("A\t: b"), |o| o.refused() || (o.read(1) && !o.head_has("a\t:"))),
        Case::new("a blank in a name", field("A b: c"), refused),
        Case::new("an empty name", field(": b"), refused),
        Case::new("a line without a colon", field("Ab"), |o| o.refused() || (o.read(1) && !o.head_has("\r\nab\r\n"))),
        Case::new("a name with a bracket", field("A(b: c"), |o| o.refused() || (o.read(1) && !o.head_has("a(b"))),
        Case::new("two blanks in the request line", line("GET  /x HTTP/1.1"), one_or_refused),
        Case::new("tabs in the request line", line("GET\t/x\tHTTP/1.1"), one_or_refused),
        Case::new("a blank in the target", line("GET /x y HTTP/1.1"), refused),
        Case::new("a control byte in the target", line("GET /x\x01 HTTP/1.1"), refused),
        Case::new("a fragment in the target", line("GET /x#y HTTP/1.1"), |o| o.refused() || !o.head_has("#")),
        Case::new("a target without a slash", line("GET x HTTP/1.1"), refused),
        Case::new("a target that names only a host", line("GET shop.example:80 HTTP/1.1"), refused),
        Case::new("GET of *", line("GET * HTTP/1.1"), refused),
        Case::new("OPTIONS of * is answered or passed on", line("OPTIONS * HTTP/1.1"), |o| {
            matches!(o.status(), 200..=299 | 405 | 501) && !o.seen.garbage
        }),
        Case::new(
            "OPTIONS with Max-Forwards: 0 is not passed on",
            "OPTIONS /x HTTP/1.1\r\nHost: shop.example\r\nMax-Forwards: 0\r\n\r\n",
            |o| o.seen.requests.is_empty() && o.status() >= 200,
        ),
        Case::new("CONNECT", "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n", refused),
        Case::new("TRACE is not passed on", line("TRACE /x HTTP/1.1"), refused),
        Case::new("a method with a bracket", line("GE(T /x HTTP/1.1"), refused),
        Case::new("a method in small letters is not another", line("get /x HTTP/1.1"), |o| {
            o.refused() || o.seen.requests[0].head.starts_with("get ")
        }),
        Case::new("a method that nobody knows is passed on or refused", line("BREW /x HTTP/1.1"), one_or_refused),
        Case::new("no version", "GET /x\r\n\r\n", refused),
        Case::new("version 2.0", line("GET /x HTTP/2.0"), refused),
        Case::new("version 1.10", line("GET /x HTTP/1.10"), refused),
        Case::new("a version in small letters", line("GET /x http/1.1"), refused),
        Case::new("a version with a tail", line("GET /x HTTP/1.1x"), refused),
        Case::new("version 1.0 closes", "GET /x HTTP/1.0\r\nHost: shop.example\r\n\r\n", |o| {
            o.passed(1) && o.users[0].closed
        }),
        Case::new("no Host", "GET /x HTTP/1.1\r\n\r\n", refused),
        Case::new("two Hosts", field("Host: evil.example"), refused),
        Case::new("an empty Host", "GET /x HTTP/1.1\r\nHost:\r\n\r\n", one_or_refused),
        Case::new("a Host with a user", "GET /x HTTP/1.1\r\nHost: a@shop.example\r\n\r\n", refused),
        Case::new("a Host with a path", "GET /x HTTP/1.1\r\nHost: shop.example/y\r\n\r\n", refused),
        Case::new("a Host with a blank", "GET /x HTTP/1.1\r\nHost: shop.example evil\r\n\r\n", refused),
        Case::new("a Host with a port that is none", "GET /x HTTP/1.1\r\nHost: shop.example:x\r\n\r\n", refused),
        Case::new(
            "the target's host stands over the field",
            "GET http://shop.example/x HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            |o| o.refused() || (o.read(1) && !o.head_has("evil.example")),
        ),
        Case::new("a target with a user", "GET http://a@shop.example/x HTTP/1.1\r\nHost: shop.example\r\n\r\n", |o| {
            o.refused() || !o.head_has("a@")
        }),
        Case::new("an empty line before the request", format!("\r\n{}", get("/x", "")), passed),
        Case::new("two requests in one piece, answers in order", get("/x", "") + &get("/y", ""), |o| {
            let text = o.text(0);
            o.passed(2) && text.find("this is /x") < text.find("this is /y")
        }),
        Case::new("a request byte by byte is one", "GET /x HT", passed)
            .then(0, "TP/1.1\r")
            .then(0, "\nHost: shop.example\r\n\r")
            .then(0, "\n"),
        Case::new("what follows a refusal is not executed", field("A b: c") + &get("/smuggled", ""), Outcome::refused),
        Case::new("a head of 100 KB", field(&format!("A: {}", "a".repeat(100_000))), refused),
        Case::new("a target of 100 KB", line(&format!("GET /{} HTTP/1.1", "a".repeat(100_000))), refused),
        Case::new(
            "2,000 fields",
            field((0..2_000).map(|i| format!("A{i}: b\r\n")).collect::<String>().trim_end()),
            refused,
        ),
        Case::new("a head that does not end is given up", "GET /x HTTP/1.1\r\nHost: shop.example\r\nA: b", |o| {
            o.refused() && o.users[0].closed
        })
        .quiet(Duration::from_secs(4)),
    ]
}
