//! What people are told of bad manifests, against `golden/manifests.txt`; `PUMASI_GOLDEN=write` writes it anew.

#![allow(clippy::unwrap_used)] // a test fails loudly

use proptest::prelude::*;
use pumasi_terms::manifest::{self, MANIFEST_BYTES_MAX};
use std::path::PathBuf;

const GOOD: &str = "\
apiVersion: pumasi/v1
kind: Service
metadata: { name: notes }
spec:
  hosts: [notes.example]
  application:
    bundle: ./app
    command: [./notes]
";

/// `GOOD` with one text in the place of another.
fn with(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old:?}");
    GOOD.replacen(old, new, 1)
}

/// `GOOD` with more in its spec.
fn and(more: &str) -> String {
    format!("{GOOD}{more}\n")
}

/// `GOOD` with more in its application.
fn app(more: &str) -> String {
    format!("{GOOD}    {more}\n")
}

#[rustfmt::skip] // a table
fn table() -> Vec<(&'static str, String)> {
    vec![
        ("misspelt field that must be there", with("hosts", "hostz")),
        ("missing field", with("  hosts: [notes.example]\n", "")),
        ("two missing fields", with("    bundle: ./app\n    command: [./notes]\n", "    env: {}\n")),
        ("number for a mapping", and("  instances: 3")),
        ("word for a number", and("  priority: high")),
        ("number too large", and("  priority: 5000000000")),
        ("negative number", and("  priority: -1")),
        ("number with a fraction", and("  priority: 1.5")),
        ("word for a list", with("[./notes]", "./notes")),
        ("words for a list", with("[./notes]", "./notes --fast")),
        ("number for a list", with("[notes.example]", "7")),
        ("nothing for a list", with(" [notes.example]", "")),
        ("list for a mapping", with("{ name: notes }", "[notes]")),
        ("mapping for a text", with("./app", "{ path: app }")),
        ("list for a text", app("env: { A: [1, 2] }")),
        ("home that is no count", and("  instances: { home: three }")),
        ("home with half a range", and("  instances: { home: { min: 1 } }")),
        ("home upside down", and("  instances: { home: { min: 3, max: 1 } }")),
        ("home of none", and("  instances: { home: 0 }")),
        ("unknown choice", and("  recovery_class: erly")),
        ("unknown choice, far from all", and("  routing: { mode: tunnel }")),
        ("choice that is a list", and("  borrowing: { mode: [ask] }")),
        ("unknown field, far from all", and("  replicas: 3")),
        ("unknown field inside", app("resources: { cpu: 1000, memory: 512 }")),
        ("name that is none", with("{ name: notes }", "{ name: My Notes }")),
        ("host that is none", with("notes.example", "Notes.example")),
        ("word for truth", and("  routing: { underscored_fields: yes please }")),
        ("key twice", and("  priority: 1\n  priority: 2")),
        ("key twice in one line", with("{ name: notes }", "{ name: notes, name: other }")),
        ("version missing", with("apiVersion: pumasi/v1\n", "")),
        ("version wrong", with("pumasi/v1", "v1")),
        ("version newer: no word about fields", with("pumasi/v1", "pumasi/v9").replace("hosts", "hostz")),
        ("kind missing", with("kind: Service\n", "")),
        ("kind of another program", with("Service", "Deployment")),
        ("spec missing", "apiVersion: pumasi/v1\nkind: Service\nmetadata: { name: notes }\n".to_owned()),
        ("metadata missing", with("metadata: { name: notes }\n", "")),
        ("a list of documents", "- a\n- b\n".to_owned()),
        ("a word", "hello\n".to_owned()),
        ("variable that is set for every instance", app("env: { PORT: \"1\" }")),
        ("misspelt variable", with("./notes", "\"${BUNDEL}/notes\"")),
        ("variable without an end", with("./notes", "\"${BUNDLE/notes\"")),
        ("variable of a dataset that is not there", with("./notes", "\"${DATA_FILES}\"")),
        ("dataset that is wrong hides no variable", and("  datasets: [{ name: files, kind: fils }]").replace("./notes", "\"${DATA_FILES}\"")),
        ("sqlite without its file", and("  datasets: [{ name: db, kind: sqlite }]")),
        ("standby where nobody may lend", and("  continuity: { clouds: [b] }\n  borrowing: { clouds: [a] }")),
        ("wrong list element beside right ones", with("[notes.example]", "[a.example, [b], c.example, {}]")),
        ("probe that is too fast", app("readiness: { path: health, interval_ms: 1 }")),
        ("hidden value", app("env: { TOKEN: \"(not shown)\" }")),
        ("many at once", with("hosts: [notes.example]", "hosts: [Notes]\n  prioritty: 3\n  instances: 2\n  borrowing: { mode: aks, instances_max: many }")
            + "    env: { PORT: \"1\", A: [x] }\n    stop_grace_ms: soon\n"),
        ("two documents, both wrong", format!("{}---\n{}", with("hosts", "host"), with("command", "comand"))),
        ("a tab", with("  hosts", "\thosts")),
        ("no end of a list", with("[notes.example]", "[notes.example")),
        ("no such anchor", with("[notes.example]", "*hosts")),
        ("nested too deep", and(&format!("  x: {}{}", "[".repeat(100), "]".repeat(100)))),
        ("aliases without end", {
            let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
            for i in 1..30 {
                let p = i - 1;
                bomb.push_str(&format!("a{i}: &a{i} [*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p}]\n"));
            }
            bomb
        }),
        ("empty", String::new()),
        ("comments only", "# nothing\n---\n# more\n".to_owned()),
        ("shown, and wrong", format!("service:\n{}status: {{ phase: serving }}\n", indented("  ", &with("hosts", "hostz")))),
        ("shown list, and wrong", format!("revision: 7\nitems:\n- service:\n{}  status: {{}}\n", indented("    ", &with("[./notes]", "7")))),
        ("shown list, hidden value", format!("items:\n- service:\n{}  status: {{}}\n", indented("    ", &app("env: { TOKEN: (not shown) }")))),
    ]
}

fn indented(by: &str, text: &str) -> String {
    text.lines().map(|line| format!("{by}{line}\n")).collect()
}

fn told(text: &str) -> String {
    manifest::services("s.yaml", text).unwrap_err().to_string()
}

#[test]
fn people_are_told_all_faults_in_their_own_words() {
    let mut all = String::new();
    for (name, text) in table() {
        let shown = if text.len() > 700 { format!("{}...\n", &text[..60]) } else { text.clone() };
        all.push_str(&format!("===== {name}\n{shown}-----\n{}\n\n", told(&text)));
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/manifests.txt");
    #[allow(clippy::disallowed_methods)] // a tool
    if std::env::var("PUMASI_GOLDEN").is_ok_and(|v| v == "write") {
        std::fs::write(&path, &all).unwrap();
    }
    #[allow(clippy::disallowed_methods)]
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == all, "{} differs; if that is meant: PUMASI_GOLDEN=write\n{all}", path.display());
}

#[test]
fn nobody_is_told_internals_of_crates() {
    for (name, text) in table() {
        let told = told(&text);
        for word in
            ["expected ", "u32", "u64", "Options", "Policy", "budget", "Nodes", "struct", "variant", "serde", "at line"]
        {
            assert!(!told.contains(word), "{name}: {word:?} in {told}");
        }
        assert!(told.lines().all(|line| line.starts_with("s.yaml:")), "{name}: {told}");
    }
}

#[test]
fn what_get_prints_is_a_manifest() {
    let made = manifest::services("s.yaml", &and("  priority: 3")).unwrap().remove(0);
    let view = serde_json::json!({"service": made, "status": {"phase": "serving", "home_ready": 1}, "later": [1]});
    let list = serde_json::json!({"revision": 7, "items": [view, view]});
    for (text, times) in [
        (serde_json::to_string_pretty(&view).unwrap(), 1),
        (serde_saphyr::to_string(&view).unwrap(), 1),
        (serde_json::to_string(&list).unwrap(), 2),
        (serde_saphyr::to_string(&list).unwrap(), 2),
        (r#"{"revision": 1, "items": []}"#.to_owned(), 0),
    ] {
        assert_eq!(manifest::services("-", &text).unwrap(), vec![made.clone(); times], "{text}");
    }
}

#[test]
fn a_text_without_end_is_refused_at_once() {
    assert_eq!(told(&" ".repeat(MANIFEST_BYTES_MAX + 1)), "s.yaml: is larger than 1 MiB, the most that is read");
    let many = with("hosts: [notes.example]", &(0..500).map(|i| format!("x{i}: 1\n  ")).collect::<String>());
    let told = told(&many);
    assert_eq!(told.lines().count(), 33, "{told}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Wherever a manifest is cut or spoilt: it is read, or something is said with a place in it.
    #[test]
    fn a_spoilt_manifest_is_told_where(row in 0usize..40, from in 0usize..400, len in 0usize..20, new in "[ -~\n]{0,8}") {
        let table = table();
        let text = &table[row % table.len()].1;
        let from = from.min(text.len());
        let to = (from + len).min(text.len());
        let spoilt = format!("{}{new}{}", &text[..from], &text[to..]);
        if let Err(error) = manifest::services("s.yaml", &spoilt) {
            prop_assert!(!error.faults.is_empty());
            let lines = spoilt.lines().count() as u64 + 1;
            for fault in &error.faults {
                prop_assert!(fault.line <= lines && !fault.problem.is_empty(), "{error}\n{spoilt}");
            }
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,400}") {
        let _ = manifest::services("any.yaml", &text);
    }
}
