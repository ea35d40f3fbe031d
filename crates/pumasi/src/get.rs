//! `pumasi get`: what there is.

use crate::args::Kind;
use crate::failure::Failure;
use crate::kinds::table;
use crate::output::{Format, note};
use crate::session::Session;
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
        return Ok(());
    }
    session.show(&list, || names(kind, &list.items), || table(kind, &list.items, session.now))
}

pub fn names(kind: Kind, items: &[Value]) -> String {
    items.iter().map(|item| format!("{}/{}\n", kind.singular(), kind.name_of(item))).collect()
}
