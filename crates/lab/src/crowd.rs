//! `pumasi lab load`: clients that ask one address, wait for their answers, and ask again.
//!
//! Enters: an address, how many clients, for how long. Leaves: a line each second, and who answered how fast at the end.
//! Always holds: requests are GETs; nobody is asked but the address that was named and hosts of redirects that lead to it.

use crate::load::{self, Gaps, LoadOptions, Planned, Run, Schedule, Workload};
use anyhow::{Context, bail};
use bytes::Bytes;
use http::{StatusCode, Uri};
use rand::rngs::SmallRng;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

pub const USAGE: &str = "\
Usage: pumasi lab load URL [--clients N] [--seconds N] [--think MS] [--host NAME] [-o json]

  --clients N   clients that wait for each answer before they ask again (32)
  --seconds N   how long; Ctrl-C ends it sooner (60)
  --think MS    how long a client pauses after an answer (0)
  --host NAME   the host that is asked for, where it is not that of the URL

Example: pumasi lab load http://127.0.0.1:8080/ --host hello.city-a.example --clients 64";

const CLIENTS_MAX: u32 = 10_000;
/// Each request is remembered until the end.
const SECONDS_MAX: u64 = 900;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crowd {
    target: SocketAddr,
    host: String,
    path: String,
    clients: u32,
    seconds: u64,
    think_ms: u64,
    json: bool,
}

impl Crowd {
    pub fn parse(words: &[&str]) -> anyhow::Result<Self> {
        let (mut url, mut host, mut json) = (None, None, false);
        let (mut clients, mut seconds, mut think_ms) = (32, 60, 0);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().copied().with_context(|| format!("{word} needs a value\n{USAGE}"));
            let number = |text: &str| text.parse::<u64>().with_context(|| format!("{word} {text}: not a number"));
            match *word {
                "--clients" => clients = number(value()?)?,
                "--seconds" => seconds = number(value()?)?,
                "--think" => think_ms = number(value()?)?,
                "--host" => host = Some(value()?.to_owned()),
                "-o" if words.next() == Some(&"json") => json = true,
                "--json" => json = true,
                other if !other.starts_with('-') && url.is_none() => url = Some(other),
                other => bail!("{other:?} is not known\n{USAGE}"),
            }
        }
        let url = url.with_context(|| format!("no address to ask\n{USAGE}"))?;
        let uri: Uri = url.parse().with_context(|| format!("{url} is no address"))?;
        if uri.scheme_str() != Some("http") {
            bail!("{url}: write http://HOST[:PORT]/PATH; this load speaks no TLS");
        }
        let name = uri.host().with_context(|| format!("{url}: no host in it"))?.trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(80);
        let mut found = (name, port).to_socket_addrs().with_context(|| format!("looking up {name}"))?;
        let target = found.next().with_context(|| format!("{name} has no address"))?;
        let clients = u32::try_from(clients).ok().filter(|n| (1..=CLIENTS_MAX).contains(n));
        let Some(clients) = clients else { bail!("--clients: 1 to {CLIENTS_MAX}") };
        if !(1..=SECONDS_MAX).contains(&seconds) {
            bail!("--seconds: 1 to {SECONDS_MAX}");
        }
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        Ok(Self { target, host: host.unwrap_or_else(|| name.to_owned()), path, clients, seconds, think_ms, json })
    }
}

struct Asks(String);

impl Workload for Asks {
    fn plan(&self, _: u32, _: &mut SmallRng) -> Planned {
        Planned::get(self.0.clone())
    }
    fn check(&self, _: &Planned, status: StatusCode, _: &Bytes) -> Result<(), String> {
        if status.is_client_error() { Err(format!("answered {status}")) } else { Ok(()) }
    }
    fn follows(&self, _: &Planned) -> bool {
        false
    }
}

/// The exit code: 0 if anything was answered rightly.
pub async fn run(crowd: Crowd) -> anyhow::Result<u8> {
    let schedule = Schedule::new(Gaps::Even, 1).level("load", Duration::from_secs(crowd.seconds), 0.0);
    let options = LoadOptions {
        users: crowd.clients,
        think: Some(Duration::from_millis(crowd.think_ms)),
        hosts: BTreeMap::new(),
        ..LoadOptions::new(schedule, crowd.target, crowd.host.clone())
    };
    eprintln!("{} clients ask http://{}{} as {}", crowd.clients, crowd.target, crowd.path, crowd.host);
    let running = load::start(options, Arc::new(Asks(crowd.path.clone())))?;
    let mut progress = running.progress();
    let teller = tokio::spawn(async move {
        while progress.changed().await.is_ok() {
            let p = progress.borrow_and_update().clone();
            eprintln!(
                "{:>4} s  {:>6}/s answered, {:>5} refused, {:>4} failed, p50 {:>5.0} ms, p95 {:>5.0} ms",
                p.at.as_secs(),
                p.right,
                p.shed,
                p.failures,
                p.p50_ms,
                p.p95_ms
            );
        }
    });
    // What is under way ends within its time-out.
    let stop = running.stopper();
    let interrupt = tokio::spawn(async move {
        if crate::process::interrupted().await.is_ok() {
            stop.stop();
        }
    });
    let done = running.wait().await?;
    teller.abort();
    interrupt.abort();
    print(&crowd, &done)
}

fn print(crowd: &Crowd, run: &Run) -> anyhow::Result<u8> {
    let all = run.all();
    let took = Duration::from_micros(run.records.iter().map(|r| r.done_us).max().unwrap_or(0));
    let rate = all.right() as f64 / took.as_secs_f64().max(0.001);
    let servers = run.served_by(Duration::ZERO, took);
    if crowd.json {
        let servers: BTreeMap<&str, f64> = servers.iter().map(|(name, share)| (name.as_str(), *share)).collect();
        let value = json!({
            "clients": crowd.clients, "seconds": took.as_secs_f64(), "asked": all.offered(), "right": all.right(),
            "refused": all.shed(), "failed": all.failures(), "right_per_second": rate, "p50_ms": all.latency_ms(0.5),
            "p95_ms": all.latency_ms(0.95), "p99_ms": all.latency_ms(0.99), "served_by": servers, "samples": run.samples,
        });
        println!("{}", serde_json::to_string_pretty(&value)?);
    } else {
        println!(
            "{} asked, {} right ({rate:.0}/s), {} refused, {} failed in {:.1} s",
            all.offered(),
            all.right(),
            all.shed(),
            all.failures(),
            took.as_secs_f64()
        );
        let quantile = |q| all.latency_ms(q);
        println!("p50 {:.0} ms, p95 {:.0} ms, p99 {:.0} ms", quantile(0.5), quantile(0.95), quantile(0.99));
        for (cloud, share) in servers.iter().filter(|(name, _)| !name.is_empty()) {
            println!("answered by {cloud}: {:.0} %", share * 100.0);
        }
        run.samples.iter().take(3).for_each(|s| eprintln!("for example: {}", s.replace(char::is_control, " ")));
    }
    Ok(u8::from(all.right() == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_and_numbers_are_read_and_faults_named() {
        let read = |words: &[&str]| Crowd::parse(words).map_err(|e| format!("{e:#}"));
        let crowd = read(&["http://127.0.0.1:8080/a?b=c", "--clients", "64", "--host", "hello.example"]).unwrap();
        assert_eq!((crowd.target.to_string().as_str(), crowd.path.as_str()), ("127.0.0.1:8080", "/a?b=c"));
        assert_eq!((crowd.host.as_str(), crowd.clients, crowd.seconds), ("hello.example", 64, 60));
        assert_eq!(read(&["http://[::1]:80"]).unwrap().host, "::1");
        for (words, told) in [
            (&[][..], "no address"),
            (&["https://127.0.0.1/"], "no TLS"),
            (&["127.0.0.1:8080"], "http://"),
            (&["http://127.0.0.1/", "--clients"], "needs a value"),
            (&["http://127.0.0.1/", "--clients", "0"], "1 to 10000"),
            (&["http://127.0.0.1/", "--clients", "many"], "not a number"),
            (&["http://127.0.0.1/", "--client", "3"], "not known"),
            (&["http://127.0.0.1/", "--seconds", "99999999"], "--seconds"),
        ] {
            assert!(read(words).unwrap_err().contains(told), "{words:?}: {:?}", read(words));
        }
    }
}
