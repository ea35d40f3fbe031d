//! Which daemon, and who asks.

use crate::args::Global;
use crate::failure::Failure;
use pumasi_api::Client;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A token is one line; more than this is no token.
const TOKEN_BYTES_MAX: usize = 4 << 10;
/// Where a daemon listens for people, and what it calls its data directory, if its configuration does not say.
const SERVER: &str = "http://127.0.0.1:7400";
const DATA_DIR: &str = "pumasi-data";

fn read_token(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Failure::input(format!("reading the token in {}: {e}", path.display())))?;
    let token = text.trim();
    if token.is_empty() || token.len() > TOKEN_BYTES_MAX || token.contains(char::is_whitespace) {
        return Err(Failure::input(format!("{} does not hold one token on one line", path.display())));
    }
    Ok(token.to_owned())
}

/// A configuration, read no further than needed: the daemon checks it whole.
fn table(config: &Path) -> Result<toml::Table, Failure> {
    let text = std::fs::read_to_string(config)
        .map_err(|e| Failure::input(format!("reading the configuration {}: {e}", config.display())))?;
    toml::from_str(&text).map_err(|e| Failure::input(format!("{}: {}", config.display(), e.to_string().trim())))
}

fn field<'a>(table: &'a toml::Table, room: &str, name: &str) -> Option<&'a str> {
    table.get(room)?.get(name)?.as_str()
}

/// `cloud.data_dir`, relative to the configuration's own directory.
fn data_dir(config: &Path) -> Result<PathBuf, Failure> {
    let table = table(config)?;
    let dir = field(&table, "cloud", "data_dir").unwrap_or(DATA_DIR);
    Ok(config.parent().unwrap_or(Path::new(".")).join(dir))
}

/// The token: --token-file, PUMASI_TOKEN, operator.token of the configured data directory, in this order.
pub fn token(global: &Global) -> Result<Option<String>, Failure> {
    if let Some(path) = &global.token_file {
        return read_token(path).map(Some);
    }
    match std::env::var("PUMASI_TOKEN") {
        Ok(token) if !token.trim().is_empty() => return Ok(Some(token.trim().to_owned())),
        _ => {}
    }
    match &global.config {
        Some(config) => read_token(&data_dir(config)?.join("operator.token")).map(Some),
        None => Ok(None),
    }
}

/// Base address without a slash at the end: --server, then `api.listen` of the configuration.
pub fn server(global: &Global) -> Result<String, Failure> {
    let url = match (&global.server, &global.config) {
        (Some(url), _) => url.clone(),
        (None, Some(config)) => {
            field(&table(config)?, "api", "listen").map_or(SERVER.into(), |at| format!("http://{at}"))
        }
        (None, None) => SERVER.to_owned(),
    };
    let url = url.trim_end_matches('/');
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.contains(['/', '?', '#', ' ']) => Ok(url.to_owned()),
        _ => Err(Failure::input(format!("--server {:?} is not an address as http://127.0.0.1:7400", url))),
    }
}

pub fn client(global: &Global) -> Result<Client, Failure> {
    let base = server(global)?;
    let token = token(global)?.ok_or_else(|| {
        Failure::input("no token to say who asks")
            .hint("name one with --token-file, PUMASI_TOKEN_FILE or PUMASI_TOKEN, or this cloud's --config")
    })?;
    Ok(Client::with_token(&base, &token, Duration::from_millis(global.timeout))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_leads_to_the_operators_token() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        std::fs::write(dir.path().join("data/operator.token"), "pms_abc\n").unwrap();
        let config = dir.path().join("cloud.toml");
        std::fs::write(&config, "[cloud]\nname = \"a\"\ndata_dir = \"data\"\n[api]\nlisten = \"127.0.0.1:9\"\n")
            .unwrap();
        assert_eq!(read_token(&data_dir(&config).unwrap().join("operator.token")).unwrap(), "pms_abc");
        assert_eq!(field(&table(&config).unwrap(), "api", "listen"), Some("127.0.0.1:9"));
        std::fs::write(&config, "data_dir = \n").unwrap();
        assert!(data_dir(&config).unwrap_err().message.contains("line 1"));
        std::fs::write(dir.path().join("two"), "a b").unwrap();
        assert!(read_token(&dir.path().join("two")).is_err());
    }
}
