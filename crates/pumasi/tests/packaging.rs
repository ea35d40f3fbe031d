//! What a package must hold is there, and its unit is what the design needs of it.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn unit() -> String {
    std::fs::read_to_string(root().join("packaging/systemd/pumasi.service")).unwrap()
}

fn values<'t>(unit: &'t str, key: &str) -> Vec<&'t str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn the_package_lists_what_it_must_and_all_of_it_is_there() {
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let deb = &manifest["package"]["metadata"]["deb"];
    let mut installed = Vec::new();
    for asset in deb["assets"].as_array().unwrap() {
        let [from, to] = [0, 1].map(|i| asset[i].as_str().unwrap());
        installed.push(format!("{to}{}", if to.ends_with('/') { from.rsplit('/').next().unwrap() } else { "" }));
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(from);
        let there = match from.file_name().and_then(|n| n.to_str()).unwrap() {
            // Built when the package is.
            "pumasi" => true,
            "*.md" => from.parent().unwrap().join("README.md").is_file(),
            _ => from.is_file(),
        };
        assert!(there, "{} is not there", from.display());
    }
    for must in
        ["usr/bin/pumasi", "etc/pumasi/cloud.toml", "usr/share/doc/pumasi/README.md", "usr/share/doc/pumasi/docs/*.md"]
    {
        assert!(installed.iter().any(|i| i == must), "{must}: {installed:?}");
    }
    assert_eq!(deb["conf-files"][0].as_str(), Some("/etc/pumasi/cloud.toml"));
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join(deb["systemd-units"]["unit-scripts"].as_str().unwrap());
    assert!(units.join("pumasi.service").is_file());
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(deb["license-file"][0].as_str().unwrap()).is_file());
}

#[test]
fn the_configuration_that_is_installed_is_read() {
    let text = std::fs::read_to_string(root().join("packaging/cloud.toml")).unwrap();
    let config = pumasi_node::Config::parse(&text, std::iter::empty()).unwrap();
    assert_eq!(config.cloud.data_dir, Path::new("/var/lib/pumasi"));
}

#[test]
fn the_unit_ends_the_daemon_alone_and_leaves_instances_what_they_need() {
    let unit = unit();
    assert_eq!(values(&unit, "KillMode"), ["process"], "gateway and instances outlive the daemon");
    assert_eq!(values(&unit, "Restart"), ["on-failure"], "what ended by its operator's word stays ended");
    assert_eq!(values(&unit, "OOMPolicy"), ["continue"]);
    // Each of these takes something away from instances, or hides from a new daemon what the old one mounted.
    for harmful in [
        "ProtectSystem",
        "ProtectHome",
        "PrivateTmp",
        "PrivateDevices",
        "PrivateNetwork",
        "PrivateUsers",
        "RestrictNamespaces",
        "ProtectControlGroups",
        "ProtectKernelTunables",
        "MemoryDenyWriteExecute",
        "DynamicUser",
        "RestrictSUIDSGID",
    ] {
        assert!(values(&unit, harmful).is_empty(), "{harmful}");
    }
    let capabilities = values(&unit, "CapabilityBoundingSet").concat();
    for needed in [
        "CAP_SYS_ADMIN",
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_NET_ADMIN",
        "CAP_SYS_CHROOT",
        "CAP_SYS_RESOURCE",
    ] {
        assert!(capabilities.split(' ').any(|c| c == needed), "{needed}");
    }
    let state = values(&unit, "StateDirectory");
    assert_eq!(state, ["pumasi"], "{state:?}");
}

#[test]
fn systemd_takes_the_unit() {
    // Not on every machine that builds.
    let Ok(asked) = Command::new("systemd-analyze").arg("--version").output() else { return };
    if !asked.status.success() {
        return;
    }
    let done = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(root().join("packaging/systemd/pumasi.service"))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&done.stderr);
    let ours = told.lines().filter(|l| l.contains("pumasi.service") && !l.contains("is not executable"));
    assert_eq!(ours.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn the_root_of_an_image_holds_all_that_the_program_needs() {
    let dir = tempfile::tempdir().unwrap();
    let done = Command::new(root().join("packaging/rootfs"))
        .arg(env!("CARGO_BIN_EXE_pumasi"))
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let run = Command::new("chroot").arg(dir.path()).args(["/usr/bin/pumasi", "--version"]).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert!(String::from_utf8_lossy(&run.stdout).starts_with("pumasi "));
}
