//! `pumasi diff`: what an apply would change, as a unified diff of YAML.

use crate::failure::{Exit, Failure};
use crate::manifests;
use crate::output::{self, Format, Tone, paint};
use crate::session::Session;
use pumasi_api::message::ServiceView;
use pumasi_terms::service::Service;
use serde_json::json;
use similar::{ChangeTag, TextDiff};
use std::path::PathBuf;

/// Lines around a change.
const AROUND: usize = 3;

pub async fn diff(session: &Session, files: &[PathBuf]) -> Result<(), Failure> {
    let mut items = manifests::items(files)?;
    manifests::pack(&mut items).await?;
    let (mut text, mut told) = (String::new(), Vec::new());
    for item in &items {
        let name = &item.service.metadata.name;
        let stored = match session.client.get::<ServiceView>(&format!("/v1/services/{name}")).await {
            Ok(view) => Some(view.service),
            Err(error) if error.problem().is_some_and(|p| p.status == 404) => None,
            Err(error) => return Err(error.into()),
        };
        let before = stored.map(plain).transpose()?.unwrap_or_default();
        let after = plain(item.service.clone())?;
        if before != after {
            text.push_str(&unified(&format!("service/{name}"), &before, &after, session.colours));
            told.push(json!({ "name": name, "before": before, "after": after }));
        }
    }
    match session.global.output {
        Format::Table => output::print(&text)?,
        Format::Json => output::print(&output::json(&told)?)?,
        Format::Yaml => output::print(&output::yaml(&told)?)?,
        Format::Name => {
            let names = told.iter().filter_map(|t| t["name"].as_str()).map(|n| format!("service/{n}\n"));
            output::print(&names.collect::<String>())?;
        }
    }
    // As diff and kubectl do: that there are differences is an exit code, and no failure.
    if told.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Failed, "")) }
}

/// As it is written, without what only the daemon knows.
fn plain(mut service: Service) -> Result<String, Failure> {
    service.metadata.revision = None;
    output::yaml(&service)
}

fn unified(title: &str, before: &str, after: &str, colours: bool) -> String {
    let diff = TextDiff::from_lines(before, after);
    let mut out = paint(&format!("--- {title} in force"), Tone::Head, colours) + "\n";
    out.push_str(&(paint(&format!("+++ {title} to be"), Tone::Head, colours) + "\n"));
    for hunk in diff.unified_diff().context_radius(AROUND).iter_hunks() {
        out.push_str(&format!("{}\n", hunk.header()));
        for change in hunk.iter_changes() {
            let (sign, tone) = match change.tag() {
                ChangeTag::Delete => ('-', Tone::Bad),
                ChangeTag::Insert => ('+', Tone::Good),
                ChangeTag::Equal => (' ', Tone::Plain),
            };
            let line = format!("{sign}{}", output::line(change.value().trim_end_matches('\n')));
            out.push_str(&(paint(&line, tone, colours) + "\n"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_told_with_its_surroundings() {
        let before: String = (1..=20).map(|n| format!("line {n}\n")).collect();
        let after = before.replace("line 10\n", "line ten\n");
        let told = unified("service/a", &before, &after, false);
        assert!(told.starts_with("--- service/a in force\n+++ service/a to be\n@@ -7,7 +7,7 @@\n"), "{told}");
        assert!(told.contains("\n-line 10\n+line ten\n line 11\n"), "{told}");
        assert!(!told.contains("line 3\n"));
    }
}
