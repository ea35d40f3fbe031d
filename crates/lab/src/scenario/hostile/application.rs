//! What an application may see, reach and call: at home, and rented at a partner.

use super::stage::{ATTACKER, HOME, LENDERS, Stage, Told};
use crate::report::Report;
use anyhow::ensure;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::time::{Duration, Instant};

const OPEN_PORT: u16 = 9_999;
/// Of the host, and of the lab, for instances to find.
const TOKEN: &str = "pumasi-hostile-mark";

pub async fn play(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    // What the host itself offers to whoever gets through.
    let name = format!("{TOKEN}-{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&UnixAddr::from_abstract_name(name.as_bytes())?)?;
    let loopback = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let host_mark = std::path::Path::new("/run").join(&name);
    std::fs::write(&host_mark, "of the host")?;
    let attacks = attacks(stage, &name, loopback.local_addr()?.port())?;

    stage.story.chapter("The application attacks its own cloud");
    for (name, attack) in &attacks {
        stage.attack(report, "at home", name, attack).await?;
    }
    own_secret(stage, report, "at home").await?;
    open_door(stage, report, "at home", &[HOME]).await?;
    stage.ask(ATTACKER, "turn-tmp").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    stage
        .attack(report, "at home", "its own tmp exchanged for a link, after a restart", &format!("tmp?name={name}"))
        .await?;

    stage.story.chapter("The same application, rented at a partner");
    let crowd = stage.crowd()?;
    let lease = stage.rented().await?;
    for (name, attack) in &attacks {
        let told = ask_rented(stage, attack).await?;
        stage.judge(report, "rented", name, &told);
    }
    stage.story.tell(lease.lender.as_str(), "lease", &lease.id);
    own_secret(stage, report, "rented").await?;
    open_door(stage, report, "rented", &LENDERS).await?;
    stage.alone_again(crowd).await?;
    let _ = std::fs::remove_file(&host_mark);
    Ok(())
}

/// A name for people, and the attack.
fn attacks(stage: &Stage, token: &str, loopback_port: u16) -> anyhow::Result<Vec<(&'static str, String)>> {
    let mut paths: Vec<String> = Vec::new();
    let mut addresses =
        vec![format!("127.0.0.1:{loopback_port}"), "169.254.169.254:80".to_owned(), "8.8.8.8:53".to_owned()];
    for cloud in stage.cluster.clouds() {
        paths.push(stage.data(cloud.name).display().to_string());
        let place = stage.cluster.place(cloud.name)?;
        for address in [place.users, place.peer_listen, place.gateway_listen, place.peer_advertise] {
            addresses.push(address.to_string());
        }
    }
    let list = |key: &str, of: &[String]| of.iter().map(|v| format!("{key}={v}")).collect::<Vec<_>>().join("&");
    Ok(vec![
        ("files below the clouds' data directories", format!("walk?{}", list("path", &paths))),
        ("another customer's secret, in any file", format!("marker?mark={}", stage.mark)),
        ("other processes, through /proc and by signals", "others".into()),
        ("writing outside of its own directories", "write-root".into()),
        ("devices of the host", "devices".into()),
        ("capabilities and rights that were left", "rights".into()),
        ("33 system calls that reach beyond", "calls".into()),
        ("socket families 0 to 45", "families".into()),
        ("addresses of the host, the clouds, metadata and the world", format!("connect?{}", list("to", &addresses))),
        ("abstract sockets and connections of others", format!("abstract?name={token}")),
    ])
}

/// The application has its secret, and no file of any cloud does: not a store, a message kept, a log, an engine's description.
async fn own_secret(stage: &Stage, report: &mut Report, place: &str) -> anyhow::Result<()> {
    let attack = format!("own-secret?is={}", stage.secrets[0]);
    let told = if place == "rented" { ask_rented(stage, &attack).await? } else { stage.ask(ATTACKER, &attack).await? };
    stage.judge(report, place, "its secret is another's, or lost", &told);
    let root = stage.everything();
    let held: Vec<String> = stage
        .secrets
        .iter()
        .flat_map(|secret| Stage::holding(&root, secret.as_bytes()))
        .map(|path| path.display().to_string())
        .collect();
    let got = (!held.is_empty()).then(|| held.join(", "));
    let told = Told { got, how: "no file holds a secret".into(), at: told.at };
    stage.judge(report, place, "secrets in the files of all clouds", &told);
    Ok(())
}

/// A listener on all addresses inside must not be there outside.
async fn open_door(stage: &Stage, report: &mut Report, place: &str, clouds: &[&str]) -> anyhow::Result<()> {
    let attack = format!("listen?port={OPEN_PORT}");
    let opened =
        if place == "rented" { ask_rented(stage, &attack).await? } else { stage.ask(ATTACKER, &attack).await? };
    let mut addresses = vec![std::net::SocketAddr::from(([127, 0, 0, 1], OPEN_PORT))];
    for cloud in clouds {
        addresses.push((stage.cluster.place(cloud)?.address, OPEN_PORT).into());
    }
    let mut through = Vec::new();
    for address in addresses {
        let knocked = tokio::time::timeout(Duration::from_secs(1), tokio::net::TcpStream::connect(address)).await;
        if matches!(knocked, Ok(Ok(_))) {
            through.push(address.to_string());
        }
    }
    let got = (!through.is_empty()).then(|| format!("reached at {}", through.join(", ")));
    let told = Told { got, how: format!("nobody gets there ({})", opened.how), at: opened.at };
    stage.judge(report, place, "a listener of its own on all addresses", &told);
    Ok(())
}

/// An attack played by an instance that is not at home.
async fn ask_rented(stage: &Stage, attack: &str) -> anyhow::Result<Told> {
    let begun = Instant::now();
    loop {
        let home: Vec<String> = stage.instances(HOME).await?.iter().map(|i| i.id.to_string()).collect();
        let told = stage.ask_as(rand::random(), attack).await?;
        if told.as_ref().is_some_and(|t| !home.iter().any(|id| id.starts_with(&t.at) || t.at.starts_with(id.as_str())))
        {
            return Ok(told.unwrap_or(Told { got: None, how: String::new(), at: String::new() }));
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "no rented instance answered {attack} within 60 s");
    }
}
