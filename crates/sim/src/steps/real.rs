//! Real drivers below the stage: the store on files, instances as processes of their own, in real time.
//!
//! Always holds: nothing that a run started outlives `play_real`.

use super::stage::{Drivers, Opening, Played, run};
use super::table::Fault;
use anyhow::{Context, ensure};
use pumasi_engine::{Engine, InstanceState, ProcessConfig, ProcessEngine};
use pumasi_store::sim::Hooks;
use pumasi_store::{Options, Store};
use pumasi_terms::WallMs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// uids of an engine; below them are those of people and of engines that choose their own.
const UIDS: u32 = 1_024;
const UID_FIRST: u32 = 0x4000_0000;
const CLEARED_WITHIN: Duration = Duration::from_secs(30);

/// What a run on real drivers needs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Answers `shim` and `instance-exec`.
    pub host: PathBuf,
    /// An HTTP application on `HOST` and `PORT`.
    pub app: PathBuf,
}

#[derive(Debug)]
struct Real {
    programs: Programs,
    /// Runs beside each other have uids of their own.
    world: u32,
}

impl Real {
    fn config(&self, dir: &Path) -> ProcessConfig {
        let host = dir.file_name().and_then(|n| n.to_str()).and_then(|n| n.bytes().last()).unwrap_or(0);
        let uid_base = UID_FIRST + (self.world * 32 + u32::from(host % 32)) * UIDS;
        ProcessConfig {
            uid_base: Some(uid_base),
            hide: ["store", "trust", "gateway"].iter().map(|d| dir.join(d)).collect(),
            ..ProcessConfig::new(dir.join("engine"), self.programs.host.clone())
        }
    }
}

impl Drivers for Real {
    fn store(&self, dir: &Path, now: WallMs, entropy: u128, options: Options, hooks: Hooks) -> anyhow::Result<Store> {
        let path = dir.join("store/pumasi.sqlite");
        std::fs::create_dir_all(dir.join("store"))?;
        Ok(Store::open_hooked(path, now, entropy, options, hooks)?)
    }

    fn engine<'a>(&'a self, dir: &'a Path) -> Opening<'a> {
        Box::pin(async move {
            std::fs::create_dir_all(dir)?;
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711))?;
            let engine: Arc<dyn Engine> = Arc::new(ProcessEngine::open(self.config(dir)).await?);
            Ok(engine)
        })
    }

    fn app(&self) -> Option<&Path> {
        Some(&self.programs.app)
    }
}

/// One journey in real time, with a fault or without. Needs root, as lending does. `world`: unlike that of any run beside it.
pub fn play_real(
    programs: &Programs,
    world: u32,
    recall: bool,
    fault: Option<(usize, Fault)>,
) -> anyhow::Result<Played> {
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    let real = Arc::new(Real { programs: programs.clone(), world });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let played = runtime.block_on(run(recall, fault, dir.path(), Some(real.clone())));
    drop(runtime);
    let clearing = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cleared = clearing.block_on(clear(&real, dir.path()));
    let played = played?;
    cleared?;
    Ok(played)
}

/// Ends what runs at home; of what was lent nothing may be there.
async fn clear(real: &Real, dir: &Path) -> anyhow::Result<()> {
    let begun = Instant::now();
    let hosts = std::fs::read_dir(dir)?.flatten().map(|e| e.path()).filter(|p| p.join("engine").is_dir());
    for host in hosts {
        let engine = loop {
            match ProcessEngine::open(real.config(&host)).await {
                Ok(engine) => break engine,
                Err(e) if begun.elapsed() > CLEARED_WITHIN => return Err(e).context("opening the engine to clear up"),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        loop {
            let all = engine.list().await?;
            if all.is_empty() {
                break;
            }
            ensure!(begun.elapsed() < CLEARED_WITHIN, "{} does not end: {all:?}", host.display());
            for i in &all {
                match i.state {
                    InstanceState::Stopped { .. } => engine.remove(&i.id).await?,
                    _ => engine.stop(&i.id).await?,
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let left = engine.remains(None).await?;
        ensure!(left.is_empty(), "{}: {left:?}", host.display());
    }
    Ok(())
}
