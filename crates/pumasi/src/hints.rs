//! Every `pumasi ...` that a message, a help text or a document names is a command that exists, with flags that exist.

use crate::args::Cli;
use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory, Parser};
use std::path::{Path, PathBuf};

/// Files below `dir` whose name ends so.
fn below(dir: &Path, ends: &str, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            below(&path, ends, into);
        } else if path.extension().is_some_and(|e| e == ends) {
            into.push(path);
        }
    }
}

/// String literals of a source, escapes and all; comments are passed over.
fn literals(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => while chars.next().is_some_and(|c| c != '\n') {},
            '\'' => {
                // A character literal may hold a quotation mark; a lifetime holds none.
                match chars.next() {
                    Some('\\') => while chars.next().is_some_and(|c| c != '\'') {},
                    Some(_) if chars.peek() == Some(&'\'') => drop(chars.next()),
                    _ => {}
                }
            }
            '"' => {
                let mut literal = String::new();
                while let Some(c) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' => literal.extend(chars.next().filter(|c| *c == '"')),
                        c => literal.push(c),
                    }
                }
                out.push(literal);
            }
            _ => {}
        }
    }
    out
}

/// Words as a shell makes them, up to a pipe, a redirection or a comment.
fn shell(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('\'' | '"', None) => (quote, word) = (Some(c), Some(word.unwrap_or_default())),
            ('#', None) if word.is_none() => break,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            ('|' | ';' | '&' | ')' | '<' | '>', None) => {
                // `2> log`
                word = word.filter(|w| w != "2");
                break;
            }
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// What is wrong with these words as a command. Values in capitals stand for others, and what is named in passing names no values.
fn unknown(words: &[String]) -> Option<String> {
    let dots = |w: &&String| !w.starts_with("...") && !w.starts_with('…');
    let words: Vec<&String> = words.iter().take_while(dots).collect();
    let error = Cli::try_parse_from(words.iter().map(|w| w.as_str())).err()?;
    let named = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    let place = |value: &str| {
        value.is_empty() || value.contains(|c: char| c.is_ascii_uppercase()) || value.starts_with(['<', '$', '{'])
    };
    let why = match error.kind() {
        ErrorKind::InvalidSubcommand => named(ContextKind::InvalidSubcommand),
        ErrorKind::UnknownArgument if !place(&named(ContextKind::InvalidArg)) => named(ContextKind::InvalidArg),
        ErrorKind::InvalidValue if !place(&named(ContextKind::InvalidValue)) => named(ContextKind::InvalidValue),
        _ => return None,
    };
    let place = |why: &str| why.chars().all(|c| !c.is_ascii_lowercase());
    (!place(&why)).then(|| format!("{}: {why}", words.into_iter().cloned().collect::<Vec<_>>().join(" ")))
}

/// The commands that a text names in back quotes.
fn quoted(text: &str) -> Vec<Vec<String>> {
    let commands = text.split('`').skip(1).step_by(2).filter(|q| q.starts_with("pumasi "));
    // `pumasi pact approve 4f1c | pumasi pact refuse 4f1c`
    commands.flat_map(|q| q.split(" | ")).filter(|q| q.starts_with("pumasi ")).map(shell).collect()
}

/// The commands in the examples of a text: on lines of their own, and behind a pipe.
fn examples(text: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n", " ");
    let begins = |line: &str| {
        let line = line.trim_start().trim_start_matches("$ ").trim_start_matches("sudo ");
        match line.split_once(" -- ") {
            Some((cargo, rest)) if cargo.starts_with("cargo run") && !cargo.contains("-p ") => format!("pumasi {rest}"),
            _ => line.to_owned(),
        }
    };
    let parts = joined.lines().flat_map(|line| line.split(" | ").map(begins).collect::<Vec<_>>());
    // Behind a gap stands what it is for.
    let command = |part: String| shell(part.split("   ").next().unwrap_or_default());
    parts.filter(|part| part.starts_with("pumasi ")).map(command).collect()
}

/// The examples of a document: what is indented or fenced.
fn of_document(text: &str) -> Vec<Vec<String>> {
    let mut fenced = false;
    let mut shown = String::new();
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            shown.push_str(line);
            shown.push('\n');
        }
    }
    let outside: String = text.split("```").step_by(2).collect();
    examples(&shown).into_iter().chain(quoted(&outside)).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn check(found: Vec<(PathBuf, Vec<String>)>, least: usize) {
    let told = |(file, words): &(PathBuf, Vec<String>)| Some(format!("{}: {}", file.display(), unknown(words)?));
    let wrong: Vec<String> = found.iter().filter_map(told).collect();
    assert!(wrong.is_empty(), "no such command, or no such flag:\n{}", wrong.join("\n"));
    assert!(found.len() >= least, "only {} were found", found.len());
}

#[test]
fn every_message_names_commands_that_exist() {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root().join("crates")).unwrap().map(Result::unwrap) {
        let src = entry.path().join("src");
        if src.is_dir() {
            below(&src, "rs", &mut files);
        }
    }
    let mut found = Vec::new();
    for file in files.into_iter().filter(|f| !f.ends_with("hints.rs")) {
        for literal in literals(&std::fs::read_to_string(&file).unwrap()) {
            found.extend(quoted(&literal).into_iter().map(|words| (file.clone(), words)));
        }
    }
    check(found, 30);
}

#[test]
fn every_help_text_names_commands_that_exist() {
    fn walk(command: &clap::Command, found: &mut Vec<(PathBuf, Vec<String>)>) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let texts = examples(&help).into_iter().chain(quoted(&help));
        found.extend(texts.map(|words| (PathBuf::from(command.get_name()), words)));
        command.get_subcommands().for_each(|c| walk(c, found));
    }
    let mut found = Vec::new();
    walk(&Cli::command(), &mut found);
    check(found, 50);
}

#[test]
fn every_document_names_commands_that_exist() {
    let mut files = vec![root().join("README.md"), root().join("ARCHITECTURE.md"), root().join("examples/README.md")];
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|e| e.unwrap().path());
    files.extend(docs.filter(|p| p.extension().is_some_and(|e| e == "md")));
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        found.extend(of_document(&text).into_iter().map(|words| (file.clone(), words)));
    }
    check(found, 60);
}

#[test]
fn a_hint_that_names_nothing_is_found() {
    let hint = literals(
        r#"let x = '"'; // "`pumasi nothing`"
        let e = "found one (`pumasi pact found`) or `pumasi pact init --lends-gpu 1`, `pumasi get KIND`, `pumasi get`, `pumasi get planets`";"#,
    );
    let wrong: Vec<_> = hint.iter().flat_map(|h| quoted(h)).filter_map(|w| unknown(&w)).collect();
    assert_eq!(
        wrong,
        ["pumasi pact found: found", "pumasi pact init --lends-gpu 1: --lends-gpu", "pumasi get planets: planets"]
    );
    let text = "```sh\npumasi --config a/cloud.toml pact invite city-b > invitation\nssh a pumasi x | pumasi pact leaf 2> log &\n```\n";
    let wrong: Vec<_> = of_document(text).iter().filter_map(|w| unknown(w)).collect();
    assert_eq!(wrong, ["pumasi pact leaf: leaf"]);
}
