//! The operator's word about what instances may call, and the engine's own check of it: the last before a socket is opened.

use super::launch;
use crate::InstanceSpec;
use pumasi_terms::egress::{EgressRule, check_home, check_lent};
use std::net::{IpAddr, UdpSocket};

#[derive(Debug, Clone, Default)]
pub struct EgressPolicy {
    /// Addresses of inner networks, and of this host, that own services may call beside public ones.
    pub home: Vec<EgressRule>,
    /// All that instances of others may call.
    pub lent: Vec<EgressRule>,
    /// Addresses by which this cloud is known to others, also where they are not of this host.
    pub own: Vec<IpAddr>,
}

impl EgressPolicy {
    pub(super) fn check(&self, spec: &InstanceSpec) -> Result<(), String> {
        for to in launch::egress(spec)? {
            let mut own = self.own.clone();
            own.extend(Some(to.ip().to_canonical()).filter(|ip| is_of_this_host(*ip)));
            let allowed = if spec.lent {
                check_lent(to, &self.lent, &own)
            } else {
                check_home(to, &self.home, own.contains(&to.ip().to_canonical()))
            };
            allowed.map_err(|why| format!("egress: {why}"))?;
        }
        Ok(())
    }
}

/// An address that a socket can be bound to is one of this host; on a host that lets sockets take any address, all of them are.
pub fn is_of_this_host(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}
