use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 78, 1, 1);
const TARGET: Ipv4Addr = Ipv4Addr::new(127, 78, 2, 1);

/// Seoul and Osaka: 33.4 ms.
fn wan(config: WanConfig) -> Wan {
    let wan = Wan::start(config).unwrap();
    wan.add_site("seoul", City::named("Seoul").unwrap(), SOURCE).unwrap();
    wan.add_site("osaka", City::named("Osaka").unwrap(), TARGET).unwrap();
    wan
}

/// Answers each connection with `act` on a thread of its own.
fn server(act: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind((TARGET, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let act = act.clone();
            thread::spawn(move || act(stream.unwrap()));
        }
    });
    address
}

fn echo(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = [0; 1 << 16];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

fn dial(to: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((SOURCE, 0).into()).unwrap();
        socket.connect(to).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn ping(stream: &mut TcpStream) -> Duration {
    let start = Instant::now();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    start.elapsed()
}

fn relay(wan: &Wan, target: SocketAddr) -> SocketAddr {
    wan.relay("osaka", (TARGET, 0).into(), target).unwrap()
}

fn silent_for(stream: &mut TcpStream, ms: u64) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(ms))).unwrap();
    let silent = matches!(stream.read(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    silent
}

#[test]
fn a_round_trip_takes_the_distance_and_a_connect_one_more() {
    let wan = wan(WanConfig::default());
    let address = relay(&wan, server(echo));
    let rtt = wan.rtt("seoul", "osaka").unwrap();
    assert_eq!(rtt, Duration::from_micros(33_400));
    let start = Instant::now();
    let mut stream = dial(address);
    ping(&mut stream);
    let first = start.elapsed();
    assert!(first >= 2 * rtt - Duration::from_millis(5), "{first:?}");
    let mut pings: Vec<_> = (0..15).map(|_| ping(&mut stream)).collect();
    pings.sort();
    assert!(pings[0] >= rtt - Duration::from_millis(4), "{pings:?}");
    assert!(pings[7] <= rtt + Duration::from_millis(20), "{pings:?}");
}

#[test]
fn the_target_sees_the_source_and_a_stranger_meets_no_delay() {
    let wan = wan(WanConfig::default());
    let address = relay(
        &wan,
        server(|mut s| {
            let peer = s.peer_addr().unwrap().ip().to_string();
            s.write_all(peer.as_bytes()).unwrap();
        }),
    );
    let mut seen = String::new();
    dial(address).read_to_string(&mut seen).unwrap();
    assert_eq!(seen, SOURCE.to_string());
    let start = Instant::now();
    TcpStream::connect(address).unwrap().read_to_string(&mut String::new()).unwrap();
    assert!(start.elapsed() < Duration::from_millis(30));
}

#[test]
fn delay_costs_no_throughput_and_bytes_arrive_whole() {
    let wan = wan(WanConfig::default());
    let address = relay(&wan, server(echo));
    let stream = dial(address);
    const BYTES: usize = 32 << 20;
    let mut writer = stream.try_clone().unwrap();
    let sent = thread::spawn(move || {
        let mut digest = blake3::Hasher::new();
        for i in 0..(BYTES / 4096) {
            let block = [(i % 251) as u8; 4096];
            digest.update(&block);
            writer.write_all(&block).unwrap();
        }
        writer.shutdown(std::net::Shutdown::Write).unwrap();
        digest.finalize()
    });
    let start = Instant::now();
    let (mut stream, mut digest, mut got) = (stream, blake3::Hasher::new(), 0);
    let mut buffer = vec![0; 1 << 16];
    while let n @ 1.. = stream.read(&mut buffer).unwrap() {
        digest.update(&buffer[..n]);
        got += n;
    }
    assert_eq!(got, BYTES);
    assert_eq!(digest.finalize(), sent.join().unwrap());
    // One 64 KiB chunk a round trip would take 17 s.
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert_eq!(wan.stats("seoul", "osaka").unwrap().bytes, BYTES as u64);
}

#[test]
fn a_rate_limit_holds() {
    let wan = wan(WanConfig { jitter: Duration::from_millis(3), ..WanConfig::default() });
    wan.limit_rate("seoul", "osaka", Some(1 << 20)).unwrap();
    let address = relay(&wan, server(echo));
    let mut stream = dial(address);
    let start = Instant::now();
    let mut writer = stream.try_clone().unwrap();
    thread::spawn(move || writer.write_all(&[7; 512 << 10]));
    let mut got = vec![0; 512 << 10];
    stream.read_exact(&mut got).unwrap();
    assert!(got.iter().all(|&b| b == 7));
    assert!(start.elapsed() >= Duration::from_millis(480), "{:?}", start.elapsed());
}

#[test]
fn a_partition_holds_everything_until_healed() {
    let wan = wan(WanConfig::default());
    let address = relay(&wan, server(echo));
    let mut stream = dial(address);
    ping(&mut stream);
    wan.partition("seoul", "osaka").unwrap();
    stream.write_all(b"y").unwrap();
    assert!(silent_for(&mut stream, 200));
    let mut late = dial(address);
    late.write_all(b"z").unwrap();
    assert!(silent_for(&mut late, 200));
    wan.heal("seoul", "osaka").unwrap();
    for s in [&mut stream, &mut late] {
        s.read_exact(&mut [0]).unwrap();
        ping(s);
    }
}

#[test]
fn one_way_drop_lets_the_other_way_flow_for_a_window() {
    let wan = wan(WanConfig::default());
    let address = relay(
        &wan,
        server(|mut s| {
            s.read_exact(&mut [0]).unwrap();
            thread::sleep(Duration::from_millis(150));
            let _ = s.write_all(&[1; 1 << 20]);
        }),
    );
    let mut stream = dial(address);
    stream.write_all(b"x").unwrap();
    thread::sleep(Duration::from_millis(100));
    wan.drop_one_way("seoul", "osaka").unwrap();
    let (mut got, mut buffer) = (0, vec![0; 1 << 16]);
    stream.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        got += n;
    }
    assert!((1..=64 << 10).contains(&got), "{got}");
    wan.heal_all();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        got += n;
    }
    assert_eq!(got, 1 << 20);
}

#[test]
fn a_cut_resets_after_so_many_bytes_and_once() {
    let wan = wan(WanConfig::default());
    let address = relay(&wan, server(echo));
    wan.cut_after("seoul", "osaka", 1000, CutThen::Recover).unwrap();
    let mut stream = dial(address);
    stream.write_all(&[3; 5000]).unwrap();
    let mut got = Vec::new();
    assert!(stream.read_to_end(&mut got).is_err(), "a reset, not an orderly end");
    assert_eq!(wan.stats("seoul", "osaka").unwrap().bytes, 1000);
    let mut next = dial(address);
    ping(&mut next);
    wan.sever("seoul", "osaka").unwrap();
    assert!(next.read(&mut [0]).is_err());
}

#[test]
fn a_refusal_reaches_the_source_one_round_trip_later() {
    let wan = wan(WanConfig::default());
    let gone = pumasi_engine::free_address(TARGET.into()).unwrap();
    let address = relay(&wan, gone);
    let start = Instant::now();
    assert!(dial(address).read(&mut [0]).is_err());
    assert!(start.elapsed() >= Duration::from_millis(30));
}

#[test]
fn mistakes_are_named() {
    let wan = wan(WanConfig::default());
    assert!(wan.partition("seoul", "oz").unwrap_err().to_string().contains("oz"));
    assert!(wan.add_site("x", City::named("Paris").unwrap(), SOURCE).is_err());
}

/// By hand: `cargo test --release -p pumasi-lab --lib relay -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn what_the_relay_adds_and_costs() {
    let wan = wan(WanConfig::default());
    let address = relay(&wan, server(echo));
    let mut stream = dial(address);
    let rtt = wan.rtt("seoul", "osaka").unwrap().as_secs_f64();
    let mut off: Vec<_> = (0..100).map(|_| 1e3 * (ping(&mut stream).as_secs_f64() - rtt)).collect();
    off.sort_by(f64::total_cmp);
    println!("round trip off by {:+.2} ms (p5), {:+.2} (p50), {:+.2} (p95)", off[5], off[50], off[95]);
    const BYTES: usize = 256 << 20;
    let sink = relay(&wan, server(|mut s| drop(io::copy(&mut s, &mut io::sink()).map(|_| s.write_all(b"x")))));
    let mut stream = dial(sink);
    let (start, cpu) = (Instant::now(), crate::machine::process_cpu());
    let block = vec![5; 1 << 20];
    (0..BYTES >> 20).for_each(|_| stream.write_all(&block).unwrap());
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let (took, cpu) = (start.elapsed(), crate::machine::process_cpu() - cpu);
    println!("256 MiB in {took:?}, {cpu:?} of CPU with both ends");
}
