//! The console from disk over invented data: edit `web/`, reload the page.
//! `cargo run -p pumasi-console --example preview -- 7499`, with `empty` behind the port for a cloud that has nothing yet.

#[path = "../tests/fake/mod.rs"]
mod fake;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let port = arguments.get(1).map_or("0", String::as_str);
    let disk = concat!(env!("CARGO_MANIFEST_DIR"), "/web").into();
    let shared = fake::Shared::new(arguments.get(2).is_some_and(|a| a == "empty"), Some(disk));
    let daemon = fake::Daemon::start(&format!("127.0.0.1:{port}"), shared);
    println!("{}#token={}", daemon.url(), fake::TOKEN);
    loop {
        std::thread::park();
    }
}
