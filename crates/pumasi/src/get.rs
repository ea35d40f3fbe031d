//! `pumasi get`: what there is, and with `--watch` what becomes of it.

use crate::args::{Form, Kind};
use crate::failure::{Exit, Failure};
use crate::kinds::{Scene, dig, table};
use crate::output::{self, Format, Table, note};
use crate::session::Session;
use pumasi_api::message::CloudStatus;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

const LOOK: Duration = Duration::from_millis(500);
/// Columns that change though nothing happened.
const RESTLESS: [&str; 7] = ["AGE", "EXPIRES", "REQUESTS", "CPU", "MEMORY", "HEARD", "RTT"];

/// Labels that are asked for; none: everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector(BTreeMap<String, String>);

impl Selector {
    pub fn parse(kind: Kind, text: &str) -> Result<Self, Failure> {
        let mut labels = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| Failure::input(format!("-l {part}: write label=value, several with commas")))?;
            labels.insert(key.trim().to_owned(), value.trim().to_owned());
        }
        match kind {
            Kind::Services => Ok(Self(labels)),
            _ if labels.is_empty() => Ok(Self(labels)),
            other => Err(Failure::input(format!("-l: only services have labels, {} have none", other.plural()))),
        }
    }

    fn takes(&self, item: &Value) -> bool {
        let label = |key: &str| dig(item, &["service.metadata.labels"])?.get(key)?.as_str();
        self.0.iter().all(|(key, value)| label(key) == Some(value))
    }
}

pub async fn get(session: &Session, kind: Kind, name: Option<&str>, selector: &Selector) -> Result<(), Failure> {
    if let Some(name) = name {
        let item = session.one(kind, name).await?;
        // One plan or journey may be told at more length than in a list; its row is the same.
        let rows = std::slice::from_ref(&item);
        let scene = scene(session, kind).await;
        return session.show(&item, || names(kind, rows), || table(kind, rows, &scene));
    }
    let mut list = session.list(kind).await?;
    list.items.retain(|item| selector.takes(item));
    if list.items.is_empty() && session.global.output == Format::Table {
        note(&format!("no {}", kind.plural()));
        troubles(session).await;
        return Ok(());
    }
    let scene = scene(session, kind).await;
    session.show(&list, || names(kind, &list.items), || table(kind, &list.items, &scene))?;
    troubles(session).await;
    Ok(())
}

async fn scene(session: &Session, kind: Kind) -> Scene {
    Scene { wide: session.global.form == Form::Wide, ..session.scene(kind).await }
}

/// What of a row is news if it is another.
fn steady(table: &Table) -> Vec<String> {
    let cells = table.rows.iter().flat_map(|row| table.head.iter().zip(row));
    cells.filter(|(head, _)| !RESTLESS.contains(*head)).map(|(_, cell)| cell.text.clone()).collect()
}

pub async fn watch(session: &Session, kind: Kind, name: Option<&str>, selector: &Selector) -> Result<(), Failure> {
    let (mut seen, mut widths, mut lost) = (BTreeMap::new(), Vec::new(), false);
    loop {
        let looked = match name {
            Some(name) => session.one(kind, name).await.map(|item| vec![item]),
            None => session.list(kind).await.map(|list| list.items),
        };
        let items = match looked {
            Ok(items) => items,
            Err(failure) if failure.exit == Exit::NotFound && !seen.is_empty() => Vec::new(),
            Err(failure) if failure.exit == Exit::Unreachable && !seen.is_empty() => {
                if !std::mem::replace(&mut lost, true) {
                    note(&format!("connection lost, trying again: {}", failure.message));
                }
                tokio::time::sleep(LOOK).await;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        lost = false;
        let mut now = BTreeMap::new();
        for item in items.iter().filter(|item| selector.takes(item)) {
            let row = table(kind, std::slice::from_ref(item), &scene(session, kind).await)?;
            let (id, told) = (kind.name_of(item), steady(&row));
            if seen.get(&id) != Some(&told) {
                output::print(&shown(session, kind, item, &row, &mut widths)?)?;
            }
            now.insert(id, told);
        }
        for gone in seen.keys().filter(|id| !now.contains_key(*id)) {
            note(&format!("{}/{gone} is gone", kind.singular()));
        }
        if name.is_some() && now.is_empty() {
            return Ok(());
        }
        seen = now;
        tokio::time::sleep(LOOK).await;
    }
}

fn shown(session: &Session, kind: Kind, item: &Value, row: &Table, widths: &mut Vec<usize>) -> Result<String, Failure> {
    Ok(match session.global.output {
        Format::Table => row.render_on(widths, session.colours),
        Format::Json => format!("{}\n", output::escaped(item.to_string())),
        Format::Yaml => format!("---\n{}", output::yaml(item)?),
        Format::Name => names(kind, std::slice::from_ref(item)),
    })
}

/// Beside a table: what the daemon cannot do now or leaves as it is. A list is not the whole where a record cannot be read.
pub async fn troubles(session: &Session) {
    if session.global.output != Format::Table {
        return;
    }
    let cloud: Result<CloudStatus, _> = session.client.get("/v1/cloud").await;
    let mut lines: Vec<String> = cloud.into_iter().flat_map(|c| c.degraded.into_iter().chain(c.troubles)).collect();
    lines.dedup();
    lines.iter().for_each(|line| note(&format!("attention: {line}")));
}

pub fn names(kind: Kind, items: &[Value]) -> String {
    items.iter().map(|item| format!("{}/{}\n", kind.singular(), kind.name_of(item))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_choose_services() {
        let both = Selector::parse(Kind::Services, "team=forms, stage=live").unwrap();
        let item = |labels: Value| json!({"service": {"metadata": {"name": "a", "labels": labels}}});
        assert!(both.takes(&item(json!({"team": "forms", "stage": "live", "more": "x"}))));
        assert!(!both.takes(&item(json!({"team": "forms"}))));
        assert!(Selector::default().takes(&item(json!(null))));
        assert!(Selector::parse(Kind::Services, "team").is_err());
        assert!(Selector::parse(Kind::Leases, "team=forms").is_err());
        assert!(Selector::parse(Kind::Leases, "").is_ok());
    }
}
