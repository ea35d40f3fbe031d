//! Which addresses another cloud can have. A member writes its own address into the pact, so it is the member's word only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where clouds of hosters find instance metadata outside of the link-local nets.
const METADATA_V4: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Why no other cloud is called there. `loopback`: this cloud itself listens on loopback, so its neighbours may, too (a lab).
pub fn never_a_cloud(address: IpAddr, loopback: bool) -> Option<&'static str> {
    // An IPv4 address in the clothes of IPv6 reaches the same host.
    let address = address.to_canonical();
    if address.is_loopback() {
        return (!loopback).then_some("is this host's own (loopback)");
    }
    if address.is_unspecified() {
        return Some("is no host's address");
    }
    if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Some("is that of many hosts");
    }
    let (link_local, metadata) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4 == METADATA_V4),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6 == METADATA_V6),
    };
    if link_local {
        return Some("is link-local, where hosts keep their own secrets (instance metadata)");
    }
    metadata.then_some("is a hoster's instance metadata")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_this_host_alone_is_no_cloud() {
        let never = |text: &str, loopback| never_a_cloud(text.parse().unwrap(), loopback).is_some();
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "0.0.0.0",
            "::",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
        ] {
            assert!(never(address, true) && never(address, false), "{address}");
        }
        for address in ["127.0.0.1", "127.9.1.1", "::1", "::ffff:127.0.0.1"] {
            assert!(never(address, false) && !never(address, true), "{address}");
        }
        for address in ["192.0.2.7", "10.1.2.3", "2001:db8::1", "fd12::1"] {
            assert!(!never(address, false), "{address}");
        }
    }
}
