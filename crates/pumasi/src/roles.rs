//! The long-running roles of this binary and what each calls.

use crate::args::{ConfigCommand, Dir, Global};
use crate::failure::Failure;
use std::process::ExitCode;

fn absent(what: &str) -> Failure {
    Failure::failed(format!("this build has no {what}"))
}

pub fn serve(_global: &Global) -> Result<(), Failure> {
    Err(absent("daemon"))
}
pub fn gateway(_dir: &Dir) -> Result<(), Failure> {
    Err(absent("gateway"))
}
pub fn shim(dir: &Dir) -> ExitCode {
    pumasi_engine::shim_main(&dir.dir)
}
pub fn instance_exec(dir: &Dir) -> ExitCode {
    pumasi_engine::instance_exec_main(&dir.dir)
}
pub fn lab(_args: &[String]) -> Result<(), Failure> {
    Err(absent("lab"))
}
pub fn lab_app(_kind: &str, _args: &[String]) -> Result<(), Failure> {
    Err(absent("lab"))
}
pub fn config(_command: &ConfigCommand, _global: &Global) -> Result<(), Failure> {
    Err(absent("daemon"))
}
