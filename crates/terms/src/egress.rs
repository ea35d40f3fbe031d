//! What instances may call: rules that an operator writes, and what no rule can open.
//!
//! Enters: rules and destinations. Leaves: whether one covers the other, and in words why not.
//! Always holds: nothing that is lent reaches an address that is not public, whatever the rules say; nothing at all reaches the
//! host's loopback or a cloud's metadata.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The most destinations of one application.
pub const DESTINATIONS_MAX: usize = 32;

/// `203.0.113.0/24:443`, `203.0.113.7:*`, `[2001:db8::/32]:443`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EgressRule {
    network: IpAddr,
    bits: u8,
    /// None: all.
    port: Option<u16>,
}

impl schemars::JsonSchema for EgressRule {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EgressRule".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "description": "address/bits:port, port * for all" })
    }
}

impl FromStr for EgressRule {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no egress rule; write 203.0.113.0/24:443, 203.0.113.7:* or [2001:db8::/32]:443");
        let (network, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = if port == "*" { None } else { Some(port.parse().map_err(|_| wrong())?) };
        let network = match network.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').filter(|n| n.contains(':')).ok_or_else(wrong)?,
            None if network.contains(':') => return Err(wrong()),
            None => network,
        };
        let (address, bits) = match network.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| wrong())?)),
            None => (network, None),
        };
        let network: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if network.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most || port == Some(0) {
            return Err(wrong());
        }
        if masked(network, bits) != network {
            return Err(format!("{text:?}: the address has bits beyond /{bits}; write {}", masked(network, bits)));
        }
        Ok(Self { network, bits, port })
    }
}

impl TryFrom<String> for EgressRule {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<EgressRule> for String {
    fn from(rule: EgressRule) -> Self {
        rule.to_string()
    }
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, bits, port } = self;
        let network = match (network, *bits) {
            (IpAddr::V4(v4), 32) => v4.to_string(),
            (IpAddr::V4(v4), bits) => format!("{v4}/{bits}"),
            (IpAddr::V6(v6), 128) => format!("[{v6}]"),
            (IpAddr::V6(v6), bits) => format!("[{v6}/{bits}]"),
        };
        match port {
            Some(port) => write!(f, "{network}:{port}"),
            None => write!(f, "{network}:*"),
        }
    }
}

impl EgressRule {
    pub fn covers(&self, to: SocketAddr) -> bool {
        let ip = to.ip().to_canonical();
        ip.is_ipv4() == self.network.is_ipv4()
            && masked(ip, self.bits) == self.network
            && self.port.is_none_or(|port| port == to.port())
    }
}

fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            Ipv4Addr::from(u32::from(v4) & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            Ipv6Addr::from(u128::from(v6) & mask).into()
        }
    }
}

/// Whose an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Public,
    /// Of somebody's inner network; the operator may open it to own services.
    Private(&'static str),
    /// Of the host or the cloud itself: never.
    Never(&'static str),
}

const NEVER_V4: [(Ipv4Addr, u8, &str); 8] = [
    (Ipv4Addr::UNSPECIFIED, 8, "no address of anybody"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "the loopback of a host"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local, where clouds keep their metadata"),
    // One address each, outside the link-local range.
    (Ipv4Addr::new(168, 63, 129, 16), 32, "a cloud's metadata"),
    (Ipv4Addr::new(100, 100, 100, 200), 32, "a cloud's metadata"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "reserved for protocols"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];
const PRIVATE_V4: [(Ipv4Addr, u8, &str); 5] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "shared behind a carrier's translation"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "for measurements of networks"),
];
const NEVER_V6: [(Ipv6Addr, u8, &str); 7] = [
    // Also the unspecified address and the old form of IPv4 in IPv6.
    (Ipv6Addr::UNSPECIFIED, 96, "the loopback of a host"),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, "link-local"),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, "site-local"),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, "multicast"),
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32, "a cloud's metadata"),
    (Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0), 32, "a cloud's metadata"),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, "a tunnel to an IPv4 address"),
];
const PRIVATE_V6: [(Ipv6Addr, u8, &str); 2] = [
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, "private"),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48, "translated to private ones"),
];

pub fn reach(ip: IpAddr) -> Reach {
    match ip.to_canonical() {
        IpAddr::V4(v4) => reach_v4(v4),
        IpAddr::V6(v6) => reach_v6(v6),
    }
}

fn reach_v4(ip: Ipv4Addr) -> Reach {
    let within = |(network, bits, _): &&(Ipv4Addr, u8, &str)| masked(ip.into(), *bits) == IpAddr::V4(*network);
    let never = NEVER_V4.iter().find(within).map(|n| Reach::Never(n.2));
    never.or_else(|| PRIVATE_V4.iter().find(within).map(|p| Reach::Private(p.2))).unwrap_or(Reach::Public)
}

fn reach_v6(ip: Ipv6Addr) -> Reach {
    let within = |(network, bits, _): &&(Ipv6Addr, u8, &str)| masked(ip.into(), *bits) == IpAddr::V6(*network);
    if let Some(never) = NEVER_V6.iter().find(within) {
        return Reach::Never(never.2);
    }
    if let Some(private) = PRIVATE_V6.iter().find(within) {
        return Reach::Private(private.2);
    }
    // Those that stand for an IPv4 address are what that one is: NAT64 carries it at the end, 6to4 behind its prefix.
    let s = ip.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match s {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => reach_v4(v4(high, low)),
        [0x2002, high, low, ..] => reach_v4(v4(high, low)),
        _ => Reach::Public,
    }
}

/// Whether an instance of another cloud may call `to` where the operator wrote `rules`. `own`: addresses of this cloud itself.
///
/// # Errors
/// In words, why not.
pub fn check_lent(to: SocketAddr, rules: &[EgressRule], own: &[IpAddr]) -> Result<(), String> {
    match reach(to.ip()) {
        Reach::Never(kind) | Reach::Private(kind) => {
            return Err(format!("{to} is not public ({kind}), and what is lent never calls such an address"));
        }
        Reach::Public => {}
    }
    if own.iter().any(|ip| ip.to_canonical() == to.ip().to_canonical()) {
        return Err(format!("{to} is an address of the lender itself, which what is lent never calls"));
    }
    if rules.iter().any(|r| r.covers(to)) {
        return Ok(());
    }
    Err(format!("{to} is not in the lender's egress list (lend.egress): {}", list(rules)))
}

/// Whether an instance of an own service may call `to`: public addresses as its manifest lists them; those of inner networks,
/// and of this cloud itself (`own`), only by the operator's rule.
///
/// # Errors
/// In words, why not.
pub fn check_home(to: SocketAddr, rules: &[EgressRule], own: bool) -> Result<(), String> {
    let kind = match reach(to.ip()) {
        Reach::Never(kind) => return Err(format!("{to} is never called by an instance: {kind}")),
        Reach::Private(kind) => kind,
        Reach::Public if own => "of this cloud itself",
        Reach::Public => return Ok(()),
    };
    if rules.iter().any(|r| r.covers(to)) {
        return Ok(());
    }
    Err(format!("{to} is not public ({kind}); the operator opens it by engine.home_egress, which is: {}", list(rules)))
}

fn list(rules: &[EgressRule]) -> String {
    if rules.is_empty() {
        return "none".into();
    }
    rules.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<EgressRule> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn rules_are_read_and_written_alike() {
        for text in ["203.0.113.0/24:443", "203.0.113.7:*", "[2001:db8::/32]:443", "[2001:db8::1]:53", "0.0.0.0/0:443"]
        {
            assert_eq!(text.parse::<EgressRule>().unwrap().to_string(), text);
        }
        let wrong = [
            "",
            "443",
            "203.0.113.7",
            "203.0.113.0/33:1",
            "203.0.113.1/24:1",
            "2001:db8::1:53",
            "[2001:db8::/129]:1",
            "[203.0.113.7]:1",
            "example.org:443",
            "203.0.113.7:0",
            "203.0.113.7:65536",
            "203.0.113.7/:1",
            "[::1:1",
        ];
        for text in wrong {
            assert!(text.parse::<EgressRule>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rule_covers_its_network_and_port() {
        let one = rules(&["203.0.113.0/24:443"]);
        let lent = |to: &str| check_lent(to.parse().unwrap(), &one, &["203.0.113.9".parse().unwrap()]);
        assert_eq!(lent("203.0.113.7:443"), Ok(()));
        assert_eq!(lent("[::ffff:203.0.113.7]:443"), Ok(()));
        for (to, word) in [
            ("203.0.113.7:80", "lend.egress"),
            ("203.0.114.7:443", "203.0.113.0/24:443"),
            ("203.0.113.9:443", "lender itself"),
        ] {
            assert!(lent(to).unwrap_err().contains(word), "{to}: {:?}", lent(to));
        }
        assert!(check_lent("203.0.113.7:443".parse().unwrap(), &[], &[]).unwrap_err().ends_with("none"));
    }

    #[test]
    fn no_rule_opens_what_is_not_public_to_what_is_lent() {
        let all = rules(&["0.0.0.0/0:*", "[::/0]:*"]);
        for to in [
            "127.0.0.1:7400",
            "127.9.9.9:80",
            "0.0.0.0:80",
            "10.1.2.3:80",
            "172.31.0.1:80",
            "192.168.1.1:80",
            "100.64.0.1:80",
            "169.254.169.254:80",
            "168.63.129.16:80",
            "100.100.100.200:80",
            "192.0.0.192:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "198.18.0.1:80",
            "[::1]:80",
            "[::]:80",
            "[fe80::1]:80",
            "[fec0::1]:80",
            "[fc00::1]:80",
            "[fd00:ec2::254]:80",
            "[ff02::1]:80",
            "[::ffff:127.0.0.1]:80",
            "[::ffff:10.0.0.1]:80",
            "[::127.0.0.1]:80",
            "[64:ff9b::7f00:1]:80",
            "[64:ff9b::a00:1]:80",
            "[64:ff9b:1::1]:80",
            "[2002:7f00:1::1]:80",
            "[2002:a9fe:a9fe::1]:80",
            "[2001:0:7f00:1::]:80",
        ] {
            assert!(check_lent(to.parse().unwrap(), &all, &[]).is_err(), "{to}");
        }
        for to in ["203.0.113.7:443", "172.32.0.1:80", "[2001:db8::1]:443", "[64:ff9b::cb00:7107]:443"] {
            assert_eq!(check_lent(to.parse().unwrap(), &all, &[]), Ok(()), "{to}");
        }
    }

    #[test]
    fn at_home_the_operator_opens_inner_networks_and_nobody_the_loopback() {
        let some = rules(&["10.0.0.0/8:5432", "127.0.0.0/8:*", "169.254.169.254:80", "203.0.113.9:443"]);
        let home = |to: &str, own| check_home(to.parse().unwrap(), &some, own);
        assert_eq!(home("203.0.113.7:443", false), Ok(()));
        assert_eq!(home("10.1.2.3:5432", false), Ok(()));
        assert_eq!(home("203.0.113.9:443", true), Ok(()));
        for (to, own) in [("10.1.2.3:80", false), ("127.0.0.1:7400", false), ("169.254.169.254:80", false)] {
            assert!(home(to, own).is_err(), "{to}");
        }
        assert!(home("203.0.113.7:443", true).unwrap_err().contains("home_egress"));
    }
}
