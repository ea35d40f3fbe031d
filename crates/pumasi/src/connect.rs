//! Which daemon, and who asks.

use crate::args::Global;
use crate::failure::Failure;
use pumasi_api::Client;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A token is one line; more than this is no token.
const TOKEN_BYTES_MAX: usize = 4 << 10;
/// What a daemon calls its socket and its data directory, if its configuration does not say.
const API_SOCKET: &str = "api.sock";
const DATA_DIR: &str = "pumasi-data";
/// A daemon has its socket by then, on a busy machine too.
const STARTS_WITHIN: Duration = Duration::from_secs(3);

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

/// The token: --token-file, then PUMASI_TOKEN. At a socket none is needed: it tells the daemon which user calls.
fn named_token(global: &Global) -> Result<Option<String>, Failure> {
    if let Some(path) = &global.token_file {
        return read_token(path).map(Some);
    }
    let token = std::env::var("PUMASI_TOKEN").unwrap_or_default();
    Ok(Some(token.trim().to_owned()).filter(|token| !token.is_empty()))
}

/// Where the daemon answers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Server {
    Socket(PathBuf),
    Tls(String),
}

fn parse(server: &str) -> Result<Server, Failure> {
    if let Some(path) = server.strip_prefix("unix:") {
        return Ok(Server::Socket(path.strip_prefix("//").unwrap_or(path).into()));
    }
    let url = server.trim_end_matches('/');
    if url.starts_with("http://") {
        return Err(Failure::input(format!("--server {url:?}: nobody is asked without TLS over the network")).hint(
            "on the daemon's host name its socket, as unix:/path/api.sock; elsewhere https://host:port with --ca",
        ));
    }
    match url.strip_prefix("https://") {
        Some(rest) if !rest.is_empty() && !rest.contains(['/', '?', '#', ' ', '@']) => Ok(Server::Tls(url.to_owned())),
        _ => Err(Failure::input(format!(
            "--server {server:?} is no address as unix:/var/lib/pumasi/api.sock or https://cloud.example:7400"
        ))),
    }
}

/// --server, then the socket of the configuration.
fn server(global: &Global) -> Result<Server, Failure> {
    match (&global.server, &global.config) {
        (Some(server), _) => parse(server),
        (None, Some(config)) => {
            let table = table(config)?;
            let base = config.parent().unwrap_or(Path::new("."));
            Ok(Server::Socket(match field(&table, "api", "socket") {
                Some(socket) => base.join(socket),
                None => data_dir(config)?.join(API_SOCKET),
            }))
        }
        (None, None) => Err(Failure::input("no daemon is named")
            .hint("name its configuration with --config, its socket with --server unix:/path/api.sock, or https://host:port with --ca")),
    }
}

/// A daemon that was started a moment ago opens its socket soon.
fn await_socket(path: &Path, at_most: Duration) {
    let begun = std::time::Instant::now();
    let mut said = false;
    while std::os::unix::net::UnixStream::connect(path)
        .is_err_and(|e| matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused))
    {
        if begun.elapsed() >= STARTS_WITHIN.min(at_most) {
            return;
        }
        if !said && begun.elapsed() >= Duration::from_millis(500) {
            said = true;
            crate::output::note(&format!("waiting for the daemon at {}", path.display()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn client(global: &Global) -> Result<Client, Failure> {
    let (token, timeout) = (named_token(global)?, Duration::from_millis(global.timeout));
    match server(global)? {
        Server::Socket(path) => {
            await_socket(&path, timeout);
            Ok(Client::over_socket(&path, token.as_deref(), timeout)?)
        }
        Server::Tls(url) => {
            let token = token.ok_or_else(|| {
                Failure::input("no token to say who asks").hint("name one with --token-file or PUMASI_TOKEN")
            })?;
            let ca = global.ca.as_deref().ok_or_else(|| {
                Failure::input(format!("nothing says whether {url} is your cloud"))
                    .hint("--ca FILE: trust/ca.pem of its data directory, or the authority of its certificate")
            })?;
            let roots = std::fs::read(ca).map_err(|e| Failure::input(format!("reading {}: {e}", ca.display())))?;
            Ok(Client::over_tls(&url, &roots, Some(&token), timeout)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(args: &[&str]) -> Global {
        use clap::Parser;
        let args = ["pumasi"].iter().chain(args).chain(&["get", "services"]);
        crate::args::Cli::parse_from(args).global
    }

    #[test]
    fn the_configuration_leads_to_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("cloud.toml");
        let asked = global(&["--config", config.to_str().unwrap()]);
        std::fs::write(&config, "[cloud]\nname = \"a\"\ndata_dir = \"data\"\n").unwrap();
        assert_eq!(server(&asked).unwrap(), Server::Socket(dir.path().join("data/api.sock")));
        std::fs::write(&config, "[api]\nsocket = \"/run/a.sock\"\nlisten = \"127.0.0.1:9\"\n").unwrap();
        assert_eq!(server(&asked).unwrap(), Server::Socket("/run/a.sock".into()));
        std::fs::write(&config, "data_dir = \n").unwrap();
        assert!(server(&asked).unwrap_err().message.contains("line 1"));
        std::fs::write(dir.path().join("two"), "a b").unwrap();
        assert!(read_token(&dir.path().join("two")).is_err());
    }

    #[test]
    fn a_token_goes_to_nobody_who_has_not_shown_who_it_is() {
        assert_eq!(parse("unix:/a/b.sock").unwrap(), Server::Socket("/a/b.sock".into()));
        assert_eq!(parse("unix:///a/b.sock").unwrap(), Server::Socket("/a/b.sock".into()));
        assert_eq!(parse("https://a.example:7400/").unwrap(), Server::Tls("https://a.example:7400".into()));
        for wrong in ["http://127.0.0.1:7400", "https://", "https://a/b", "https://u:p@a", "a.example:1", ""] {
            assert_eq!(parse(wrong).unwrap_err().exit, crate::failure::Exit::Usage, "{wrong}");
        }
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, "pumasi_secret").unwrap();
        // Whoever sits on the port that daemons once had is not even called.
        let thief = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        thief.set_nonblocking(true).unwrap();
        let at = thief.local_addr().unwrap();
        for url in [format!("http://{at}"), format!("https://{at}")] {
            let asked = global(&["--token-file", token.to_str().unwrap(), "--server", &url]);
            assert!(client(&asked).is_err(), "{url}");
        }
        assert!(thief.accept().is_err());
    }
}
