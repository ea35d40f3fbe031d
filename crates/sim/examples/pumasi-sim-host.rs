//! What the process engine runs as shim and as first process of an instance; the tests on real drivers do.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["shim", "--dir", dir] => pumasi_engine::shim_main(Path::new(dir)),
        ["instance-exec", "--dir", dir] => pumasi_engine::instance_exec_main(Path::new(dir)),
        _ => {
            eprintln!("usage: pumasi-sim-host shim|instance-exec --dir DIR");
            ExitCode::from(64)
        }
    }
}
