//! A lab to look at: three clouds, two services, a little load, and a campaign whenever somebody wants one.
//!
//! Enters: lines on standard input, the button of city-a's console. Leaves: a live story, the consoles' addresses.
//! Always holds: it stays until Ctrl-C, and leaves nothing behind; one campaign at a time.

use crate::cluster::Cluster;
use crate::example::tickets::TicketsWorkload;
use crate::load::{self, Gaps, LoadOptions, Running, Schedule};
use crate::run::{Options, three_clouds};
use crate::scenario::{self, overload};
use crate::story::Story;
use pumasi_api::message::Event;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

const TICKETS_HOST: &str = "tickets.city-a.example";
/// What a campaign asks for a second, several times what one instance answers.
const CAMPAIGN_RATE: f64 = 400.0;
const CAMPAIGN_FOR: Duration = Duration::from_secs(45);
/// Everything goes back soon after a campaign, so that it is seen.
const TIMING: &str = "[timing]\ncalm_ms = 6000\nlease_ttl_ms = 6000";

pub async fn look(executable: &Path) -> anyhow::Result<()> {
    let story = Story::to_stdout();
    story.chapter("Starting three clouds on this machine");
    let mut cluster = Cluster::start(executable, &three_clouds(), TIMING).await?;
    let options = Options::new(executable.to_owned());
    let _chronicle = scenario::followed(&mut cluster, &options, &story, worth_telling)?;
    let (wish, mut wishes) = mpsc::channel(1);
    let _consoles = cluster.open_consoles(&story, Some(("city-a", wish))).await?;
    overload::deploy_examples(&cluster, executable).await?;
    let a = cluster.place("city-a")?.users;
    story.tell("city-a", "serves", format!("tickets: curl -H 'Host: {TICKETS_HOST}' http://{a}/seat/1"));
    story.tell("city-a", "serves", format!("notes:   curl -H 'Host: notes.city-a.example' http://{a}/count"));
    println!("\nAn operator's commands at city-a:\n  pumasi --config {} status", cluster.config("city-a").display());
    println!(
        "Type c and Enter, or press “Send a crowd” in city-a's console, for a campaign: several times what city-a can answer, for {} s.",
        CAMPAIGN_FOR.as_secs()
    );
    println!("Ctrl-C ends it and leaves nothing behind.");
    let life = overload::background_load(&cluster)?;
    let interrupted = crate::process::interrupted();
    tokio::select! {
        ended = interrupted => ended?,
        () = campaigns(&cluster, &story, &mut wishes) => {}
    }
    life.iter().for_each(Running::stop);
    story.tell("lab", "ends", "stopping everything that was started");
    Ok(())
}

/// What somebody looks for who sees it the first time.
fn worth_telling(event: &Event) -> bool {
    let told = [
        "verdict",
        "lender_chosen",
        "lease_signed",
        "transferred",
        "switchover",
        "resized",
        "switchback",
        "settled",
        "journey_closed",
    ];
    told.contains(&event.action.as_str())
}

/// For as long as the lab stays. One that is wished for during another comes after it.
async fn campaigns(cluster: &Cluster, story: &Story, wishes: &mut mpsc::Receiver<()>) {
    let mut lines = typed();
    loop {
        let line = tokio::select! {
            Some(line) = lines.recv() => line,
            Some(()) = wishes.recv() => "c".to_owned(),
            // Nobody can type, and no console is open.
            else => return std::future::pending().await,
        };
        match line.trim() {
            "c" | "campaign" => {
                if let Err(e) = campaign(cluster, story).await {
                    story.tell("lab", "failed", format!("the campaign: {e:#}"));
                }
            }
            "" => {}
            other => story.tell("lab", "waits", format!("{other:?} is not known; type c for a campaign")),
        }
    }
}

/// Lines of standard input, by a thread that ends with it or with the process. What is typed during a campaign waits, a few lines.
fn typed() -> mpsc::Receiver<String> {
    let (send, lines) = mpsc::channel(4);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if send.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

async fn campaign(cluster: &Cluster, story: &Story) -> anyhow::Result<()> {
    let place = cluster.place("city-a")?;
    story.chapter("A campaign");
    let schedule = Schedule::new(Gaps::Poisson, 3).level("campaign", CAMPAIGN_FOR, CAMPAIGN_RATE);
    let options =
        LoadOptions { users_from: Some(place.users_from), ..LoadOptions::new(schedule, place.users, TICKETS_HOST) };
    let begun = load::start(options, Arc::new(TicketsWorkload))?;
    let run = overload::told(story, begun).await?;
    let stats = run.all();
    story.tell("users", "campaign", format!("over: {} of {} right", stats.right(), stats.offered()));
    for (cloud, share) in run.served_by(Duration::ZERO, CAMPAIGN_FOR).iter().filter(|(name, _)| !name.is_empty()) {
        story.tell("users", "answered", format!("{:.0} % by {cloud}", share * 100.0));
    }
    Ok(())
}
