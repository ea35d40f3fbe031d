//! Verdaccio: a registry of npm packages, on Node. Records are packages: a document and an archive each, some in a scope.

use super::app::{App, Found, Later, SEEDS, contains, content, field, hash, kind, seed_key, text};
use super::install::Packages;
use crate::load::{Answered, Planned};
use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const JSON: &str = "application/json";
const VERSION: &str = "1.0.0";
const SCOPE: &str = "@team";

#[derive(Debug, Default)]
pub struct Verdaccio {
    /// Of the one user that publishes.
    token: Option<(HeaderName, HeaderValue)>,
}

fn is_scoped(key: &str) -> bool {
    kind(key, 4) == 0
}

fn name(key: &str) -> String {
    if is_scoped(key) { format!("{SCOPE}/{key}") } else { key.to_owned() }
}

/// As npm's own client asks: the slash of a scope is no slash of the path.
fn path(key: &str) -> String {
    format!("/{}", name(key).replace('/', "%2f"))
}

fn archive(key: &str) -> String {
    format!("{key}-{VERSION}.tgz")
}

/// Whether its document tells the one version as it was published.
fn documents(document: &[u8], key: &str) -> bool {
    let read: Option<serde_json::Value> = serde_json::from_slice(document).ok();
    read.is_some_and(|d| d["name"] == name(key) && d["versions"][VERSION]["description"] == text(key))
}

impl App for Verdaccio {
    fn name(&self) -> &'static str {
        "node"
    }

    fn manifest(&self) -> (&'static str, &'static str) {
        ("examples/verdaccio/service.yaml", include_str!("../../../../../examples/verdaccio/service.yaml"))
    }

    fn packages(&self) -> Packages {
        Packages::Npm {
            package: include_str!("../../../../../examples/verdaccio/package.json"),
            lock: include_str!("../../../../../examples/verdaccio/package-lock.json"),
        }
    }

    fn files(&self) -> &'static [(&'static str, &'static str)] {
        &[("config.yaml", include_str!("../../../../../examples/verdaccio/config.yaml"))]
    }

    fn too_much(&self) -> f64 {
        400.0
    }

    fn prepare(&mut self, step: u64, before: Option<&Answered>) -> anyhow::Result<Option<Planned>> {
        if let Some(answer) = before {
            ensure!(
                self.wrote(answer.status, &answer.body),
                "{}, {}",
                answer.status,
                String::from_utf8_lossy(&answer.body)
            );
        }
        if let (1, Some(answer)) = (step, before) {
            let said: serde_json::Value =
                serde_json::from_slice(&answer.body).context("reading the new user's token")?;
            let token = said["token"].as_str().context("a new user gets a token")?;
            self.token = Some(field("authorization", &format!("Bearer {token}"))?);
        }
        Ok(match step {
            0 => {
                let user = json!({ "name": "team", "password": "not-a-secret" });
                let target = "/-/user/org.couchdb.user:team";
                Some(Planned::new(Method::PUT, target, JSON, user.to_string().into_bytes()))
            }
            _ if step <= SEEDS => Some(self.write(0, &seed_key(step - 1))),
            _ => None,
        })
    }

    fn write(&self, _user: u32, key: &str) -> Planned {
        let (name, archive, content) = (name(key), archive(key), content(key));
        let tarball = format!("http://registry.example/{name}/-/{archive}");
        let version = json!({
            "name": name, "version": VERSION, "description": text(key), "_id": format!("{name}@{VERSION}"),
            "dist": { "tarball": tarball },
        });
        let attached = json!({
            "content_type": "application/octet-stream", "data": STANDARD.encode(&content), "length": content.len(),
        });
        let document = json!({
            "_id": name, "name": name, "description": text(key), "dist-tags": { "latest": VERSION },
            "versions": { VERSION: version }, "_attachments": { archive: attached },
        });
        let fields = self.token.iter().cloned().collect();
        Planned { fields, ..Planned::new(Method::PUT, path(key), JSON, document.to_string().into_bytes()) }
    }

    fn wrote(&self, status: StatusCode, _body: &Bytes) -> bool {
        status == StatusCode::CREATED
    }

    fn read(&self, key: &str, rng: &mut SmallRng) -> Planned {
        if rng.random_bool(0.5) {
            return Planned::get(path(key));
        }
        Planned::get(format!("/{}/-/{}", name(key), archive(key)))
    }

    fn shows(&self, asked: &Planned, key: &str, status: StatusCode, body: &Bytes) -> bool {
        status == StatusCode::OK
            && match asked.target.ends_with(".tgz") {
                true => body.as_ref() == content(key),
                false => documents(body, key),
            }
    }

    /// Not its search: that takes some turns of its event loop for each package, and at full load seconds.
    fn list(&self, _rng: &mut SmallRng) -> Planned {
        Planned::get("/".into())
    }

    fn lists(&self, status: StatusCode, body: &Bytes) -> bool {
        status == StatusCode::OK && contains(body, "Verdaccio")
    }

    /// A second publication of a version would have been refused.
    fn found<'a>(&'a self, data: &'a Path) -> Later<'a, Found> {
        Box::pin(async move {
            let top = data.join("registry/packages");
            let mut records = BTreeMap::new();
            for dir in [top.clone(), top.join(SCOPE)] {
                for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
                    let entry = entry?;
                    let key = entry.file_name().to_string_lossy().into_owned();
                    // What was begun and refused has no archive.
                    let Ok(content) = fs::read(entry.path().join(archive(&key))) else { continue };
                    let document = fs::read(entry.path().join("package.json")).unwrap_or_default();
                    let told = if documents(&document, &key) { hash(&content) } else { "another document".into() };
                    records.insert(key, told);
                }
            }
            Ok(Found { records, doubled: Vec::new(), sound: true })
        })
    }

    fn kept(&self, key: &str) -> String {
        hash(&content(key))
    }
}
