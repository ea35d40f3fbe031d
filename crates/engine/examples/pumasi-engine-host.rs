//! The smallest program that an engine can use as its executable; the tests do.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["shim", "--dir", dir] => pumasi_engine::shim_main(Path::new(dir)),
        ["instance-exec", "--dir", dir] => pumasi_engine::instance_exec_main(Path::new(dir)),
        _ => {
            eprintln!("usage: pumasi-engine-host shim|instance-exec --dir DIR");
            ExitCode::from(64)
        }
    }
}
