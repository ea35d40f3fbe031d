//! Django: a project and its admin. Records are objects with a row each, some with an uploaded file.
//!
//! All users have the session of the one that logged in by the form; what they write goes through the admin's own form.

use super::app::FORM;
use super::app::{
    App, Found, Later, MULTIPART, SEEDS, contains, content, escaped, files, hash, kind, multipart, multipart_end, rows,
    seed_key, text,
};
use super::install::Packages;
use crate::load::{Answered, Planned};
use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::path::Path;

macro_rules! project {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../../../../examples/django/project/", $path)))),*]
    };
}

const LOGIN: &str = "/admin/login/";
const ADD: &str = "/admin/notes/note/add/";
const TOKEN_FIELD: &str = "name=\"csrfmiddlewaretoken\" value=\"";

#[derive(Debug, Default)]
pub struct Django {
    cookies: BTreeMap<String, String>,
    /// The form's, against requests that other sites make.
    token: String,
}

fn has_file(key: &str) -> bool {
    kind(key, 3) == 0
}

/// As a user's disk has it; the application makes the space an underscore.
fn upload_name(key: &str) -> String {
    format!("{key} \u{d68c}\u{c758}\u{b85d}.bin")
}

fn kept_name(key: &str) -> String {
    upload_name(key).replace(' ', "_")
}

fn take_cookies(cookies: &mut BTreeMap<String, String>, answer: &Answered) {
    for line in answer.headers.get_all(header::SET_COOKIE).iter().filter_map(|v| v.to_str().ok()) {
        if let Some((name, value)) = line.split(';').next().and_then(|pair| pair.trim().split_once('=')) {
            cookies.insert(name.into(), value.into());
        }
    }
}

fn form_token(answer: &Answered) -> anyhow::Result<String> {
    let page = String::from_utf8_lossy(&answer.body);
    let (_, rest) =
        page.split_once(TOKEN_FIELD).with_context(|| format!("no form in {}: {page:.200}", answer.status))?;
    Ok(rest.split('"').next().unwrap_or_default().to_owned())
}

impl Django {
    /// Before the load has jars of its own.
    fn with_cookies(&self, planned: Planned) -> anyhow::Result<Planned> {
        let line: Vec<String> = self.cookies.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let line = HeaderValue::from_str(&line.join("; ")).context("cookies")?;
        Ok(Planned { fields: vec![(header::COOKIE, line)], ..planned })
    }
}

impl App for Django {
    fn name(&self) -> &'static str {
        "django"
    }

    fn manifest(&self) -> (&'static str, &'static str) {
        ("examples/django/service.yaml", include_str!("../../../../../examples/django/service.yaml"))
    }

    fn packages(&self) -> Packages {
        Packages::Pip { requirements: include_str!("../../../../../examples/django/requirements.txt") }
    }

    fn files(&self) -> &'static [(&'static str, &'static str)] {
        project!(
            "start.sh",
            "manage.py",
            "desk/__init__.py",
            "desk/settings.py",
            "desk/urls.py",
            "desk/wsgi.py",
            "notes/__init__.py",
            "notes/admin.py",
            "notes/models.py",
            "notes/migrations/__init__.py",
            "notes/migrations/0001_initial.py",
        )
    }

    fn too_much(&self) -> f64 {
        80.0
    }

    fn prepare(&mut self, step: u64, before: Option<&Answered>) -> anyhow::Result<Option<Planned>> {
        if let Some(answer) = before {
            let wanted = if matches!(step, 1 | 3) { StatusCode::OK } else { StatusCode::FOUND };
            ensure!(answer.status == wanted, "{}, {}", answer.status, String::from_utf8_lossy(&answer.body));
            take_cookies(&mut self.cookies, answer);
            if matches!(step, 1 | 3) {
                self.token = form_token(answer)?;
            }
        }
        // What it says to the user once is for nobody here.
        self.cookies.remove("messages");
        let planned = match step {
            0 => Planned::get(LOGIN.into()),
            1 => {
                let password = self.service()?.spec.application.env.get("DJANGO_SUPERUSER_PASSWORD").cloned();
                let password = password.context("the manifest names the password")?;
                let form =
                    format!("csrfmiddlewaretoken={}&username=admin&password={password}&next=/admin/", self.token);
                Planned::new(Method::POST, LOGIN, FORM, form.into_bytes())
            }
            2 => Planned::get(ADD.into()),
            _ if step < 3 + SEEDS => self.write(0, &seed_key(step - 3)),
            _ => return Ok(None),
        };
        self.with_cookies(planned).map(Some)
    }

    fn cookies(&self) -> Vec<(String, String)> {
        self.cookies.clone().into_iter().collect()
    }

    fn write(&self, _user: u32, key: &str) -> Planned {
        let mut body = Vec::new();
        multipart(&mut body, "csrfmiddlewaretoken", None, self.token.as_bytes());
        multipart(&mut body, "key", None, key.as_bytes());
        multipart(&mut body, "body", None, text(key).as_bytes());
        match has_file(key) {
            true => multipart(&mut body, "attachment", Some(&upload_name(key)), &content(key)),
            // As browsers send a field without a file.
            false => multipart(&mut body, "attachment", Some(""), b""),
        }
        Planned::new(Method::POST, ADD, MULTIPART, multipart_end(body))
    }

    /// The form comes back with 200 where the object was not made.
    fn wrote(&self, status: StatusCode, _body: &Bytes) -> bool {
        status == StatusCode::FOUND
    }

    fn read(&self, key: &str, rng: &mut SmallRng) -> Planned {
        if has_file(key) && rng.random_bool(0.5) {
            return Planned::get(format!("/media/notes/{}", escaped(&kept_name(key))));
        }
        Planned::get(format!("/admin/notes/note/{key}/change/"))
    }

    fn shows(&self, asked: &Planned, key: &str, status: StatusCode, body: &Bytes) -> bool {
        status == StatusCode::OK
            && match asked.target.starts_with("/media/") {
                true => body.as_ref() == content(key),
                false => contains(body, &text(key)),
            }
    }

    fn list(&self, _rng: &mut SmallRng) -> Planned {
        Planned::get(format!("/admin/notes/note/?q={}", seed_key(0)))
    }

    fn lists(&self, status: StatusCode, body: &Bytes) -> bool {
        status == StatusCode::OK && contains(body, &text(&seed_key(0)))
    }

    /// A second object of a key would have been refused.
    fn found<'a>(&'a self, data: &'a Path) -> Later<'a, Found> {
        Box::pin(async move {
            let dump = rows(&data.join("db/db.sqlite3"), "SELECT key, body, attachment FROM notes_note").await?;
            let uploaded: BTreeMap<String, Vec<u8>> = files(&data.join("media/notes"))?.into_iter().collect();
            let mut records = BTreeMap::new();
            for row in dump.rows {
                let [key, body, attachment] =
                    <[String; 3]>::try_from(row).map_err(|row| anyhow::anyhow!("a row of {} columns", row.len()))?;
                let file = uploaded.get(attachment.trim_start_matches("notes/")).map(|content| hash(content));
                records.insert(key, format!("{body} {}", file.unwrap_or_default()));
            }
            Ok(Found { records, doubled: Vec::new(), sound: dump.ok })
        })
    }

    fn kept(&self, key: &str) -> String {
        let file = if has_file(key) { hash(&content(key)) } else { String::new() };
        format!("{} {file}", text(key))
    }
}
