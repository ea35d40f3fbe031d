//! What is there to be seen, and where it can be written.

use super::{cannot_try, inside, python};
use crate::common::{App, ProcessRig, Rig, shell};
use pumasi_engine::{Access, DataMount, ProcessEngine};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A data directory as a daemon's, full of what others wrote, open to everybody who reaches it.
fn data_dir_in(above: &Path) -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("pumasi-test-").tempdir_in(above).unwrap();
    for file in ["services/victim/logs/a.log", "bundles/unpacked/one/key", "services/victim/ship/chunk", "top"] {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "VICTIM").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    }
    for entry in ["", "services", "services/victim", "services/victim/logs", "bundles", "bundles/unpacked"] {
        fs::set_permissions(dir.path().join(entry), Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

#[tokio::test]
async fn an_instance_can_open_nothing_below_the_data_directory() {
    if cannot_try("the data directory") {
        return;
    }
    // In what is shown as well as outside of it.
    let shown = tempfile::Builder::new().prefix("pumasi-shown-").tempdir_in("/opt").unwrap();
    fs::set_permissions(shown.path(), Permissions::from_mode(0o755)).unwrap();
    fs::write(shown.path().join("runtime"), "runtime").unwrap();
    for above in ["/tmp", "/var/tmp", "/usr/local", "/root", "/opt", "shown"] {
        let above = if above == "shown" { shown.path() } else { Path::new(above) };
        let data = data_dir_in(above);
        let dir = data.path().to_owned();
        let rig = ProcessRig::with(|c| {
            c.root_dir = dir.join("engine");
            c.hide.push(dir.clone());
            c.view.push(shown.path().to_owned());
        })
        .await;
        let mut spec = rig.spec(1, App::Well);
        // Its own bundle and data lie below it all the same.
        fs::rename(rig.bundle(), dir.join("bundles/unpacked/own")).unwrap();
        spec.bundle_dir = dir.join("bundles/unpacked/own");
        fs::create_dir(dir.join("services/own")).unwrap();
        fs::write(dir.join("services/own/mine"), "mine").unwrap();
        spec.data = BTreeMap::from([(
            "OWN".to_owned(),
            DataMount { path: dir.join("services/own"), access: Access::ReadWrite },
        )]);
        let address = inside(&rig, &spec).await;
        assert_eq!(shell(address, "cat $DATA_OWN/mine"), "mine");
        assert_eq!(shell(address, &format!("cat {}/runtime", shown.path().display())), "runtime");
        // By name, through every root and directory that a process leads to, and by looking at everything there is.
        let named = shell(
            address,
            &format!(
                "for r in '' /proc/1/root /proc/self/root /proc/1/cwd/.. /proc/self/cwd/../../..; do \
                 for f in top services/victim/logs/a.log bundles/unpacked/one/key engine/slots.json; do cat $r{0}/$f; ls $r{0}/services; done; done; \
                 for p in /proc/[0-9]*; do cat $p/root{0}/top; for fd in $p/fd/*; do cat $fd/../top $fd/top; done; done 2>/dev/null; true",
                dir.display()
            ),
        );
        assert!(!named.contains("VICTIM") && !named.contains("version"), "{}: {named}", dir.display());
        assert!(named.contains("No such file"), "{named}");
        let all = shell(
            address,
            "find / -path /proc -prune -o \\( -name victim -o -name a.log -o -name slots.json -o -name key -path '*one*' \\) -print 2>/dev/null; \
             ls -d /root /home /var/lib /work /srv /etc/shadow /etc/ssh /etc/fstab /etc/sudoers /etc/machine-id /sys /boot 2>/dev/null",
        );
        assert_eq!(all.trim(), "", "{}", dir.display());
        rig.end().await;
    }
}

#[tokio::test]
async fn what_lies_in_the_data_directory_cannot_be_shown() {
    if cannot_try("the view's borders") {
        return;
    }
    let data = data_dir_in(Path::new("/opt"));
    let dir = data.path().to_owned();
    let rig = ProcessRig::new().await;
    let mut config = rig.config.clone();
    config.root_dir = dir.join("engine");
    config.hide.push(dir.clone());
    for (shown, word) in
        [("services", "no instance may see"), ("missing", "No such file"), ("services/../top", "no instance may see")]
    {
        config.view = vec![dir.join(shown)];
        // Not taken for a host that has no namespaces: instances would run without a view.
        let error = ProcessEngine::open(config.clone()).await.unwrap_err();
        assert!(error.to_string().contains(word) && error.to_string().contains("engine.view"), "{error}");
    }
    rig.end().await;
}

#[tokio::test]
async fn the_root_is_small_and_read_only() {
    if cannot_try("the root") {
        return;
    }
    let rig = ProcessRig::new().await;
    let address = inside(&rig, &rig.spec(1, App::Well)).await;
    let top: BTreeSet<String> = shell(address, "ls -A /").lines().map(str::to_owned).collect();
    let known =
        ["bin", "dev", "etc", "lib", "lib32", "lib64", "libexec", "libx32", "proc", "run", "sbin", "tmp", "usr", "var"];
    assert!(top.iter().all(|n| known.contains(&n.as_str())), "{top:?}");
    assert_eq!(shell(address, "ls -A /dev | xargs").trim(), "fd full null random shm stderr stdin stdout urandom zero");
    let written = shell(
        address,
        "for d in / /etc /usr /usr/bin /usr/local /dev /run /run/pumasi /run/pumasi/.nothing/dir /var /proc /proc/sys $BUNDLE; do \
         touch $d/x 2>/dev/null && echo wrote $d; mkdir $d/y 2>/dev/null && echo made $d; done; \
         echo x > /proc/sys/kernel/core_pattern && echo wrote sysctl; echo b > /proc/sysrq-trigger && echo wrote sysrq; \
         echo 0 > /proc/self/oom_score_adj && echo wrote proc; true > /etc/passwd && echo wrote passwd; true",
    );
    assert!(!written.contains("wrote") && !written.contains("made"), "{written}");
    let users = shell(address, "cut -d: -f1 /etc/passwd | xargs; cat /etc/hosts");
    assert!(users.starts_with("root instance nobody\n"), "{users}");
    assert!(users.lines().skip(1).all(|l| l.starts_with("127.0.0.1 ") || l.starts_with("::1 ")), "{users}");
    rig.end().await;
}

#[tokio::test]
async fn every_mount_is_closed_as_far_as_its_use_allows() {
    if cannot_try("mounts") {
        return;
    }
    let rig = ProcessRig::new().await;
    let mut spec = rig.spec(1, App::Well);
    for (name, access) in [("OWN", Access::ReadWrite), ("COPY", Access::ReadOnly)] {
        let path = rig.dir.path().join(name);
        fs::create_dir(&path).unwrap();
        // Whatever the modes say.
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        spec.data.insert(name.into(), DataMount { path, access });
    }
    let address = inside(&rig, &spec).await;
    let table = shell(address, "cat /proc/self/mountinfo");
    let mut seen = BTreeSet::new();
    for line in table.lines() {
        let (left, _) = line.split_once(" - ").unwrap();
        let fields: Vec<&str> = left.split(' ').collect();
        let (at, options) = (fields[4], fields[5].split(',').collect::<BTreeSet<_>>());
        seen.insert(at);
        assert!(fields[6..].is_empty(), "{line}: what the host mounts later would appear here");
        assert!(options.contains("nosuid"), "{line}");
        let device = at.starts_with("/dev/") && at != "/dev/shm";
        assert_eq!(options.contains("nodev"), !device, "{line}");
        let writable = device || ["/tmp", "/dev/shm", "/run/pumasi/home", "/run/pumasi/data/OWN"].contains(&at);
        let empty = left.contains("/.nothing/");
        assert!(options.contains("ro") || writable || empty, "{line}");
        assert_eq!(
            at.starts_with("/run/pumasi/data/"),
            options.contains("noexec") && !device && !at.starts_with("/proc"),
            "{line}"
        );
    }
    assert!(seen.contains("/run/pumasi/data/COPY") && seen.contains("/usr") && seen.contains("/"), "{table}");
    assert!(shell(address, "touch $DATA_COPY/x").contains("Read-only"));
    assert_eq!(shell(address, "touch $DATA_OWN/x"), "");
    rig.end().await;
}

#[tokio::test]
async fn proc_tells_of_the_instance_alone() {
    if cannot_try("/proc") {
        return;
    }
    let rig = ProcessRig::new().await;
    let address = inside(&rig, &rig.spec(1, App::Well)).await;
    let said = shell(
        address,
        "cd /proc; cat kcore keys key-users timer_list kallsyms slabinfo kmsg sched_debug config.gz modules 2>/dev/null | wc -c; \
         ls -A acpi bus fs driver irq scsi 2>/dev/null | grep -v : | xargs; \
         cat 1/environ 1/cmdline 1/maps 1/mountinfo; ls 1 1/fd 1/root 1/cwd; head -c 9 1/exe; \
         echo x > 1/exe; echo x > 1/mem; echo x > 1/oom_score_adj; ls -d [0-9]* | sort | head -1",
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], ["0", ""], "{said}");
    assert!(!said.contains("instance-exec") && !said.contains("ELF") && !said.contains("engine"), "{said}");
    assert_ne!(lines[2], "1", "init is out of sight");
    // The program of shim and init is nobody's to change: they see neither it nor a handle to it.
    let own =
        shell(address, "echo x >> /proc/self/exe; for p in /proc/[0-9]*; do readlink $p/exe; echo x >> $p/exe; done");
    assert!(!own.contains("pumasi-engine-host"), "{own}");
    rig.end().await;
}

#[tokio::test]
async fn handles_of_the_keepers_are_not_handed_down() {
    if cannot_try("handles") {
        return;
    }
    let rig = ProcessRig::new().await;
    let address = inside(&rig, &rig.spec(1, App::Well)).await;
    let said = python(
        address,
        "import os\np=os.getppid()\nwhile True:\n  n=open(f'/proc/{p}/comm').read().strip()\n  if n=='app': break\n  p=int(open(f'/proc/{p}/stat').read().split(')')[1].split()[1])\n\
         for f in os.listdir(f'/proc/{p}/fd'): print(f, os.readlink(f'/proc/{p}/fd/{f}').split(':')[0])",
    );
    let mut handles = BTreeMap::new();
    for line in said.lines() {
        let (number, what) = line.split_once(' ').unwrap();
        handles.insert(number.parse::<u32>().unwrap(), what);
    }
    assert_eq!((handles[&0], handles[&1], handles[&2]), ("/dev/null", "pipe", "pipe"), "{said}");
    // The rest is its own: the listener, this connection, and the pipes of the shell that asks.
    let mut own = handles.range(3..).map(|(_, what)| *what);
    assert!(own.all(|what| what == "socket" || what == "pipe" || what.starts_with("anon_inode")), "{said}");
    rig.end().await;
}

#[tokio::test]
async fn files_that_the_host_put_there_give_no_rights() {
    if cannot_try("setuid files and devices") {
        return;
    }
    let rig = ProcessRig::new().await;
    let data = rig.dir.path().join("data");
    fs::create_dir(&data).unwrap();
    for dir in [&data, &rig.bundle()] {
        fs::copy("/usr/bin/id", dir.join("id")).unwrap();
        fs::set_permissions(dir.join("id"), Permissions::from_mode(0o4755)).unwrap();
        let device = nix::sys::stat::makedev(1, 5);
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
        nix::sys::stat::mknod(&dir.join("zero"), nix::sys::stat::SFlag::S_IFCHR, mode, device).unwrap();
        fs::set_permissions(dir.join("zero"), Permissions::from_mode(0o666)).unwrap();
    }
    let mut spec = rig.spec(1, App::Well);
    spec.data.insert("OWN".into(), DataMount { path: data, access: Access::ReadWrite });
    let address = inside(&rig, &spec).await;
    let bundle = shell(address, "$BUNDLE/id -u; head -c 1 $BUNDLE/zero");
    assert!(!bundle.starts_with("0\n") && bundle.contains("ermission denied"), "{bundle}");
    let data = shell(address, "$DATA_OWN/id -u; head -c 1 $DATA_OWN/zero");
    assert_eq!(data.matches("ermission denied").count(), 2, "{data}");
    rig.end().await;
}

#[tokio::test]
async fn a_link_in_place_of_a_dataset_is_refused() {
    if cannot_try("links") {
        return;
    }
    let rig = ProcessRig::new().await;
    let data = rig.dir.path().join("data");
    std::os::unix::fs::symlink("/etc", &data).unwrap();
    let mut spec = rig.spec(1, App::Well);
    spec.data.insert("OWN".into(), DataMount { path: data, access: Access::ReadWrite });
    let modes = |path: &str| fs::metadata(path).unwrap().permissions().mode();
    let before = modes("/etc");
    let error = rig.engine().start(spec).await.unwrap_err();
    assert!(error.to_string().contains("data"), "{error}");
    assert_eq!(modes("/etc"), before);
}
