//! Standard output: tables for people, JSON, YAML and names for programs. Colours only on a terminal.

use crate::failure::Failure;
use clap::ValueEnum;
use serde::Serialize;
use std::io::{IsTerminal, Write};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people
    Table,
    Json,
    Yaml,
    /// kind/name, one a line
    Name,
}

/// What a cell says about its thing; a colour on a terminal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    Good,
    Busy,
    Bad,
    Faint,
    Head,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    pub text: String,
    pub tone: Tone,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        // Text of others may hold control characters, which a terminal would obey.
        let text: String = text.into().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self { text, tone: Tone::Plain }
    }
}

impl Cell {
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { tone, ..Self::from(text) }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    pub head: Vec<&'static str>,
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub fn render(&self, colours: bool) -> String {
        let width = |text: &str| text.chars().count();
        let mut widths: Vec<usize> = self.head.iter().map(|h| width(h)).collect();
        for row in &self.rows {
            for (w, cell) in widths.iter_mut().zip(row) {
                *w = (*w).max(width(&cell.text));
            }
        }
        let head: Vec<Cell> = self.head.iter().map(|h| Cell::toned(*h, Tone::Head)).collect();
        let mut out = String::new();
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut line = String::new();
            let mut owed = 0;
            for (w, cell) in widths.iter().zip(row) {
                line.extend(std::iter::repeat_n(' ', owed));
                line.push_str(&paint(&cell.text, cell.tone, colours));
                owed = w.saturating_sub(width(&cell.text)) + 2;
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

pub fn paint(text: &str, tone: Tone, colours: bool) -> String {
    let code = match tone {
        Tone::Plain => return text.to_owned(),
        Tone::Good => "32",
        Tone::Busy => "33",
        Tone::Bad => "31",
        Tone::Faint => "2",
        Tone::Head => "1",
    };
    if colours && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

fn wants_colours(terminal: bool) -> bool {
    let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
    terminal && !dumb && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

pub fn stdout_colours() -> bool {
    wants_colours(std::io::stdout().is_terminal())
}

pub fn stderr_colours() -> bool {
    wants_colours(std::io::stderr().is_terminal())
}

/// Writes data. A reader that has gone ends the command quietly.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::reader_gone(),
        _ => Failure::failed(format!("writing to standard output: {e}")),
    })
}

/// A remark for people, beside the data.
pub fn note(text: &str) {
    // Nobody to tell is no reason to fail.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::failed(format!("writing JSON: {e}")))?;
    Ok(text + "\n")
}

pub fn yaml<T: Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_saphyr::to_string(value).map_err(|e| Failure::failed(format!("writing YAML: {e}")))?;
    Ok(if text.ends_with('\n') { text } else { text + "\n" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_with_and_without_colours() {
        let mut table = Table::new(&["NAME", "PHASE"]);
        table.row(vec!["a".into(), Cell::toned("serving", Tone::Good)]);
        table.row(vec!["longer-name".into(), Cell::toned("x\x1b[31m\n", Tone::Bad)]);
        assert_eq!(table.render(false), "NAME         PHASE\na            serving\nlonger-name  x [31m\n");
        assert!(table.render(true).contains("a            \x1b[32mserving\x1b[0m\n"));
    }
}
