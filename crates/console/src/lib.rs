//! The web console: static files over the public API only, no build step; and the forwarder that brings them to a browser.
//!
//! Enters: a path below `/console/`. Leaves: a file, or nothing.
//! Always holds: every file that the page asks for is here; nothing is loaded from elsewhere, and no script or style stands inside the page,
//! so that [`CONTENT_SECURITY_POLICY`] holds.

mod forward;

pub use forward::{ForwardError, Forwarder};

use std::sync::LazyLock;

/// Send it with every file: only what this daemon serves may run, be shown or be called.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// One file of the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    pub path: &'static str,
    pub content_type: &'static str,
    pub bytes: &'static [u8],
    /// Strong (RFC 9110, 8.8.3): another content has another one.
    pub etag: String,
}

macro_rules! files {
    ($($path:literal),* $(,)?) => { [$(($path, include_bytes!(concat!("../web/", $path)).as_slice())),*] };
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let files: [(&str, &[u8]); 29] = files![
        "index.html",
        "console.css",
        "icon.svg",
        "acts.js",
        "api.js",
        "chart.js",
        "dom.js",
        "format.js",
        "land.js",
        "logs.js",
        "main.js",
        "map.js",
        "page-bill.js",
        "page-clouds.js",
        "page-continuity.js",
        "page-deploy.js",
        "page-journal.js",
        "page-journeys.js",
        "page-leases.js",
        "page-logs.js",
        "page-pact.js",
        "page-plans.js",
        "page-service.js",
        "page-services.js",
        "page-tokens.js",
        "parts.js",
        "state.js",
        "text.js",
        "words.js",
    ];
    let asset = |(path, bytes)| Asset { path, content_type: content_type(path), bytes, etag: etag(bytes) };
    files.into_iter().map(asset).collect()
});

/// The file at `path` below `/console/`; the directory itself is its `index.html`.
pub fn asset(path: &str) -> Option<&'static Asset> {
    let path = path.trim_start_matches('/');
    let path = if path.is_empty() { "index.html" } else { path };
    ASSETS.iter().find(|a| a.path == path)
}

pub fn assets() -> &'static [Asset] {
    &ASSETS
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

/// FNV-1a and the length: the files are ours, so only accidents matter.
fn etag(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    format!("\"{hash:016x}-{:x}\"", bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn text(asset: &Asset) -> &'static str {
        std::str::from_utf8(asset.bytes).unwrap()
    }

    /// What stands between `before` and the next quote.
    fn quoted(text: &str, before: &str) -> Vec<String> {
        text.split(before).skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
    }

    #[test]
    fn every_file_that_is_asked_for_is_here_and_none_comes_from_elsewhere() {
        for a in assets() {
            let mut wanted = quoted(text(a), "from \"./");
            if a.path == "index.html" {
                wanted.extend(quoted(text(a), "href=\"").into_iter().filter(|h| !h.starts_with('#')));
                wanted.extend(quoted(text(a), "src=\""));
            }
            for path in wanted {
                assert!(asset(&path).is_some(), "{} asks for {path}", a.path);
            }
            let elsewhere = text(a).replace("http://www.w3.org/2000/svg", "");
            assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"), "{}", a.path);
        }
    }

    #[test]
    fn nothing_in_the_page_or_the_scripts_needs_more_than_the_policy_allows() {
        let page = text(asset("").unwrap());
        assert_eq!(page.matches("<script").count(), page.matches("<script type=\"module\" src=").count());
        assert!(!page.contains("<style") && !page.contains("style=") && !page.contains(" on"), "inline code");
        for a in assets().iter().filter(|a| a.path.ends_with(".js")) {
            for banned in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "style:"]
            {
                assert!(!text(a).contains(banned), "{} holds {banned}", a.path);
            }
        }
    }

    #[test]
    fn the_directory_on_disk_is_the_directory_embedded() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/web");
        let disk: BTreeSet<String> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(disk, assets().iter().map(|a| a.path.to_owned()).collect());
    }

    /// What stands in quotes right after each `before`, as JavaScript and JSON write it.
    fn literals(text: &str, before: &str) -> Vec<String> {
        let rest = text.split(before).skip(1).filter(|rest| rest.trim_start().starts_with('"'));
        rest.map(|rest| serde_json::Deserializer::from_str(rest).into_iter::<String>().next().unwrap().unwrap())
            .collect()
    }

    /// English and Korean of each text.
    fn texts() -> BTreeMap<String, String> {
        let table = text(asset("text.js").unwrap()).split("const KOREAN = {").nth(1).unwrap();
        let lines = table.lines().filter_map(|l| l.trim().strip_suffix(',')).filter(|l| l.starts_with('"'));
        let pairs: Vec<_> =
            lines.map(|l| serde_json::from_str::<BTreeMap<String, String>>(&format!("{{{l}}}")).unwrap()).collect();
        let count = pairs.len();
        let texts: BTreeMap<_, _> = pairs.into_iter().flatten().collect();
        assert_eq!(texts.len(), count, "a text stands twice");
        texts
    }

    #[test]
    fn every_text_has_both_languages_and_none_is_left_over() {
        let texts = texts();
        let mut said = BTreeSet::new();
        for a in assets().iter().filter(|a| a.path.ends_with(".js") && a.path != "text.js") {
            for before in ["(", " ", "!", "`", "{", "["] {
                said.extend(literals(text(a), &format!("{before}t(")));
            }
            let calls = text(a).matches(" t(").count() + text(a).matches("(t(").count();
            let told = literals(text(a), " t(").len() + literals(text(a), "(t(").len();
            assert_eq!(calls, told, "{} translates what is no literal", a.path);
        }
        assert_eq!(
            said.difference(&texts.keys().cloned().collect()).collect::<Vec<_>>(),
            Vec::<&String>::new(),
            "without Korean"
        );
        assert_eq!(
            texts.keys().filter(|k| !said.contains(*k)).collect::<Vec<_>>(),
            Vec::<&String>::new(),
            "said nowhere"
        );
        let holes = |text: &str| -> BTreeSet<String> {
            text.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0.to_owned())).collect()
        };
        for (english, korean) in &texts {
            assert_eq!(holes(english), holes(korean), "{english}");
            let is_hangul = |c: char| ('가'..='힣').contains(&c);
            assert!(korean.chars().any(is_hangul), "not Korean: {korean}");
            assert!(!english.chars().any(is_hangul), "not English: {english}");
        }
    }

    #[test]
    fn what_is_not_here_is_not_found() {
        for path in ["../Cargo.toml", "main", "index.html/", "a/../index.html"] {
            assert!(asset(path).is_none(), "{path}");
        }
        assert_eq!(asset("/"), asset("index.html"));
    }
}
