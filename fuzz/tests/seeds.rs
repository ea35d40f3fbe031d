//! Makes the seeds and fixtures that no hand can write. Run by hand, once: `cargo test -p pumasi-fuzz --test seeds -- --ignored`.

#![allow(clippy::unwrap_used)]

#[path = "../../crates/signin/tests/harness/authenticator.rs"]
mod authenticator;

use pumasi_terms::{CloudName, WallMs};
use pumasi_terms::{Generation, Position};
use pumasi_transfer::delta::DeltaIndex;
use pumasi_transfer::sqlite::{Delta, SourceOptions, SqliteSource};
use pumasi_transfer::{ChunkRef, ChunkSource, ChunkStore, Entry, PackWriter, Signatures, TreeManifest, digest_of};
use pumasi_trust::{Authority, SpiffeId};
use std::path::{Path, PathBuf};

const NOW: WallMs = WallMs(1_800_000_000_000);

fn write(path: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn at(path: &Path, name: &str) -> PathBuf {
    path.join(name)
}

#[test]
#[ignore = "writes files"]
fn write_identity() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = CloudName::parse("city-a").unwrap();
    let authority = Authority::create(dir.path(), &cloud, WallMs(NOW.0 - 3_600_000)).unwrap();
    let svid = authority.issue(&SpiffeId::daemon(&cloud), 86_400_000, WallMs(NOW.0 - 600_000), &[]).unwrap();
    write("fixtures/bundle.json", authority.bundle().unwrap().to_json().as_bytes());
    write("corpus/identity/daemon.pem", svid.to_pem().expose().as_bytes());
    write("corpus/identity/authority.json", &std::fs::read(at(dir.path(), "authority.json")).unwrap());
    write("corpus/bundle/fixture.json", authority.bundle().unwrap().to_json().as_bytes());
    let mut chain = Vec::new();
    for der in svid.chain() {
        chain.extend(u16::try_from(der.len()).unwrap().to_be_bytes());
        chain.extend_from_slice(der);
    }
    write("corpus/certificate/chain", &chain);
}

#[test]
#[ignore = "writes files"]
fn write_updates() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = ChunkStore::open(at(dir.path(), "chunks"), 1 << 20).unwrap();
    let mut signatures = Signatures::for_dataset(1 << 20);
    let held = pumasi_fuzz::bases();
    let mut chunk = |bytes: &[u8]| {
        store.put(digest_of(bytes), bytes).unwrap();
        signatures.sign(ChunkRef::of(bytes), bytes);
        ChunkRef::of(bytes)
    };
    let file = |path: &str, chunks: Vec<ChunkRef>| Entry::file(path, chunks);
    let (a, b) = (chunk(&held[0]), chunk(&held[1]));
    let mut changed = held[0].clone();
    changed.splice(1_000..1_010, *b"a few bytes more");
    let (c, new) = (chunk(&changed), chunk(b"new"));
    let folder = |path: &str| Entry::dir(path);
    let base = TreeManifest::new(vec![folder("d"), file("d/x", vec![a, b]), file("y", vec![b]), file("z", vec![a])]);
    let tree =
        TreeManifest::new(vec![folder("d"), file("d/n", vec![new]), file("d/x", vec![c, b]), file("z", vec![a])]);
    let (base, tree) = (base.unwrap(), tree.unwrap());
    let pieces = |pieces: &[&[u8]]| -> Vec<u8> {
        let len = |piece: &[u8]| u32::try_from(piece.len()).unwrap().to_le_bytes().to_vec();
        [0].into_iter().chain(pieces.iter().flat_map(|p| [len(p), p.to_vec()].concat())).collect()
    };
    let line = |rest: &[u8]| pieces(&[&base.to_bytes(), rest]);
    write("corpus/tree_delta/delta", &line(&pumasi_transfer::tree_delta::diff(&base, &tree).unwrap()));
    write("corpus/tree_delta/manifest", &line(&tree.to_bytes()));
    let odd = TreeManifest::new(vec![
        Entry { mode: 0o700, ..folder("d") },
        Entry { mode: 0o640, modified_ns: -1, ..file("d/x", vec![ChunkRef::hole(70_000), a, ChunkRef::hole(4_096)]) },
        Entry::hardlink("h", "d/x"),
        Entry::symlink("l", "d/x"),
        file(&"n".repeat(200), vec![]),
    ]);
    let odd = odd.unwrap().to_bytes();
    write("corpus/tree/odd", &odd);
    write("corpus/unpack/odd", &pieces(&[&tree.to_bytes(), &odd, &base.to_bytes()]));
    let to = Position { generation: Generation(1), as_of_ms: 20 };
    let update = pumasi_transfer::update::encode(&base, &tree, to, &store, &signatures).unwrap().unwrap();
    write("corpus/tree_update/update", &line(&update));
    let index = DeltaIndex::new(&signatures, held.iter().map(|bytes| digest_of(bytes)));
    let delta = index.encode(&changed).unwrap();
    write("corpus/chunk_delta/changed", &[&u16::try_from(changed.len()).unwrap().to_le_bytes()[..], &delta].concat());
    let mut pack = PackWriter::with_deltas(Vec::new()).unwrap();
    pack.write_delta(&digest_of(&changed), changed.len(), &delta).unwrap();
    pack.write(&digest_of(b"new"), b"new").unwrap();
    write("corpus/pack/deltas", &pack.finish().unwrap());
}

#[test]
#[ignore = "writes files"]
fn write_packs_and_pages() {
    let mut pack = PackWriter::new(Vec::new()).unwrap();
    for chunk in [&b"x"[..], &[b'y'; 5_000], &(0..=255).collect::<Vec<u8>>()] {
        pack.write(&digest_of(chunk), chunk).unwrap();
    }
    write("corpus/pack/three", &pack.finish().unwrap());
    write("corpus/pack/none", &PackWriter::new(Vec::new()).unwrap().finish().unwrap());

    let dir = tempfile::tempdir().unwrap();
    let path = at(dir.path(), "db.sqlite");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA page_size=512; PRAGMA journal_mode=WAL; CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);")
        .unwrap();
    let fill = |n: u32| {
        for i in 0..n {
            db.execute("INSERT INTO t(b) VALUES(?1)", [format!("row {i} {}", "z".repeat(80))]).unwrap();
        }
    };
    fill(20);
    let mut source = SqliteSource::open(&path, Generation(1), SourceOptions::default());
    let mut store = ChunkStore::open(at(dir.path(), "chunks"), 1 << 24).unwrap();
    let base = source.snapshot(|| 10, &mut store).unwrap().unwrap();
    let mut copy = Vec::new();
    let mut whole = Vec::new();
    base.tree.chunks().for_each(|c| whole.extend(store.chunk(&c.digest).unwrap()));
    let mut part = |bytes: &[u8]| {
        copy.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
        copy.extend_from_slice(bytes);
    };
    part(&whole);
    for (n, now) in [(5, 20), (60, 30)] {
        fill(n);
        let Delta::Batch(batch) = source.delta(|| now).unwrap() else { panic!("no batch") };
        let bytes = batch.encode().unwrap();
        write(&format!("corpus/page_batch/at-{now}"), &bytes);
        part(&bytes);
    }
    db.execute_batch("DELETE FROM t WHERE a > 3; VACUUM;").unwrap();
    if let Delta::Batch(batch) = source.delta(|| 40).unwrap() {
        part(&batch.encode().unwrap());
    }
    write("corpus/copy/grows-and-shrinks", &copy);
}

#[test]
#[ignore = "writes files"]
fn write_passkeys() {
    for (name, algorithm) in [("es256", -7), ("ed25519", -8), ("rs256", -257)] {
        let device = authenticator::Authenticator::new(algorithm, "docs.example", "https://docs.example");
        write(&format!("corpus/passkey/{name}-attestation"), &device.attestation());
        write(&format!("corpus/passkey/{name}-key"), &device.cose());
        write(&format!("corpus/passkey/{name}-data"), &device.data(false));
    }
    let device = authenticator::Authenticator::new(-8, "docs.example", "https://docs.example");
    write("corpus/passkey/client.json", &device.client_data("webauthn.get", "AAAA"));
}
