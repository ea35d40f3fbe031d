//! Every `pumasi ...` that a message of any crate names is a command that exists.

use crate::args::Cli;
use clap::CommandFactory;
use std::path::{Path, PathBuf};

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
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

/// Follows the words into the tree as far as they are words of commands; what is left over where one was needed.
fn unknown(words: &[&str]) -> Option<String> {
    let mut command = Cli::command();
    command.build();
    let mut at = &command;
    for (i, word) in words.iter().enumerate() {
        match at.find_subcommand(word) {
            Some(next) => at = next,
            None if at.get_subcommands().next().is_some() => return Some(words[..=i].join(" ")),
            None => break,
        }
    }
    None
}

/// The commands that a message names in back quotes.
fn named(literal: &str) -> Vec<Vec<&str>> {
    literal
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|quoted| quoted.strip_prefix("pumasi "))
        .map(|rest| {
            let word = |w: &&str| {
                !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && !w.starts_with('-')
            };
            rest.split_ascii_whitespace().take_while(word).collect()
        })
        .collect()
}

#[test]
fn every_hint_names_a_command_that_exists() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut files, mut seen, mut wrong) = (Vec::new(), 0, Vec::new());
    for entry in std::fs::read_dir(crates).unwrap().map(Result::unwrap) {
        let src = entry.path().join("src");
        if src.is_dir() {
            sources(&src, &mut files);
        }
    }
    for file in files.iter().filter(|f| !f.ends_with("hints.rs")) {
        for literal in literals(&std::fs::read_to_string(file).unwrap()) {
            for words in named(&literal) {
                seen += 1;
                if let Some(what) = unknown(&words) {
                    wrong.push(format!("{}: pumasi {what}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "no such command:\n{}", wrong.join("\n"));
    assert!(seen >= 10, "only {seen} hints were found");
}

#[test]
fn a_hint_that_names_nothing_is_found() {
    let hint = literals(
        r#"let x = '"'; // "`pumasi nothing`"
        let e = "found one (`pumasi pact found`) or `pumasi pact init`";"#,
    );
    let wrong: Vec<_> = hint.iter().flat_map(|h| named(h)).filter_map(|w| unknown(&w)).collect();
    assert_eq!(wrong, ["pact found"]);
}
