//! A real cloud whose gateway cannot come up says so, wherever somebody looks; one that can is started again and reads what changed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

struct Cloud {
    dir: tempfile::TempDir,
    users: SocketAddr,
    daemon: Option<Child>,
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Cloud {
    /// `gateway`: more of that section.
    fn new(gateway: &str) -> Self {
        let (dir, users) = (tempfile::tempdir().unwrap(), free());
        let text = format!(
            "version = 1\n[cloud]\nname = \"city-a\"\n[peer]\nlisten = \"{}\"\n[gateway]\npeer_listen = \"{}\"\n\
             listen = [\"{users}\"]\n{gateway}",
            free(),
            free(),
        );
        std::fs::write(dir.path().join("cloud.toml"), text).unwrap();
        Self { dir, users, daemon: None }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn pumasi(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pumasi"));
        command.arg("--config").arg(self.at("cloud.toml")).env("PUMASI_LOG", "info");
        for name in ["PUMASI_SERVER", "PUMASI_TOKEN", "PUMASI_TOKEN_FILE"] {
            command.env_remove(name);
        }
        command
    }

    fn serve(&mut self) {
        let log = std::fs::File::create(self.at("log")).unwrap();
        let serve = self.pumasi().arg("serve").stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.daemon = Some(serve);
        self.until("ready", || self.ready().contains(" 200 "));
    }

    fn order(&self, words: &[&str]) -> String {
        let out = self.pumasi().args(words).output().unwrap();
        let (said, told) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{words:?}: {told}");
        format!("{said}{told}")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.at("log")).unwrap_or_default()
    }

    fn ready(&self) -> String {
        let Ok(mut stream) = UnixStream::connect(self.at("pumasi-data/api.sock")) else { return String::new() };
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _ = write!(stream, "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    }

    fn until(&self, what: &str, reached: impl Fn() -> bool) {
        let begun = Instant::now();
        while !reached() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {} {}", self.ready(), self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The process of its gateway.
    fn gateway(&self) -> Option<i32> {
        let own = self.dir.path().to_string_lossy().into_owned();
        std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).into_owned();
            if !line.contains("\0gateway\0") || !line.contains(&own) {
                return None;
            }
            entry.file_name().to_str()?.parse().ok()
        })
    }

    fn signal(pid: i32, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    }

    fn ask(&self, host: &str) -> String {
        let Ok(mut stream) = TcpStream::connect(self.users) else { return String::new() };
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _ = write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    }

    fn renew(&self) {
        let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
        std::fs::write(self.at("tls.key"), made.signing_key.serialize_pem()).unwrap();
        std::fs::write(self.at("tls.crt"), made.cert.pem()).unwrap();
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if let Some(pid) = self.gateway() {
            Self::signal(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// The exit code, and what was said; it must end by itself.
fn ends(mut command: Command) -> (Option<i32>, String) {
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

fn with_tls() -> Cloud {
    Cloud::new(&format!("listen_tls = [\"{}\"]\ntls_certificate = \"tls.crt\"\ntls_key = \"tls.key\"\n", free()))
}

#[test]
fn a_gateway_that_could_not_come_up_is_told_before_anything_is_started() {
    let cloud = Cloud::new("");
    let busy = TcpListener::bind(cloud.users).unwrap();
    for (word, code) in [("config", 2), ("serve", 1)] {
        let mut command = cloud.pumasi();
        command.arg(word);
        if word == "config" {
            command.arg("check");
        }
        let (ended, said) = ends(command);
        assert_eq!(ended, Some(code), "{word}: {said}");
        assert!(said.contains("gateway.listen: another process listens on"), "{word}: {said}");
        assert_eq!(said.trim().lines().count(), 1, "{word}: {said}");
    }
    assert!(!cloud.at("pumasi-data").exists(), "nothing was begun");
    drop(busy);
    let cloud = with_tls();
    cloud.renew();
    let whole = std::fs::read_to_string(cloud.at("tls.key")).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["b.example".to_owned()]).unwrap().signing_key.serialize_pem();
    for (key, told) in [(Some(other), "it is not the key of the certificate"), (None, "No such file")] {
        match key {
            Some(key) => std::fs::write(cloud.at("tls.key"), key).unwrap(),
            None => std::fs::remove_file(cloud.at("tls.key")).unwrap(),
        }
        for words in [&["config", "check"][..], &["serve"]] {
            let mut command = cloud.pumasi();
            command.args(words);
            let (ended, said) = ends(command);
            assert_eq!(ended, Some(2), "{said}");
            assert!(said.contains("gateway.tls_key: ") && said.contains(told), "{said}");
        }
    }
    std::fs::write(cloud.at("tls.key"), whole).unwrap();
    cloud.order(&["config", "check"]);
}

#[test]
fn a_running_cloud_without_a_gateway_says_why_and_recovers() {
    let mut cloud = with_tls();
    cloud.renew();
    cloud.serve();
    assert!(!cloud.log().contains("WARN") && !cloud.log().contains("ERROR"), "a first start is quiet: {}", cloud.log());
    // It is this cloud's own doors that are taken now.
    cloud.order(&["config", "check"]);
    std::fs::rename(cloud.at("tls.crt"), cloud.at("gone")).unwrap();
    let first = cloud.gateway().unwrap();
    Cloud::signal(first, nix::sys::signal::Signal::SIGKILL);
    cloud.until("the reason", || cloud.ready().contains("tls.crt: "));
    let down = cloud.ready();
    assert!(down.contains(" 503 ") && down.contains("the gateway is down: "), "{down}");
    let status = cloud.order(&["get", "services"]);
    assert!(status.contains("attention: the gateway is down: ") && status.contains("tls.crt"), "{status}");
    // Back-off: some tries, not hundreds.
    std::thread::sleep(Duration::from_secs(3));
    let tries = std::fs::read_to_string(cloud.at("pumasi-data/gateway/gateway.log")).unwrap();
    let tries = tries.matches("the gateway ends").count();
    assert!((1..=12).contains(&tries), "{tries} tries in 3 s");
    assert!(cloud.log().matches("the gateway is down").count() <= 3, "{}", cloud.log());
    std::fs::rename(cloud.at("gone"), cloud.at("tls.crt")).unwrap();
    cloud.until("up again", || cloud.ready().contains(" 200 "));
    let events = cloud.order(&["events", "--limit", "100"]);
    assert!(events.contains("gateway_down") && events.contains("gateway_up"), "{events}");
    assert!(events.contains("tls.crt"), "{events}");
    assert_ne!(cloud.gateway(), Some(first));
}

#[test]
fn certificates_are_read_again_and_nothing_ends_for_it() {
    let mut cloud = with_tls();
    cloud.renew();
    cloud.serve();
    let (daemon, gateway) = (i32::try_from(cloud.daemon.as_ref().unwrap().id()).unwrap(), cloud.gateway().unwrap());
    let said = cloud.order(&["reload"]);
    assert!(said.contains("as before: gateway.tls_certificate: ") && said.contains("certificates as before"), "{said}");
    cloud.renew();
    let said = cloud.order(&["reload"]);
    // The gateway looks at its files by itself, and may have been faster.
    assert!(said.contains("gateway.tls_certificate: "), "{said}");
    for pid in [daemon, gateway, daemon] {
        Cloud::signal(pid, nix::sys::signal::Signal::SIGHUP);
        std::thread::sleep(Duration::from_millis(200));
    }
    cloud.until("told in the log", || cloud.log().contains("certificates were read again"));
    std::fs::write(cloud.at("tls.crt"), "no certificate").unwrap();
    let out = cloud.pumasi().arg("reload").output().unwrap();
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("those from before are shown"));
    assert!(cloud.ready().contains(" 200 "));
    assert_eq!(cloud.gateway(), Some(gateway));
    assert!(cloud.daemon.as_mut().unwrap().try_wait().unwrap().is_none(), "{}", cloud.log());
}

#[test]
fn a_host_that_was_applied_is_never_unknown() {
    let mut cloud = Cloud::new("");
    std::fs::create_dir(cloud.at("app")).unwrap();
    std::fs::write(cloud.at("app/slow.py"), "import time\ntime.sleep(600)\n").unwrap();
    let manifest = "apiVersion: pumasi/v1\nkind: Service\nmetadata: { name: hello }\nspec:\n  hosts: [hello.example]\n  \
                    application:\n    bundle: app\n    command: [python3, \"${BUNDLE}/slow.py\"]\n    \
                    platform: { runtimes: [python3] }\n";
    std::fs::write(cloud.at("service.yaml"), manifest).unwrap();
    cloud.serve();
    let path = cloud.at("service.yaml");
    cloud.order(&["apply", "-f", &path.to_string_lossy()]);
    let said = cloud.ask("hello.example");
    assert!(said.starts_with("HTTP/1.1 503") && said.contains("retry-after: 1"), "{said}");
    assert!(said.contains("hello is starting"), "{said}");
    assert!(cloud.ask("other.example").starts_with("HTTP/1.1 421"));
    cloud.order(&["delete", "service", "hello", "--wait", "--timeout", "60s"]);
}
