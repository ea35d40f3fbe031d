//! `pumasi cp`: files into an instance and out of it, by `tar` on the road of `pumasi exec`.
//!
//! Always holds: what comes from an instance is not trusted: it is unpacked beside its place, files and directories only, nothing of it
//! outside of that, and takes its place when it is whole.

use crate::args::{CpArgs, Kind};
use crate::exec::{code, drive, open, pieces};
use crate::failure::{Exit, Failure};
use crate::output::{line, note};
use crate::session::Session;
use bytes::Bytes;
use pumasi_api::exec::{Frame, RunCommand};
use pumasi_terms::{InstanceId, ServiceName};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tokio::sync::mpsc;

/// Of what the command in the instance complained.
const COMPLAINT_BYTES_MAX: usize = 4 << 10;

/// `SERVICE:PATH`, or a path here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    There(ServiceName, String),
    Here(PathBuf),
}

impl Place {
    /// What has a slash before its first colon is a path, as `./a:b`.
    fn parse(text: &str) -> Result<Self, Failure> {
        match text.split_once(':') {
            Some((service, path)) if !service.contains('/') && !service.is_empty() => {
                if path.is_empty() {
                    return Err(Failure::input(format!("{text}: say which path, as {service}:/tmp/x")));
                }
                Ok(Self::There(ServiceName::parse(service)?, path.to_owned()))
            }
            _ if text.is_empty() => Err(Failure::input("an empty path")),
            _ => Ok(Self::Here(text.into())),
        }
    }
}

pub async fn cp(session: &Session, args: &CpArgs) -> Result<(), Failure> {
    let instance = match &args.instance {
        Some(id) => Some(InstanceId::parse(session.id(Kind::Instances, id).await?)?),
        None => None,
    };
    let road = |service| Road { session, service, instance };
    let done = match (Place::parse(&args.from)?, Place::parse(&args.to)?) {
        (Place::There(service, path), Place::Here(to)) => fetch(&road(service), &path, &to).await?,
        (Place::Here(from), Place::There(service, path)) => bring(&road(service), &from, &path).await?,
        (Place::There(..), Place::There(..)) => {
            return Err(Failure::input("from one instance to another it goes by a path here, in two steps"));
        }
        (Place::Here(_), Place::Here(_)) => {
            return Err(Failure::input("one of both is in an instance: write it as SERVICE:/path"));
        }
    };
    note(&format!("{} files, {} bytes", done.files, done.bytes));
    if done.passed_over > 0 {
        note(&format!("{} links and special files were passed over", done.passed_over));
    }
    Ok(())
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Done {
    files: u64,
    bytes: u64,
    passed_over: u64,
}

/// The directory and the name in it.
fn split(path: &str) -> Result<(String, String), Failure> {
    let path = Path::new(path);
    let name = match path.components().next_back() {
        Some(Component::Normal(name)) => name,
        _ => return Err(Failure::input(format!("{}: name a file or a directory", path.display()))),
    };
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((parent.display().to_string(), name.to_string_lossy().into_owned()))
}

struct Road<'a> {
    session: &'a Session,
    service: ServiceName,
    instance: Option<InstanceId>,
}

impl Road<'_> {
    /// Runs a command there; its output is given to `take`. Its exit code, and what it complained of.
    async fn run(
        &self,
        command: &[&str],
        input: Option<mpsc::Receiver<Bytes>>,
        mut take: impl FnMut(Bytes) -> io::Result<()>,
    ) -> Result<(u8, String), Failure> {
        let command = command.iter().map(|w| (*w).to_owned()).collect();
        let ask = RunCommand { command, instance: self.instance.clone(), terminal: None };
        let connection = open(self.session, &self.service, &ask).await?;
        let mut complaint = Vec::new();
        let ended = drive(connection, input, None, |frame| match frame {
            Frame::Output(bytes) => take(bytes),
            Frame::Errors(bytes) => {
                let room = COMPLAINT_BYTES_MAX.saturating_sub(complaint.len());
                complaint.extend(bytes.iter().take(room));
                Ok(())
            }
            _ => Ok(()),
        })
        .await?;
        Ok((code(&ended)?, line(String::from_utf8_lossy(&complaint).trim())))
    }

    fn refused(&self, doing: &str, complaint: &str) -> Failure {
        Failure::new(Exit::Failed, format!("{doing} in service {}: {complaint}", self.service))
    }
}

async fn bring(road: &Road<'_>, from: &Path, path: &str) -> Result<Done, Failure> {
    let name_here = from.file_name().map(OsStr::to_os_string);
    fs::symlink_metadata(from).map_err(|e| Failure::input(format!("{}: {e}", from.display())))?;
    let is_dir = path.ends_with('/') || road.run(&["test", "-d", path], None, |_| Ok(())).await?.0 == 0;
    let (dir, name) = match is_dir {
        true => {
            let name = name_here.ok_or_else(|| Failure::input(format!("{}: it has no name", from.display())))?;
            (path.to_owned(), name.to_string_lossy().into_owned())
        }
        false => split(path)?,
    };
    let (reader, writer) = io::pipe().map_err(|e| Failure::failed(format!("a pipe: {e}")))?;
    let from = from.to_owned();
    let packing = std::thread::spawn(move || pack(&from, &name, writer));
    let (code, complaint) =
        road.run(&["tar", "-x", "-m", "-f", "-", "-C", &dir], Some(pieces(reader)), |_| Ok(())).await?;
    let packed = packing.join().unwrap_or_else(|_| Err(io::Error::other("packing ended")));
    match (code, packed) {
        (0, Ok(done)) => Ok(done),
        (0, Err(e)) => Err(Failure::failed(format!("reading what is to be copied: {e}"))),
        (_, _) => Err(road.refused(&format!("writing {path}"), &complaint)),
    }
}

fn pack(from: &Path, name: &str, to: impl io::Write) -> io::Result<Done> {
    let mut archive = tar::Builder::new(to);
    archive.follow_symlinks(false);
    let mut done = Done::default();
    put(&mut archive, from, Path::new(name), &mut done)?;
    archive.into_inner()?;
    Ok(done)
}

fn put(archive: &mut tar::Builder<impl io::Write>, from: &Path, name: &Path, done: &mut Done) -> io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    if meta.is_dir() {
        archive.append_dir(name, from)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            put(archive, &entry.path(), &name.join(entry.file_name()), done)?;
        }
    } else if meta.is_file() {
        archive.append_file(name, &mut fs::File::open(from)?)?;
        (done.files, done.bytes) = (done.files + 1, done.bytes + meta.len());
    } else {
        done.passed_over += 1;
    }
    Ok(())
}

async fn fetch(road: &Road<'_>, path: &str, to: &Path) -> Result<Done, Failure> {
    let (dir, name) = split(path)?;
    let place = if to.is_dir() { to.join(&name) } else { to.to_owned() };
    let above = place.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = Beside::make(above).map_err(|e| Failure::input(format!("{}: {e}", above.display())))?;
    let (give, take) = sync_channel(4);
    let (into, called) = (beside.0.clone(), name.clone());
    let unpacking = std::thread::spawn(move || unpack(Arriving::of(take), &called, &into));
    let told = {
        // Dropped with the block: the end of the archive.
        let give: SyncSender<Bytes> = give;
        road.run(&["tar", "-c", "-f", "-", "-C", &dir, "--", &name], None, |bytes| {
            give.send(bytes).map_err(|_| io::Error::other("it could not be unpacked"))
        })
        .await
    };
    let unpacked = unpacking.join().unwrap_or_else(|_| Err(io::Error::other("unpacking ended")));
    let failed = |e: io::Error| Failure::failed(format!("writing {}: {e}", place.display()));
    match (told, unpacked) {
        (Ok((0, _)), Ok(done)) => {
            fs::rename(beside.0.join(&name), &place).map_err(failed)?;
            Ok(done)
        }
        (Ok((0, _)) | Err(_), Err(e)) => Err(failed(e)),
        (Ok((_, complaint)), _) => Err(road.refused(&format!("reading {path}"), &complaint)),
        (Err(failure), Ok(_)) => Err(failure),
    }
}

/// A directory that goes with this value.
struct Beside(PathBuf);

impl Beside {
    fn make(above: &Path) -> io::Result<Self> {
        let path = above.join(format!(".pumasi-cp-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Pieces as they arrive.
struct Arriving {
    take: Receiver<Bytes>,
    piece: Bytes,
}

impl Arriving {
    fn of(take: Receiver<Bytes>) -> Self {
        Self { take, piece: Bytes::new() }
    }
}

impl Read for Arriving {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.take.recv() {
                Ok(piece) => self.piece = piece,
                Err(_) => return Ok(0),
            }
        }
        let count = self.piece.len().min(into.len());
        let piece = self.piece.split_to(count);
        into.get_mut(..count).unwrap_or_default().copy_from_slice(&piece);
        Ok(count)
    }
}

/// `name` and what is in it, below `into`.
fn unpack(from: impl Read, name: &str, into: &Path) -> io::Result<Done> {
    let mut archive = tar::Archive::new(from);
    archive.set_preserve_permissions(false);
    archive.set_unpack_xattrs(false);
    let mut done = Done::default();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let foreign =
            || io::Error::new(io::ErrorKind::InvalidData, format!("it sent {}", line(&path.display().to_string())));
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        if !plain || !path.starts_with(name) {
            return Err(foreign());
        }
        if !entry.header().entry_type().is_file() && !entry.header().entry_type().is_dir() {
            done.passed_over += 1;
            continue;
        }
        if entry.header().entry_type().is_file() {
            (done.files, done.bytes) = (done.files + 1, done.bytes + entry.size());
        }
        if !entry.unpack_in(into)? {
            return Err(foreign());
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_here_or_there() {
        let there = |s: &str, p: &str| Place::There(s.parse().unwrap(), p.to_owned());
        assert_eq!(Place::parse("notes:/tmp/x").unwrap(), there("notes", "/tmp/x"));
        assert_eq!(Place::parse("./a:b").unwrap(), Place::Here("./a:b".into()));
        assert_eq!(Place::parse("/tmp/x").unwrap(), Place::Here("/tmp/x".into()));
        assert!(Place::parse("notes:").is_err() && Place::parse("Not A Name:/x").is_err());
        assert_eq!(split("/tmp/x").unwrap(), ("/tmp".into(), "x".into()));
        assert_eq!(split("x").unwrap(), (".".into(), "x".into()));
        assert!(split("/").is_err() && split("a/..").is_err());
    }

    /// An archive as an application would write one that wants more than its place.
    fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, link) in entries {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o6777);
            header.set_size(if kind.is_file() { 5 } else { 0 });
            header.set_cksum();
            builder.append(&header, if kind.is_file() { &b"hello"[..] } else { &b""[..] }).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::write(from.join("sub/file"), "content").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", from.join("link")).unwrap();
        let mut bytes = Vec::new();
        assert_eq!(pack(&from, "x", &mut bytes).unwrap(), Done { files: 1, bytes: 7, passed_over: 1 });
        let into = dir.path().join("into");
        fs::create_dir(&into).unwrap();
        assert_eq!(unpack(&bytes[..], "x", &into).unwrap(), Done { files: 1, bytes: 7, passed_over: 0 });
        assert_eq!(fs::read_to_string(into.join("x/sub/file")).unwrap(), "content");
    }

    #[test]
    fn nothing_is_written_outside_of_its_place() {
        use std::os::unix::fs::PermissionsExt;
        use tar::EntryType as T;
        for hostile in [
            vec![("../evil", T::Regular, "")],
            vec![("/evil", T::Regular, "")],
            vec![("x/../../evil", T::Regular, "")],
            vec![("y/evil", T::Regular, "")],
            vec![("x", T::Symlink, ".."), ("x/evil", T::Regular, "")],
            vec![("x", T::Regular, ""), ("x/evil", T::Regular, "")],
        ] {
            let dir = tempfile::tempdir().unwrap();
            let into = dir.path().join("into");
            fs::create_dir(&into).unwrap();
            let _ = unpack(&archive(&hostile)[..], "x", &into);
            assert!(!dir.path().join("evil").exists(), "{hostile:?}");
            assert!(!Path::new("/evil").exists() && !into.join("y").exists(), "{hostile:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let odd = [
            ("x", T::Directory, ""),
            ("x/l", T::Symlink, "/etc/passwd"),
            ("x/h", T::Link, "/etc/passwd"),
            ("x/p", T::Fifo, ""),
            ("x/f", T::Regular, ""),
        ];
        assert_eq!(unpack(&archive(&odd)[..], "x", dir.path()).unwrap(), Done { files: 1, bytes: 5, passed_over: 3 });
        assert_eq!(fs::read_dir(dir.path().join("x")).unwrap().count(), 1);
        let mode = fs::metadata(dir.path().join("x/f")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7000, 0, "no file comes with another's rights");
    }
}
