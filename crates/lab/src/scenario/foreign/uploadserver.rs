//! uploadserver: Python's `http.server` with uploads. Records are files.

use super::app::{App, Found, Later, MULTIPART, SEEDS, content, files, hash, multipart, multipart_end, seed_key};
use super::install::Packages;
use crate::load::{Answered, Planned};
use bytes::Bytes;
use http::{Method, StatusCode};
use rand::rngs::SmallRng;
use std::path::Path;

#[derive(Debug)]
pub struct Uploadserver;

impl App for Uploadserver {
    fn name(&self) -> &'static str {
        "files"
    }

    fn manifest(&self) -> (&'static str, &'static str) {
        ("examples/uploadserver/service.yaml", include_str!("../../../../../examples/uploadserver/service.yaml"))
    }

    fn packages(&self) -> Packages {
        Packages::Pip { requirements: include_str!("../../../../../examples/uploadserver/requirements.txt") }
    }

    fn too_much(&self) -> f64 {
        300.0
    }

    fn prepare(&mut self, step: u64, _before: Option<&Answered>) -> anyhow::Result<Option<Planned>> {
        Ok((step < SEEDS).then(|| self.write(0, &seed_key(step))))
    }

    fn write(&self, _user: u32, key: &str) -> Planned {
        let mut body = Vec::new();
        multipart(&mut body, "files", Some(&format!("{key}.bin")), &content(key));
        Planned::new(Method::POST, "/upload", MULTIPART, multipart_end(body))
    }

    fn wrote(&self, status: StatusCode, _body: &Bytes) -> bool {
        status == StatusCode::NO_CONTENT
    }

    fn read(&self, key: &str, _rng: &mut SmallRng) -> Planned {
        Planned::get(format!("/{key}.bin"))
    }

    fn shows(&self, _asked: &Planned, key: &str, status: StatusCode, body: &Bytes) -> bool {
        status == StatusCode::OK && body.as_ref() == content(key)
    }

    fn list(&self, _rng: &mut SmallRng) -> Planned {
        Planned::get("/".into())
    }

    /// It keeps a second upload of a name under another one.
    fn found<'a>(&'a self, data: &'a Path) -> Later<'a, Found> {
        Box::pin(async move {
            let files = files(&data.join("files"))?.into_iter();
            let kept =
                files.filter_map(|(name, content)| Some((name.strip_suffix(".bin")?.to_owned(), hash(&content))));
            let (doubled, records): (Vec<_>, Vec<_>) = kept.partition(|(key, _)| key.contains(" ("));
            let doubled = doubled.into_iter().map(|(key, _)| key).collect();
            Ok(Found { records: records.into_iter().collect(), doubled, sound: true })
        })
    }

    fn kept(&self, key: &str) -> String {
        hash(&content(key))
    }
}
