//! The quarantine: directories that no record explains, set aside for a day before they go.
//!
//! Enters: paths in the data directory, why they are stray. Leaves: the same bytes below `quarantine/`, back in their place, or erased.
//! Always holds: nothing is moved without a note beside it that says from where; nothing is erased before its day is over, except by a
//! person's word; no instance sees any of it.

use crate::node::Note;
use crate::{Node, clock};
use pumasi_api::Problem;
use pumasi_api::message::Quarantined;
use pumasi_terms::WallMs;
use serde::{Deserialize, Serialize};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Time to look at it.
const KEPT_MS: u64 = 24 * 3_600_000;
const NOTE: &str = "note.json";

/// Lies beside what was moved.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Label {
    version: u32,
    at: WallMs,
    what: String,
    why: String,
    /// Relative to the data directory; the first lies beside as `0`, and so on.
    from: Vec<PathBuf>,
}

fn dir(node: &Node) -> PathBuf {
    node.dir("quarantine")
}

fn failed(doing: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Problem {
    let text = format!("{doing} {}", path.display());
    move |e| Problem::ours(format!("{text}: {e}"))
}

/// Moves what is stray out of the way, all of it under one name.
pub async fn put(node: &Node, what: &str, paths: &[&Path], why: &str) -> Result<(), Problem> {
    let data = &node.config.cloud.data_dir;
    let relative = |p: &&Path| p.strip_prefix(data).unwrap_or(p).to_owned();
    let label = Label {
        version: 1,
        at: clock::wall(),
        what: what.to_owned(),
        why: why.to_owned(),
        from: paths.iter().map(relative).collect(),
    };
    let to = dir(node).join(format!("{}-{what}", label.at.0));
    move_in(&to, &label, paths)?;
    let text = format!("{why}; it is kept for a day as {}; see `pumasi quarantine list`", to.display());
    tracing::error!(%what, "{text}");
    node.note("daemon", Note::new("quarantined", "directory", what).because(text)).await;
    Ok(())
}

fn move_in(to: &Path, label: &Label, paths: &[&Path]) -> Result<(), Problem> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(to).map_err(failed("making", to))?;
    let note = to.join(NOTE);
    let text = serde_json::to_vec_pretty(label).map_err(|e| Problem::ours(e.to_string()))?;
    // The note first: what is moved without one could not be put back.
    std::fs::write(&note, text).map_err(failed("writing", &note))?;
    std::fs::File::open(&note).and_then(|f| f.sync_all()).map_err(failed("writing", &note))?;
    for (n, path) in paths.iter().enumerate() {
        match std::fs::rename(path, to.join(n.to_string())) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed("setting aside", path)(e)),
            _ => {}
        }
    }
    Ok(())
}

fn label(entry: &Path) -> Result<Label, Problem> {
    let note = entry.join(NOTE);
    let text = std::fs::read(&note).map_err(failed("reading", &note))?;
    serde_json::from_slice(&text).map_err(|e| Problem::ours(format!("reading {}: {e}", note.display())))
}

/// What is in quarantine, oldest first: directories, and stray instances, which stay where they are.
pub fn list(node: &Node) -> Result<Vec<Quarantined>, Problem> {
    let mut all = Vec::new();
    let root = dir(node);
    let entries = match std::fs::read_dir(&root) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        other => Some(other.map_err(failed("reading", &root))?),
    };
    for entry in entries.into_iter().flatten() {
        let entry = entry.map_err(failed("reading", &root))?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let (what, why, at) = match label(&entry.path()) {
            Ok(label) => (label.what, label.why, label.at),
            // It is told, and never erased by itself.
            Err(e) => (name.clone(), e.detail, clock::wall()),
        };
        let bytes = pumasi_transfer::remains(&entry.path()).map_or(0, |r| r.bytes);
        all.push(Quarantined { name, what, why, at, until: Some(at.after(KEPT_MS)), bytes });
    }
    for owner in node.health.strays.get() {
        let why = "instances that no record explains; they run on without requests".to_owned();
        all.push(Quarantined { name: owner.clone(), what: owner, why, at: clock::wall(), until: None, bytes: 0 });
    }
    all.sort_by(|a, b| (a.at, &a.name).cmp(&(b.at, &b.name)));
    Ok(all)
}

fn entry(node: &Node, name: &str) -> Result<PathBuf, Problem> {
    let plain = !name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != "..";
    let path = dir(node).join(name);
    match plain && path.is_dir() {
        true => Ok(path),
        false => Err(Problem::not_found("entry of the quarantine", name.chars().take(200).collect::<String>())),
    }
}

/// Puts a directory back where it was.
pub async fn restore(node: &Node, who: &str, name: &str) -> Result<(), Problem> {
    if node.health.strays.lock().contains(name) {
        return Err(Problem::conflict(format!("the instances of {name} were not moved; they wait for their record")));
    }
    let entry = entry(node, name)?;
    let label = label(&entry)?;
    let data = &node.config.cloud.data_dir;
    for from in &label.from {
        let to = data.join(from);
        if from.is_absolute() || from.components().any(|c| !matches!(c, std::path::Component::Normal(_))) || to.exists()
        {
            return Err(Problem::conflict(format!(
                "{} is there already, or is no place in the data directory",
                to.display()
            )));
        }
    }
    for (n, from) in label.from.iter().enumerate() {
        let to = data.join(from);
        let held = entry.join(n.to_string());
        if held.exists() {
            std::fs::rename(&held, &to).map_err(failed("putting back", &to))?;
        }
    }
    pumasi_transfer::erase(&entry).map_err(|e| Problem::ours(e.to_string()))?;
    node.note(who, Note::new("quarantine_restored", "directory", &label.what)).await;
    Ok(())
}

/// Erases a directory, or says that the instances of an owner may be stopped.
pub async fn empty(node: &Node, who: &str, name: &str) -> Result<(), Problem> {
    if node.health.strays.lock().contains(name) {
        let (owner, by) = (name.to_owned(), who.to_owned());
        return node
            .transact(move |tx| {
                crate::stray::bury(tx, &owner, &format!("{by} said so"))?;
                let note = Note::new("stray_ended", "owner", &owner).because("its instances are stopped");
                tx.journal(note.entry(&by, clock::wall()))?;
                Ok(())
            })
            .await;
    }
    let entry = entry(node, name)?;
    let what = label(&entry).map_or_else(|_| name.to_owned(), |l| l.what);
    crate::world::blocking(move || pumasi_transfer::erase(&entry))
        .await
        .map_err(|e| Problem::ours(e.to_string()))?
        .map_err(|e| Problem::ours(format!("erasing {name}: {e}")))?;
    node.note(who, Note::new("quarantine_emptied", "directory", what)).await;
    Ok(())
}

/// Erases what has lain its day.
pub async fn expire(node: &Node) -> Result<(), Problem> {
    let now = clock::wall();
    for held in list(node)?.into_iter().filter(|q| q.until.is_some_and(|until| until <= now)) {
        empty(node, "daemon", &held.name).await?;
    }
    Ok(())
}
