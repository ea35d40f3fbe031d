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
    /// Of what was promoted: nothing is left to be done.
    #[serde(default)]
    done: bool,
}

#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) at: Position,
    pub(super) tree: Arc<TreeManifest>,
    pub(super) as_home: bool,
    pub(super) done: bool,
}

impl State {
    /// None: it is not there, or not to be believed.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let bytes = fs::read(path).ok()?;
        let end = bytes.iter().position(|b| *b == b'\n')?;
        let head: Head = serde_json::from_slice(&bytes[..end]).ok()?;
        let known = (VERSION_OLDEST..=VERSION).contains(&head.version) && disk::still_counts(&head.boot_id);
        let tree = TreeManifest::parse(&bytes[end + 1..]).ok().filter(|_| known)?;
        Some(Self { at: head.as_of, tree: Arc::new(tree), as_home: head.as_home, done: head.done })
    }

    pub(super) fn write(&self, path: &Path, durable: bool) -> io::Result<()> {
        let boot_id = disk::written_in(durable);
        let head = Head { version: VERSION, as_of: self.at, boot_id, as_home: self.as_home, done: self.done };
        let mut bytes = serde_json::to_vec(&head)?;
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.tree.to_bytes());
        disk::write_state(path, &bytes, durable)
    }
}
