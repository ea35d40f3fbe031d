//! Attacks from inside an instance, by subject. They need root: without it there is nothing to attack but the daemon's own user.

mod calls;
mod disk;
mod view;

use crate::common::{At, ProcessRig, is_root, ready, shell};
use pumasi_engine::{Engine, InstanceSpec};

/// Says so where nothing could be tried.
fn cannot_try(what: &str) -> bool {
    if !is_root() {
        println!("not tried, needs root: {what}");
    }
    !is_root()
}

async fn inside(rig: &ProcessRig, spec: &InstanceSpec) -> At {
    rig.process().start(spec.clone()).await.unwrap();
    At::of(&ready(rig, &spec.id).await)
}

/// Runs a program of the host's Python in the instance; it fits into one request.
fn python(address: At, program: &str) -> String {
    assert!(!program.contains("\nEND\n") && program.len() < 3_500, "{}", program.len());
    shell(address, &format!("python3 - <<'END'\n{program}\nEND\n"))
}

/// Of the lines `name answer`, those whose answer is not as it must be.
fn wrong(lines: &str, right: impl Fn(&str, &str) -> bool) -> Vec<&str> {
    lines.lines().filter(|l| l.split_once(' ').is_none_or(|(name, answer)| !right(name, answer))).collect()
}
