//! The example services as processes of their own.

#![allow(clippy::unwrap_used)]

use pumasi_lab::example::{notes, tickets::TicketsWorkload};
use pumasi_lab::load::{Gaps, LoadOptions, Outcome, Schedule, fetch, start};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const HOST: &str = "svc.example";

/// Built with the tests: `target/<profile>/examples/lab-app` beside `target/<profile>/deps/<this>`.
fn program() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    here.parent().unwrap().parent().unwrap().join("examples/lab-app")
}

struct App {
    child: Child,
    address: SocketAddr,
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(command: &mut Command, args: &[&str]) -> App {
    let address = pumasi_engine::free_address([127, 0, 0, 1].into()).unwrap();
    let child = command.args(args).env("PORT", address.port().to_string()).stderr(Stdio::null()).spawn().unwrap();
    App { child, address }
}

async fn ready(app: &App) -> Duration {
    let start = Instant::now();
    while fetch(app.address, HOST, "/healthz").await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(10), "never ready");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    start.elapsed()
}

#[tokio::test]
async fn an_example_starts_works_and_stops_in_order() {
    let mut app = spawn(&mut Command::new(program()), &["tickets", "--work", "100"]);
    let took = ready(&app).await;
    println!("ready after {took:?}");
    let schedule = Schedule::new(Gaps::Poisson, 1).level("all", Duration::from_millis(500), 200.0);
    let run = start(LoadOptions::new(schedule, app.address, HOST), Arc::new(TicketsWorkload)).unwrap();
    let run = run.wait().await.unwrap();
    assert_eq!(run.all().right(), run.all().offered(), "{:?}", run.samples);
    assert!(fetch(app.address, HOST, "/nowhere").await.is_err());
    let pid = nix::unistd::Pid::from_raw(i32::try_from(app.child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match app.child.try_wait().unwrap() {
            Some(status) => break assert!(status.success(), "{status}"),
            None => assert!(Instant::now() < deadline, "it does not stop"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_broken_example_breaks_as_asked() {
    let app = spawn(&mut Command::new(program()), &["broken", "--work", "1", "--every", "2"]);
    ready(&app).await;
    let schedule = Schedule::new(Gaps::Even, 1).level("all", Duration::from_millis(201), 100.0);
    let run = start(LoadOptions::new(schedule.clone(), app.address, HOST), Arc::new(TicketsWorkload)).unwrap();
    let all = run.wait().await.unwrap().all();
    assert_eq!((all.right(), all.count(Outcome::Failed)), (10, 10));
    let mut exits = spawn(&mut Command::new(program()), &["broken", "--mode", "exit", "--work", "1"]);
    ready(&exits).await;
    let run = start(LoadOptions::new(schedule, exits.address, HOST), Arc::new(TicketsWorkload)).unwrap();
    assert_eq!(run.wait().await.unwrap().all().right(), 0);
    assert_eq!(exits.child.wait().unwrap().code(), Some(1));
    let at_start =
        Command::new(program()).args(["broken", "--mode", "start", "--listen", "127.0.0.1:0"]).output().unwrap();
    assert!(!at_start.status.success());
    let usage = Command::new(program()).args(["notes", "--listen", "127.0.0.1:0"]).output().unwrap();
    assert!(String::from_utf8_lossy(&usage.stderr).contains("DATA_NOTES"));
}

fn readable_by_all(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        std::fs::set_permissions(entry.unwrap().path(), std::fs::Permissions::from_mode(0o444)).unwrap();
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o555)).unwrap();
}

#[tokio::test]
async fn notes_start_and_answer_reads_on_a_read_only_copy() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("notes");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let writer = spawn(Command::new(program()).env("DATA_NOTES", &data), &["notes", "--work", "1"]);
    ready(&writer).await;
    let workload = Arc::new(notes::NotesWorkload::new(1.0));
    let schedule = Schedule::new(Gaps::Even, 1).level("all", Duration::from_millis(200), 100.0);
    let run = start(LoadOptions::new(schedule.clone(), writer.address, HOST), workload.clone()).unwrap();
    assert_eq!(run.wait().await.unwrap().all().right(), 19);
    let written = notes::export(writer.address, HOST).await.unwrap();
    readable_by_all(&data);

    // Root may write anywhere: there, the reader is another.
    let mut reader = Command::new(program());
    reader.env("DATA_NOTES", &data);
    if nix::unistd::geteuid().is_root() {
        // The build directory need not be open to it.
        let copy = dir.path().join("lab-app");
        std::fs::copy(program(), &copy).unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
        reader = Command::new(copy);
        reader.env("DATA_NOTES", &data).uid(65534).gid(65534);
    }
    let reader = spawn(&mut reader, &["notes", "--work", "1"]);
    ready(&reader).await;
    assert_eq!(notes::export(reader.address, HOST).await.unwrap(), written);
    let run =
        start(LoadOptions::new(schedule, reader.address, HOST), Arc::new(notes::NotesWorkload::new(1.0))).unwrap();
    let run = run.wait().await.unwrap();
    assert_eq!(run.all().count(Outcome::Failed), 19, "a copy takes no writes: {:?}", run.samples);
    drop(reader);
    assert!(workload.audit(&notes::export(writer.address, HOST).await.unwrap()).is_clean());
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// By hand: `cargo test --release -p pumasi-lab --test examples -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
async fn what_the_generator_costs_at_5000_requests_a_second() {
    let app = spawn(&mut Command::new(program()), &["tickets", "--work", "1"]);
    ready(&app).await;
    let schedule = Schedule::new(Gaps::Poisson, 1).level("all", Duration::from_secs(5), 5000.0);
    let run = start(LoadOptions::new(schedule, app.address, HOST), Arc::new(TicketsWorkload)).unwrap();
    let run = run.wait().await.unwrap();
    println!("{:?}\n{:?}", run.validity, run.all().summary());
    assert_eq!(run.all().right(), run.all().offered(), "{:?}", run.samples);
}
