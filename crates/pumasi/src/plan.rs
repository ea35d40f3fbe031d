//! `pumasi plan`: look at plans and decide those that wait.

use crate::args::{Kind, PlanCommand};
use crate::failure::Failure;
use crate::kinds::{dig, text};
use crate::output::{self, Format, Tone, paint};
use crate::session::Session;
use pumasi_api::message::Why;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

pub async fn plan(session: &Session, command: &PlanCommand) -> Result<(), Failure> {
    match command {
        PlanCommand::Show { id } => crate::describe::describe(session, Kind::Plans, id).await,
        PlanCommand::Approve { id, why } => decide(session, id, "approve", "approved", &why.why).await,
        PlanCommand::Refuse { id, why } => decide(session, id, "refuse", "refused", &why.why).await,
        PlanCommand::Diff { id, against } => diff(session, id, against.as_deref()).await,
    }
}

async fn decide(session: &Session, id: &str, verb: &str, did: &str, why: &str) -> Result<(), Failure> {
    let id = session.id(Kind::Plans, id).await?;
    let answer: Value = session.client.post(&format!("/v1/plans/{id}/{verb}"), &Why { why: why.to_owned() }).await?;
    session.done(&format!("plan/{id}"), did, &answer)
}

async fn diff(session: &Session, id: &str, against: Option<&str>) -> Result<(), Failure> {
    let new = session.one(Kind::Plans, id).await?;
    let parent = match against {
        Some(other) => other.to_owned(),
        None => text(&new, &["parent", "plan.parent"]),
    };
    let old = if parent.is_empty() { json!({}) } else { session.one(Kind::Plans, &parent).await? };
    let lines = changes(body(&old), body(&new));
    match session.global.output {
        Format::Json => output::print(&output::json(&lines)?),
        Format::Yaml => output::print(&output::yaml(&lines)?),
        Format::Name | Format::Table => {
            let mut out = String::new();
            let from = if parent.is_empty() { "nothing: it is the first of its journey" } else { &parent };
            let _ = writeln!(out, "--- {from}\n+++ {}", Kind::Plans.name_of(&new));
            for change in &lines {
                for (sign, value, tone) in [('-', &change.old, Tone::Bad), ('+', &change.new, Tone::Good)] {
                    if let Some(value) = value {
                        let _ = writeln!(
                            out,
                            "{}",
                            paint(&format!("{sign} {}: {value}", change.field), tone, session.colours)
                        );
                    }
                }
            }
            output::print(&out)
        }
    }
}

/// The document inside a view that says more about it.
fn body(view: &Value) -> &Value {
    dig(view, &["plan"]).filter(|p| p.is_object()).unwrap_or(view)
}

#[derive(Debug, PartialEq, Eq, serde::Serialize)]
struct FieldChange {
    field: String,
    old: Option<String>,
    new: Option<String>,
}

/// Field by field, in order of the field's path.
fn changes(old: &Value, new: &Value) -> Vec<FieldChange> {
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    flatten(String::new(), old, &mut before);
    flatten(String::new(), new, &mut after);
    let mut fields: Vec<&String> = before.keys().chain(after.keys()).collect();
    fields.sort();
    fields.dedup();
    let change = |field: &String| FieldChange {
        field: field.clone(),
        old: before.get(field).cloned(),
        new: after.get(field).cloned(),
    };
    fields.into_iter().map(change).filter(|c| c.old != c.new).collect()
}

fn flatten(at: String, value: &Value, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                flatten(if at.is_empty() { key.clone() } else { format!("{at}.{key}") }, value, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (i, item) in items.iter().enumerate() {
                flatten(format!("{at}[{i}]"), item, out);
            }
        }
        Value::Null => {}
        Value::Object(_) if at.is_empty() => {}
        Value::String(s) => drop(out.insert(at, s.clone())),
        other => drop(out.insert(at, other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_names_fields() {
        let old = json!({"number": 1, "parts": [{"instances": 1}], "same": {"a": "x"}});
        let new = json!({"number": 2, "parts": [], "same": {"a": "x"}, "borrow": {"why": "load"}});
        let told: Vec<String> =
            changes(&old, &new).iter().map(|c| format!("{} {:?} {:?}", c.field, c.old, c.new)).collect();
        assert_eq!(
            told,
            [
                "borrow.why None Some(\"load\")",
                "number Some(\"1\") Some(\"2\")",
                "parts None Some(\"[]\")",
                "parts[0].instances Some(\"1\") None",
            ]
        );
        assert!(changes(&new, &new).is_empty());
    }
}
