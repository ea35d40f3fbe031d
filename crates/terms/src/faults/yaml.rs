//! The tree of a YAML text, by the parser that reads it; and what that parser says of a text that is none, in a person's words.

use super::tree::{Entry, Node, Place};
use super::words::short;
use super::{Fault, Walk};
use serde::Deserialize;
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span};
use serde_saphyr::{DuplicateKeyPolicy, Options};

/// As deep and as much as is read into a type.
const DEPTH_MAX: usize = 64;
const NODES_MAX: usize = 250_000;

/// One mapping or list that is not complete yet.
struct Open {
    node: Node,
    at: Place,
    /// Of a mapping: its key that waits for its value.
    key: Option<(String, Place)>,
}

/// The first document's tree; none where there is none. `lines_before` stand before the text.
pub fn tree(text: &str, lines_before: u64) -> Option<Node> {
    let place =
        |span: &Span| Place { line: span.start.line() as u64 + lines_before, column: span.start.col() as u64 + 1 };
    let (mut parser, mut open, mut nodes) = (Parser::new_from_str(text), Vec::<Open>::new(), 0);
    while let Some(Ok((event, span))) = parser.next_event() {
        let at = place(&span);
        let (at, node) = match event {
            Event::Scalar(value, ScalarStyle::Plain, _, _) => (at, Node::Plain(short(&value))),
            Event::Scalar(value, ..) => (at, Node::Quoted(short(&value))),
            Event::Alias(_) => (at, Node::Elsewhere),
            Event::SequenceStart(..) => {
                open.push(Open { node: Node::List(Vec::new()), at, key: None });
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open { node: Node::Map(Vec::new()), at, key: None });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(whole) => (whole.at, whole.node),
                None => return None,
            },
            Event::DocumentEnd | Event::StreamEnd => return None,
            _ => continue,
        };
        nodes += 1;
        if nodes > NODES_MAX || open.len() > DEPTH_MAX {
            return None;
        }
        let Some(within) = open.last_mut() else { return Some(node) };
        put(within, at, node);
    }
    None
}

fn put(within: &mut Open, at: Place, node: Node) {
    match (&mut within.node, within.key.take()) {
        (Node::List(items), _) => items.push((at, node)),
        (Node::Map(entries), Some((key, key_at))) => entries.push(Entry { key, key_at, at, node }),
        (Node::Map(_), None) => {
            let key = match node {
                Node::Plain(text) | Node::Quoted(text) => text,
                _ => String::new(),
            };
            within.key = Some((key, at));
        }
        _ => {}
    }
}

/// Duplicates are told from the tree: here the first of them counts, so that the rest is read, too.
fn lenient() -> Options {
    let mut options = Options::default();
    options.duplicate_keys = DuplicateKeyPolicy::FirstWins;
    options
}

/// Reads `text` as `walk` says.
pub fn read<'de, T: Deserialize<'de>>(text: &'de str, walk: &Walk) -> Option<T> {
    serde_saphyr::with_deserializer_from_str_with_options(text, lenient(), |from| walk.read(from)).ok()
}

/// Why it is no YAML, or none that is read; none if it is.
pub fn syntax(text: &str, lines_before: u64) -> Option<Fault> {
    let error = serde_saphyr::from_str_with_options::<serde::de::IgnoredAny>(text, lenient()).err()?;
    Some(told(&error, lines_before))
}

/// What happened where an alias led.
fn cause(error: &serde_saphyr::Error) -> &serde_saphyr::Error {
    match error {
        serde_saphyr::Error::AliasError { error, .. } => cause(error),
        other => other.without_snippet(),
    }
}

/// The parser's own word for what is wrong, where nothing better is known.
pub fn told(error: &serde_saphyr::Error, lines_before: u64) -> Fault {
    let error = error.without_snippet();
    let (line, column) = error.location().map_or((0, 0), |at| (at.line() + lines_before, at.column()));
    let problem = match cause(error) {
        serde_saphyr::Error::Budget { breach, .. } => budget(breach),
        serde_saphyr::Error::AliasReplayLimitExceeded { .. }
        | serde_saphyr::Error::AliasExpansionLimitExceeded { .. }
        | serde_saphyr::Error::AliasReplayStackDepthExceeded { .. } => TOO_MANY.to_owned(),
        serde_saphyr::Error::UnknownAnchor { .. } => {
            "names an anchor (`*name`) that stands nowhere before it".to_owned()
        }
        serde_saphyr::Error::Eof { .. } => "ends before it says anything".to_owned(),
        other => sentence(&other.to_string()),
    };
    Fault { line, column, field: String::new(), problem }
}

const TOO_MANY: &str = "would become more than 250,000 values, each alias counted as often as it is used";

fn budget(breach: &BudgetBreach) -> String {
    match breach {
        BudgetBreach::Depth { .. } => format!("is nested more than {DEPTH_MAX} deep"),
        BudgetBreach::Documents { .. } => "has too many documents".to_owned(),
        BudgetBreach::ScalarBytes { .. } => "holds too much text".to_owned(),
        _ => TOO_MANY.to_owned(),
    }
}

/// Without the place, which is told already, and without the parser's advice to programmers.
fn sentence(text: &str) -> String {
    let line = text.lines().next().unwrap_or("unreadable");
    let end = [" at line ", ", set ", " at byte "].iter().filter_map(|cut| line.find(cut)).min().unwrap_or(line.len());
    let line: String = line[..end].chars().take(200).collect();
    if line.contains("tab") {
        return format!("is not YAML: a tab where blanks are wanted ({line})");
    }
    format!("is not YAML: {line}")
}
