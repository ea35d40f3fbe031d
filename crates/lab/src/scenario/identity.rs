//! Same ID: users of a service sign in on its own host, and are known by the same name wherever it is served.
//!
//! City A owns a service whose users sign in; city B keeps it ready. Users sign up, the application hears who they are and nobody else
//! can say so. Everything of city A is killed, a person takes over at city B: sessions and passwords hold there, and who was signed out or
//! deleted stays so. City A comes back, gets the service by a move, and knows the same users.

mod browser;

use super::overload::{TIMING, WORK, bundle, service, worth_telling};
use crate::cluster::Cluster;
use crate::example::{Kind, work};
use crate::report::{Promise, Report};
use crate::run::{Options, three_clouds};
use crate::story::Story;
use anyhow::{Context, ensure};
use browser::Browser;
use http::StatusCode;
use nix::sys::signal::Signal;
use pumasi_api::message::{List, StandbyView};
use pumasi_terms::CloudName;
use pumasi_terms::continuity::Continuity;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const HOME: &str = "city-a";
const HEIR: &str = "city-b";
/// Browsers take it for as safe as TLS.
const HOST: &str = "notes.localhost";
const PASSWORD: &str = "correct horse battery staple";
/// An address may make ten.
const USERS: usize = 8;
const SLACK: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
/// Who is signed out is let in nowhere for longer.
const OUT_WITHIN: Duration = Duration::from_secs(5);

struct Stage {
    cluster: Cluster,
    users: Vec<(String, Browser)>,
}

pub async fn play(options: &Options, story: &mut Story) -> anyhow::Result<Report> {
    let mut report = Report::new("identity");
    story.chapter("A service whose users sign in");
    let mut cluster = Cluster::start(&options.executable, &three_clouds()[..2], TIMING).await?;
    let _chronicle = super::followed(&mut cluster, options, story, worth_telling)?;
    let dir = bundle(&cluster, &options.executable, options.bundle_mib).await?;
    let mut notes = service(Kind::Notes, "notes", &dir, work::calibrate(WORK) / 10)?;
    notes.spec.hosts = vec![HOST.to_owned()];
    notes.spec.continuity = Continuity { clouds: vec![CloudName::parse(HEIR)?], ..Continuity::default() };
    notes.spec.identity = Some(serde_json::from_value(serde_json::json!({
        "gate": "required", "sign_up": "open", "hashes": "hot", "basic": true,
        "headers": {"login": "X-Remote-User", "subject": "X-Remote-Subject"}
    }))?);
    notes.spec.complete();
    cluster.apply(HOME, &notes).await?;
    let mut stage = Stage { cluster, users: Vec::new() };
    stage.until("the sign-in pages answer", || stage.pages_answer()).await?;
    stage.until("city-b keeps it ready", || stage.is_kept()).await?;

    strangers(&stage, &mut report).await?;
    let subjects = stage.sign_up().await?;
    story.tell("users", "signed up", format!("{} of them", stage.users.len()));
    forged(&mut stage, &mut report).await?;

    story.chapter("One is signed out, one is deleted");
    let mut out = stage.users.pop().context("no users")?;
    let kept = out.1.clone();
    out.1.sign_out(stage.at(HOME)?).await?;
    let begun = Instant::now();
    let mut still = kept.clone();
    while still.whoami(stage.at(HOME)?).await?.is_ok() && begun.elapsed() < OUT_WITHIN * 4 {
        tokio::time::sleep(LOOK).await;
    }
    let took = begun.elapsed();
    report.promise(holds("a session that was ended is let in no more", took < OUT_WITHIN, format!("{took:?}")));
    let mut gone = stage.users.pop().context("no users")?;
    stage.cluster.operate(HOME, &["user", "delete", "notes", &gone.0], None).await?;
    let refused = gone.1.whoami(stage.at(HOME)?).await?.is_err();
    report.promise(holds("a deleted user is signed in nowhere", refused, gone.0.clone()));
    // What was acknowledged is at city-b within the copies' lag.
    tokio::time::sleep(Duration::from_secs(2)).await;

    story.chapter("City A is gone, a person takes over at city B");
    let ended = stage.cluster.signal_all(HOME, Signal::SIGKILL);
    story.tell(HOME, "killed", format!("all of it, {} processes", ended.len()));
    let begun = Instant::now();
    let words = ["pact", "takeover", "--lost", HOME, "--i-have-fenced-it", "--why", "its site burnt"];
    stage.cluster.operate(HEIR, &words, None).await?;
    stage.until("city-b knows a user", || stage.knows(HEIR, 0)).await?;
    report.figure(
        "from the operator's word to the first user known",
        format!("{} ms", begun.elapsed().as_millis()),
        "",
    );
    let same = stage.who(HEIR).await?;
    let told = format!("{same:?} instead of {subjects:?}");
    report.promise(holds("every session holds at city-b, by the same name and subject", same == subjects, told));
    let at = stage.at(HEIR)?;
    let refused = still.whoami(at).await?.is_err() && gone.1.whoami(at).await?.is_err();
    report.promise(holds("who was signed out or deleted stays so at city-b", refused, String::new()));
    let mut again = Browser::new(HOST);
    let page = again.sign_in(at, &stage.users[0].0, PASSWORD).await?;
    let by = again.whoami(at).await?;
    let known = by.as_ref().ok() == subjects.first();
    report.promise(holds("a new sign-in at city-b is the same user", known, format!("{} {by:?}", page.status)));
    let page = Browser::new(HOST).sign_in(at, &gone.0, PASSWORD).await?;
    let refused = page.status == StatusCode::FORBIDDEN;
    report.promise(holds("a deleted user does not sign in there", refused, page.status.to_string()));
    let mut late = Browser::new(HOST);
    late.sign_up(at, "/.pumasi/sign-up", "late", PASSWORD).await?;

    story.chapter("City A is back, and gets the service by a move");
    stage.cluster.start_daemon(HOME)?;
    stage.cluster.wait_up(HOME).await?;
    stage.until("city-a forwards what users ask", || stage.knows(HOME, 0)).await?;
    stage.cluster.operate(HEIR, &["move", "service", "notes", "--to", HOME], None).await?;
    stage.until("city-a knows a user itself", || stage.knows(HOME, 0)).await?;
    let same = stage.who(HOME).await?;
    report.promise(holds("every session holds after the move back", same == subjects, format!("{same:?}")));
    let at = stage.at(HOME)?;
    let known = late.whoami(at).await?.is_ok();
    report.promise(holds("who signed up at city-b is a user at city-a", known, String::new()));
    let refused = still.whoami(at).await?.is_err() && gone.1.whoami(at).await?.is_err();
    report.promise(holds("who was signed out or deleted stays so", refused, String::new()));
    super::stay(options, story, &stage.cluster, &report).await?;
    Ok(report)
}

/// Nobody who is not signed in gets to the application.
async fn strangers(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let at = stage.at(HOME)?;
    let mut stranger = Browser::new(HOST);
    let program = stranger.whoami(at).await?;
    let refused = program == Err(StatusCode::UNAUTHORIZED);
    report.promise(holds("a program that is not signed in is told so", refused, format!("{program:?}")));
    let page = stranger.get(at, "/notes/x?y=1").await?;
    let led = page.location == "/.pumasi/sign-in?return=%2Fnotes%2Fx%3Fy%3D1";
    report.promise(holds("a person is led to the page where one signs in", led, page.location));
    let (name, value) = Browser::basic("minjun", "guess");
    let guessed = stranger.whoami_with(at, &[(name.as_str(), &value)]).await?;
    let refused = guessed == Err(StatusCode::UNAUTHORIZED);
    report.promise(holds("a guessed app password is none", refused, format!("{guessed:?}")));
    Ok(())
}

/// Who a user is, the application hears from the gateway alone, however a field is spelled.
async fn forged(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    let at = stage.at(HOME)?;
    let (_, browser) = stage.users.first_mut().context("no users")?;
    let honest = browser.whoami(at).await?;
    let spellings = [
        "X-Remote-User",
        "x-remote-user",
        "X_Remote_User",
        "X-Remote_User",
        "x_remote-user",
        "X_REMOTE_USER",
        "Remote-User",
        "REMOTE_USER",
        "X-Remote-Subject",
        "x_remote_subject",
    ];
    let mut wrong = Vec::new();
    for name in spellings {
        let told = browser.whoami_with(at, &[(name, "admin"), (name, "root")]).await?;
        if told != honest {
            wrong.push(format!("{name}: {told:?}"));
        }
    }
    let told = browser.whoami_with(at, &[("connection", "X-Remote-User, x_remote_user")]).await?;
    if told != honest {
        wrong.push(format!("connection: {told:?}"));
    }
    report.promise(holds(
        "nobody else says who a user is",
        wrong.is_empty(),
        format!("{wrong:?}, honestly {honest:?}"),
    ));
    Ok(())
}

fn holds(name: &str, kept: bool, told: String) -> Promise {
    Promise::holds(name, kept, told, "so it is")
}

impl Stage {
    fn at(&self, cloud: &str) -> anyhow::Result<SocketAddr> {
        Ok(self.cluster.place(cloud)?.users)
    }

    async fn until<F: Future<Output = anyhow::Result<()>>>(
        &self,
        what: &str,
        mut fits: impl FnMut() -> F,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            match fits().await {
                Ok(()) => return Ok(()),
                Err(e) => ensure!(begun.elapsed() < SLACK, "not within {SLACK:?}: {what}: {e:#}"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn pages_answer(&self) -> anyhow::Result<()> {
        let page = Browser::new(HOST).get(self.at(HOME)?, "/.pumasi/sign-in").await?;
        ensure!(page.status == StatusCode::OK, "{} {}", page.status, page.text);
        Ok(())
    }

    async fn is_kept(&self) -> anyhow::Result<()> {
        let all: List<StandbyView> = self.cluster.client(HEIR)?.get("/v1/continuity").await?;
        let seen = all.items.into_iter().find(|s| s.service.as_str() == "notes").context("no standby")?;
        ensure!(seen.state == "kept" && seen.loss_ms.is_some(), "{seen:?}");
        Ok(())
    }

    /// Some by themselves, one by an invitation; what the application is told of each.
    async fn sign_up(&mut self) -> anyhow::Result<Vec<String>> {
        let at = self.at(HOME)?;
        for n in 0..USERS {
            let login = if n % 3 == 0 { format!("시민{n}") } else { format!("citizen{n}") };
            let mut browser = Browser::new(HOST);
            let path = match n {
                1 => self
                    .cluster
                    .operate(HOME, &["user", "invite", "notes", "--login", &login], None)
                    .await?
                    .trim()
                    .to_owned(),
                _ => "/.pumasi/sign-up".to_owned(),
            };
            browser.sign_up(at, &path, &login, PASSWORD).await.with_context(|| format!("{login} signs up"))?;
            self.users.push((login, browser));
        }
        let mut told = self.who(HOME).await?;
        // The last two leave.
        told.truncate(USERS - 2);
        Ok(told)
    }

    async fn who(&mut self, cloud: &str) -> anyhow::Result<Vec<String>> {
        let at = self.at(cloud)?;
        let mut all = Vec::new();
        for (login, browser) in &mut self.users {
            let told = browser.whoami(at).await?;
            all.push(told.map_err(|status| anyhow::anyhow!("{login} at {cloud}: {status}"))?);
        }
        Ok(all)
    }

    async fn knows(&self, cloud: &str, user: usize) -> anyhow::Result<()> {
        let (login, browser) = self.users.get(user).context("no such user")?;
        let told = browser.clone().whoami(self.at(cloud)?).await?;
        ensure!(told.is_ok(), "{login}: {told:?}");
        Ok(())
    }
}
