//! A disk that somebody else filled: with its reserve the store goes on, without it does not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use pumasi_store::{Entry, Expect, Options, Store, StoreError};
use pumasi_terms::WallMs;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// A small file system of its own; unmounted at the end.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, and said so, where it cannot be made.
    fn new(mib: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let (image, at) = (dir.path().join("image"), dir.path().join("disk"));
        std::fs::create_dir(&at).unwrap();
        File::create(&image).unwrap().set_len(u64::from(mib) << 20).unwrap();
        let run = |program: &str, arguments: &[&str]| {
            Command::new(program).args(arguments).args([&image]).output().is_ok_and(|o| o.status.success())
        };
        let made = run("mkfs.ext4", &["-q", "-m", "0", "-F"])
            && Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at).status().is_ok_and(|s| s.success());
        if !made {
            println!("not tried: a file system cannot be made and mounted here (it needs root and mkfs.ext4)");
            return None;
        }
        Some(Self { dir })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    /// Until not one more byte fits.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = File::create(&path).unwrap();
        for size in [1 << 20, 4096, 1] {
            let block = vec![7u8; size];
            while file.write_all(&block).and_then(|()| file.sync_data()).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn open(disk: &Path, reserve_bytes: u64) -> Store {
    let options = Options { reserve_bytes, ..Options::default() };
    Store::open_with(disk.join("pumasi.sqlite"), WallMs(1), 7, options).unwrap()
}

/// As much as a renewal or an order of an operator writes.
fn commit(store: &Store, round: u64) -> Result<(), StoreError> {
    store.transact_blocking(move |tx| {
        tx.put("cloud", "only", &format!("{round} {}", "x".repeat(1_000)), Expect::Any)?;
        let entry =
            Entry { at: WallMs(2), actor: "operator".into(), action: "automation_stopped".into(), ..Entry::default() };
        tx.journal(entry).map(drop)
    })
}

#[test]
fn commits_go_on_when_others_have_filled_the_disk() {
    let Some(disk) = SmallDisk::new(96) else { return };
    let store = open(&disk.path(), 32 << 20);
    commit(&store, 0).unwrap();
    let whole = store.fill_reserve();
    assert!(whole.is_whole() && whole.held_bytes >= 31 << 20, "{whole:?}");
    let filler = disk.fill();
    let mut took = Vec::new();
    for round in 1..=2_000 {
        let begun = Instant::now();
        commit(&store, round).unwrap();
        took.push(begun.elapsed().as_micros());
    }
    took.sort_unstable();
    println!("2000 commits on a full disk: p50 {} us, p99 {} us", took[1_000], took[1_980]);
    let used = store.fill_reserve();
    assert!(!used.is_whole() && used.held_bytes < whole.held_bytes, "{used:?}");
    assert!(used.problem.as_ref().is_some_and(|p| p.contains("No space")), "{used:?}");
    // With room again it is whole again, and a new start finds everything.
    std::fs::remove_file(filler).unwrap();
    let again = store.fill_reserve();
    assert!(again.is_whole(), "{again:?}");
    store.close();
    drop(store);
    let store = open(&disk.path(), 32 << 20);
    assert_eq!(store.journal_head().seq, 2_001);
    store.verify_journal().unwrap();
}

#[test]
fn without_a_reserve_the_same_disk_stops_the_store_and_it_recovers() {
    let Some(disk) = SmallDisk::new(96) else { return };
    let store = open(&disk.path(), 0);
    commit(&store, 0).unwrap();
    let filler = disk.fill();
    let failed = (1..=2_000).find_map(|round| commit(&store, round).err());
    let failed = failed.expect("this disk is not full, so the test above shows nothing");
    assert!(failed.is_retryable(), "{failed}");
    std::fs::remove_file(filler).unwrap();
    commit(&store, 3_000).unwrap();
}
