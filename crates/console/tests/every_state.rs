//! Every page, narrow and wide, light and dark, in both languages: nothing runs out of the page, axe-core (MPL-2.0, from PyPI) finds no
//! fault, and in Korean nothing but the daemon's own words is English.
//!
//! With PUMASI_PICTURES the pictures of docs/console.md are made anew; PUMASI_SCREENSHOTS names a directory for all of them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod driver;
mod fake;

use driver::Browser;
use fake::{Daemon, Shared, TOKEN};
use std::path::{Path, PathBuf};
use std::process::Command;

const AXE: &str = "axe-playwright-python==0.1.8";
/// Every page of the navigation, and one service.
const PAGES: [&str; 13] = [
    "clouds",
    "services",
    "services/notes",
    "deploy/notes",
    "logs/notes",
    "journeys/jrn-11111111111111111111111111111111",
    "plans",
    "leases",
    "continuity",
    "pact",
    "tokens",
    "bill",
    "journal",
];
const SCREENS: [(u32, u32); 2] = [(390, 844), (1400, 900)];
/// Page, language, width, dark: what docs/console.md shows.
const SHOWN: [(&str, &str, u32, bool); 6] = [
    ("clouds", "en", 1400, false),
    ("services/notes", "en", 1400, false),
    ("journeys/jrn-11111111111111111111111111111111", "en", 1400, true),
    ("pact", "ko", 1400, false),
    ("leases", "ko", 390, false),
    ("services", "en", 390, true),
];

/// axe-core as the package has it; of the package nothing else is used. Installed once.
fn axe() -> String {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let dir = tmp.join(AXE);
    if !dir.is_dir() {
        let partial = tempfile::tempdir_in(tmp).unwrap().keep();
        let words = ["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"];
        let done =
            Command::new("python3").args(words).arg("--target").arg(&partial).arg(AXE).output().expect("python3");
        let told = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "pip (the package index must be within reach): {told}");
        if std::fs::rename(&partial, &dir).is_err() {
            assert!(dir.is_dir(), "the package cannot be kept as {}", dir.display());
            std::fs::remove_dir_all(&partial).unwrap();
        }
    }
    let found: PathBuf = ["axe_playwright_python", "axe.min.js"].iter().collect();
    std::fs::read_to_string(dir.join(found)).unwrap()
}

/// What of the page stands beyond its edge, but for what scrolls by itself.
const OVERFLOW: &str = "
    const edge = document.documentElement.clientWidth;
    const scrolls = (e) => e && e !== document.body && (/(auto|scroll|hidden)/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
    const out = [...document.querySelectorAll('body *')].filter((e) => e.getClientRects().length && e.getBoundingClientRect().right > edge + 1 && !scrolls(e.parentElement) && !e.closest('svg, .skip'));
    const wide = document.documentElement.scrollWidth > edge ? ['the page is ' + document.documentElement.scrollWidth + ' wide'] : [];
    return [...wide, ...out.map((e) => e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 40))];";

const FAULTS: &str = "
    const done = arguments[arguments.length - 1];
    axe.run(document, { resultTypes: ['violations'] }).then((r) => done(r.violations.flatMap((v) => v.nodes.map((n) => v.id + ': ' + n.html.slice(0, 160) + ' ' + (n.any[0]?.message ?? n.all[0]?.message ?? n.none[0]?.message ?? '')))), (e) => done(['axe: ' + e]));";

/// Words in Latin letters that neither are the daemon's nor stand beside Korean: units and names of protocols have no Korean.
const UNTRANSLATED: &str = "
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const bad = [];
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const text = node.data.trim();
      if (!/[A-Za-z]{4,}/.test(text) || /[가-힣]/.test(text)) continue;
      const at = node.parentElement;
      if (at.closest('[lang=en], code, textarea, pre, script, noscript, .city, .name, text.lane') || !at.getClientRects().length) continue;
      bad.push(at.tagName + '.' + at.className + ' ' + text.slice(0, 80));
    }
    return bad;";

/// The least height of a letter in a drawing, CSS pixels.
const SMALLEST: &str = "
    return Math.min(99, ...[...document.querySelectorAll('main svg text')].map((e) => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a));";

fn go(b: &Browser, page: &str) {
    b.run(&format!("location.hash = '#/{page}'"));
    let ready = format!("document.querySelector('main .page')?.dataset.key === '{}'", page.split('/').next().unwrap());
    b.wait(page, &ready);
    let loaded = match page.split('/').next().unwrap() {
        "deploy" => "document.querySelector('#manifest')?.value.includes('notes.seoul.example')",
        "logs" => "document.querySelectorAll('.log p').length > 10",
        "pact" => "document.querySelectorAll('main table').length > 2",
        "tokens" | "bill" => "document.querySelectorAll('main tbody tr').length > 1",
        "services" if page.contains('/') => "document.querySelectorAll('main tbody tr').length > 1",
        _ => "true",
    };
    b.wait(page, loaded);
    // The drawings measure the room that they have, and are made for it with the next news.
    b.run("dispatchEvent(new Event('resize'))");
}

fn every_page(lang: &str) -> Vec<String> {
    let daemon = Daemon::start("127.0.0.1:0", Shared::new(false, None));
    let b = Browser::start();
    b.open(&daemon.url());
    b.wait_text("Sign in");
    if lang == "ko" {
        b.click("button[lang=ko]");
        b.wait_text("로그인");
    }
    b.run(&format!("location.hash = '#token={TOKEN}'"));
    b.wait("signed in", "document.querySelector('main .map')");
    b.run(&axe());
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/pictures");
    std::fs::create_dir_all(&pictures).unwrap();
    let mut faults = Vec::new();
    for (width, height) in SCREENS {
        for is_dark in [false, true] {
            b.screen(width, height, is_dark);
            for page in PAGES {
                go(&b, page);
                let name = page.split("/jrn").next().unwrap().replace('/', "-");
                let state = format!("{name}-{lang}-{width}-{}", if is_dark { "dark" } else { "light" });
                let list = |found: serde_json::Value| -> Vec<String> { serde_json::from_value(found).unwrap() };
                let mut found = list(b.run(OVERFLOW));
                found.extend(list(b.run_async(FAULTS)));
                if lang == "ko" {
                    found.extend(list(b.run(UNTRANSLATED)).into_iter().map(|t| format!("not Korean: {t}")));
                }
                let smallest = b.run(SMALLEST).as_f64().unwrap();
                if smallest < 9.0 {
                    found.push(format!("letters of {smallest:.1} px in a drawing"));
                }
                faults.extend(found.into_iter().map(|f| format!("{state}: {f}")));
                b.picture(&state);
                if std::env::var_os("PUMASI_PICTURES").is_some() && SHOWN.contains(&(page, lang, width, is_dark)) {
                    b.picture_in(&pictures, &state);
                }
            }
        }
    }
    assert_eq!(b.log(), Vec::<String>::new());
    faults
}

#[test]
fn in_english_nothing_runs_out_and_axe_finds_nothing() {
    let faults = every_page("en");
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn in_korean_nothing_runs_out_axe_finds_nothing_and_nothing_is_left_in_english() {
    let faults = every_page("ko");
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}
