//! One question over a fresh connection, in what the application speaks: is it well?

mod h2c;

use pumasi_door::Place;
use pumasi_terms::Protocol;
use pumasi_terms::service::Probe;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const REST_BYTES_MAX: u64 = 256 << 10;
const REST_MS_MAX: u64 = 250;

/// `Err` says in words what was wrong.
pub(super) async fn ask(place: &Place, protocol: Protocol, probe: &Probe) -> Result<(), String> {
    let timeout = Duration::from_millis(probe.timeout_ms.max(1));
    let path = &probe.path;
    let asked = async {
        match protocol {
            Protocol::H2c => h2c::ask(place, path).await,
            Protocol::Http1 => match status(place, path).await {
                Ok(code) if (200..400).contains(&code) => Ok(()),
                Ok(code) => Err(format!("GET {path} answered {code}")),
                Err(e) => Err(format!("GET {path}: {e}")),
            },
        }
    };
    let late = |_| Err(format!("GET {path}: no answer within {} ms", probe.timeout_ms));
    tokio::time::timeout(timeout, asked).await.unwrap_or_else(late)
}

/// HTTP/1.1: the status line is all that counts.
async fn status(place: &Place, path: &str) -> io::Result<u16> {
    let mut stream = place.connect().await?;
    let address = place.address;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: pumasi-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    // "HTTP/1.1 200" is all of it.
    let mut head = [0u8; 12];
    stream.read_exact(&mut head).await?;
    // The rest is read and dropped: closing on unread bytes would show up in the application's log as a broken connection.
    tokio::spawn(async move {
        let (mut rest, mut nowhere) = (stream.take(REST_BYTES_MAX), tokio::io::sink());
        let copied = tokio::io::copy(&mut rest, &mut nowhere);
        let _ = tokio::time::timeout(Duration::from_millis(REST_MS_MAX), copied).await;
    });
    parse(&head).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP/1"))
}

fn parse(head: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(head).ok()?;
    text.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_counts() {
        assert_eq!(parse(b"HTTP/1.1 204"), Some(204));
        assert_eq!(parse(b"SSH-2.0-Open"), None);
        assert_eq!(parse(b"HTTP/1.1 2x4"), None);
    }

    #[tokio::test]
    async fn a_silent_listener_is_not_ready() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let probe = Probe { timeout_ms: 50, ..Probe::default() };
        for protocol in [Protocol::Http1, Protocol::H2c] {
            let place = Place::new(listener.local_addr().unwrap(), None);
            let why = ask(&place, protocol, &probe).await.unwrap_err();
            assert!(why.contains("50 ms"), "{why}");
        }
    }
}
