//! What the gateway reads of a request by itself, and the files that it is configured by.

use super::{same_again, text};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use pumasi_gateway::fuzzing::{
    COOKIE, Positions, Spent, attach, cookies, detach, forwarded_for, join_cookies, name_of, on_this_host, open,
    parse_position, seal, set_forwarded, set_trace, strip_cookie, strip_hop_by_hop, strip_ours, under_prefix,
};
use pumasi_gateway::{CONFIG_FILE, GatewayConfig};
use pumasi_route::RouteTable;
use pumasi_terms::LeaseId;
use pumasi_terms::Position;
use std::net::{IpAddr, Ipv4Addr};

/// Lines of `name: value`; what is no field is passed over, as no server would hand it on.
fn fields(input: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in input.split(|&b| b == b'\n').take(256) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(colon) = line.iter().position(|&b| b == b':') else { continue };
        let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(line[colon + 1..].trim_ascii()))
        else {
            continue;
        };
        map.append(name, value);
    }
    map
}

/// What goes on to an application carries none of our fields but ours, none of the connection's, and no word of the user
/// about who it is.
pub fn head(input: &[u8]) {
    let mut map = fields(input);
    let hosts = map.get_all(header::HOST).iter().count();
    if let Some(name) = map.get(header::HOST).and_then(|h| h.to_str().ok()).and_then(name_of) {
        assert!(!name.is_empty() && name.len() <= 253, "{name:?}");
    }
    strip_hop_by_hop(&mut map);
    let gone = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "proxy-authorization"];
    assert!(gone.iter().all(|n| !map.contains_key(*n)));
    assert_eq!(map.get_all(header::HOST).iter().count(), hosts, "a sender made us drop the host");

    strip_ours(&mut map);
    assert!(!map.keys().any(|n| n.as_str().starts_with("pumasi-")));

    join_cookies(&mut map);
    assert!(map.get_all(header::COOKIE).iter().count() <= 1);
    strip_cookie(&mut map, COOKIE);
    assert_eq!(cookies(&map, COOKIE).next(), None);
    let once = map.clone();
    strip_cookie(&mut map, COOKIE);
    assert_eq!(map, once);

    let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let _ = forwarded_for(&map);
    set_forwarded(&mut map, &HeaderValue::from_static("192.0.2.1"), address, "https");
    assert_eq!(forwarded_for(&map), Some(address));
    assert_eq!(map.get_all("x-forwarded-for").iter().count(), 1);
    assert!(!map.contains_key("x-real-ip"));
    if hosts > 0 {
        assert_eq!(map.get_all("forwarded").iter().count(), 1, "a claim of the user is passed on");
        let told = map.get("forwarded").unwrap().as_bytes();
        assert!(told.starts_with(b"for=192.0.2.1;proto=https"));
    }
    set_trace(&mut map);
    let trace = map.get("traceparent").unwrap().as_bytes();
    assert_eq!((map.get_all("traceparent").iter().count(), trace.len()), (1, 55));
    let _ = map.get("pumasi-position").and_then(|v| v.to_str().ok()).and_then(parse_position);
}

/// A path as an application may read it: decoded, dots resolved (RFC 3986, 5.2.4), with slashes merged or not.
fn readings(path: &str) -> [String; 2] {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'%').then(|| tail.get(..2)).flatten();
        let code = code.filter(|h| h.iter().all(u8::is_ascii_hexdigit));
        let code = code.and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    let decoded = String::from_utf8_lossy(&bytes).replace('\\', "/");
    let mut merged = decoded.clone();
    while merged.contains("//") {
        merged = merged.replace("//", "/");
    }
    [dots_removed(&decoded), dots_removed(&merged)]
}

/// To the letter of RFC 3986, 5.2.4.
fn dots_removed(path: &str) -> String {
    let (mut rest, mut out) = (path.to_owned(), String::new());
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix("../").or_else(|| rest.strip_prefix("./")) {
            rest = tail.to_owned();
        } else if rest.starts_with("/./") || rest == "/." {
            rest = format!("/{}", rest.get(3..).unwrap_or_default());
        } else if rest.starts_with("/../") || rest == "/.." {
            rest = format!("/{}", rest.get(4..).unwrap_or_default());
            out.truncate(out.rfind('/').unwrap_or(0));
        } else if rest == "." || rest == ".." {
            rest.clear();
        } else {
            let end = rest[1..].find('/').map_or(rest.len(), |i| i + 1);
            // A segment may begin with a character of several bytes only behind its slash.
            out.push_str(&rest[..end]);
            rest = rest[end..].to_owned();
        }
    }
    out
}

pub fn path(input: &[u8]) {
    let Some(input) = text(input) else { return };
    // Only what a request line may carry arrives here.
    let Ok(uri) = input.parse::<http::Uri>() else { return };
    let Some(path) = Some(uri.path()).filter(|p| p.starts_with('/')) else { return };
    let prefixes = ["/admin".to_owned(), "/api/log/".to_owned(), "/눈".to_owned()];
    for reading in readings(path) {
        if prefixes.iter().any(|p| reading.starts_with(p.as_str())) {
            assert!(under_prefix(path, &prefixes), "{path:?} may be read as {reading:?} and is not kept at home");
        }
    }
    assert!(!under_prefix(path, &[]));

    let whole = uri.path_and_query().map_or("/", |pq| pq.as_str());
    let carried = attach(whole, "TICKET-_0");
    assert_eq!(detach(&carried), Some((whole.to_owned(), "TICKET-_0")), "{carried:?}");
    if let Some((clean, _)) = detach(whole) {
        let landing = on_this_host(&clean);
        let lead = landing.as_bytes().get(1);
        assert!(landing.starts_with('/') && lead != Some(&b'/') && lead != Some(&b'\\'), "{landing:?} leads elsewhere");
    }
}

pub fn position_cookie(input: &[u8]) {
    let Some(input) = text(input) else { return };
    let positions = Positions::new([7; 32]).own().clone();
    if let Some(read) = positions.read("shop", input) {
        assert_eq!(positions.write("shop", read), input, "a position in another form is believed");
        assert_eq!(positions.read("other", input), None);
        assert_eq!(Positions::new([8; 32]).own().read("shop", input), None);
    }
    if let Some(read) = parse_position(input) {
        let Position { generation, as_of_ms } = read;
        assert_eq!(parse_position(&format!("{generation}.{as_of_ms}")), Some(read));
    }
}

const KEY: &str = "000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f";

/// The first half is a Cookie field and a path that are sealed; the second is what becomes of the ticket on its way: pairs
/// of a place and a byte.
pub fn ticket(input: &[u8]) {
    let (sealed, edits) = input.split_at(input.len() / 2);
    let Some(sealed) = text(sealed) else { return };
    let (cookies, path) = sealed.split_once('\n').unwrap_or((sealed, "/"));
    let (lease, spent) = (LeaseId::from_entropy(1), Spent::default());
    let Some(genuine) = seal(KEY, &lease, path, cookies, None) else { return };
    let mut changed = genuine.clone().into_bytes();
    for edit in edits.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % changed.len();
        changed[at] = edit[2];
    }
    let Some(changed) = text(&changed) else { return };
    if changed != genuine {
        assert!(open(KEY, &lease, path, changed, &spent).is_none(), "an altered ticket opens");
    }
    assert!(open(KEY, &LeaseId::from_entropy(2), path, &genuine, &spent).is_none());
    assert!(open(KEY, &lease, &format!("{path}x"), &genuine, &spent).is_none());
    let opened = open(KEY, &lease, path, &genuine, &spent).expect("the genuine one opens");
    assert_eq!((opened.cookies.as_str(), opened.position), (cookies, None));
    assert!(open(KEY, &lease, path, &genuine, &spent).is_none(), "it opens twice");
}

pub fn gateway_config(input: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(CONFIG_FILE);
    std::fs::write(&path, input).unwrap();
    let Ok(config) = GatewayConfig::load(dir.path()) else { return };
    same_again(&config);
    std::fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
    assert_eq!(GatewayConfig::load(dir.path()).expect("what was written can be read"), config);
}

pub fn route_table(input: &[u8]) {
    let Ok(table) = serde_json::from_slice::<RouteTable>(input) else { return };
    same_again(&table);
    // Nothing is written: the table is put in force, not kept.
    let nowhere = std::path::Path::new("/nonexistent");
    for boot in [table.boot_id.clone(), "another".to_owned()] {
        let _ = pumasi_gateway::fuzzing::take_table(nowhere, &boot, table.clone());
    }
}
