//! What the kernel knows and does about a TCP connection: its round trip, and how long it may stall.

use nix::libc;
use nix::sys::socket::{getsockopt, setsockopt};
use std::os::fd::AsFd;

/// The first 104 bytes of Linux's `struct tcp_info`, which every kernel since 2.6 fills.
type Words = [u32; 26];
/// Index of `tcpi_rtt`: eight single bytes come first, then 32-bit words.
const RTT: usize = 2 + 15;

nix::getsockopt_impl!(TcpInfo, libc::IPPROTO_TCP, libc::TCP_INFO, Words, nix::sys::socket::sockopt::GetStruct<Words>);

#[derive(Debug, Clone, Copy)]
struct TcpInfo;

nix::setsockopt_impl!(
    UserTimeout,
    libc::IPPROTO_TCP,
    libc::TCP_USER_TIMEOUT,
    u32,
    nix::sys::socket::sockopt::SetStruct<'_, u32>
);

#[derive(Debug, Clone, Copy)]
struct UserTimeout;

/// Breaks the connection when what was sent is not acknowledged, or not taken in, for so long.
pub fn bound_stall<F: AsFd>(socket: &F, ms: u64) {
    // A kernel without it still has its own, longer bound.
    let _ = setsockopt(socket, UserTimeout, &u32::try_from(ms).unwrap_or(u32::MAX));
}

nix::setsockopt_impl!(
    UnsentMost,
    libc::IPPROTO_TCP,
    libc::TCP_NOTSENT_LOWAT,
    u32,
    nix::sys::socket::sockopt::SetStruct<'_, u32>
);

#[derive(Debug, Clone, Copy)]
struct UnsentMost;

/// The kernel takes at most so much beyond what is on its way: who reads slowly is seen to read.
pub fn bound_unsent<F: AsFd>(socket: &F, bytes: u32) {
    // A kernel without it takes more, and is asked less often.
    let _ = setsockopt(socket, UnsentMost, &bytes);
}

/// Smoothed round-trip time, us; None where the socket is not TCP or nothing was measured yet.
pub fn rtt_us<F: AsFd>(socket: &F) -> Option<u32> {
    getsockopt(socket, TcpInfo).ok().map(|words| words[RTT]).filter(|&us| us > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_local_connection_is_near() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut a = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut b, _) = listener.accept().unwrap();
        for _ in 0..20 {
            a.write_all(b"x").unwrap();
            b.read_exact(&mut [0]).unwrap();
            b.write_all(b"y").unwrap();
            a.read_exact(&mut [0]).unwrap();
        }
        let rtt = rtt_us(&a).unwrap();
        assert!(rtt < 1_000_000, "{rtt} us over loopback");
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(rtt_us(&udp), None);
    }
}
