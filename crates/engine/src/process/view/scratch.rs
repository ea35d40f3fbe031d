//! Where an instance may write: memory, of a bounded size, empty at each start.
//!
//! One file system under all of HOME, /tmp, /var/tmp and /dev/shm, so that one bound holds for them together. Its pages are charged to
//! the control group of whoever writes them.

use super::{
    BYTES_PER_INODE, INODES_MAX, INODES_MIN, MntFlags, MsFlags, View, bind_as_is, err, io_err, mount, new_root, umount2,
};
use nix::unistd::{Gid, Uid, chown};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

pub(super) fn make(view: &View) -> Result<(), String> {
    let bytes = view.scratch_bytes_max;
    let inodes = (bytes / BYTES_PER_INODE).clamp(INODES_MIN, INODES_MAX);
    let at = new_root("mnt");
    let parts = [
        (at.join("home"), new_root(&view.home), 0o700),
        (at.join("tmp"), new_root("tmp"), 0o1777),
        (at.join("shm"), new_root("dev/shm"), 0o1777),
    ];
    fs::create_dir(&at).map_err(io_err("make the instance's own space"))?;
    let options = format!("size={bytes},nr_inodes={inodes},mode=0700");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), &at, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(err("make the instance's own space"))?;
    for (from, to, mode) in parts {
        let what = format!("make {}", to.display());
        fs::create_dir(&from).map_err(io_err(&what))?;
        fs::set_permissions(&from, Permissions::from_mode(mode)).map_err(io_err(&what))?;
        if mode == 0o700 {
            chown(&from, view.uid.map(Uid::from_raw), view.gid.map(Gid::from_raw)).map_err(err(&what))?;
        }
        fs::create_dir_all(&to).map_err(io_err(&what))?;
        bind_as_is(&from, &to)?;
    }
    umount2(&at, MntFlags::empty()).map_err(err("close the instance's own space"))?;
    fs::remove_dir(&at).map_err(io_err("close the instance's own space"))
}
