//! `pumasi lab replay`, end to end: a file in, a table or JSON out, faults named.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn replay(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pumasi")).args(["lab", "replay"]).args(args).output().unwrap()
}

#[test]
fn a_small_file_is_raced() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("load.csv");
    let counts = [2_000, 2_000, 9_000, 18_000, 9_000, 2_000];
    let rows = counts.iter().enumerate().map(|(i, n)| format!("2026-11-05 18:{i:02}:00,{n}\n"));
    std::fs::write(&file, format!("time,requests\n{}", rows.collect::<String>())).unwrap();
    let path = file.to_str().unwrap();

    let table = replay(&["--load", path, "--start", "30"]);
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(table.status.success(), "{}", String::from_utf8_lossy(&table.stderr));
    for word in
        ["pumasi", "hpa", "keda", "hindsight", "clairvoyant", "instance-hours", "loss: one queue", "CPU target 50 %"]
    {
        assert!(text.contains(word), "{word}: {text}");
    }

    let json = replay(&["--load", path, "--start", "30", "-o", "json"]);
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let policies: Vec<_> = value["entries"].as_array().unwrap().iter().map(|e| e["policy"].as_str().unwrap()).collect();
    let all = ["pumasi", "hpa", "hpa-delayed", "keda", "kpa", "tuned", "hindsight", "clairvoyant"];
    assert_eq!(policies, all);
    assert_eq!(json.stdout, replay(&["--load", path, "--start", "30", "-o", "json"]).stdout, "the same race");

    std::fs::write(&file, "time,requests\n0,5\n60,many\n").unwrap();
    let wrong = replay(&["--load", path]);
    let told = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{told}");
    assert!(told.contains("load.csv:3: \"many\" is not a number of requests"), "{told}");

    let help = replay(&["--help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("--load <FILE>") && help.contains("Examples:"), "{help}");
}
