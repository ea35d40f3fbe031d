//! What every kind of dataset must do: be copied, follow, survive being cut off anywhere, become the dataset elsewhere, come back.
//!
//! Bit for bit means: of files, everything that a manifest has words for (contents, modes, times of files, links, second names); of a
//! database, every byte of its file once its log is in it. The copy keeps the home's own first page beside what it needs, so that not
//! only the logical content comes back.

#![allow(clippy::unwrap_used)] // In helpers of tests too.

use pumasi_terms::service::DatasetKind;
use pumasi_terms::{Epoch, Generation, Position};
use pumasi_transfer::disk::{Outage, move_dir};
use pumasi_transfer::helper::{FarPlace, HomePlace, Reply, Request, Set, VERSION, Why, Work, digests_of};
use pumasi_transfer::load::set_aside;
use pumasi_transfer::{Access, Base, Demoted, Divergence, TreeManifest};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const KINDS: [Kind; 5] =
    [Kind::Files, Kind::Sqlite("WAL", 0), Kind::Sqlite("DELETE", 0), Kind::Sqlite("DELETE", 1), Kind::Sqlite("WAL", 2)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Files,
    /// Journal mode and auto_vacuum.
    Sqlite(&'static str, u32),
}

/// All of a dataset that has to come back.
type Picture = BTreeMap<String, String>;

impl Kind {
    fn set(self) -> Set {
        let (kind, file) = match self {
            Self::Files => (DatasetKind::Files, None),
            Self::Sqlite(..) => (DatasetKind::Sqlite, Some("app.db".to_owned())),
        };
        Set { name: "set".parse().unwrap(), kind, file }
    }

    fn make(self, dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        let Self::Sqlite(mode, vacuum) = self else { return make_files(dir) };
        let db = Connection::open(dir.join("app.db")).unwrap();
        db.execute_batch(&format!("PRAGMA auto_vacuum={vacuum}; PRAGMA journal_mode={mode};")).unwrap();
        db.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x); CREATE INDEX i ON t(x);").unwrap();
        drop(db);
        fs::set_permissions(dir.join("app.db"), fs::Permissions::from_mode(0o660)).unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        (0..5).for_each(|_| self.change(dir, &mut rng));
    }

    /// What an application does in a moment.
    fn change(self, dir: &Path, rng: &mut StdRng) {
        match self {
            Self::Files => (0..rng.random_range(1..6)).for_each(|_| change_files(dir, rng)),
            Self::Sqlite(..) => {
                let db = Connection::open(dir.join("app.db")).unwrap();
                // No power is cut while it writes.
                db.execute_batch("PRAGMA synchronous=OFF").unwrap();
                let act = match rng.random_range(0..6) {
                    0 => "DELETE FROM t WHERE id % 3 = 0",
                    1 => "UPDATE t SET x=hex(randomblob(900)) WHERE id % 5 = 0",
                    _ => {
                        "INSERT INTO t(x) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<60)
                          SELECT hex(randomblob(100)) FROM n"
                    }
                };
                db.execute_batch(act).unwrap();
            }
        }
    }

    fn picture(self, dir: &Path) -> Picture {
        match self {
            Self::Files => picture_of_files(dir),
            Self::Sqlite(..) => {
                let path = dir.join("app.db");
                let db = Connection::open(&path).unwrap();
                db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
                let whole: String = db.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
                drop(db);
                let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
                let mut out: Picture = names.map(|n| (n, String::new())).collect();
                out.insert(
                    "app.db".into(),
                    format!("{whole} {:?}", pumasi_transfer::digest_of(&fs::read(&path).unwrap())),
                );
                out.insert("mode".into(), format!("{:o}", fs::metadata(&path).unwrap().mode()));
                out
            }
        }
    }

    /// Of a copy: what its readers see of the content, whole.
    fn content(self, copy: &Path) -> Picture {
        match self {
            Self::Files => {
                picture_of_files(copy).into_iter().map(|(k, v)| (k, v.split_once(' ').unwrap().1.into())).collect()
            }
            Self::Sqlite(..) => {
                let db = Connection::open(copy.join("app.db")).unwrap();
                let whole: String = db.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
                let sum = "SELECT count(*) || ' ' || total(length(x)) || ' ' || coalesce(max(x),'') FROM t";
                [(whole, db.query_row(sum, [], |r| r.get(0)).unwrap())].into()
            }
        }
    }
}

fn make_files(dir: &Path) {
    fs::create_dir_all(dir.join("a/b/empty")).unwrap();
    for n in 0..12 {
        let path = dir.join(format!("a/{n}"));
        fs::write(&path, format!("{n}").repeat(n * 200)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode([0o600, 0o644, 0o750, 0o440][n % 4])).unwrap();
    }
    fs::write(dir.join("a/b/deep"), "deep").unwrap();
    fs::hard_link(dir.join("a/1"), dir.join("second")).unwrap();
    symlink("a/b", dir.join("link")).unwrap();
    fs::set_permissions(dir.join("a/b"), fs::Permissions::from_mode(0o500)).unwrap();
    for (n, name) in ["a/3", "a/b/deep"].into_iter().enumerate() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_000_000_000_123_456_789 + n as u64);
        fs::File::open(dir.join(name)).unwrap().set_modified(time).unwrap();
    }
}

fn change_files(dir: &Path, rng: &mut StdRng) {
    let n = rng.random_range(0..16);
    let (path, other) = (dir.join(format!("a/{n}")), dir.join(format!("a/{}", rng.random_range(0..16))));
    let is_dir = path.symlink_metadata().is_ok_and(|m| m.is_dir());
    let gone = |path: &Path| match path.symlink_metadata() {
        Ok(m) if m.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    };
    match rng.random_range(0..8) {
        0 => gone(&path),
        1 if !is_dir && path.exists() => {
            fs::set_permissions(&path, fs::Permissions::from_mode([0o600, 0o755, 0o640][n % 3])).unwrap();
        }
        2 => {
            gone(&path);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("below"), [n as u8; 300]).unwrap();
        }
        3 => {
            gone(&path);
            symlink(["b", "../a", "0"][n % 3], &path).unwrap();
        }
        4 if other != path && other.symlink_metadata().is_ok_and(|m| m.is_file()) => {
            gone(&path);
            fs::hard_link(&other, &path).unwrap();
        }
        5 if path.symlink_metadata().is_ok_and(|m| m.is_file()) => {
            let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(rng.random_range(0..2_000_000_000_000_000_000));
            fs::File::open(&path).unwrap().set_modified(time).unwrap();
        }
        _ => {
            gone(&path);
            let len = rng.random_range(0..30_000);
            fs::write(&path, (0..len).map(|_| rng.random::<u8>()).collect::<Vec<_>>()).unwrap();
        }
    }
}

/// Path to `mode time content`; second names of a file say which.
fn picture_of_files(dir: &Path) -> Picture {
    let (mut out, mut todo, mut inodes) = (Picture::new(), vec![PathBuf::new()], BTreeMap::new());
    while let Some(at) = todo.pop() {
        let mut below: Vec<_> = fs::read_dir(dir.join(&at)).unwrap().map(|e| at.join(e.unwrap().file_name())).collect();
        below.sort();
        for at in below {
            let path = dir.join(&at);
            let meta = path.symlink_metadata().unwrap();
            let name = at.to_str().unwrap().to_owned();
            let (mode, time) = (meta.mode() & 0o7777, (meta.mtime(), meta.mtime_nsec()));
            let what = if meta.is_symlink() {
                format!("- link {}", fs::read_link(&path).unwrap().display())
            } else if meta.is_dir() {
                todo.push(at);
                format!("{mode:o} dir")
            } else {
                let content = pumasi_transfer::digest_of(&fs::read(&path).unwrap());
                format!("{mode:o} {time:?} {content} {}", inodes.entry(meta.ino()).or_insert(name.clone()))
            };
            out.insert(name, what);
        }
    }
    out
}

/// A cloud: its datasets as their owner has them, and its leases.
struct City {
    root: PathBuf,
    leases: u32,
    access: Access,
    durable: bool,
}

/// A copy, and the helper that has it open.
struct Copy {
    lease: PathBuf,
    place: FarPlace,
    work: Work,
    set: Set,
}

fn ask(work: &mut Work, request: Request, body: &[u8]) -> (Reply, Vec<u8>) {
    let (reply, body) = work.answer(request, body);
    assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
    (reply, body)
}

impl City {
    fn new(root: &Path, name: &str, access: Access) -> Self {
        Self { root: root.join(name), leases: 0, access, durable: false }
    }

    fn data(&self) -> PathBuf {
        self.root.join("services/data")
    }

    fn home(&self, kind: Kind, epoch: u64) -> Work {
        let (set, mut work) = (kind.set(), Work::default());
        let place = HomePlace {
            version: VERSION,
            dir: self.data(),
            scratch: self.root.join("scratch"),
            kind: set.kind,
            file: set.file,
            generation: Generation::of(Epoch(epoch), 1),
            bytes_max: 1 << 30,
        };
        ask(&mut work, Request::OpenHome(place), b"");
        work
    }

    fn copy(&mut self, kind: Kind) -> Copy {
        self.leases += 1;
        let lease = self.root.join(format!("leases/{}", self.leases));
        fs::create_dir_all(lease.join("data/set")).unwrap();
        let place = FarPlace {
            version: VERSION,
            work: lease.join("work"),
            lock: false,
            data: lease.join("data"),
            bytes_max: 1 << 30,
            access: self.access,
            layers: false,
            durable: self.durable,
        };
        let mut copy = Copy { lease, place, work: Work::default(), set: kind.set() };
        copy.reopen();
        copy
    }
}

impl Copy {
    fn dir(&self) -> PathBuf {
        self.lease.join("data/set")
    }

    /// As another helper finds it after this one was killed.
    fn reopen(&mut self) -> Option<Position> {
        self.work = Work::default();
        ask(&mut self.work, Request::OpenFar(self.place.clone()), b"");
        let Reply::Held { at } = ask(&mut self.work, Request::Hold { sets: vec![self.set.clone()] }, b"").0 else {
            panic!()
        };
        at[0].1
    }

    /// Brings it to what is new at home; the bytes that this took, and the position if anything was new.
    fn follow(&mut self, home: &mut Work, now_ms: u64) -> (usize, Option<Position>) {
        match ask(home, Request::Look { now_ms }, b"") {
            (Reply::Delta { as_of }, bytes) => {
                let at = ask(&mut self.work, Request::Change { set: self.set.clone() }, &bytes).0;
                assert_eq!(at, Reply::At { at: as_of });
                ask(home, Request::Told { held: true }, b"");
                (bytes.len(), Some(as_of))
            }
            (Reply::NeedsBase, _) => {
                let (bytes, to, digest) = self.receive(home, now_ms);
                let put = self.put(to, digest);
                assert_eq!(ask(&mut self.work, put, b"").0, Reply::At { at: to });
                ask(home, Request::Told { held: true }, b"");
                (bytes, Some(to))
            }
            (Reply::Unchanged { .. }, _) => (0, None),
            other => panic!("{other:?}"),
        }
    }

    fn put(&self, to: Position, digest: pumasi_terms::Digest) -> Request {
        Request::Put { set: self.set.clone(), to, digest }
    }

    /// A whole state, up to where it can be put in.
    fn receive(&mut self, home: &mut Work, now_ms: u64) -> (usize, Position, pumasi_terms::Digest) {
        let (Reply::Base { as_of, skipped }, manifest) = ask(home, Request::Base { now_ms: now_ms + 1 }, b"") else {
            panic!()
        };
        assert_eq!(skipped, None);
        let (_, missing) = ask(&mut self.work, Request::Missing, &manifest);
        let (_, pack) = ask(home, Request::Pack, &missing);
        if !digests_of(&missing).unwrap().is_empty() {
            ask(&mut self.work, Request::Receive, &pack);
        }
        (pack.len(), as_of, pumasi_transfer::digest_of(&manifest))
    }

    fn promote(&mut self) -> Base {
        let Reply::Promoted(base) = ask(&mut self.work, Request::Promote { set: self.set.clone() }, b"").0 else {
            panic!()
        };
        base
    }
}

fn demote(home: &mut Work, base: Base, began: &[u8]) -> Demoted {
    let Reply::Demoted(demoted) = ask(home, Request::Demote { base }, began).0 else { panic!() };
    *demoted
}

/// Moves ownership from one city to the other: all is shipped, the copy promoted, and what was left is a copy of it.
fn hand_over(kind: Kind, from: &City, to: &mut City, copy: &mut Copy, home: &mut Work, now_ms: u64) -> Base {
    copy.follow(home, now_ms);
    copy.reopen().unwrap();
    let base = copy.promote();
    assert_eq!(copy.promote(), base, "asked again");
    // Nothing has the database open when its bytes are looked at.
    (copy.work, *home) = (Work::default(), Work::default());
    move_dir(&copy.dir(), &to.data()).unwrap();
    assert_eq!(kind.picture(&from.data()), kind.picture(&to.data()), "{kind:?}: something was lost on the way");
    base
}

fn come_back(kind: Kind, city: &mut City, epoch: u64, base: Base) -> Copy {
    let mut old = city.home(kind, epoch);
    let demoted = demote(&mut old, base, b"");
    assert_eq!((demoted.digest, demoted.divergence), (base.digest, None), "{kind:?}");
    drop(old);
    let mut copy = city.copy(kind);
    copy.work = Work::default();
    fs::remove_dir(copy.dir()).unwrap();
    move_dir(&city.data(), &copy.dir()).unwrap();
    copy.reopen();
    let adopted = ask(&mut copy.work, Request::Adopt { set: copy.set.clone(), base }, b"").0;
    assert_eq!(adopted, Reply::At { at: base.at });
    assert_eq!(copy.reopen(), Some(base.at));
    copy
}

/// `moments`: in which the application goes on between two handovers.
fn there_and_back(kind: Kind, access: Access, (times, moments): (u64, u64)) -> (Picture, Picture) {
    let tmp = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(7);
    let (mut owner, mut other) = (City::new(tmp.path(), "a", access), City::new(tmp.path(), "b", access));
    kind.make(&owner.data());
    let begin = kind.picture(&owner.data());
    let mut now_ms = 1_000;
    let mut copy = other.copy(kind);
    for epoch in 1..=2 * times {
        let mut home = owner.home(kind, epoch);
        let first = copy.follow(&mut home, now_ms).0;
        if epoch > 1 && kind == Kind::Files {
            assert!(first < 100, "{first} bytes were sent of what is there");
        }
        for moment in 0..moments {
            now_ms += 10;
            kind.change(&owner.data(), &mut rng);
            copy.follow(&mut home, now_ms);
            if moment == 1 {
                copy.reopen().unwrap();
            }
        }
        now_ms += 10;
        let base = hand_over(kind, &owner, &mut other, &mut copy, &mut home, now_ms);
        assert_eq!(base.at.generation.epoch(), Epoch(epoch));
        // The next owner's machine was booted less often: its clock is behind.
        now_ms = 1_000;
        std::mem::swap(&mut owner, &mut other);
        copy = come_back(kind, &mut other, epoch, base);
    }
    (begin, kind.picture(&owner.data()))
}

#[test]
fn ten_times_there_and_back_ends_where_it_began() {
    for kind in KINDS {
        for access in [Access::Everyone, Access::AsHome] {
            let (begin, end) = there_and_back(kind, access, (10, 0));
            assert_eq!(begin, end, "{kind:?} {access:?}");
        }
    }
}

#[test]
fn each_owner_goes_on_where_the_one_before_ended() {
    for kind in KINDS {
        let (begin, end) = there_and_back(kind, Access::Everyone, (3, 3));
        assert_ne!(begin, end);
    }
}

#[test]
fn older_positions_and_what_comes_after_the_promotion_are_refused() {
    for kind in KINDS {
        let tmp = tempfile::tempdir().unwrap();
        let (a, mut b) = (City::new(tmp.path(), "a", Access::Owner), City::new(tmp.path(), "b", Access::Owner));
        kind.make(&a.data());
        let (mut home, mut copy) = (a.home(kind, 2), b.copy(kind));
        copy.follow(&mut home, 100);
        // An owner of before, whose clock and boots are far ahead.
        let mut before = a.home(kind, 1);
        ask(&mut before, Request::Look { now_ms: 9_000_000 }, b"");
        let (_, to, digest) = copy.receive(&mut before, 9_000_000);
        let why = |reply| match reply {
            (Reply::Refused(refusal), _) => refusal.why,
            other => panic!("{other:?}"),
        };
        let put = copy.put(to, digest);
        assert_eq!(why(copy.work.answer(put, b"")), Why::Older, "{kind:?}");
        copy.promote();
        kind.change(&a.data(), &mut StdRng::seed_from_u64(3));
        let (_, changes) = ask(&mut home, Request::Look { now_ms: 200 }, b"");
        let change = Request::Change { set: copy.set.clone() };
        assert!(matches!(why(copy.work.answer(change.clone(), &changes)), Why::Promoted | Why::NeedsBase), "{kind:?}");
        ask(&mut home, Request::Told { held: false }, b"");
        ask(&mut home, Request::Look { now_ms: 300 }, b"");
        let (_, to, digest) = copy.receive(&mut home, 300);
        let put = copy.put(to, digest);
        assert_eq!(why(copy.work.answer(put, b"")), Why::Promoted, "{kind:?}");
    }
}

#[test]
fn what_was_written_after_the_base_is_told_by_name() {
    for kind in KINDS {
        let tmp = tempfile::tempdir().unwrap();
        let (a, mut b) = (City::new(tmp.path(), "a", Access::Owner), City::new(tmp.path(), "b", Access::Owner));
        kind.make(&a.data());
        let (mut home, mut copy) = (a.home(kind, 1), b.copy(kind));
        ask(&mut home, Request::Look { now_ms: 100 }, b"");
        let (Reply::Base { .. }, began) = ask(&mut home, Request::Base { now_ms: 101 }, b"") else { panic!() };
        ask(&mut home, Request::Told { held: false }, b"");
        copy.follow(&mut home, 200);
        let base = copy.promote();
        assert_eq!(demote(&mut home, base, b"").divergence, None);
        let Kind::Files = kind else {
            kind.change(&a.data(), &mut StdRng::seed_from_u64(5));
            assert!(demote(&mut home, base, b"").divergence.is_some());
            continue;
        };
        assert_eq!(TreeManifest::parse(&began).unwrap().digest(), base.digest);
        fs::write(a.data().join("new"), "lost").unwrap();
        fs::remove_file(a.data().join("a/5")).unwrap();
        fs::set_permissions(a.data().join("a/6"), fs::Permissions::from_mode(0o700)).unwrap();
        let found = demote(&mut home, base, &began).divergence.unwrap().differences.unwrap();
        let names = [found.added, found.changed, found.removed].map(|n| (n.count, n.first.join(" ")));
        assert_eq!(names, [(1, "new".into()), (1, "a/6".into()), (1, "a/5".into())]);
        let divergence = demote(&mut home, base, &began).divergence.unwrap();
        drop(home);
        let (kept, picture) = (tmp.path().join("kept/e1"), picture_of_files(&a.data()));
        for step in 0.. {
            let outage = Outage::after(step);
            let aside = set_aside(&a.data(), &kept, &divergence);
            if aside.is_ok() && !outage.came() {
                break;
            }
        }
        assert!(!a.data().exists());
        assert_eq!(picture_of_files(&kept.join("data")), picture);
        let told = fs::read(kept.join("divergence.json")).unwrap();
        assert_eq!(serde_json::from_slice::<Divergence>(&told).unwrap(), divergence);
    }
}

#[test]
fn a_mode_or_a_time_alone_is_a_change_and_costs_little() {
    let tmp = tempfile::tempdir().unwrap();
    let (a, mut b) = (City::new(tmp.path(), "a", Access::Owner), City::new(tmp.path(), "b", Access::Owner));
    Kind::Files.make(&a.data());
    (0..500).for_each(|n| fs::write(a.data().join(format!("many-{n}")), vec![n as u8; 2_000]).unwrap());
    let (mut home, mut copy) = (a.home(Kind::Files, 1), b.copy(Kind::Files));
    copy.follow(&mut home, 100);
    fs::set_permissions(a.data().join("many-250"), fs::Permissions::from_mode(0o604)).unwrap();
    let (bytes, at) = copy.follow(&mut home, 200);
    assert!(bytes < 160 && at.is_some(), "{bytes} bytes");
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(77);
    fs::File::open(a.data().join("many-251")).unwrap().set_modified(time).unwrap();
    let (bytes, at) = copy.follow(&mut home, 300);
    assert!(bytes < 160 && at.is_some(), "{bytes} bytes");
    let base = copy.promote();
    assert_eq!((Some(base.at), copy.reopen()), (at, None));
    assert_eq!(picture_of_files(&a.data()), picture_of_files(&copy.dir()));
}

/// What is told to be at a position is there after a power cut too.
#[test]
fn an_update_that_comes_again_moves_what_is_on_disk() {
    let mut r = ready(Kind::Files, Access::Owner);
    let mut again = r.changes.clone();
    // The same states, found a moment later: the instant stands behind the two digests and the generation.
    again[4 + 1 + 64 + 8..][..8].copy_from_slice(&777u64.to_le_bytes());
    for changes in [r.changes.clone(), again] {
        ask(&mut r.copy.work, Request::Change { set: r.copy.set.clone() }, &changes);
    }
    assert_eq!(r.copy.reopen(), Some(Position::new(r.at[1].generation, 777)));
}

/// A home that went on once, and a copy that may be brought there.
struct Ready {
    _tmp: tempfile::TempDir,
    a: City,
    home: Work,
    copy: Copy,
    changes: Vec<u8>,
    at: [Position; 2],
    content: [Picture; 2],
}

fn ready(kind: Kind, access: Access) -> Ready {
    let tmp = tempfile::tempdir().unwrap();
    let (a, mut b) = (City::new(tmp.path(), "a", access), City::new(tmp.path(), "b", access));
    kind.make(&a.data());
    b.durable = true;
    let (mut home, mut copy) = (a.home(kind, 1), b.copy(kind));
    let old = copy.follow(&mut home, 100).1.unwrap();
    let before = kind.content(&a.data());
    let mut rng = StdRng::seed_from_u64(11);
    (0..8).for_each(|_| kind.change(&a.data(), &mut rng));
    let (Reply::Delta { as_of }, changes) = ask(&mut home, Request::Look { now_ms: 200 }, b"") else { panic!() };
    let content = [before, kind.content(&a.data())];
    Ready { _tmp: tmp, a, home, copy, changes, at: [old, as_of], content }
}

#[test]
fn a_copy_that_was_cut_off_at_any_step_is_the_old_state_or_the_new_one() {
    for kind in KINDS {
        let (mut seen, mut steps) = ([0, 0], 0);
        for step in 0.. {
            let mut r = ready(kind, Access::Everyone);
            let change = Request::Change { set: r.copy.set.clone() };
            let outage = Outage::after(step);
            let (reply, _) = r.copy.work.answer(change.clone(), &r.changes);
            let came = outage.came();
            drop(outage);
            assert_eq!(came, matches!(reply, Reply::Refused(_)), "{kind:?}, step {step}: {reply:?}");
            // The power goes a second time while it is opened.
            let outage = Outage::after(step / 2);
            r.copy.work = Work::default();
            let _ = r.copy.work.answer(Request::OpenFar(r.copy.place.clone()), b"");
            let _ = r.copy.work.answer(Request::Hold { sets: vec![r.copy.set.clone()] }, b"");
            drop(outage);
            let at = r.copy.reopen().unwrap_or_else(|| panic!("{kind:?}, step {step}: the copy claims nothing"));
            let which = r.at.iter().position(|known| *known == at).unwrap();
            // A database may hold more than it claims, when it is cut off right after its commit.
            let found = kind.content(&r.copy.dir());
            let more = kind != Kind::Files && found == r.content[1];
            assert!(found == r.content[which] || more, "{kind:?}, step {step}: torn at {at}");
            seen[which] += 1;
            if !came {
                assert_eq!(which, 1);
                break;
            }
            steps += 1;
        }
        println!("{kind:?}: {steps} steps, {seen:?} old and new");
        assert!(steps >= if kind == Kind::Files { 40 } else { 3 } && seen[0] > 0, "{kind:?}: {steps} {seen:?}");
    }
}

#[test]
fn a_promotion_that_was_cut_off_at_any_step_is_completed_by_the_next() {
    for kind in KINDS {
        for access in [Access::Everyone, Access::AsHome] {
            let mut steps = 0;
            for step in 0.. {
                let mut r = ready(kind, access);
                let at = ask(&mut r.copy.work, Request::Change { set: r.copy.set.clone() }, &r.changes).0;
                assert_eq!(at, Reply::At { at: r.at[1] });
                let promote = Request::Promote { set: r.copy.set.clone() };
                let outage = Outage::after(step);
                let (reply, _) = r.copy.work.answer(promote.clone(), b"");
                let came = outage.came();
                drop(outage);
                assert_eq!(came, matches!(reply, Reply::Refused(_)), "{kind:?}, step {step}: {reply:?}");
                r.copy.reopen();
                let outage = Outage::after(step / 2);
                let _ = r.copy.work.answer(promote, b"");
                drop(outage);
                r.copy.reopen();
                let base = r.copy.promote();
                assert_eq!(base.at, r.at[1]);
                (r.copy.work, r.home) = (Work::default(), Work::default());
                assert_eq!(kind.picture(&r.a.data()), kind.picture(&r.copy.dir()), "{kind:?}, step {step}");
                if !came {
                    break;
                }
                steps += 1;
            }
            println!("{kind:?} {access:?}: {steps} steps");
            assert!(steps >= 8, "{kind:?} {access:?}: {steps}");
        }
    }
}

#[test]
fn a_directory_is_moved_once_however_often_it_is_asked() {
    for step in 0.. {
        let tmp = tempfile::tempdir().unwrap();
        let (from, to) = (tmp.path().join("from"), tmp.path().join("above/to"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("x"), "x").unwrap();
        let outage = Outage::after(step);
        let moved = move_dir(&from, &to);
        let came = outage.came();
        drop(outage);
        assert_eq!(came, moved.is_err());
        move_dir(&from, &to).unwrap();
        assert!(to.join("x").exists() && !from.exists());
        fs::create_dir(&from).unwrap();
        assert!(move_dir(&from, &to).is_err(), "what is there is not written over");
        if !came {
            break;
        }
    }
}
