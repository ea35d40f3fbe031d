//! `pumasi exec` and `pumasi cp` on a real cloud: streams, codes, files, who may, and what is left when somebody is killed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const SERVER: &str = r#"
import http.server, os
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Hello).serve_forever()
"#;
const SERVICE: &str = r#"
apiVersion: pumasi/v1
kind: Service
metadata: { name: shop }
spec:
  hosts: [shop.example]
  application:
    bundle: app
    command: [python3, "${BUNDLE}/server.py"]
    env: { COLOUR: blue }
    platform: { runtimes: [python3] }
"#;

struct Cloud {
    dir: tempfile::TempDir,
    tls: SocketAddr,
    daemon: Option<Child>,
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Cloud {
    /// With one service that serves.
    fn new() -> Self {
        let (dir, tls) = (tempfile::tempdir().unwrap(), free());
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        let config = format!(
            "version = 1\n[cloud]\nname = \"city-a\"\n[api]\nlisten = \"{tls}\"\n[peer]\nlisten = \"{}\"\n[gateway]\npeer_listen = \"{}\"\n\
             listen = [\"{}\"]\n",
            free(),
            free(),
            free()
        );
        std::fs::write(dir.path().join("cloud.toml"), config).unwrap();
        std::fs::create_dir(dir.path().join("app")).unwrap();
        std::fs::write(dir.path().join("app/server.py"), SERVER).unwrap();
        std::fs::write(dir.path().join("service.yaml"), SERVICE).unwrap();
        let mut cloud = Self { dir, tls, daemon: None };
        cloud.serve();
        let applied = cloud.run(&["apply", "-f", "service.yaml", "--wait"]);
        assert!(applied.status.success(), "{}{}", text(&applied.stderr), cloud.log());
        cloud
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.at("log")).unwrap_or_default()
    }

    fn serve(&mut self) {
        let log = std::fs::File::create(self.at("log")).unwrap();
        self.daemon = Some(self.pumasi().arg("serve").stdout(Stdio::null()).stderr(log).spawn().unwrap());
        self.until("it answers", || self.run(&["status"]).status.success());
    }

    fn pumasi(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pumasi"));
        command.current_dir(self.dir.path()).env("PUMASI_CONTEXTS", self.at("contexts.toml")).stdin(Stdio::null());
        for name in ["PUMASI_SERVER", "PUMASI_TOKEN", "PUMASI_TOKEN_FILE", "PUMASI_CONFIG"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.pumasi().args(words).output().unwrap()
    }

    fn exec(&self, script: &str) -> Output {
        self.run(&["exec", "shop", "--", "sh", "-c", script])
    }

    fn begin(&self, words: &[&str]) -> Child {
        self.pumasi().args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn until(&self, what: &str, mut reached: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !reached() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let _ = self.run(&["stop", "--everything", "--force"]);
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// Processes whose command line is a sleep of so long.
fn sleepers(seconds: &str) -> usize {
    let is = |e: &std::fs::DirEntry| {
        std::fs::read(e.path().join("cmdline"))
            .is_ok_and(|l| text(&l).starts_with("sleep\0") && text(&l).contains(seconds))
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter(is).count()
}

#[test]
fn a_command_has_its_streams_its_code_and_a_place_in_the_journal() {
    let cloud = Cloud::new();
    let ran = cloud.exec("echo out; echo err >&2; echo $COLOUR; exit 7");
    assert_eq!((text(&ran.stdout).as_str(), text(&ran.stderr).as_str()), ("out\nblue\n", "err\n"));
    assert_eq!(ran.status.code(), Some(7));
    assert_eq!(cloud.exec("kill -9 $$").status.code(), Some(137));
    // More in each direction than may be on its way.
    let mut child = cloud.begin(&["exec", "shop", "-i", "--", "sh", "-c", "sleep 0.3; cat"]);
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let sent: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || input.write_all(&copy).unwrap());
    let mut got = Vec::new();
    output.read_to_end(&mut got).unwrap();
    writer.join().unwrap();
    assert!(got == sent, "{} bytes came back of {}", got.len(), sent.len());
    assert!(child.wait().unwrap().success());
    // A terminal, as at one.
    let program = env!("CARGO_BIN_EXE_pumasi");
    let line = format!("{program} exec shop -it -- sh -c 'test -t 1 && echo is a terminal; stty size; exit 5'");
    let line = format!("stty rows 31 columns 77; {line}");
    let mut script = Command::new("script");
    let script = script.current_dir(cloud.dir.path()).args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output();
    let script = script.unwrap();
    let said = text(&script.stdout);
    assert!(said.contains("is a terminal") && said.contains("31 77"), "{said}");
    assert_eq!(script.status.code(), Some(5), "{said}");
    // What cannot be is told in one sentence, with a code of ours.
    for (words, code, word) in [
        (&["exec", "shop", "--", "no-such-program"][..], 4, "no-such-program"),
        (&["exec", "nobody", "--", "true"], 3, "no service nobody"),
        (&["exec", "shop", "--instance", "inst-ffff", "--", "true"], 3, "inst-ffff"),
        (&["exec", "shop", "-it", "--", "sh"], 2, "terminal"),
    ] {
        let ran = cloud.run(words);
        assert_eq!(ran.status.code(), Some(code), "{words:?}: {}", text(&ran.stderr));
        assert!(text(&ran.stderr).contains(word), "{words:?}: {}", text(&ran.stderr));
    }
    let events = text(&cloud.run(&["events", "--subject", "shop", "-o", "json"]).stdout);
    assert!(events.contains("exec_begun") && events.contains("exec_ended"), "{events}");
    assert!(events.contains("exited with code 7") && events.contains("echo out; echo err"), "{events}");
}

#[test]
fn files_go_in_and_come_out() {
    let cloud = Cloud::new();
    let from = cloud.at("fixtures");
    std::fs::create_dir_all(from.join("deep/er")).unwrap();
    let bytes: Vec<u8> = (0..2_000_000u32).map(|i| (i % 251) as u8).collect();
    std::fs::write(from.join("deep/er/large"), &bytes).unwrap();
    std::fs::write(from.join("small"), "one").unwrap();
    let copy = |words: &[&str]| {
        let ran = cloud.run(words);
        assert!(ran.status.success(), "{words:?}: {}", text(&ran.stderr));
        text(&ran.stderr)
    };
    assert!(copy(&["cp", "fixtures", "shop:/tmp/there"]).contains("2 files, 2000003 bytes"));
    assert_eq!(text(&cloud.exec("cat /tmp/there/small; wc -c < /tmp/there/deep/er/large").stdout), "one2000000\n");
    // Into a directory that is there, under its own name.
    copy(&["cp", "fixtures/small", "shop:/tmp"]);
    assert_eq!(text(&cloud.exec("cat /tmp/small").stdout), "one");
    copy(&["cp", "shop:/tmp/there", "back"]);
    assert!(std::fs::read(cloud.at("back/deep/er/large")).unwrap() == bytes);
    copy(&["cp", "shop:/tmp/there/small", "."]);
    assert_eq!(std::fs::read_to_string(cloud.at("small")).unwrap(), "one");
    // What leads out is passed over, and nothing half copied stays.
    cloud.exec("ln -s /etc/passwd /tmp/there/link");
    assert!(copy(&["cp", "shop:/tmp/there", "again"]).contains("1 links"));
    assert!(!cloud.at("again/link").exists());
    for (words, word) in [
        (&["cp", "shop:/tmp/nothing", "x"][..], "nothing"),
        (&["cp", "nothing", "shop:/tmp/x"], "nothing"),
        (&["cp", "small", "shop:/usr/x"], "/usr"),
        (&["cp", "small", "here"], "SERVICE:/path"),
    ] {
        let ran = cloud.run(words);
        assert!(!ran.status.success() && text(&ran.stderr).contains(word), "{words:?}: {}", text(&ran.stderr));
    }
    let left = std::fs::read_dir(cloud.dir.path()).unwrap().flatten().map(|e| e.file_name());
    assert!(left.filter(|n| n.to_string_lossy().starts_with(".pumasi-cp")).count() == 0);
}

#[test]
fn over_tls_by_ones_role() {
    let cloud = Cloud::new();
    let token = |role: &str| {
        let made = cloud.run(&["token", "create", role, "--role", role, "-o", "json"]);
        let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap_or_else(|_| panic!("{made:?}"));
        std::fs::write(cloud.at(role), made["secret"].as_str().unwrap()).unwrap();
    };
    ["customer", "viewer", "operator"].into_iter().for_each(token);
    let server = format!("https://{}", cloud.tls);
    let ca = cloud.at("pumasi-data/trust/ca.pem");
    let remote = |role: &str| {
        let flags = ["--server", &server, "--ca", ca.to_str().unwrap(), "--token-file", role];
        let mut command = cloud.pumasi();
        command.args(flags).args(["exec", "shop", "-i", "--", "sh", "-c", "cat; exit 3"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(b"by tls");
        child.wait_with_output().unwrap()
    };
    for role in ["customer", "operator"] {
        let ran = remote(role);
        assert_eq!(
            (text(&ran.stdout).as_str(), ran.status.code()),
            ("by tls", Some(3)),
            "{role}: {}",
            text(&ran.stderr)
        );
    }
    let refused = remote("viewer");
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("may not"), "{}", text(&refused.stderr));
}

#[test]
fn nothing_outlives_whoever_asked_for_it() {
    let mut cloud = Cloud::new();
    let script = "trap '' HUP TERM; setsid sleep 8100001 & sleep 8100001 & echo begun; wait";
    let begun = |cloud: &Cloud| {
        let mut child = cloud.begin(&["exec", "shop", "-i", "--", "sh", "-c", script]);
        let mut word = [0u8; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
        cloud.until("it runs", || sleepers("8100001") == 2);
        child
    };
    // The client is killed.
    let mut child = begun(&cloud);
    child.kill().unwrap();
    child.wait().unwrap();
    cloud.until("nothing of it is left", || sleepers("8100001") == 0);
    // A client that reads nothing is no matter to the daemon, and gone when it is.
    let mut idle = cloud.begin(&["exec", "shop", "-i", "--", "sh", "-c", "sleep 8100002 & exec cat /dev/zero"]);
    cloud.until("it runs", || sleepers("8100002") == 1);
    std::thread::sleep(Duration::from_millis(500));
    assert!(cloud.run(&["get", "services"]).status.success());
    let status = std::fs::read_to_string(format!("/proc/{}/status", cloud.daemon.as_ref().unwrap().id())).unwrap();
    let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
    assert!(kib.unwrap() < 300 << 10, "the daemon has {kib:?} KiB");
    idle.kill().unwrap();
    idle.wait().unwrap();
    cloud.until("nothing of it is left", || sleepers("8100002") == 0);
    // The daemon is killed, and the next one finds nothing to do.
    let mut child = begun(&cloud);
    kill(Pid::from_raw(i32::try_from(cloud.daemon.as_ref().unwrap().id()).unwrap()), Signal::SIGKILL).unwrap();
    cloud.daemon.take().unwrap().wait().unwrap();
    cloud.until("nothing of it is left", || sleepers("8100001") == 0);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(told.contains("connection to the command was lost"), "{told}");
    cloud.serve();
    assert_eq!(text(&cloud.exec("echo next").stdout), "next\n");
}
