//! sqlite-web: a page for a database. Records are rows.

use super::app::{App, FORM, Found, Later, SEEDS, contains, rows, seed_key, text};
use super::install::Packages;
use crate::load::{Answered, Planned};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use http::{Method, StatusCode};
use rand::rngs::SmallRng;
use std::path::Path;

#[derive(Debug)]
pub struct SqliteWeb;

impl App for SqliteWeb {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn manifest(&self) -> (&'static str, &'static str) {
        ("examples/sqlite-web/service.yaml", include_str!("../../../../../examples/sqlite-web/service.yaml"))
    }

    fn packages(&self) -> Packages {
        Packages::Pip { requirements: include_str!("../../../../../examples/sqlite-web/requirements.txt") }
    }

    fn too_much(&self) -> f64 {
        150.0
    }

    fn prepare(&mut self, step: u64, _before: Option<&Answered>) -> anyhow::Result<Option<Planned>> {
        let sql = match step {
            0 => "CREATE TABLE notes (key TEXT PRIMARY KEY, user INTEGER, body TEXT)".to_owned(),
            1 => {
                let rows: Vec<String> = (0..SEEDS).map(seed_key).map(|k| format!("('{k}',0,'{}')", text(&k))).collect();
                format!("INSERT INTO notes VALUES {}", rows.join(","))
            }
            _ => return Ok(None),
        };
        Ok(Some(Planned::new(Method::POST, "/query/", FORM, format!("sql={sql}").into_bytes())))
    }

    fn write(&self, user: u32, key: &str) -> Planned {
        let body = format!("key={key}&user={user}&body={}", text(key));
        Planned::new(Method::POST, "/notes/insert/", FORM, body.into_bytes())
    }

    /// The form comes back with 200 where the row was not inserted.
    fn wrote(&self, status: StatusCode, body: &Bytes) -> bool {
        status == StatusCode::FOUND && contains(body, "/notes/content/")
    }

    fn read(&self, key: &str, _rng: &mut SmallRng) -> Planned {
        Planned::get(format!("/notes/row/{}/", URL_SAFE.encode(format!("[\"{key}\"]"))))
    }

    fn shows(&self, _asked: &Planned, key: &str, status: StatusCode, body: &Bytes) -> bool {
        status == StatusCode::OK && contains(body, &text(key))
    }

    fn list(&self, _rng: &mut SmallRng) -> Planned {
        Planned::get("/notes/content/".into())
    }

    /// A second insert of a key would have failed.
    fn found<'a>(&'a self, data: &'a Path) -> Later<'a, Found> {
        Box::pin(async move {
            let dump = rows(&data.join("notes/notes.db"), "SELECT key, body FROM notes").await?;
            let records = dump.rows.into_iter().filter_map(|row| <[String; 2]>::try_from(row).ok());
            Ok(Found { records: records.map(Into::into).collect(), doubled: Vec::new(), sound: dump.ok })
        })
    }

    fn kept(&self, key: &str) -> String {
        text(key)
    }
}
