//! An instance that speaks WebSocket without being asked, and its users.

use super::{Connection, HOST, Running};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

/// Becomes WebSocket at once, says hello, and sends `rest`.
pub async fn talker(rest: &'static [u8]) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut reader = BufReader::new(stream);
                let mut line = String::new();
                let mut upgrade = String::new();
                while reader.read_line(&mut line).await.unwrap() > 2 {
                    if line.to_ascii_lowercase().starts_with("upgrade:") {
                        upgrade = line.trim().to_owned();
                    }
                    line.clear();
                }
                let head = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n{upgrade}\r\n\r\n");
                reader.get_mut().write_all(head.as_bytes()).await.unwrap();
                reader.get_mut().write_all(rest).await.unwrap();
                let _ = reader.read(&mut [0; 64]).await;
                std::future::pending::<()>().await;
            });
        }
    });
    address
}

pub async fn upgraded(gateway: &Running, to: &str) -> Connection {
    let mut c = gateway.connect().await;
    c.send(&format!("GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: {to}\r\n\r\n")).await;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(c.reader.read_line(&mut head).await.unwrap() > 0, "{head}");
    }
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    c
}

pub async fn rest(mut c: Connection) -> Vec<u8> {
    let mut bytes = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), c.reader.read_to_end(&mut bytes)).await.expect("it ends").unwrap();
    bytes
}

pub const HELLO: &[u8] = b"\x81\x05hello";
pub const RESTART: &[u8] = b"\x88\x02\x03\xf4";
