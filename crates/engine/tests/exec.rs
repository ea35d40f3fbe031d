//! Commands that people run in instances: what they may do, and what becomes of them. The parts that need root are skipped without.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{App, At, ProcessRig, Rig, id, is_root, ready, shell};
use pumasi_engine::*;
use pumasi_terms::InstanceId;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(|w| (*w).to_owned()).collect()
}

async fn begin(rig: &ProcessRig, id: &InstanceId, command: &[&str]) -> Session {
    rig.process().exec(id, words(command), None).await.unwrap()
}

async fn all_of(stream: &SessionStream) -> String {
    let (mut bytes, mut buffer) = (Vec::new(), [0u8; 4_096]);
    loop {
        match stream.read(&mut buffer).await.unwrap() {
            0 => return String::from_utf8_lossy(&bytes).into_owned(),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

struct Ran {
    out: String,
    err: String,
    exit: Option<Exit>,
}

async fn finish(mut session: Session) -> Ran {
    session.input = None;
    let errors = session.errors.clone();
    let err = async {
        match &errors {
            Some(errors) => all_of(errors).await,
            None => String::new(),
        }
    };
    let (out, err, exit) = tokio::join!(all_of(&session.output), err, &mut session.ended);
    Ran { out, err, exit }
}

async fn run(rig: &ProcessRig, id: &InstanceId, script: &str) -> Ran {
    let ran = finish(begin(rig, id, &["/bin/sh", "-c", script]).await);
    tokio::time::timeout(Duration::from_secs(30), ran).await.expect("it ends")
}

async fn started(rig: &ProcessRig, number: u32) -> (InstanceSpec, At) {
    let spec = rig.spec(number, App::Well);
    rig.engine().start(spec.clone()).await.unwrap();
    let at = At::of(&ready(rig, &spec.id).await);
    (spec, at)
}

/// Processes of this host whose command line holds `mark`, zombies aside.
fn marked(mark: &str) -> BTreeSet<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let line = |e: std::fs::DirEntry| {
        let line = std::fs::read(e.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " ")).filter(|l| l.contains(mark))
    };
    processes.filter_map(line).collect()
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}: not in 20 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn streams_code_and_signal_are_the_commands() {
    let rig = ProcessRig::new().await;
    let (spec, _) = started(&rig, 1).await;
    let ran = run(&rig, &spec.id, "echo out; echo err >&2; exit 7").await;
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("out\n", "err\n"));
    assert_eq!(ran.exit.unwrap().code, Some(7));
    assert_eq!(run(&rig, &spec.id, "kill -9 $$").await.exit.unwrap().signal, Some(9));
    // Input arrives whole, and so does its end.
    let session = begin(&rig, &spec.id, &["wc", "-c"]).await;
    let (input, text) = (session.input.clone().unwrap(), vec![b'x'; 300_000]);
    let mut sent = 0;
    while sent < text.len() {
        sent += input.write(&text[sent..]).await.unwrap();
    }
    drop(input);
    assert_eq!(finish(session).await.out.trim(), "300000");
    // What cannot be run is told; the instance does not notice.
    for (command, word) in [(&["no-such-program"][..], "no-such-program"), (&["/etc/passwd"], "execute /etc/passwd")] {
        let why = rig.process().exec(&spec.id, words(command), None).await.unwrap_err();
        assert!(why.to_string().contains(word), "{why}");
    }
    let unknown = rig.process().exec(&id(9), words(&["true"]), None).await.unwrap_err();
    assert!(matches!(unknown, EngineError::Unknown { .. }), "{unknown}");
    assert_eq!(common::status(&rig, &spec.id).await.unwrap().restarts, 0);
    rig.end().await;
}

/// Everything by which the kernel tells one process's rights from another's.
const WHAT_I_AM: &str = r#"
for ns in cgroup ipc mnt net pid user uts time; do readlink /proc/self/ns/$ns; done
id; umask; pwd
grep -E '^(Uid|Gid|Groups|NoNewPrivs|Seccomp|Seccomp_filters|Cap...):' /proc/self/status
cut -d: -f2,3 /proc/self/cgroup | sed 's|/session-[0-9]*$||' | sort
cat /proc/self/limits /proc/self/mountinfo /proc/self/oom_score_adj
stat -c '%A %u %g %n' / /* /dev/* /run/pumasi/*
env | grep -v '^_=' | sort
"#;

#[tokio::test]
async fn it_is_what_the_application_is() {
    let rig = ProcessRig::new().await;
    let (spec, at) = started(&rig, 1).await;
    let application = shell(at, WHAT_I_AM);
    let session = run(&rig, &spec.id, WHAT_I_AM).await.out;
    for (a, s) in application.lines().zip(session.lines()) {
        assert_eq!(a, s);
    }
    assert_eq!(application.lines().count(), session.lines().count());
    assert!(application.lines().count() > 30, "{application}");
    // Three handles, and the one by which they are listed.
    let handles = run(&rig, &spec.id, "exec ls -l /proc/self/fd").await.out;
    let open: Vec<&str> = handles.lines().filter(|l| l.contains("->")).collect();
    assert_eq!(open.len(), 4, "{handles}");
    assert!(open[..3].iter().all(|l| l.contains("pipe:")), "{handles}");
    rig.end().await;
}

/// The ways out that an application is refused, one a line.
const WAYS_OUT: &str = r#"
cat /proc/1/environ /proc/1/root/etc/shadow
ls /proc/1/fd /proc/1/ns /proc/1/cwd/
for p in /proc/[0-9]*; do cat $p/environ > /dev/null && readlink $p/exe; done
mount -t tmpfs none /mnt; unshare -r true; unshare -n true; chroot / true; nsenter -t 1 -m true
echo 1 > /sys/fs/cgroup/cgroup.procs; echo x > /proc/self/attr/current; echo 0 > /proc/self/oom_score_adj
kill -9 1; kill -0 1; renice -n -5 $$; mknod /tmp/null c 1 3; ls /dev/pts /dev/tty /dev/ptmx
touch /x /usr/x /run/x; ls /root /home /var/lib /sys
"#;

#[tokio::test]
async fn what_the_application_is_refused_it_is_refused() {
    if !is_root() {
        return eprintln!("not root: instances have no rights of their own here");
    }
    let rig = ProcessRig::new().await;
    let (spec, at) = started(&rig, 1).await;
    let plain = |text: &str| -> Vec<String> {
        // Process numbers, and the line of the script that a shell counts.
        let line =
            |l: &str| l.split(|c: char| c.is_ascii_digit()).filter(|p| !p.is_empty()).collect::<Vec<_>>().join("#");
        let mut lines: Vec<String> = text.lines().map(line).collect();
        lines.sort();
        lines.dedup();
        lines
    };
    let script = format!("exec 2>&1\n{WAYS_OUT}");
    let application = shell(at, &script);
    let session = run(&rig, &spec.id, &script).await.out;
    assert_eq!(plain(&application), plain(&session));
    assert!(
        application.lines().filter(|l| l.contains("denied") || l.contains("not permitted")).count() > 5,
        "{application}"
    );
    // It is seen by nobody but its own application, whose signals reach it as its reach the application.
    let (other, other_at) = started(&rig, 2).await;
    let session = begin(&rig, &spec.id, &["sleep", "7654321"]).await;
    assert!(!shell(other_at, "cat /proc/*/cmdline").contains("7654321"));
    assert!(shell(at, "cat /proc/*/cmdline").contains("7654321"));
    // Its keeper, which is root's, is not to be seen or touched.
    assert!(!shell(at, "cat /proc/*/cmdline").contains("instance-exec"));
    drop(session);
    rig.engine().stop(&other.id).await.unwrap();
    rig.end().await;
}

#[tokio::test]
async fn all_that_it_started_ends_when_its_caller_is_gone() {
    let rig = ProcessRig::new().await;
    let (spec, at) = started(&rig, 1).await;
    let script = "trap '' TERM HUP INT; setsid sh -c 'trap \"\" TERM HUP; (sleep 7100001 &) ; sleep 7100001' & \
                  (setsid setsid sleep 7100001 &) ; nohup sleep 7100001 & echo begun; sleep 7100001";
    let session = begin(&rig, &spec.id, &["/bin/sh", "-c", script]).await;
    let mut buffer = [0u8; 16];
    assert_eq!(session.output.read(&mut buffer).await.unwrap(), 6);
    until("all of them run", || marked("7100001").len() >= 2 && count("7100001") >= 5).await;
    drop(session);
    until("nothing of it is left", || count("7100001") == 0).await;
    // Nor when it ends by itself: what it put into the background goes with it.
    let ran = run(&rig, &spec.id, "(setsid sleep 7100002 &); sleep 7100002 & echo done").await;
    assert_eq!(ran.exit.unwrap().code, Some(0));
    assert_eq!(count("7100002"), 0);
    assert_eq!(shell(at, "echo well").trim(), "well");
    rig.end().await;
}

fn count(mark: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let is = |e: &std::fs::DirEntry| {
        std::fs::read(e.path().join("cmdline")).is_ok_and(|l| String::from_utf8_lossy(&l).contains(mark))
    };
    processes.filter(is).count()
}

#[tokio::test]
async fn a_swarm_that_multiplies_ends_as_one() {
    if !is_root() || !rig_has_groups().await {
        return eprintln!("no control groups of v2 here");
    }
    let rig = ProcessRig::with(|c| c.limits.tasks_max = 64).await;
    let (spec, _) = started(&rig, 1).await;
    let bomb = "b() { sleep 0.01; b & b & wait; }; sleep 7200001 & echo begun; b";
    let session = begin(&rig, &spec.id, &["/bin/sh", "-c", bomb]).await;
    let mut buffer = [0u8; 16];
    session.output.read(&mut buffer).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(session);
    until("nothing of it is left", || count("7200001") == 0).await;
    let group = std::fs::read_to_string(format!("/proc/{}/cgroup", ready(&rig, &spec.id).await.pid.unwrap())).unwrap();
    let app = group.lines().find_map(|l| l.strip_prefix("0::")).unwrap().trim_start_matches('/');
    let root =
        ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].into_iter().find(|r| std::path::Path::new(r).join(app).is_dir());
    if let Some(root) = root {
        let below = || std::fs::read_dir(std::path::Path::new(root).join(app)).unwrap().flatten();
        until("its group is gone", || !below().any(|e| e.file_name().to_string_lossy().starts_with("session-"))).await;
    }
    rig.end().await;
}

async fn rig_has_groups() -> bool {
    ProcessRig::new().await.engine().capabilities().freeze == Some(FreezeBy::CgroupV2)
}

#[tokio::test]
async fn it_ends_with_its_instance_and_with_its_shim() {
    let rig = ProcessRig::new().await;
    let (spec, at) = started(&rig, 1).await;
    let begun = Instant::now();
    let mut session = begin(&rig, &spec.id, &["sleep", "7300001"]).await;
    rig.engine().stop(&spec.id).await.unwrap();
    assert_eq!((&mut session.ended).await, None);
    common::wait(&rig, &spec.id, |s| matches!(s.state, InstanceState::Stopped { .. })).await;
    assert_eq!(count("7300001"), 0);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let (second, second_at) = started(&rig, 2).await;
    let mut session = begin(&rig, &second.id, &["sleep", "7300002"]).await;
    // The application ends and is started again: that is another run.
    let _ = common::get(second_at, "/exit?1");
    assert_eq!((&mut session.ended).await, None);
    until("it has gone", || count("7300002") == 0).await;
    common::wait(&rig, &second.id, |s| s.restarts == 1 && s.state == InstanceState::Ready).await;
    let mut session = begin(&rig, &second.id, &["sleep", "7300003"]).await;
    rig.kill_shim(&second.id).await;
    assert_eq!((&mut session.ended).await, None);
    if is_root() {
        until("it went with its shim", || count("7300003") == 0).await;
    }
    let none = rig.process().exec(&second.id, words(&["true"]), None).await.unwrap_err();
    assert!(matches!(none, EngineError::Session { .. } | EngineError::Host { .. }), "{none}");
    let _ = at;
    rig.end().await;
}

#[tokio::test]
async fn it_ends_with_a_daemon_that_is_killed() {
    let mut rig = ProcessRig::new().await;
    let (spec, _) = started(&rig, 1).await;
    rig.while_closed(|rig| {
        let program = common::example("pumasi-engine-host");
        let root = rig.config.root_dir.display().to_string();
        let said = std::process::Command::new(program)
            .args(["exec-and-die", &root, spec.id.as_str(), "setsid sleep 7400001 & echo begun; sleep 7400001"])
            .output()
            .unwrap();
        assert!(String::from_utf8_lossy(&said.stdout).contains("begun"), "{said:?}");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&said.status), Some(9), "{said:?}");
    })
    .await;
    until("nothing of it is left", || count("7400001") == 0).await;
    assert_eq!(run(&rig, &spec.id, "echo next").await.out, "next\n");
    rig.end().await;
}

#[tokio::test]
async fn a_thousand_at_once_cost_others_nothing() {
    let rig = ProcessRig::new().await;
    let (spec, at) = started(&rig, 1).await;
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..1_000 {
        let (engine, id) = (rig.process().clone(), spec.id.clone());
        asked.spawn(async move { engine.exec(&id, words(&["sleep", "7500001"]), None).await });
    }
    let (mut open, mut refused) = (Vec::new(), 0);
    while let Some(answer) = asked.join_next().await {
        match answer.unwrap() {
            Ok(session) => open.push(session),
            Err(why) => {
                assert!(why.to_string().contains("as many as may at once"), "{why}");
                refused += 1;
            }
        }
    }
    assert_eq!((open.len(), refused), (8, 992));
    assert_eq!(shell(at, "echo well").trim(), "well");
    drop(open);
    until("they have gone", || count("7500001") == 0).await;
    // Their places are free again, once their shim has seen it.
    let begun = Instant::now();
    while rig.process().exec(&spec.id, words(&["true"]), None).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rig.end().await;
}

#[tokio::test]
async fn who_does_not_read_makes_the_command_wait_and_nobody_else() {
    let rig = ProcessRig::new().await;
    let (spec, at) = started(&rig, 1).await;
    let session = begin(&rig, &spec.id, &["/bin/sh", "-c", "exec yes 7600001"]).await;
    let shim_kib = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", rig.shim_pid(&spec.id))).unwrap();
        status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok()).unwrap()
    };
    let before = shim_kib();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(shim_kib() < before + 1_024, "{before} KiB, then {} KiB", shim_kib());
    assert_eq!(shell(at, "echo well").trim(), "well");
    drop(session);
    until("it has gone", || count("7600001") == 0).await;
    rig.end().await;
}

#[tokio::test]
async fn nobody_goes_into_what_runs_for_another_cloud() {
    let rig = ProcessRig::with(|c| c.lend_without_isolation = true).await;
    let mut spec = rig.spec(1, App::Well);
    spec.lent = true;
    rig.engine().start(spec.clone()).await.unwrap();
    ready(&rig, &spec.id).await;
    let why = rig.process().exec(&spec.id, words(&["true"]), None).await.unwrap_err();
    assert!(why.to_string().contains("runs for another cloud"), "{why}");
    rig.end().await;
}

#[tokio::test]
async fn a_terminal_has_a_size_and_takes_ctrl_c() {
    let rig = ProcessRig::new().await;
    let (spec, _) = started(&rig, 1).await;
    let size = Some(TerminalSize { columns: 91, rows: 33 });
    let script = "trap 'echo resized; stty size' WINCH; stty size; \
                  test -t 0 && test -t 1 && test -t 2 && echo terminal $TERM; while :; do sleep 0.05; done";
    let mut session = rig.process().exec(&spec.id, words(&["/bin/sh", "-c", script]), size).await.unwrap();
    assert!(session.errors.is_none());
    let mut said = String::new();
    let mut hear = async |word: &str| {
        let mut buffer = [0u8; 1_024];
        while !said.contains(word) {
            let heard = tokio::time::timeout(Duration::from_secs(20), session.output.read(&mut buffer)).await;
            let count = heard.unwrap_or_else(|_| panic!("no {word:?} in {said:?}")).unwrap();
            assert!(count > 0, "it ended: {said:?}");
            said.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    hear("33 91").await;
    hear("terminal xterm").await;
    session.output.resize(TerminalSize { columns: 120, rows: 40 }).unwrap();
    hear("40 120").await;
    session.input.as_ref().unwrap().write(b"\x03").await.unwrap();
    let exit = tokio::time::timeout(Duration::from_secs(20), &mut session.ended).await.unwrap().unwrap();
    assert_eq!(exit.signal, Some(2));
    if is_root() {
        // Typing into one's own terminal stays refused.
        let trick = "import fcntl,sys\ntry:\n fcntl.ioctl(0, 0x5412, b'x'); print('GOT')\nexcept OSError as e: print('errno', e.errno)";
        let session = rig.process().exec(&spec.id, words(&["python3", "-c", trick]), size).await.unwrap();
        assert_eq!(all_of(&session.output).await.trim(), "errno 1");
    }
    rig.end().await;
}
