//! A very small HTTP application; the tests on real drivers run it as an instance.

use std::io::{Read, Write};
use std::net::TcpListener;

fn main() -> std::io::Result<()> {
    let of = |name: &str, or: &str| std::env::var(name).unwrap_or_else(|_| or.to_owned());
    let listener = TcpListener::bind(format!("{}:{}", of("HOST", "127.0.0.1"), of("PORT", "0")))?;
    println!("listening on {}", listener.local_addr()?);
    for mut stream in listener.incoming().flatten() {
        let _ = stream.read(&mut [0u8; 8_192]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nwell");
    }
    Ok(())
}
