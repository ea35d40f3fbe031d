//! Where a request ends: Content-Length, Transfer-Encoding, chunks, trailers. `/smuggled` must never be a request of its own.

use super::{Case, Conduct, Outcome, get, post};

const HIDDEN: &str = "GET /smuggled HTTP/1.1\r\nHost: shop.example\r\n\r\n";
const TE: &str = "Transfer-Encoding: chunked\r\n";

fn refused(o: &Outcome) -> bool {
    o.refused()
}
fn one_or_refused(o: &Outcome) -> bool {
    o.one_or_refused()
}
/// Read as the five bytes that it is, or refused.
fn hello_or_refused(o: &Outcome) -> bool {
    o.refused() || (o.read(1) && o.body_is("hello"))
}
fn hello(o: &Outcome) -> bool {
    o.passed(1) && o.body_is("hello")
}
/// Nothing of it was taken for a request, and what the instance got of it ended in good order or not at all.
fn unsmuggled(o: &Outcome) -> bool {
    o.unsmuggled() && o.seen.requests.len() <= 1
}

pub fn list() -> Vec<Case> {
    let length = |value: &str| post(&format!("Content-Length: {value}\r\n"), "hello");
    let coding = |line: &str| post(&format!("{line}\r\n"), "5\r\nhello\r\n0\r\n\r\n");
    let chunks = |body: &str| post(TE, body);
    let both = |fields: &str| post(fields, &format!("0\r\n\r\n{HIDDEN}"));
    vec![
        Case::new("a body of five bytes", length("5"), hello),
        Case::new("a chunked body", coding("Transfer-Encoding: chunked"), hello),
        Case::new("length and chunks", both(&format!("Content-Length: 6\r\n{TE}")), unsmuggled),
        Case::new("chunks and length", both(&format!("{TE}Content-Length: 6\r\n")), unsmuggled),
        Case::new(
            "length and chunks leave one framing",
            post(&format!("Content-Length: 15\r\n{TE}"), "5\r\nhello\r\n0\r\n\r\n"),
            hello_or_refused,
        ),
        Case::new("two lengths", post("Content-Length: 5\r\nContent-Length: 0\r\n", "hello"), refused),
        Case::new(
            "the same length twice",
            post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
            hello_or_refused,
        ),
        Case::new("length 5, 5", length("5, 5"), hello_or_refused),
        Case::new("length 5, 6", length("5, 6"), refused),
        Case::new("length +5", length("+5"), refused),
        Case::new("length -5", length("-5"), refused),
        Case::new("length 0x5", length("0x5"), refused),
        Case::new("length 5 5", length("5 5"), refused),
        Case::new("length 5;", length("5;"), refused),
        Case::new("length 5.0", length("5.0"), refused),
        Case::new("an empty length", length(""), refused),
        Case::new("a length of 2^64 and 5", length("18446744073709551621"), refused),
        Case::new("length 005 is 5", length("005"), hello_or_refused),
        Case::new("a length with a form feed", length("5\x0c"), refused),
        Case::new("a blank before the colon of the length", post("Content-Length : 5\r\n", "hello"), hello_or_refused),
        Case::new(
            "a length that Connection names stays",
            post("Connection: Content-Length\r\nContent-Length: 5\r\n", "hello"),
            hello_or_refused,
        ),
        Case::new(
            "a coding that Connection names stays",
            post(&format!("Connection: Transfer-Encoding\r\n{TE}"), "5\r\nhello\r\n0\r\n\r\n"),
            hello_or_refused,
        ),
        Case::new("CHUNKED", coding("Transfer-Encoding: CHUNKED"), hello),
        Case::new("a tab before chunked", coding("Transfer-Encoding:\tchunked"), hello_or_refused),
        Case::new("chunked, chunked", coding("Transfer-Encoding: chunked, chunked"), refused),
        Case::new("chunked twice", coding("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), refused),
        Case::new("chunked and identity", coding("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"), refused),
        Case::new("identity, chunked", coding("Transfer-Encoding: identity, chunked"), hello_or_refused),
        Case::new("chunked, gzip", coding("Transfer-Encoding: chunked, gzip"), refused),
        Case::new("gzip, chunked keeps the word gzip", coding("Transfer-Encoding: gzip, chunked"), |o| {
            o.refused() || o.head_has("gzip")
        }),
        Case::new("xchunked", coding("Transfer-Encoding: xchunked"), refused),
        Case::new("chunked;a", coding("Transfer-Encoding: chunked;a"), |o| {
            o.refused() || (o.read(1) && o.body_is("hello"))
        }),
        Case::new("\"chunked\"", coding("Transfer-Encoding: \"chunked\""), refused),
        Case::new("chunked with a vertical tab", coding("Transfer-Encoding: \x0bchunked"), refused),
        Case::new("chunked with a form feed", coding("Transfer-Encoding: chunked\x0c"), refused),
        Case::new("a blank before the colon of the coding", coding("Transfer-Encoding : chunked"), hello_or_refused),
        Case::new("a folded coding", coding("Transfer-Encoding:\r\n chunked"), hello_or_refused),
        Case::new(
            "an empty coding and a length",
            post("Transfer-Encoding:\r\nContent-Length: 5\r\n", "hello"),
            hello_or_refused,
        ),
        Case::new(
            "a coding in HTTP/1.0",
            format!("POST /x HTTP/1.0\r\nHost: shop.example\r\nConnection: keep-alive\r\n{TE}\r\n0\r\n\r\n{HIDDEN}"),
            unsmuggled,
        ),
        Case::new(
            "Transfer_Encoding beside a length",
            post("Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", "hello"),
            |o| o.refused() || (o.read(1) && o.body_is("hello") && !o.head_has("transfer_encoding")),
        ),
        Case::new("a chunk's size in capitals", chunks("A\r\n0123456789\r\n0\r\n\r\n"), |o| {
            o.passed(1) && o.body_is("0123456789")
        }),
        Case::new("a chunk of size 0x5", chunks("0x5\r\nhello\r\n0\r\n\r\n"), refused_or_broken),
        Case::new("a chunk of size +5", chunks("+5\r\nhello\r\n0\r\n\r\n"), refused_or_broken),
        Case::new("a chunk of size -1", chunks("-1\r\nhello\r\n0\r\n\r\n"), refused_or_broken),
        Case::new("a chunk without a size", chunks("\r\nhello\r\n0\r\n\r\n"), refused_or_broken),
        Case::new("a blank behind a chunk's size", chunks("5 \r\nhello\r\n0\r\n\r\n"), hello_or_broken),
        Case::new("a chunk of 17 digits", chunks("10000000000000005\r\nhello\r\n0\r\n\r\n"), refused_or_broken),
        Case::new("a chunk longer than it says", chunks(&format!("3\r\nhello\r\n0\r\n\r\n{HIDDEN}")), unsmuggled),
        Case::new("a line end without CR behind a chunk's size", chunks("5\nhello\r\n0\r\n\r\n"), hello_or_broken),
        Case::new("a line end without CR behind a chunk", chunks("5\r\nhello\n0\r\n\r\n"), hello_or_broken),
        Case::new(
            "an extension with LF hides no request",
            chunks(&format!("5;a\nb\r\nhello\r\n0\r\n\r\n{HIDDEN}")),
            |o| o.unsmuggled() || o.statuses(0).len() == 2,
        ),
        Case::new("an extension with a bare CR", chunks("5;a\rb\r\nhello\r\n0\r\n\r\n"), hello_or_broken),
        Case::new("an extension is no part of the body", chunks("5;a=\"b\"\r\nhello\r\n0\r\n\r\n"), hello_or_broken),
        Case::new(
            "an extension of 200 KB",
            chunks(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(200_000))),
            refused_or_broken,
        ),
        Case::new(
            "trailers say nothing of the user",
            chunks("5\r\nhello\r\n0\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"),
            |o| hello_or_broken(o) && !lower(o).contains("6.6.6.6"),
        ),
        Case::new(
            "trailers say nothing of the length",
            chunks(&format!("5\r\nhello\r\n0\r\nContent-Length: 50\r\n{TE}\r\n")),
            |o| hello_or_broken(o) && o.seen.requests.iter().all(|r| r.trailers.is_empty()),
        ),
        Case::new("trailers without CR", chunks(&format!("5\r\nhello\r\n0\r\nA: b\n\n{HIDDEN}")), unsmuggled_twice),
        Case::new(
            "trailers of 200 KB",
            chunks(&format!("5\r\nhello\r\n0\r\nA: {}\r\n\r\n", "a".repeat(200_000))),
            |o| refused_or_broken(o) || o.seen.requests.iter().all(|r| r.trailers.is_empty()),
        ),
        Case::new(
            "a GET with a body is one request",
            format!("GET /x HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {}\r\n\r\n{HIDDEN}", HIDDEN.len()),
            one_or_refused,
        ),
        Case::new(
            "what an instance does not read of a body is nobody's request",
            post(&format!("Content-Length: {}\r\n", HIDDEN.len()), HIDDEN),
            nobodys,
        )
        .then(1, get("/next", ""))
        .before(Conduct::IgnoresBodies),
        Case::new("nor of a chunked one", post(TE, &format!("{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len())), nobodys)
            .then(1, get("/next", ""))
            .before(Conduct::IgnoresBodies),
        Case::new("a request behind a body is the next one", length("5") + &get("/y", ""), |o| {
            o.passed(2) && o.body_is("hello")
        }),
        Case::new("a body that breaks off is no whole request", post("Content-Length: 50\r\n", "hello"), |o| {
            o.seen.requests.is_empty() && o.statuses(0).iter().all(|s| *s >= 400)
        }),
    ]
}

fn lower(o: &Outcome) -> String {
    String::from_utf8_lossy(&o.seen.raw).to_ascii_lowercase()
}
/// The user is not told 200, and the instance never read a whole request.
fn refused_or_broken(o: &Outcome) -> bool {
    o.seen.requests.is_empty() && !o.statuses(0).contains(&200)
}
fn hello_or_broken(o: &Outcome) -> bool {
    refused_or_broken(o) || (o.read(1) && o.body_is("hello"))
}
/// A server that takes LF for a line end sees two requests; as long as both sides see the same, none is hidden.
fn unsmuggled_twice(o: &Outcome) -> bool {
    o.unsmuggled() || (!o.seen.garbage && o.statuses(0).len() == 2)
}
/// The second user gets the answer to what it asked.
fn nobodys(o: &Outcome) -> bool {
    o.users.get(1).is_some_and(|u| u.bytes.is_empty()) || (o.user_has(1, "this is /next") && !o.user_has(1, "smuggled"))
}
