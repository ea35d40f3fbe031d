//! The short commands: one request, one line.

use crate::args::{JourneyCommand, Kind, LeaseCommand, PersonRole, SettlementCommand, TokenCommand};
use crate::failure::Failure;
use crate::output::{self, Format, Table, note};
use crate::session::{Session, wall_now};
use crate::units::{bytes, duration_ms, money};
use pumasi_api::Role;
use pumasi_api::message::{
    AcceptRestored, Automation, BackupDone, CloudStatus, List, NewToken, ReloadDone, SettlementView, StopCloud,
    TokenView, Why,
};
use pumasi_store::{BackupError, Force, OpenError, Store};
use pumasi_terms::{CloudName, ServiceName};
use serde_json::{Value, json};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// The store's file in a data directory.
pub const STORE_FILE: &str = "store/pumasi.sqlite";

pub async fn delete(session: &Session, name: &ServiceName, wait: bool) -> Result<(), Failure> {
    let answer: Value = session.client.delete(&format!("/v1/services/{name}")).await?;
    if !wait {
        return session.done(&format!("service/{name}"), "is being deleted", &answer);
    }
    crate::events::wait_gone(session, name, session.global.timeout).await?;
    session.done(&format!("service/{name}"), "deleted", &answer)
}

pub async fn lease(session: &Session, command: &LeaseCommand) -> Result<(), Failure> {
    let LeaseCommand::Recall { id, why } = command;
    let id = session.id(Kind::Leases, id).await?;
    let answer: Value = session.client.post(&format!("/v1/leases/{id}/recall"), &Why { why: why.clone() }).await?;
    session.done(&format!("lease/{id}"), "recalled", &answer)
}

pub async fn settlement(session: &Session, command: &SettlementCommand) -> Result<(), Failure> {
    let (id, word, done, why) = match command {
        SettlementCommand::List => return settlements(session).await,
        SettlementCommand::Accept { lease, why } => (lease, "accept", "accepted", why.why.clone()),
        SettlementCommand::Dispute { lease, why } => (lease, "dispute", "disputed", why.clone()),
    };
    let id = session.id(Kind::Leases, id).await?;
    let answer: Value = session.client.post(&format!("/v1/settlements/{id}/{word}"), &Why { why }).await?;
    session.done(&format!("settlement/{id}"), done, &answer)
}

async fn settlements(session: &Session) -> Result<(), Failure> {
    let list: List<SettlementView> = session.client.get("/v1/settlements").await?;
    let currency = session.scene(Kind::Settlements).await.currency;
    let names = || list.items.iter().map(|s| format!("settlement/{}\n", s.lease)).collect();
    session.show(&list, names, || {
        let mut table = Table::new(&[
            "LEASE",
            "SERVICE",
            "BORROWER",
            "LENDER",
            "LENDER SAYS",
            "BORROWER SAYS",
            "AMOUNT",
            "DISPUTED",
        ]);
        for s in &list.items {
            table.row(vec![
                s.lease.as_str().into(),
                s.service.as_str().into(),
                s.borrower.as_str().into(),
                s.lender.as_str().into(),
                duration_ms(s.lender_instance_ms).into(),
                s.borrower_instance_ms.map_or("nothing".to_owned(), duration_ms).into(),
                format!("{} {currency}", money(s.amount)).into(),
                s.disputed.clone().unwrap_or_default().into(),
            ]);
        }
        Ok(table)
    })
}

pub async fn journey(session: &Session, command: &JourneyCommand) -> Result<(), Failure> {
    let JourneyCommand::Cancel { id, why } = command;
    let id = session.id(Kind::Journeys, id).await?;
    let body = Why { why: why.why.clone() };
    let answer: Value = session.client.post(&format!("/v1/journeys/{id}/cancel"), &body).await?;
    session.done(&format!("journey/{id}"), "cancelled", &answer)
}

pub async fn automation(session: &Session, stopped: bool, why: &str) -> Result<(), Failure> {
    let body = Automation { stopped, why: why.to_owned() };
    let answer: Value = session.client.post("/v1/automation", &body).await?;
    session.done("automation", if stopped { "stopped" } else { "resumed" }, &answer)
}

pub async fn reload(session: &Session) -> Result<(), Failure> {
    let answer: Value = session.client.post("/v1/reload", &Why { why: String::new() }).await?;
    let done: ReloadDone =
        serde_json::from_value(answer.clone()).map_err(|e| Failure::failed(format!("the daemon's answer: {e}")))?;
    for line in &done.same {
        note(&format!("as before: {line}"));
    }
    for line in &done.changed {
        note(&format!("changed: {line}"));
    }
    let word = if done.changed.is_empty() { "as before" } else { "read again" };
    session.done("certificates", word, &answer)
}

pub async fn token(session: &Session, command: &TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::List => crate::get::get(session, Kind::Tokens, None, &Default::default()).await,
        TokenCommand::Revoke { id } => {
            let id = session.id(Kind::Tokens, id).await?;
            let answer: Value = session.client.delete(&format!("/v1/tokens/{id}")).await?;
            session.done(&format!("token/{id}"), "revoked", &answer)
        }
        TokenCommand::Create { name, role, customer, ttl } => {
            let role = match role {
                PersonRole::Viewer => Role::Viewer,
                PersonRole::Customer => Role::Customer,
                PersonRole::Operator => Role::Operator,
            };
            let body = NewToken { name: name.clone(), role, customer: customer.clone(), ttl_ms: ttl.unwrap_or(0) };
            let made: TokenView = session.client.post("/v1/tokens", &body).await?;
            match session.global.output {
                Format::Json => output::print(&output::json(&made)?),
                Format::Yaml => output::print(&output::yaml(&made)?),
                Format::Name => output::print(&format!("token/{}\n", made.id)),
                Format::Table => {
                    let secret = made
                        .secret
                        .ok_or_else(|| Failure::failed("the daemon made a token and did not tell its secret"))?;
                    note(&format!(
                        "the secret is shown only now; `pumasi token revoke {}` takes it back",
                        crate::units::short_id(made.id.as_str())
                    ));
                    output::print(&format!("{secret}\n"))
                }
            }
        }
    }
}

/// Returns when the daemon answers no more.
pub async fn stop(session: &Session, everything: bool, force: bool, why: &str) -> Result<(), Failure> {
    let cloud: CloudStatus = session.client.get("/v1/cloud").await?;
    let body = StopCloud { everything, force, why: why.to_owned() };
    let answer: Value = session.client.post("/v1/stop", &body).await?;
    let until = std::time::Instant::now() + std::time::Duration::from_millis(session.global.timeout);
    while session.client.text("/healthz").await.is_ok() {
        if std::time::Instant::now() > until {
            return Err(Failure::failed("the daemon still answers").hint("a supervisor may have started it again"));
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let left = if everything { "stopped, with everything" } else { "stopped; gateway and instances go on" };
    session.done(&format!("cloud/{}", cloud.name), left, &answer)
}

pub async fn backup(session: &Session) -> Result<(), Failure> {
    let done: BackupDone = session.client.post("/v1/backup", &json!({})).await?;
    match session.global.output {
        Format::Json => output::print(&output::json(&done)?),
        Format::Yaml => output::print(&output::yaml(&done)?),
        Format::Table | Format::Name => {
            note(&format!("{} written", bytes(done.bytes)));
            output::print(&format!("{}\n", done.path))
        }
    }
}

pub fn restore(from: &Path, to: &Path, force: bool) -> Result<(), Failure> {
    if !to.is_dir() {
        return Err(Failure::input(format!("{} is not a data directory", to.display())));
    }
    let database = to.join(STORE_FILE);
    let dir = database.parent().unwrap_or(to);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Failure::failed(format!("making {}: {e}", dir.display())))?;
    let force = if force { Force::SetAside } else { Force::No };
    Store::restore(from, &database, force, wall_now()).map_err(|error| match error {
        BackupError::Exists(_) => Failure::new(crate::failure::Exit::Refused, error.to_string())
            .hint("--force sets the store that is there aside and keeps it"),
        BackupError::Unfit { .. } => Failure::input(error.to_string()),
        BackupError::Open(OpenError::Foreign { .. } | OpenError::Damaged { .. } | OpenError::Newer { .. }) => {
            Failure::input(error.to_string())
        }
        other => Failure::failed(other.to_string()),
    })?;
    note("start the daemon, compare with the peers, then `pumasi accept-restored`");
    output::print(&format!("{} restored\n", database.display()))
}

pub async fn accept_restored(session: &Session, why: &str, without: &[CloudName]) -> Result<(), Failure> {
    let wish = AcceptRestored { why: why.to_owned(), without: without.to_vec() };
    let answer: Value = session.client.post("/v1/standing", &wish).await?;
    session.done("store", "accepted", &answer)
}

pub async fn console(session: &Session, port: u16) -> Result<(), Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::failed(format!("the console: {e}"));
    // A console of a daemon that does not answer would only say so later.
    let _: Value = session.client.get("/v1/cloud").await?;
    let mut forwarder = pumasi_console::Forwarder::start(session.client.clone(), port).await.map_err(|e| failed(&e))?;
    output::print(&format!("{}\n", forwarder.url()))?;
    note("open it in a browser of this host; Ctrl-C ends it");
    tokio::select! {
        stopped = tokio::signal::ctrl_c() => stopped.map_err(|e| failed(&e)),
        () = forwarder.ended() => Err(Failure::failed("the console's port was closed")),
    }
}
