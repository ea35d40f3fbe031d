//! Small honest applications for the lab, as modes of one binary (`pumasi lab-app <kind> [options]`).
//!
//! Enters: `$HOST` and `$PORT`, or `--listen`; the kind's options, `$DATA_NOTES` or `$DATA_FILES` where it keeps state.
//! Leaves: HTTP/1.1 on loopback. Always holds: nothing sleeps to look busy; capacity is bounded by work and by the quota of the
//! engine; every answer can be checked by the load generator.

mod bad;
pub mod diary;
pub mod files;
mod http;
pub mod notes;
pub mod tickets;
pub mod work;

use pumasi_terms::service::{
    Application, BundleRef, Dataset, DatasetKind, DatasetMode, HomeInstances, Instances, KIND, Platform, Probe,
    Routing, Service, ServiceSpec,
};
use pumasi_terms::sync::SYNC_WAIT_MS;
use pumasi_terms::{API_VERSION, DatasetName, Document, Metadata, Resources, ServiceName};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// Why an example did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ExampleError {
    #[error("{0}")]
    Usage(String),
    #[error("listening on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("starting: {0}")]
    Start(#[source] io::Error),
    #[error("opening {path}: {source}")]
    Database { path: PathBuf, source: rusqlite::Error },
    #[error("the broken example ends at its start, as asked")]
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Stateless work: sells seats.
    Tickets,
    /// SQLite: notes of users.
    Notes,
    /// Files of users.
    Files,
    /// Files, written without being asked.
    Diary,
    /// Answers 500, exits or hangs.
    Broken,
    /// `tickets`, with one request in a thousand long.
    SlowOne,
    /// `notes`, where writing is the work.
    Writer,
}

impl Kind {
    pub const ALL: [Kind; 7] =
        [Kind::Tickets, Kind::Notes, Kind::Files, Kind::Diary, Kind::Broken, Kind::SlowOne, Kind::Writer];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Tickets => "tickets",
            Kind::Notes => "notes",
            Kind::Files => "files",
            Kind::Diary => "diary",
            Kind::Broken => "broken",
            Kind::SlowOne => "slow-one",
            Kind::Writer => "writer",
        }
    }
}

impl std::str::FromStr for Kind {
    type Err = ExampleError;
    fn from_str(s: &str) -> Result<Self, ExampleError> {
        let known = || Kind::ALL.map(Kind::name).join(", ");
        let find = Kind::ALL.into_iter().find(|k| k.name() == s);
        find.ok_or_else(|| ExampleError::Usage(format!("no example {s:?}; there are {}", known())))
    }
}

/// How `broken` breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breakage {
    Answer500,
    Exit,
    Hang,
    /// Ends before it listens.
    AtStart,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub listen: SocketAddr,
    /// Hash iterations for each request that works.
    pub work: u32,
    pub workers: usize,
    /// Where `notes`, `writer`, `files` and `diary` keep their state.
    pub data: Option<PathBuf>,
    pub breakage: Breakage,
    /// `broken`: every so many-th request breaks. `slow-one`: is slow.
    pub every: u64,
    /// Iterations of a slow request.
    pub slow_work: u32,
}

pub const USAGE: &str = "options: [--listen IP:PORT] [--work N] [--workers N] [--data DIR] [--every N] [--slow-work N] \
[--mode 500|exit|hang|start]; without --listen it takes $HOST:$PORT (127.0.0.1), without --data $DATA_NOTES or $DATA_FILES";

impl Options {
    pub fn parse(kind: Kind, args: &[String], env: impl Fn(&str) -> Option<String>) -> Result<Self, ExampleError> {
        let usage = |what: String| ExampleError::Usage(format!("{}: {what}; {USAGE}", kind.name()));
        let data_name = match kind {
            Kind::Notes | Kind::Writer => Some("DATA_NOTES"),
            Kind::Files | Kind::Diary => Some("DATA_FILES"),
            _ => None,
        };
        let mut options = Options {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            work: if matches!(kind, Kind::Files | Kind::Diary) { 0 } else { work::DEFAULT_ITERATIONS },
            workers: 4,
            data: data_name.and_then(&env).map(PathBuf::from),
            breakage: Breakage::Answer500,
            every: if kind == Kind::SlowOne { 1000 } else { 1 },
            slow_work: 250 * work::DEFAULT_ITERATIONS,
        };
        let mut listen = None;
        let mut args = args.iter();
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| usage(format!("{name} needs a value")))?;
            let bad = |_| usage(format!("{name} cannot be {value:?}"));
            match name.as_str() {
                "--listen" => listen = Some(value.parse().map_err(|_| usage(format!("--listen cannot be {value:?}")))?),
                "--work" => options.work = value.parse().map_err(bad)?,
                "--workers" => options.workers = value.parse::<usize>().map_err(bad)?.clamp(1, 64),
                "--every" => options.every = value.parse::<u64>().map_err(bad)?.max(1),
                "--slow-work" => options.slow_work = value.parse().map_err(bad)?,
                "--data" => options.data = Some(PathBuf::from(value)),
                "--mode" => {
                    options.breakage = match value.as_str() {
                        "500" => Breakage::Answer500,
                        "exit" => Breakage::Exit,
                        "hang" => Breakage::Hang,
                        "start" => Breakage::AtStart,
                        _ => return Err(usage(format!("--mode cannot be {value:?}"))),
                    }
                }
                _ => return Err(usage(format!("no option {name}"))),
            }
        }
        options.listen = match listen {
            Some(listen) => listen,
            None => {
                let port = env("PORT").ok_or_else(|| usage("neither --listen nor $PORT".into()))?;
                let number = port.parse::<u16>().map_err(|_| usage(format!("$PORT cannot be {port:?}")))?;
                let host = env("HOST").unwrap_or_else(|| Ipv4Addr::LOCALHOST.to_string());
                let ip: IpAddr =
                    host.parse().map_err(|_| usage(format!("$HOST cannot be {host:?}; give an address")))?;
                (ip, number).into()
            }
        };
        if let (Some(name), None) = (data_name, &options.data) {
            return Err(usage(format!("neither --data nor ${name}")));
        }
        Ok(options)
    }
}

fn app(kind: Kind, options: &Options) -> Result<Arc<dyn http::App>, ExampleError> {
    let data = || options.data.clone().ok_or_else(|| ExampleError::Usage(format!("no data directory; {USAGE}")));
    Ok(match kind {
        Kind::Tickets => Arc::new(tickets::Tickets::new(options.work)),
        Kind::SlowOne => Arc::new(bad::SlowOne::new(options.work, options.slow_work, options.every)),
        Kind::Broken => Arc::new(bad::Broken::new(options.work, options.breakage, options.every)?),
        Kind::Notes => Arc::new(notes::Notes::open(&data()?, options.work, 0)?),
        Kind::Writer => Arc::new(notes::Notes::open(&data()?, 0, options.work)?),
        Kind::Files => Arc::new(files::Files::open(&data()?, options.work)?),
        Kind::Diary => Arc::new(diary::Diary::open(&data()?)?),
    })
}

/// Runs the example as this whole process, until SIGTERM or SIGINT. `args` are those after the kind.
pub fn run(kind: &str, args: &[String]) -> Result<(), ExampleError> {
    let kind: Kind = kind.parse()?;
    let options = Options::parse(kind, args, |name| std::env::var(name).ok())?;
    http::run(app(kind, &options)?, kind.name(), options.listen, options.workers)
}

/// Serves the example inside this process, on the current runtime, until `stop`; for tests.
pub async fn serve(
    kind: Kind,
    options: &Options,
    listener: tokio::net::TcpListener,
    stop: impl Future<Output = ()>,
) -> Result<(), ExampleError> {
    http::serve(app(kind, options)?, listener, stop).await;
    Ok(())
}

/// What a scenario chooses for an example's manifest; the rest has the defaults of the Service document.
#[derive(Debug, Clone)]
pub struct ManifestOptions {
    pub kind: Kind,
    pub name: ServiceName,
    pub host: String,
    /// Directory of the bundle, see [`crate::bundle`].
    pub bundle: PathBuf,
    pub resources: Resources,
    pub home_instances: u32,
    /// Options after the kind, as `["--work", "25000"]`.
    pub args: Vec<String>,
}

/// The Service document of an example; change what the scenario needs. As JSON it is a manifest too.
pub fn manifest(options: &ManifestOptions) -> Result<Service, pumasi_terms::ids::BadId> {
    let dataset = match options.kind {
        Kind::Notes | Kind::Writer => Some(("notes", DatasetKind::Sqlite, Some("notes.db".to_owned()))),
        Kind::Files | Kind::Diary => Some(("files", DatasetKind::Files, None)),
        _ => None,
    };
    let mut datasets = Vec::new();
    if let Some((name, kind, file)) = dataset {
        let (mode, rpo_ms, bytes_max, files_max) = (DatasetMode::Async, 1_000, 4 << 30, 250_000);
        let (on_standby_loss, reads, sync_wait_ms) = (Default::default(), Default::default(), SYNC_WAIT_MS);
        let name = DatasetName::parse(name)?;
        datasets.push(Dataset {
            name,
            kind,
            file,
            mode,
            on_standby_loss,
            reads,
            sync_wait_ms,
            rpo_ms,
            bytes_max,
            files_max,
        });
    }
    let command = [format!("${{BUNDLE}}/{}", crate::bundle::PROGRAM), "lab-app".into(), options.kind.name().into()];
    let application = Application {
        bundle: BundleRef::Path(options.bundle.display().to_string()),
        command: command.into_iter().chain(options.args.iter().cloned()).collect(),
        // PORT, HOST and DATA_<DATASET> are the engine's to set.
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        platform: Platform { arch: std::env::consts::ARCH.into(), ..Platform::default() },
        resources: options.resources,
        protocol: Default::default(),
        readiness: Probe { path: "/healthz".into(), interval_ms: 50, ..Probe::default() },
        liveness: None,
        stop_grace_ms: 5_000,
        egress: Vec::new(),
    };
    let spec = ServiceSpec {
        hosts: vec![options.host.clone()],
        application,
        instances: Instances { home: HomeInstances::fixed(options.home_instances) },
        datasets,
        objective: Default::default(),
        routing: Routing { user_cookie: Some(crate::load::USER_COOKIE.into()), ..Routing::default() },
        borrowing: Default::default(),
        priority: 100,
        tls: None,
        identity: None,
        continuity: Default::default(),
        recovery_class: Default::default(),
    };
    let metadata = Metadata::new(options.name.clone());
    Ok(Document { api_version: API_VERSION.into(), kind: KIND.into(), metadata, spec })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(kind: Kind, args: &[&str]) -> Result<Options, ExampleError> {
        let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
        Options::parse(kind, &args, |name| (name == "PORT").then(|| "4711".to_owned()))
    }

    #[test]
    fn options_come_from_arguments_and_environment() {
        let read = options(Kind::Tickets, &["--work", "7"]).unwrap();
        assert_eq!((read.listen.port(), read.work), (4711, 7));
        for bad in [&["--work"][..], &["--work", "x"], &["--wrok", "1"], &["--listen", "here"]] {
            assert!(options(Kind::Tickets, bad).is_err(), "{bad:?}");
        }
        assert!(options(Kind::Notes, &[]).unwrap_err().to_string().contains("DATA_NOTES"));
        assert!("nots".parse::<Kind>().unwrap_err().to_string().contains("notes"));
    }

    #[test]
    fn every_manifest_is_one_that_the_daemon_reads() {
        for kind in Kind::ALL {
            let made = manifest(&ManifestOptions {
                kind,
                name: ServiceName::parse(kind.name()).unwrap(),
                host: format!("{}.example", kind.name()),
                bundle: "/b".into(),
                resources: Resources { cpu_millis: 250, memory_mib: 64 },
                home_instances: 2,
                args: vec!["--work".into(), "9".into()],
            })
            .unwrap();
            let text = serde_json::to_string_pretty(&made).unwrap();
            assert_eq!(pumasi_terms::manifest::services("m.json", &text).unwrap(), vec![made]);
        }
    }
}
