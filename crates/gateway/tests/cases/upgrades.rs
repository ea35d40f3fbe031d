//! Connections that become something else, and users who ask first.

use super::{Case, Conduct, Outcome, get, post};

const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhi!";
const H2C: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nhi!";

fn hello(o: &Outcome) -> bool {
    o.refused() || (o.read(1) && o.body_is("hello"))
}
fn untunnelled(o: &Outcome) -> bool {
    !o.statuses(0).contains(&101)
}

pub fn list() -> Vec<Case> {
    let asks = |fields: &str| get("/x", fields);
    vec![
        Case::new("a WebSocket is a tunnel", asks(WEBSOCKET), |o| {
            o.status() == 101 && o.user_has(0, "hi!") && o.seen.raw.ends_with(b"ping")
        })
        .then(0, "ping")
        .before(Conduct::Says(SWITCHED)),
        Case::new("a WebSocket that is refused stays HTTP", asks(WEBSOCKET) + &get("/y", ""), |o| {
            o.status() == 200 && o.unsmuggled() && o.seen.requests.len() <= 2
        }),
        Case::new(
            "what is no HTTP is not passed on behind a refused upgrade",
            asks(WEBSOCKET) + "\x01\x05hello\r\n\r\n",
            |o| o.status() == 200 && o.read(1) && !o.seen.raw.ends_with(b"hello\r\n\r\n"),
        ),
        Case::new(
            "an upgrade with a body keeps the body",
            post(&format!("{WEBSOCKET}Content-Length: 5\r\n"), "hello"),
            hello,
        ),
        Case::new(
            "with a chunked body too",
            post(&format!("{WEBSOCKET}Transfer-Encoding: chunked\r\n"), "5\r\nhello\r\n0\r\n\r\n"),
            hello,
        ),
        Case::new(
            "h2c is no way past the gateway",
            asks("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
            |o| untunnelled(o) && !o.head_has("upgrade: h2c"),
        )
        .before(Conduct::Says(H2C)),
        Case::new("nor behind another word", asks("Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n"), untunnelled)
            .before(Conduct::Says(H2C)),
        Case::new("nor with blanks and commas", asks("Connection: Upgrade\r\nUpgrade: ,h2c\r\n"), untunnelled)
            .before(Conduct::Says(H2C)),
        Case::new("a 101 to something else is no tunnel", asks(WEBSOCKET), untunnelled).before(Conduct::Says(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\nhi!",
        )),
        Case::new("Upgrade without Connection is nothing", asks("Upgrade: websocket\r\n"), |o| {
            untunnelled(o) && !o.head_has("upgrade: websocket")
        })
        .before(Conduct::Says(SWITCHED)),
        Case::new(
            "HTTP/1.0 upgrades nothing",
            format!("GET /x HTTP/1.0\r\nHost: shop.example\r\n{WEBSOCKET}\r\n"),
            untunnelled,
        )
        .before(Conduct::Says(SWITCHED)),
        Case::new("who asks first is told to go on", post("Expect: 100-continue\r\nContent-Length: 5\r\n", ""), |o| {
            o.user_has(0, "http/1.1 100") && o.status() == 200 && o.body_is("hello")
        })
        .then(0, "hello"),
        Case::new(
            "who asks first and does not wait is served",
            post("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello"),
            |o| o.status() == 200 && o.body_is("hello"),
        ),
        Case::new("a wish without a body does not hang", asks("Expect: 100-continue\r\n"), |o| o.status() == 200),
        Case::new(
            "a wish that nobody knows is refused or passed over",
            post("Expect: 200-ok\r\nContent-Length: 5\r\n", "hello"),
            |o| matches!(o.status(), 200 | 417),
        ),
    ]
}
