//! Names in the shell's completion: the daemon is asked what there is.
//!
//! Always holds: a daemon that does not answer at once completes nothing, and says nothing.

use crate::args::{Cli, Kind};
use crate::session::Session;
use clap::{Parser, ValueEnum};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use std::ffi::OsStr;

/// What the shell's script sets.
pub const VARIABLE: &str = "PUMASI_COMPLETE";
/// A shell waits while somebody types.
const PATIENCE: &str = "400ms";
const CANDIDATES_MAX: usize = 200;

/// Answers the shell and ends, if it was the shell that called.
pub fn answer() {
    CompleteEnv::with_factory(<Cli as clap::CommandFactory>::command).var(VARIABLE).complete();
}

/// What makes a shell ask; `None`: it is not known.
pub fn script(shell: &str) -> Option<Vec<u8>> {
    let mut script = Vec::new();
    let shells = Shells::builtins();
    shells.completer(shell)?.write_registration(VARIABLE, "pumasi", "pumasi", "pumasi", &mut script).ok()?;
    Some(script)
}

pub fn of(kind: Kind) -> ArgValueCompleter {
    ArgValueCompleter::new(move |typed: &OsStr| names(Some(kind), typed))
}

/// Of the kind that stands before it on the line.
pub fn of_the_kind_before() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let kind = words().iter().rev().find_map(|word| Kind::from_str(word, true).ok());
        names(kind, typed)
    })
}

/// The line as far as it is typed; the shell's script gives it behind `--`.
fn words() -> Vec<String> {
    std::env::args().skip_while(|a| a != "--").skip(1).collect()
}

fn names(kind: Option<Kind>, typed: &OsStr) -> Vec<CompletionCandidate> {
    let (Some(kind), Some(typed)) = (kind, typed.to_str()) else { return Vec::new() };
    asked(kind, &words())
        .unwrap_or_default()
        .into_iter()
        .filter(|name| name.starts_with(typed))
        .take(CANDIDATES_MAX)
        .map(CompletionCandidate::new)
        .collect()
}

/// Which daemon is meant is said on the same line, or where it is always said.
fn line(words: &[String]) -> Vec<String> {
    let flags = ["--config", "--server", "--ca", "--token-file", "--context"];
    let mut line = vec!["pumasi".to_owned()];
    for (i, word) in words.iter().enumerate() {
        let value = words.get(i + 1).filter(|_| flags.contains(&word.as_str()));
        line.extend(value.into_iter().flat_map(|value| [word.clone(), value.clone()]));
        if flags.iter().any(|flag| word.strip_prefix(flag).is_some_and(|rest| rest.starts_with('='))) {
            line.push(word.clone());
        }
    }
    line.extend(["--timeout", PATIENCE, "get", "services"].map(str::to_owned));
    line
}

fn asked(kind: Kind, words: &[String]) -> Option<Vec<String>> {
    let mut global = Cli::try_parse_from(line(words)).ok()?.global;
    crate::settle(&mut global);
    crate::context::fill(&mut global).ok()?;
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let session = Session::open(&global).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let list = runtime.block_on(session.list(kind)).ok()?;
    Some(list.items.iter().map(|item| kind.name_of(item)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_daemon_is_read_from_the_line() {
        let words: Vec<String> =
            ["pumasi", "--config", "a.toml", "logs", "--context=x", "no", "--ca"].map(String::from).to_vec();
        let line = line(&words);
        assert_eq!(line[..4], ["pumasi", "--config", "a.toml", "--context=x"]);
        let cli = Cli::try_parse_from(&line).unwrap();
        assert_eq!(cli.global.context.as_deref(), Some("x"));
        assert_eq!(cli.global.timeout, 400);
    }

    #[test]
    fn each_shell_has_a_script() {
        for shell in clap_complete::Shell::value_variants() {
            let script = script(&shell.to_string()).unwrap();
            assert!(String::from_utf8(script).unwrap().contains(VARIABLE), "{shell}");
        }
    }
}
