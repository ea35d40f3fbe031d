//! Answers of instances: where they end, what may not be passed on, whose they are. `/next` is asked by another user afterwards.

use super::{Case, Conduct, Outcome, get, post};

const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";

/// The next user got its own answer.
fn next_is_well(o: &Outcome) -> bool {
    o.user_has(1, "this is /next") && !o.user_has(1, "evil")
}
fn bad_gateway(o: &Outcome) -> bool {
    matches!(o.status(), 0 | 500..=599)
}
/// The body `hello`, framed once, and nothing else.
fn hello(o: &Outcome) -> bool {
    let text = o.text(0);
    o.status() == 200 && text.contains("hello") && frames(&text) <= 1 && (o.users[0].closed || !is_cut(&text))
}
fn frames(text: &str) -> usize {
    let head = text.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
    head.matches("content-length:").count() + head.matches("transfer-encoding:").count()
}
/// The user waits for bytes that were announced.
fn is_cut(text: &str) -> bool {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let lower = head.to_ascii_lowercase();
    match lower.split("content-length:").nth(1).and_then(|v| v.trim_start().split("\r\n").next()?.trim().parse().ok()) {
        Some(length) => body.len() < length,
        None => lower.contains("transfer-encoding: chunked") && !body.ends_with("0\r\n\r\n"),
    }
}
/// Refused, or broken off so that the user sees it.
fn broken(o: &Outcome) -> bool {
    let text = o.text(0);
    bad_gateway(o) || (o.users[0].closed && (is_cut(&text) || frames(&text) == 0))
}

pub fn list() -> Vec<Case> {
    let said = |name, text, holds| Case::new(name, get("/x", ""), holds).before(Conduct::Says(text));
    let ended = |name, text, holds| Case::new(name, get("/x", ""), holds).before(Conduct::SaysAndEnds(text));
    let later = |name, method: &str, text| {
        let asked = format!("{method} /x HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        Case::new(name, asked, next_is_well).before(Conduct::SaysLater(text, EVIL)).then(1, get("/next", ""))
    };
    vec![
        said(
            "a length and chunks",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            |o| bad_gateway(o) || hello(o),
        ),
        Case::new("the same in answer to a POST", post("Content-Length: 1\r\n", "x"), |o| bad_gateway(o) || hello(o))
            .before(Conduct::Says(
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            )),
        said("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\nhello", bad_gateway),
        said("one length twice", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", |o| {
            bad_gateway(o) || hello(o)
        }),
        Case::new("one length twice in answer to a POST", post("Content-Length: 1\r\n", "x"), |o| {
            bad_gateway(o) || hello(o)
        })
        .before(Conduct::Says("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello")),
        said("length +5", "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello", bad_gateway),
        said("length 5x", "HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\nhello", bad_gateway),
        said(
            "a chunk without a size",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
            broken,
        ),
        said(
            "a chunk longer than it says",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n",
            broken,
        ),
        said(
            "a coding that nobody asked for",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            |o| bad_gateway(o) || o.user_has(0, "gzip"),
        ),
        ended("a body that breaks off", "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", broken),
        ended(
            "a chunked body that breaks off",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            broken,
        ),
        ended("a body that ends with the connection", "HTTP/1.1 200 OK\r\n\r\nhello", hello),
        ended("HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", hello),
        ended("an end without an answer", "", bad_gateway),
        ended("a head that breaks off", "HTTP/1.1 200 OK\r\nContent-Le", bad_gateway),
        said("no status line", "hello\r\n\r\n", bad_gateway),
        said("a status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello", bad_gateway),
        said("a NUL in a value", "HTTP/1.1 200 OK\r\nA: b\0c\r\nContent-Length: 5\r\n\r\nhello", bad_gateway),
        said("a blank in a name", "HTTP/1.1 200 OK\r\nA b: c\r\nContent-Length: 5\r\n\r\nhello", |o| {
            bad_gateway(o) || !o.user_has(0, "a b:")
        }),
        said("a folded line", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 5\r\n\r\nhello", |o| {
            bad_gateway(o) || !o.user_has(0, "\r\n c")
        }),
        said("a blank before the colon of the length", "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello", |o| {
            bad_gateway(o) || !o.user_has(0, "length :")
        }),
        Case::new("a head of 1 MB", get("/x", ""), bad_gateway).before(Conduct::LongHead(1 << 20)),
        said(
            "more than the length is nobody's answer",
            concat!(
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
            ),
            next_is_well,
        )
        .then(1, get("/next", "")),
        said(
            "more than the chunks is nobody's answer",
            concat!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
            ),
            next_is_well,
        )
        .then(1, get("/next", "")),
        later("a body behind a HEAD, later", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n"),
        later("a body behind 304, later", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 45\r\n\r\n"),
        later("a body behind 204, later", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 45\r\n\r\n"),
        Case::new("HEAD has the length and no body", "HEAD /x HTTP/1.1\r\nHost: shop.example\r\n\r\n", |o| {
            o.status() == 200 && o.user_has(0, "content-length: 5") && o.text(0).ends_with("\r\n\r\n")
        })
        .before(Conduct::Says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")),
        said(
            "fields that Connection names are taken off",
            "HTTP/1.1 200 OK\r\nConnection: x-own\r\nX-Own: secret\r\nContent-Length: 5\r\n\r\nhello",
            |o| hello(o) && !o.user_has(0, "secret"),
        ),
        said(
            "Keep-Alive of the instance is not the user's",
            "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 5\r\n\r\nhello",
            |o| hello(o) && !o.user_has(0, "timeout=1"),
        ),
        said(
            "two Set-Cookie stay two",
            "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 5\r\n\r\nhello",
            |o| o.text(0).to_ascii_lowercase().matches("set-cookie:").count() == 2,
        ),
        said("a reason is passed on or none", "HTTP/1.1 200 Fine\r\nContent-Length: 5\r\n\r\nhello", hello),
        Case::new("chunks are not sent to HTTP/1.0", "GET /x HTTP/1.0\r\nHost: shop.example\r\n\r\n", |o| {
            o.status() == 200 && o.text(0).ends_with("\r\n\r\nhello") && o.users[0].closed
        })
        .before(Conduct::Says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")),
        said(
            "103 is passed on",
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            |o| hello_behind(o) && o.user_has(0, "http/1.1 103"),
        )
        .ours_fails("hyper's server cannot send informational answers (decision 0047)"),
        said(
            "100 that nobody asked for is not the answer",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            hello_behind,
        ),
        said(
            "101 that nobody asked for",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello",
            bad_gateway,
        ),
    ]
}

fn hello_behind(o: &Outcome) -> bool {
    o.status() == 200 && o.text(0).ends_with("hello")
}
