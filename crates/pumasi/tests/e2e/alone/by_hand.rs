//! A newcomer's path by the README alone: the lab that its first command starts, and "A cloud by hand", word for word: two clouds, a first
//! deployment, a broken one, a load that makes them borrow, the bill, the end. Nothing that is not in the README is typed, and how long each
//! step took is told.

use crate::played;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const README: &str = include_str!("../../../../../README.md");
const SECTION: &str = "## A cloud by hand";
/// What is by hand, on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(240);

/// The blocks that are to be typed, in order.
fn blocks() -> Vec<&'static str> {
    let (_, rest) = README.split_once(SECTION).expect("the README has the section");
    let section = rest.split("\n## ").next().unwrap_or(rest);
    section.split("```sh\n").skip(1).filter_map(|b| b.split("```").next()).collect()
}

/// Whatever of the two clouds still runs: in their directory, or with it in its command line.
fn left(dir: &Path) -> Vec<(i32, String)> {
    let dir = dir.display().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let of = |e: std::fs::DirEntry| {
        let pid: i32 = e.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(e.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let cwd = std::fs::read_link(e.path().join("cwd")).unwrap_or_default();
        (line.contains(&dir) || cwd.starts_with(&dir)).then_some((pid, line))
    };
    processes.filter_map(of).collect()
}

struct Cleared<'a>(&'a Path);

impl Drop for Cleared<'_> {
    fn drop(&mut self) {
        for (pid, _) in left(self.0) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

#[test]
fn the_readme_leads_from_nothing_to_a_bill_and_back() {
    let _stage = played::alone();
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("by-hand");
    let bin = home.path().join("bin");
    [&dir, &bin].iter().for_each(|d| std::fs::create_dir(d).unwrap());
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pumasi"), bin.join("pumasi")).unwrap();
    let _cleared = Cleared(&dir);
    let blocks = blocks();
    assert!(blocks.len() >= 6, "the README has changed: {} blocks", blocks.len());
    let mut script = "set -euo pipefail\n".to_owned();
    for (n, block) in blocks.iter().enumerate() {
        script.push_str(&format!("echo \"#### {n} at $(date +%s%3N)\"\n{block}\n"));
    }
    script.push_str("echo \"#### end at $(date +%s%3N)\"\n");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let (out, err) = (home.path().join("out"), home.path().join("err"));
    let mut shell = Command::new("bash")
        .args(["-c", &script])
        .current_dir(&dir)
        .env("PATH", path)
        .env("PUMASI_CONTEXTS", home.path().join("contexts.toml"))
        .env_remove("PUMASI_CONFIG")
        .env_remove("PUMASI_TOKEN")
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&out).unwrap())
        .stderr(std::fs::File::create(&err).unwrap())
        .process_group(0)
        .spawn()
        .unwrap();
    let begun = std::time::Instant::now();
    let status = loop {
        if let Some(status) = shell.try_wait().unwrap() {
            break Some(status);
        }
        if begun.elapsed() > TIMEOUT {
            let _ = shell.kill();
            break None;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let read = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    let (out, err) = (read(&out), read(&err));
    let logs = ["a", "b"].map(|cloud| std::fs::read_to_string(dir.join(cloud).join("log")).unwrap_or_default());
    let told = format!("{status:?} after {:?}\n{out}\n{err}\n{}", begun.elapsed(), logs.join("\n"));
    assert!(status.is_some_and(|s| s.success()), "{told}");
    judge(&out, &err, &told);
    // What was started was told to end, and has.
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while !left(&dir).is_empty() && std::time::Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(left(&dir), [], "still there\n{told}");
    tell_times(&out, &blocks);
}

/// Each block by its first command that does something.
fn tell_times(out: &str, blocks: &[&str]) {
    let at = |line: &str| line.rsplit(' ').next()?.parse::<u64>().ok();
    let times: Vec<u64> = out.lines().filter(|l| l.starts_with("#### ")).filter_map(at).collect();
    for (block, span) in blocks.iter().zip(times.windows(2)) {
        let step = block.lines().rfind(|l| l.starts_with("pumasi ")).unwrap_or_default();
        eprintln!("{:>6} ms  up to: {step}", span[1] - span[0]);
    }
    if let (Some(first), Some(last)) = (times.first(), times.last()) {
        eprintln!("{:>6} ms  by hand, in all", last - first);
    }
}

/// What the README's first command starts: three clouds, a campaign at a key, somebody seen borrowing, a clean end.
#[test]
fn the_lab_borrows_at_a_key_and_ends_clean() {
    let _stage = played::alone();
    let first = README.lines().find_map(|l| l.trim().strip_prefix("cargo run --release -- ")).expect("a first command");
    let words: Vec<&str> = first.split_whitespace().collect();
    assert_eq!(words, ["lab"], "the README begins with another command");
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let begun = std::time::Instant::now();
    let mut lab = Command::new(env!("CARGO_BIN_EXE_pumasi"))
        .args(words)
        .current_dir(home.path())
        .stdin(Stdio::piped())
        .stdout(std::fs::File::create(&out).unwrap())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(&out).unwrap_or_default();
    let until = |what: &str, word: &str| {
        while !said().contains(word) {
            assert!(begun.elapsed() < Duration::from_secs(150), "{what} is not told: no {word:?} in\n{}", said());
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("{:>6} ms  {what}", begun.elapsed().as_millis());
    };
    until("three clouds and their consoles", "Ctrl-C ends it");
    std::io::Write::write_all(lab.stdin.as_mut().unwrap(), b"c\n").unwrap();
    until("a lease is signed", "lease_signed");
    until("the borrowed instances serve", "switchover");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(lab.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let status = lab.wait().unwrap();
    assert!(status.success(), "{status:?}\n{}", said());
    eprintln!("{:>6} ms  ended", begun.elapsed().as_millis());
    // Its directory stands in what it told of it, and in the command line of all that it started.
    let dir = said()
        .lines()
        .find_map(|l| Some(l.trim().strip_prefix("pumasi --config ")?.split("/city-a").next()?.to_owned()));
    let dir = dir.expect("it tells where it is");
    assert_eq!(left(Path::new(&dir)), [], "still there");
    assert!(!Path::new(&dir).exists(), "{dir} is left");
}

/// What somebody would look for on the screen.
fn judge(out: &str, err: &str, told: &str) {
    let both = format!("{out}{err}");
    for (text, why) in [
        ("hello from ", "the first answer"),
        ("-    bundle: blake3:", "what a new version would change"),
        ("no database here", "why the broken version does not start"),
        ("generation 1 goes on serving", "that the old one serves on"),
        ("back to generation 1", "the way back"),
        ("answered by city-b", "that a part of the load was answered by the other cloud"),
        ("EUR", "prices in their currency"),
        ("cloud/city-b stopped, with everything", "the end"),
    ] {
        assert!(both.contains(text), "{why} is not told: no {text:?} in\n{told}");
    }
    // The last bills: settled on both sides.
    let end = out.rsplit("#### ").nth(1).unwrap_or_default();
    assert!(end.contains("rented") && end.contains("lent") && end.matches("settled").count() >= 2, "{told}");
    assert!(!end.contains(" runs "), "a lease is left\n{told}");
}
