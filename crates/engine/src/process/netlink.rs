//! The two requests to the kernel that a network of its own needs (`rtnetlink(7)`), on the namespace of the calling thread.

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use std::io;
use std::net::IpAddr;

/// `lo` is always the first interface of a namespace.
const LO: u32 = 1;

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const ERROR: u16 = 2;
const REQUEST_ACK: u16 = 0x1 | 0x4;
const CREATE: u16 = 0x400;
const UP: u32 = 1;
/// Usable at once: nobody else can have it here.
const NO_DUPLICATE_DETECTION: u8 = 2;
const ATTRIBUTE_ADDRESS: u16 = 1;
const ATTRIBUTE_LOCAL: u16 = 2;

pub(super) fn bring_up_lo() -> io::Result<()> {
    let mut body = vec![0u8; 4];
    body.extend(LO.to_ne_bytes());
    // The flags, and which of them are meant.
    body.extend(UP.to_ne_bytes());
    body.extend(UP.to_ne_bytes());
    request(NEW_LINK, REQUEST_ACK, &body)
}

/// As the whole of its network: nothing else is routed by it. One that is there already is as good.
pub(super) fn add_to_lo(ip: IpAddr) -> io::Result<()> {
    let (family, bytes) = match ip {
        IpAddr::V4(v4) => (AddressFamily::INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AddressFamily::INET6, v6.octets().to_vec()),
    };
    let bits = u8::try_from(bytes.len() * 8).unwrap_or(u8::MAX);
    let mut body = vec![u8::try_from(family.as_raw()).unwrap_or_default(), bits, NO_DUPLICATE_DETECTION, 0];
    body.extend(LO.to_ne_bytes());
    for kind in [ATTRIBUTE_LOCAL, ATTRIBUTE_ADDRESS] {
        body.extend(u16::try_from(bytes.len() + 4).unwrap_or(u16::MAX).to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(&bytes);
    }
    match request(NEW_ADDRESS, REQUEST_ACK | CREATE, &body) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

fn request(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend(u32::try_from(16 + body.len()).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence and port: one request on a socket of its own needs neither.
    message.extend([0u8; 8]);
    message.extend(body);
    send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0u8; 1024];
    let (read, _) = recv(&socket, answer.as_mut_slice(), RecvFlags::empty())?;
    outcome(answer.get(..read).unwrap_or_default())
}

fn outcome(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(16..20).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::Error::other("the kernel's answer is not understood")),
    }
}
