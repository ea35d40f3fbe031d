//! Bundles of example services: the running executable itself, and padding where a scenario wants a big bundle.
//!
//! Enters: a directory that does not exist or is empty. Leaves: the directory of a bundle, ready for a manifest.
//! Always holds: the same options give the same bytes; padding does not compress, so that its size is what a transfer carries.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Name of the program inside a bundle.
pub const PROGRAM: &str = "pumasi";
const PADDING_DIR: &str = "assets";
const PADDING_FILE_BYTES: u64 = 4 << 20;

/// A bundle could not be written; nothing of it is used.
#[derive(Debug, thiserror::Error)]
#[error("making the bundle {dir}: {what} {path}: {source}")]
pub struct BundleError {
    dir: PathBuf,
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleOptions {
    /// Linked or copied into the bundle as [`PROGRAM`]; a scenario gives its own executable.
    pub executable: PathBuf,
    /// The whole bundle reaches at least this, by padding.
    pub bytes_min: u64,
    /// Of the padding; another one is another version of the application.
    pub seed: u64,
}

impl BundleOptions {
    /// The executable of this process, without padding.
    pub fn of_this_program() -> io::Result<Self> {
        Ok(Self { executable: std::env::current_exe()?, bytes_min: 0, seed: 1 })
    }
}

/// Returns the bytes of the bundle.
pub fn create(dir: &Path, options: &BundleOptions) -> Result<u64, BundleError> {
    let fault = |what, path: &Path| {
        let (dir, path) = (dir.to_owned(), path.to_owned());
        move |source| BundleError { dir, what, path, source }
    };
    fs::create_dir_all(dir).map_err(fault("creating", dir))?;
    let program = dir.join(PROGRAM);
    // A link costs nothing; over file systems, or while the file is busy elsewhere, a copy does the same.
    if fs::hard_link(&options.executable, &program).is_err() {
        fs::copy(&options.executable, &program).map_err(fault("copying the program to", &program))?;
    }
    let mut bytes = fs::metadata(&program).map_err(fault("reading", &program))?.len();
    let padding = dir.join(PADDING_DIR);
    if bytes < options.bytes_min {
        fs::create_dir_all(&padding).map_err(fault("creating", &padding))?;
    }
    let mut number = 0u32;
    while bytes < options.bytes_min {
        let size = (options.bytes_min - bytes).min(PADDING_FILE_BYTES);
        let path = padding.join(format!("{number:04}.bin"));
        pad(&path, size, options.seed, number).map_err(fault("writing", &path))?;
        bytes += size;
        number += 1;
    }
    Ok(bytes)
}

/// The program without its symbols where `strip` is at hand, in `dir`: for runs that send it often and are not about its size.
pub async fn slim(executable: &Path, dir: &Path) -> PathBuf {
    let slim = dir.join("pumasi-slim");
    let made = tokio::process::Command::new("strip").arg("-o").arg(&slim).arg(executable).output().await;
    if made.is_ok_and(|m| m.status.success()) { slim } else { executable.to_owned() }
}

fn pad(path: &Path, bytes: u64, seed: u64, number: u32) -> io::Result<()> {
    let mut noise = blake3::Hasher::new().update(&seed.to_le_bytes()).update(&number.to_le_bytes()).finalize_xof();
    let mut file = fs::File::create(path)?;
    let mut block = vec![0; 1 << 16];
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(block.len()).min(block.len());
        let block = block.get_mut(..part).unwrap_or_default();
        noise.fill(block);
        file.write_all(block)?;
        left -= part as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_bundle_has_the_program_and_the_size_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, b"#!/bin/sh\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let options = BundleOptions { executable: program, bytes_min: 9 << 20, seed: 1 };
        let make = |name: &str, options: &BundleOptions| {
            let bundle = dir.path().join(name);
            assert_eq!(create(&bundle, options).unwrap(), 9 << 20);
            assert_ne!(fs::metadata(bundle.join(PROGRAM)).unwrap().permissions().mode() & 0o111, 0);
            fs::read(bundle.join("assets/0001.bin")).unwrap()
        };
        let (one, same) = (make("one", &options), make("same", &options));
        let other = make("other", &BundleOptions { seed: 2, ..options });
        assert!(one == same && one != other);
        let missing = BundleOptions { executable: "/no/such".into(), bytes_min: 0, seed: 1 };
        assert!(create(&dir.path().join("bad"), &missing).unwrap_err().to_string().contains("program"));
    }
}
