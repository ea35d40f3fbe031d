//! What the scenario must know of an application that it did not write: one file each beside this one.
//!
//! Always holds: contents follow from their keys, so that nothing but keys is remembered.

use super::install::{Packages, python};
use super::{django, radicale, sqlite_web, uploadserver, verdaccio};
use crate::load::{Answered, Planned};
use anyhow::Context;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use pumasi_terms::service::Service;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::fs;
use std::path::Path;
use std::pin::Pin;

/// Records that are there before the load.
pub const SEEDS: u64 = 100;
pub const FORM: &str = "application/x-www-form-urlencoded";
pub const MULTIPART: &str = "multipart/form-data; boundary=pumasi-lab-part";
const FILE_BYTES: std::ops::Range<u64> = 400..20_000;

pub type Later<'a, T> = Pin<Box<dyn Future<Output = anyhow::Result<T>> + Send + 'a>>;

pub trait App: Debug + Send + Sync {
    /// As `--app` names it.
    fn name(&self) -> &'static str;
    /// Path and text.
    fn manifest(&self) -> (&'static str, &'static str);
    fn packages(&self) -> Packages;
    /// Files of `examples/` that lie in the bundle beside the packages: a project, a configuration.
    fn files(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }
    /// Requests a second that no instance of its size answers.
    fn too_much(&self) -> f64;

    /// What has to be done before the load, one request after the other; `None`: that was all. `before` is the answer to the last one.
    fn prepare(&mut self, step: u64, before: Option<&Answered>) -> anyhow::Result<Option<Planned>>;
    /// What every user has from then on, besides its own.
    fn cookies(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn write(&self, user: u32, key: &str) -> Planned;
    fn wrote(&self, status: StatusCode, body: &Bytes) -> bool;
    /// Safe methods only.
    fn read(&self, key: &str, rng: &mut SmallRng) -> Planned;
    /// Whether this answers a read of the record as it was written.
    fn shows(&self, asked: &Planned, key: &str, status: StatusCode, body: &Bytes) -> bool;
    /// A page about many records.
    fn list(&self, rng: &mut SmallRng) -> Planned;
    fn lists(&self, status: StatusCode, body: &Bytes) -> bool {
        status == StatusCode::OK && contains(body, &seed_key(0))
    }

    /// Reads what lies in the service's directories, past the application.
    fn found<'a>(&'a self, data: &'a Path) -> Later<'a, Found>;
    /// What must be found of a record.
    fn kept(&self, key: &str) -> String;

    fn service(&self) -> anyhow::Result<Service> {
        let (file, text) = self.manifest();
        pumasi_terms::manifest::services(file, text)?.into_iter().next().context("a manifest of one service")
    }
}

#[derive(Debug)]
pub struct Found {
    /// By key.
    pub records: BTreeMap<String, String>,
    /// What can be there only if a write was executed twice.
    pub doubled: Vec<String>,
    /// Where the store itself can tell.
    pub sound: bool,
}

pub fn all() -> Vec<Box<dyn App>> {
    vec![
        Box::new(uploadserver::Uploadserver),
        Box::new(sqlite_web::SqliteWeb),
        Box::<django::Django>::default(),
        Box::new(radicale::Radicale),
        Box::<verdaccio::Verdaccio>::default(),
    ]
}

pub fn seed_key(n: u64) -> String {
    format!("seed-{n}")
}

/// A line of a record.
pub fn text(key: &str) -> String {
    blake3::hash(key.as_bytes()).to_hex().chars().take(40).collect()
}

/// A file of a record: short ones too, because applications take them another way than long ones.
pub fn content(key: &str) -> Vec<u8> {
    let mut noise = blake3::Hasher::new().update(key.as_bytes()).finalize_xof();
    let mut length = [0; 8];
    noise.fill(&mut length);
    let bytes = FILE_BYTES.start + u64::from_le_bytes(length) % (FILE_BYTES.end - FILE_BYTES.start);
    let mut content = vec![0; usize::try_from(bytes).unwrap_or_default()];
    noise.fill(&mut content);
    content
}

/// One of `kinds` that a key is of.
pub fn kind(key: &str, kinds: u8) -> u8 {
    blake3::hash(key.as_bytes()).as_bytes()[31] % kinds
}

pub fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

pub fn contains(body: &[u8], text: &str) -> bool {
    body.windows(text.len().max(1)).any(|w| w == text.as_bytes())
}

/// One segment of a path.
pub fn escaped(name: &str) -> String {
    name.bytes().fold(String::new(), |mut done, b| {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => done.push(char::from(b)),
            // Writing to a string does not fail.
            _ => drop(write!(done, "%{b:02X}")),
        }
        done
    })
}

pub fn field(name: &'static str, value: &str) -> anyhow::Result<(HeaderName, HeaderValue)> {
    Ok((HeaderName::from_static(name), value.parse().with_context(|| format!("{name}: {value:?}"))?))
}

/// One part of a form with files; the last is followed by [`multipart_end`].
pub fn multipart(body: &mut Vec<u8>, name: &str, file_name: Option<&str>, content: &[u8]) {
    let file =
        file_name.map_or(String::new(), |f| format!("; filename=\"{f}\"\r\nContent-Type: application/octet-stream"));
    body.extend(format!("--pumasi-lab-part\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").bytes());
    body.extend(content);
    body.extend(b"\r\n");
}

pub fn multipart_end(mut body: Vec<u8>) -> Vec<u8> {
    body.extend(b"--pumasi-lab-part--\r\n");
    body
}

/// Read by Python's own SQLite, which had no part in moving it.
const DUMP: &str = "
import json, sqlite3, sys
db = sqlite3.connect('file:' + sys.argv[1] + '?mode=ro', uri=True)
ok = [row[0] for row in db.execute('PRAGMA integrity_check')]
print(json.dumps({'ok': ok == ['ok'], 'rows': [list(row) for row in db.execute(sys.argv[2])]}))
";

#[derive(serde::Deserialize)]
pub struct Rows {
    pub ok: bool,
    pub rows: Vec<Vec<String>>,
}

pub async fn rows(database: &Path, select: &str) -> anyhow::Result<Rows> {
    let path = database.display().to_string();
    let said = python(&["-c", DUMP, &path, select]).await.context("reading the database at home")?;
    serde_json::from_slice(&said).context("reading the rows")
}

/// Names and contents of the plain files in a directory.
pub fn files(dir: &Path) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pumasi_terms::service::DatasetKind;

    #[test]
    fn the_manifests_are_ones_that_the_daemon_reads() {
        let kinds: Vec<_> = all()
            .iter()
            .flat_map(|a| a.service().unwrap().spec.datasets.into_iter().map(|d| (a.name(), d.kind)))
            .collect();
        let wanted = [
            ("files", DatasetKind::Files),
            ("sqlite", DatasetKind::Sqlite),
            ("django", DatasetKind::Sqlite),
            ("django", DatasetKind::Files),
            ("radicale", DatasetKind::Files),
            ("node", DatasetKind::Files),
        ];
        assert_eq!(kinds, wanted);
    }

    #[test]
    fn every_package_has_its_exact_version() {
        for app in all() {
            match app.packages() {
                Packages::Pip { requirements } => assert!(requirements.lines().all(|l| l.contains("=="))),
                Packages::Npm { lock, .. } => assert!(lock.contains("\"integrity\": \"sha512-")),
            }
        }
    }

    #[test]
    fn names_are_escaped_as_paths_have_them() {
        assert_eq!(escaped("u3-5 \u{fc}.ics"), "u3-5%20%C3%BC.ics");
        assert_eq!(escaped("@team/x"), "%40team%2Fx");
    }
}
