//! Word of changes below the engine's directory, so that a daemon which waits for nothing need not look.
//!
//! Enters: the kernel's notices of files that were put in place or let go. Leaves: a number that rises.
//! Always holds: it promises too much rather than too little; where the kernel gives no notices there is no word, and daemons look as
//! often as before.

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use std::collections::BTreeMap;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use tokio::sync::watch;

const BUFFER_BYTES: usize = 16 << 10;

/// The number rises when an instance may be another one than before: it came or went, its shim said something, or lost its lock.
pub(super) fn watch(root: &Path) -> Option<watch::Receiver<u64>> {
    let (tell, told) = watch::channel(0);
    let mut watched = match Watched::open(root) {
        Ok(watched) => watched,
        Err(e) => {
            tracing::info!(error = %e, "this host tells of no changes of instances; they are looked at all the time");
            return None;
        }
    };
    let work = move || {
        while !tell.is_closed() && watched.next(&tell).is_ok() {}
    };
    std::thread::Builder::new().name("instances".into()).spawn(work).ok()?;
    Some(told)
}

struct Watched {
    notices: OwnedFd,
    root: PathBuf,
    /// Instances, by the kernel's number for each.
    dirs: BTreeMap<i32, PathBuf>,
    of_root: i32,
}

impl Watched {
    fn open(root: &Path) -> rustix::io::Result<Self> {
        let notices = inotify::init(CreateFlags::CLOEXEC)?;
        let of_root =
            inotify::add_watch(&notices, root, WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::ONLYDIR)?;
        let mut watched = Self { notices, root: root.to_owned(), dirs: BTreeMap::new(), of_root };
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            watched.add(&entry.path());
        }
        Ok(watched)
    }

    fn add(&mut self, dir: &Path) {
        // A file is put in place by its new name; a shim's lock is let go when the last of it is closed.
        let flags = WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE | WatchFlags::ONLYDIR;
        if let Ok(number) = inotify::add_watch(&self.notices, dir, flags) {
            self.dirs.insert(number, dir.to_owned());
        }
    }

    /// Waits for the next notices and tells of them.
    fn next(&mut self, tell: &watch::Sender<u64>) -> rustix::io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut new = Vec::new();
        let mut is_news = false;
        {
            let mut reader = inotify::Reader::new(&self.notices, &mut buffer);
            loop {
                let event = reader.next()?;
                let name = event.file_name().map(|n| n.to_bytes().to_owned()).unwrap_or_default();
                if event.wd() == self.of_root {
                    let name = String::from_utf8_lossy(&name).into_owned();
                    new.push(self.root.join(name));
                    is_news = true;
                } else if event.events().contains(ReadFlags::IGNORED) {
                    self.dirs.remove(&event.wd());
                } else {
                    // Where notices were lost, everything may have changed.
                    let lost = event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                    is_news |= lost || matches!(&name[..], b"status.json" | b"desired.json" | b"shim.lock");
                }
                if reader.is_buffer_empty() {
                    break;
                }
            }
        }
        for dir in new.into_iter().filter(|dir| dir.is_dir()) {
            self.add(&dir);
        }
        if is_news {
            tell.send_modify(|number| *number += 1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn until_told(told: &mut watch::Receiver<u64>) -> bool {
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            if told.has_changed().unwrap_or(false) {
                told.borrow_and_update();
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }

    #[test]
    fn what_an_instance_says_is_told_and_what_it_does_in_its_own_files_is_not() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("inst-old")).unwrap();
        let mut told = watch(root.path()).unwrap();
        let say = |dir: &str, file: &str| {
            fs::write(at(dir).join("next"), "{}").unwrap();
            fs::rename(at(dir).join("next"), at(dir).join(file)).unwrap();
        };
        say("inst-old", "status.json");
        assert!(until_told(&mut told));
        // One that comes is watched from then on.
        fs::create_dir(at(".new-inst-1")).unwrap();
        fs::rename(at(".new-inst-1"), at("inst-1")).unwrap();
        assert!(until_told(&mut told));
        std::thread::sleep(Duration::from_millis(50));
        say("inst-1", "status.json");
        assert!(until_told(&mut told));
        let lock = fs::File::create(at("inst-1").join("shim.lock")).unwrap();
        drop(lock);
        assert!(until_told(&mut told));
        fs::create_dir(at("inst-1").join("logs")).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        told.borrow_and_update();
        fs::write(at("inst-1").join("logs/app.log"), "GET /").unwrap();
        say("inst-1", "other");
        std::thread::sleep(Duration::from_millis(100));
        assert!(!told.has_changed().unwrap());
    }
}
