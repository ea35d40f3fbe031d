//! Reading the configuration: defaults, then the file, then the environment. Every wrong field is named with its line.

use super::*;
use pumasi_terms::FieldError;
use pumasi_terms::faults::{Fault, Language, Problem, Walk, find, words::Words};
use toml_text::Written;

mod toml_text;

const CONFIG_BYTES_MAX: usize = 1 << 20;
/// They travel in every heartbeat.
const EGRESS_RULES_MAX: usize = 64;
const ENV_PREFIX: &str = "PUMASI__";

/// One wrong place in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// 0: not in the file (the environment, or a default).
    pub line: usize,
    pub column: usize,
    pub field: String,
    pub problem: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {source}; write one, or name another with --config", path = .path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path}: is larger than 1 MiB, the most that is read", path = .path.display())]
    TooLarge { path: PathBuf },
    #[error("{}", list(.path, .faults))]
    Faults { path: PathBuf, faults: Vec<ConfigFault> },
}

fn list(path: &Path, faults: &[ConfigFault]) -> String {
    let place = |f: &ConfigFault| match (f.line, f.column) {
        (0, _) => format!("{}", path.display()),
        (line, column) => format!("{}:{line}:{column}", path.display()),
    };
    let field = |f: &ConfigFault| if f.field.is_empty() { String::new() } else { format!("{}: ", f.field) };
    faults.iter().map(|f| format!("{}: {}{}", place(f), field(f), f.problem)).collect::<Vec<_>>().join("\n")
}

impl Config {
    /// Reads and checks; relative paths become relative to the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        if text.len() > CONFIG_BYTES_MAX {
            return Err(ConfigError::TooLarge { path: path.to_owned() });
        }
        let mut config = Self::parse(&text, std::env::vars())
            .map_err(|faults| ConfigError::Faults { path: path.to_owned(), faults })?;
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let base = path.parent().unwrap_or(Path::new("/"));
        config.cloud.data_dir = base.join(&config.cloud.data_dir);
        let Self { gateway, api, .. } = &mut config;
        let files =
            [&mut gateway.tls_certificate, &mut gateway.tls_key, &mut api.socket, &mut api.certificate, &mut api.key];
        for file in files.into_iter().flatten() {
            *file = base.join(&*file);
        }
        Ok(config)
    }

    /// `env`: `PUMASI__SECTION__KEY=value` stands over the file.
    pub fn parse(text: &str, env: impl Iterator<Item = (String, String)>) -> Result<Self, Vec<ConfigFault>> {
        let Written { tree, mut table, mut faults } = toml_text::written(text);
        let broken = !faults.is_empty();
        let from_env = overlay(&mut table, env, &mut faults);
        let read = |walk: &Walk| walk.read::<Self, _>(toml::Value::Table(table.clone())).ok();
        let mut found = find(read);
        if broken {
            // What could not be read may hold what seems to be missing.
            found.troubles.retain(|t| !matches!(t.problem, Problem::Missing(_)));
        }
        let checked = match &found.value {
            Some(config) if !broken => config.check(),
            _ => Vec::new(),
        };
        let words = Words { tree: &tree, language: Language::Toml, example };
        faults.extend(words.faults(&found, checked).into_iter().map(|fault| placed(fault, &from_env)));
        faults.sort_by_key(|f| (f.line, f.column));
        match found.value {
            Some(config) if faults.is_empty() => Ok(config),
            _ if faults.is_empty() => Err(vec![ConfigFault::whole("cannot be read".to_owned())]),
            _ => Err(faults),
        }
    }

    /// What types alone cannot say.
    fn check(&self) -> Vec<FieldError> {
        let mut faults = Vec::new();
        let mut fault = |field: &str, problem: String| faults.push(FieldError { field: field.to_owned(), problem });
        if self.version != CONFIG_VERSION {
            fault("version", format!("{} is not known; this program reads {CONFIG_VERSION}", self.version));
        }
        self.check_doors(&mut fault);
        super::here::doubles(self).into_iter().for_each(|(field, problem)| fault(field, problem));
        for (field, address) in
            [("peer.advertise", &self.peer.advertise), ("gateway.peer_advertise", &self.gateway.peer_advertise)]
        {
            let fine = address.is_empty()
                || address.rsplit_once(':').is_some_and(|(h, p)| !h.is_empty() && p.parse::<u16>().is_ok());
            if !fine {
                fault(field, format!("{address:?} is not host:port"));
            }
        }
        if !self.gateway.listen_tls.is_empty()
            && (self.gateway.tls_certificate.is_none() || self.gateway.tls_key.is_none())
        {
            fault("gateway.listen_tls", "needs gateway.tls_certificate and gateway.tls_key".into());
        }
        if self.gateway.workers == 0 || self.gateway.workers > 64 {
            fault("gateway.workers", "must be 1 to 64".into());
        }
        if self.gateway.trusted_proxies.len() > pumasi_gateway::TRUSTED_PROXIES_MAX {
            let problem = format!("names at most {} networks", pumasi_gateway::TRUSTED_PROXIES_MAX);
            fault("gateway.trusted_proxies", problem);
        }
        if self.gateway.proxy_protocol && self.gateway.trusted_proxies.is_empty() {
            fault("gateway.proxy_protocol", "nobody may speak it: name the proxies in gateway.trusted_proxies".into());
        }
        if let Some((field, problem)) = self.gateway.limits.fault() {
            fault(&format!("gateway.limits.{field}"), problem);
        }
        if !self.gateway.admission.less_important.is_empty() {
            fault("gateway.admission.less_important", "a service says it, in routing.less_important".to_owned());
        }
        if let Some((field, problem)) = self.gateway.admission.fault() {
            fault(&format!("gateway.admission.{field}"), problem);
        }
        let e = &self.engine;
        if !e.lend_without_isolation.is_empty() && e.lend_without_isolation != ACCEPT_RISK {
            fault("engine.lend_without_isolation", format!("leave it out, or sign for it with {ACCEPT_RISK:?}"));
        }
        if e.uid_base.is_some_and(|base| base < 1_000 || base.checked_add(1_024).is_none()) {
            fault("engine.uid_base", "must be at least 1000, and leave room for 1024".into());
        }
        if let Some(whose) = e.uid_base.and_then(pumasi_engine::uids_of_others) {
            fault("engine.uid_base", format!("{whose}: choose another one, or leave it out to get a free range"));
        }
        for path in &e.view {
            if let Some(why) = unfit_for_view(path, &self.cloud.data_dir) {
                fault("engine.view", format!("{}: {why}", path.display()));
            }
        }
        if self.lend.egress.len() > EGRESS_RULES_MAX {
            fault("lend.egress", format!("at most {EGRESS_RULES_MAX} rules: members are told them with every offer"));
        }
        if self.lend.standby_percent > 100 {
            fault("lend.standby_percent", "must be 0 to 100: kept room costs no more than room in use".to_owned());
        }
        let (l, d) = (&self.instances, &self.disk);
        for (field, value, least, most) in [
            ("instances.log_kib_per_s", l.log_kib_per_s, 1, 1 << 20),
            ("instances.disk_write_mib_per_s", l.disk_write_mib_per_s, 1, 1 << 20),
            ("instances.tasks", u64::from(l.tasks), 16, 1 << 20),
            ("disk.reserve_mib", d.reserve_mib, 4, 1 << 20),
            ("disk.home_mib_max", d.home_mib_max, 1, 1 << 30),
            ("disk.home_files_max", d.home_files_max, 16, 1 << 30),
        ] {
            if !(least..=most).contains(&value) {
                fault(field, format!("must be {least} to {most}"));
            }
        }
        let t = &self.timing;
        if !(10..=1_000).contains(&t.tick_ms) {
            fault("timing.tick_ms", "must be 10 to 1000".into());
        }
        if !(100..=60_000).contains(&t.heartbeat_ms) {
            fault("timing.heartbeat_ms", "must be 100 to 60000".into());
        }
        if t.lease_ttl_ms < t.heartbeat_ms.saturating_mul(3) {
            fault(
                "timing.lease_ttl_ms",
                format!(
                    "must be at least three heartbeats ({} ms), or one lost renewal ends a lease",
                    t.heartbeat_ms.saturating_mul(3)
                ),
            );
        }
        if !(1_000..=60_000).contains(&t.hold_ttl_ms) {
            fault("timing.hold_ttl_ms", "must be 1000 to 60000".into());
        }
        if !(500..=86_400_000).contains(&t.calm_ms) {
            fault("timing.calm_ms", "must be 500 to 86400000".into());
        }
        if !(5..=60_000).contains(&t.ship_ms) {
            fault("timing.ship_ms", "must be 5 to 60000".into());
        }
        faults
    }

    fn check_doors(&self, fault: &mut impl FnMut(&str, String)) {
        if self.metrics.listen.is_some_and(|at| !at.ip().is_loopback()) {
            fault("metrics.listen", "plain HTTP is served on a loopback address only".into());
        }
        let api = &self.api;
        if api.certificate.is_some() != api.key.is_some() {
            fault("api.certificate", "api.certificate and api.key belong together".into());
        }
        if let Some((name, _)) = api.users.iter().find(|(_, role)| matches!(role, Role::Peer | Role::Invited)) {
            fault("api.users", format!("{name}: viewer, customer or operator"));
        }
        for (field, rate) in [
            ("limits.acts_per_second", self.limits.acts_per_second),
            ("limits.heartbeats_per_second", self.limits.heartbeats_per_second),
        ] {
            if !(1..=1_000_000).contains(&rate) {
                fault(field, "must be 1 to 1000000".into());
            }
        }
    }
}

impl ConfigFault {
    fn whole(problem: String) -> Self {
        Self { line: 0, column: 0, field: String::new(), problem }
    }
}

/// The line that sets `section.key`; 0 where the file does not.
pub(super) fn line_of(text: &str, field: &str) -> usize {
    let (section, key) = field.rsplit_once('.').unwrap_or(("", field));
    let mut current = String::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(head) = line.strip_prefix('[') {
            current = head.trim_end_matches(']').trim().to_owned();
        } else if let Some((k, _)) = line.split_once('=')
            && current == section
            && k.trim() == key
        {
            return i + 1;
        }
    }
    0
}

/// Puts the environment's values over the file's; leaves which field each variable set.
fn overlay(
    table: &mut toml::Table,
    env: impl Iterator<Item = (String, String)>,
    faults: &mut Vec<ConfigFault>,
) -> Vec<(String, String)> {
    let mut set = Vec::new();
    for (name, value) in env {
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else { continue };
        let Some((section, key)) = rest.split_once("__") else {
            let problem = "is no field; write PUMASI__SECTION__KEY".to_owned();
            faults.push(ConfigFault { field: name, ..ConfigFault::whole(problem) });
            continue;
        };
        let (section, key) = (section.to_lowercase(), key.to_lowercase());
        let value = value.parse::<toml::Value>().unwrap_or(toml::Value::String(value));
        let field = format!("{section}.{key}");
        let section = table.entry(section).or_insert_with(|| toml::Table::new().into());
        if let Some(section) = section.as_table_mut() {
            section.insert(key, value);
            set.push((field, name));
        }
    }
    set
}

/// A fault of the file has its place; one of the environment its variable.
fn placed(fault: Fault, from_env: &[(String, String)]) -> ConfigFault {
    let Fault { line, column, field, problem } = fault;
    let of = |set: &str| field.strip_prefix(set).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    match from_env.iter().find(|(set, _)| of(set)) {
        Some((_, variable)) => {
            ConfigFault { problem: format!("{problem} (set by {variable})"), field, line: 0, column: 0 }
        }
        None => ConfigFault { line: line as usize, column: column as usize, field, problem },
    }
}

/// How what has no default is written.
fn example(name: &str) -> Option<&'static str> {
    Some(match name {
        "version" => "1",
        "name" => "\"city-a\"",
        "city" => "\"Seoul\"",
        "latitude" => "37.57",
        "longitude" => "126.98",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Vec<ConfigFault>> {
        Config::parse(text, std::iter::empty())
    }

    #[test]
    fn a_name_is_enough() {
        let config = parse("version = 1\n[cloud]\nname = \"city-a\"\n").unwrap();
        assert_eq!(config.api_socket(), PathBuf::from("pumasi-data/api.sock"));
        assert_eq!((config.api.listen, config.metrics.listen), (None, None));
        assert_eq!(config.api_address(), "127.0.0.1:7443");
    }

    #[test]
    fn every_wrong_line_is_named_at_once() {
        let faults = parse(
            "version = 1\n[cloud]\nname = \"city-a\"\n[api]\nlisten = 7\nlissten = 8\n[timing]\ntick_ms = \"x\"\n",
        )
        .unwrap_err();
        let lines: Vec<usize> = faults.iter().map(|f| f.line).collect();
        assert_eq!(lines, [5, 6, 8], "{faults:?}");
        let told: Vec<String> = faults.iter().map(|f| format!("{}: {}", f.field, f.problem)).collect();
        assert_eq!(
            told,
            [
                "api.listen: found 7; must be an IP address and a port, as 127.0.0.1:7400",
                "api.lissten: is not known here; did you mean listen?",
                "timing.tick_ms: found \"x\"; must be a whole number, 0 or more",
            ]
        );
    }

    #[test]
    fn values_are_checked_against_each_other() {
        let faults = parse(
            "version = 1\n[cloud]\nname = \"city-a\"\n[timing]\nlease_ttl_ms = 2000\n[metrics]\nlisten = \"0.0.0.0:1\"\n",
        )
        .unwrap_err();
        let named: Vec<(usize, &str)> = faults.iter().map(|f| (f.line, f.field.as_str())).collect();
        assert_eq!(named, [(5, "timing.lease_ttl_ms"), (7, "metrics.listen")]);
    }

    #[test]
    fn bounds_of_the_gateway_are_read_and_wrong_ones_named() {
        let head = "version = 1\n[cloud]\nname = \"city-a\"\n";
        let text = "[gateway.limits]\nstall_ms = 9000\n[gateway.admission]\nlimit_initial = 32\n";
        let gateway = parse(&format!("{head}{text}")).unwrap().gateway;
        assert_eq!((gateway.limits.stall_ms, gateway.limits.stop_ms), (9_000, 10_000));
        assert_eq!((gateway.admission.limit_initial, gateway.admission.limit_max), (32, 256));
        let text = "[gateway.limits]\nconnections_max = 0\n[gateway.admission]\nlimit_initial = 900\n";
        let faults = parse(&format!("{head}{text}")).unwrap_err();
        let named: Vec<(usize, &str)> = faults.iter().map(|f| (f.line, f.field.as_str())).collect();
        assert_eq!(named, [(5, "gateway.limits.connections_max"), (7, "gateway.admission.limit_initial")]);
    }

    #[test]
    fn a_number_beyond_all_bounds_is_named_too() {
        for (line, field) in [("tick_ms = 18446744073709551615", 5), ("heartbeat_ms = 9223372036854775807", 5)] {
            let faults = parse(&format!("version = 1\n[cloud]\nname = \"city-a\"\n[timing]\n{line}\n")).unwrap_err();
            assert!(faults.iter().any(|f| f.line == field), "{faults:?}");
        }
    }

    #[test]
    fn egress_rules_are_read_and_wrong_ones_named() {
        let head = "version = 1\n[cloud]\nname = \"city-a\"\n";
        let config = parse(&format!(
            "{head}[lend]\negress = [\"203.0.113.0/24:443\"]\n[engine]\nhome_egress = [\"10.0.0.0/8:5432\"]\n"
        ));
        let config = config.unwrap();
        assert!(config.lend.egress[0].covers("203.0.113.7:443".parse().unwrap()));
        assert!(config.engine.home_egress[0].covers("10.0.0.7:5432".parse().unwrap()));
        assert_eq!(config.own_addresses(), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        let faults = parse(&format!("{head}[lend]\negress = [\"example.org:443\"]\n")).unwrap_err();
        assert_eq!(faults[0].line, 5, "{faults:?}");
        assert!(faults[0].problem.contains("egress rule"), "{faults:?}");
    }

    #[test]
    fn the_environment_stands_over_the_file() {
        let env = [
            ("PUMASI__API__LISTEN".to_owned(), "127.0.0.1:9".to_owned()),
            ("PUMASI__TIMING__TICK_MS".to_owned(), "50".to_owned()),
        ];
        let config = Config::parse("version = 1\n[cloud]\nname = \"city-a\"\n", env.into_iter()).unwrap();
        assert_eq!((config.api.listen.map(|at| at.port()), config.timing.tick_ms), (Some(9), 50));
    }
}
