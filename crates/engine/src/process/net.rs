//! An instance's own network: a namespace with nothing in it but `lo`, a door for whoever connects to it, and the listeners of
//! what it may call.
//!
//! Enters: where the server will listen, what may be called. Leaves: the namespace, for init to be started in; the open door.
//! Always holds: there is no interface, address or route that leads out or in, and nothing of the host's network is changed;
//! only the one thread here is inside, and it stays there; the namespace ends with the shim and the instance.

use super::netlink;
use super::relay::{self, Listeners};
use nix::sched::{CloneFlags, unshare};
use pumasi_door::{Answer, answer};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// Where every server listens that has a network to itself: below the range that the kernel gives out.
pub(super) const INSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Rest of a doorkeeper that got no handle.
const SHORT_MS: u64 = 10;

#[derive(Debug)]
pub(super) struct Net {
    space: File,
}

impl Net {
    /// Makes the network, opens `door`, and relays what is called at `egress`.
    pub(super) fn make(door: &Path, egress: &[SocketAddr]) -> Result<Self, String> {
        let door = pumasi_door::listen(door).map_err(|e| format!("open {}: {e}", door.display()))?;
        let (say, hear) = mpsc::sync_channel(1);
        let egress = egress.to_vec();
        std::thread::Builder::new()
            .name("inside".into())
            .spawn(move || {
                let made = go_inside(&egress);
                let inside = made.is_ok();
                if say.send(made).is_ok() && inside {
                    keep(&door);
                }
            })
            .map_err(|e| format!("start the doorkeeper: {e}"))?;
        let made = hear.recv().map_err(|_| "the doorkeeper ended without a word".to_owned())?;
        let (space, listeners) = made?;
        relay::start(listeners)?;
        Ok(Self { space })
    }

    /// For a process to be started in it.
    pub(super) fn space(&self) -> &File {
        &self.space
    }
}

/// From here on the calling thread is in a network of its own.
fn go_inside(egress: &[SocketAddr]) -> Result<(File, Listeners), String> {
    let err = |doing: &'static str| move |e: io::Error| format!("{doing}: {e}");
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| format!("make a network namespace: {}", e.desc()))?;
    netlink::bring_up_lo().map_err(err("bring up lo"))?;
    for to in egress {
        netlink::add_to_lo(to.ip()).map_err(|e| format!("put {} on lo: {e}", to.ip()))?;
    }
    let listeners = Listeners::open(egress)?;
    let space = File::open("/proc/thread-self/ns/net").map_err(err("open the network namespace"))?;
    Ok((space, listeners))
}

/// One knock after the other: none takes longer than making a socket, whatever becomes of it.
fn keep(door: &UnixListener) {
    loop {
        match door.accept() {
            Ok((knock, _)) => let_in(&knock),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => std::thread::sleep(Duration::from_millis(SHORT_MS)),
        }
    }
}

fn let_in(knock: &UnixStream) {
    let (word, socket) = match connecting() {
        Ok(socket) => (Answer::Socket, Some(socket)),
        Err(Errno::CONNREFUSED) => (Answer::Refused, None),
        Err(_) => (Answer::Short, None),
    };
    // Whoever knocked may have gone.
    let _ = answer(knock, word, socket.as_ref().map(AsFd::as_fd));
}

/// A socket on its way to the server. Whoever gets it waits, not this thread.
fn connecting() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    match connect(&socket, &INSIDE) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(e) => Err(e),
    }
}

/// For the probe: whether such a network can be made and used. The caller is thrown away afterwards.
pub(super) fn try_it() -> Result<(), String> {
    go_inside(&[])?;
    let listener = TcpListener::bind(INSIDE).map_err(|e| format!("listen inside: {e}"))?;
    let reached = TcpStream::connect(INSIDE).and_then(|_| listener.accept());
    reached.map(drop).map_err(|e| format!("connect inside: {e}"))
}
