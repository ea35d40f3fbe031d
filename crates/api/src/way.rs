//! The way to another cloud: from which address, and to which addresses never.

use pumasi_terms::reach::never_a_cloud;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::net::{IpAddr, SocketAddr};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Way {
    /// Calls come from there.
    pub source: Option<IpAddr>,
    /// Others may be on this host, too: this cloud itself listens on loopback, as in a lab.
    pub loopback: bool,
}

impl Way {
    /// An address that is written as a number is not looked up, so it is checked here.
    pub(crate) fn check(&self, base: &str) -> Result<(), String> {
        let uri: http::Uri = base.parse().map_err(|e| format!("{base} is no address: {e}"))?;
        let host = uri.host().unwrap_or_default();
        // As URLs read them: 0x7f.1 and 2130706433 are 127.0.0.1 as well.
        let url = reqwest::Url::parse(base).map_err(|e| format!("{base} is no address: {e}"))?;
        let read = url.host_str().unwrap_or(host).trim_start_matches('[').trim_end_matches(']');
        match read.parse() {
            Ok(ip) => self.refuse(read, ip),
            Err(_) => Ok(()),
        }
    }

    fn refuse(&self, host: &str, ip: IpAddr) -> Result<(), String> {
        match never_a_cloud(ip, self.loopback) {
            Some(why) => Err(format!("no cloud is called at {host}: {ip} {why}; its operator must set peer.advertise")),
            None => Ok(()),
        }
    }
}

impl Resolve for Way {
    fn resolve(&self, name: Name) -> Resolving {
        let way = *self;
        Box::pin(async move {
            let host = name.as_str();
            let mut fine: Vec<SocketAddr> = Vec::new();
            let mut refused = None;
            for found in tokio::net::lookup_host((host, 0)).await? {
                match way.refuse(host, found.ip()) {
                    Ok(()) => fine.push(found),
                    Err(why) => refused = Some(why),
                }
            }
            match refused.filter(|_| fine.is_empty()) {
                Some(why) => Err(why.into()),
                None => Ok(Box::new(fine.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_cannot_name_this_hosts_own_secrets_as_its_address() {
        let (out, lab) = (Way::default(), Way { loopback: true, ..Way::default() });
        for base in
            ["https://169.254.169.254:80", "https://0.0.0.0:1", "https://[::]:1", "https://[::ffff:a9fe:a9fe]:1"]
        {
            assert!(out.check(base).is_err() && lab.check(base).is_err(), "{base}");
        }
        for base in ["https://127.0.0.1:1", "https://2130706433:1", "https://0x7f.1:1", "https://[::1]:1"] {
            assert!(out.check(base).is_err() && lab.check(base).is_ok(), "{base}");
        }
        assert!(out.check("https://192.0.2.1:1").is_ok() && out.check("https://city-b.example:7443").is_ok());
    }

    #[tokio::test]
    async fn nor_a_name_that_leads_there() {
        let ask = |way: Way| async move { way.resolve("localhost".parse().unwrap()).await.map(Iterator::count) };
        assert!(ask(Way::default()).await.is_err());
        assert!(ask(Way { loopback: true, ..Way::default() }).await.unwrap() > 0);
    }
}
