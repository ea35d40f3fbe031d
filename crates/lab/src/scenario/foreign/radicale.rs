//! Radicale: a calendar server. Records are items, a file each: those of the seed in one calendar, what users write in others.
//!
//! Some have names as people give them: of other scripts, with spaces, as long as a file's name can be.

use super::app::{App, Found, Later, SEEDS, contains, escaped, files, hash, kind, seed_key, text};
use super::install::Packages;
use crate::load::{Answered, Planned};
use anyhow::ensure;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::path::Path;

/// The one that is listed: what a list costs grows with it.
const PLANS: &str = "/team/plans/";
/// Calendars that users write in: for each item that it takes the server looks through all that the calendar has.
const DIARIES: u64 = 20;
const ICS: &str = "text/calendar; charset=utf-8";
const XML: &str = "application/xml; charset=utf-8";
const NAME_BYTES_MAX: usize = 255;
/// Of user `team` with any password.
const TEAM: HeaderValue = HeaderValue::from_static("Basic dGVhbTp4");
const LIST: &str = r#"<?xml version="1.0"?><d:propfind xmlns:d="DAV:"><d:prop><d:getetag/></d:prop></d:propfind>"#;
/// What telephones ask for first. The server writes down which state it answered with.
const SYNC: &str = r#"<?xml version="1.0"?><d:sync-collection xmlns:d="DAV:"><d:sync-token/><d:sync-level>1</d:sync-level><d:prop><d:getetag/></d:prop></d:sync-collection>"#;

#[derive(Debug)]
pub struct Radicale;

/// What follows the key is no part of it.
fn file_name(key: &str) -> String {
    match kind(key, 8) {
        0 => format!("{key} Besprechung \u{fc}ber \u{d68c}\u{c758} \u{1f4c5}.ics"),
        1 => format!("{key} {}.ics", "x".repeat(NAME_BYTES_MAX.saturating_sub(key.len() + " .ics".len()))),
        _ => format!("{key}.ics"),
    }
}

/// In the order in which the server writes properties, so that its file is this to the byte.
fn item(key: &str) -> String {
    format!(
        "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//Pumasi//Lab//EN\r\nBEGIN:VEVENT\r\nUID:{key}\r\n\
         DTSTART:20260105T090000Z\r\nDESCRIPTION:{}\r\nDTSTAMP:20260101T000000Z\r\n\
         SUMMARY:Besprechung \u{fc}ber \u{d68c}\u{c758}\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n",
        text(key)
    )
}

fn diary(n: u64) -> String {
    format!("/team/diary-{n}/")
}

fn calendar(key: &str) -> String {
    let user = key.strip_prefix('u').and_then(|rest| rest.split('-').next()?.parse::<u64>().ok());
    user.map_or(PLANS.to_owned(), |user| diary(user % DIARIES))
}

fn path(key: &str) -> String {
    format!("{}{}", calendar(key), escaped(&file_name(key)))
}

fn asked(method: &'static [u8], target: String, content_type: &'static str, body: String) -> Planned {
    // The names here are tokens.
    let method = Method::from_bytes(method).unwrap_or_default();
    let fields = vec![(header::AUTHORIZATION, TEAM), (HeaderName::from_static("depth"), HeaderValue::from_static("1"))];
    Planned { fields, ..Planned::new(method, target, content_type, body.into_bytes()) }
}

impl App for Radicale {
    fn name(&self) -> &'static str {
        "radicale"
    }

    fn manifest(&self) -> (&'static str, &'static str) {
        ("examples/radicale/service.yaml", include_str!("../../../../../examples/radicale/service.yaml"))
    }

    fn packages(&self) -> Packages {
        Packages::Pip { requirements: include_str!("../../../../../examples/radicale/requirements.txt") }
    }

    fn too_much(&self) -> f64 {
        200.0
    }

    fn prepare(&mut self, step: u64, before: Option<&Answered>) -> anyhow::Result<Option<Planned>> {
        if let Some(answer) = before {
            ensure!(
                answer.status == StatusCode::CREATED,
                "{}, {}",
                answer.status,
                String::from_utf8_lossy(&answer.body)
            );
        }
        Ok(match step {
            0 => Some(asked(b"MKCALENDAR", PLANS.into(), "", String::new())),
            _ if step <= DIARIES => Some(asked(b"MKCALENDAR", diary(step - 1), "", String::new())),
            _ if step <= DIARIES + SEEDS => Some(self.write(0, &seed_key(step - DIARIES - 1))),
            _ => None,
        })
    }

    fn write(&self, _user: u32, key: &str) -> Planned {
        asked(b"PUT", path(key), ICS, item(key))
    }

    fn wrote(&self, status: StatusCode, _body: &Bytes) -> bool {
        status == StatusCode::CREATED
    }

    fn read(&self, key: &str, rng: &mut SmallRng) -> Planned {
        if rng.random_bool(0.7) {
            return asked(b"GET", path(key), "", String::new());
        }
        let wanted = format!(
            "<?xml version=\"1.0\"?><c:calendar-multiget xmlns:d=\"DAV:\" xmlns:c=\"urn:ietf:params:xml:ns:caldav\">\
             <d:prop><d:getetag/><c:calendar-data/></d:prop><d:href>{}</d:href></c:calendar-multiget>",
            path(key)
        );
        asked(b"REPORT", calendar(key), XML, wanted)
    }

    fn shows(&self, asked: &Planned, key: &str, status: StatusCode, body: &Bytes) -> bool {
        match asked.method == Method::GET {
            true => status == StatusCode::OK && body.as_ref() == item(key).as_bytes(),
            false => status == StatusCode::MULTI_STATUS && contains(body, &text(key)),
        }
    }

    fn list(&self, rng: &mut SmallRng) -> Planned {
        let (method, body) = if rng.random_bool(0.5) { (&b"PROPFIND"[..], LIST) } else { (&b"REPORT"[..], SYNC) };
        asked(method, PLANS.into(), XML, body.into())
    }

    fn lists(&self, status: StatusCode, body: &Bytes) -> bool {
        status == StatusCode::MULTI_STATUS && contains(body, &path(&seed_key(0)))
    }

    fn found<'a>(&'a self, data: &'a Path) -> Later<'a, Found> {
        Box::pin(async move {
            let mut records = BTreeMap::new();
            for calendar in (0..DIARIES).map(diary).chain([PLANS.to_owned()]) {
                let dir = data.join("calendars/collection-root").join(calendar.trim_matches('/'));
                records.extend(files(&dir)?.into_iter().filter_map(|(name, content)| {
                    let key = name.strip_suffix(".ics")?.split(' ').next()?.to_owned();
                    (file_name(&key) == name).then(|| (key, hash(&content)))
                }));
            }
            Ok(Found { records, doubled: Vec::new(), sound: true })
        })
    }

    fn kept(&self, key: &str) -> String {
        hash(item(key).as_bytes())
    }
}
