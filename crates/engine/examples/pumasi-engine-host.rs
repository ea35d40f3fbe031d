//! The smallest program that an engine can use as its executable; the tests do.

use pumasi_engine::{Engine, InstanceSpec, ProcessConfig, ProcessEngine};
use std::path::Path;
use std::process::ExitCode;

// The daemon's: what an allocator reserves ahead counts against a helper's bounds.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["shim", "--dir", dir] => pumasi_engine::shim_main(Path::new(dir)),
        ["instance-exec", "--dir", dir] => pumasi_engine::instance_exec_main(Path::new(dir)),
        ["data-helper"] => match pumasi_engine::enter_cell() {
            Ok(mut line) => {
                let served = pumasi_transfer::helper::serve(&mut line);
                if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(_) => ExitCode::from(70),
        },
        ["start-and-die", root, spec] => match start_and_die(root, spec) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("{e}");
                ExitCode::FAILURE
            }
        },
        ["exec-and-die", root, id, script] => match exec_and_die(root, id, script) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("{e}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("usage: pumasi-engine-host shim|instance-exec --dir DIR");
            ExitCode::from(64)
        }
    }
}

/// A daemon that is killed as soon as it has started something.
fn start_and_die(root: &str, spec: &str) -> Result<(), Box<dyn std::error::Error>> {
    let spec: InstanceSpec = serde_json::from_str(spec)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let engine = ProcessEngine::open(ProcessConfig::new(root, std::env::current_exe()?)).await?;
        engine.start(spec).await?;
        nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL)?;
        Ok(())
    })
}

/// A daemon that is killed while a command of a person runs; first it says what the command says.
fn exec_and_die(root: &str, id: &str, script: &str) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let engine = ProcessEngine::open(ProcessConfig::new(root, std::env::current_exe()?)).await?;
        let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let session = engine.exec(&pumasi_terms::InstanceId::parse(id)?, command, None).await?;
        let mut said = [0u8; 64];
        let count = session.output.read(&mut said).await?;
        println!("{}", String::from_utf8_lossy(said.get(..count).unwrap_or_default()));
        nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL)?;
        Ok(())
    })
}
