//! A real daemon on a small disk that somebody fills: it says so, goes on committing, and recovers. Needs root and mkfs.ext4; without them
//! it says that it was not tried.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Cloud {
    dir: tempfile::TempDir,
    daemon: Option<Child>,
}

fn run(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Cloud {
    fn new(disk_mib: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let (image, disk) = (dir.path().join("image"), dir.path().join("disk"));
        std::fs::create_dir(&disk).unwrap();
        File::create(&image).unwrap().set_len(disk_mib << 20).unwrap();
        let made = run(Command::new("mkfs.ext4").args(["-q", "-m", "0", "-F"]).arg(&image))
            && run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&disk));
        if !made {
            println!("not tried: a file system cannot be made and mounted here");
            return None;
        }
        let text = format!(
            "version = 1\n[cloud]\nname = \"city-a\"\ndata_dir = \"disk/data\"\n[peer]\nlisten = \"{}\"\n\
             [gateway]\nlisten = [\"{}\"]\npeer_listen = \"{}\"\n[disk]\nreserve_mib = 16\n",
            free(),
            free(),
            free()
        );
        std::fs::write(dir.path().join("cloud.toml"), text).unwrap();
        let mut cloud = Self { dir, daemon: None };
        let serve = cloud.pumasi().arg("serve").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        cloud.daemon = Some(serve);
        Some(cloud)
    }

    fn pumasi(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pumasi"));
        command.arg("--config").arg(self.dir.path().join("cloud.toml"));
        command
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn ready(&self) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(self.disk().join("data/api.sock"))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    fn until(&self, wished: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let said = self.ready().unwrap_or_default();
            if wished(&said) {
                return said;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "/readyz says {said:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn order(&self, words: &[&str]) {
        let out = self.pumasi().args(words).output().unwrap();
        assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        // The gateway outlives its daemon on purpose; it is known by the directory it was started with.
        let own = self.dir.path().to_string_lossy().into_owned();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(&own) {
                run(Command::new("kill").arg("-9").arg(entry.file_name()));
            }
        }
        run(Command::new("umount").arg("-l").arg(self.disk()));
    }
}

fn fill(disk: &Path) -> PathBuf {
    let path = disk.join("filler");
    let mut file = File::create(&path).unwrap();
    for size in [1 << 20, 4096, 1] {
        let block = vec![7u8; size];
        while file.write_all(&block).and_then(|()| file.sync_data()).is_ok() {}
    }
    path
}

#[test]
fn a_daemon_on_a_full_disk_says_so_obeys_and_recovers() {
    let Some(cloud) = Cloud::new(160) else { return };
    cloud.until(|said| said.contains(" 200 "));
    let filler = fill(&cloud.disk());
    let said = cloud.until(|said| said.contains(" 503 "));
    assert!(said.contains("disk full"), "{said}");
    let begun = Instant::now();
    for _ in 0..10 {
        cloud.order(&["stop-automation", "--why", "the disk is full"]);
        cloud.order(&["resume-automation"]);
    }
    println!("20 orders of an operator on a full disk took {} ms", begun.elapsed().as_millis());
    cloud.order(&["stop-automation", "--why", "the disk is full"]);
    // What others send is not taken in; it is told why.
    let bundle = cloud.dir.path().join("app");
    std::fs::create_dir(&bundle).unwrap();
    std::fs::write(bundle.join("run"), vec![1u8; 1 << 20]).unwrap();
    let manifest = "apiVersion: pumasi/v1\nkind: Service\nmetadata:\n  name: hello\nspec:\n  hosts: [hello.city-a.example]\n  application:\n    bundle: app\n    command: [sh, \"${BUNDLE}/run\"]\n";
    std::fs::write(cloud.dir.path().join("service.yaml"), manifest).unwrap();
    let out = cloud.pumasi().current_dir(cloud.dir.path()).args(["apply", "-f", "service.yaml"]).output().unwrap();
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && told.contains("disk full"), "{told}");
    std::fs::remove_file(filler).unwrap();
    cloud.until(|said| said.contains(" 200 "));
    let out = cloud.pumasi().args(["events"]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&out.stdout).contains("the disk is full"),
        "what was ordered on the full disk is kept"
    );
}

const APP: &str = r#"
import http.server, os, sys, threading, time
def write():
    at, n = os.environ["DATA_NOTES"], 0
    while sys.argv[1] != "calm":
        n += 1
        with open(f"{at}/{n}", "wb") as f:
            if sys.argv[1] == "bytes": f.write(b"x" * (1 << 20))
        time.sleep(0.005)
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
threading.Thread(target=write, daemon=True).start()
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Hello).serve_forever()
"#;

impl Cloud {
    fn apply(&self, name: &str, how: &str) {
        let text = format!(
            "apiVersion: pumasi/v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  hosts: [{name}.city-a.example]\n  application:\n    \
             bundle: {name}\n    command: [python3, \"${{BUNDLE}}/server.py\", {how}]\n  datasets:\n    - {{ name: notes, kind: files, \
             bytes_max: 67108864, files_max: 2000 }}\n"
        );
        let bundle = self.dir.path().join(name);
        std::fs::create_dir(&bundle).unwrap();
        std::fs::write(bundle.join("server.py"), APP).unwrap();
        let file = self.dir.path().join(format!("{name}.yaml"));
        std::fs::write(&file, text).unwrap();
        let out = self.pumasi().current_dir(self.dir.path()).args(["apply", "-f"]).arg(&file).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    fn read(&self, words: &[&str]) -> String {
        String::from_utf8_lossy(&self.pumasi().args(words).output().unwrap().stdout).into_owned()
    }

    fn journal_says(&self, what: &[&str]) -> String {
        let begun = Instant::now();
        loop {
            let events = self.read(&["events", "-o", "json"]);
            let told: serde_json::Value = serde_json::from_str(&events).unwrap_or_default();
            let rows: Vec<String> = told["items"].as_array().into_iter().flatten().map(ToString::to_string).collect();
            if let Some(row) = rows.into_iter().find(|r| what.iter().all(|w| r.contains(w))) {
                return row;
            }
            assert!(begun.elapsed() < Duration::from_secs(90), "{what:?} is not in the journal:\n{events}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

#[test]
fn a_service_beyond_its_bounds_stands_still_alone_and_goes_on_when_it_is_under_again() {
    if !Path::new("/usr/bin/python3").exists() {
        println!("not tried: python3 is not here");
        return;
    }
    let Some(cloud) = Cloud::new(600) else { return };
    cloud.until(|said| said.contains(" 200 "));
    for (name, how) in [("calm", "calm"), ("fat", "bytes"), ("many", "files")] {
        cloud.apply(name, how);
    }
    let fat = cloud.journal_says(&["service_held", "fat", "over its quota"]);
    let many = cloud.journal_says(&["service_held", "many", "over its quota"]);
    println!("{fat}\n{many}");
    // Data hang on a service's id.
    let data = |name: &str| {
        let told: serde_json::Value =
            serde_json::from_str(&cloud.read(&["get", "services", name, "-o", "json"])).unwrap();
        let id = |v: &serde_json::Value| v["status"]["id"].as_str().map(str::to_owned);
        let id = id(&told).or_else(|| id(&told["items"][0])).unwrap_or_else(|| panic!("no id: {told}"));
        cloud.disk().join("data/services").join(id).join("data/notes")
    };
    let count = |name: &str| std::fs::read_dir(data(name)).unwrap().count();
    std::thread::sleep(Duration::from_millis(500));
    let before = (count("fat"), count("many"));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((count("fat"), count("many")), before, "they stand still");
    println!("fat stopped at {} MiB of 64, many at {} files of 2000", before.0, before.1);
    assert!(before.0 <= 64 + 256 && before.1 <= 4_000, "{before:?}");
    assert!(cloud.read(&["get", "services", "-o", "json"]).contains("over its quota"), "the status says why");
    let begun = Instant::now();
    while !cloud.read(&["get", "services"]).lines().any(|l| l.starts_with("calm") && l.contains("serving")) {
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", cloud.read(&["get", "services"]));
        std::thread::sleep(Duration::from_millis(200));
    }
    cloud.until(|said| said.contains(" 200 "));
    for entry in std::fs::read_dir(data("fat")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    cloud.journal_says(&["service_let_go", "fat"]);
}
