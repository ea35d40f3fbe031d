//! Bundles of applications from the package index, made by an ordinary client.
//!
//! Enters: an application of `examples/`. Leaves: its bundle's directory, kept from run to run.
//! Always holds: a bundle is there whole or not at all; other versions are another bundle; nothing in the application is changed.

use super::App;
use anyhow::{Context, bail, ensure};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Where instances look for programs too: the same interpreter, so that compiled parts fit.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
const PYTHON_TIMEOUT: Duration = Duration::from_secs(300);

/// Runs python3 as instances find it; its standard output.
pub async fn python<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> anyhow::Result<Vec<u8>> {
    let told = args.first().map(|a| a.as_ref().to_string_lossy().into_owned()).unwrap_or_default();
    let mut command = tokio::process::Command::new("python3");
    command.args(args).env("PATH", PATH).stdin(Stdio::null()).kill_on_drop(true);
    let done = tokio::time::timeout(PYTHON_TIMEOUT, command.output()).await;
    let done = done.with_context(|| format!("python3 {told}: no end within {PYTHON_TIMEOUT:?}"))?;
    let done = done.with_context(|| format!("python3 is not in {PATH}; install it"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let last: Vec<&str> = said.lines().rev().take(3).collect();
        bail!("python3 {told}: {}: {}", done.status, last.into_iter().rev().collect::<Vec<_>>().join("; "));
    }
    Ok(done.stdout)
}

/// Installs it unless an earlier run did.
pub async fn bundle(app: App) -> anyhow::Result<PathBuf> {
    let version = python(&["-c", "import sys, sysconfig; print(sys.version, sysconfig.get_platform())"]).await?;
    let mut key = blake3::Hasher::new();
    key.update(&version).update(app.requirements().as_bytes());
    let key: String = key.finalize().to_hex().chars().take(16).collect();
    let cache = cache_dir()?;
    let dir = cache.join(format!("{}-{key}", app.name()));
    if dir.is_dir() {
        return Ok(dir);
    }
    let partial = cache.join(format!(".{}-{key}.{}", app.name(), std::process::id()));
    let made = install(app, &partial).await;
    if let Err(e) = made {
        let _ = fs::remove_dir_all(&partial);
        return Err(e.context(format!("installing {} by pip (the package index must be within reach)", app.name())));
    }
    if let Err(e) = fs::rename(&partial, &dir) {
        let _ = fs::remove_dir_all(&partial);
        // Another run was faster.
        ensure!(dir.is_dir(), "keeping {}: {e}", dir.display());
    }
    Ok(dir)
}

async fn install(app: App, into: &Path) -> anyhow::Result<()> {
    let _ = fs::remove_dir_all(into);
    fs::create_dir(into).with_context(|| format!("creating {}", into.display()))?;
    let wanted = into.with_extension("txt");
    fs::write(&wanted, app.requirements()).with_context(|| format!("writing {}", wanted.display()))?;
    let words =
        ["-m", "pip", "install", "--quiet", "--no-input", "--no-compile", "--disable-pip-version-check", "--target"];
    let mut args: Vec<&std::ffi::OsStr> = words.iter().map(std::ffi::OsStr::new).collect();
    args.extend([into.as_os_str(), "-r".as_ref(), wanted.as_os_str()]);
    let installed = python(&args).await;
    let _ = fs::remove_file(&wanted);
    installed?;
    // A copy has other time stamps; compiled files that are checked by them would be made anew at each start.
    let words = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"];
    let mut args: Vec<&std::ffi::OsStr> = words.iter().map(std::ffi::OsStr::new).collect();
    args.push(into.as_os_str());
    python(&args).await.map(|_| ())
}

/// Its name can be guessed, so it counts only if nobody else can write there.
fn cache_dir() -> anyhow::Result<PathBuf> {
    let own = nix::unistd::geteuid().as_raw();
    let dir = std::env::temp_dir().join(format!("pumasi-lab-apps-{own}"));
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(e).with_context(|| format!("creating {}", dir.display()));
        }
        _ => {}
    }
    let meta = fs::symlink_metadata(&dir).with_context(|| format!("reading {}", dir.display()))?;
    let safe = meta.is_dir() && meta.uid() == own && meta.mode() & 0o022 == 0;
    ensure!(safe, "{} belongs to somebody else or can be written by others; remove it", dir.display());
    Ok(dir)
}
