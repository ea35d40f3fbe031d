//! What is written down of a copy, beside it: where it is, and the manifest of what it holds.
//!
//! One line of JSON, then the manifest. Version 3; of version 2 was one that said nothing of boots and modes. Version 1 had the manifest
//! inside of the JSON and counts as none.

use crate::disk;
use crate::tree::TreeManifest;
use pumasi_terms::Position;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

const VERSION: u32 = 3;
const VERSION_OLDEST: u32 = 2;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    version: u32,
    as_of: Position,
    /// Of a copy that is not flushed: what was not, is lost with the boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot_id: Option<String>,
    /// Everything in it was written with the modes that it has at home.
    #[serde(default)]
    as_home: bool,
}

#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) at: Position,
    pub(super) tree: Arc<TreeManifest>,
    pub(super) as_home: bool,
}

impl State {
    /// None: it is not there, or not to be believed.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let bytes = fs::read(path).ok()?;
        let end = bytes.iter().position(|b| *b == b'\n')?;
        let head: Head = serde_json::from_slice(&bytes[..end]).ok()?;
        let known = (VERSION_OLDEST..=VERSION).contains(&head.version) && disk::still_counts(&head.boot_id);
        let tree = TreeManifest::parse(&bytes[end + 1..]).ok().filter(|_| known)?;
        Some(Self { at: head.as_of, tree: Arc::new(tree), as_home: head.as_home })
    }

    pub(super) fn write(&self, path: &Path, durable: bool) -> io::Result<()> {
        let boot_id = disk::written_in(durable);
        let head = Head { version: VERSION, as_of: self.at, boot_id, as_home: self.as_home };
        let mut bytes = serde_json::to_vec(&head)?;
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.tree.to_bytes());
        disk::write_state(path, &bytes, durable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Entry;
    use pumasi_terms::Generation;

    #[test]
    fn older_states_are_read_and_newer_ones_and_those_of_another_boot_count_as_none() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("set.state");
        let tree = TreeManifest::new(vec![Entry::dir("d")]).unwrap();
        let read = |head: &str| {
            fs::write(&path, [head.as_bytes(), b"\n", &tree.to_bytes()].concat()).unwrap();
            State::read(&path).map(|s| (s.at, s.as_home))
        };
        let at = Position::new(Generation(1), 7);
        let v2 = r#"{"version":2,"as_of":{"generation":1,"as_of_ms":7}}"#;
        assert_eq!(read(v2), Some((at, false)));
        let v3 = r#"{"version":3,"as_of":{"generation":1,"as_of_ms":7},"as_home":true}"#;
        assert_eq!(read(v3), Some((at, true)));
        assert_eq!(read(&v3.replace("3,", "4,")), None);
        assert_eq!(read(&v3.replace("\"as_home\"", "\"boot_id\":\"another\",\"as_home\"")), None);
        for durable in [false, true] {
            let state = State { at, tree: Arc::new(tree.clone()), as_home: true };
            state.write(&path, durable).unwrap();
            let bytes = fs::read(&path).unwrap();
            assert_eq!(bytes.starts_with(v3.as_bytes()), durable, "{}", String::from_utf8_lossy(&bytes));
            assert!(State::read(&path).is_some());
        }
    }
}
