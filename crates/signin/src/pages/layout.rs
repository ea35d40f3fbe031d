//! What all pages have in common.

use crate::realm::Realm;
use crate::text::{Lang, Text};
use crate::web::answer::{Answer, html};
use crate::web::request::Visit;
use http::StatusCode;
use maud::{DOCTYPE, Markup, html as markup};
use pumasi_realm::PAGES;

/// What an answer tells beside the page.
#[derive(Debug, Clone, Default)]
pub struct Notice {
    pub bad: bool,
    pub text: String,
}

impl Notice {
    pub fn bad(text: impl Into<String>) -> Option<Self> {
        Some(Self { bad: true, text: text.into() })
    }
    pub fn good(text: impl Into<String>) -> Option<Self> {
        Some(Self { bad: false, text: text.into() })
    }
}

pub fn page(visit: &Visit, status: StatusCode, title: &str, notice: Option<&Notice>, main: &Markup) -> Answer {
    let text = visit.lang.text();
    let bad = notice.is_some_and(|n| n.bad);
    let whole = markup! {
        (DOCTYPE)
        html lang=(visit.lang.tag()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { @if bad { (text.problem) " · " } (title) }
                link rel="stylesheet" href=(path("style.css"));
                script src=(path("passkey.js")) defer {}
            }
            body {
                main {
                    h1 { (title) }
                    @if let Some(notice) = notice {
                        p.notice.bad[notice.bad] role=(if notice.bad { "alert" } else { "status" }) { (notice.text) }
                    }
                    @if !visit.is_secure() {
                        @let there = format!("https://{}{}", visit.host(), path(&visit.page));
                        p.notice.bad role="alert" { (fill(text.needs_https, &there)) }
                    }
                    (main)
                }
                footer {
                    nav aria-label=(text.languages) {
                        @for lang in Lang::ALL {
                            @if lang == visit.lang {
                                span aria-current="true" { (lang.name()) }
                            } @else {
                                a href=(in_lang(visit, lang)) lang=(lang.tag()) hreflang=(lang.tag()) { (lang.name()) }
                            }
                            " "
                        }
                    }
                }
            }
        }
    };
    html(status, whole)
}

/// The same page; where it came from and with which invitation go along.
fn in_lang(visit: &Visit, lang: Lang) -> String {
    let mut query = format!("?lang={}", lang.tag());
    for name in ["return", "invitation", "again"] {
        if visit.query.has(name) {
            query.push_str(&format!("&{name}={}", crate::web::parse::escape(visit.query.get(name))));
        }
    }
    format!("{}{query}", path(&visit.page))
}

pub fn path(page: &str) -> String {
    format!("{PAGES}{page}")
}

/// A text with what its `{}` stands for.
pub fn fill(text: &str, value: &str) -> String {
    text.replacen("{}", value, 1)
}

pub fn service(realm: &Realm) -> &str {
    realm.settings.service.as_str()
}

/// What each form begins with.
pub fn token(visit: &Visit) -> Markup {
    markup! { input type="hidden" name="token" value=(visit.token()); }
}

/// One input with its label, and a hint that it is read out with.
#[derive(Debug, Clone, Copy)]
pub struct Field<'a> {
    pub name: &'a str,
    pub label: &'a str,
    pub kind: &'a str,
    pub value: &'a str,
    pub hint: &'a str,
    pub autocomplete: &'a str,
    pub required: bool,
    pub bytes_max: usize,
}

impl Default for Field<'_> {
    fn default() -> Self {
        Self {
            name: "",
            label: "",
            kind: "text",
            value: "",
            hint: "",
            autocomplete: "off",
            required: true,
            bytes_max: 128,
        }
    }
}

impl Field<'_> {
    pub fn show(&self, text: &Text) -> Markup {
        let hint = format!("{}-hint", self.name);
        // Names of people and things are written as they are; logins and secrets are not words.
        let word = !matches!(self.name, "login" | "password" | "email" | "confirm");
        markup! {
            div.field {
                label for=(self.name) {
                    (self.label)
                    @if !self.required { " " small { "(" (text.optional) ")" } }
                }
                input id=(self.name) name=(self.name) type=(self.kind) value=(self.value) autocomplete=(self.autocomplete)
                    maxlength=(self.bytes_max) required[self.required] aria-describedby=[(!self.hint.is_empty()).then_some(&hint)]
                    autocapitalize=(if word { "sentences" } else { "none" }) spellcheck=(if word { "true" } else { "false" });
                @if !self.hint.is_empty() { small.hint id=(hint) { (self.hint) } }
            }
        }
    }
}

/// A button that acts at once.
pub fn act(visit: &Visit, to: &str, hidden: &[(&str, &str)], label: &str, about: &str) -> Markup {
    let of = format!("{label}: {about}");
    markup! {
        form.act method="post" action=(path(to)) {
            (token(visit))
            @for (name, value) in hidden { input type="hidden" name=(name) value=(value); }
            button.quiet type="submit" aria-label=[(!about.is_empty()).then_some(&of)] { (label) }
        }
    }
}

/// Says what happens with a passkey; `passkey.js` fills it.
pub fn passkey_status(realm: &Realm, text: &Text) -> Markup {
    markup! {
        p.notice.passkey-status role="status" hidden
            data-waiting=(text.passkey_waiting) data-unsupported=(text.passkey_unsupported)
            data-cancelled=(text.passkey_cancelled) data-failed=(fill(text.passkey_refused, realm.challenges.rp_id())) {}
        noscript { p { (text.needs_script) } }
    }
}

pub fn day(at_ms: u64) -> Markup {
    let (year, month, day) = civil(at_ms / 86_400_000);
    let date = format!("{year:04}-{month:02}-{day:02}");
    markup! { time datetime=(date) { (date) } }
}

/// Days since 1970 as a date (Howard Hinnant's `civil_from_days`, for days after 1970 only).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for (day, date) in [(0, (1970, 1, 1)), (58, (1970, 2, 28)), (11_016, (2000, 2, 29)), (20_788, (2026, 12, 1))] {
            assert_eq!(civil(day), date);
        }
    }
}
