//! Keys: what a service's users hold on to, its certificate and the cookies of its gateways, when it moves.
//!
//! City A owns it, city C keeps it ready, city B takes it over and gives it back. Users ask by HTTPS, at whichever cloud they come to, and
//! trust the service's certificate alone. Where it is only kept ready, and after that, nothing of its keys lies open.

use super::overload::{TIMING, WORK, bundle, service, worth_telling};
use crate::cluster::Cluster;
use crate::example::{Kind, work};
use crate::report::{Promise, Report};
use crate::run::{Options, three_clouds};
use crate::story::Story;
use anyhow::{Context, bail, ensure};
use pumasi_api::message::{List, MoveOutlook, StandbyView};
use pumasi_journey::moving::Move;
use pumasi_terms::CloudName;
use pumasi_terms::continuity::Continuity;
use pumasi_terms::tls::Tls;
use rustls::pki_types::{CertificateDer, ServerName};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

const HOME: &str = "city-a";
const HEIR: &str = "city-b";
const KEEPER: &str = "city-c";
const HOST: &str = "notes.city-a.example";
const SECRET: &str = "notes-tls";
const GIVEN_UP: Duration = Duration::from_secs(120);
const ANSWER: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(100);
const COOKIES: &str = "pumasi_gateway_position_cookies_total";

/// A certificate for one host, and its key.
struct Made {
    der: CertificateDer<'static>,
    pem: String,
    /// What of the key a file that holds it open would have in it.
    traces: Vec<Vec<u8>>,
}

impl Made {
    fn new(host: &str) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec![host.to_owned()])?;
        let key = made.signing_key.serialize_pem();
        let lines = key.lines().filter(|l| !l.starts_with('-')).map(|l| l.as_bytes().to_vec());
        let traces = lines.chain([made.signing_key.serialize_der()]).collect();
        Ok(Self { der: made.cert.der().clone(), pem: format!("{}{key}", made.cert.pem()), traces })
    }
}

struct Said {
    status: u16,
    cookie: Option<String>,
    body: String,
}

struct Stage<'a> {
    cluster: Cluster,
    story: &'a Story,
    certificate: Made,
}

pub async fn play(options: &Options, story: &mut Story) -> anyhow::Result<Report> {
    let mut report = Report::new("keys");
    story.chapter("Three clouds found a pact, and serve by HTTPS");
    let mut cluster = Cluster::start_https(&options.executable, &three_clouds(), TIMING).await?;
    super::followed(&mut cluster, options, story, worth_telling)?;
    let dir = bundle(&cluster, &options.executable, options.bundle_mib).await?;
    let iterations = work::calibrate(WORK) / 10;
    cluster.apply(HOME, &service(Kind::Notes, "memos", &dir, iterations)?).await?;
    let mut notes = service(Kind::Notes, "notes", &dir, iterations)?;
    notes.spec.continuity = Continuity { clouds: vec![CloudName::parse(KEEPER)?], ..Continuity::default() };
    notes.spec.tls = Some(Tls { secret: SECRET.parse()?, travels: true });
    let stage = Stage { cluster, story, certificate: Made::new(HOST)? };

    story.chapter("Kept ready at city-c");
    let set = ["secret", "set", SECRET];
    stage.cluster.operate(HOME, &set, Some(&Made::new("elsewhere.example")?.pem)).await?;
    let refused = stage.cluster.apply(HOME, &notes).await.err().map(|e| format!("{e:#}")).unwrap_or_default();
    let named = refused.contains("spec.tls.secret") && refused.contains(HOST);
    report.promise(Promise::holds("a certificate of another host is refused by its field", named, refused, "named"));
    stage.cluster.operate(HOME, &set, Some(&stage.certificate.pem)).await?;
    stage.cluster.apply(HOME, &notes).await?;
    stage.until_kept().await?;
    stage.judge_keeper(&mut report, "while it keeps it ready", true)?;
    let early = stage.https(KEEPER, "GET /count", None, "").await;
    report.promise(holds("the certificate is not shown where the service is only kept ready", early.is_err()));
    for (to, wanted) in [(KEEPER, "has a certificate for each"), (HEIR, "goes along, sealed")] {
        let outlook = stage.outlook(to).await?;
        let told = outlook.risks.join("; ");
        report.promise(Promise::holds(
            &format!("a dry run to {to} tells of certificates"),
            told.contains(wanted),
            told,
            wanted,
        ));
    }

    story.chapter("There and back");
    let first = stage.write(HOME, "one").await?;
    stage.go(HOME, HEIR).await?;
    for cloud in [HEIR, HOME] {
        stage.judge_reader(&mut report, cloud, HEIR, &first, "one").await?;
    }
    stage.judge_strangers(&mut report, &first).await?;
    let second = stage.write(HEIR, "two").await?;
    report.promise(holds("each owner signs with a key of its own", stage.reads(HEIR, &second).await?));
    // The customer renews its certificate where the service is.
    let renewed = Made::new(HOST)?;
    stage.cluster.operate(HEIR, &set, Some(&renewed.pem)).await?;
    let stage = Stage { certificate: renewed, ..stage };
    stage.until_shown(HEIR).await?;
    stage.until_kept().await?;
    stage.go(HEIR, HOME).await?;
    for (cookie, text) in [(&first, "one"), (&second, "two")] {
        for cloud in [HOME, HEIR] {
            stage.judge_reader(&mut report, cloud, HOME, cookie, text).await?;
        }
    }

    story.chapter("Not kept ready any more");
    notes.spec.continuity = Continuity::default();
    stage.cluster.apply(HOME, &notes).await?;
    report.promise(holds("every lease is over", stage.cluster.wait_all_over(GIVEN_UP).await?));
    stage.judge_keeper(&mut report, "after its lease", false)?;
    super::stay(options, story, &stage.cluster, &report).await?;
    Ok(report)
}

fn holds(name: &str, kept: bool) -> Promise {
    Promise::holds(name, kept, if kept { "so it is" } else { "it is not so" }, "so it is")
}

impl Stage<'_> {
    async fn until_kept(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            for owner in [HOME, HEIR] {
                let all: List<StandbyView> = self.cluster.client(owner)?.get("/v1/continuity").await?;
                if all.items.iter().any(|s| s.service.as_str() == "notes" && s.state == "kept") {
                    return Ok(());
                }
            }
            ensure!(begun.elapsed() < GIVEN_UP, "notes is kept ready nowhere");
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn until_shown(&self, cloud: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.https(cloud, "GET /count", None, "").await.is_err() {
            ensure!(begun.elapsed() < GIVEN_UP, "{cloud} does not show the renewed certificate");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    async fn outlook(&self, to: &str) -> anyhow::Result<MoveOutlook> {
        let asked = serde_json::json!({"to": to, "dry_run": true});
        Ok(self.cluster.client(HOME)?.post("/v1/services/notes/move", &asked).await?)
    }

    async fn go(&self, from: &str, to: &str) -> anyhow::Result<()> {
        let words = ["move", "service", "notes", "--to", to, "--within", "2m", "-o", "json"];
        let said = self.cluster.operate(from, &words, None).await?;
        let done: Move = serde_json::from_str(&said).with_context(|| said.clone())?;
        ensure!(!done.is_open() && done.pause_ms.is_some(), "notes did not move to {to}: {done:?}");
        self.story.tell(from, "moved", format!("notes to {to}: writers waited {:?} ms", done.pause_ms));
        Ok(())
    }

    /// A user of the service's own host who trusts its certificate and nothing else.
    async fn https(&self, cloud: &str, what: &str, cookie: Option<&str>, body: &str) -> anyhow::Result<Said> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.der.clone())?;
        let config = rustls::ClientConfig::builder_with_provider(pumasi_trust::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = tokio::net::TcpStream::connect(self.cluster.https(cloud)?).await?;
        let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(HOST)?, stream).await?;
        ask(stream, HOST, what, cookie, body).await
    }

    async fn write(&self, cloud: &str, text: &str) -> anyhow::Result<String> {
        let said = self.https(cloud, "POST /notes", None, &note(text)).await?;
        ensure!(said.status == 201, "{cloud} did not take a note: {} {}", said.status, said.body);
        said.cookie.context("who wrote takes a position home")
    }

    /// Requests at a cloud's gateway whose position was read, and was not.
    async fn counted(&self, cloud: &str) -> anyhow::Result<[u64; 2]> {
        let text = self.cluster.client(cloud)?.text("/metrics").await?;
        let of = |how: &str| {
            let name = format!("{COOKIES}{{signature=\"{how}\"}} ");
            text.lines().find_map(|l| l.strip_prefix(&name)).and_then(|n| n.parse::<u64>().ok())
        };
        of("read").zip(of("not_read")).map(|(a, b)| [a, b]).context("the gateway counts positions")
    }

    async fn reads(&self, cloud: &str, cookie: &str) -> anyhow::Result<bool> {
        let before = self.counted(cloud).await?;
        self.https(cloud, "GET /count", Some(cookie), "").await?;
        let after = self.counted(cloud).await?;
        Ok(after == [before[0] + 1, before[1]])
    }

    /// Comes in at `at` with what it took home, and reads what it wrote; the owner knows how far it is.
    async fn judge_reader(
        &self,
        report: &mut Report,
        at: &str,
        owner: &str,
        cookie: &str,
        text: &str,
    ) -> anyhow::Result<()> {
        let before = self.counted(owner).await?;
        let said = self.https(at, "GET /notes/u", Some(cookie), "").await?;
        let after = self.counted(owner).await?;
        let kept =
            said.status == 200 && said.body.contains(&format!("\"{text}\"")) && after == [before[0] + 1, before[1]];
        let told = format!("{} at {at}, cookies {before:?} then {after:?}", said.status);
        let name = format!("who wrote \"{text}\" is known and reads it at {at}, {owner} owning");
        report.promise(Promise::holds(&name, kept, told, "read, one cookie more"));
        Ok(())
    }

    async fn judge_strangers(&self, report: &mut Report, good: &str) -> anyhow::Result<()> {
        let stream = tokio::net::TcpStream::connect(self.cluster.place(HOME)?.users).await?;
        let other = ask(stream, "memos.city-a.example", "POST /notes", None, &note("memo")).await?;
        let other = other.cookie.context("memos gives positions out as well")?;
        for (what, cookie) in [("forged", good.replace("=1.", "=1.9")), ("another service's", other)] {
            let before = self.counted(HEIR).await?;
            let said = self.https(HEIR, "GET /count", Some(&cookie), "").await?;
            let after = self.counted(HEIR).await?;
            let kept = said.status == 200 && after == [before[0], before[1] + 1];
            let told = format!("{}, cookies {before:?} then {after:?}", said.status);
            report.promise(Promise::holds(&format!("a cookie that is {what} counts as none"), kept, told, "not read"));
        }
        Ok(())
    }

    /// At the cloud that keeps it ready and never owned it: keys of leases, and files with the certificate's key in them.
    fn judge_keeper(&self, report: &mut Report, when: &str, kept: bool) -> anyhow::Result<()> {
        let dir = self.cluster.dir(KEEPER).join("data");
        let found = files(&dir)?;
        let keys = found.iter().filter(|p| p.parent().is_some_and(|d| d.ends_with("secrets/leases"))).count();
        report.promise(Promise::holds(
            &format!("what came sealed opens at {KEEPER} {when}"),
            (keys > 0) == kept,
            format!("{keys} keys of leases"),
            if kept { "one at least" } else { "none" },
        ));
        let mut open = 0;
        for path in &found {
            let bytes = std::fs::read(path).unwrap_or_default();
            let has = |trace: &Vec<u8>| bytes.windows(trace.len()).any(|w| w == trace.as_slice());
            open += u64::from(self.certificate.traces.iter().any(has));
        }
        report.promise(Promise::none(&format!("files with the certificate's key at {KEEPER} {when}"), open));
        Ok(())
    }
}

fn note(text: &str) -> String {
    serde_json::json!({"user": "u", "text": text}).to_string()
}

/// Everything below a directory but what it links to.
fn files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => found.extend(files(&entry.path())?),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    Ok(found)
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    host: &str,
    what: &str,
    cookie: Option<&str>,
    body: &str,
) -> anyhow::Result<Said> {
    let cookie = cookie.map(|c| format!("Cookie: {c}\r\n")).unwrap_or_default();
    let head = format!(
        "{what} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n{cookie}Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut bytes = Vec::new();
    tokio::time::timeout(ANSWER, stream.read_to_end(&mut bytes)).await.context("no answer in time")??;
    let text = String::from_utf8_lossy(&bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { bail!("no answer to {what}: {text:?}") };
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("an answer has a status")?;
    let field = head.lines().find_map(|l| l.strip_prefix("set-cookie: pumasi_pos="));
    let cookie = field.and_then(|f| f.split(';').next()).map(|value| format!("pumasi_pos={value}"));
    Ok(Said { status, cookie, body: body.to_owned() })
}
