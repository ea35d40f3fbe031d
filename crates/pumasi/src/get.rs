//! `pumasi get`: what there is.

use crate::args::Kind;
use crate::failure::Failure;
use crate::kinds::table;
use crate::output::{Format, note};
use crate::session::Session;
use pumasi_api::message::CloudStatus;
use serde_json::Value;

pub async fn get(session: &Session, kind: Kind, name: Option<&str>) -> Result<(), Failure> {
    if let Some(name) = name {
        let item = session.one(kind, name).await?;
        // One plan or journey may be told at more length than in a list; its row is the same.
        let rows = std::slice::from_ref(&item);
        return session.show(&item, || names(kind, rows), || table(kind, rows, session.now));
    }
    let list = session.list(kind).await?;
    if list.items.is_empty() && session.global.output == Format::Table {
        note(&format!("no {}", kind.plural()));
        troubles(session).await;
        return Ok(());
    }
    session.show(&list, || names(kind, &list.items), || table(kind, &list.items, session.now))?;
    troubles(session).await;
    Ok(())
}

/// Beside a table: what the daemon cannot do now or leaves as it is. A list is not the whole where a record cannot be read.
pub async fn troubles(session: &Session) {
    if session.global.output != Format::Table {
        return;
    }
    let cloud: Result<CloudStatus, _> = session.client.get("/v1/cloud").await;
    cloud.into_iter().flat_map(|c| c.troubles).for_each(|line| note(&format!("attention: {line}")));
}

pub fn names(kind: Kind, items: &[Value]) -> String {
    items.iter().map(|item| format!("{}/{}\n", kind.singular(), kind.name_of(item))).collect()
}
