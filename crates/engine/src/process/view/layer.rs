//! A layer of the instance's own over a directory of data: it may write there, and nobody else ever sees it.
//!
//! Enters: a copy of a dataset, its mount point in the instance's root. Leaves: an overlay mount (overlayfs) whose lower layer is the copy
//! and whose upper layer is memory of a bounded size, charged to whoever writes it.
//! Always holds: what is written is gone with the layer; it has no name outside of the instance. A copy that changes gets a new layer at
//! once ([`renew`]): the kernel goes on showing what a mounted overlay has looked up before, and a file that was written would hide
//! newer ones for good.

use super::{BYTES_PER_INODE, INODES_MAX, INODES_MIN, err, held, hold, io_err, new_root};
use super::{MntFlags, MsFlags, NONE, ROOT, mount, umount2};
use crate::process::launch::Layer;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, chown};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    move_mount,
};
use std::fs::{self, File, Permissions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What may change below between two mounts of it (Documentation/filesystems/overlayfs.rst, "Changes to underlying filesystems").
const CHANGEABLE: [(&str, &str); 3] = [("index", "off"), ("metacopy", "off"), ("redirect_dir", "off")];

fn sys(doing: impl std::fmt::Display) -> impl FnOnce(rustix::io::Errno) -> String {
    move |e| format!("{doing}: {e}")
}

/// The copy, opened before the new root covers its path. A link in its place would show what the link's owner chose.
pub(super) fn open(layer: &Layer) -> Result<File, String> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_DIRECTORY;
    hold(&layer.from, flags).map_err(io_err(format!("open {}", layer.from.display())))
}

/// In the root that is being built.
pub(super) fn mount_first(lower: &File, layer: &Layer) -> Result<(), String> {
    let (to, aside) = (new_root(&layer.to), new_root("mnt"));
    fs::create_dir_all(&to).map_err(io_err(format!("mount {}", layer.to.display())))?;
    fs::create_dir(&aside).map_err(io_err("make a layer"))?;
    let made = overlay(lower, &aside, layer)?;
    fs::remove_dir(&aside).map_err(io_err("make a layer"))?;
    put(&made, &to, MoveMountFlags::empty())
}

/// A fresh layer in the place of the old one, in the mount namespace of an instance that runs: there is no moment without one. Call it from
/// a thread that ends afterwards; its own namespaces are no longer the process's.
pub(in crate::process) fn renew(namespace: &File, layers: &[Layer]) -> Result<(), String> {
    // A namespace for the making, since the copy cannot be reached from the instance's; it goes with this thread.
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).map_err(err("unshare"))?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(err("make mounts private"))?;
    let mut made = Vec::new();
    for layer in layers {
        made.push((overlay(&open(layer)?, Path::new(ROOT), layer)?, &layer.to));
    }
    setns(namespace, CloneFlags::CLONE_NEWNS).map_err(err("enter the instance's mounts"))?;
    for (layer, to) in made {
        put(&layer, to, MoveMountFlags::MOVE_MOUNT_BENEATH)?;
        umount2(to, MntFlags::MNT_DETACH).map_err(err(format!("let go of the old layer at {}", to.display())))?;
    }
    Ok(())
}

fn put(mount: &OwnedFd, to: &Path, flags: MoveMountFlags) -> Result<(), String> {
    let flags = flags | MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(mount, "", rustix::fs::CWD, to, flags).map_err(sys(format!("mount {}", to.display())))
}

/// An overlay that is mounted nowhere yet. `aside`: covered for a moment.
fn overlay(lower: &File, aside: &Path, layer: &Layer) -> Result<OwnedFd, String> {
    let inodes = (layer.bytes_max / BYTES_PER_INODE).clamp(INODES_MIN, INODES_MAX);
    let options = format!("size={},nr_inodes={inodes},mode=0700", layer.bytes_max);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), aside, Some("tmpfs"), flags, Some(options.as_str())).map_err(err("make a layer"))?;
    let made = over(lower, aside, layer);
    // The overlay holds what it needs of it.
    umount2(aside, MntFlags::MNT_DETACH).map_err(err("make a layer"))?;
    made
}

fn over(lower: &File, aside: &Path, layer: &Layer) -> Result<OwnedFd, String> {
    let (upper, work) = (aside.join("upper"), aside.join("work"));
    for dir in [&upper, &work] {
        fs::create_dir(dir).map_err(io_err("make a layer"))?;
    }
    // The top directory of an overlay has the attributes of its upper layer.
    chown(&upper, layer.uid.map(Uid::from_raw), layer.gid.map(Gid::from_raw)).map_err(err("make a layer"))?;
    fs::set_permissions(&upper, Permissions::from_mode(0o2770)).map_err(io_err("make a layer"))?;
    let what = format!("overlay {}", layer.to.display());
    let made = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(sys(&what))?;
    let set = |key: &str, value: &Path| fsconfig_set_string(made.as_fd(), key, value).map_err(sys(&what));
    // By its handle: whatever is in the name, nothing of it is read as an option.
    set("lowerdir", &held(lower))?;
    set("upperdir", &upper)?;
    set("workdir", &work)?;
    for (key, value) in CHANGEABLE {
        set(key, Path::new(value))?;
    }
    fsconfig_create(made.as_fd()).map_err(sys(&what))?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(made.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(sys(&what))
}

/// Whether this host can make layers and exchange them: in a namespace that goes with the thread.
pub(in crate::process) fn try_it() -> Result<(), String> {
    let tried = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).map_err(err("unshare"))?;
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(err("make mounts private"))?;
        mount(Some("tmpfs"), ROOT, Some("tmpfs"), MsFlags::empty(), NONE).map_err(err("mount"))?;
        let (from, to) = (Path::new(ROOT).join("from"), Path::new(ROOT).join("to"));
        for dir in [&from, &to] {
            fs::create_dir(dir).map_err(io_err("make a directory"))?;
        }
        mount(Some(&to), &to, NONE, MsFlags::MS_BIND, NONE).map_err(err("mount"))?;
        fs::write(from.join("new"), "").map_err(io_err("write"))?;
        let layer = Layer { from, to: to.clone(), bytes_max: 1 << 20, uid: None, gid: None };
        let namespace = File::open("/proc/thread-self/ns/mnt").map_err(io_err("/proc/thread-self/ns/mnt"))?;
        let renewed = std::thread::spawn(move || renew(&namespace, &[layer])).join();
        renewed.map_err(|_| "the trial ended".to_owned())??;
        fs::write(to.join("new"), "written").map_err(io_err("write into the layer"))
    });
    tried.join().map_err(|_| "the trial ended".to_owned())?
}
