//! Where each cloud of a run lives: a loopback /24 each, one port plan, and the relays between them.
//!
//! Enters: names and cities. Leaves: addresses for the daemons' configurations, and the running network.
//! Always holds: two labs on one machine take different nets; what a cloud listens on is told to the others only as its relay's
//! address, so that no traffic between clouds escapes the distance.

use crate::cities::City;
use crate::relay::{RelayError, Wan, WanConfig};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

const NETS: std::ops::Range<u8> = 77..97;
/// Held by the lab that has the net.
const LOCK_PORT: u16 = 7399;
const CLOUDS_MAX: usize = 100;

#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    #[error("no city {0:?} is known to the lab; see pumasi_lab::cities")]
    City(String),
    #[error("a lab has 1 to {CLOUDS_MAX} clouds, not {0}")]
    Clouds(usize),
    #[error("every net from 127.{}.0.0 to 127.{}.0.0 is taken by other labs", NETS.start, NETS.end - 1)]
    Full,
    #[error(transparent)]
    Relay(#[from] RelayError),
}

/// One cloud's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudPlace {
    pub name: String,
    pub city: City,
    /// Its own: it listens there, calls others from there (`peer.source_ip`), and runs its instances there.
    pub address: Ipv4Addr,
    /// `gateway.listen`, for users.
    pub users: SocketAddr,
    /// `peer.listen`
    pub peer_listen: SocketAddr,
    /// `peer.advertise`: the relay before it.
    pub peer_advertise: SocketAddr,
    /// `gateway.peer_listen`
    pub gateway_listen: SocketAddr,
    /// `gateway.peer_advertise`: the relay before it.
    pub gateway_advertise: SocketAddr,
    /// First address of its local users, see `LoadOptions::users_from`.
    pub users_from: Ipv4Addr,
}

#[derive(Debug)]
pub struct Topology {
    clouds: Vec<CloudPlace>,
    /// The lock of the net, while this lives.
    _lock: TcpListener,
}

impl Topology {
    /// `clouds`: names with their cities, as `("city-a", "Seoul")`.
    pub fn lay_out(clouds: &[(&str, &str)]) -> Result<Self, TopologyError> {
        if clouds.is_empty() || clouds.len() > CLOUDS_MAX {
            return Err(TopologyError::Clouds(clouds.len()));
        }
        // Something that is no lab may sit on these addresses too.
        let free = |net: u8| {
            (1..=clouds.len()).all(|n| {
                let own = Ipv4Addr::new(127, net, u8::try_from(n).unwrap_or(u8::MAX), 1);
                [8080, 17443, 17444].into_iter().all(|port| TcpListener::bind((own, port)).is_ok())
            })
        };
        let lock = |net: u8| {
            let lock = TcpListener::bind((Ipv4Addr::new(127, net, 0, 1), LOCK_PORT)).ok()?;
            free(net).then_some((net, lock))
        };
        let (net, lock) = NETS.into_iter().find_map(lock).ok_or(TopologyError::Full)?;
        let place = |(i, &(name, city)): (usize, &(&str, &str))| {
            let city = City::named(city).ok_or_else(|| TopologyError::City(city.to_owned()))?;
            let number = u8::try_from(i + 1).unwrap_or(u8::MAX);
            let (own, relay) = (Ipv4Addr::new(127, net, number, 1), Ipv4Addr::new(127, net, number, 10));
            Ok(CloudPlace {
                name: name.to_owned(),
                city,
                address: own,
                users: (own, 8080).into(),
                peer_listen: (own, 17443).into(),
                peer_advertise: (relay, 7443).into(),
                gateway_listen: (own, 17444).into(),
                gateway_advertise: (relay, 7444).into(),
                users_from: Ipv4Addr::new(127, 100 + number, net, 1),
            })
        };
        let clouds = clouds.iter().enumerate().map(place).collect::<Result<_, TopologyError>>()?;
        Ok(Self { clouds, _lock: lock })
    }

    pub fn clouds(&self) -> &[CloudPlace] {
        &self.clouds
    }

    pub fn cloud(&self, name: &str) -> Option<&CloudPlace> {
        self.clouds.iter().find(|c| c.name == name)
    }

    /// Starts the network: every cloud is a site, with a relay before its daemon and one before its gateway.
    pub fn wan(&self, config: WanConfig) -> Result<Wan, TopologyError> {
        let wan = Wan::start(config)?;
        for cloud in &self.clouds {
            wan.add_site(&cloud.name, cloud.city, cloud.address)?;
        }
        for cloud in &self.clouds {
            wan.relay(&cloud.name, cloud.peer_advertise, cloud.peer_listen)?;
            wan.relay(&cloud.name, cloud.gateway_advertise, cloud.gateway_listen)?;
        }
        Ok(wan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_labs_do_not_meet() {
        let clouds = [("city-a", "Seoul"), ("city-b", "Tokyo")];
        let (one, two) = (Topology::lay_out(&clouds).unwrap(), Topology::lay_out(&clouds).unwrap());
        assert_ne!(one.cloud("city-a").unwrap().address, two.cloud("city-a").unwrap().address);
        let (a, b) = (one.wan(WanConfig::default()).unwrap(), two.wan(WanConfig::default()).unwrap());
        assert_eq!(a.rtt("city-a", "city-b").unwrap(), b.rtt("city-b", "city-a").unwrap());
        assert!(matches!(Topology::lay_out(&[("x", "Atlantis")]), Err(TopologyError::City(_))));
        assert!(Topology::lay_out(&[]).is_err());
    }
}
