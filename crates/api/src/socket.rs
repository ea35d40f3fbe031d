//! Whose socket it is: whoever may put a file there could sit behind it and take what is sent.

use rustix::fs::{FileType, Mode, Stat, lstat, stat};
use std::path::Path;

const STICKY: Mode = Mode::SVTX;

/// The socket must belong to this user, to root, or to the owner of its directory; and nobody else may exchange files there.
pub(crate) fn check(socket: &Path) -> Result<(), String> {
    let found = lstat(socket).map_err(|e| match e {
        rustix::io::Errno::NOENT => "there is no such socket: does the daemon run (`pumasi serve`)?".to_owned(),
        e => format!("the socket cannot be looked at: {e}"),
    })?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        return Err("this is no socket".into());
    }
    let directory = match socket.parent() {
        Some(parent) if parent.as_os_str().is_empty() => stat("."),
        Some(parent) => stat(parent),
        None => stat("/"),
    };
    let directory = directory.map_err(|e| format!("its directory cannot be looked at: {e}"))?;
    judge(&found, &directory, rustix::process::geteuid().as_raw())
}

fn judge(socket: &Stat, directory: &Stat, own: u32) -> Result<(), String> {
    let mode = Mode::from_raw_mode(directory.st_mode);
    if mode.intersects(Mode::WOTH) && !mode.contains(STICKY) {
        return Err("everybody may exchange files in its directory: nothing is sent to it".into());
    }
    let trusted = [0, own, directory.st_uid];
    // A directory of root that everybody shares says nothing about whose socket it is.
    let shared = mode.intersects(Mode::WOTH);
    let fine = if shared { [0, own].contains(&socket.st_uid) } else { trusted.contains(&socket.st_uid) };
    match fine {
        true => Ok(()),
        false => Err(format!(
            "it belongs to the user with uid {}, who is not the daemon's: nothing is sent to it",
            socket.st_uid
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_socket_that_somebody_else_could_have_put_there_gets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        assert!(check(&path).unwrap_err().contains("pumasi serve"));
        std::fs::write(&path, "").unwrap();
        assert!(check(&path).unwrap_err().contains("no socket"));
        std::fs::remove_file(&path).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(check(&path), Ok(()));
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(check(&path).unwrap_err().contains("everybody"));

        let (mut socket, mut directory) = (stat(&path).unwrap(), stat(dir.path()).unwrap());
        (directory.st_mode, directory.st_uid) = (0o41777, 0);
        socket.st_uid = 200_001;
        assert!(judge(&socket, &directory, 1_000).is_err(), "an instance's own socket in /tmp");
        directory.st_mode = 0o40755;
        assert!(judge(&socket, &directory, 1_000).is_err());
        (directory.st_uid, socket.st_uid) = (990, 990);
        assert_eq!(judge(&socket, &directory, 1_000), Ok(()), "a daemon with a user of its own");
    }
}
