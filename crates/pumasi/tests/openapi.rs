//! The OpenAPI document that a daemon serves, driven against that daemon by schemathesis (PyPI): no endpoint fails, every
//! answer is what the document says, and what the document forbids is refused. As an operator, as a member's daemon over
//! mutual TLS, and as nobody. Needs python3, pip and the package index; a failing install fails.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use pumasi_api::{Door, ENDPOINTS, Method, Role};
use pumasi_lab::cluster::{CloudPlan, Cluster};
use pumasi_terms::{CloudName, Resources, WallMs};
use pumasi_trust::{Authority, SpiffeId};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

const REQUIREMENTS: &str = include_str!("openapi/requirements.txt");
/// The cases that the document alone gives; with PUMASI_OPENAPI_EXAMPLES so many random ones an endpoint beside them, whose making
/// takes minutes.
const EXAMPLES: &str = "PUMASI_OPENAPI_EXAMPLES";
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
                      negative_data_rejection,unsupported_method";
/// The first has no end, no token survives the second, and no daemon the third.
const APART: [&str; 3] = ["/v1/watch", "/v1/tokens/{id}", "/v1/stop"];

/// Installed once for one list of packages.
fn schemathesis() -> PathBuf {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let key =
        REQUIREMENTS.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let dir = tmp.join(format!("schemathesis-{key:016x}"));
    if dir.is_dir() {
        return dir;
    }
    let partial = tempfile::tempdir_in(tmp).unwrap().keep();
    let wanted = partial.join("requirements.txt");
    std::fs::write(&wanted, REQUIREMENTS).unwrap();
    let words = ["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--target"];
    let done = Command::new("python3").args(words).arg(&partial).arg("-r").arg(&wanted).output().expect("python3");
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "pip (the package index must be within reach): {told}");
    if std::fs::rename(&partial, &dir).is_err() {
        assert!(dir.is_dir(), "the packages cannot be kept as {}", dir.display());
        std::fs::remove_dir_all(&partial).unwrap();
    }
    dir
}

/// A port of this host that leads to the daemon's socket, for tools that know no other way.
fn lead_to(socket: PathBuf) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = std::os::unix::net::UnixStream::connect(&socket) else { continue };
            let (mut near_in, mut far_in) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            let (mut near, mut far) = (near, far);
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut near_in, &mut far);
                let _ = far.shutdown(std::net::Shutdown::Write);
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut far_in, &mut near);
                let _ = near.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    at
}

/// One run over the document of `people`, against `location`; what it tells if it finds anything.
fn drive(people: SocketAddr, location: &str, args: &[&str]) -> Result<(), String> {
    let document = format!("http://{people}/openapi.json");
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", schemathesis()).env("PYTHONDONTWRITEBYTECODE", "1").env("NO_COLOR", "1");
    command.current_dir(env!("CARGO_TARGET_TMPDIR"));
    command.args(["-m", "schemathesis.cli", "run", &document, "--url", location, "--seed", "1", "--checks", CHECKS]);
    command.args(["--continue-on-failure", "--no-shrink", "--suppress-health-check", "all", "--warnings", "off"]);
    command.args(["--request-timeout", "30", "--request-retries", "3"]);
    match std::env::var(EXAMPLES) {
        Ok(examples) => command.args(["--phases", "coverage,fuzzing", "--max-examples", &examples]),
        Err(_) => command.args(["--phases", "coverage"]),
    };
    let done = command.args(args).output().expect("python3");
    if done.status.success() {
        return Ok(());
    }
    Err(format!("{}\n{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr)))
}

fn plan(name: &'static str, city: &'static str) -> CloudPlan {
    let all = Resources { cpu_millis: 1_000, memory_mib: 1_024 };
    CloudPlan::new(name, city, all, all, "0.05")
}

/// Status and content type of one request over a connection of its own.
fn ask(to: SocketAddr, method: &str, path: &str, fields: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}Content-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    let kind = answer.lines().find_map(|l| l.strip_prefix("content-type: ")).unwrap_or_default().to_owned();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), kind)
}

/// Nobody gets further than 401, and nobody with a viewer's token further than 403; what is for members is not there at all.
fn strangers(api: SocketAddr, viewer: &str) {
    for e in ENDPOINTS.iter().filter(|e| !e.roles.is_empty()) {
        let path = e.path.replace("{id}", "lease-1").replace("{name}", "x");
        let here = e.is_served_at(Door::People);
        // Without any the socket says who calls: the user of this test, who may everything.
        for fields in ["Authorization: Bearer wrong\r\n", "Authorization: Basic YTpi\r\n"] {
            let (status, kind) = ask(api, e.method.as_str(), &path, fields);
            let name = format!("{} {path} {fields}", e.method.as_str());
            assert_eq!(kind, "application/problem+json", "{name}");
            // Where people have another method at the same path, members' one is 405.
            assert!(if here { status == 401 } else { matches!(status, 404 | 405) }, "{name}: {status}");
        }
        if !e.roles.contains(&Role::Viewer) {
            let (status, _) = ask(api, e.method.as_str(), &path, &format!("Authorization: Bearer {viewer}\r\n"));
            assert!(
                if here { status == 403 } else { matches!(status, 404 | 405) },
                "{} {path}: {status}",
                e.method.as_str()
            );
        }
    }
    assert!(ENDPOINTS.iter().filter(|e| e.roles.is_empty()).all(|e| e.method == Method::Get));
}

fn now() -> WallMs {
    WallMs(i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap())
}

/// The key and chain with which a cloud's daemon shows itself.
fn identity(cluster: &Cluster, cloud: &str) -> PathBuf {
    let authority = Authority::load(&cluster.dir(cloud).join("data/trust")).unwrap();
    let id = SpiffeId::daemon(&CloudName::parse(cloud).unwrap());
    let svid = authority.issue(&id, 3_600_000, now(), &[]).unwrap();
    let path = cluster.dir(cloud).join("member.pem");
    std::fs::write(&path, svid.to_pem().expose()).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_is_what_the_daemon_does() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let clouds = [plan("city-a", "Seoul"), plan("city-b", "Busan")];
    let cluster = Cluster::start(Path::new(env!("CARGO_BIN_EXE_pumasi")), &clouds, "").await.expect("two clouds");
    let place = cluster.place("city-a").unwrap();
    let api = lead_to(cluster.socket("city-a"));
    let (people, members) = (format!("http://{api}"), format!("https://{}", place.peer_listen));
    let token = cluster.operate("city-a", &["token", "create", "tester", "--role", "operator"], None).await.unwrap();
    let viewer = cluster.operate("city-a", &["token", "create", "viewer", "--role", "viewer"], None).await.unwrap();
    strangers(api, viewer.trim());
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let (status, kind) = ask(api, "GET", "/v1/watch?kind=token", &format!("{bearer}\r\n"));
    assert_eq!((status, kind.as_str()), (400, "application/problem+json"));

    let certificate = identity(&cluster, "city-b");
    let mut faults = Vec::new();
    let certificate = certificate.display().to_string();
    // What only a member's daemon may call.
    let peers = "^/v1/(pact($|/(admissions|signatures|current)$)|heartbeat|reservations|leases/.id./|leases$)";
    let peer = ["--request-cert", &certificate, "--tls-verify", "false", "--include-path-regex", peers];
    faults.extend(drive(api, &members, &peer).err());
    let mut own = vec!["-H", &bearer];
    APART.iter().for_each(|path| own.extend(["--exclude-path", path]));
    // The document tells of members' paths as well; at people's door they are not there.
    let people_have = |path: &str| ENDPOINTS.iter().any(|e| e.path == path && e.is_served_at(Door::People));
    let not_theirs: BTreeSet<&str> = ENDPOINTS.iter().map(|e| e.path).filter(|path| !people_have(path)).collect();
    not_theirs.into_iter().for_each(|path| own.extend(["--exclude-path", path]));
    // Ready or not is the machine's matter; and who has left the pact has nothing left to show.
    own.extend(["--exclude-path", "/readyz", "--exclude-path", "/v1/pact/leave"]);
    faults.extend(drive(api, &people, &own).err());
    let last = ["-H", &bearer, "--include-path", "/v1/tokens/{id}", "--include-path", "/v1/pact/leave"];
    faults.extend(drive(api, &people, &last).err());
    assert!(faults.is_empty(), "{}", faults.join("\n"));

    // It goes on as before.
    let (status, _) = ask(api, "GET", "/healthz", "");
    assert_eq!(status, 200);
}
