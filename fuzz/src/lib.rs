//! Fuzz targets: one function for each kind of bytes that comes from outside, or back from a disk.
//!
//! Enters: any bytes. Leaves: nothing; a broken promise is a panic. Beside "no panic" each target states what must hold of
//! what it accepts: it means the same after it was written and read again, nothing unsigned is believed, nothing is written
//! outside of its directory.
//!
//! The targets are plain functions on stable Rust. `cargo test -p pumasi-fuzz` replays the corpus and everything that was
//! ever found, and mutates both for a moment, always in the same way; `fuzz/libfuzzer` runs the same functions for long.

// A panic is what a target has to say.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod mutate;
mod targets;

pub use targets::update::bases;
use targets::{answer, documents, exec, http_head, messages, quorum, signin, socket, state, transfer, trust, update};

/// What is fuzzed, and how.
#[derive(Clone, Copy)]
pub struct Target {
    /// Also the name of its directories of inputs.
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Words that random changes would hardly find.
    pub words: &'static [&'static str],
    /// The largest input that mutation makes, bytes.
    pub input_bytes_max: usize,
    /// Mutations in one run of the tests.
    pub rounds: u32,
    /// The most memory that one input may take for a time, bytes.
    pub memory_bytes_max: usize,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

const fn target(name: &'static str, run: fn(&[u8]), words: &'static [&'static str], rounds: u32) -> Target {
    Target { name, run, words, input_bytes_max: 16 * KIB, rounds, memory_bytes_max: 16 * MIB }
}

const JSON: &[&str] = &[
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "-1",
    "0",
    "18446744073709551615",
    "18446744073709551616",
    "4294967295",
    "9223372036854775807",
    "-9223372036854775808",
    "1e308",
    "\\u0000",
    "\\ud800",
    "version",
    "../",
    "/",
];
const YAML: &[&str] =
    &["---\n", "&a ", "*a", "!!str ", "<<: ", "? ", "|\n", ">-\n", "~", "\t", "yes", "0x1", "1e3", "\u{feff}"];
const TOML: &[&str] =
    &["[", "]", "[[", "\"\"\"", "'''", " = ", "18446744073709551615", "9223372036854775807", "1979-05-27", "inf"];
const HTTP: &[&str] = &[
    "pumasi-hop: 1\r\n",
    "Connection: close, host\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: +5\r\n",
    "Host: shop.example\r\n",
    "Cookie: pumasi_pos=1.1.1\r\n",
    "Expect: 100-continue\r\n",
    "Upgrade: websocket\r\n",
    "HTTP/1.1\r\n",
    "\r\n\r\n",
    "pumasi_ticket=",
    "%2e",
    "%2F",
    "%61",
    "//",
    "/..",
    "/.",
    "\\",
    ";",
];

const CHUNKS: &[&str] =
    &["0\r\n", "\r\n", "\r\n\r\n", "5\r\n", "ffffffffffffffff\r\n", ";x=y", "a: b\r\n", "0x1", "+1", " "];

/// All of them. A name never changes: inputs that were found are kept under it.
pub const TARGETS: &[Target] = &[
    target("words", documents::words, &["blake3:", "spiffe://", "lease-", "hold-", "inst-", "."], 4_000),
    target("manifest", documents::manifest, YAML, 300),
    target("config", documents::config, TOML, 400),
    target("invitation", documents::invitation, &["pumasi-invite-v1.", "pumasi-invite-v2."], 2_000),
    target("message", messages::message, JSON, 4_000),
    target("document", trust::document, &["crit", "b64", "alg", "none", "typ", "serial"], 500),
    target("bundle", trust::bundle, JSON, 300),
    target("key", trust::key, JSON, 500),
    target("certificate", trust::certificate, &[], 500),
    target("identity", trust::identity, &["-----BEGIN CERTIFICATE-----", "-----END PRIVATE KEY-----"], 300),
    target("pact", trust::pact, JSON, 150),
    target("http_head", http_head::head, HTTP, 3_000),
    target("http_path", http_head::path, HTTP, 3_000),
    target("position_cookie", http_head::position_cookie, &["pumasi_pos=", ".", "1."], 2_000),
    target("ticket", http_head::ticket, HTTP, 500),
    target("gateway_config", http_head::gateway_config, JSON, 100),
    target("route_table", http_head::route_table, JSON, 300),
    Target { rounds: 60, memory_bytes_max: 64 * MIB, ..target("socket", socket::socket, HTTP, 0) },
    Target { rounds: 60, memory_bytes_max: 64 * MIB, ..target("instance", socket::instance, HTTP, 0) },
    target("tree", transfer::tree, JSON, 1_000),
    target("unpack", transfer::unpack, JSON, 60),
    target("chunk_delta", update::chunk_delta, &[], 2_000),
    target("tree_delta", update::tree_delta, JSON, 1_000),
    target("tree_update", update::tree_update, &["PMTU\x01", "PMCP\x02"], 500),
    Target { memory_bytes_max: 32 * MIB, ..target("pack", transfer::pack, &["PMCP\x01", "PMCP\x02"], 1_000) },
    Target { memory_bytes_max: 600 * MIB, ..target("page_batch", transfer::page_batch, &["PMPB\x01"], 1_000) },
    Target { input_bytes_max: 64 * KIB, ..target("copy", transfer::copy, &["SQLite format 3\0"], 40) },
    Target { input_bytes_max: 128 * KIB, ..target("store_file", state::store_file, &[], 15) },
    target("anchor", state::anchor, JSON, 15),
    target("answer_head", answer::head, HTTP, 3_000),
    target("answer_chunks", answer::chunks, CHUNKS, 3_000),
    target("voter_message", quorum::voter_message, &[], 1_000),
    target("vote_words", quorum::vote_words, &[], 2_000),
    target("sign_in_form", signin::form, &["%2F", "%", "+", "&", "=", "token=", "return="], 3_000),
    target(
        "sign_in_words",
        signin::words,
        &["//", "\\", "__Host-pumasi_session=", "; ", "https://", ":8443", "%2f"],
        3_000,
    ),
    target("passkey", signin::passkey, &["authData", "webauthn.get", "challenge", "\u{0}"], 3_000),
    target("exec_frames", exec::frames, &["\x00\x00\x00\x00", "\x06\x00\x00\x00\x02{}", "{\"code\":1}"], 4_000),
];

pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}
