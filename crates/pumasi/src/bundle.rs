//! Application bundles: a directory becomes chunks, and the daemon is sent those that it lacks.

use crate::failure::{Exit, Failure};
use crate::session::Session;
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pumasi_api::CallError;
use pumasi_api::message::{Missing, Uploaded};
use pumasi_terms::Digest;
use pumasi_transfer::{ChunkCache, ChunkRef, ScanLimits, TreeChunks, TreeManifest, encode_pack, scan};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of chunks in one request; well below what the daemon reads.
const PACK_BYTES_MAX: u64 = 16 << 20;
const PACK_CHUNKS_MAX: usize = 4_096;
/// An application of more than this belongs into a dataset.
const BUNDLE_BYTES_MAX: u64 = 4 << 30;
const ATTEMPTS_MAX: u32 = 4;
const WAIT_FIRST: Duration = Duration::from_millis(250);

pub struct Packed {
    pub digest: Digest,
    pub tree: TreeManifest,
}

fn input(error: impl std::fmt::Display) -> Failure {
    Failure::input(error.to_string())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Failure::failed(format!("reading the bundle: {e}"))))
}

/// Reads and checks a directory; nothing is sent.
pub async fn pack(dir: &Path) -> Result<Packed, Failure> {
    let dir = dir.to_owned();
    blocking(move || {
        let limits = ScanLimits { bytes_max: BUNDLE_BYTES_MAX, ..ScanLimits::default() };
        let tree = scan(&dir, &mut ChunkCache::default(), limits).map_err(|e| input(e).during("bundle"))?;
        Ok(Packed { digest: tree.digest(), tree })
    })
    .await
}

/// The same request again where it got no answer: all of them may be repeated.
async fn send<A: DeserializeOwned>(session: &Session, path: &str, body: Bytes) -> Result<A, CallError> {
    let mut wait = WAIT_FIRST;
    for _ in 1..ATTEMPTS_MAX {
        match session.client.send_bytes("POST", path, body.clone()).await {
            Err(error) if error.is_unreachable() => tokio::time::sleep(wait).await,
            done => return done,
        }
        wait *= 2;
    }
    session.client.send_bytes("POST", path, body).await
}

/// `query` says whose it is, where that is not plain from the token.
pub async fn upload(session: &Session, dir: &Path, packed: &Packed, query: &str) -> Result<(), Failure> {
    let during = |e: CallError| Failure::from(e).during(format!("sending the bundle {}", dir.display()));
    let manifest = Bytes::from(packed.tree.to_bytes());
    let missing: Missing =
        send(session, &format!("/v1/bundles/missing{query}"), manifest.clone()).await.map_err(during)?;
    let known: BTreeMap<Digest, ChunkRef> = packed.tree.chunks().map(|c| (c.digest, *c)).collect();
    // What the daemon asks for is believed only as far as it is in this bundle.
    let mut left: Vec<ChunkRef> = missing.chunks.iter().filter_map(|d| known.get(d).copied()).collect();
    left.sort();
    left.dedup();
    let bar = bar(left.iter().map(|c| u64::from(c.len)).sum(), dir);
    let mut rest = left.as_slice();
    while !rest.is_empty() {
        let (batch, after) = rest.split_at(batch_len(rest));
        rest = after;
        let bytes = encode(dir.to_owned(), packed.tree.clone(), batch.to_vec()).await?;
        send::<serde_json::Value>(session, &format!("/v1/bundles/chunks{query}"), bytes).await.map_err(during)?;
        bar.inc(batch.iter().map(|c| u64::from(c.len)).sum());
    }
    bar.finish_and_clear();
    let done: Uploaded = send(session, &format!("/v1/bundles{query}"), manifest).await.map_err(during)?;
    if done.bundle != packed.digest {
        let told = format!(
            "the daemon keeps the bundle {} under {}, which is not its digest {}",
            dir.display(),
            done.bundle,
            packed.digest
        );
        return Err(Failure::new(Exit::Failed, told));
    }
    Ok(())
}

async fn encode(dir: PathBuf, tree: TreeManifest, batch: Vec<ChunkRef>) -> Result<Bytes, Failure> {
    blocking(move || {
        let source = TreeChunks::new(dir, &tree);
        let digests: Vec<Digest> = batch.iter().map(|c| c.digest).collect();
        let pack = encode_pack(&source, &digests);
        pack.map(Bytes::from).map_err(|e| {
            input(e).during("bundle").hint("the directory changed while it was sent; run the command again")
        })
    })
    .await
}

/// How many of `rest` go together: at least one.
fn batch_len(rest: &[ChunkRef]) -> usize {
    let mut bytes = 0;
    let fits = rest.iter().take(PACK_CHUNKS_MAX).take_while(|c| {
        bytes += u64::from(c.len);
        bytes <= PACK_BYTES_MAX
    });
    fits.count().max(1)
}

fn bar(bytes: u64, dir: &Path) -> ProgressBar {
    // Nothing is drawn where standard error is no terminal.
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(format!("sending {}", dir.display()));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_and_never_empty() {
        let chunk = |len| ChunkRef { digest: Digest([0; 32]), len };
        assert_eq!(batch_len(&vec![chunk(256 << 10); 100]), 64);
        assert_eq!(batch_len(&[chunk(u32::MAX), chunk(1)]), 1);
        assert_eq!(batch_len(&vec![chunk(1); PACK_CHUNKS_MAX + 5]), PACK_CHUNKS_MAX);
    }
}
