//! Incremental sync: a tree of 500 MB and the same small changes, carried by the transfer as the daemons do it, and by rsync.
//!
//! Counted are all bytes in both directions, without TLS. Ours are those of the messages between clouds, and `HEADS_BYTES` for the
//! HTTP heads of each call. rsync's are those that it says itself.
//! Always holds: both copies are compared with the source, byte for byte, after each turn.

pub mod tree;

use crate::row::{Row, median};
use anyhow::Context;
use nix::sys::resource::{UsageWho, getrusage};
use pumasi_terms::{Generation, Position};
use pumasi_transfer::{
    ChunkStore, FilesReplica, FilesSource, Options, Sample, ScanLimits, TreeManifest, encode_pack, receive_pack,
};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use tree::Tree;

/// Heads of a call and its answer, more than HTTP/2 takes.
const HEADS_BYTES: u64 = 600;
/// As the borrower's packs (`node/borrower/acts`).
const PACK_BYTES: u64 = 4 << 20;
const DATASET_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    out: u64,
    back: u64,
    cpu_s: f64,
}

impl Turn {
    fn call(&mut self, out: usize, back: usize) {
        self.out += out as u64 + HEADS_BYTES / 2;
        self.back += back as u64 + HEADS_BYTES / 2;
    }

    fn per_changed(&self, changed: u64) -> f64 {
        (self.out + self.back) as f64 / changed as f64
    }
}

fn cpu_s(who: UsageWho) -> anyhow::Result<f64> {
    let usage = getrusage(who)?;
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// Home and lender in one process: what one makes the other reads, as the bytes that would travel.
struct Ours {
    home: PathBuf,
    source: FilesSource,
    store: ChunkStore,
    copy: FilesReplica,
    now_ms: u64,
}

fn source_of(home: &Path) -> FilesSource {
    FilesSource::new(home, Generation(1), ScanLimits { bytes_max: DATASET_BYTES_MAX, ..ScanLimits::default() })
}

/// The lender's answer that it has it.
fn answer(at: Position) -> usize {
    json!({"position": {"generation": at.generation, "as_of_ms": at.as_of_ms}}).to_string().len()
}

impl Ours {
    fn look(&mut self) -> anyhow::Result<(TreeManifest, Position)> {
        self.now_ms += 1_000;
        let now_ms = 1_000_000_000 + self.now_ms;
        match self.source.sample(|| now_ms)? {
            Sample::Changed { as_of, tree } => Ok((tree, as_of)),
            Sample::Unchanged { .. } => anyhow::bail!("a change was not seen"),
        }
    }

    /// The first copy, or a state after which the sender knows nothing of the copy: manifest, question, packs, manifest.
    fn whole(&mut self) -> anyhow::Result<Turn> {
        let begin = cpu_s(UsageWho::RUSAGE_SELF)?;
        let mut turn = Turn::default();
        let (tree, as_of) = self.look()?;
        let manifest = tree.to_bytes().len();
        let missing = self.store.missing(&tree);
        let names: Vec<String> = missing.iter().map(|c| c.digest.to_string()).collect();
        turn.call(manifest, json!({ "chunks": names }).to_string().len());
        let chunks = self.source.chunks(&tree);
        let mut rest = missing.iter().peekable();
        while rest.peek().is_some() {
            let (mut bytes, mut batch) = (0, Vec::new());
            while let Some(chunk) = rest.next_if(|_| bytes < PACK_BYTES) {
                bytes += u64::from(chunk.len);
                batch.push(chunk.digest);
            }
            let pack = encode_pack(&chunks, &batch)?;
            receive_pack(&pack[..], &mut self.store, &batch.into_iter().collect::<BTreeSet<_>>())?;
            turn.call(pack.len(), 4);
        }
        turn.call(manifest, answer(as_of));
        self.copy.apply(tree.clone(), &self.store, as_of)?;
        self.source.acknowledged(Some(tree));
        turn.cpu_s = cpu_s(UsageWho::RUSAGE_SELF)? - begin;
        Ok(turn)
    }

    fn update(&mut self) -> anyhow::Result<Turn> {
        let begin = cpu_s(UsageWho::RUSAGE_SELF)?;
        let mut turn = Turn::default();
        let (tree, as_of) = self.look()?;
        let update = self.source.update(&tree, as_of)?.context("the change was too large for an update")?;
        let at = self.copy.bring_forward(&update, &mut self.store, &BTreeSet::new())?;
        turn.call(update.len(), answer(at));
        self.source.acknowledged(Some(tree));
        turn.cpu_s = cpu_s(UsageWho::RUSAGE_SELF)? - begin;
        Ok(turn)
    }

    /// As after a restart of the home's daemon: nothing is known of the copy.
    fn restart(&mut self) {
        self.source = source_of(&self.home);
    }
}

fn rsync(from: &Path, to: &Path) -> anyhow::Result<Turn> {
    let begin = cpu_s(UsageWho::RUSAGE_CHILDREN)?;
    let done = Command::new("rsync")
        .args(["--archive", "--delete", "--no-whole-file", "--stats"])
        .arg(format!("{}/", from.display()))
        .arg(format!("{}/", to.display()))
        .env("LC_ALL", "C")
        .output()
        .context("starting rsync")?;
    let text = String::from_utf8_lossy(&done.stdout);
    anyhow::ensure!(done.status.success(), "rsync: {}\n{text}{}", done.status, String::from_utf8_lossy(&done.stderr));
    let number = |what: &str| -> anyhow::Result<u64> {
        let line =
            text.lines().find_map(|l| l.strip_prefix(what)).with_context(|| format!("rsync said no {what:?}"))?;
        let digits: String = line.chars().filter(char::is_ascii_digit).collect();
        Ok(digits.parse()?)
    };
    let (out, back) = (number("Total bytes sent: ")?, number("Total bytes received: ")?);
    Ok(Turn { out, back, cpu_s: cpu_s(UsageWho::RUSAGE_CHILDREN)? - begin })
}

fn rsync_version() -> anyhow::Result<String> {
    let said = Command::new("rsync").arg("--version").output().context("starting rsync")?;
    let text = String::from_utf8_lossy(&said.stdout);
    text.split_whitespace().nth(2).map(|v| format!("rsync {v}")).context("rsync told no version")
}

pub fn install() -> anyhow::Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("install");
    let done = Command::new(&script).status().with_context(|| format!("starting {}", script.display()))?;
    anyhow::ensure!(done.success(), "{} could not install the rivals; its words are above", script.display());
    Ok(())
}

pub fn race(pairs: u32) -> anyhow::Result<Vec<Row>> {
    install()?;
    let rival = rsync_version()?;
    let tmp = tempfile::tempdir()?;
    let at = |name: &str| tmp.path().join(name);
    eprintln!("sync: making the tree and its first copies");
    let mut tree = Tree::make(&at("home"), 1)?;
    let mut ours = Ours {
        home: at("home"),
        source: source_of(&at("home")),
        store: ChunkStore::open(at("chunks"), DATASET_BYTES_MAX)?,
        copy: FilesReplica::open(at("ours"), Options::default()),
        now_ms: 0,
    };
    ours.whole()?;
    rsync(&at("home"), &at("theirs"))?;
    let [mut here, mut there, mut ratios, mut here_s, mut there_s] = [const { Vec::new() }; 5];
    let (mut last, mut changed) = ((Turn::default(), Turn::default()), 0);
    for pair in 0..pairs {
        eprintln!("sync: pair {} of {pairs}", pair + 1);
        changed = tree.change(100 + u64::from(pair))?;
        last = if pair % 2 == 0 {
            let first = ours.update()?;
            (first, rsync(&at("home"), &at("theirs"))?)
        } else {
            let first = rsync(&at("home"), &at("theirs"))?;
            (ours.update()?, first)
        };
        tree.same_as(&at("ours"))?;
        tree.same_as(&at("theirs"))?;
        here.push(last.0.per_changed(changed));
        there.push(last.1.per_changed(changed));
        ratios.push(last.0.per_changed(changed) / last.1.per_changed(changed));
        here_s.push(last.0.cpu_s);
        there_s.push(last.1.cpu_s);
    }
    let after = tree.change(99)?;
    ours.restart();
    let blind = ours.whole()?.per_changed(after);
    tree.same_as(&at("ours"))?;
    let note = format!(
        "{} files, {:.0} MB, {:.2} MB changed; sent and received: ours {} + {}, rsync {} + {}; CPU s of both ends: ours {:.2}, \
         rsync {:.2}; ours right after a restart of the home's daemon {blind:.0}",
        tree.files(),
        tree.bytes() as f64 / 1e6,
        changed as f64 / 1e6,
        last.0.out,
        last.0.back,
        last.1.out,
        last.1.back,
        median(here_s),
        median(there_s),
    );
    Ok(vec![Row {
        what: "sync, bytes sent per byte changed".into(),
        ours: format!("{:.2}", median(here)),
        rival,
        theirs: format!("{:.2}", median(there)),
        ratio: median(ratios),
        note,
    }])
}
