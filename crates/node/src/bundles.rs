//! Application bundles of this cloud's own services: chunks, manifests, and the unpacked trees that instances run from.
//!
//! Always holds: a bundle is complete and verified before a service can name it; an unpacked tree is made whole or not at all.

use crate::uploads::Size;
use crate::{Node, clock, generations, quarantine};
use pumasi_api::Problem;
use pumasi_api::message::Uploaded;
use pumasi_terms::{BootMs, CustomerName, Digest, FieldError};
use pumasi_transfer::{Access, ChunkCache, EntryKind, Options, ScanLimits, TreeManifest, build};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A directory name for a digest.
pub fn short(digest: &Digest) -> String {
    digest.to_string().trim_start_matches("blake3:").to_owned()
}

/// The program of a command, where it is to lie in the bundle. A link is taken at its word; the engine looks where it leads.
pub fn check_program(tree: &TreeManifest, command: &[String]) -> Result<(), FieldError> {
    let fault = |problem: String| Err(FieldError { field: "spec.application.command[0]".into(), problem });
    let Some(program) = command.first().filter(|p| p.contains('/') && !p.starts_with('/') && !p.contains("${")) else {
        return Ok(());
    };
    let parts: Vec<&str> = program.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return fault(format!("{program:?} leads out of the bundle"));
    }
    let path = parts.join("/");
    match tree.get(path.as_ref()) {
        Some(entry) if matches!(entry.kind, EntryKind::Symlink { .. }) => Ok(()),
        Some(entry) if !entry.is_dir() && entry.is_executable() => Ok(()),
        Some(_) => fault(format!("{program:?} is not an executable file (chmod +x)")),
        // Below a link to a directory.
        None if tree
            .entries
            .iter()
            .any(|e| matches!(e.kind, EntryKind::Symlink { .. }) && Path::new(&path).starts_with(&e.path)) =>
        {
            Ok(())
        }
        None => fault(format!("{program:?} is not in the bundle")),
    }
}

#[derive(Debug, Clone)]
pub struct Bundles {
    dir: PathBuf,
    customer: CustomerName,
}

/// Of the default customer.
pub fn of(node: &Node) -> Bundles {
    owned(node, &CustomerName::default_customer())
}

/// Each customer has chunks and bundles of its own: nobody learns what another one sent, or names a bundle without having all of it.
pub fn owned(node: &Node, customer: &CustomerName) -> Bundles {
    Bundles { dir: dir_of(node, customer), customer: customer.clone() }
}

pub fn dir_of(node: &Node, customer: &CustomerName) -> PathBuf {
    let all = node.dir("bundles");
    if *customer == CustomerName::default_customer() { all } else { all.join("of").join(customer.as_str()) }
}

/// Customers that have sent something.
fn customers(node: &Node) -> Vec<CustomerName> {
    let own = std::fs::read_dir(node.dir("bundles").join("of")).into_iter().flatten().flatten();
    let named = own.filter_map(|e| CustomerName::parse(e.file_name().to_str()?).ok());
    std::iter::once(CustomerName::default_customer()).chain(named).collect()
}

impl Bundles {
    fn is_whole(&self, digest: &Digest) -> bool {
        self.unpacked(digest).exists() && self.manifest_path(digest).exists()
    }

    /// One principal may upload for several customers.
    fn uploader(&self, who: &str) -> String {
        format!("{}/{who}", self.customer)
    }

    fn chunks_dir(&self) -> PathBuf {
        self.dir.join("chunks")
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

    /// What a bundle takes that is whole here.
    pub fn size(&self, node: &Node, digest: &Digest) -> Result<Size, Problem> {
        node.uploads.size_of(&self.dir, digest, || self.tree(digest))
    }

    /// Chunks that must be sent before the bundle can be completed.
    pub fn missing(&self, node: &Node, who: &str, tree: &TreeManifest) -> Result<Vec<Digest>, Problem> {
        tree.check().map_err(|e| Problem::bad_request(e.to_string()))?;
        if self.is_whole(&tree.digest()) {
            return Ok(Vec::new());
        }
        node.uploads.ask(&self.uploader(who), tree, clock::boot())?;
        let store = node.uploads.store(self.chunks_dir())?;
        let missing = store.lock().missing(tree);
        Ok(missing.into_iter().map(|c| c.digest).collect())
    }

    pub fn receive(&self, node: &Node, who: &str, pack: &[u8]) -> Result<(), Problem> {
        let store = node.uploads.store(self.chunks_dir())?;
        node.uploads.receive(&self.uploader(who), pack, &store, clock::boot())
    }

    pub fn complete(&self, node: &Node, who: &str, tree: &TreeManifest) -> Result<Uploaded, Problem> {
        tree.check().map_err(|e| Problem::bad_request(e.to_string()))?;
        let digest = tree.digest();
        let held = node.uploads.store(self.chunks_dir())?;
        let store = held.lock();
        let now = clock::boot();
        if !self.is_whole(&digest) {
            let who = self.uploader(who);
            if !node.uploads.asked(&who, &digest, now) {
                return Err(Problem::conflict(format!(
                    "{digest} is not under way: ask which of its chunks are missing"
                )));
            }
            let missing = store.missing(tree).len();
            if missing > 0 {
                return Err(Problem::conflict(format!(
                    "{missing} chunks of {digest} are not here yet; send them first"
                )));
            }
        }
        if !self.unpacked(&digest).exists() {
            let stands = |d: &Digest| self.unpacked(d).exists();
            node.uploads.admit(&self.dir, (digest, Size::of(tree, now)), stands, || self.standing(now))?;
            let _room = node.disk.promise(tree.total_bytes)?;
            // Instances run under uids of their own and only read.
            let options = Options { access: Access::Everyone, ..Options::default() };
            build(tree, &*store, &self.unpacked(&digest), &options).map_err(|e| Problem::ours(e.to_string()))?;
        }
        self.write(self.manifest_path(&digest), &tree.to_bytes())?;
        drop(store);
        node.uploads.done(&self.uploader(who), &digest);
        Ok(Uploaded { bundle: digest, bytes: tree.total_bytes })
    }

    /// Bundles that are unpacked here, as their manifests say.
    fn standing(&self, now: BootMs) -> BTreeMap<Digest, Size> {
        let manifests = std::fs::read_dir(self.dir.join("trees")).into_iter().flatten().flatten();
        let trees = manifests.filter_map(|e| TreeManifest::parse(&std::fs::read(e.path()).ok()?).ok());
        trees.map(|tree| (tree.digest(), Size::of(&tree, now))).collect()
    }

    /// Takes in what was unpacked for a lease, as if its customer had sent it.
    pub fn take_in(&self, digest: &Digest, unpacked: &Path) -> Result<(), Problem> {
        if self.is_whole(digest) {
            return Ok(());
        }
        let wrong = |e: String| Problem::ours(format!("bundle {digest}: {e}"));
        let tree = pumasi_transfer::scan(unpacked, &mut ChunkCache::default(), ScanLimits::default())
            .map_err(|e| wrong(e.to_string()))?;
        if tree.digest() != *digest {
            return Err(wrong(format!("it is {} as it lies here", tree.digest())));
        }
        if !self.unpacked(digest).exists() {
            let options = Options { access: Access::Everyone, ..Options::default() };
            let source = pumasi_transfer::TreeChunks::new(unpacked.to_owned(), &tree);
            build(&tree, &source, &self.unpacked(digest), &options).map_err(|e| wrong(e.to_string()))?;
        }
        self.write(self.manifest_path(digest), &tree.to_bytes())
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
    let due = node.uploads.due(clock::boot());
    for customer in customers(node) {
        collect_of(node, &customer, due).await?;
    }
    Ok(())
}

async fn collect_of(node: &Node, customer: &CustomerName, chunks_too: bool) -> Result<(), Problem> {
    let bundles = owned(node, customer);
    let services = node.services()?;
    // A record that cannot be read may name any of them, and so may one that a store of old age does not have.
    if !services.unreadable().is_empty() || node.may_act().is_err() {
        return Ok(());
    }
    let Some(earlier) = generations::bundles(node, customer)? else { return Ok(()) };
    let own = services.iter().filter(|s| s.customer == *customer).map(|s| s.bundle());
    let keep: BTreeSet<Digest> = own.chain(earlier).collect();
    if chunks_too {
        let in_use = keep.iter().filter_map(|d| bundles.tree(d).ok()).flat_map(|t| t.digests()).collect();
        let (uploads, chunks, old) = (node.uploads.clone(), bundles.chunks_dir(), bundles.dir.join("pending"));
        let collected = crate::world::blocking(move || {
            // Manifests of uploads that versions of before kept on disk.
            let _ = std::fs::remove_dir_all(old);
            uploads.collect(&chunks, in_use, clock::boot())
        });
        collected.await.map_err(|e| Problem::ours(e.to_string()))??;
    }
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
