//! An instance's own network, attacked from inside, from beside and from the host. Needs root and namespaces; where they are not,
//! each test says so and tries nothing.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{App, At, ProcessRig, Rig, get, ready, shell, wait};
use pumasi_engine::*;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::time::{Duration, Instant};

/// None where this host makes no networks.
async fn rig_with(change: impl FnOnce(&mut ProcessConfig)) -> Option<ProcessRig> {
    let rig = ProcessRig::with(change).await;
    let isolation = rig.engine().capabilities().isolation;
    if isolation.network {
        return Some(rig);
    }
    assert!(isolation.missing_for_lending().contains(&"network namespaces"), "{isolation:?}");
    eprintln!("not tried: this host makes no network namespaces ({isolation:?})");
    None
}

async fn rig() -> Option<ProcessRig> {
    rig_with(|_| {}).await
}

async fn started(rig: &ProcessRig, spec: &InstanceSpec) -> At {
    rig.engine().start(spec.clone()).await.unwrap();
    At::of(&ready(rig, &spec.id).await)
}

/// An address of this host that is no loopback. None: it has none, or no route to tell it by.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("203.0.113.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    if ip.is_loopback() || ip.is_unspecified() {
        eprintln!("not tried: this host has no address but the loopback");
        return None;
    }
    Some(ip)
}

#[tokio::test]
async fn nothing_of_the_host_and_of_others_is_heard_or_seen() {
    let Some(rig) = rig().await else { return };
    let name = format!("pumasi-secret-{}", std::process::id());
    let host = UnixListener::bind_addr(&UnixAddress::from_abstract_name(&name).unwrap()).unwrap();
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let at_service = service.local_addr().unwrap();
    let (one, two) = (rig.spec(1, App::Well), rig.spec(2, App::Well));
    let (a, b) = (started(&rig, &one).await, started(&rig, &two).await);

    assert!(UnixStream::connect_addr(&UnixAddress::from_abstract_name(&name).unwrap()).is_ok(), "the attack works");
    assert!(get(a, &format!("/abstract?{name}")).unwrap().contains("refused"), "{name} of the host is reached");
    drop(host);
    // The loopback inside is not the host's: neither the daemon's API nor anybody's database is behind it.
    assert!(TcpStream::connect(at_service).is_ok());
    assert!(get(a, &format!("/connect?{at_service}")).unwrap().contains("refused"));
    if let Some(ip) = own_address() {
        let open = TcpListener::bind((ip, 0)).unwrap();
        let reached = get(a, &format!("/connect?{}", open.local_addr().unwrap())).unwrap();
        assert!(reached.contains("unreachable"), "{reached}");
    }
    for nowhere in ["169.254.169.254:80", "203.0.113.7:443", "[2001:db8::1]:443"] {
        let reached = get(a, &format!("/connect?{nowhere}")).unwrap();
        assert!(reached.contains("nreachable") || reached.contains("not assign"), "{nowhere}: {reached}");
    }
    // What the kernel tells about networks is told of its own one.
    let seen =
        shell(a, "cat /proc/net/tcp /proc/net/tcp6 | grep -c ' 0A '; wc -l < /proc/net/unix; tail -n +3 /proc/net/dev");
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[0].trim(), "1", "its own server alone listens: {seen}");
    assert_eq!(lines[1].trim(), "1", "the head of the list alone: {seen}");
    assert!(lines.len() == 3 && lines[2].trim().starts_with("lo:"), "{seen}");
    assert!(shell(a, "cat /proc/net/route").lines().count() <= 1);
    assert_ne!(shell(a, "readlink /proc/self/ns/net"), shell(b, "readlink /proc/self/ns/net"));
    rig.end().await;
}

#[tokio::test]
async fn nobody_gets_in_but_by_the_door() {
    let Some(rig) = rig().await else { return };
    let (one, two) = (rig.spec(1, App::Well), rig.spec(2, App::Well));
    let (a, b) = (started(&rig, &one).await, started(&rig, &two).await);
    assert_eq!(get(a, "/listen?0.0.0.0:9999").unwrap(), "listening");
    let mut addresses: Vec<IpAddr> = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    addresses.extend(own_address());
    for ip in addresses {
        for port in [9999, a.port()] {
            let reached = TcpStream::connect_timeout(&(ip, port).into(), Duration::from_secs(2));
            let is_ours = reached.is_ok_and(|mut s| {
                let _ = s.set_read_timeout(Some(Duration::from_secs(2)));
                let _ = s.write_all(b"GET /env HTTP/1.1\r\n\r\n");
                let mut text = String::new();
                let _ = s.read_to_string(&mut text);
                text.contains("BUNDLE=")
            });
            assert!(!is_ours, "{ip}:{port} leads into an instance");
        }
    }
    // The door is the host's: no instance may open it, whichever way it finds it.
    let door = a.door.unwrap();
    assert_eq!(door.symlink_metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(shell(b, &format!("ls -l {} 2>&1", door.display())).contains("No such file"));
    // Nor is the other's server a neighbour on the loopback.
    assert!(get(b, "/connect?127.0.0.1:9999").unwrap().contains("refused"));
    rig.end().await;
}

#[tokio::test]
async fn a_crashed_instances_port_is_nobody_elses() {
    let Some(rig) = rig().await else { return };
    let (victim, attacker) = (rig.spec(1, App::Well), rig.spec(2, App::Well));
    let (v, a) = (started(&rig, &victim).await, started(&rig, &attacker).await);
    let uid = shell(v, "id -u");
    // It listens wherever it can, all the time.
    for port in [v.port(), 8081, 80, 443] {
        let _ = get(a, &format!("/listen?0.0.0.0:{port}"));
    }
    let (mut refused, mut answered) = (0, 0);
    for _ in 0..3 {
        let _ = get(v, "/exit?1");
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            match get(v, "/shell?6964202d75") {
                Ok(text) if text.is_empty() => refused += 1,
                Ok(text) => {
                    assert_eq!(text, uid, "another one answers for it");
                    answered += 1;
                    break;
                }
                Err(_) => refused += 1,
            }
            assert!(Instant::now() < until, "it never came back");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    assert!(refused > 0 && answered == 3, "{refused} {answered}");
    rig.end().await;
}

#[tokio::test]
async fn the_door_goes_with_the_shim_and_comes_back_with_it() {
    let Some(rig) = rig().await else { return };
    let spec = rig.spec(1, App::Well);
    let at = started(&rig, &spec).await;
    rig.kill_shim(&spec.id).await;
    let gone = wait(&rig, &spec.id, |s| matches!(s.state, InstanceState::Failed { .. })).await;
    assert_eq!((gone.address, gone.door), (None, None));
    assert_eq!(at.connect().unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(started(&rig, &spec).await.door, at.door);
    assert!(get(at, "/").is_ok());
    rig.end().await;
}

#[tokio::test]
async fn thousands_of_knocks_cost_the_shim_nothing() {
    let Some(rig) = rig().await else { return };
    let spec = rig.spec(1, App::Well);
    let at = started(&rig, &spec).await;
    let shim = rig.shim_pid(&spec.id);
    let handles = || std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    let resident_kib = || {
        let status = std::fs::read_to_string(format!("/proc/{shim}/status")).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:").map(str::to_owned)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let (before, before_kib) = (handles(), resident_kib());
    // Some say nothing and stay, some go before the answer, some enter.
    let (mut silent, mut entered) = (Vec::new(), 0);
    for round in 0..4_000 {
        match round % 4 {
            0 if silent.len() < 500 => silent.push(UnixStream::connect(at.door.unwrap()).unwrap()),
            1 => drop(UnixStream::connect(at.door.unwrap()).unwrap()),
            // The application, a thread for each, may well fall over; that is its own affair.
            _ => entered += u32::from(at.connect().is_ok()),
        }
    }
    assert!(entered > 500, "{entered}");
    ready(&rig, &spec.id).await;
    assert!(get(at, "/").is_ok(), "it still opens");
    assert!(handles() <= before + 4, "{before} handles became {}", handles());
    assert!(resident_kib() <= before_kib + 2_048, "{before_kib} KiB became {}", resident_kib());
    assert_eq!(rig.shim_pid(&spec.id), shim);
    rig.end().await;
}

#[tokio::test]
async fn what_the_operator_lists_is_reached_and_nothing_beside_it() {
    let Some(ip) = own_address() else { return };
    let (open, closed) = (TcpListener::bind((ip, 0)).unwrap(), TcpListener::bind((ip, 0)).unwrap());
    let (to, beside) = (open.local_addr().unwrap(), closed.local_addr().unwrap());
    let rule = format!("{ip}:{}", to.port()).parse().unwrap();
    let Some(rig) = rig_with(|c| c.egress.home.push(rule)).await else { return };
    std::thread::spawn(move || {
        for mut stream in open.incoming().flatten() {
            std::thread::spawn(move || {
                let mut byte = [0u8; 4];
                while let Ok(n) = stream.read(&mut byte) {
                    if n == 0 || stream.write_all(&byte[..n]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let datagrams = UdpSocket::bind(to).unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0u8; 64];
        while let Ok((n, from)) = datagrams.recv_from(&mut bytes) {
            datagrams.send_to(&bytes[..n], from).unwrap();
        }
    });
    let mut spec = rig.spec(1, App::Well);
    spec.egress = vec![to.to_string()];
    let at = started(&rig, &spec).await;
    assert_eq!(get(at, &format!("/talk?{to}")).unwrap(), "ping");
    assert_eq!(get(at, &format!("/datagram?{to}")).unwrap(), format!("ping from {to}"));
    assert!(get(at, &format!("/connect?{beside}")).unwrap().contains("refused"));
    assert!(get(at, &format!("/connect?127.0.0.1:{}", to.port())).unwrap().contains("refused"));
    // Bounded: what is beyond is reset, and the rest goes on.
    let echoed: usize = get(at, &format!("/many?300@{to}")).unwrap().parse().unwrap();
    assert_eq!(echoed, 256);
    let until = Instant::now() + Duration::from_secs(10);
    while get(at, &format!("/talk?{to}")).unwrap() != "ping" {
        assert!(Instant::now() < until, "places are not given back");
    }
    // It also outlives the application: a new start finds the same network.
    let _ = get(at, "/exit?1");
    wait(&rig, &spec.id, |s| s.restarts == 1 && s.state == InstanceState::Ready).await;
    assert_eq!(get(at, &format!("/talk?{to}")).unwrap(), "ping");
    rig.end().await;
}

#[tokio::test]
async fn no_list_opens_what_is_not_public() {
    let everything = || ["0.0.0.0/0:*".parse().unwrap(), "[::/0]:*".parse().unwrap()].to_vec();
    let rig = ProcessRig::with(|c| {
        c.lend_without_isolation = true;
        (c.egress.home, c.egress.lent) = (everything(), everything());
        c.egress.own.push("203.0.113.9".parse().unwrap());
    })
    .await;
    let refused = async |lent: bool, to: &str| {
        let spec = InstanceSpec { lent, egress: vec![to.to_owned()], ..rig.spec(1, App::Well) };
        let error = rig.engine().start(spec).await.expect_err(to);
        assert!(matches!(error, EngineError::Spec { .. }) && error.to_string().contains("egress"), "{error}");
        assert!(rig.engine().remains(None).await.unwrap().is_empty());
    };
    let never = ["127.0.0.1:7400", "169.254.169.254:80", "[::1]:80", "[::ffff:127.0.0.1]:80", "0.0.0.0:1"];
    for to in never {
        refused(false, to).await;
        refused(true, to).await;
    }
    for to in ["10.0.0.1:80", "192.168.1.1:80", "[fd00::1]:80", "203.0.113.9:443"] {
        refused(true, to).await;
    }
    if let Some(ip) = own_address() {
        refused(true, &format!("{ip}:7443")).await;
    }
    let closed = ProcessRig::with(|c| c.lend_without_isolation = true).await;
    for (lent, to) in [(true, "203.0.113.7:443"), (false, "10.0.0.1:80")] {
        let spec = InstanceSpec { lent, egress: vec![to.to_owned()], ..closed.spec(1, App::Well) };
        assert!(closed.engine().start(spec).await.is_err(), "{to}");
    }
}

/// Not judged, but printed: what a new connection costs by the door, beside one on the loopback.
#[tokio::test]
async fn a_connection_by_the_door_is_made_in_microseconds() {
    let Some(rig) = rig().await else { return };
    let at = started(&rig, &rig.spec(1, App::Well)).await;
    let beside = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = beside.local_addr().unwrap();
    std::thread::spawn(move || beside.incoming().for_each(drop));
    let median_us = |connect: &dyn Fn() -> TcpStream| {
        let mut took: Vec<f64> = (0..300)
            .map(|_| {
                let begun = Instant::now();
                drop(connect());
                let us = begun.elapsed().as_secs_f64() * 1e6;
                // The application makes a thread for each, and is given the time for it.
                std::thread::sleep(Duration::from_micros(500));
                us
            })
            .collect();
        took.sort_by(f64::total_cmp);
        took[took.len() / 2]
    };
    let (door, loopback) = (median_us(&|| at.connect().unwrap()), median_us(&|| TcpStream::connect(to).unwrap()));
    println!("a new connection, median: {door:.0} us by the door, {loopback:.0} us on the loopback");
    assert!(door < 100_000.0, "{door} us");
    rig.end().await;
}
