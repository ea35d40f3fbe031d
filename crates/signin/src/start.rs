//! What a sign-in process is told when it starts, read from the environment.

use pumasi_realm::Settings;
use pumasi_realm::settings::{DATA, OWN, SETTINGS, SETTINGS_VERSION};
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Clone)]
pub struct Start {
    pub settings: Settings,
    /// The directory of the realm, which goes along with the service.
    pub data: PathBuf,
    /// The directory of what stays at this cloud. None: there is none here.
    pub own: Option<PathBuf>,
    pub listen: SocketAddr,
}

impl Start {
    /// `var` reads one variable.
    pub fn read(var: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let need = |name: &str| var(name).ok_or_else(|| format!("{name} is not set; the daemon sets it at each start"));
        let text = need(SETTINGS)?;
        let settings: Settings = serde_json::from_str(&text).map_err(|e| format!("{SETTINGS} cannot be read: {e}"))?;
        if settings.version != SETTINGS_VERSION {
            let version = settings.version;
            return Err(format!("{SETTINGS} is of version {version}; this program reads {SETTINGS_VERSION}"));
        }
        if settings.hosts.is_empty() {
            return Err(format!("{SETTINGS} names no host; a realm needs one that its passkeys are bound to"));
        }
        for (name, key) in [("gate_key", &settings.gate_key), ("admin_key", &settings.admin_key)] {
            if !hex::decode(key).is_ok_and(|k| k.len() == 32) {
                return Err(format!("{SETTINGS}: {name} is not 32 bytes in hex"));
            }
        }
        let host = need("HOST")?;
        let host: std::net::IpAddr = host.parse().map_err(|_| format!("HOST is {host:?}, which is no address"))?;
        let port = need("PORT")?;
        let port: u16 = port.parse().map_err(|_| format!("PORT is {port:?}, which is no port"))?;
        let data = PathBuf::from(need(DATA)?);
        let own = var(OWN).filter(|v| !v.is_empty()).map(PathBuf::from).filter(|p| p.is_dir());
        Ok(Self { settings, data, own, listen: SocketAddr::new(host, port) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn env() -> BTreeMap<String, String> {
        let settings = serde_json::json!({
            "version": 1, "cloud": "city-a", "service": "docs", "epoch": 1, "hosts": ["docs.example"], "sign_up": "invited",
            "passwords": true, "hashes": "withheld", "basic": true, "gate_key": "00".repeat(32), "admin_key": "11".repeat(32),
        });
        let pairs = [(SETTINGS, settings.to_string()), ("HOST", "127.0.0.1".into()), ("PORT", "8000".into())];
        let mut env: BTreeMap<String, String> = pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        env.insert(DATA.into(), "/data".into());
        env
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let read = |env: &BTreeMap<String, String>| Start::read(|name| env.get(name).cloned());
        let start = read(&env()).unwrap();
        assert_eq!((start.listen.to_string().as_str(), start.own), ("127.0.0.1:8000", None));
        for name in [SETTINGS, "HOST", "PORT", DATA] {
            let mut less = env();
            less.remove(name);
            assert!(read(&less).unwrap_err().contains(name));
        }
        let wrong = |from: &str, to: &str| {
            let mut env = env();
            let settings = env[SETTINGS].replace(from, to);
            env.insert(SETTINGS.into(), settings);
            read(&env).unwrap_err()
        };
        assert!(wrong(r#""version":1"#, r#""version":2"#).contains("version 2"));
        assert!(wrong(r#"["docs.example"]"#, "[]").contains("no host"));
        assert!(wrong(&"11".repeat(32), "11").contains("admin_key"));
    }
}
