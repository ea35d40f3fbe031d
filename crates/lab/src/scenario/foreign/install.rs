//! Bundles of applications from their package indexes, made by the ordinary clients.
//!
//! Enters: an application of `examples/`. Leaves: its bundle's directory, kept from run to run.
//! Always holds: a bundle is there whole or not at all; other versions are another bundle; nothing in the application is changed.

use super::app::App;
use anyhow::{Context, bail, ensure};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Where instances look for programs too: the same interpreter, so that compiled parts fit.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
const TOOL_TIMEOUT: Duration = Duration::from_secs(300);

/// What is installed, and by whom.
#[derive(Debug, Clone, Copy)]
pub enum Packages {
    Pip { requirements: &'static str },
    Npm { package: &'static str, lock: &'static str },
}

impl Packages {
    fn client(self) -> &'static str {
        match self {
            Packages::Pip { .. } => "pip",
            Packages::Npm { .. } => "npm",
        }
    }

    /// Of the interpreter: what is built for one is not for another.
    async fn version(self) -> anyhow::Result<Vec<u8>> {
        match self {
            Packages::Pip { .. } => {
                python(&["-c", "import sys, sysconfig; print(sys.version, sysconfig.get_platform())"]).await
            }
            Packages::Npm { .. } => tool("node", None, &["--version"]).await,
        }
    }

    fn texts(self) -> [&'static str; 2] {
        match self {
            Packages::Pip { requirements } => [requirements, ""],
            Packages::Npm { package, lock } => [package, lock],
        }
    }
}

/// Runs python3 as instances find it; its standard output.
pub async fn python<S: AsRef<OsStr>>(args: &[S]) -> anyhow::Result<Vec<u8>> {
    tool("python3", None, args).await
}

async fn tool<S: AsRef<OsStr>>(program: &str, dir: Option<&Path>, args: &[S]) -> anyhow::Result<Vec<u8>> {
    let told = args.first().map(|a| a.as_ref().to_string_lossy().into_owned()).unwrap_or_default();
    let mut command = tokio::process::Command::new(program);
    command.args(args).env("PATH", PATH).stdin(Stdio::null()).kill_on_drop(true);
    if let Some(dir) = dir {
        command.current_dir(dir);
    }
    let done = tokio::time::timeout(TOOL_TIMEOUT, command.output()).await;
    let done = done.with_context(|| format!("{program} {told}: no end within {TOOL_TIMEOUT:?}"))?;
    let done = done.with_context(|| format!("{program} is not in {PATH}; install it"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let last: Vec<&str> = said.lines().rev().take(3).collect();
        bail!("{program} {told}: {}: {}", done.status, last.into_iter().rev().collect::<Vec<_>>().join("; "));
    }
    Ok(done.stdout)
}

/// Installs it unless an earlier run did.
pub async fn bundle(app: &dyn App) -> anyhow::Result<PathBuf> {
    let packages = app.packages();
    let mut key = blake3::Hasher::new();
    key.update(&packages.version().await?);
    let files = app.files().iter().flat_map(|(path, text)| [*path, *text]);
    for text in packages.texts().into_iter().chain(files) {
        key.update(blake3::hash(text.as_bytes()).as_bytes());
    }
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
        let (name, client) = (app.name(), packages.client());
        return Err(e.context(format!("installing {name} by {client} (the package index must be within reach)")));
    }
    if let Err(e) = fs::rename(&partial, &dir) {
        let _ = fs::remove_dir_all(&partial);
        // Another run was faster.
        ensure!(dir.is_dir(), "keeping {}: {e}", dir.display());
    }
    Ok(dir)
}

async fn install(app: &dyn App, into: &Path) -> anyhow::Result<()> {
    let _ = fs::remove_dir_all(into);
    fs::create_dir(into).with_context(|| format!("creating {}", into.display()))?;
    match app.packages() {
        Packages::Pip { requirements } => {
            let wanted = into.with_extension("txt");
            fs::write(&wanted, requirements).with_context(|| format!("writing {}", wanted.display()))?;
            let installed = pip(&wanted, into).await;
            let _ = fs::remove_file(&wanted);
            installed?;
            lay(app, into)?;
            compile(into).await
        }
        Packages::Npm { package, lock } => {
            for (name, text) in [("package.json", package), ("package-lock.json", lock)] {
                fs::write(into.join(name), text).with_context(|| format!("writing {name}"))?;
            }
            let words = ["ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
            tool("npm", Some(into), &words).await?;
            lay(app, into)
        }
    }
}

async fn pip(wanted: &Path, into: &Path) -> anyhow::Result<Vec<u8>> {
    let words =
        ["-m", "pip", "install", "--quiet", "--no-input", "--no-compile", "--disable-pip-version-check", "--target"];
    let mut args: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
    args.extend([into.as_os_str(), "-r".as_ref(), wanted.as_os_str()]);
    python(&args).await
}

/// A copy has other time stamps; compiled files that are checked by them would be made anew at each start.
async fn compile(bundle: &Path) -> anyhow::Result<()> {
    let words = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"];
    let mut args: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
    args.push(bundle.as_os_str());
    python(&args).await.map(|_| ())
}

/// The application's own files beside its packages.
fn lay(app: &dyn App, into: &Path) -> anyhow::Result<()> {
    for (path, text) in app.files() {
        let at = into.join(path);
        let dir = at.parent().unwrap_or(into);
        fs::create_dir_all(dir)
            .and_then(|()| fs::write(&at, text))
            .with_context(|| format!("writing {}", at.display()))?;
    }
    Ok(())
}

/// Files and bytes of a bundle.
pub fn size(dir: &Path) -> anyhow::Result<(u64, u64)> {
    let mut sum = (0, 0);
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry?;
        let (files, bytes) = match entry.file_type()?.is_dir() {
            true => size(&entry.path())?,
            false => (1, entry.metadata()?.len()),
        };
        sum = (sum.0 + files, sum.1 + bytes);
    }
    Ok(sum)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_is_missing_or_fails_is_named() {
        let missing = tool("no-such-interpreter", None, &["--version"]).await.unwrap_err();
        assert!(format!("{missing:#}").contains("no-such-interpreter is not in /usr/local/bin"), "{missing:#}");
        let failed = tool("sh", None, &["-c", "echo broken >&2; exit 3"]).await.unwrap_err();
        assert!(format!("{failed:#}").contains("broken"), "{failed:#}");
    }
}
