//! Supervision with real processes.

#![allow(clippy::unwrap_used)]

use pumasi_lab::process::{ProcessSpec, Supervisor, clean_stale};
use std::path::Path;
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(10);

fn shell(name: &str, script: &str) -> ProcessSpec {
    ProcessSpec::new(name, "/bin/sh").arg("-c").arg(script)
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !check() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn pid_in(path: &Path) -> u32 {
    eventually("a pid is written", || std::fs::read_to_string(path).is_ok_and(|t| t.ends_with('\n')));
    std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn processes_are_started_stopped_killed_and_restarted() {
    let lab = Supervisor::create(None).unwrap();
    let first = lab
        .start(shell("a", "trap 'echo bye; exit 7' TERM; echo hello $X; while :; do sleep 0.05; done").env("X", "you"))
        .unwrap();
    assert!(lab.start(shell("a", "true")).is_err(), "it runs already");
    eventually("it speaks", || std::fs::read_to_string(lab.log_of("a")).unwrap().contains("hello you"));
    assert_eq!(lab.stop("a", WAIT).await.unwrap().code(), Some(7));
    assert_eq!(lab.pid("a"), None);
    let second = lab.restart("a").unwrap();
    assert_ne!(first, second);
    lab.kill9("a").unwrap();
    assert!(!alive(second));
    let log = std::fs::read_to_string(lab.log_of("a")).unwrap();
    assert!(log.contains("bye"), "{log}");
    lab.start(shell("stubborn", "trap '' TERM; while :; do sleep 0.05; done")).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(lab.stop("stubborn", Duration::from_millis(200)).await.is_err());
    assert!(lab.kill9("nobody").is_err());
}

#[tokio::test]
async fn what_detached_itself_is_found_reaped_and_killed() {
    let lab = Supervisor::create(None).unwrap();
    let dir = lab.dir().to_owned();
    // A daemon whose gateway has its own session and whose instance has no environment either.
    let script = "setsid sleep 301 & echo $! > gateway
        cd instance && env -i setsid /bin/sleep 302 & echo $! > bare
        wait";
    std::fs::create_dir(dir.join("instance")).unwrap();
    lab.start(shell("daemon", script)).unwrap();
    let (gateway, bare) = (pid_in(&dir.join("gateway")), pid_in(&dir.join("bare")));
    lab.kill9("daemon").unwrap();
    assert!(alive(gateway) && alive(bare), "kill -9 of the daemon leaves them");
    eventually("both are found", || {
        let found: Vec<u32> = lab.belonging().iter().map(|f| f.pid).collect();
        found.contains(&gateway) && found.contains(&bare)
    });
    assert_eq!(lab.find(&["sleep", "301"]).len(), 1);
    assert!(lab.kill9_pid(std::process::id()).is_err());
    lab.kill9_pid(gateway).unwrap();
    eventually("an orphan's exit is collected", || !alive(gateway));
    drop(lab);
    eventually("all are gone", || !alive(bare));
    assert!(!dir.exists());
}

#[test]
fn other_processes_are_left_alone() {
    let lab = Supervisor::create(None).unwrap();
    let mut other = std::process::Command::new("sleep").arg("30").spawn().unwrap();
    lab.start(shell("a", "sleep 303")).unwrap();
    assert!(lab.clean().is_empty());
    assert!(lab.belonging().is_empty());
    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn a_killed_lab_is_cleaned_up_by_the_next() {
    let parent = tempfile::tempdir().unwrap();
    let run = parent.path().join("lab-old");
    std::fs::create_dir(&run).unwrap();
    std::fs::write(run.join("lab.pid"), "4194303 1\n").unwrap();
    let live = Supervisor::create(Some(parent.path())).unwrap();
    let mut orphan = std::process::Command::new("sleep").arg("304").env("PUMASI_LAB_RUN", "lab-old").spawn().unwrap();
    eventually("it runs under its mark", || {
        std::fs::read(format!("/proc/{}/environ", orphan.id()))
            .is_ok_and(|e| String::from_utf8_lossy(&e).contains("lab-old"))
    });
    let waiter = std::thread::spawn(move || orphan.wait().unwrap());
    let killed = clean_stale(parent.path());
    assert_eq!(killed.len(), 1, "{killed:?}");
    assert!(!waiter.join().unwrap().success());
    assert!(!run.exists() && live.dir().exists());
}
