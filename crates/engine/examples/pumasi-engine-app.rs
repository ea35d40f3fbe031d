//! A small HTTP application that misbehaves on request; the tests run it as an instance.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|a| a == name);
    let value = |name: &str| -> Option<u64> {
        arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1)?.parse().ok())
    };
    let address = format!(
        "{}:{}",
        std::env::var("HOST").unwrap_or_else(|_| "127.0.0.1".into()),
        std::env::var("PORT").unwrap_or_else(|_| "0".into())
    );
    let born = Instant::now();
    let sick_after = value("--sick-after-ms").map(Duration::from_millis);
    println!("listening on {address}");
    if let Some(ms) = value("--crash-after-ms") {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(ms));
            std::process::exit(3);
        });
    }
    if has("--ignore-term") {
        // The shell ignores SIGTERM, and what it executes inherits that.
        let again: Vec<&String> = arguments.iter().filter(|a| *a != "--ignore-term").collect();
        use std::os::unix::process::CommandExt;
        let program = std::env::current_exe()?;
        return Err(Command::new("/bin/sh")
            .args(["-c", "trap '' TERM; exec \"$@\"", "sh"])
            .arg(program)
            .args(again)
            .exec());
    }
    let listener = TcpListener::bind(address)?;
    for stream in listener.incoming().flatten() {
        let sick = sick_after.is_some_and(|a| born.elapsed() > a);
        std::thread::spawn(move || {
            let _ = answer(stream, sick);
        });
    }
    Ok(())
}

fn answer(mut stream: TcpStream, sick: bool) -> std::io::Result<()> {
    let mut head = [0u8; 8192];
    let n = stream.read(&mut head)?;
    let text = String::from_utf8_lossy(&head[..n]);
    let target = text.split(' ').nth(1).unwrap_or("/").to_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut code = 200;
    let body = match path {
        "/live" if sick => {
            code = 500;
            "sick".to_owned()
        }
        // What the instance itself can do, run by a shell in it: the query is the script, in hex.
        "/shell" => {
            let out = Command::new("/bin/sh").arg("-c").arg(unhex(query)).output()?;
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
        }
        "/env" => std::env::vars().map(|(k, v)| format!("{k}={v}\n")).collect(),
        "/burn" => {
            let until = Instant::now() + Duration::from_millis(query.parse().unwrap_or(0));
            let mut spins = 0u64;
            while Instant::now() < until {
                spins = std::hint::black_box(spins + 1);
            }
            spins.to_string()
        }
        "/alloc" => {
            let mib: usize = query.parse().unwrap_or(0);
            let block = vec![1u8; mib << 20];
            block.iter().map(|b| u64::from(*b)).sum::<u64>().to_string()
        }
        "/print" => {
            let kib: usize = query.parse().unwrap_or(0);
            for i in 0..kib {
                println!("{i:06} {}", "x".repeat(1016));
            }
            "printed".to_owned()
        }
        "/exit" => std::process::exit(query.parse().unwrap_or(0)),
        "/connect" => {
            match TcpStream::connect_timeout(&query.parse().map_err(std::io::Error::other)?, Duration::from_secs(2)) {
                Ok(_) => "connected".to_owned(),
                Err(e) => format!("refused: {e}"),
            }
        }
        "/talk" => talk(query)?,
        "/datagram" => datagram(query)?,
        "/many" => many(query)?,
        "/abstract" => {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(query)?;
            match std::os::unix::net::UnixStream::connect_addr(&address) {
                Ok(_) => "connected".to_owned(),
                Err(e) => format!("refused: {e}"),
            }
        }
        "/listen" => match TcpListener::bind(query) {
            Ok(listener) => {
                std::thread::spawn(move || listener.incoming().for_each(drop));
                "listening".to_owned()
            }
            Err(e) => format!("refused: {e}"),
        },
        _ => "well".to_owned(),
    };
    let text = format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes())
}

/// Says a word to a server and gives back what it answers until it ends.
fn talk(to: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"ping")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn datagram(to: &str) -> std::io::Result<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.send_to(b"ping", to)?;
    let mut bytes = [0u8; 64];
    let (n, from) = socket.recv_from(&mut bytes)?;
    Ok(format!("{} from {from}", String::from_utf8_lossy(&bytes[..n])))
}

/// `COUNT@ADDRESS`: how many connections, open at one time, echo a byte.
fn many(query: &str) -> std::io::Result<String> {
    let (count, to) = query.split_once('@').unwrap_or(("0", query));
    let mut all = Vec::new();
    for _ in 0..count.parse().unwrap_or(0) {
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let echoed = stream.write_all(b"x").and_then(|()| stream.read_exact(&mut [0]));
        all.push((echoed.is_ok(), stream));
    }
    Ok(all.iter().filter(|(echoed, _)| *echoed).count().to_string())
}

fn unhex(text: &str) -> String {
    let bytes: Vec<u8> =
        (0..text.len() / 2).filter_map(|i| u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
