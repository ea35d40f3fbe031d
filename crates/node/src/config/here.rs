//! What of the configuration can be tried on this host: certificates that are read, and addresses that are listened on for a moment.
//!
//! Enters: the configuration, the files that it names, this host's sockets. Leaves: faults by field and line.
//! Always holds: whatever is tried is let go at once; what a gateway or a daemon of this very cloud has is no fault.

use super::*;
use crate::config::read::line_of;
use crate::{clock, gateway};
use pumasi_gateway::{GatewayConfig, is_served};
use pumasi_trust::{FilesFault, check_files};
use std::io;
use std::time::{Duration, Instant};

const PEM_BYTES_MAX: u64 = 1 << 20;
/// Between two tries of an address that somebody is about to let go.
const AGAIN: Duration = Duration::from_millis(100);

/// Whose fault it is that somebody cannot come up on this host.
type Named = (&'static str, String);

impl Config {
    /// Certificates that users or people would be shown: missing, of no use, not fitting their key, or not valid now.
    pub fn wrong_certificates(&self) -> Vec<Named> {
        let g = &self.gateway;
        let mut faults = Vec::new();
        if !g.listen_tls.is_empty()
            && let (Some(certificate), Some(key)) = (&g.tls_certificate, &g.tls_key)
        {
            faults.extend(wrong(("gateway.tls_certificate", certificate), ("gateway.tls_key", key)));
        }
        if self.api.listen.is_some()
            && let (Some(certificate), Some(key)) = (&self.api.certificate, &self.api.key)
        {
            faults.extend(wrong(("api.certificate", certificate), ("api.key", key)));
        }
        faults
    }

    /// Addresses of the gateway that it could not listen on. Nothing is tried while it runs: they are its own.
    pub fn gateway_ports_taken(&self, patience: Duration) -> Vec<Named> {
        if gateway::runs(self) {
            return Vec::new();
        }
        let until = Instant::now() + patience;
        gateway_doors(self).filter_map(|door| taken(door, until)).collect()
    }

    /// All that can be found wrong here and now, whether or not this cloud runs.
    pub fn faults_here(&self, text: &str) -> Vec<ConfigFault> {
        let dir = gateway::dir(self);
        // Those that its gateway has by the configuration of its start.
        let own: Vec<SocketAddr> = match is_served(&dir).then(|| GatewayConfig::load(&dir)) {
            Some(Ok(running)) => running.listeners.iter().map(|l| l.address).chain(running.peer_listen).collect(),
            _ => Vec::new(),
        };
        let now = Instant::now();
        let mut found = self.wrong_certificates();
        found.extend(gateway_doors(self).filter(|(_, at)| !own.contains(at)).filter_map(|door| taken(door, now)));
        if !pumasi_engine::is_in_use(&self.cloud.data_dir.join("engine")) {
            found.extend(daemon_doors(self).filter_map(|door| taken(door, now)));
        }
        let fault = |(field, problem): Named| ConfigFault {
            line: line_of(text, field),
            column: 0,
            field: field.into(),
            problem,
        };
        found.into_iter().map(fault).collect()
    }
}

pub(super) fn gateway_doors(config: &Config) -> impl Iterator<Item = (&'static str, SocketAddr)> {
    let g = &config.gateway;
    let plain = g.listen.iter().map(|at| ("gateway.listen", *at));
    let tls = g.listen_tls.iter().map(|at| ("gateway.listen_tls", *at));
    // A witness has no gateway.
    let all = plain.chain(tls).chain([("gateway.peer_listen", g.peer_listen)]);
    all.filter(|_| !crate::witness::is(config))
}

pub(super) fn daemon_doors(config: &Config) -> impl Iterator<Item = (&'static str, SocketAddr)> {
    let optional = [("api.listen", config.api.listen), ("metrics.listen", config.metrics.listen)];
    let optional = optional.into_iter().filter_map(|(field, at)| Some((field, at?)));
    [("peer.listen", config.peer.listen)].into_iter().chain(optional)
}

/// Whether two cannot listen beside each other.
fn meet(a: SocketAddr, b: SocketAddr) -> bool {
    let any = |at: SocketAddr| at.ip().is_unspecified();
    // `[::]` takes IPv4 as well.
    let same_family = a.is_ipv4() == b.is_ipv4() || (any(a) && a.is_ipv6()) || (any(b) && b.is_ipv6());
    a.port() != 0 && a.port() == b.port() && same_family && (a.ip() == b.ip() || any(a) || any(b))
}

/// Two of this cloud's own doors at one place, by the later of the two.
pub(super) fn doubles(config: &Config) -> Vec<Named> {
    let doors: Vec<_> = daemon_doors(config).chain(gateway_doors(config)).collect();
    let clash = |(i, (field, at)): (usize, &(&'static str, SocketAddr))| {
        let (other, of) = doors[..i].iter().find(|(_, earlier)| meet(*earlier, *at))?;
        Some((*field, format!("{at} is where {other} listens ({of}); each needs an address or a port of its own")))
    };
    doors.iter().enumerate().filter_map(clash).collect()
}

/// Why nobody could listen there.
fn taken((field, at): (&'static str, SocketAddr), until: Instant) -> Option<Named> {
    let problem = loop {
        match pumasi_gateway::probe(at) {
            Ok(()) => return None,
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => std::thread::sleep(AGAIN),
            Err(e) => break e,
        }
    };
    let port = at.port();
    let why = match problem.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another process listens on {at} already; ss -ltnp 'sport = :{port}' names it")
        }
        io::ErrorKind::AddrNotAvailable => format!("{}: no interface of this host has this address", at.ip()),
        io::ErrorKind::PermissionDenied => {
            format!("{at}: a port below 1024 needs root or CAP_NET_BIND_SERVICE (AmbientCapabilities= in a unit)")
        }
        _ => format!("nobody can listen on {at}: {problem}"),
    };
    Some((field, why))
}

fn read(path: &Path) -> Result<String, String> {
    let fail = |e: io::Error| format!("{}: {e}", path.display());
    if std::fs::metadata(path).map_err(fail)?.len() > PEM_BYTES_MAX {
        return Err(format!("{}: longer than {PEM_BYTES_MAX} bytes", path.display()));
    }
    std::fs::read_to_string(path).map_err(fail)
}

fn wrong(certificate: (&'static str, &PathBuf), key: (&'static str, &PathBuf)) -> Option<Named> {
    let texts = read(certificate.1).map_err(|why| (certificate.0, why));
    let texts = texts.and_then(|c| Ok((c, read(key.1).map_err(|why| (key.0, why))?)));
    match texts {
        Err(named) => Some(named),
        Ok((c, k)) => match check_files(&c, &k, clock::wall()) {
            Ok(()) => None,
            Err(FilesFault::Certificate(why)) => Some((certificate.0, format!("{}: {why}", certificate.1.display()))),
            Err(FilesFault::Key(why)) => Some((key.0, format!("{}: {why}", key.1.display()))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn config(dir: &Path, more: &str) -> Config {
        let head = format!("version = 1\n[cloud]\nname = \"city-a\"\ndata_dir = \"{}\"\n", dir.display());
        Config::parse(&format!("{head}{more}"), std::iter::empty()).unwrap()
    }

    #[test]
    fn doors_at_one_place_are_told_before_anybody_listens() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(meet(at("127.0.0.1:80"), at("0.0.0.0:80")) && meet(at("[::]:80"), at("127.0.0.1:80")));
        assert!(!meet(at("127.0.0.1:80"), at("127.0.0.2:80")) && !meet(at("127.0.0.1:80"), at("127.0.0.1:81")));
        assert!(!meet(at("127.0.0.1:0"), at("127.0.0.1:0")) && !meet(at("[::1]:80"), at("0.0.0.0:80")));
        let text = "version = 1\n[cloud]\nname = \"city-a\"\n[api]\nlisten = \"0.0.0.0:8080\"\n[gateway]\nlisten = [\"127.0.0.1:8080\"]\n";
        let faults = Config::parse(text, std::iter::empty()).unwrap_err();
        assert_eq!((faults[0].line, faults[0].field.as_str()), (7, "gateway.listen"), "{faults:?}");
        assert!(faults[0].problem.contains("api.listen"), "{faults:?}");
    }

    #[test]
    fn a_taken_port_is_named_and_given_the_time_that_it_may_need() {
        let dir = tempfile::tempdir().unwrap();
        let busy = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = busy.local_addr().unwrap();
        let rest = "peer_listen = \"127.0.0.1:0\"\n";
        let config =
            config(dir.path(), &format!("[gateway]\nlisten = [\"{at}\"]\n{rest}[peer]\nlisten = \"127.0.0.1:0\"\n"));
        let found = config.gateway_ports_taken(Duration::ZERO);
        assert_eq!(found[0].0, "gateway.listen");
        assert!(found[0].1.contains("another process listens"), "{found:?}");
        assert_eq!(config.faults_here("").len(), 1);
        let ends = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(150));
            drop(busy);
        });
        assert_eq!(config.gateway_ports_taken(Duration::from_secs(20)), []);
        ends.join().unwrap();
        assert_eq!(config.faults_here(""), []);
    }

    #[test]
    fn certificates_are_told_by_the_file_that_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let tls = "[gateway]\nlisten_tls = [\"127.0.0.1:0\"]\ntls_certificate = \"DIR/c\"\ntls_key = \"DIR/k\"\n";
        let config = config(dir.path(), &tls.replace("DIR", &dir.path().display().to_string()));
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let fields = || config.wrong_certificates().into_iter().map(|(field, _)| field).collect::<Vec<_>>();
        assert_eq!(fields(), ["gateway.tls_certificate"], "missing");
        let made = |until: i32| {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
            (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
        };
        let ((good, key), (old, old_key)) = (made(2100), made(2021));
        put("c", &good);
        assert_eq!(fields(), ["gateway.tls_key"], "missing");
        put("k", &old_key);
        assert_eq!(fields(), ["gateway.tls_key"], "another's");
        put("k", &key);
        assert!(fields().is_empty());
        put("c", &old);
        put("k", &old_key);
        assert!(config.wrong_certificates()[0].1.contains("expired"), "{:?}", config.wrong_certificates());
        put("c", "sk_live");
        assert_eq!(fields(), ["gateway.tls_certificate"]);
    }
}
