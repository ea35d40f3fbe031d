//! What of /etc an instance sees: what runtimes read, and nothing that an operator wrote for this host.
//!
//! Small files are copied at each start, so that the instance holds no handle to the host's; directories are bound read-only. Users and
//! names of hosts are made up: who has an account here is nobody's business.

use super::{MsFlags, Source, View, io_err, new_root};
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const FILE_BYTES_MAX: u64 = 2 << 20;

const FILES: [&str; 20] = [
    "debian_version",
    "gai.conf",
    "host.conf",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "locale.alias",
    "locale.conf",
    "localtime",
    "magic",
    "mailcap",
    "mime.types",
    "networks",
    "nsswitch.conf",
    "os-release",
    "protocols",
    "resolv.conf",
    "services",
    "timezone",
    "ssl/openssl.cnf",
];
/// Certificates of authorities and what tells a runtime where it is. Not /etc/ssl and /etc/pki whole: there are private keys in them.
const DIRS: [&str; 11] = [
    "alternatives",
    "ca-certificates",
    "crypto-policies",
    "dotnet",
    "fonts",
    "ld.so.conf.d",
    "pki/ca-trust",
    "pki/tls/certs",
    "pki/java",
    "ssl/certs",
    "terminfo",
];
/// Of runtimes whose directories carry their version.
const PREFIXES: [&str; 7] = ["java", "node", "openjdk", "perl", "php", "python", "ruby"];

pub(super) struct Etc {
    files: Vec<(PathBuf, Vec<u8>)>,
    links: Vec<(PathBuf, PathBuf)>,
    dirs: Vec<Source>,
}

impl Etc {
    /// Before the new root is made: resolv.conf is often a link into /run.
    pub(super) fn read(view: &View) -> Result<Self, String> {
        let mut etc = Self { files: made_up(view), links: Vec::new(), dirs: Vec::new() };
        for path in FILES.map(|name| Path::new("/etc").join(name)) {
            // Links into /usr stay links: time zones are told apart by the link's name.
            match path.read_link() {
                Ok(target) if path.with_file_name(&target).canonicalize().is_ok_and(|t| t.starts_with("/usr")) => {
                    etc.links.push((path, target));
                }
                _ => etc.files.extend(small(&path).map(|bytes| (path, bytes))),
            }
        }
        let versioned =
            fs::read_dir("/etc").into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
        let versioned = versioned.filter(|name| PREFIXES.iter().any(|p| name.starts_with(p)));
        for name in DIRS.map(str::to_owned).into_iter().chain(versioned) {
            let path = Path::new("/etc").join(name);
            if path.is_dir() {
                etc.dirs.push(Source::open(&path, &path, MsFlags::MS_RDONLY, 0)?);
            }
        }
        Ok(etc)
    }

    pub(super) fn write(&self) -> Result<(), String> {
        for (path, bytes) in &self.files {
            let at = new_root(path);
            let parent = at.parent().unwrap_or(&at);
            fs::create_dir_all(parent)
                .and_then(|()| fs::write(&at, bytes))
                .map_err(io_err(format!("copy {}", path.display())))?;
        }
        for (path, target) in &self.links {
            symlink(target, new_root(path)).map_err(io_err(format!("link {}", path.display())))?;
        }
        symlink("/proc/self/mounts", new_root("/etc/mtab")).map_err(io_err("link /etc/mtab"))?;
        self.dirs.iter().try_for_each(Source::mount)
    }
}

/// `None` for what is not there, is no plain file, or is too long for what it is.
fn small(path: &Path) -> Option<Vec<u8>> {
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    (u64::try_from(bytes.len()).ok()? <= FILE_BYTES_MAX).then_some(bytes)
}

/// Programs ask who they are and give up if nobody knows.
fn made_up(view: &View) -> Vec<(PathBuf, Vec<u8>)> {
    let (home, name) = (view.home.display(), &view.host_name);
    let (mut users, mut groups) = (String::from("root:x:0:0:root:/:/usr/sbin/nologin\n"), String::from("root:x:0:\n"));
    if let (Some(uid), Some(gid)) = (view.uid, view.gid) {
        users += &format!("instance:x:{uid}:{gid}::{home}:/bin/sh\n");
        groups += &format!("instance:x:{gid}:\n");
    }
    users += "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n";
    groups += "nogroup:x:65534:\n";
    let hosts = format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.0.1 {name}\n");
    let all = [("passwd", users), ("group", groups), ("hosts", hosts), ("hostname", format!("{name}\n"))];
    all.into_iter().map(|(file, text)| (Path::new("/etc").join(file), text.into_bytes())).collect()
}
