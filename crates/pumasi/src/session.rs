//! What every command that talks to a daemon has: the client, and how to show what it says.

use crate::args::{Global, Kind};
use crate::failure::Failure;
use crate::kinds::Scene;
use crate::output::{self, Format, Table};
use pumasi_api::Client;
use pumasi_api::message::{CloudStatus, List};
use pumasi_terms::WallMs;
use serde::Serialize;
use serde_json::Value;

#[derive(Debug, Clone)]
pub struct Session {
    pub client: Client,
    pub global: Global,
    pub now: WallMs,
    pub colours: bool,
    currency: std::sync::Arc<tokio::sync::OnceCell<String>>,
}

pub fn wall_now() -> WallMs {
    WallMs(jiff::Timestamp::now().as_millisecond())
}

impl Session {
    pub fn open(global: &Global) -> Result<Self, Failure> {
        Ok(Self {
            client: crate::connect::client(global)?,
            global: global.clone(),
            now: wall_now(),
            colours: output::stdout_colours(),
            currency: Default::default(),
        })
    }

    /// For a table of this kind. A currency that cannot be asked for is left out.
    pub async fn scene(&self, kind: Kind) -> Scene {
        let ask = || async {
            let cloud: Result<CloudStatus, _> = self.client.get("/v1/cloud").await;
            cloud.ok().and_then(|c| c.currency).unwrap_or_default()
        };
        let currency = if kind.is_priced() { self.currency.get_or_init(ask).await.clone() } else { String::new() };
        Scene { now: wall_now(), currency, wide: false }
    }

    /// Everything of a kind, as the daemon says it.
    pub async fn list(&self, kind: Kind) -> Result<List<Value>, Failure> {
        if kind == Kind::Members {
            let cloud: Value = self.client.get("/v1/cloud").await?;
            let items = cloud.get("members").and_then(Value::as_array).cloned().unwrap_or_default();
            return Ok(List { revision: Default::default(), items });
        }
        if kind == Kind::Settlements {
            let bill: Value = self.client.get("/v1/bill?month=all").await?;
            let items = bill.get("lines").and_then(Value::as_array).cloned().unwrap_or_default();
            return Ok(List { revision: Default::default(), items });
        }
        Ok(self.client.get(&format!("/v1/{}", kind.plural())).await?)
    }

    /// The one thing called `name`: a name, an id, or the only id that begins so.
    pub async fn one(&self, kind: Kind, name: &str) -> Result<Value, Failure> {
        if kind == Kind::Services {
            let name = pumasi_terms::ServiceName::parse(name)?;
            return Ok(self.client.get(&format!("/v1/services/{name}")).await?);
        }
        let found = pick(kind, self.list(kind).await?.items, name)?;
        match kind {
            Kind::Journeys | Kind::Plans | Kind::Leases => {
                let id = checked_id(kind, &kind.name_of(&found))?;
                Ok(self.client.get(&format!("/v1/{}/{id}", kind.plural())).await?)
            }
            _ => Ok(found),
        }
    }

    /// The whole id of what begins with `name`, safe in a path.
    pub async fn id(&self, kind: Kind, name: &str) -> Result<String, Failure> {
        if kind.is_whole_id(name) {
            return checked_id(kind, name);
        }
        checked_id(kind, &kind.name_of(&pick(kind, self.list(kind).await?.items, name)?))
    }

    /// Prints `value` in the form asked for; `table` makes the one for people.
    pub fn show<T: Serialize>(
        &self,
        value: &T,
        names: impl FnOnce() -> String,
        table: impl FnOnce() -> Result<Table, Failure>,
    ) -> Result<(), Failure> {
        let text = match self.global.output {
            Format::Table => table()?.render(self.colours),
            Format::Json => output::json(value)?,
            Format::Yaml => output::yaml(value)?,
            Format::Name => names(),
        };
        output::print(&text)
    }

    /// Prints what a command did: the sentence, or the daemon's answer.
    pub fn done(&self, name: &str, did: &str, answer: &Value) -> Result<(), Failure> {
        match self.global.output {
            Format::Table => output::print(&format!("{name} {did}\n")),
            Format::Name => output::print(&format!("{name}\n")),
            Format::Json => output::print(&output::json(answer)?),
            Format::Yaml => output::print(&output::yaml(answer)?),
        }
    }
}

fn checked_id(kind: Kind, id: &str) -> Result<String, Failure> {
    let safe = !id.is_empty() && id.len() <= 80 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if safe { Ok(id.to_owned()) } else { Err(Failure::input(format!("{id:?} is not the id of a {}", kind.singular()))) }
}

fn pick(kind: Kind, items: Vec<Value>, name: &str) -> Result<Value, Failure> {
    let mut begin = Vec::new();
    for item in items {
        let found = kind.name_of(&item);
        if found == name {
            return Ok(item);
        }
        // The kind of an id goes without saying.
        let short = found.split_once('-').is_some_and(|(_, rest)| kind.has_ids() && rest.starts_with(name));
        if kind.has_ids() && !name.is_empty() && (found.starts_with(name) || short) {
            begin.push(item);
        }
    }
    match (begin.len(), begin.pop()) {
        (1, Some(item)) => Ok(item),
        (0, _) | (_, None) => Err(Failure::not_found(kind.singular(), name)),
        (n, Some(_)) => Err(Failure::input(format!("{n} {} begin with {name:?}; write more of it", kind.plural()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;
    use serde_json::json;

    #[test]
    fn the_beginning_of_an_id_is_enough_if_it_is_the_only_one() {
        let items = || vec![json!({"id": "plan-aa1"}), json!({"id": "plan-aa2"}), json!({"id": "plan-b"})];
        assert_eq!(pick(Kind::Plans, items(), "plan-b").unwrap()["id"], "plan-b");
        assert_eq!(pick(Kind::Plans, items(), "aa2").unwrap()["id"], "plan-aa2");
        assert_eq!(pick(Kind::Plans, items(), "plan-a").unwrap_err().exit, Exit::Usage);
        assert_eq!(pick(Kind::Plans, items(), "plan-c").unwrap_err().exit, Exit::NotFound);
        assert!(checked_id(Kind::Plans, "../x").is_err());
    }
}
