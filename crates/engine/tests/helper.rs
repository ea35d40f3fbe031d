//! The process that handles a tenant's bytes: what it may reach, and what its tenant can do to it. As root; without, the parts about ids
//! and views pass without having tried.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{At, ProcessRig, Rig, is_root, ready, shell, status, wait};
use pumasi_engine::{DataMount, Engine, Helper, HelperSpec, InstanceState, Room};
use pumasi_terms::service::DatasetKind;
use pumasi_terms::{Generation, Position};
use pumasi_transfer::helper::{FarPlace, HomePlace, Reply, Request, Set, VERSION, Why, head_of, lengths};
use pumasi_transfer::{Access, TreeManifest};
use rusqlite::Connection;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SECRET: &str = "4111-1111-VICTIM";

async fn ask(helper: &mut Helper, request: Request, body: &[u8]) -> std::io::Result<(Reply, Vec<u8>)> {
    helper.line.write_all(&head_of(&request, body)?).await?;
    helper.line.write_all(body).await?;
    let mut before = [0; 8];
    helper.line.read_exact(&mut before).await?;
    let (head_len, body_len) = lengths(&before)?;
    let (mut head, mut body) = (vec![0; head_len], vec![0; body_len]);
    helper.line.read_exact(&mut head).await?;
    helper.line.read_exact(&mut body).await?;
    Ok((serde_json::from_slice(&head)?, body))
}

struct Home {
    dir: PathBuf,
    scratch: PathBuf,
    kind: DatasetKind,
}

impl Home {
    fn new(rig: &ProcessRig, name: &str, kind: DatasetKind) -> Self {
        let at = rig.dir.path().join("services").join(name);
        let home = Self { dir: at.join("data"), scratch: at.join("ship"), kind };
        fs::create_dir_all(&home.dir).unwrap();
        home
    }

    fn db(&self) -> PathBuf {
        self.dir.join("db.sqlite")
    }

    async fn open(&self, rig: &ProcessRig) -> Helper {
        let spec = HelperSpec {
            owner: "service-a".into(),
            rooms: vec![(self.dir.clone(), Room::Shared), (self.scratch.clone(), Room::Private)],
            view: vec![(self.dir.clone(), "/data".into()), (self.scratch.clone(), "/work".into())],
            hidden: Vec::new(),
            memory_bytes_max: 256 << 20,
            file_bytes_max: 64 << 20,
        };
        let mut helper = rig.process().helper(spec.clone()).await.unwrap();
        let place = HomePlace {
            version: VERSION,
            dir: spec.seen(helper.confined, &self.dir),
            scratch: spec.seen(helper.confined, &self.scratch),
            kind: self.kind,
            file: (self.kind == DatasetKind::Sqlite).then(|| "db.sqlite".into()),
            generation: Generation(1),
            bytes_max: 64 << 20,
        };
        assert_eq!(ask(&mut helper, Request::OpenHome(place), b"").await.unwrap().0, Reply::Done);
        helper
    }
}

struct Far {
    dir: PathBuf,
    set: Set,
}

impl Far {
    fn new(rig: &ProcessRig, kind: DatasetKind) -> Self {
        let file = (kind == DatasetKind::Sqlite).then(|| "db.sqlite".into());
        Self { dir: rig.dir.path().join("leases/lease-b"), set: Set { name: "ds".parse().unwrap(), kind, file } }
    }

    fn copy(&self) -> PathBuf {
        self.dir.join("data/ds")
    }

    async fn open(&self, rig: &ProcessRig) -> Helper {
        let (work, data) = (self.dir.join("work"), self.dir.join("data"));
        let spec = HelperSpec {
            owner: "lease-b".into(),
            rooms: vec![
                (work.clone(), Room::Private),
                (self.dir.join("application"), Room::Kept),
                (self.copy(), Room::Copy),
            ],
            view: vec![(self.dir.clone(), "/lease".into())],
            hidden: vec!["/lease/application".into()],
            memory_bytes_max: 256 << 20,
            file_bytes_max: 256 << 20,
        };
        let mut helper = rig.process().helper(spec.clone()).await.unwrap();
        let place = FarPlace {
            version: VERSION,
            work: spec.seen(helper.confined, &work),
            data: spec.seen(helper.confined, &data),
            lock: true,
            bytes_max: 64 << 20,
            access: helper.gid.map_or(Access::Owner, Access::Group),
            layers: rig.process().capabilities().isolation.layers,
            durable: false,
        };
        assert_eq!(ask(&mut helper, Request::OpenFar(place), b"").await.unwrap().0, Reply::Done);
        helper
    }
}

/// A whole state, from one helper to the other, as daemons carry it.
async fn carry(home: &mut Helper, far: &mut Helper, set: &Set, now_ms: u64) -> Position {
    let (reply, _) = ask(home, Request::Look { now_ms }, b"").await.unwrap();
    assert_eq!(reply, Reply::NeedsBase);
    let (Reply::Base { as_of, .. }, tree) = ask(home, Request::Base { now_ms: now_ms + 1 }, b"").await.unwrap() else {
        panic!("no base")
    };
    TreeManifest::parse(&tree).unwrap();
    let (_, missing) = ask(far, Request::Missing, &tree).await.unwrap();
    let (reply, pack) = ask(home, Request::Pack, &missing).await.unwrap();
    assert_eq!(reply, Reply::Pack);
    assert_eq!(ask(far, Request::Receive, &pack).await.unwrap().0, Reply::Done);
    let digest = pumasi_transfer::digest_of(&tree);
    let put = ask(far, Request::Put { set: set.clone(), to: as_of, digest }, b"").await.unwrap();
    assert_eq!(put.0, Reply::At { at: as_of });
    ask(home, Request::Told { held: true }, b"").await.unwrap();
    as_of
}

fn database(path: &Path, text: &str) -> Connection {
    let db = Connection::open(path).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS t(x)").unwrap();
    db.execute("INSERT INTO t VALUES(?1)", [text]).unwrap();
    db
}

fn status_of(helper: &Helper, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", helper.child.id().unwrap())).unwrap();
    status.lines().find_map(|l| l.strip_prefix(field)).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_helper_reaches_its_datasets_files_and_nothing_else() {
    let rig = ProcessRig::new().await;
    let home = Home::new(&rig, "a", DatasetKind::Files);
    let begun = Instant::now();
    let helper = home.open(&rig).await;
    println!("start to ready: {:.1} ms; memory: {}", begun.elapsed().as_secs_f64() * 1e3, status_of(&helper, "VmRSS:"));
    assert_eq!(status_of(&helper, "NoNewPrivs:"), "1");
    assert_eq!(status_of(&helper, "Seccomp:"), "2");
    if is_root() {
        let pid = helper.child.id().unwrap();
        for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapInh:", "CapAmb:"] {
            assert_eq!(status_of(&helper, set), "0000000000000000", "{set}");
        }
        assert_ne!(status_of(&helper, "Uid:").split_whitespace().next().unwrap(), "0");
        assert_eq!(status_of(&helper, "Groups:"), "");
        let names = |dir: &str| -> Vec<String> {
            let list = fs::read_dir(format!("/proc/{pid}/root/{dir}")).unwrap();
            let mut names: Vec<String> = list.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(""), ["data", "dev", "proc", "work"]);
        assert_eq!((names("dev"), names("proc/sys/kernel/random")), (vec!["urandom".into()], vec!["boot_id".into()]));
        for kind in ["net", "mnt", "ipc", "uts"] {
            let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/{kind}")).unwrap();
            assert_ne!(of(&pid.to_string()), of("self"), "{kind}");
        }
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let held: Vec<PathBuf> = fds.filter_map(|e| fs::read_link(e.unwrap().path()).ok()).collect();
        assert!(
            held.iter().all(|p| ["/dev/null", "socket:"].iter().any(|s| p.to_str().unwrap().starts_with(s))),
            "{held:?}"
        );
        assert_eq!(fs::metadata(&home.scratch).unwrap().mode() & 0o7777, 0o700);
    }
    drop(helper);
    rig.end().await;
}

#[tokio::test]
async fn copies_go_from_helper_to_helper_and_belong_to_their_readers_group() {
    let rig = ProcessRig::new().await;
    for kind in [DatasetKind::Files, DatasetKind::Sqlite] {
        let (home, far) = (Home::new(&rig, &format!("{kind:?}"), kind), Far::new(&rig, kind));
        let db = (kind == DatasetKind::Sqlite).then(|| database(&home.db(), "one"));
        fs::write(home.dir.join("a"), vec![7; 100_000]).unwrap();
        let (mut near, mut there) = (home.open(&rig).await, far.open(&rig).await);
        let first = carry(&mut near, &mut there, &far.set, 10).await;
        match &db {
            Some(db) => drop(db.execute("INSERT INTO t VALUES('two')", []).unwrap()),
            None => fs::write(home.dir.join("a"), vec![8; 100_000]).unwrap(),
        }
        let (reply, changes) = ask(&mut near, Request::Look { now_ms: 100 }, b"").await.unwrap();
        assert!(matches!(reply, Reply::Delta { as_of } if as_of > first), "{kind:?}: {reply:?}");
        let changed = ask(&mut there, Request::Change { set: far.set.clone() }, &changes).await.unwrap();
        assert_eq!(changed.0, Reply::At { at: Position { generation: Generation(1), as_of_ms: 100 } });
        let file = if db.is_some() { "db.sqlite" } else { "a" };
        let meta = fs::metadata(far.copy().join(file)).unwrap();
        if is_root() {
            // What instances see through a layer they may write: there, and never here.
            let layered = db.is_none() && rig.process().capabilities().isolation.layers;
            let others = fs::metadata(home.dir.join(file)).unwrap().mode() & 0o007;
            let mode = if layered { 0o660 | others } else { 0o640 };
            assert_eq!((meta.mode() & 0o777, meta.gid()), (mode, there.gid.unwrap()));
            assert_ne!(meta.uid(), 0);
            assert_eq!(fs::metadata(far.copy()).unwrap().mode() & 0o7777, 0o2750);
            assert_eq!(fs::metadata(far.dir.join("work")).unwrap().mode() & 0o7777, 0o700);
        }
        // As confined as it is, it makes the copy the dataset.
        let promoted = ask(&mut there, Request::Promote { set: far.set.clone() }, b"").await.unwrap().0;
        let Reply::Promoted(base) = promoted else { panic!("{kind:?}: {promoted:?}") };
        assert_eq!(ask(&mut near, Request::Digest, b"").await.unwrap().0, Reply::Digest { digest: base.digest });
        let mode = |dir: &Path| fs::metadata(dir.join(file)).unwrap().mode() & 0o7777;
        assert_eq!(mode(&far.copy()), mode(&home.dir), "{kind:?}");
        drop((near, there));
        fs::remove_dir_all(&far.dir).unwrap();
    }
    rig.end().await;
}

/// As an application that makes lock files and caches in its data directory, changes files in place and deletes some.
#[tokio::test]
async fn what_an_instance_writes_over_a_copy_stays_in_its_layer_and_ends_with_it() {
    let mut rig = ProcessRig::new().await;
    if !rig.process().capabilities().isolation.layers {
        println!("this host makes no layers: {:?}", rig.process().capabilities().isolation.why);
        return rig.end().await;
    }
    let (home, far) = (Home::new(&rig, "a", DatasetKind::Files), Far::new(&rig, DatasetKind::Files));
    fs::create_dir(home.dir.join("sub")).unwrap();
    for (name, text) in [("a", "one"), (".lock", "home's"), ("sub/b", "below")] {
        fs::write(home.dir.join(name), text).unwrap();
    }
    let (mut near, mut there) = (home.open(&rig).await, far.open(&rig).await);
    carry(&mut near, &mut there, &far.set, 1).await;

    let lent = |number: u32| {
        let mut spec = rig.spec_with(number, &[]);
        (spec.owner, spec.lent) = ("lease-b".into(), true);
        spec.data.insert("DS".into(), DataMount { path: far.copy(), access: pumasi_engine::Access::Layered });
        spec
    };
    let (first, second) = (lent(1), lent(2));
    let mut at = Vec::new();
    for spec in [&first, &second] {
        rig.engine().start(spec.clone()).await.unwrap();
        at.push(At::of(&ready(&rig, &spec.id).await));
    }
    let write = "cd $DATA_DS && echo mine > .lock && mkdir sub/.cache && echo x > sub/.cache/c && echo over >> a && rm sub/b \
                 && mv a a2 && find . | sort | tr '\\n' ' '";
    assert_eq!(shell(at[0], write).trim(), ". ./.lock ./a2 ./sub ./sub/.cache ./sub/.cache/c");
    assert_eq!(shell(at[0], "cd $DATA_DS; cat .lock a2").trim(), "mine\noneover");
    // Nobody else sees it: not its neighbour, not the copy.
    let list = "cd $DATA_DS && find . | sort | tr '\\n' ' ' && cat .lock a";
    assert_eq!(shell(at[1], list), ". ./.lock ./a ./sub ./sub/b home'sone");
    let names = || {
        let mut all: Vec<_> = fs::read_dir(far.copy()).unwrap().map(|e| e.unwrap().file_name()).collect();
        all.sort();
        (all, fs::read_to_string(far.copy().join("a")).unwrap(), fs::read(far.copy().join(".lock")).unwrap())
    };
    assert_eq!(names(), (vec![".lock".into(), "a".into(), "sub".into()], "one".into(), b"home's".to_vec()));
    // It is memory of a bounded size, no program is run from it, and nothing of the host's is reached through it.
    let full = shell(at[0], "dd if=/dev/zero of=$DATA_DS/big bs=1M count=200 2>&1; rm $DATA_DS/big");
    assert!(full.contains("No space left"), "{full}");
    let run = shell(at[0], "cd $DATA_DS; printf '#!/bin/sh\\necho ran' > p; chmod +x p; ./p 2>&1; rm p");
    assert!(run.contains("ermission denied"), "{run}");

    // Real updates: files change, come and go; each time the layer goes, and what is there is all that is seen.
    for (now_ms, text) in [(100, "two"), (200, "three")] {
        fs::write(home.dir.join("a"), text).unwrap();
        fs::write(home.dir.join(format!("new-{now_ms}")), "n").unwrap();
        fs::write(home.dir.join("sub/b"), text).unwrap();
        let (reply, changes) = ask(&mut near, Request::Look { now_ms }, b"").await.unwrap();
        assert!(matches!(reply, Reply::Delta { .. }), "{reply:?}");
        // Looked up before, so that the kernel would know better.
        shell(at[0], "cat $DATA_DS/a $DATA_DS/sub/b; ls -R $DATA_DS");
        ask(&mut there, Request::Change { set: far.set.clone() }, &changes).await.unwrap();
        ask(&mut near, Request::Told { held: true }, b"").await.unwrap();
        let begun = Instant::now();
        rig.engine().renew_layers("lease-b").await.unwrap();
        println!("two instances have a new layer after {:?}", begun.elapsed());
        for at in &at {
            assert_eq!(
                shell(*at, "cd $DATA_DS; cat a sub/b .lock; find . | grep -c -e cache -e a2"),
                format!("{text}{text}home's0\n")
            );
            assert_eq!(shell(*at, &format!("cat $DATA_DS/new-{now_ms}")), "n");
        }
        shell(at[0], write);
    }
    let found = status(&rig, &first.id).await.unwrap();
    assert_eq!((found.restarts, found.trouble), (0, None), "nothing was restarted for it");
    // It goes on under the next daemon, and an instance that starts anew begins without.
    rig.reopen().await;
    fs::write(far.copy().join("a"), "by hand").unwrap();
    rig.engine().renew_layers("lease-b").await.unwrap();
    assert_eq!(shell(at[0], "cat $DATA_DS/a"), "by hand");
    shell(at[0], "cd $DATA_DS; echo mine > .lock");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(found.pid.unwrap() as i32), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    let again = wait(&rig, &first.id, |s| s.restarts == 1 && s.state == InstanceState::Ready).await;
    assert_eq!(shell(At::of(&again), "cat $DATA_DS/.lock"), "home's");
    rig.engine().renew_layers("lease-b").await.unwrap();
    drop((near, there));
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_memory_file_cut_short_hurts_the_helper_alone() {
    let rig = ProcessRig::new().await;
    let home = Home::new(&rig, "a", DatasetKind::Sqlite);
    let db = database(&home.db(), "one");
    let mut helper = home.open(&rig).await;
    let (reply, _) = ask(&mut helper, Request::Look { now_ms: 1 }, b"").await.unwrap();
    assert_eq!(reply, Reply::NeedsBase);
    ask(&mut helper, Request::Base { now_ms: 2 }, b"").await.unwrap();
    // The connection of the application goes first: it would die with its own file.
    std::mem::forget(db);
    let shm = home.dir.join("db.sqlite-shm");
    let stop = AtomicBool::new(false);
    let mut ended = None;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = fs::File::options().write(true).open(&shm).and_then(|f| f.set_len(0));
            }
        });
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                for now_ms in 3..20_000 {
                    if ask(&mut helper, Request::Look { now_ms }, b"").await.is_err() {
                        ended = Some(helper.child.wait().await.unwrap());
                        break;
                    }
                }
            })
        });
        stop.store(true, Ordering::Relaxed);
    });
    let signal = ended.and_then(|status| status.signal());
    println!("ended by signal {signal:?}");
    assert!(signal.is_none() || signal == Some(nix::libc::SIGBUS) || signal == Some(nix::libc::SIGSEGV));
    // Another one starts, whatever is there.
    let mut next = home.open(&rig).await;
    assert!(ask(&mut next, Request::Look { now_ms: 30_000 }, b"").await.is_ok());
    drop(next);
    rig.end().await;
}

/// As root, what it sees can be looked at from outside.
#[tokio::test]
async fn a_helper_sees_no_application_and_has_bounds_of_its_own() {
    let rig = ProcessRig::new().await;
    let far = Far::new(&rig, DatasetKind::Files);
    fs::create_dir_all(far.dir.join("application/bundle")).unwrap();
    let helper = far.open(&rig).await;
    if !helper.confined {
        println!("not root: the helper has the daemon's view");
        return rig.end().await;
    }
    let pid = helper.child.id().unwrap();
    let seen = std::path::PathBuf::from(format!("/proc/{pid}/root/lease"));
    let names = |dir: &std::path::Path| -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&seen), ["application", "data", "work"]);
    assert_eq!(names(&seen.join("application")), [""; 0]);
    assert_eq!(names(&far.dir.join("application")), ["bundle"]);
    assert!(fs::write(seen.join("application/x"), b"").is_err(), "it is closed");
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(groups.contains("/helper-"), "{groups}");
    let left = rig.process().remains(Some("lease-b")).await.unwrap();
    assert_eq!((left.helpers, left.processes, left.cgroups), (1, 0, 0), "{left:?}");
    assert_eq!(rig.process().remains(Some("lease-c")).await.unwrap().helpers, 0);
    drop(helper);
    rig.end().await;
}

#[tokio::test]
async fn a_killed_helper_leaves_a_copy_that_the_next_one_goes_on_with() {
    let rig = ProcessRig::new().await;
    let (home, far) = (Home::new(&rig, "a", DatasetKind::Files), Far::new(&rig, DatasetKind::Files));
    fs::write(
        home.dir.join("big"),
        (0..20_000_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect::<Vec<_>>(),
    )
    .unwrap();
    let (mut near, mut there) = (home.open(&rig).await, far.open(&rig).await);
    ask(&mut near, Request::Look { now_ms: 1 }, b"").await.unwrap();
    let (Reply::Base { as_of, .. }, tree) = ask(&mut near, Request::Base { now_ms: 2 }, b"").await.unwrap() else {
        panic!()
    };
    let (_, missing) = ask(&mut there, Request::Missing, &tree).await.unwrap();
    let (_, pack) = ask(&mut near, Request::Pack, &missing).await.unwrap();
    let pid = nix::unistd::Pid::from_raw(there.child.id().unwrap() as i32);
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(15));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    });
    let received = ask(&mut there, Request::Receive, &pack).await;
    killer.join().unwrap();
    drop(there);
    println!("killed while it received: {}", received.is_err());
    let mut next = far.open(&rig).await;
    let held = ask(&mut next, Request::Hold { sets: vec![far.set.clone()] }, b"").await.unwrap().0;
    assert_eq!(held, Reply::Held { at: vec![(far.set.name.clone(), None)] });
    let (_, missing) = ask(&mut next, Request::Missing, &tree).await.unwrap();
    let (_, pack) = ask(&mut near, Request::Pack, &missing).await.unwrap();
    ask(&mut next, Request::Receive, &pack).await.unwrap();
    let digest = pumasi_transfer::digest_of(&tree);
    let put = ask(&mut next, Request::Put { set: far.set.clone(), to: as_of, digest }, b"").await.unwrap();
    assert_eq!(put.0, Reply::At { at: as_of });
    assert_eq!(fs::read(far.copy().join("big")).unwrap(), fs::read(home.dir.join("big")).unwrap());
    drop((near, next));
    rig.end().await;
}

#[tokio::test]
async fn a_database_that_is_a_link_gives_nothing_away() {
    let rig = ProcessRig::new().await;
    let (home, victim) = (Home::new(&rig, "a", DatasetKind::Sqlite), Home::new(&rig, "victim", DatasetKind::Sqlite));
    let _db = database(&victim.db(), SECRET);
    symlink(victim.db(), home.db()).unwrap();
    let mut helper = home.open(&rig).await;
    for now_ms in 1..5 {
        let (reply, _) = ask(&mut helper, Request::Look { now_ms }, b"").await.unwrap();
        assert!(matches!(reply, Reply::Refused(_)), "{reply:?}");
        let (reply, body) = ask(&mut helper, Request::Base { now_ms }, b"").await.unwrap();
        assert!(matches!(reply, Reply::Refused(_)) && body.is_empty(), "{reply:?}");
    }
    drop(helper);
    rig.end().await;
}

#[tokio::test]
async fn what_an_application_keeps_to_itself_is_given_once_it_is_asked_for() {
    if !is_root() {
        return;
    }
    let rig = ProcessRig::new().await;
    let home = Home::new(&rig, "a", DatasetKind::Files);
    let mut helper = home.open(&rig).await;
    fs::write(home.dir.join("private"), "x").unwrap();
    fs::set_permissions(home.dir.join("private"), fs::Permissions::from_mode(0o600)).unwrap();
    let (reply, _) = ask(&mut helper, Request::Look { now_ms: 1 }, b"").await.unwrap();
    assert!(matches!(&reply, Reply::Refused(r) if r.why == Why::Denied), "{reply:?}");
    rig.process().give("service-a", &home.dir).await.unwrap();
    assert_eq!(ask(&mut helper, Request::Look { now_ms: 2 }, b"").await.unwrap().0, Reply::NeedsBase);
    drop(helper);
    rig.end().await;
}

#[tokio::test]
async fn hostile_databases_end_nothing_but_perhaps_their_helper() {
    let rig = ProcessRig::new().await;
    let home = Home::new(&rig, "a", DatasetKind::Sqlite);
    drop(database(&home.db(), "one"));
    let good = fs::read(home.db()).unwrap();
    let mut seed = 7u64;
    let mut ends = 0;
    for round in 0..12u64 {
        let mut bad = good.clone();
        for _ in 0..40 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (seed >> 33) as usize % bad.len();
            // The magic stays: it shall be opened.
            if at >= 16 {
                bad[at] = seed as u8;
            }
        }
        fs::write(home.db(), &bad).unwrap();
        let mut helper = home.open(&rig).await;
        for request in [Request::Look { now_ms: round * 10 + 1 }, Request::Base { now_ms: round * 10 + 2 }] {
            let limit = Duration::from_secs(20);
            match tokio::time::timeout(limit, ask(&mut helper, request, b"")).await.expect("it hangs") {
                Ok(_) => {}
                Err(_) => {
                    ends += 1;
                    break;
                }
            }
        }
    }
    println!("{ends} helpers ended of hostile databases");
    rig.end().await;
}

#[tokio::test]
async fn a_helper_ends_with_its_daemon_or_at_the_next_ones_start() {
    let mut rig = ProcessRig::new().await;
    let home = Home::new(&rig, "a", DatasetKind::Files);
    let helper = home.open(&rig).await;
    let pid = helper.child.id().unwrap();
    let alive = move || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !(stat.is_empty() || stat.contains(") Z "))
    };
    assert!(alive());
    if is_root() {
        // It stands still, and so does not notice that its line is closed.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGSTOP).unwrap();
        std::mem::forget(helper);
        rig.while_closed(|_| {}).await;
    } else {
        drop(helper);
    }
    let until = Instant::now() + Duration::from_secs(5);
    while alive() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!alive());
    rig.end().await;
}
