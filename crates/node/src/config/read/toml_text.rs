//! A TOML text as values, and as a tree with places for what is said of its faults.

use super::ConfigFault;
use pumasi_terms::faults::tree::{Entry, Node, Place};
use pumasi_terms::faults::words::short;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(super) struct Written {
    pub tree: Node,
    pub table: toml::Table,
    /// Of the text itself: no two of one line.
    pub faults: Vec<ConfigFault>,
}

/// Everything of it that can be read; a line that is none of TOML's does not hide the others.
pub(super) fn written(text: &str) -> Written {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut reading = Reading { lines: Lines::of(text), faults: Vec::new() };
    for error in errors {
        let at = error.span().map_or(Place::default(), |span| reading.lines.place(span.start));
        let problem = error.message().lines().collect::<Vec<_>>().join(" ");
        reading.fault(at, String::new(), problem);
    }
    let (tree, values) = reading.table(table.get_ref(), "");
    Written { tree, table: values, faults: reading.faults }
}

struct Reading {
    lines: Lines,
    faults: Vec<ConfigFault>,
}

impl Reading {
    fn fault(&mut self, at: Place, field: String, problem: String) {
        let (line, column) = (at.line as usize, at.column as usize);
        if !self.faults.iter().any(|f| f.line == line) {
            self.faults.push(ConfigFault { line, column, field, problem });
        }
    }

    fn table(&mut self, table: &DeTable<'_>, at: &str) -> (Node, toml::Table) {
        let (mut entries, mut values) = (Vec::new(), toml::Table::new());
        for (key, value) in table {
            let name = key.get_ref().to_string();
            let field = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            let (node, read) = self.value(value, &field);
            entries.push(Entry {
                key: name.clone(),
                key_at: self.lines.place(key.span().start),
                at: self.lines.place(value.span().start),
                node,
            });
            if let Some(read) = read {
                values.insert(name, read);
            }
        }
        (Node::Map(entries), values)
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>, field: &str) -> (Node, Option<toml::Value>) {
        let at = self.lines.place(value.span().start);
        match value.get_ref() {
            DeValue::String(text) => (Node::Quoted(short(text)), Some(toml::Value::String(text.to_string()))),
            DeValue::Integer(number) => {
                let read = i64::from_str_radix(number.as_str(), number.radix()).ok();
                if read.is_none() {
                    self.fault(at, field.to_owned(), format!("found {}; numbers end at 2^63 - 1", number.as_str()));
                }
                (Node::Plain(short(number.as_str())), read.map(toml::Value::Integer))
            }
            DeValue::Float(number) => {
                let read: Option<f64> = number.as_str().parse().ok();
                let read = read.filter(|n| n.is_finite() || number.as_str().contains(['i', 'n']));
                if read.is_none() {
                    self.fault(at, field.to_owned(), format!("found {}; such a number is too large", number.as_str()));
                }
                (Node::Plain(short(number.as_str())), read.map(toml::Value::Float))
            }
            DeValue::Boolean(truth) => (Node::Plain(truth.to_string()), Some(toml::Value::Boolean(*truth))),
            DeValue::Datetime(time) => (Node::Plain(time.to_string()), Some(toml::Value::Datetime(*time))),
            DeValue::Array(items) => {
                let read: Vec<_> = items.iter().map(|item| (item, self.value(item, field))).collect();
                let values = read.iter().filter_map(|(_, (_, value))| value.clone()).collect();
                let nodes = read.into_iter().map(|(item, (node, _))| (self.lines.place(item.span().start), node));
                (Node::List(nodes.collect()), Some(toml::Value::Array(values)))
            }
            DeValue::Table(table) => {
                let (node, values) = self.table(table, field);
                (node, Some(toml::Value::Table(values)))
            }
        }
    }
}

/// Where lines begin.
struct Lines {
    text: String,
    starts: Vec<usize>,
}

impl Lines {
    fn of(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1);
        Self { text: text.to_owned(), starts: std::iter::once(0).chain(ends).collect() }
    }
    fn place(&self, byte: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= byte).max(1);
        let start = self.starts[line - 1];
        let before = self.text.get(start..byte.min(self.text.len())).map_or(0, |t| t.chars().count());
        Place { line: line as u64, column: before as u64 + 1 }
    }
}
