//! A stock application under another uid: it reads the copy, cannot write it, and needs no rights beyond its group.
//! Needs root (to become somebody else) and Python's sqlite3; says so and passes where they are missing.

#![allow(clippy::unwrap_used)] // In helpers of tests too.

use pumasi_terms::Generation;
use pumasi_transfer::sqlite::{Delta, ReplicaOptions, SourceOptions, SqliteReplica, SqliteSource};
use pumasi_transfer::{Access, ChunkStore};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

const STRANGER: u32 = 61_234;
const GROUP: u32 = 61_235;

const APP: &str = r#"
import sqlite3, sys, os
db = sqlite3.connect(sys.argv[1])
assert db.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
print(db.execute("SELECT count(*) FROM t").fetchone()[0], db.execute("PRAGMA integrity_check").fetchone()[0])
try:
    db.execute("INSERT INTO t VALUES(99)"); db.commit(); print("WROTE")
except sqlite3.OperationalError as e:
    print(e)
for suffix in ("", "-wal", "-shm"):
    try:
        os.truncate(sys.argv[1] + suffix, 0); print("CUT", suffix)
    except PermissionError:
        pass
"#;

#[test]
fn a_stranger_in_the_group_reads_and_cannot_write() {
    let python = Command::new("python3").args(["-c", "import sqlite3"]).status().is_ok_and(|s| s.success());
    if !nix::unistd::geteuid().is_root() || !python {
        eprintln!("skipped: needs root and python3 with sqlite3");
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    fs::set_permissions(tmp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let lease = tmp.path().join("lease");
    fs::create_dir(&lease).unwrap();
    chown(&lease, None, Some(GROUP)).unwrap();
    fs::set_permissions(&lease, fs::Permissions::from_mode(0o750)).unwrap();
    let home = rusqlite::Connection::open(tmp.path().join("home.db")).unwrap();
    home.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)").unwrap();
    let mut store = ChunkStore::open(tmp.path().join("chunks"), 1 << 20).unwrap();
    let mut source = SqliteSource::open(tmp.path().join("home.db"), Generation(1), SourceOptions::default());
    let base = source.snapshot(|| 1, &mut store).unwrap().unwrap();
    let options = ReplicaOptions { access: Access::Group(GROUP), ..ReplicaOptions::default() };
    let mut copy = SqliteReplica::create(&base.tree, &store, base.at, lease.join("app.db"), options).unwrap();
    let stranger = || {
        let out = Command::new("python3")
            .arg("-c")
            .arg(APP)
            .arg(lease.join("app.db"))
            .uid(STRANGER)
            .gid(GROUP)
            .output()
            .unwrap();
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    };
    let refused = "attempt to write a readonly database\n";
    assert_eq!(stranger(), format!("1 ok\n{refused}"));
    home.execute_batch("INSERT INTO t VALUES(2)").unwrap();
    let Delta::Batch(batch) = source.delta(|| 2).unwrap() else { panic!() };
    copy.apply(&batch).unwrap();
    assert_eq!(stranger(), format!("2 ok\n{refused}"));
    for suffix in ["", "-wal", "-shm"] {
        let mode = fs::metadata(lease.join(format!("app.db{suffix}"))).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o640, "app.db{suffix} has mode {mode:o}");
    }
}
