//! Application bundles of this cloud's own services: chunks, manifests, and the unpacked trees that instances run from.
//!
//! Always holds: a bundle is complete and verified before a service can name it; an unpacked tree is made whole or not at all.

use crate::{Node, quarantine};
use pumasi_api::Problem;
use pumasi_api::message::Uploaded;
use pumasi_terms::Digest;
use pumasi_transfer::{Access, ChunkStore, Options, TreeManifest, build, receive_pack};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Of all bundles together.
const BYTES_MAX: u64 = 64 << 30;

/// A directory name for a digest.
pub fn short(digest: &Digest) -> String {
    digest.to_string().trim_start_matches("blake3:").to_owned()
}

#[derive(Debug, Clone)]
pub struct Bundles {
    dir: PathBuf,
}

pub fn of(node: &Node) -> Bundles {
    Bundles { dir: node.dir("bundles") }
}

impl Bundles {
    pub fn chunks(&self) -> Result<ChunkStore, Problem> {
        ChunkStore::open(self.dir.join("chunks"), BYTES_MAX).map_err(|e| Problem::ours(e.to_string()))
    }

    fn manifest_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("trees").join(short(digest))
    }

    pub fn unpacked(&self, digest: &Digest) -> PathBuf {
        self.dir.join("unpacked").join(short(digest))
    }

    pub fn tree(&self, digest: &Digest) -> Result<TreeManifest, Problem> {
        let bytes = std::fs::read(self.manifest_path(digest)).map_err(|_| Problem::not_found("bundle", digest))?;
        TreeManifest::parse(&bytes).map_err(|e| Problem::ours(format!("bundle {digest}: {e}")))
    }

    /// Chunks that must be sent before the bundle can be completed. Its manifest is kept meanwhile, to know what was asked for.
    pub fn missing(&self, tree: &TreeManifest) -> Result<Vec<Digest>, Problem> {
        tree.check().map_err(|e| Problem::bad_request(e.to_string()))?;
        let digest = tree.digest();
        self.write(self.dir.join("pending").join(short(&digest)), &tree.to_bytes())?;
        Ok(self.chunks()?.missing(tree).into_iter().map(|c| c.digest).collect())
    }

    pub fn receive(&self, pack: &[u8]) -> Result<(), Problem> {
        let mut asked = BTreeSet::new();
        for pending in std::fs::read_dir(self.dir.join("pending")).into_iter().flatten().flatten().take(256) {
            if let Some(tree) = std::fs::read(pending.path()).ok().and_then(|b| TreeManifest::parse(&b).ok()) {
                asked.extend(tree.digests());
            }
        }
        receive_pack(pack, &mut self.chunks()?, &asked).map(|_| ()).map_err(|e| Problem::bad_request(e.to_string()))
    }

    pub fn complete(&self, tree: &TreeManifest) -> Result<Uploaded, Problem> {
        tree.check().map_err(|e| Problem::bad_request(e.to_string()))?;
        let digest = tree.digest();
        let store = self.chunks()?;
        let missing = store.missing(tree);
        if !missing.is_empty() {
            return Err(Problem::conflict(format!(
                "{} chunks of {digest} are not here yet; send them first",
                missing.len()
            )));
        }
        if !self.unpacked(&digest).exists() {
            // Instances run under uids of their own and only read.
            let options = Options { access: Access::Everyone, ..Options::default() };
            build(tree, &store, &self.unpacked(&digest), &options).map_err(|e| Problem::ours(e.to_string()))?;
        }
        self.write(self.manifest_path(&digest), &tree.to_bytes())?;
        let _ = std::fs::remove_file(self.dir.join("pending").join(short(&digest)));
        Ok(Uploaded { bundle: digest, bytes: tree.total_bytes })
    }

    fn write(&self, path: PathBuf, bytes: &[u8]) -> Result<(), Problem> {
        let write = || -> std::io::Result<()> {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            let partial = path.with_extension("new");
            std::fs::write(&partial, bytes)?;
            std::fs::File::open(&partial)?.sync_all()?;
            std::fs::rename(&partial, &path)
        };
        write().map_err(|e| Problem::ours(format!("writing {}: {e}", path.display())))
    }
}

/// Sets bundles aside that no service names any more. Called seldom; `keep` is read first, so that a new one is not lost.
pub async fn collect(node: &Node) -> Result<(), Problem> {
    let bundles = of(node);
    let services = node.services()?;
    // A record that cannot be read may name any of them, and so may one that a store of old age does not have.
    if !services.unreadable().is_empty() || node.may_act().is_err() {
        return Ok(());
    }
    let keep: BTreeSet<Digest> = services.iter().map(|s| s.bundle()).collect();
    for held in std::fs::read_dir(bundles.dir.join("unpacked")).into_iter().flatten().flatten() {
        let name = held.file_name();
        let named = |d: &Digest| name.to_str() == Some(short(d).as_str());
        let fresh = held
            .metadata()
            .and_then(|m| m.modified())
            .is_ok_and(|t| t.elapsed().is_ok_and(|age| age.as_secs() < 3_600));
        if !fresh && !keep.iter().any(named) {
            let what = format!("bundle-{}", name.to_string_lossy());
            let tree = bundles.dir.join("trees").join(&name);
            quarantine::put(node, &what, &[&held.path(), &tree], "no service names it any more").await?;
        }
    }
    Ok(())
}
