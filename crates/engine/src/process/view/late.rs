//! Data that an instance is given after its view was made.
//!
//! Enters: directories of the host, the mount namespace of an instance that has not begun. Leaves: them, at the points that its root has
//! for them.
//! Always holds: they are found by their paths of now, not of when the view was made; nothing of the instance runs meanwhile, so that it
//! never sees one of them without its flags.

use super::{MsFlags, NONE, Source, err, io_err, mount};
use crate::process::launch::Bind;
use nix::sched::{CloneFlags, setns, unshare};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use std::fs::File;

/// Call it from a thread that ends afterwards; its own namespaces are no longer the process's.
pub(in crate::process) fn put(namespace: &File, binds: &[Bind]) -> Result<(), String> {
    // A namespace for the making: what is cloned in it is private, so that nothing that is mounted on the host later comes along.
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).map_err(err("unshare"))?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(err("make mounts private"))?;
    let mut trees = Vec::new();
    for bind in binds {
        let source = Source::own(bind)?;
        let flags = OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(&source.file, "", flags).map_err(io_err_of(&source))?;
        trees.push((tree, source));
    }
    setns(namespace, CloneFlags::CLONE_NEWNS).map_err(err("enter the instance's mounts"))?;
    for (tree, source) in trees {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&tree, "", rustix::fs::CWD, &source.to, flags).map_err(io_err_of(&source))?;
        let flags = source.flags | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
        mount(NONE, &source.to, NONE, flags, NONE).map_err(err(format!("close {}", source.to.display())))?;
    }
    Ok(())
}

fn io_err_of(source: &Source) -> impl FnOnce(rustix::io::Errno) -> String {
    let doing = io_err(format!("mount {}", source.to.display()));
    move |e| doing(e.into())
}
