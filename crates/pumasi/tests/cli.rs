//! The real binary against a small fake daemon over real sockets: exit codes, what is sent, what is printed.

#![allow(clippy::unwrap_used)]

mod fake;

use fake::{Fake, run, run_with};
use serde_json::json;

#[test]
fn exit_codes_say_what_kind_of_failure_it_was() {
    let fake = Fake::start();
    for (args, code, told) in [
        (&["get", "services"][..], 0, ""),
        (&["get", "nonsense"], 2, "invalid value"),
        (&["get", "service", "Bad_Name"], 2, "service name"),
        (&["describe", "service", "absent"], 3, "there is no service absent"),
        (&["describe", "lease", "lease-none"], 3, "there is no lease lease-none"),
        (&["stop-automation"], 4, "only operators"),
        (&["backup"], 1, "Try again"),
        (&["--server", "unix:/nonexistent/api.sock", "get", "services"], 5, "does the daemon run"),
        (&["--server", "nonsense", "get", "services"], 2, "--server"),
        (&["lab", "play", "nonsense"], 2, "there are overload"),
        (&["lab", "play", "faults", "--only", "nonsense"], 2, "borrower-hold"),
        (&["lab", "play", "foreign", "--app", "nonsense"], 2, "sqlite"),
        (&["lab", "soak", "--minutes", "x"], 2, "--minutes: not a number"),
        (&["lab", "sing"], 2, "Usage: pumasi lab"),
        (&["pact", "init", "--lends-cpu", "1.5"], 2, "1.5 is not whole thousandths of a CPU; one CPU is 1000"),
        (&["logs", "notes", "--lines", "many"], 2, "not a whole number"),
    ] {
        let done = run(&fake, args);
        assert_eq!(done.code, code, "{args:?}: {done:?}");
        assert!(done.err.contains(told), "{args:?}: {done:?}");
        assert!(code == 0 || done.out.is_empty(), "data although it failed: {done:?}");
    }
    let strangers = run_with(&fake, &["get", "services"], |c| c.env("PUMASI_TOKEN", "wrong"));
    assert_eq!(strangers.code, 4, "{strangers:?}");
    let nobody = run_with(&fake, &["get", "services"], |c| c.env_remove("PUMASI_TOKEN"));
    assert_eq!(nobody.code, 4, "{nobody:?}");
    assert!(nobody.err.contains("--token-file"), "{nobody:?}");
}

#[test]
fn data_and_remarks_go_different_ways() {
    let fake = Fake::start();
    let done = run(&fake, &["get", "leases"]);
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, "", "no leases\n"));
    let done = run(&fake, &["get", "leases", "-o", "json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&done.out).unwrap(), json!({"revision": 1, "items": []}));
    let token = run(&fake, &["token", "create", "ci", "--role", "customer", "--ttl", "30d"]);
    assert_eq!((token.code, token.out.as_str()), (0, "sesame\n"), "{token:?}");
    assert!(
        fake.bodies("POST /v1/tokens")
            .contains(&json!({"name": "ci", "role": "customer", "ttl_ms": 2_592_000_000_u64}))
    );
}

#[test]
fn apply_sends_only_what_is_missing_and_changes_only_what_differs() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("app")).unwrap();
    std::fs::write(dir.path().join("app/notes"), "#!/bin/sh\n".repeat(20_000)).unwrap();
    let executable = |yes: bool| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(if yes { 0o755 } else { 0o644 });
        std::fs::set_permissions(dir.path().join("app/notes"), mode).unwrap();
    };
    executable(false);
    let manifest = dir.path().join("service.yaml");
    let text = "apiVersion: pumasi/v1\nkind: Service\nmetadata: { name: notes }\nspec:\n  hosts: [notes.example]\n  application: { bundle: ./app, command: [./notes] }\n";
    std::fs::write(&manifest, text).unwrap();
    let file = manifest.to_str().unwrap();

    let dry = run(&fake, &["apply", "-f", file, "--dry-run"]);
    assert!(
        dry.code == 2 && dry.err.contains("spec.application.command[0]") && dry.err.contains("chmod +x"),
        "{dry:?}"
    );
    executable(true);
    let dry = run(&fake, &["apply", "-f", file, "--dry-run"]);
    let remark = "service notes cannot be lent: dataset files: inbox/x is a socket\n";
    assert_eq!(dry.err, remark, "{dry:?}");
    assert_eq!((dry.code, dry.out.as_str()), (0, "service/notes created (dry run)\n"), "{dry:?}");
    assert_eq!(fake.count("POST /v1/bundles/missing") + fake.count("PUT /v1/services/notes"), 0);

    let done = run(&fake, &["apply", "-f", file]);
    assert_eq!((done.code, done.out.as_str()), (0, "service/notes created\n"), "{done:?}");
    assert_eq!(fake.count("POST /v1/bundles/chunks"), 1);
    assert_eq!(fake.chunks(), fake.named_chunks(), "the daemon has every chunk of the bundle");

    let again = run(&fake, &["apply", "-f", file]);
    assert_eq!(again.out, "service/notes unchanged\n", "{again:?}");
    assert_eq!(fake.count("PUT /v1/services/notes"), 1);

    std::fs::write(dir.path().join("app/more"), "new").unwrap();
    let more = run(&fake, &["apply", "-f", file]);
    assert_eq!(more.out, "service/notes configured\n", "{more:?}");
    assert_eq!(fake.chunks(), fake.named_chunks());

    let piped = run_with(&fake, &["apply", "-f", "-"], |c| {
        c.current_dir(dir.path()).stdin(std::fs::File::open(&manifest).unwrap())
    });
    assert_eq!(piped.out, "service/notes unchanged\n", "{piped:?}");

    // What is printed is a manifest again.
    for (name, ask) in
        [("one", &["get", "service", "notes", "-o", "yaml"][..]), ("all", &["get", "services", "-o", "json"])]
    {
        let shown = run(&fake, ask);
        let file = dir.path().join(name);
        std::fs::write(&file, &shown.out).unwrap();
        let again = run(&fake, &["apply", "-f", file.to_str().unwrap()]);
        assert_eq!((again.code, again.out.as_str()), (0, "service/notes unchanged\n"), "{again:?}\n{}", shown.out);
    }
}

#[test]
fn wrong_manifests_name_file_and_line_and_nothing_is_sent() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().unwrap();
    let good = "apiVersion: pumasi/v1\nkind: Service\nmetadata: { name: notes }\nspec:\n  hosts: [notes.example]\n  application: { bundle: ./absent, command: [./notes] }\n";
    for (text, told) in [
        (good.replace("command", "comand"), "s.yaml:6:"),
        (good.replace("notes.example", "Notes"), "spec.hosts[0]"),
        (good.to_owned(), "is not a directory"),
        (good.replace("pumasi/v1", "pumasi/v2"), "update this program"),
        (good.replace("[./notes]", "[./notes, \"${TEMPDIR}\"]"), "spec.application.command[1]"),
        (format!("{}\n---\n{}", good, good), "is not a directory"),
        (good.replace("hosts", "hostz").replace("[./notes]", "7"), "2 faults, and nothing was sent:"),
        (
            good.replace("hosts", "hostz").replace("[./notes]", "7"),
            "s.yaml:5:3: spec.hostz: is not known here; did you mean hosts?",
        ),
    ] {
        let file = dir.path().join("s.yaml");
        std::fs::write(&file, text).unwrap();
        let done = run(&fake, &["apply", "-f", file.to_str().unwrap()]);
        assert_eq!(done.code, 2, "{done:?}");
        assert!(done.err.contains(told), "{told}: {done:?}");
    }
    assert_eq!(run(&fake, &["apply", "-f", "/does/not/exist.yaml"]).code, 2);
    assert!(fake.seen().is_empty(), "{:?}", fake.seen());
}

#[test]
fn a_watch_goes_on_from_the_last_revision_after_the_connection_was_lost() {
    let fake = Fake::start();
    let done = run(&fake, &["watch", "services", "--count", "3", "-o", "name"]);
    assert_eq!((done.code, done.out.as_str()), (0, "service/s5\nservice/s6\nservice/s7\n"), "{done:?}");
    assert!(done.err.contains("trying again"), "{done:?}");
    let asked: Vec<String> = fake.seen().into_iter().filter(|r| r.contains("/v1/watch")).collect();
    assert_eq!(asked, ["GET /v1/watch?kind=service", "GET /v1/watch?kind=service&after=6"]);
}

#[test]
fn plans_are_decided_by_the_beginning_of_their_id() {
    let fake = Fake::start();
    let done = run(&fake, &["plan", "refuse", "plan-aa", "--why", "too dear"]);
    let id = format!("plan-{}", "a".repeat(32));
    assert_eq!((done.code, done.out), (0, format!("plan/{id} refused\n")));
    assert_eq!(fake.bodies(&format!("POST /v1/plans/{id}/refuse")), [json!({"why": "too dear"})]);
    let diff = run(&fake, &["plan", "diff", "plan-aa"]);
    assert!(diff.out.contains("\n+ number: 1\n"), "{diff:?}");
    let shown = run(&fake, &["plan", "show", "aaaa"]);
    assert!(shown.out.contains("p95 queue delay"), "{shown:?}");
}

#[test]
fn a_service_is_described_with_traffic_and_events() {
    let fake = Fake::start();
    fake.put_sample();
    let done = run(&fake, &["describe", "service", "sample"]);
    assert_eq!(done.code, 0, "{done:?}");
    for told in [
        "Service sample",
        "95 % of requests wait at most 50ms",
        "queue delay p95    180ms (objective 50.0ms)",
        "journey.opened",
    ] {
        assert!(done.out.contains(told), "{told}: {}", done.out);
    }
    let whole: serde_json::Value =
        serde_json::from_str(&run(&fake, &["describe", "service", "sample", "-o", "json"]).out).unwrap();
    assert_eq!(whole["events"][0]["action"], "journey.opened");
    let gone = run(&fake, &["delete", "service", "sample", "--wait", "--timeout", "10s"]);
    assert_eq!((gone.code, gone.out.as_str()), (0, "service/sample deleted\n"), "{gone:?}");
}

#[test]
fn a_restore_refuses_what_is_there_and_what_is_no_store() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("copy"), dir.path().join("data"));
    std::fs::create_dir(&to).unwrap();
    std::fs::write(&from, "not a database").unwrap();
    let args = ["restore", "--from", from.to_str().unwrap(), "--to", to.to_str().unwrap()];
    let done = run(&fake, &args);
    assert_eq!(done.code, 2, "{done:?}");
    assert!(
        std::fs::read_dir(&to)
            .unwrap()
            .filter_map(Result::ok)
            .all(|e| !e.file_name().to_string_lossy().ends_with(".db"))
    );
}

/// Status of one request over TCP, as a browser would send it.
fn ask(to: &str, path: &str, fields: &str) -> (u16, String) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(to).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

#[test]
fn the_console_is_for_whoever_has_its_address_and_gives_the_daemons_token_to_nobody() {
    let fake = Fake::start();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pumasi"));
    command.args(["console"]).env("PUMASI_SERVER", &fake.url).env("PUMASI_TOKEN", "right").env_remove("PUMASI_CONFIG");
    let mut console = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(console.stdout.take().unwrap()), &mut line).unwrap();
    let (at, token) = line.trim().strip_prefix("http://").unwrap().split_once("/console/#token=").unwrap();
    assert!(at.starts_with("127.0.0.1:") && !token.contains("right"), "{line}");
    let host = format!("Host: {at}\r\n");
    let bearer = |token: &str| format!("{host}Authorization: Bearer {token}\r\n");
    let (status, answer) = ask(at, "/v1/services", &bearer(token));
    assert_eq!(status, 200, "{answer}");
    assert!(!answer.contains("right"));
    assert_eq!(ask(at, "/v1/services", &host).0, 401, "another process of this host");
    assert_eq!(ask(at, "/v1/services", &bearer("right")).0, 401, "the daemon's own token is not this one's");
    let elsewhere = format!("Host: evil.example\r\nAuthorization: Bearer {token}\r\n");
    assert_eq!(ask(at, "/v1/services", &elsewhere).0, 421, "a name that was turned here");
    console.kill().unwrap();
    console.wait().unwrap();
}

#[test]
fn what_others_wrote_cannot_move_the_terminal() {
    let fake = Fake::start();
    let done = run(&fake, &["get", "service", "hostile"]);
    assert_eq!(done.code, 3, "{done:?}");
    let forged: Vec<char> = done.err.chars().filter(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}').collect();
    assert!(forged.is_empty(), "{done:?}");
    assert!(!done.err.contains("\nservice/notes deleted"), "a line that the daemon never said: {done:?}");
    let logs = run(&fake, &["logs", "hostile"]);
    assert_eq!(logs.code, 0, "{logs:?}");
    assert!(logs.out.contains("first\n") && !logs.out.contains(['\u{1b}', '\u{9b}', '\u{202e}', '\r']), "{logs:?}");
    let json = run(&fake, &["get", "leases", "-o", "json"]);
    assert!(!json.out.contains(['\u{9b}', '\u{202e}']), "{json:?}");
}

#[test]
fn completions_ask_the_daemon_for_names() {
    let fake = Fake::start();
    fake.put_sample();
    let complete = |words: &[&str]| {
        let index = (words.len() - 1).to_string();
        let args: Vec<&str> = std::iter::once("--").chain(words.iter().copied()).collect();
        run_with(&fake, &args, |c| {
            c.env("PUMASI_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", index).env("_CLAP_IFS", "\n")
        })
    };
    assert!(complete(&["pumasi", "stop-"]).out.contains("stop-automation"));
    let names = complete(&["pumasi", "logs", "s"]);
    assert_eq!((names.code, names.out.trim(), names.err.as_str()), (0, "sample", ""), "{names:?}");
    let of_kind = complete(&["pumasi", "describe", "service", ""]);
    assert!(of_kind.out.contains("sample"), "{of_kind:?}");
    // Nobody is there: nothing is completed, and nothing said.
    let dead = run_with(&fake, &["--", "pumasi", "logs", ""], |c| {
        c.env("PUMASI_SERVER", "unix:/nonexistent.sock").env("PUMASI_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", "2")
    });
    assert_eq!((dead.code, dead.err.as_str()), (0, ""), "{dead:?}");
}

#[test]
fn completions_name_the_commands() {
    let script = run(&Fake::start(), &["completions", "bash"]);
    assert!(script.code == 0 && script.out.contains("PUMASI_COMPLETE"), "{script:?}");
}
