//! What stands where in a text: enough of it to name a place and to say what was found there.

use super::Step;

/// Of a text's first character: 1, 1. 0, 0: nowhere in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: u64,
    pub column: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A value as it is written.
    Plain(String),
    /// A text in quotes, or in a block of its own.
    Quoted(String),
    List(Vec<(Place, Node)>),
    Map(Vec<Entry>),
    /// What stands elsewhere, or deeper than anybody looks.
    Elsewhere,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub key_at: Place,
    pub at: Place,
    pub node: Node,
}

/// A key that a mapping has more than once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twice {
    pub path: Vec<Step>,
    pub first: Place,
    pub second: Place,
}

impl Node {
    fn child(&self, step: &Step) -> Option<(Place, Place, &Node)> {
        match (self, step) {
            (Self::List(items), Step::Index(i)) => items.get(*i).map(|(at, node)| (*at, *at, node)),
            (Self::Map(entries), Step::Key(key)) => {
                entries.iter().find(|e| e.key == *key).map(|e| (e.key_at, e.at, &e.node))
            }
            _ => None,
        }
    }

    pub fn at(&self, path: &[Step]) -> Option<&Node> {
        path.iter().try_fold(self, |node, step| node.child(step).map(|(_, _, node)| node))
    }

    /// Where a field is named, or, where it is not there, what it would belong to.
    pub fn place_of_key(&self, path: &[Step]) -> Place {
        self.places(path).0
    }

    /// Where the value of a field begins.
    pub fn place_of_value(&self, path: &[Step]) -> Place {
        self.places(path).1
    }

    fn places(&self, path: &[Step]) -> (Place, Place) {
        let (mut node, mut places) = (self, (Place { line: 1, column: 1 }, Place { line: 1, column: 1 }));
        for (i, step) in path.iter().enumerate() {
            let Some((key_at, at, next)) = node.child(step) else {
                return (places.0, places.0);
            };
            let last = i + 1 == path.len();
            places = (key_at, if last { at } else { key_at });
            node = next;
        }
        places
    }

    /// The path of a field's name, as [`super::field`] writes it; as much of it as there is.
    pub fn path_of(&self, field: &str) -> Vec<Step> {
        let (mut node, mut rest, mut path) = (self, field, Vec::new());
        while !rest.is_empty() {
            let step = match node {
                Self::Map(entries) => {
                    let named = |e: &&Entry| {
                        rest.strip_prefix(&e.key).is_some_and(|r| r.is_empty() || r.starts_with(['.', '[']))
                    };
                    let Some(entry) = entries.iter().filter(named).max_by_key(|e| e.key.len()) else { break };
                    rest = rest[entry.key.len()..].trim_start_matches('.');
                    Step::Key(entry.key.clone())
                }
                Self::List(_) => {
                    let Some((index, after)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) else { break };
                    let Ok(index) = index.parse() else { break };
                    rest = after.trim_start_matches('.');
                    Step::Index(index)
                }
                _ => break,
            };
            let Some((_, _, next)) = node.child(&step) else { break };
            node = next;
            path.push(step);
        }
        path
    }

    /// Keys that stand more than once in one mapping.
    pub fn twice(&self) -> Vec<Twice> {
        let mut found = Vec::new();
        self.look_for_twice(&mut Vec::new(), &mut found);
        found
    }

    fn look_for_twice(&self, path: &mut Vec<Step>, found: &mut Vec<Twice>) {
        if found.len() > super::FAULTS_MAX {
            return;
        }
        match self {
            Self::List(items) => {
                for (i, (_, node)) in items.iter().enumerate() {
                    path.push(Step::Index(i));
                    node.look_for_twice(path, found);
                    path.pop();
                }
            }
            Self::Map(entries) => {
                let mut first = std::collections::BTreeMap::new();
                for entry in entries {
                    path.push(Step::Key(entry.key.clone()));
                    match first.get(entry.key.as_str()) {
                        Some(place) => {
                            found.push(Twice { path: path.clone(), first: *place, second: entry.key_at });
                        }
                        None => drop(first.insert(entry.key.as_str(), entry.key_at)),
                    }
                    entry.node.look_for_twice(path, found);
                    path.pop();
                }
            }
            _ => {}
        }
    }
}
