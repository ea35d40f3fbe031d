//! What is said of a fault: what was found, what is wanted, and the nearest right name.

use super::tree::{Node, Place};
use super::walk::{Problem, Trouble, Wanted};
use super::{FAULTS_MAX, Fault, Found, Step, field};
use crate::document::FieldError;
use std::collections::BTreeSet;

/// In which a text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Yaml,
    Toml,
}

/// How a field or a mapping of one of our documents is written, for those that people get wrong.
pub type Example = fn(&str) -> Option<&'static str>;

/// What is shown of a value or a key.
const SHOWN: usize = 60;

pub fn short(text: &str) -> String {
    match text.chars().count() > SHOWN {
        true => text.chars().take(SHOWN - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

/// The name among `known` that was probably meant.
pub fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let plain = |s: &str| s.to_lowercase().replace(['-', ' '], "_");
    let name = plain(name);
    let far = |k: &&str| strsim::damerau_levenshtein(&name, &plain(k));
    let best = known.iter().copied().min_by_key(far)?;
    let most = (best.len().min(name.len()) / 3).max(1);
    // The beginning of a long name, or a short one with more behind it, is meant as well.
    let part = |a: &str, b: &str| a.len() >= 3 && b.starts_with(a);
    let starts = known.iter().copied().find(|k| part(&name, &plain(k)) || part(&plain(k), &name));
    if name.len() <= 256 && far(&best) <= most { Some(best) } else { starts }
}

/// `a, b or c`.
fn either(words: &[&str]) -> String {
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.join(""),
    }
}

fn found(node: Option<&Node>, language: Language) -> String {
    match node {
        Some(Node::Plain(text)) if text.is_empty() || text == "~" || text == "null" => "nothing".to_owned(),
        Some(Node::Plain(text)) if text.parse::<f64>().is_ok() || text == "true" || text == "false" => text.clone(),
        Some(Node::Plain(text) | Node::Quoted(text)) => format!("{text:?}"),
        Some(Node::List(_)) => "a list".to_owned(),
        Some(Node::Map(_)) if language == Language::Yaml => "a mapping".to_owned(),
        Some(Node::Map(_)) => "a section".to_owned(),
        Some(Node::Elsewhere) | None => String::new(),
    }
}

/// The list that somebody meant who wrote a text, else one as its field has.
fn list(path: &[Step], at: Option<&Node>, words: &Words<'_>) -> String {
    let plain = |text: &str| {
        let fine = |c: char| c.is_alphanumeric() || " ./_-=".contains(c);
        text.starts_with(['.', '/', '-']) || text.starts_with(char::is_alphabetic) && text.chars().all(fine)
    };
    match (at, path.last()) {
        (Some(Node::Quoted(text)), _) if !text.is_empty() && !text.contains(char::is_whitespace) => {
            format!("[{}]", words.text(text))
        }
        (Some(Node::Plain(text) | Node::Quoted(text)), _) if plain(text) && text != "null" => {
            let parts: Vec<String> = text.split_whitespace().map(|w| words.text(w)).collect();
            format!("[{}]", parts.join(", "))
        }
        (_, Some(Step::Key(key))) => (words.example)(key).filter(|e| e.starts_with('[')).unwrap_or("[a, b]").to_owned(),
        _ => "[a, b]".to_owned(),
    }
}

fn wanted(trouble: &Trouble, at: Option<&Node>, words: &Words<'_>) -> String {
    let Trouble { path, wanted, .. } = trouble;
    match wanted {
        Wanted::Anything => "another value".to_owned(),
        Wanted::Text(called) => text(called),
        Wanted::Whole { least: 0, most } if *most > i128::from(u32::MAX) => "a whole number, 0 or more".to_owned(),
        Wanted::Whole { least, most } => format!("a whole number, {least} to {most}"),
        Wanted::Number => "a number".to_owned(),
        Wanted::Truth => "true or false".to_owned(),
        Wanted::List => format!("a list like {}", list(path, at, words)),
        Wanted::Map if words.language == Language::Yaml => "a mapping like {name: value}".to_owned(),
        Wanted::Map => "a section of name = value".to_owned(),
        Wanted::Mapping { name, fields } => match ((words.example)(name), words.language) {
            (Some(example), Language::Yaml) => format!("a mapping like {example}"),
            (_, Language::Yaml) => format!("a mapping of {}", either(fields)),
            (_, Language::Toml) => format!("a section of {}", either(fields)),
        },
        Wanted::Choice(known) => either(known),
    }
}

/// What types call themselves says little to people.
fn text(called: &str) -> String {
    let known = [
        ("socket address", "an IP address and a port, as 127.0.0.1:7400"),
        ("network", "an IP network, as 192.0.2.0/24"),
        ("IP", "an IP address, as 192.0.2.7"),
        ("path string", "a path"),
    ];
    known.iter().find(|(part, _)| called.contains(part)).map_or("a text", |(_, ours)| ours).to_owned()
}

/// Everything that telling a text's faults needs.
#[derive(Debug, Clone, Copy)]
pub struct Words<'a> {
    pub tree: &'a Node,
    pub language: Language,
    pub example: Example,
}

impl Words<'_> {
    /// The faults of one text, each once, by their places.
    pub fn faults<T>(&self, found: &Found<T>, checked: Vec<FieldError>) -> Vec<Fault> {
        let mut faults: Vec<Fault> = self.tree.twice().iter().map(|t| self.twice(t)).collect();
        faults.extend(
            found.troubles.iter().filter(|t| !self.is_meant_by_another(t, &found.troubles)).map(|t| self.told(t)),
        );
        faults.extend(checked.into_iter().filter(|e| !self.rests_on(e, &found.touched)).map(|e| {
            // What a default says, or somebody else, has no place.
            let path = self.tree.path_of(&e.field);
            let at = if path.is_empty() { Place::default() } else { self.tree.place_of_value(&path) };
            fault(at, e.field, e.problem)
        }));
        faults.sort();
        faults.dedup();
        // One more than is told shows that there are more.
        faults.truncate(FAULTS_MAX + 1);
        faults
    }

    fn twice(&self, twice: &super::tree::Twice) -> Fault {
        let problem = match twice.first.line == twice.second.line {
            true => format!("stands twice in line {}; keep one", twice.first.line),
            false => format!("stands twice (lines {} and {}); keep one", twice.first.line, twice.second.line),
        };
        fault(twice.second, field(&twice.path), problem)
    }

    /// A missing field that stands there, misspelt.
    fn is_meant_by_another(&self, trouble: &Trouble, all: &[Trouble]) -> bool {
        let Problem::Missing(missing) = trouble.problem else { return false };
        all.iter().any(|other| match (&other.problem, other.path.split_last()) {
            (Problem::Unknown(known), Some((Step::Key(key), parent))) => {
                parent == trouble.path && nearest(key, known) == Some(missing)
            }
            _ => false,
        })
    }

    /// Whether a check looked at something that was left out or made up: then it may be wrong itself.
    fn rests_on(&self, error: &FieldError, touched: &BTreeSet<Vec<Step>>) -> bool {
        touched.iter().map(|path| field(path)).any(|path| {
            let under = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|r| r.is_empty() || r.starts_with(['.', '[']));
            under(&error.field, &path) || under(&path, &error.field)
        })
    }

    fn told(&self, trouble: &Trouble) -> Fault {
        let node = self.tree.at(&trouble.path);
        let was = found(node, self.language);
        let lead = if was.is_empty() { String::new() } else { format!("found {was}; ") };
        let by_value = self.tree.place_of_value(&trouble.path);
        match &trouble.problem {
            Problem::Missing(name) => {
                let at = self.tree.place_of_key(&trouble.path);
                let how = (self.example)(name).map_or(String::new(), |e| self.write(name, e));
                fault(at, field(&trouble.at()), format!("is missing{how}"))
            }
            Problem::Unknown(known) => self.unknown(trouble, known),
            Problem::Variant(known) => {
                let meant = match node {
                    Some(Node::Plain(text) | Node::Quoted(text)) => nearest(text, known),
                    _ => None,
                };
                let meant = meant.map_or(String::new(), |m| format!("; did you mean {m}?"));
                fault(by_value, field(&trouble.path), format!("{lead}must be {}{meant}", either(known)))
            }
            // Types that read a text say what is wrong with it; those of the language's own libraries do not.
            Problem::Said(_) if matches!(&trouble.wanted, Wanted::Text(called) if text(called) != "a text") => {
                let want = wanted(trouble, node, self);
                fault(by_value, field(&trouble.path), format!("{lead}must be {want}"))
            }
            Problem::Said(problem) if problem.starts_with("must ") => {
                fault(by_value, field(&trouble.path), format!("{lead}{problem}"))
            }
            Problem::Said(problem) => fault(by_value, field(&trouble.path), problem.clone()),
            Problem::Kind | Problem::NotMadeUp => {
                let want = wanted(trouble, node, self);
                fault(by_value, field(&trouble.path), format!("{lead}must be {want}"))
            }
        }
    }

    fn text(&self, text: &str) -> String {
        match self.language {
            Language::Yaml => text.to_owned(),
            Language::Toml => format!("{text:?}"),
        }
    }

    fn write(&self, name: &str, example: &str) -> String {
        match self.language {
            Language::Yaml => format!("; write {name}: {example}"),
            Language::Toml => format!("; write {name} = {example}"),
        }
    }

    fn unknown(&self, trouble: &Trouble, known: &[&'static str]) -> Fault {
        let key = match trouble.path.last() {
            Some(Step::Key(key)) => key.as_str(),
            _ => "",
        };
        let at = self.tree.place_of_key(&trouble.path);
        let problem = match nearest(key, known) {
            Some(meant) => format!("is not known here; did you mean {meant}?"),
            None if known.is_empty() => "is not known here".to_owned(),
            None => format!("is not known here; there are {}", known.join(", ")),
        };
        fault(at, field(&trouble.path), problem)
    }
}

fn fault(at: Place, field: String, problem: String) -> Fault {
    Fault { line: at.line, column: at.column, field, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_meant_and_a_distant_one_is_not() {
        let known = ["hosts", "application", "instances", "datasets", "priority"];
        assert_eq!(nearest("hostz", &known), Some("hosts"));
        assert_eq!(nearest("Hosts", &known), Some("hosts"));
        assert_eq!(nearest("host", &known), Some("hosts"));
        assert_eq!(nearest("app", &known), Some("application"));
        assert_eq!(nearest("ho", &["application", "datasets"]), None);
        assert_eq!(nearest("prioritty", &known), Some("priority"));
        assert_eq!(nearest("replicas", &known), None);
        assert_eq!(nearest("cpu", &["cpu_millis", "memory_mib"]), Some("cpu_millis"));
        assert_eq!(nearest("memory", &["cpu_millis", "memory_mib"]), Some("memory_mib"));
        assert_eq!(nearest("anything", &[]), None);
    }
}
