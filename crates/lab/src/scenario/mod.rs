//! Scenarios: each plays one promise of the product on real processes and ends with figures and a verdict.

pub mod disaster;
pub mod faults;
pub mod foreign;
pub mod game_day;
pub mod hostile;
pub mod identity;
pub mod keys;
pub mod matrix;
pub mod moving;
pub mod overload;
mod rehearsal;
pub mod room;
pub mod split;
pub mod standby;
pub mod sync;
pub mod takeover;
pub mod voted;
pub mod witness;
pub mod yields;

use crate::cluster::Cluster;
use crate::follow::Chronicle;
use crate::report::Report;
use crate::run::{Options, WrongUsage};
use crate::story::Story;
use anyhow::bail;
use pumasi_api::message::Event;
use pumasi_console::Forwarder;
use std::io::IsTerminal;

/// Name and one line about each.
pub const ALL: &[(&str, &str)] = &[
    ("overload", "a campaign brings several times what the home can serve; room is borrowed and given back"),
    ("move", "services move to a neighbour and back under load, as their customer asks"),
    (
        "disaster",
        "a cloud is killed with everything on it; the others agree on that, go on with its services, and give them back",
    ),
    (
        "room",
        "a cloud without room takes over: what counts less there stands back for it, and comes back when it has gone",
    ),
    ("takeover", "the other cloud of a pact of two is gone: a person takes over what is kept ready, and gives it back"),
    (
        "sync",
        "a service whose acknowledged writes are on disk in another cloud, beside one whose copies follow: what that costs",
    ),
    ("split", "links between clouds break in every way; nobody writes twice, the cut off part says so, and all heals"),
    ("matrix", "one fault after the other befalls an owner, a leader, another voter: how soon, and what it costs"),
    ("witness", "two clouds and a witness that holds nothing: one is killed, and the other goes on with its service"),
    ("yields", "a heir cannot take, a dataset's disk is full: the service alone goes to another cloud (needs root)"),
    ("game-day", "a canary is given up on purpose, taken over, asked, and brought back; a failed one alerts"),
    ("keys", "a service's certificate and its users' cookies go where it goes, and lie open nowhere else"),
    (
        "standby",
        "a service is kept ready elsewhere: it outlives its own cloud's silence, and helps within a second under load",
    ),
    (
        "identity",
        "users sign in once: the same name at a lender's instance and at the cloud that takes over, and signed out everywhere",
    ),
    (
        "foreign",
        "the same with applications from package indexes, unchanged (needs python3 and pip; one of them node and npm)",
    ),
    ("faults", "processes die, partners fail, people decide: what must hold all the same, case by case"),
    (
        "hostile",
        "customers' code, their files and strangers attack; nothing is theirs but their own (needs root and python3)",
    ),
];

pub async fn play(name: &str, options: &Options, story: &mut Story) -> anyhow::Result<Report> {
    match name {
        "overload" => overload::play(options, story).await,
        "move" => moving::play(options, story).await,
        "disaster" => disaster::play(options, story).await,
        "room" => room::play(options, story).await,
        "identity" => identity::play(options, story).await,
        "takeover" => takeover::play(options, story).await,
        "sync" => sync::play(options, story).await,
        "split" => split::play(options, story).await,
        "matrix" => matrix::play(options, story).await,
        "witness" => witness::play(options, story).await,
        "yields" => yields::play(options, story).await,
        "game-day" => game_day::play(options, story).await,
        "keys" => keys::play(options, story).await,
        "standby" => standby::play(options, story).await,
        "faults" => faults::play(options, story).await,
        "foreign" => foreign::play(options, story).await,
        "hostile" => hostile::play(options, story).await,
        _ => {
            let known: Vec<&str> = ALL.iter().map(|(n, _)| *n).collect();
            bail!(WrongUsage(format!("there is no scenario {name:?}; there are {}", known.join(", "))))
        }
    }
}

/// What the daemons of a cluster write into their journals, told as it comes. Where the files are to stay, it says where they are.
pub(crate) fn followed(
    cluster: &mut Cluster,
    options: &Options,
    story: &Story,
    worth_telling: fn(&Event) -> bool,
) -> anyhow::Result<Chronicle> {
    if options.keep {
        cluster.supervisor.keep();
        story.tell("lab", "keeps", cluster.supervisor.dir().display().to_string());
    }
    let chronicle = Chronicle::new(story.clone());
    for cloud in cluster.clouds() {
        chronicle.follow(cloud.name, cluster.client(cloud.name)?, worth_telling);
    }
    Ok(chronicle)
}

/// Consoles to look on with, where somebody may: at a terminal, or where the clouds are to stay. They hold a token each.
async fn consoles(options: &Options, story: &Story, cluster: &Cluster) -> anyhow::Result<Vec<Forwarder>> {
    match !options.json && (options.keep || std::io::stdout().is_terminal()) {
        true => cluster.open_consoles(story, None).await,
        false => Ok(Vec::new()),
    }
}

/// At a terminal, where the clouds are to stay, they do until Ctrl-C: with their consoles, to be looked at as they were left.
async fn stay(options: &Options, story: &Story, cluster: &Cluster, report: &Report) -> anyhow::Result<()> {
    if !options.keep || options.json || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    println!("\n{}", report.to_text());
    let _consoles = cluster.open_consoles(story, None).await?;
    for cloud in cluster.clouds() {
        println!("  pumasi --config {} status", cluster.config(cloud.name).display());
    }
    println!("The clouds stay until Ctrl-C.");
    Ok(crate::process::interrupted().await?)
}
