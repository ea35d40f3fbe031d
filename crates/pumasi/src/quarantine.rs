//! `pumasi quarantine`: what no record explains.

use crate::args::QuarantineCommand;
use crate::failure::Failure;
use crate::output::{Format, Table, note};
use crate::session::{Session, wall_now};
use crate::units::bytes;
use pumasi_api::message::{List, Quarantined, Why};
use serde_json::{Value, json};

const HOUR_MS: u64 = 3_600_000;

pub async fn quarantine(session: &Session, command: &QuarantineCommand) -> Result<(), Failure> {
    match command {
        QuarantineCommand::List => {
            let list = held(session).await?;
            if list.items.is_empty() && session.global.output == Format::Table {
                note("the quarantine is empty");
                return Ok(());
            }
            let names = || list.items.iter().map(|q| format!("quarantine/{}\n", q.name)).collect();
            session.show(&json!(list), names, || table(&list.items))
        }
        QuarantineCommand::Restore { name } => {
            let path = format!("/v1/quarantine/{name}/restore");
            let answer: Value = session.client.post(&path, &Why { why: String::new() }).await?;
            session.done(&format!("quarantine/{name}"), "restored", &answer)
        }
        QuarantineCommand::Empty { name: Some(name), .. } => empty(session, name).await,
        QuarantineCommand::Empty { name: None, .. } => {
            for held in held(session).await?.items.iter().filter(|q| q.until.is_some()) {
                empty(session, &held.name).await?;
            }
            Ok(())
        }
    }
}

async fn held(session: &Session) -> Result<List<Quarantined>, Failure> {
    Ok(session.client.get("/v1/quarantine").await?)
}

async fn empty(session: &Session, name: &str) -> Result<(), Failure> {
    let answer: Value = session.client.delete(&format!("/v1/quarantine/{name}")).await?;
    session.done(&format!("quarantine/{name}"), "emptied", &answer)
}

fn table(items: &[Quarantined]) -> Result<Table, Failure> {
    let mut table = Table::new(&["NAME", "SIZE", "ERASED IN", "WHY"]);
    for held in items {
        let left = match held.until {
            Some(until) => format!("{} h", until.since(wall_now()).div_ceil(HOUR_MS)),
            None => "never".to_owned(),
        };
        table.row(vec![held.name.as_str().into(), bytes(held.bytes).into(), left.into(), held.why.as_str().into()]);
    }
    Ok(table)
}
