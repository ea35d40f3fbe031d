//! Standard output: tables for people, JSON, YAML and names for programs. Colours only on a terminal.

use crate::failure::Failure;
use clap::ValueEnum;
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// As it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Columns for people
    Table,
    /// More columns, and nothing cut short
    Wide,
    Json,
    Yaml,
    /// kind/name, one a line
    Name,
}

impl Form {
    pub fn format(self) -> Format {
        match self {
            Self::Table | Self::Wide => Format::Table,
            Self::Json => Format::Json,
            Self::Yaml => Format::Yaml,
            Self::Name => Format::Name,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people
    #[default]
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

/// What a terminal obeys instead of showing it: control characters, and those that turn the direction of what follows or hide it.
fn moves_the_terminal(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// Text of others for one line.
pub fn line(text: &str) -> String {
    text.chars().map(|c| if moves_the_terminal(c) { ' ' } else { c }).collect()
}

/// Text of others that has lines of its own.
pub fn lines(text: &str) -> String {
    text.chars().map(|c| if moves_the_terminal(c) && c != '\n' && c != '\t' { ' ' } else { c }).collect()
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    pub text: String,
    pub tone: Tone,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: line(&text.into()), tone: Tone::Plain }
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
        self.render_on(&mut Vec::new(), colours)
    }

    /// Below what was printed before: without a head, and with columns at least as wide. `widths` is empty at first.
    pub fn render_on(&self, widths: &mut Vec<usize>, colours: bool) -> String {
        let head: Vec<Cell> = self.head.iter().map(|h| Cell::toned(*h, Tone::Head)).collect();
        let head = Some(&head).filter(|_| widths.is_empty());
        widths.resize(self.head.len(), 0);
        for row in head.into_iter().chain(&self.rows) {
            for (w, cell) in widths.iter_mut().zip(row) {
                *w = (*w).max(width(&cell.text));
            }
        }
        let mut out = String::new();
        for row in head.into_iter().chain(&self.rows) {
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

fn width(text: &str) -> usize {
    text.chars().count()
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
    Ok(escaped(text) + "\n")
}

/// JSON escapes by itself what is below U+0020 only.
pub fn escaped(json: String) -> String {
    let moves = |c: char| moves_the_terminal(c) && c != '\n';
    if !json.contains(moves) {
        return json;
    }
    let escape = |c: char| if moves(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    json.chars().map(escape).collect()
}

pub fn yaml<T: Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_saphyr::to_string(value).map_err(|e| Failure::failed(format!("writing YAML: {e}")))?;
    let text = lines(&text);
    Ok(if text.ends_with('\n') { text } else { text + "\n" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_not_printed() {
        let hostile = "a\u{1b}[2J\u{9b}1m\u{202e}b\r\n\u{2066}c\td";
        assert_eq!(line(hostile), "a [2J 1m b   c d");
        assert_eq!(lines(hostile), "a [2J 1m b \n c\td");
        let text = json(hostile).unwrap();
        assert!(!text.contains(['\u{9b}', '\u{202e}', '\u{2066}']));
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), hostile, "and nothing is lost");
    }

    #[test]
    fn columns_line_up_with_and_without_colours() {
        let mut table = Table::new(&["NAME", "PHASE"]);
        table.row(vec!["a".into(), Cell::toned("serving", Tone::Good)]);
        table.row(vec!["longer-name".into(), Cell::toned("x\x1b[31m\n", Tone::Bad)]);
        assert_eq!(table.render(false), "NAME         PHASE\na            serving\nlonger-name  x [31m\n");
        assert!(table.render(true).contains("a            \x1b[32mserving\x1b[0m\n"));
    }
}
