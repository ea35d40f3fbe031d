//! Files of keys: written whole or not at all, readable by their owner only.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// No file of ours comes near this.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{act} {}: {source}", path.display())]
    Io { act: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{} holds a private key but has mode {mode:o}: take it from others with `chmod 600`", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{} is larger than {FILE_BYTES_MAX} bytes and is none of ours", path.display())]
    TooLarge { path: PathBuf },
}

fn io<'a>(act: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> FileError + 'a {
    move |source| FileError::Io { act, path: path.to_owned(), source }
}

/// The directory is flushed too: a rename is durable only then.
fn flush_parent(path: &Path) -> Result<(), FileError> {
    let parent = parent(path);
    File::open(parent).and_then(|d| d.sync_all()).map_err(io("flush the directory", parent))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn write_temp(path: &Path, bytes: &[u8], mode: u32) -> Result<PathBuf, FileError> {
    let suffix = crate::random_bytes::<8>().map_err(|e| io("name a file beside", path)(std::io::Error::other(e)))?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{:016x}.tmp", u64::from_be_bytes(suffix)));
    let temp = PathBuf::from(name);
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(&temp).map_err(io("create", &temp))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(source) = written {
        let _ = fs::remove_file(&temp);
        return Err(io("write", &temp)(source));
    }
    Ok(temp)
}

/// Replaces the file: a reader sees the old bytes or the new, also after a crash.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let temp = write_temp(path, bytes, mode)?;
    if let Err(source) = fs::rename(&temp, path) {
        let _ = fs::remove_file(&temp);
        return Err(io("replace", path)(source));
    }
    flush_parent(path)
}

/// Creates the file; false where there is one already, which stays as it is.
pub(crate) fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<bool, FileError> {
    let temp = write_temp(path, bytes, mode)?;
    let linked = fs::hard_link(&temp, path);
    let _ = fs::remove_file(&temp);
    match linked {
        Ok(()) => flush_parent(path).map(|()| true),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(io("create", path)(source)),
    }
}

/// Reads a file that only its owner may read; none where there is no such file.
pub(crate) fn read_private(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io("open", path)(source)),
    };
    let mode = file.metadata().map_err(io("read", path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(FileError::Exposed { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io("read", path))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(FileError::TooLarge { path: path.to_owned() });
    }
    Ok(Some(bytes))
}

pub(crate) fn make_private_dir(path: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io("create the directory", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_private_whole_and_never_overwritten_by_create() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(read_private(&path).unwrap().is_none());
        assert!(create(&path, b"one", 0o600).unwrap());
        assert!(!create(&path, b"two", 0o600).unwrap());
        assert_eq!(read_private(&path).unwrap().unwrap(), b"one");
        replace(&path, b"three", 0o600).unwrap();
        assert_eq!(read_private(&path).unwrap().unwrap(), b"three");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read_private(&path), Err(FileError::Exposed { mode: 0o640, .. })));
    }
}
