//! Manifests as they lie here: files, directories of them, standard input; and the bundles that they name.
//!
//! Enters: paths. Leaves: services whose bundles are named by digest, with what would have to be sent.
//! Always holds: nothing leaves unless every manifest and bundle could be read and is sound.

use crate::bundle::{self, Packed};
use crate::failure::Failure;
use pumasi_terms::manifest::{self, MANIFEST_BYTES_MAX};
use pumasi_terms::service::{BundleRef, Service};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Manifests in one directory.
const FILES_MAX: usize = 256;

pub struct Item {
    pub service: Service,
    /// The directory to send, if the manifest named one.
    pub bundle: Option<PathBuf>,
}

fn read(file: &Path) -> Result<(String, String, PathBuf), Failure> {
    // One byte more than is allowed shows that there is more.
    let limit = MANIFEST_BYTES_MAX as u64 + 1;
    let mut text = Vec::new();
    let name = if file == Path::new("-") { "<stdin>".to_owned() } else { file.display().to_string() };
    let done = if file == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut text)
    } else {
        std::fs::File::open(file).and_then(|f| f.take(limit).read_to_end(&mut text))
    };
    done.map_err(|e| Failure::input(format!("reading the manifest {name}: {e}")))?;
    let text = String::from_utf8(text).map_err(|_| Failure::input(format!("{name}: a manifest is UTF-8 text")))?;
    let base = match file.parent() {
        Some(dir) if file != Path::new("-") && !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    };
    Ok((name, text, base))
}

/// Every service of these files.
pub fn items(files: &[PathBuf]) -> Result<Vec<Item>, Failure> {
    let (mut sound, mut wrong) = (Vec::new(), Vec::new());
    for file in &files_of(files)? {
        let (name, text, base) = read(file)?;
        match manifest::services(&name, &text) {
            Ok(services) => sound.push((name, base, services)),
            Err(error) => wrong.push(error),
        }
    }
    // Whoever mends one file mends the others in the same go.
    if !wrong.is_empty() {
        return Err(wrong.into());
    }
    let mut items: Vec<Item> = Vec::new();
    for (name, base, services) in sound {
        for service in services {
            if items.iter().any(|i| i.service.metadata.name == service.metadata.name) {
                return Err(Failure::input(format!("{name}: service {} is there twice", service.metadata.name)));
            }
            let bundle = match &service.spec.application.bundle {
                BundleRef::Digest(_) => None,
                BundleRef::Path(path) => {
                    let dir = base.join(path);
                    if !dir.is_dir() {
                        let told = format!(
                            "{name}: service {}: spec.application.bundle: {} is not a directory",
                            service.metadata.name,
                            dir.display()
                        );
                        return Err(Failure::input(told)
                            .hint("a bundle is a directory beside the manifest, or the digest of one sent before"));
                    }
                    Some(dir)
                }
            };
            items.push(Item { service, bundle });
        }
    }
    Ok(items)
}

/// Directories stand for the manifests in them, in order of name.
fn files_of(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let failed = |e: std::io::Error| Failure::input(format!("reading the directory {}: {e}", path.display()));
        let mut inside = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            let is_manifest = file.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
            if is_manifest && file.is_file() {
                inside.push(file);
            }
        }
        if inside.is_empty() {
            return Err(Failure::input(format!("{} holds no manifest (*.yaml, *.yml, *.json)", path.display())));
        }
        if inside.len() > FILES_MAX {
            return Err(Failure::input(format!("{} holds more than {FILES_MAX} manifests", path.display())));
        }
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}

/// Names every bundle by its digest. Two services of one directory pack it once.
pub async fn pack(items: &mut [Item]) -> Result<BTreeMap<PathBuf, Packed>, Failure> {
    let mut packed: BTreeMap<PathBuf, Packed> = BTreeMap::new();
    for item in items {
        let Some(dir) = &item.bundle else { continue };
        if !packed.contains_key(dir) {
            packed.insert(dir.clone(), bundle::pack(dir).await?);
        }
        if let Some(packed) = packed.get(dir) {
            item.service.spec.application.bundle = BundleRef::Digest(packed.digest);
            let command = &item.service.spec.application.command;
            pumasi_node::bundles::check_program(&packed.tree, command).map_err(|fault| {
                Failure::input(format!("service {}: {}: {}", item.service.metadata.name, fault.field, fault.problem))
            })?;
        }
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_stands_for_the_manifests_in_it() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.yml", "c.json", "readme.md", "old.yaml~"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::fs::create_dir(dir.path().join("d.yaml")).unwrap();
        let found = files_of(&[dir.path().into(), "-".into()]).unwrap();
        let names: Vec<_> = found.iter().map(|f| f.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.yml", "b.yaml", "c.json", "-"]);
        let empty = tempfile::tempdir().unwrap();
        assert!(files_of(&[empty.path().into()]).unwrap_err().message.contains("no manifest"));
    }
}
