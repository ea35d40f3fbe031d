//! What good manifests mean, and that hostile ones end quickly. What bad ones are told stands in `tests/manifests.rs`.

use super::*;
use proptest::prelude::*;

const GOOD: &str = "apiVersion: pumasi/v1\nkind: Service\nmetadata: { name: notes }\nspec:\n  hosts: [notes.example]\n  application: { bundle: ./app, command: [./notes] }\n";

fn fault(text: &str) -> String {
    services("s.yaml", text).unwrap_err().to_string()
}

#[test]
fn a_small_manifest_gets_the_defaults() {
    let read = services("s.yaml", GOOD).unwrap();
    assert_eq!(read[0].metadata.name.as_str(), "notes");
    assert_eq!(read[0].spec.objective.queue_delay_p95_ms, 50);
}

#[test]
fn faults_name_line_or_field() {
    assert!(
        fault(&GOOD.replace("hosts", "hostz")).starts_with("s.yaml:"),
        "{}",
        fault(&GOOD.replace("hosts", "hostz"))
    );
    assert!(fault(&GOOD.replace("notes.example", "Notes")).contains("spec.hosts[0]"));
    assert!(fault(&GOOD.replace("pumasi/v1", "pumasi/v9")).contains("newer"));
    assert!(fault(&GOOD.replace("pumasi/v1", "v1")).contains("must be pumasi/v1"));
    assert!(fault(&GOOD.replace("Service", "Pod")).contains("kind"));
    let second = format!("{GOOD}---\n{}", GOOD.replace("[./notes]", "7"));
    let told = fault(&second);
    assert!(told.starts_with("s.yaml:13:"), "{told}");
}

#[test]
fn hostile_texts_end_quickly() {
    let deep = format!("apiVersion: pumasi/v1\nkind: Service\nspec: {}", "[".repeat(100_000));
    assert!(services("deep.yaml", &deep).is_err());
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for i in 1..30 {
        bomb.push_str(&format!("a{i}: &a{i} [*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p}]\n", p = i - 1));
    }
    assert!(services("bomb.yaml", &bomb).is_err());
    assert!(services("big.yaml", &" ".repeat(MANIFEST_BYTES_MAX + 1)).is_err());
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,400}") {
        let _ = services("any.yaml", &text);
    }
}
