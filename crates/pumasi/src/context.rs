//! Contexts: which daemon and with whose token, under a name, in a file of the command line's own.
//!
//! Always holds: flags and variables count before a context; the file holds paths of tokens, never a token.

use crate::args::{ContextCommand, Global};
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, Table};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
const BYTES_MAX: u64 = 1 << 20;
const NAME_BYTES_MAX: usize = 64;

/// `contexts.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contexts {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

impl Default for Contexts {
    fn default() -> Self {
        Self { version: VERSION, current: None, contexts: BTreeMap::new() }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Context {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<PathBuf>,
}

/// `PUMASI_CONTEXTS`, else `pumasi/contexts.toml` in the user's directory of configurations (XDG Base Directory).
fn file() -> Result<PathBuf, Failure> {
    let named = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = || Some(named("HOME")?.join(".config"));
    if let Some(file) = named("PUMASI_CONTEXTS") {
        return Ok(file);
    }
    let dir = named("XDG_CONFIG_HOME").or_else(home);
    dir.map(|d| d.join("pumasi/contexts.toml"))
        .ok_or_else(|| Failure::input("contexts: neither HOME nor PUMASI_CONTEXTS says where they are kept"))
}

fn read(path: &Path) -> Result<Contexts, Failure> {
    let wrong = |e: &dyn std::fmt::Display| Failure::input(format!("{}: {e}", path.display()));
    match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Contexts::default()),
        Err(e) => return Err(wrong(&e)),
        Ok(m) if m.len() > BYTES_MAX => return Err(wrong(&"it is larger than 1 MiB")),
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(path).map_err(|e| wrong(&e))?;
    let read: Contexts = toml::from_str(&text).map_err(|e| wrong(&e.to_string().trim()))?;
    match read.version {
        VERSION => Ok(read),
        newer => Err(wrong(&format!("version {newer} is not known to this program, which writes {VERSION}"))),
    }
}

fn write(path: &Path, contexts: &Contexts) -> Result<(), Failure> {
    let text = toml::to_string(contexts).map_err(|e| Failure::failed(format!("writing contexts: {e}")))?;
    let put = || -> std::io::Result<()> {
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        let partial = path.with_extension("new");
        let mut file =
            std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    put().map_err(|e| Failure::failed(format!("writing {}: {e}", path.display())))
}

fn unknown(name: &str, all: &Contexts) -> Failure {
    let names: Vec<&str> = all.contexts.keys().map(String::as_str).collect();
    let hint = match names.as_slice() {
        [] => "there is none yet: `pumasi context set` makes one".to_owned(),
        names => format!("there are {}", names.join(", ")),
    };
    Failure::new(Exit::NotFound, format!("no context {name:?}")).hint(hint)
}

/// What a command that asks a daemon was not told: by the context that was named, else, where nothing else says which daemon, by the
/// current one.
pub fn fill(global: &mut Global) -> Result<(), Failure> {
    let silent = global.server.is_none() && global.config.is_none();
    if global.context.is_none() && !silent {
        return Ok(());
    }
    let path = match (file(), &global.context) {
        (Ok(path), _) => path,
        (Err(_), None) => return Ok(()),
        (Err(e), Some(_)) => return Err(e),
    };
    let all = read(&path)?;
    let Some(name) = global.context.clone().or_else(|| all.current.clone()) else { return Ok(()) };
    let context = all.contexts.get(&name).ok_or_else(|| unknown(&name, &all))?;
    if global.server.is_none() && (silent || !global.config_named) {
        (global.server, global.config) = (context.server.clone(), context.config.clone());
    }
    global.ca = global.ca.take().or_else(|| context.ca.clone());
    global.token_file = global.token_file.take().or_else(|| context.token_file.clone());
    Ok(())
}

pub fn context(command: &ContextCommand, global: &Global) -> Result<(), Failure> {
    let path = file()?;
    let mut all = read(&path)?;
    match command {
        ContextCommand::List => list(&all, global),
        ContextCommand::Set { name } => {
            let context = made(name, global)?;
            let first = all.contexts.is_empty();
            all.contexts.insert(name.clone(), context);
            if first {
                all.current = Some(name.clone());
            }
            write(&path, &all)?;
            output::print(&format!("context/{name} set{}\n", if first { ", and in use" } else { "" }))
        }
        ContextCommand::Use { name } => {
            if !all.contexts.contains_key(name) {
                return Err(unknown(name, &all));
            }
            all.current = Some(name.clone());
            write(&path, &all)?;
            output::print(&format!("context/{name} in use\n"))
        }
        ContextCommand::Delete { name } => {
            if all.contexts.remove(name).is_none() {
                return Err(unknown(name, &all));
            }
            all.current = all.current.filter(|c| c != name);
            write(&path, &all)?;
            output::print(&format!("context/{name} deleted\n"))
        }
    }
}

fn made(name: &str, global: &Global) -> Result<Context, Failure> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"-_.@".contains(&b);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(fine) {
        return Err(Failure::input(format!("{name:?} is no name of a context: 1 to 64 letters, digits, and - _ . @")));
    }
    let config = global.config.clone().filter(|_| global.config_named);
    if global.server.is_none() && config.is_none() {
        return Err(Failure::input("which daemon? name its --config, or its --server with --ca and --token-file"));
    }
    // A context is used from other directories.
    let whole = |path: Option<PathBuf>| match path {
        Some(path) => std::path::absolute(&path)
            .map(Some)
            .map_err(|e| Failure::input(format!("the path {}: {e}", path.display()))),
        None => Ok(None),
    };
    Ok(Context {
        server: global.server.clone(),
        ca: whole(global.ca.clone())?,
        token_file: whole(global.token_file.clone())?,
        config: whole(config)?,
    })
}

fn list(all: &Contexts, global: &Global) -> Result<(), Failure> {
    match global.output {
        Format::Json => return output::print(&output::json(all)?),
        Format::Yaml => return output::print(&output::yaml(all)?),
        Format::Name => {
            let names: String = all.contexts.keys().map(|n| format!("context/{n}\n")).collect();
            return output::print(&names);
        }
        Format::Table => {}
    }
    if all.contexts.is_empty() {
        output::note("no contexts");
        return Ok(());
    }
    let mut table = Table::new(&["USED", "NAME", "DAEMON", "TOKEN FILE", "CA"]);
    let shown = |path: &Option<PathBuf>| path.as_ref().map_or("-".to_owned(), |p| p.display().to_string());
    for (name, c) in &all.contexts {
        let used = if all.current.as_ref() == Some(name) { "*" } else { "" };
        let daemon = c.server.clone().unwrap_or_else(|| shown(&c.config));
        table.row(vec![
            used.into(),
            name.as_str().into(),
            daemon.into(),
            shown(&c.token_file).into(),
            shown(&c.ca).into(),
        ]);
    }
    output::print(&table.render(output::stdout_colours()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_contexts_is_read_as_it_was_written_and_faults_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/contexts.toml");
        assert_eq!(read(&path).unwrap(), Contexts::default());
        let mut all = Contexts { current: Some("a".into()), ..Contexts::default() };
        let context = Context { server: Some("https://a.example:7400".into()), ..Context::default() };
        all.contexts.insert("a".into(), context);
        write(&path, &all).unwrap();
        assert_eq!(read(&path).unwrap(), all);
        for (text, told) in [
            ("version = 9\n", "version 9 is not known"),
            ("version = 1\ncurent = \"a\"\n", "curent"),
            ("version = \n", "line 1"),
        ] {
            std::fs::write(&path, text).unwrap();
            let failure = read(&path).unwrap_err();
            assert!(failure.message.contains(told) && failure.message.contains("contexts.toml"), "{failure}");
        }
    }

    #[test]
    fn what_is_named_by_hand_counts_before_a_context() {
        let golden =
            "version = 1\ncurrent = \"a\"\n\n[contexts.a]\nserver = \"https://a.example:7400\"\ntoken_file = \"/t\"\n";
        let all: Contexts = toml::from_str(golden).unwrap();
        assert_eq!(toml::to_string(&all).unwrap(), golden);
        assert_eq!(unknown("b", &all).to_string(), "no context \"b\"\nhint: there are a");
    }
}
