//! Which port a server is told to listen at, when any will do.
//!
//! Enters: an address of this machine. Leaves: that address with a port nobody listens at.
//! Always holds: the port lies outside the range the kernel takes ports from for outgoing connections (`ip(7)`,
//! `ip_local_port_range`), as far as the operator left room there. Between this look and the server's own `bind` none of a
//! busy gateway's connections can take it; two who look at once begin at different places.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::ops::Range;

/// Below it live the well-known servers of a host.
const FIRST_PORT: u16 = 20_000;
/// Fewer than this many ports are no range to choose from.
const RANGE_MIN: usize = 1_000;
/// So many taken ports in a row, and the kernel chooses.
const TRIES_MAX: usize = 256;

/// A port at `ip` that nobody listens at, on this address or on all of them: a server may listen on all.
///
/// # Errors
/// What the kernel says, where `ip` is not of this machine or no port is left.
pub fn free_address(ip: IpAddr) -> io::Result<SocketAddr> {
    let given_out = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let range = beside(&given_out);
    let from = usize::try_from(RandomState::new().build_hasher().finish() >> 48).unwrap_or(0);
    let tries = range.clone().cycle().skip(from % range.len().max(1)).take(TRIES_MAX.min(range.len()));
    for port in tries {
        let address = SocketAddr::new(ip, port);
        if is_free(address) {
            return Ok(address);
        }
    }
    TcpListener::bind((ip, 0)).and_then(|l| l.local_addr())
}

/// Nobody listens there, nor at that port on all addresses.
pub(crate) fn is_free(address: SocketAddr) -> bool {
    let all = match address.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    TcpListener::bind((all, address.port())).is_ok() && TcpListener::bind(address).is_ok()
}

/// The larger range below or above the one that is given out; empty where that one leaves no room.
fn beside(given_out: &str) -> Range<u16> {
    let mut ends = given_out.split_whitespace().map_while(|word| word.parse::<u16>().ok());
    let (Some(first), Some(last)) = (ends.next(), ends.next()) else { return 0..0 };
    let (below, above) = (FIRST_PORT..first, last.saturating_add(1)..u16::MAX);
    let larger = if below.len() >= above.len() { below } else { above };
    if larger.len() >= RANGE_MIN { larger } else { 0..0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_lies_beside_what_the_kernel_gives_out() {
        assert_eq!(beside("32768\t60999\n"), 20_000..32_768);
        assert_eq!(beside("10000 40000"), 40_001..65_535);
        for full in ["1024 65535", "", "a b", "20500"] {
            assert!(beside(full).is_empty(), "{full}");
        }
    }

    #[test]
    fn a_port_that_is_taken_is_not_free() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let address = free_address(ip).unwrap();
        assert_eq!(address.ip(), ip);
        assert!(is_free(address));
        let taken = TcpListener::bind(address).unwrap();
        assert!(!is_free(address));
        drop(taken);
        let _taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).unwrap();
        assert!(!is_free(address), "taken on all addresses");
        assert!(free_address("192.0.2.1".parse().unwrap()).is_err(), "not of this machine");
    }
}
