//! The instance's own /dev: the devices that every program knows, and no other.

use super::{MsFlags, NONE, err, held, hold, io_err, mount, new_root};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

pub(super) fn hold_devices() -> Result<Vec<(&'static str, File)>, String> {
    DEVICES
        .into_iter()
        .map(|name| {
            let path = Path::new("/dev").join(name);
            Ok((name, hold(&path, nix::libc::O_NOFOLLOW).map_err(io_err(format!("open {}", path.display())))?))
        })
        .collect()
}

/// Bound, not made: a host that is itself a container may make no devices.
pub(super) fn make(devices: &[(&str, File)]) -> Result<(), String> {
    let dev = new_root("dev");
    fs::create_dir_all(dev.join("shm")).map_err(io_err("make /dev"))?;
    for (name, target) in LINKS {
        symlink(target, dev.join(name)).map_err(io_err(format!("link /dev/{name}")))?;
    }
    for (name, device) in devices {
        let at = dev.join(name);
        File::create(&at).map_err(io_err(format!("make /dev/{name}")))?;
        mount(Some(&held(device)), &at, NONE, MsFlags::MS_BIND, NONE).map_err(err(format!("mount /dev/{name}")))?;
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        mount(NONE, &at, NONE, flags, NONE).map_err(err(format!("mount /dev/{name}")))?;
    }
    Ok(())
}
