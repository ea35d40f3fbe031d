//! The PROXY protocol, versions 1 and 2: a load balancer says before everything else for whom it connects.
//!
//! Enters: the first bytes of a connection from a trusted proxy. Leaves: whom it speaks for, and the bytes behind the header.
//! Always holds: it is asked of nobody else; a header is bounded in size and time; a connection without a header that reads is
//! closed, since whose it is nobody knows.

use proxy_header::{Error, ParseConfig, Protocol, ProxyHeader};
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Longer than what load balancers write; the protocol would allow 64 KiB.
pub const HEADER_BYTES_MAX: usize = 2 << 10;

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    /// The user; None: the proxy speaks for itself (`LOCAL`), or does not know (`UNKNOWN`).
    pub user: Option<IpAddr>,
    /// The user came by TLS, which ended at the proxy.
    pub tls: bool,
}

/// Why there is no header.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsaid {
    #[error("it does not begin with a header of the PROXY protocol that reads")]
    Malformed,
    #[error("its header of the PROXY protocol did not come in time")]
    Late,
    /// It has ended before it said anything, as those do who ask only whether the port is open.
    #[error("it ended")]
    Ended,
}

/// Reads the header; also the bytes that came with it and are not its own.
pub async fn read(stream: &mut TcpStream, timeout: Duration) -> Result<(Said, Vec<u8>), Unsaid> {
    tokio::time::timeout(timeout, read_all(stream)).await.map_err(|_| Unsaid::Late)?
}

async fn read_all(stream: &mut TcpStream) -> Result<(Said, Vec<u8>), Unsaid> {
    let mut arrived = [0u8; HEADER_BYTES_MAX];
    let mut length = 0;
    while length < arrived.len() {
        match stream.read(&mut arrived[length..]).await {
            Ok(0) | Err(_) if length == 0 => return Err(Unsaid::Ended),
            Ok(0) | Err(_) => return Err(Unsaid::Malformed),
            Ok(n) => length += n,
        }
        if let Some((said, end)) = parse(&arrived[..length])? {
            return Ok((said, arrived[end..length].to_vec()));
        }
    }
    Err(Unsaid::Malformed)
}

/// The header at the beginning and where it ends; None: more must come.
fn parse(arrived: &[u8]) -> Result<Option<(Said, usize)>, Unsaid> {
    match ProxyHeader::parse(arrived, ParseConfig::default()) {
        Ok((header, end)) => {
            let user = match header.proxied_address() {
                Some(told) if told.protocol == Protocol::Stream => Some(told.source.ip().to_canonical()),
                Some(_) => return Err(Unsaid::Malformed),
                None => None,
            };
            let tls = user.is_some() && header.ssl().is_some_and(|ssl| ssl.client_ssl());
            Ok(Some((Said { user, tls }, end)))
        }
        // A line of version 1 that is complete does not become right by what follows.
        Err(Error::BufferTooShort) if arrived.starts_with(b"P") && arrived.contains(&b'\n') => Err(Unsaid::Malformed),
        Err(Error::BufferTooShort) => Ok(None),
        Err(_) => Err(Unsaid::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Version 2 of `command` and family, with `rest` behind them.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut all = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        all.extend([command, family]);
        all.extend((rest.len() as u16).to_be_bytes());
        all.extend(rest);
        all
    }

    fn user(bytes: &[u8]) -> Result<Option<(Option<String>, bool)>, Unsaid> {
        parse(bytes).map(|told| told.map(|(said, _)| (said.user.map(|u| u.to_string()), said.tls)))
    }

    const V4: &[u8] = &[198, 51, 100, 7, 10, 0, 0, 1, 0x1f, 0x90, 1, 0xbb];

    #[test]
    fn both_versions_tell_the_user() {
        let said = |user: &str, tls| Ok(Some((Some(user.to_owned()), tls)));
        assert_eq!(user(b"PROXY TCP4 198.51.100.7 10.0.0.1 8080 443\r\nGET"), said("198.51.100.7", false));
        assert_eq!(user(b"PROXY TCP6 2001:db8::7 fd00::1 8080 443\r\n"), said("2001:db8::7", false));
        assert_eq!(user(b"PROXY TCP6 ::ffff:198.51.100.7 ::1 1 2\r\n"), said("198.51.100.7", false));
        assert_eq!(user(&binary(0x21, 0x11, V4)), said("198.51.100.7", false));
        // PP2_TYPE_SSL, the client's flag set; one that is cut short says nothing.
        let tls = |tail: &[u8]| binary(0x21, 0x11, &[V4, tail].concat());
        assert_eq!(user(&tls(&[0x20, 0, 5, 1, 0, 0, 0, 0])), said("198.51.100.7", true));
        assert_eq!(user(&tls(&[0x20, 0, 5, 0, 0, 0, 0, 0])), said("198.51.100.7", false));
        assert_eq!(user(&tls(&[0x20, 0, 9, 1])), said("198.51.100.7", false));
    }

    #[test]
    fn a_proxy_may_speak_for_itself() {
        for local in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN ff::1 ::2 1 2\r\n", &binary(0x20, 0, &[])] {
            assert_eq!(user(local), Ok(Some((None, false))));
        }
        assert_eq!(user(&binary(0x20, 0x11, V4)), Ok(Some((None, false))), "what LOCAL says of addresses is nothing");
        assert_eq!(user(&binary(0x21, 0, &[])), Ok(Some((None, false))));
    }

    #[test]
    fn what_does_not_read_is_nobodys() {
        for bad in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"POST / HTTP/1.1\r\n",
            b"PRI * HTTP/2.0\r\n\r\n",
            b"\x16\x03\x01\x00\xa5",
            b"PROXY TCP4 198.51.100.7 10.0.0.1 8080\r\n",
            b"PROXY TCP4 2001:db8::7 ::1 1 2\r\n",
            b"PROXY TCP5 198.51.100.7 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 198.51.100.7 10.0.0.1 1 2\nGET / HTTP/1.1\r\n",
            &binary(0x31, 0x11, V4),
            &binary(0x22, 0x11, V4),
            &[&binary(0x21, 0x11, &V4[..8])[..], b"GET / HTTP/1.1"].concat(),
            &binary(0x21, 0x12, V4),
        ] {
            assert_eq!(user(bad), Err(Unsaid::Malformed), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    proptest! {
        #[test]
        fn a_part_waits_for_the_rest(cut in 1..44usize, version in 0..3usize) {
            let text = &b"PROXY TCP4 198.51.100.7 10.0.0.1 8080 443\r\n"[..];
            let all = [text.to_vec(), binary(0x21, 0x11, V4), binary(0x20, 0, &[])][version].clone();
            let cut = cut.min(all.len() - 1);
            prop_assert_eq!(user(&all[..cut]), Ok(None));
        }

        #[test]
        fn nothing_makes_it_fail(
            start in 0..4usize,
            rest in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let start = [&b""[..], b"PROXY ", b"PROXY TCP4 ", b"\r\n\r\n\0\r\nQUIT\n\x21"][start];
            let _ = parse(&[start, &rest].concat());
        }
    }
}
