//! What an instance may not do, and what becomes of it when its keepers are killed. The parts that need root are skipped without.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attacks;
mod common;

use common::{App, At, ProcessRig, Rig, get, id, is_root, ready, shell, status, wait};
use pumasi_engine::*;
use pumasi_terms::InstanceId;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

async fn started(rig: &ProcessRig, spec: &InstanceSpec) -> At {
    rig.engine().start(spec.clone()).await.unwrap();
    At::of(&ready(rig, &spec.id).await)
}

#[tokio::test]
async fn start_to_ready_is_fast() {
    let rig = ProcessRig::new().await;
    let mut took_ms = Vec::new();
    for number in 1..=10 {
        let spec = rig.spec(number, App::Well);
        let before = Instant::now();
        started(&rig, &spec).await;
        took_ms.push(before.elapsed().as_secs_f64() * 1e3);
    }
    took_ms.sort_by(f64::total_cmp);
    println!("start to ready, ms: {took_ms:.1?}");
    // Generous: it fails only if something waits that should not.
    assert!(took_ms[4] < 1_000.0, "{took_ms:?}");
    rig.end().await;
}

/// Waits until there is trouble that is told, and says after how long.
async fn troubled(rig: &ProcessRig, spec: &InstanceSpec, is_it: impl Fn(&Trouble) -> bool) -> (Trouble, Duration) {
    let begun = Instant::now();
    rig.engine().start(spec.clone()).await.unwrap();
    let found = wait(rig, &spec.id, |s| s.trouble.as_ref().is_some_and(&is_it)).await;
    (found.trouble.unwrap(), begun.elapsed())
}

#[tokio::test]
async fn why_an_instance_is_not_ready_is_told_with_its_last_line() {
    let rig = ProcessRig::new().await;
    let script = |number: u32, text: &str| {
        let mut spec = rig.spec(number, App::Well);
        spec.command = vec!["/bin/sh".into(), "-c".into(), text.into()];
        spec
    };
    // It runs and does not listen.
    let silent = script(1, "echo waiting for the database; exec sleep 1000");
    let (trouble, took) = troubled(&rig, &silent, |_| true).await;
    assert!(trouble.why.starts_with("GET /: "), "{trouble:?}");
    assert_eq!(trouble.last_line, "waiting for the database");
    assert!(took < Duration::from_millis(1_500), "{took:?}");
    // What it says later is told as well, under the same reason.
    let talks = script(2, "echo one; sleep 1; echo two; exec sleep 1000");
    let (later, _) = troubled(&rig, &talks, |t| t.last_line == "two").await;
    assert_eq!(later.why, trouble.why);
    // It ends: the reason stays while it is started again.
    let ends = script(3, "echo no key >&2; exit 9");
    let (trouble, _) = troubled(&rig, &ends, |_| true).await;
    assert_eq!(trouble, Trouble { why: "exited with code 9".into(), last_line: "no key".into() });
    for _ in 0..50 {
        let now = status(&rig, &ends.id).await.unwrap();
        assert_eq!(now.trouble.unwrap().why, "exited with code 9");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // One that gets ready has none any more, and one that stops neither.
    let slow = script(4, "sleep 1; exec ${BUNDLE}/app");
    troubled(&rig, &slow, |t| t.why.starts_with("GET /: ")).await;
    assert_eq!(ready(&rig, &slow.id).await.trouble, None);
    rig.engine().stop(&ends.id).await.unwrap();
    assert_eq!(status(&rig, &ends.id).await.unwrap().trouble, None);
    rig.end().await;
}

#[tokio::test]
async fn the_environment_holds_what_was_given_and_no_more() {
    let rig = ProcessRig::new().await;
    let data = rig.dir.path().join("notes");
    std::fs::create_dir(&data).unwrap();
    let mut spec = rig.spec(1, App::Well);
    spec.env = BTreeMap::from([
        ("GREETING".into(), "port ${PORT} in ${DATA_NOTES}".into()),
        ("CACHE".into(), "${TMPDIR}/cache in ${HOME}".into()),
        ("PATH".into(), "${BUNDLE}/bin:${PATH}".into()),
        ("TMPDIR".into(), "${HOME}/t".into()),
    ]);
    spec.data = BTreeMap::from([("NOTES".into(), DataMount { path: data, access: Access::ReadWrite })]);
    let address = started(&rig, &spec).await;
    let env: BTreeMap<String, String> = get(address, "/env")
        .unwrap()
        .lines()
        .filter_map(|l| l.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    let names: Vec<&str> = env.keys().map(String::as_str).collect();
    assert_eq!(names, ["BUNDLE", "CACHE", "DATA_NOTES", "GREETING", "HOME", "HOST", "LANG", "PATH", "PORT", "TMPDIR"]);
    assert_eq!(env["GREETING"], format!("port {} in {}", address.port(), env["DATA_NOTES"]));
    // Every variable is a name; one that the service set itself stands for what the application finds.
    assert_eq!(env["CACHE"], format!("{}/t/cache in {}", env["HOME"], env["HOME"]));
    assert_eq!(env["TMPDIR"], format!("{}/t", env["HOME"]));
    assert_eq!(env["PATH"], format!("{}/bin:/usr/local/bin:/usr/bin:/bin", env["BUNDLE"]));
    // Nor does the environment of what is between the daemon and it.
    let shim = std::fs::read(format!("/proc/{}/environ", rig.shim_pid(&spec.id))).unwrap();
    assert!(shim.is_empty(), "{}", String::from_utf8_lossy(&shim));
    assert_eq!(shell(address, "cd && touch a && mkdir t && touch $TMPDIR/b && pwd").trim(), env["HOME"]);
    rig.end().await;
}

#[tokio::test]
async fn wrong_specs_are_refused_and_leave_nothing() {
    let rig = ProcessRig::new().await;
    let good = rig.spec(1, App::Well);
    let cases: Vec<(InstanceSpec, &str)> = vec![
        (InstanceSpec { command: vec!["./app".into(), "${PROT}".into()], ..good.clone() }, "PROT"),
        (InstanceSpec { command: vec!["./missing".into()], ..good.clone() }, "not in the bundle"),
        (InstanceSpec { command: vec!["../engine/x".into()], ..good.clone() }, "out of the bundle"),
        (InstanceSpec { command: vec![], ..good.clone() }, "empty"),
        (InstanceSpec { env: BTreeMap::from([("A".into(), "${DATA_X}".into())]), ..good.clone() }, "DATA_X"),
        (InstanceSpec { egress: vec!["example.org:80".into()], ..good.clone() }, "ip:port"),
        (InstanceSpec { bundle_dir: "/nowhere".into(), ..good.clone() }, "/nowhere"),
    ];
    for (spec, word) in cases {
        let error = rig.engine().start(spec).await.unwrap_err();
        assert!(matches!(error, EngineError::Spec { .. }) && !error.is_retryable(), "{error}");
        assert!(error.to_string().contains(word), "{error} does not say {word}");
    }
    // What shows only on execution fails for good instead of trying for ever.
    let spec = InstanceSpec { command: vec!["no-such-program".into()], ..good };
    rig.engine().start(spec.clone()).await.unwrap();
    let found = wait(&rig, &spec.id, |s| matches!(s.state, InstanceState::Failed { .. })).await;
    assert!(format!("{:?}", found.state).contains("no-such-program"), "{found:?}");
    rig.end().await;
}

#[tokio::test]
async fn the_application_dies_with_its_shim_and_with_its_init() {
    let rig = ProcessRig::new().await;
    let spec = rig.spec(1, App::Well);
    let address = started(&rig, &spec).await;
    shell(address, "sleep 1000 >/dev/null 2>&1 & setsid sleep 1000 >/dev/null 2>&1 &");
    let pid = i32::try_from(status(&rig, &spec.id).await.unwrap().pid.unwrap()).unwrap();
    assert!(common::exists(pid));
    rig.kill_shim(&spec.id).await;
    wait(&rig, &spec.id, |s| matches!(s.state, InstanceState::Failed { .. })).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while common::exists(pid) || get(address, "/").is_ok() {
        assert!(Instant::now() < deadline, "the application outlived its shim");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    rig.engine().start(spec.clone()).await.unwrap();
    let again = ready(&rig, &spec.id).await;
    let init = parent_of(again.pid.unwrap());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(init), nix::sys::signal::Signal::SIGKILL).unwrap();
    wait(&rig, &spec.id, |s| s.restarts > again.restarts && s.state == InstanceState::Ready).await;
    rig.end().await;
}

fn parent_of(pid: u32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

fn files_below(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path(), all),
            Ok(kind) if kind.is_file() => all.push(entry.path()),
            _ => {}
        }
    }
}

/// Where a secret's bytes are to be seen: files of the engine, and what the kernel tells of the processes that lead to the application.
fn traces(rig: &ProcessRig, id: &InstanceId, application: u32, secret: &str) -> Vec<String> {
    let mut places = Vec::new();
    files_below(rig.dir.path(), &mut places);
    for pid in [rig.shim_pid(id), parent_of(application)] {
        places.extend(["cmdline", "environ"].map(|f| PathBuf::from(format!("/proc/{pid}/{f}"))));
    }
    places.push(format!("/proc/{application}/cmdline").into());
    let holds =
        |p: &PathBuf| std::fs::read(p).is_ok_and(|bytes| bytes.windows(secret.len()).any(|w| w == secret.as_bytes()));
    places.iter().filter(|p| holds(p)).map(|p| p.display().to_string()).collect()
}

#[tokio::test]
async fn a_secret_reaches_the_application_and_stands_nowhere_else() {
    const SECRET: &str = "sk_live_4b7e\"\\\n눈";
    let mut rig = ProcessRig::new().await;
    let mut spec = rig.spec(1, App::Well);
    let values = BTreeMap::from([("STRIPE_KEY".to_owned(), SECRET.to_owned()), ("PORT".to_owned(), "1".to_owned())]);
    spec.secrets = pumasi_engine::Secrets::new(values);
    assert!(!format!("{spec:?}").contains("sk_live"));
    assert!(!serde_json::to_string(&spec).unwrap().contains("sk_live"));
    let address = started(&rig, &spec).await;
    let told = |address| shell(address, "printf %s \"$STRIPE_KEY\"");
    assert!(told(address).contains(SECRET), "{:?}", told(address));
    let pid = status(&rig, &spec.id).await.unwrap().pid.unwrap();
    assert_eq!(traces(&rig, &spec.id, pid, "sk_live_4b7e"), Vec::<String>::new());
    // The application's own restart: the shim has it still, also where another daemon has come since.
    rig.reopen().await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(parent_of(pid)), nix::sys::signal::Signal::SIGKILL).unwrap();
    let again = wait(&rig, &spec.id, |s| s.restarts > 0 && s.state == InstanceState::Ready).await;
    assert!(told(At::of(&again)).contains(SECRET));
    // A shim that was killed gets it from whoever revives it.
    rig.kill_shim(&spec.id).await;
    wait(&rig, &spec.id, |s| matches!(s.state, InstanceState::Failed { .. })).await;
    rig.engine().start(spec.clone()).await.unwrap();
    let again = ready(&rig, &spec.id).await;
    assert!(told(At::of(&again)).contains(SECRET));
    assert_eq!(traces(&rig, &spec.id, again.pid.unwrap(), "sk_live_4b7e"), Vec::<String>::new());
    rig.end().await;
}

#[tokio::test]
async fn an_instance_outlives_a_daemon_that_was_killed() {
    let mut rig = ProcessRig::new().await;
    let spec = rig.spec(1, App::Well);
    let text = serde_json::to_string(&spec).unwrap();
    rig.while_closed(|rig| {
        let mut daemon = std::process::Command::new(&rig.config.executable);
        let ended = daemon.arg("start-and-die").arg(&rig.config.root_dir).arg(&text).status().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9));
    })
    .await;
    let found = ready(&rig, &spec.id).await;
    assert_eq!(found.restarts, 0);
    rig.end().await;
}

#[tokio::test]
async fn stopping_leaves_no_process_behind() {
    let rig = ProcessRig::new().await;
    let mut spec = rig.spec(1, App::Well);
    spec.stop_grace_ms = 200;
    let address = started(&rig, &spec).await;
    shell(address, "(trap '' TERM; setsid sleep 1000 >/dev/null 2>&1) >/dev/null 2>&1 &");
    rig.engine().stop(&spec.id).await.unwrap();
    wait(&rig, &spec.id, |s| matches!(s.state, InstanceState::Stopped { .. })).await;
    let left = rig.engine().remains(None).await.unwrap();
    assert_eq!(left.processes, 0, "{left:?}");
    rig.end().await;
}

#[tokio::test]
async fn logs_are_bounded() {
    let rig = ProcessRig::with(|c| c.log_bytes_max = 64 << 10).await;
    let spec = rig.spec(1, App::Well);
    let address = started(&rig, &spec).await;
    assert_eq!(get(address, "/print?1000").unwrap(), "printed");
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let log = rig.engine().logs(&spec.id, 1 << 20).await.unwrap();
        assert!(log.len() <= 64 << 10, "{}", log.len());
        if String::from_utf8_lossy(&log).contains("Z 000999 ") {
            break;
        }
        assert!(Instant::now() < deadline, "the end of the output never came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rig.end().await;
}

#[tokio::test]
async fn two_daemons_do_not_share_a_directory() {
    let rig = ProcessRig::new().await;
    let error = ProcessEngine::open(rig.config.clone()).await.unwrap_err();
    assert!(matches!(error, EngineError::InUse { .. }), "{error}");
}

#[tokio::test]
async fn what_a_crash_left_half_made_is_cleared_away() {
    let mut rig = ProcessRig::new().await;
    for name in [".new-inst-7", ".gone-inst-8"] {
        std::fs::create_dir(rig.config.root_dir.join(name)).unwrap();
    }
    assert_eq!(rig.engine().remains(None).await.unwrap().directories, 2);
    rig.reopen().await;
    rig.end().await;
}

#[tokio::test]
async fn lending_needs_isolation_or_a_signature() {
    let rig = ProcessRig::new().await;
    let isolated = rig.engine().capabilities().isolation.missing_for_lending().is_empty();
    let mut spec = rig.spec(1, App::Well);
    spec.lent = true;
    match rig.engine().start(spec.clone()).await {
        Ok(()) => assert!(isolated),
        Err(e) => assert!(!isolated && e.to_string().contains("lend_without_isolation"), "{e}"),
    }
    rig.end().await;
    let rig = ProcessRig::with(|c| c.lend_without_isolation = true).await;
    let spec = InstanceSpec { bundle_dir: rig.bundle(), ..spec };
    started(&rig, &spec).await;
    rig.end().await;
}

#[tokio::test]
async fn an_instance_sees_neither_others_nor_the_host() {
    if !is_root() {
        return;
    }
    let keys = tempfile::tempdir().unwrap();
    std::fs::set_permissions(keys.path(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(keys.path().join("key"), "secret").unwrap();
    let hide = keys.path().to_owned();
    let rig = ProcessRig::with(|c| c.hide.push(hide)).await;
    let isolation = rig.engine().capabilities().isolation;
    assert!(isolation.own_uid && isolation.namespaces && isolation.seccomp, "{isolation:?}");
    let (one, two) = (rig.spec(1, App::Well), rig.spec(2, App::Well));
    let a = started(&rig, &one).await;
    let b = started(&rig, &two).await;
    let uid = |address| shell(address, "id -u; id -G").lines().map(str::to_owned).collect::<Vec<_>>();
    let (of_a, of_b) = (uid(a), uid(b));
    assert_ne!(of_a[0], of_b[0], "each has a uid of its own");
    assert_eq!(of_a[1], of_b[1], "one owner, one group, and no other");
    assert_ne!(of_a[0], "0");

    shell(b, "echo secret > $HOME/mine");
    assert_eq!(shell(b, "cat $HOME/mine").trim(), "secret");
    assert!(shell(a, "cat $HOME/mine").contains("No such file"), "HOME is each one's own");
    let of_b = rig.instance_dir(&two.id);
    assert!(!of_b.join("private").exists(), "nothing of an instance with a view of its own is on the disk");
    for hidden in [of_b.join("spec.json"), keys.path().join("key")] {
        let out = shell(a, &format!("cat {}", hidden.display()));
        assert!(!out.contains("secret") && !out.contains("command"), "{} is seen: {out}", hidden.display());
    }
    // Also without the mount namespace's help, permissions keep them apart.
    for private in ["logs", "spec.json"] {
        let mode = of_b.join(private).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{private} is open to others: {mode:o}");
    }
    let processes = shell(a, "ls -d /proc/[0-9]* | wc -l");
    assert!(processes.trim().parse::<u32>().unwrap() < 8, "{processes}");
    assert!(shell(a, "touch $BUNDLE/x").contains("Read-only"));
    assert!(shell(a, "ls /run").trim() == "pumasi");
    let status = shell(a, "grep -E 'NoNewPrivs|Seccomp:|CapEff|CapBnd' /proc/self/status");
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    assert!(shell(a, "unshare -U true").contains("not permitted"));
    assert_eq!(shell(a, "ulimit -n; ulimit -c").lines().collect::<Vec<_>>(), ["4096", "0"]);
    rig.end().await;
}

#[tokio::test]
async fn data_is_shared_by_an_owner_and_written_only_where_granted() {
    if !is_root() {
        return;
    }
    let rig = ProcessRig::new().await;
    let data = rig.dir.path().join("data");
    let copy = rig.dir.path().join("copy");
    for (dir, mode) in [(&data, 0o700), (&copy, 0o755)] {
        std::fs::create_dir(dir).unwrap();
        std::fs::set_permissions(dir, PermissionsExt::from_mode(mode)).unwrap();
        std::fs::write(dir.join("old"), "old").unwrap();
    }
    std::fs::write(copy.join("db-shm"), "").unwrap();
    let mounts = BTreeMap::from([
        ("OWN".to_owned(), DataMount { path: data.clone(), access: Access::ReadWrite }),
        ("COPY".to_owned(), DataMount { path: copy.clone(), access: Access::ReadOnly }),
    ]);
    let mut addresses = Vec::new();
    for (number, owner) in [(1, "service-a"), (2, "service-a"), (3, "lease-9")] {
        let mut spec = rig.spec(number, App::Well);
        spec.owner = owner.into();
        // The third sees the same copy, and is not given the data.
        spec.data = mounts.clone();
        if number == 3 {
            spec.data.remove("OWN");
        }
        addresses.push(started(&rig, &spec).await);
    }
    assert_eq!(shell(addresses[0], "echo new >> $DATA_OWN/old && echo x > $DATA_OWN/fresh && mkdir $DATA_OWN/sub"), "");
    assert_eq!(shell(addresses[1], "echo more >> $DATA_OWN/fresh && echo y > $DATA_OWN/sub/z"), "");
    assert_eq!(std::fs::read_to_string(data.join("fresh")).unwrap(), "x\nmore\n");
    assert!(shell(addresses[0], "echo x >> $DATA_COPY/old").contains("denied"));
    assert!(shell(addresses[0], "touch $DATA_COPY/new").contains("Read-only"));
    assert_eq!(shell(addresses[2], "cat $DATA_COPY/old"), "old");
    assert!(shell(addresses[2], &format!("cat {}/fresh", data.display())).contains("No such file"));
    assert!(rig.process().owner_gid("lease-9").await.unwrap().is_some());
    rig.end().await;
    assert!(data.join("fresh").exists(), "data is not the instance's to take along");
}

#[tokio::test]
async fn what_is_prepared_has_its_data_only_once_it_begins() {
    if !is_root() {
        return;
    }
    let rig = ProcessRig::new().await;
    let (copy, data) = (rig.dir.path().join("copy"), rig.dir.path().join("data"));
    std::fs::create_dir(&copy).unwrap();
    std::fs::write(copy.join("old"), "old").unwrap();
    let mut spec = rig.spec(1, App::Well);
    spec.data = BTreeMap::from([
        ("OWN".to_owned(), DataMount { path: data.clone(), access: Access::ReadWrite }),
        ("COPY".to_owned(), DataMount { path: copy.clone(), access: Access::ReadOnly }),
    ]);
    spec.secrets = Secrets::new(BTreeMap::from([("KEY".to_owned(), "hidden".to_owned())]));
    rig.engine().prepare(spec.clone(), Prepare { at_most_ms: 60_000, heir_of: None }).await.unwrap();
    let found = wait(&rig, &spec.id, |s| s.pid.is_some()).await;
    // Without its data it does not begin, and says what is missing.
    let error = rig.engine().start(spec.clone()).await.unwrap_err().to_string();
    assert!(error.contains("is not a directory"), "{error}");
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", found.pid.unwrap())).unwrap();
    assert!(found.prepared && !mounts.contains("/run/pumasi/data"), "{mounts}");
    // The directory gets its name after the view was made.
    std::fs::create_dir(rig.dir.path().join("before")).unwrap();
    std::fs::write(rig.dir.path().join("before/old"), "promoted").unwrap();
    std::fs::rename(rig.dir.path().join("before"), &data).unwrap();
    let at = started(&rig, &spec).await;
    assert_eq!(status(&rig, &spec.id).await.unwrap().pid, found.pid, "it is the one that was prepared");
    assert_eq!(shell(at, "cat $DATA_OWN/old $DATA_COPY/old; echo $KEY"), "promotedoldhidden\n");
    assert_eq!(shell(at, "echo new > $DATA_OWN/fresh"), "");
    assert_eq!(std::fs::read_to_string(data.join("fresh")).unwrap(), "new\n");
    assert!(shell(at, "touch $DATA_COPY/new").contains("Read-only"));
    assert!(shell(at, "cp /bin/true $DATA_OWN/true && $DATA_OWN/true").contains("denied"), "data is no program");
    let flags = shell(at, "grep /run/pumasi/data /proc/self/mountinfo");
    assert!(flags.lines().count() == 2 && flags.lines().all(|l| l.contains("nosuid,nodev,noexec")), "{flags}");
    assert!(!flags.contains("shared:"), "{flags}");
    let status = shell(at, "grep -E 'NoNewPrivs|Seccomp:|CapEff|CapBnd' /proc/self/status");
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
    rig.end().await;
}

#[tokio::test]
async fn memory_and_cpu_limits_hold() {
    if !is_root() {
        return;
    }
    let rig = ProcessRig::new().await;
    if rig.engine().capabilities().isolation.cgroup.is_none() {
        return;
    }
    let mut spec = rig.spec(1, App::Well);
    spec.resources.cpu_millis = 200;
    spec.resources.memory_mib = 48;
    let address = started(&rig, &spec).await;
    let before = status(&rig, &spec.id).await.unwrap();
    let clock = Instant::now();
    let burning: Vec<_> = (0..2).map(|_| std::thread::spawn(move || get(address, "/burn?1000").unwrap())).collect();
    for thread in burning {
        thread.join().unwrap();
    }
    let used_us = status(&rig, &spec.id).await.unwrap().cpu_used_us - before.cpu_used_us;
    let share = used_us as f64 / clock.elapsed().as_micros() as f64;
    println!("cpu share at a quota of 0.2: {share:.3}");
    assert!((0.02..0.3).contains(&share), "{share}");

    assert!(before.memory_bytes > 0 && before.memory_bytes < 48 << 20, "{before:?}");
    assert!(get(address, "/alloc?16").is_ok_and(|b| b == (16u64 << 20).to_string()));
    assert_ne!(get(address, "/alloc?200").unwrap_or_default(), (200u64 << 20).to_string());
    let found = wait(&rig, &spec.id, |s| s.restarts == 1).await;
    let log = rig.engine().logs(&spec.id, 4_096).await.unwrap();
    assert!(String::from_utf8_lossy(&log).contains("more memory than its limit"), "{found:?}");
    ready(&rig, &spec.id).await;
    rig.end().await;
}

#[tokio::test]
async fn scripts_run_by_an_interpreter_of_the_host() {
    let rig = ProcessRig::new().await;
    if !Path::new("/usr/bin/python3").exists() {
        return;
    }
    assert!(rig.engine().capabilities().platforms[0].runtimes.contains(&"python3".to_owned()));
    let mut spec = rig.spec(9, App::Well);
    spec.command = ["python3", "-m", "http.server", "--bind", "${HOST}", "--directory", "${BUNDLE}", "${PORT}"]
        .map(str::to_owned)
        .to_vec();
    let address = started(&rig, &spec).await;
    assert!(get(address, "/").unwrap().contains("app"));
    assert_eq!(status(&rig, &id(9)).await.unwrap().restarts, 0);
    rig.end().await;
}

#[tokio::test]
async fn of_an_engine_that_was_killed_with_all_its_processes_the_kernel_keeps_nothing() {
    if !is_root() {
        return;
    }
    let mut rig = ProcessRig::new().await;
    let spec = rig.spec(1, App::Well);
    started(&rig, &spec).await;
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(rig.instance_dir(&spec.id).join("spec.json")).unwrap()).unwrap();
    let groups: Vec<std::path::PathBuf> = record["cgroup"]["dirs"]
        .as_object()
        .unwrap()
        .values()
        .map(|d| Path::new(d.as_str().unwrap()).parent().unwrap().to_owned())
        .collect();
    assert!(groups.iter().all(|g| g.is_dir()));
    // As the lab ends: with a kill and without a word.
    rig.while_closed(|rig| {
        let pid = nix::unistd::Pid::from_raw(rig.shim_pid(&spec.id));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        let begun = Instant::now();
        while groups.iter().any(|g| g.is_dir()) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{groups:?} stay");
            forget(&rig.config.root_dir);
            std::thread::sleep(Duration::from_millis(20));
        }
    })
    .await;
    rig.end().await;
}
