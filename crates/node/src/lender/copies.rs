//! What borrowers send: chunks, applications, and the live copies of their datasets, each inside its lease's directory.
//!
//! Enters: requests of borrowers. Leaves: answers to them, how far each copy is.
//! Always holds: a helper of the lease's own does the work (`transfer::helper`), and what it says is checked; how far copies are is
//! known without waiting for it; a copy whose helper ended claims nothing until it was opened again.

use crate::api::allowance::Allowance;
use crate::bundles::short;
use crate::hands::{Hand, Hands, Life, MEMORY_BYTES_MAX, Place, Trouble};
use crate::node::{Locked, Note};
use crate::object::{LentApplication, owner_of_lease};
use crate::uploads::Size;
use crate::wire::{CopyState, SendTree, SentDataset};
use crate::{Node, clock, world};
use pumasi_api::{Fault, Problem};
use pumasi_engine::{HelperSpec, Room};
use pumasi_lease::LentLease;
use pumasi_terms::service::DatasetKind;
use pumasi_terms::{DatasetName, Digest, LeaseId, Position};
use pumasi_transfer::helper::{FarPlace, Reply, Request, Set, VERSION, Why, digests_of, unpacked};
use pumasi_transfer::{Access, Promoted, TreeManifest};
use rustix::fs::{Mode, OFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where unpacked applications lie in a lease's directory.
pub(super) const APPLICATION: &str = "application";
/// Beside what a lease may store: a copy's log grows while readers hold it.
const LOG_BYTES_MAX: u64 = 1 << 30;
/// Manifests of one lease whose chunks are being sent, as its helper keeps them.
const PENDING_MAX: usize = 8;
/// Of one answer.
const MISSING_MAX: usize = 500_000;
/// An application, copies and the chunks of both: each within what was agreed, in a directory that is one lease's.
const STORES: u64 = 3;

/// What a lease's directory may have, in bytes and in files.
pub fn room_of(lent: &LentLease) -> (u64, u64) {
    let agreed = lent.lease.requirement.storage_bytes;
    (agreed.saturating_mul(STORES).saturating_add(LOG_BYTES_MAX), files_max(agreed).saturating_mul(STORES))
}

#[derive(Default)]
pub struct Copies {
    leases: Locked<BTreeMap<LeaseId, Arc<Held>>>,
    /// How far copies were behind, as their borrowers said last.
    behind_ms: Locked<BTreeMap<LeaseId, u64>>,
}

struct Held {
    dir: PathBuf,
    hand: Arc<Hand>,
    positions: Locked<BTreeMap<DatasetName, Position>>,
    /// Manifests that the helper was given, the newest last, and what they take.
    asked: Locked<Vec<(Digest, Size)>>,
    opening: AtomicBool,
    /// One bundle at a time.
    unpacking: tokio::sync::Mutex<()>,
    /// Which life of the helper has opened the copies.
    opened: Locked<Option<Life>>,
}

impl std::fmt::Debug for Copies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Copies({})", self.leases.lock().len())
    }
}

fn peer(code: &str, detail: impl Into<String>) -> Problem {
    Problem::new(422, code, Fault::Peer, detail)
}

/// Whether instances here see copies of files through layers of their own.
pub(super) fn layers(node: &Node) -> bool {
    node.engine.capabilities().isolation.layers
}

fn set_of(set: &SentDataset) -> Set {
    Set { name: set.name.clone(), kind: set.kind, file: set.file.clone() }
}

/// Beside the copy, where only this daemon writes.
fn marker(lease_dir: &Path, name: &DatasetName) -> PathBuf {
    lease_dir.join("data").join(format!("{name}.ready"))
}

fn problem(trouble: Trouble) -> Problem {
    let Trouble::Refused(refusal) = trouble else { return Problem::unavailable(trouble.to_string()) };
    let detail = refusal.detail;
    match refusal.why {
        Why::NeedsBase => Problem::new(409, "needs_base", Fault::Peer, detail),
        Why::Older => Problem::new(409, "older_position", Fault::Peer, detail),
        Why::BadTree => peer("bad_tree", detail),
        Why::BadPack => peer("bad_pack", detail),
        Why::BadBatch => peer("bad_batch", detail),
        Why::Promoted => Problem::new(409, "promoted", Fault::Peer, detail),
        Why::BadDigest => peer("bad_digest", detail),
        Why::BadDataset => peer("bad_dataset", detail),
        Why::NoStorage => peer("no_storage", detail),
        Why::Denied | Why::Unasked | Why::Failed => Problem::new(500, "copy_failed", Fault::Us, detail),
    }
}

fn strange() -> Problem {
    Problem::ours("the lease's data helper gave an answer that does not fit the question")
}

impl Held {
    fn new(node: &Node, lent: &LentLease) -> Self {
        let dir = node.lease_dir(lent.id());
        let bytes_max = lent.lease.requirement.storage_bytes;
        let (work, data) = (dir.join("work"), dir.join("data"));
        let copies = lent.lease.datasets.iter().map(|name| (data.join(name.as_str()), Room::Copy));
        let spec = HelperSpec {
            owner: owner_of_lease(lent.id()),
            rooms: [(work.clone(), Room::Private), (dir.join(APPLICATION), Room::Kept)]
                .into_iter()
                .chain(copies)
                .collect(),
            view: vec![(dir.clone(), "/lease".into())],
            // Unpacked, an application is out of the hands that handle data.
            hidden: vec![Path::new("/lease").join(APPLICATION)],
            memory_bytes_max: MEMORY_BYTES_MAX,
            file_bytes_max: bytes_max.saturating_add(LOG_BYTES_MAX),
        };
        // Without groups of their own, instances of a simulator or of a host without root read as who they are.
        let lock = matches!(node.hands, Hands::Apart(_));
        let layers = layers(node);
        let place = FarPlace {
            version: VERSION,
            work,
            lock,
            data,
            bytes_max,
            access: Access::Everyone,
            layers,
            // What is kept ready must be there after a power cut: it may be the last copy.
            durable: lent.standby().is_some(),
        };
        let hand = Hand::new(node.hands.clone(), spec, Place::Far(place));
        Self {
            dir,
            hand,
            positions: Locked::default(),
            asked: Locked::default(),
            opening: AtomicBool::new(false),
            unpacking: Default::default(),
            opened: Locked::default(),
        }
    }

    async fn ask(&self, node: &Node, request: Request, body: Vec<u8>) -> Result<(Reply, Vec<u8>), Problem> {
        self.ask_with(node, request, body, None).await
    }

    /// `allowance`: of the body, for as long as it is kept here.
    async fn ask_with(
        &self,
        node: &Node,
        request: Request,
        body: Vec<u8>,
        allowance: Option<Arc<Allowance>>,
    ) -> Result<(Reply, Vec<u8>), Problem> {
        if let Some(why) = node.disk.held(&self.hand.spec().owner) {
            return Err(peer("no_storage", why));
        }
        let hand = self.hand.clone();
        // A task of its own: a borrower that breaks off must not take the helper down in the middle of its work.
        let answer = world::spawn(async move {
            let answer = hand.ask(request, body).await;
            drop(allowance);
            answer
        })
        .await;
        match answer.map_err(|e| Problem::unavailable(format!("the work on a copy was cut off: {e}")))? {
            Ok(answer) => Ok(answer),
            Err(trouble) => {
                self.tell(node, &trouble).await;
                Err(problem(trouble))
            }
        }
    }

    /// Readers go home while nobody holds the copies.
    async fn tell(&self, node: &Node, trouble: &Trouble) {
        let Trouble::Ended(why) = trouble else { return };
        self.positions.lock().values_mut().for_each(|p| *p = Position::default());
        tracing::warn!(lease_dir = %self.dir.display(), %why, "copies are not held");
        let lease = self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let note = Note::new("data_helper_ended", "lease", lease);
        node.note("daemon", note.because(format!("{why}; readers of its copies are sent home meanwhile"))).await;
    }

    async fn at(
        &self,
        node: &Node,
        set: &SentDataset,
        request: Request,
        body: Vec<u8>,
        allowance: Option<Arc<Allowance>>,
    ) -> Result<CopyState, Problem> {
        let to = match &request {
            Request::Put { to, .. } => Some(*to),
            _ => None,
        };
        let (Reply::At { at }, _) = self.ask_with(node, request, body, allowance).await? else { return Err(strange()) };
        // A whole state is where it was said to be; what changes it stays within this life of the home.
        let held = self.positions.lock().get(&set.name).copied();
        let plausible = match to {
            Some(to) => at == to,
            None => held.is_none_or(|held| held == Position::default() || held.generation == at.generation),
        };
        if !plausible {
            return Err(strange());
        }
        if set.kind == DatasetKind::Files && layers(node) {
            // Before anybody is told of the new position: readers must see what it promises.
            let renewed = node.engine.renew_layers(&self.hand.spec().owner).await;
            renewed.map_err(|e| Problem::unavailable(format!("instances do not see the new state yet: {e}")))?;
        }
        self.positions.lock().insert(set.name.clone(), at);
        Ok(CopyState { position: at })
    }
}

impl Copies {
    fn held(&self, node: &Node, lent: &LentLease) -> Arc<Held> {
        let mut leases = self.leases.lock();
        leases.entry(lent.id().clone()).or_insert_with(|| Arc::new(Held::new(node, lent))).clone()
    }

    pub fn dir(&self, lease_dir: &Path, name: &DatasetName) -> PathBuf {
        lease_dir.join("data").join(name.as_str())
    }

    /// Whether the first copy is whole. It is on disk, so that a restart of this daemon takes nothing from those that serve.
    pub fn ready(&self, lease_dir: &Path, name: &DatasetName) -> bool {
        marker(lease_dir, name).symlink_metadata().is_ok_and(|m| m.is_file())
    }

    /// After a restart of this daemon or of the helper: readers of a database need somebody to hold it open as well. Nobody waits for it:
    /// a helper that does not answer holds up its own lease alone.
    pub fn reopen_beside(node: &Arc<Node>, lent: &LentLease, sets: &[SentDataset]) {
        let held = node.copies.held(node, lent);
        if held.opening.swap(true, Ordering::SeqCst) {
            return;
        }
        let (node, lent, sets) = (node.clone(), lent.clone(), sets.to_vec());
        world::spawn(async move {
            node.copies.reopen(&node, &lent, &sets).await;
            held.opening.store(false, Ordering::SeqCst);
        });
    }

    async fn reopen(&self, node: &Node, lent: &LentLease, sets: &[SentDataset]) {
        let dir = node.lease_dir(lent.id());
        let ready: Vec<Set> = sets.iter().filter(|s| self.ready(&dir, &s.name)).map(set_of).collect();
        if ready.is_empty() {
            return;
        }
        let held = self.held(node, lent);
        match held.hand.life() {
            Ok(Life::Busy) => return,
            Ok(life) if *held.opened.lock() == Some(life) && life != Life::None => return,
            Ok(_) => {}
            Err(trouble) => return held.tell(node, &trouble).await,
        }
        let names: BTreeSet<DatasetName> = ready.iter().map(|s| s.name.clone()).collect();
        let Ok((Reply::Held { at }, _)) = held.ask(node, Request::Hold { sets: ready }, Vec::new()).await else {
            return;
        };
        let at = at.into_iter().filter(|(name, _)| names.contains(name));
        held.positions.lock().extend(at.map(|(name, at)| (name, at.unwrap_or_default())));
        *held.opened.lock() = held.hand.life().ok();
    }

    /// Of each dataset of a lease.
    pub fn positions_of(&self, lease: &LeaseId) -> BTreeMap<DatasetName, Position> {
        self.leases.lock().get(lease).map(|held| held.positions.lock().clone()).unwrap_or_default()
    }

    /// A copy becomes the dataset, where it is. Asked again, it goes on.
    pub async fn promote(&self, node: &Node, lent: &LentLease, set: &SentDataset) -> Result<Promoted, Problem> {
        let held = self.held(node, lent);
        match held.ask(node, Request::Promote { set: set_of(set) }, Vec::new()).await? {
            (Reply::Promoted(base), _) => Ok(base),
            _ => Err(strange()),
        }
    }

    /// The least position over the lease's datasets, for the gateway.
    pub fn positions(&self) -> BTreeMap<LeaseId, Position> {
        let leases = self.leases.lock();
        let least = |held: &Held| held.positions.lock().values().min().copied();
        leases.iter().filter_map(|(id, held)| Some((id.clone(), least(held)?))).collect()
    }

    /// What renewals say of copies here.
    pub fn tell_behind(&self, told: impl Iterator<Item = (LeaseId, u64)>) {
        self.behind_ms.lock().extend(told);
    }
    pub fn told_behind(&self) -> BTreeMap<LeaseId, u64> {
        self.behind_ms.lock().clone()
    }

    /// Ends the helper and every file handle of a lease, so that it can be erased.
    pub async fn close(&self, lease: &LeaseId) {
        let held = self.leases.lock().remove(lease);
        self.behind_ms.lock().remove(lease);
        if let Some(held) = held {
            held.hand.end().await;
        }
    }

    /// What of a manifest is not here yet. What was asked for can be built afterwards, by its digest.
    pub async fn missing(&self, node: &Node, lent: &LentLease, manifest: Vec<u8>) -> Result<Vec<Digest>, Problem> {
        let parsed = world::blocking(move || {
            let tree = TreeManifest::parse(&manifest).map_err(|e| peer("bad_tree", e.to_string()))?;
            Ok::<_, Problem>((manifest, tree.digests(), Size::of(&tree, clock::boot())))
        });
        let (manifest, known, size) = parsed.await.map_err(|e| Problem::ours(e.to_string()))??;
        node.disk.admits(size.bytes)?;
        let digest = pumasi_transfer::digest_of(&manifest);
        let held = self.held(node, lent);
        let (reply, body) = held.ask(node, Request::Missing, manifest).await?;
        let missing = digests_of(&body).filter(|m| reply == Reply::Digests && m.iter().all(|d| known.contains(d)));
        let mut missing = missing.ok_or_else(strange)?;
        // The rest is told when these have come.
        missing.truncate(MISSING_MAX);
        let mut asked = held.asked.lock();
        asked.retain(|(d, _)| *d != digest);
        if asked.len() >= PENDING_MAX {
            asked.remove(0);
        }
        asked.push((digest, size));
        Ok(missing)
    }

    /// What a manifest that was asked for takes. Where this daemon was started again since, it has to be asked for once more.
    pub fn asked(&self, lent: &LentLease, digest: &Digest) -> Result<Size, Problem> {
        let held = self.leases.lock().get(lent.id()).cloned();
        let size = held.and_then(|h| h.asked.lock().iter().find(|(d, _)| d == digest).map(|(_, size)| *size));
        size.ok_or_else(|| {
            let text = format!("{digest} was not asked for here lately; ask which of its chunks are missing");
            Problem { retry: true, ..Problem::new(409, "not_asked", Fault::Peer, text) }
        })
    }

    pub async fn receive(
        &self,
        node: &Node,
        lent: &LentLease,
        pack: Vec<u8>,
        allowance: Option<Arc<Allowance>>,
    ) -> Result<(), Problem> {
        self.held(node, lent).ask_with(node, Request::Receive, pack, allowance).await.map(|_| ())
    }

    /// Unpacks a bundle beside the `current` one, whose instances may still run. Whatever else lies there goes, and both together
    /// stay within what the lease agreed, in bytes as unpacked and in files.
    pub async fn unpack(
        &self,
        node: &Node,
        lent: &LentLease,
        (digest, size): (&Digest, Size),
        current: Option<&LentApplication>,
    ) -> Result<(), Problem> {
        let held = self.held(node, lent);
        let place = held.dir.join(APPLICATION);
        let dest = place.join(short(digest));
        let _alone = held.unpacking.lock().await;
        if dest.symlink_metadata().is_ok() {
            return Ok(());
        }
        let kept = current.map(|a| short(&a.digest));
        let running = current.map_or((0, 0), |a| (a.bundle_bytes, a.bundle_files));
        has_room(running, size, lent.lease.requirement.storage_bytes)?;
        on_disk("older bundles", move || only(&place, kept.as_deref())).await?;
        held.ask(node, Request::Unpack { digest: *digest }, Vec::new()).await?;
        let (work, name) = (held.dir.join("work"), unpacked(digest));
        on_disk("putting the unpacked application in place", move || adopt(&work, &name, &dest)).await
    }

    /// An unpacked bundle that was refused after all.
    pub async fn discard(&self, node: &Node, lent: &LentLease, digest: &Digest) -> Result<(), Problem> {
        let held = self.held(node, lent);
        let _alone = held.unpacking.lock().await;
        let dest = held.dir.join(APPLICATION).join(short(digest));
        on_disk("a refused bundle", move || pumasi_transfer::erase(&dest).map_err(io::Error::other)).await
    }

    /// A whole state of a dataset: the first copy, or any later one.
    pub async fn put(
        &self,
        node: &Node,
        lent: &LentLease,
        set: &SentDataset,
        sent: SendTree,
    ) -> Result<CopyState, Problem> {
        let held = self.held(node, lent);
        let request = Request::Put { set: set_of(set), to: sent.position, digest: sent.digest };
        let state = held.at(node, set, request, Vec::new(), None).await?;
        let path = marker(&held.dir, &set.name);
        if !self.ready(&held.dir, &set.name) {
            std::fs::write(&path, b"").map_err(|e| Problem::ours(format!("{}: {e}", path.display())))?;
        }
        Ok(state)
    }

    pub async fn batch(
        &self,
        node: &Node,
        lent: &LentLease,
        set: &SentDataset,
        bytes: Vec<u8>,
        allowance: Option<Arc<Allowance>>,
    ) -> Result<CopyState, Problem> {
        self.held(node, lent).at(node, set, Request::Change { set: set_of(set) }, bytes, allowance).await
    }
}

async fn on_disk(doing: &str, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<(), Problem> {
    let done = world::blocking(work).await.map_err(|e| Problem::ours(e.to_string()))?;
    done.map_err(|e| Problem::ours(format!("{doing}: {e}")))
}

/// Bundles of generations before the current one, and those that were refused.
fn only(place: &Path, kept: Option<&str>) -> io::Result<()> {
    let entries = match std::fs::read_dir(place) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str() != kept {
            pumasi_transfer::erase(&entry.path()).map_err(io::Error::other)?;
        }
    }
    Ok(())
}

/// A lease has a file for each of so many bytes that it agreed on, and some more.
const BYTES_PER_FILE: u64 = 4 << 10;
const FILES_MIN: u64 = 1_024;

fn files_max(bytes_max: u64) -> u64 {
    FILES_MIN.saturating_add(bytes_max / BYTES_PER_FILE)
}

/// Counted as unpacked, with what runs (bytes, files): a chunk that repeats costs each time.
fn has_room(running: (u64, u64), size: Size, bytes_max: u64) -> Result<(), Problem> {
    let (bytes, files) = (running.0.saturating_add(size.bytes), running.1.saturating_add(size.files));
    let files_max = files_max(bytes_max);
    if bytes > bytes_max || files > files_max {
        let text = format!(
            "unpacked it would be {bytes} bytes in {files} files; the lease agreed on {bytes_max} bytes, {files_max} files"
        );
        return Err(peer("no_storage", text));
    }
    Ok(())
}

/// Moves what the helper built out of its reach: instances get it mounted, so that it must not become a link under the way.
fn adopt(work: &Path, name: &str, dest: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (parent, last) = (dest.parent().unwrap_or(dest), dest.file_name().unwrap_or_default());
    std::fs::create_dir_all(parent)?;
    let from = rustix::fs::open(work, flags, Mode::empty())?;
    let to = rustix::fs::open(parent, flags, Mode::empty())?;
    rustix::fs::openat(&from, name, flags, Mode::empty())?;
    rustix::fs::renameat(&from, name, &to, last)?;
    if let Err(e) = rustix::fs::openat(&to, last, flags, Mode::empty()) {
        // Exchanged between the two lines; a link is taken away, not what it leads to.
        let _ = rustix::fs::unlinkat(&to, last, rustix::fs::AtFlags::empty());
        return Err(e.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pumasi_terms::BootMs;

    #[test]
    fn what_a_helper_exchanged_is_not_adopted() {
        let tmp = std::env::temp_dir().join(format!("pumasi-adopt-{}", std::process::id()));
        let (work, secret) = (tmp.join("work"), tmp.join("secret"));
        for dir in [&work, &secret] {
            std::fs::create_dir_all(dir).unwrap();
        }
        let dest = tmp.join("application/a");
        std::os::unix::fs::symlink(&secret, work.join("unpacked-a")).unwrap();
        assert!(adopt(&work, "unpacked-a", &dest).is_err());
        assert!(dest.symlink_metadata().is_err() && secret.is_dir());
        std::fs::remove_file(work.join("unpacked-a")).unwrap();
        std::fs::create_dir(work.join("unpacked-a")).unwrap();
        adopt(&work, "unpacked-a", &dest).unwrap();
        assert!(dest.is_dir());
        // The whole place exchanged for a link.
        std::fs::remove_dir_all(&work).unwrap();
        std::os::unix::fs::symlink(&tmp, &work).unwrap();
        assert!(adopt(&work, "secret", &tmp.join("application/b")).is_err());
        assert!(secret.is_dir());
        std::fs::remove_dir_all(tmp).unwrap();
    }

    #[test]
    fn what_would_not_fit_when_it_is_unpacked_is_refused_before() {
        use pumasi_transfer::ChunkRef;
        let chunk = ChunkRef { digest: Digest([7; 32]), len: 1 << 18 };
        let mut none = Size::of(&TreeManifest::new(Vec::new()).unwrap(), BootMs(0));
        let mut size = |bytes, files| {
            (none.bytes, none.files) = (bytes, files);
            none
        };
        let of = |mib: usize| Size::of(&TreeManifest::of_file("a", vec![chunk; 4 * mib]).unwrap(), BootMs(0));
        let refused = |running, size, max| has_room(running, size, max).unwrap_err().code == "no_storage";
        // One chunk, named again and again: a quarter of a mebibyte on the wire, a gibibyte on disk.
        assert!(has_room((0, 0), of(100), 100 << 20).is_ok());
        assert!(refused((0, 0), of(1_024), 100 << 20));
        assert!(refused((60 << 20, 1), of(60), 100 << 20));
        assert!(has_room((50 << 20, 1), of(50), 100 << 20).is_ok());
        assert!(has_room((0, 0), size(0, 1_000), 0).is_ok());
        assert!(refused((0, 0), size(0, 2_000), 0) && refused((0, 600), size(0, 600), 0));
    }

    #[test]
    fn older_bundles_go_and_the_current_one_stays() {
        let place = std::env::temp_dir().join(format!("pumasi-only-{:032x}", crate::clock::entropy()));
        only(&place, Some("a")).unwrap();
        for name in ["a", "b", "c.new"] {
            std::fs::create_dir_all(place.join(name).join("below")).unwrap();
        }
        std::os::unix::fs::symlink("/", place.join("link")).unwrap();
        only(&place, Some("a")).unwrap();
        let left: Vec<_> = std::fs::read_dir(&place).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["a"]);
        std::fs::remove_dir_all(place).unwrap();
    }
}
