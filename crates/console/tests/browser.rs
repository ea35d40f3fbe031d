//! The console in a real browser, with its Content-Security-Policy in force.
#![allow(clippy::unwrap_used)]

mod driver;
mod fake;

use driver::Browser;
use fake::{Daemon, Shared, TOKEN, VIEWER};
use serde_json::json;

const PLAN: &str = "plan-22222222222222222222222222222222";
const ENTER: &str = "\u{e007}";

/// Puts a text where a person would paste it.
fn paste(b: &Browser, selector: &str, text: &str) {
    let (selector, text) = (json!(selector), json!(text));
    b.run(&format!("const field = document.querySelector({selector}); field.value = {text}; field.dispatchEvent(new Event('input', {{ bubbles: true }})); field.dispatchEvent(new Event('change', {{ bubbles: true }}))"));
}

fn go(b: &Browser, page: &str) {
    b.run(&format!("location.hash = '#/{page}'"));
    b.wait(
        page,
        &format!("document.querySelector('main .page')?.dataset.key === '{}'", page.split('/').next().unwrap()),
    );
}

#[test]
fn every_page_shows_its_data_and_breaks_no_rule() {
    let shared = Shared::new(false, None);
    let daemon = Daemon::start("127.0.0.1:0", shared.clone());
    let b = Browser::start();
    b.open(&format!("{}#token={TOKEN}", daemon.url()));
    b.wait_text("Members");
    assert!(!b.run("return location.href").as_str().unwrap().contains(TOKEN), "the token stays in the address");

    b.wait("the clouds on the map", "document.querySelectorAll('.map .node').length === 5");
    b.wait("streams to two lenders and from a borrower", "document.querySelectorAll('.map .stream').length === 3");
    b.wait("the lost member", "document.querySelector('.node.bad .name')?.textContent === 'gwangju'");
    b.wait_text("connection refused");
    b.wait_text("4.75 CPU own · 0.50 lent · 2.75 free");
    b.picture("clouds");

    go(&b, "services");
    b.wait("three services", "document.querySelectorAll('.service').length === 3");
    b.wait(
        "shares by cloud",
        "document.querySelector('[aria-label=\"Service notes\"] .bar')?.getAttribute('aria-label').includes('busan')",
    );
    b.wait(
        "a growing line",
        "document.querySelector('[aria-label=\"Service notes\"] .spark .kept').getAttribute('d').split('L').length > 2",
    );
    b.wait_text("the plan waits for a person");
    b.click("[aria-label='Service notes'] summary");
    b.wait_text("automatic, at most 8 instances and 10.00 KRW an hour");
    // News of every second must not close what a person opened.
    b.run("window.seen = document.querySelector('[aria-label=\"Service notes\"] .figure b').textContent");
    b.wait(
        "fresh figures",
        "document.querySelector('[aria-label=\"Service notes\"] .figure b').textContent !== window.seen",
    );
    b.wait("still open", "document.querySelector('[aria-label=\"Service notes\"] details').open");
    b.picture("services");

    go(&b, "journeys/jrn-11111111111111111111111111111111");
    b.wait("the journey's events and no others", "document.querySelectorAll('.story > li').length === 15");
    b.wait("its stage", "document.querySelector('.track .now b')?.textContent === 'route'");
    b.wait("both lenders' lanes", "document.querySelectorAll('.lanes .phase.serving').length === 2");
    b.click(".story li:first-child summary");
    b.wait_text("user RTT 21 ms is as ever: overload, not distance");
    b.picture("journeys");

    go(&b, "leases");
    b.wait("two rented, one lent", "document.querySelectorAll('main tbody tr').length === 3");
    b.wait_text("0.025");
    b.picture("leases");

    go(&b, "continuity");
    b.wait_text("could go on at busan at once and would lose the last 14 ms");
    b.wait_text("would end with this cloud: nobody keeps it ready");
    b.wait("all tables", "document.querySelectorAll('main tbody tr').length === 5");
    b.wait_text("15 rows here only, 2 differ");
    b.picture("continuity");

    go(&b, "journal");
    b.wait("all entries", "document.querySelectorAll('main tbody tr').length === 18");
    b.click("#filter");
    b.press("quota");
    b.wait("the one that is meant", "document.querySelectorAll('main tbody tr').length === 1");
    b.picture("journal");

    b.run("document.activeElement.blur()");
    b.press("2");
    b.wait("pages by number keys", "location.hash === '#/services'");
    assert_eq!(b.log(), Vec::<String>::new());
    // The policy is in force, not only sent.
    b.run(
        "const s = document.createElement('script'); s.textContent = 'window.broken = true'; document.head.append(s)",
    );
    assert_eq!(b.run("return window.broken === undefined"), true);
    assert!(b.log().iter().any(|l| l.contains("Content Security Policy")));
}

#[test]
fn decisions_are_made_with_a_reason_and_seen_at_once() {
    let shared = Shared::new(false, None);
    let daemon = Daemon::start("127.0.0.1:0", shared.clone());
    let b = Browser::start();
    b.open(&format!("{}#token={TOKEN}", daemon.url()));
    b.wait("the badge", "document.querySelector('.badge')?.textContent === '1'");
    go(&b, "plans");
    b.wait_text("Borrow 2 instances for tickets");
    b.picture("plans");
    b.click("button[data-act=approve]");
    b.wait_text("The plan was approved.");
    b.wait_text("None waits for a decision");
    b.wait("no badge", "!document.querySelector('.badge')");

    b.click("button[data-act=stop]");
    b.wait("the question", "document.querySelector('dialog').open");
    b.picture("stop");
    b.press("\u{e00c}");
    b.wait("closed by Escape", "!document.querySelector('dialog').open");
    b.click("button[data-act=stop]");
    b.wait("the question", "document.querySelector('dialog').open && document.activeElement.id === 'why'");
    b.press(&format!("audit{ENTER}"));
    b.wait_text("Automation is stopped. audit");
    b.picture("stopped");

    go(&b, "leases");
    b.click("button[data-act=recall]");
    b.wait("the question", "document.querySelector('dialog').open && document.activeElement.id === 'why'");
    b.press(ENTER);
    b.wait("a recall needs its reason", "document.querySelector('dialog').open");
    b.press(&format!("our own peak{ENTER}"));
    b.wait_text("recalled");

    go(&b, "journeys");
    b.click("button[data-act=cancel]");
    b.wait("the question", "document.querySelector('dialog').open && document.activeElement.id === 'why'");
    b.press(ENTER);
    b.wait_text("not done. the journey is closed already");

    let lease = "lease-ffffffffffffffffffffffffffffffff";
    let acts = shared.acts.lock().unwrap().clone();
    assert_eq!(
        acts[..3],
        [
            (format!("POST /v1/plans/{PLAN}/approve"), json!({"why": ""})),
            ("POST /v1/automation".into(), json!({"stopped": true, "why": "audit"})),
            (format!("POST /v1/leases/{lease}/recall"), json!({"why": "our own peak"})),
        ]
    );
    assert_eq!(acts.len(), 4, "Escape did something: {acts:?}");
}

const MANIFEST: &str = "apiVersion: pumasi/v1
kind: Service
metadata: { name: notes }
spec:
  hosts: [notes.seoul.example]
  application: { bundle: app, command: [./notes], resources: { cpu_millis: 750, memory_mib: 256 } }
";

#[test]
fn a_manifest_is_checked_compared_applied_and_followed() {
    let shared = Shared::new(false, None);
    let daemon = Daemon::start("127.0.0.1:0", shared.clone());
    let b = Browser::start();
    b.open(&format!("{}#token={TOKEN}", daemon.url()));
    b.wait_text("Members");
    go(&b, "deploy");
    b.click("button[data-act=deploy-check]");
    b.wait_text("There is nothing to check");

    // All faults, each with its field.
    paste(&b, "#manifest", &MANIFEST.replace("hosts", "hsots").replace("cpu_millis: 750", "cpu_millis: many"));
    b.click("button[data-act=deploy-check]");
    b.wait_text("Nothing was changed.");
    b.wait("two faults at least", "document.querySelectorAll('main tbody tr').length >= 2");
    b.wait_text("spec.hsots");
    b.wait_text("spec.application.resources.cpu_millis");
    b.wait("nothing to apply", "!document.querySelector('[data-act=deploy-apply]')");
    b.picture("deploy-faults");

    // What the daemon refuses is told with its field, too.
    paste(&b, "#manifest", &MANIFEST.replace("notes.seoul", "taken"));
    b.wait("what was found is of another text", "!document.querySelector('main tbody')");
    b.click("button[data-act=deploy-check]");
    b.wait_text("taken.example belongs to another service");
    b.wait("nothing to apply", "!document.querySelector('[data-act=deploy-apply]')");
    // A new service needs its directory sent.
    paste(&b, "#manifest", &MANIFEST.replace("name: notes", "name: fresh"));
    b.click("button[data-act=deploy-check]");
    b.wait_text("a browser cannot send the directory “app”");

    paste(&b, "#manifest", MANIFEST);
    b.click("button[data-act=deploy-check]");
    b.wait_text("No fault was found.");
    b.wait_text("the bundle that runs stays");
    b.wait_text("spec.application.resources.cpu_millis");
    b.picture("deploy");
    b.click("button[data-act=deploy-apply]");
    b.wait_text("The first instance of generation 5 is ready, after");
    b.wait_text("All instances of generation 5 are ready, after");
    let acts = shared.acts.lock().unwrap().clone();
    let (put, sent) = acts.iter().find(|(act, _)| act.starts_with("PUT")).unwrap();
    assert_eq!((put.as_str(), &sent["metadata"]), ("PUT /v1/services/notes", &json!({"name": "notes", "revision": 7})));
    assert_eq!(sent["spec"]["application"]["bundle"], format!("blake3:{}", "ab".repeat(32)));

    // From what runs: as it is nothing would change, and that is said.
    go(&b, "deploy/notes");
    b.wait("its manifest", "document.querySelector('#manifest')?.value.includes('750')");
    b.click("button[data-act=deploy-check]");
    b.wait_text("No fault was found, and nothing would change.");
}

#[test]
fn a_service_has_its_past_and_its_log() {
    let shared = Shared::new(false, None);
    let daemon = Daemon::start("127.0.0.1:0", shared.clone());
    let b = Browser::start();
    b.open(&format!("{}#token={TOKEN}", daemon.url()));
    b.wait_text("Members");
    go(&b, "services/notes");
    // The campaign of forty minutes ago is there at once: the page is seconds old.
    b.wait(
        "the hour before",
        "document.querySelectorAll('.charts .spark .kept')[0].getAttribute('d').split('L').length > 500",
    );
    b.wait("both clouds' layers", "document.querySelectorAll('.charts .layer').length >= 2");
    b.wait("hosts as links", "document.querySelector('main a[href=\"http:\\/\\/notes.seoul.example:8080/\"]')");
    b.wait("its generations", "document.querySelectorAll('main tbody tr').length === 3");
    b.click("button[data-act=undo]");
    b.wait("the question", "document.querySelector('dialog').open && document.activeElement.id === 'why'");
    b.press(&format!("slow{ENTER}"));
    b.wait_text("notes goes back to generation 3.");
    assert_eq!(
        shared.acts.lock().unwrap().last().unwrap(),
        &("POST /v1/services/notes/undo".to_owned(), json!({"to": 3, "why": "slow"}))
    );
    b.wait_text("GET /count 200");
    b.picture("service");

    go(&b, "logs/notes");
    b.wait("lines of all", "document.querySelectorAll('.log p').length >= 60");
    let count = b.run("return document.querySelectorAll('.log p').length").as_u64().unwrap();
    b.wait("new lines", &format!("document.querySelectorAll('.log p').length > {count}"));
    // In the order of their time, whosever they are.
    b.wait(
        "one order",
        "((times) => times.every((t, i) => i === 0 || times[i - 1] <= t))([...document.querySelectorAll('.log time[datetime]')].map((t) => t.getAttribute('datetime')))",
    );
    paste(&b, "select[data-act=log-instance]", &format!("inst-{}", "9".repeat(32)));
    b.wait(
        "of one alone",
        "[...document.querySelectorAll('.log .from')].every((f) => f.textContent.includes('busan'))",
    );
    b.picture("logs");

    // Where nobody asks there is no delay.
    shared.idle.store(true, std::sync::atomic::Ordering::Relaxed);
    go(&b, "services");
    b.wait("no traffic", "document.querySelectorAll('.versus.idle').length === 3");
    assert!(!b.text().contains("0 µs"), "{}", b.text());
    assert_eq!(b.log(), Vec::<String>::new());
}

#[test]
fn the_pact_tokens_and_the_bill_are_told_and_decided() {
    let shared = Shared::new(false, None);
    let daemon = Daemon::start("127.0.0.1:0", shared.clone());
    let b = Browser::start();
    b.open(&format!("{}#token={TOKEN}", daemon.url()));
    b.wait_text("Members");
    go(&b, "pact");
    b.wait_text("serial 9, prices in KRW");
    b.wait("who has not signed", "document.querySelector('tr[data-key=gwangju]').innerText.includes('not signed')");
    b.wait("who has", "!document.querySelector('tr[data-key=busan]').innerText.includes('not signed')");
    b.wait_text("busan leads");
    b.wait_text("no acknowledged write is lost");
    b.wait_text("could go on at busan at once and would lose the last 14 ms");
    b.click("button[data-act=rehearse][data-cloud=jeju]");
    b.wait_text("jeju would be called lost 4.2 s after its last sign of life.");
    b.wait_text("less than promised");
    b.wait_text("busan owned it after 1.1 s");
    b.picture("pact");
    b.click("button[data-act=proposal-approve]");
    b.wait("the question", "document.querySelector('dialog').open && document.activeElement.id === 'why'");
    b.press(ENTER);
    b.wait_text("This cloud agrees.");
    b.wait("no proposal", "!document.querySelector('[data-act=proposal-approve]')");

    go(&b, "tokens");
    b.wait("two tokens", "document.querySelectorAll('main tbody tr').length === 2");
    b.click("input[name=name]");
    b.press(&format!("ci{ENTER}"));
    b.wait_text("the-secret-that-is-told-once");
    b.picture("token");
    go(&b, "journal");
    go(&b, "tokens");
    b.wait("three tokens", "document.querySelectorAll('main tbody tr').length === 3");
    assert!(!b.text().contains("the-secret"), "it is told again");
    b.click("tr[data-key^=tok-3] button");
    b.wait("the question", "document.querySelector('dialog').open");
    b.click("dialog button[value=yes]");
    b.wait("two again", "document.querySelectorAll('main tbody tr').length === 2");

    go(&b, "bill");
    b.wait_text("12.572 KRW");
    b.wait_text("ledgers differ");
    b.wait("the lines", "document.querySelectorAll('[aria-label=\"Lines of the bill\"] tbody tr').length === 4");
    b.picture("bill");
    b.click("button[data-act=settle-accept]");
    b.wait("the question", "document.querySelector('dialog').open && document.activeElement.id === 'why'");
    b.press(ENTER);
    b.wait_text("The lease is settled.");
    paste(&b, "#month", "all");
    b.wait_text("Nothing was rented or lent");
    let acts: Vec<String> = shared.acts.lock().unwrap().iter().map(|(act, _)| act.clone()).collect();
    let (token, lease) = (format!("tok-{}", "3".repeat(32)), format!("lease-{}", "9".repeat(32)));
    assert_eq!(
        acts,
        [
            "POST /v1/pact/proposals/prop-1/approve".to_owned(),
            "POST /v1/tokens".to_owned(),
            format!("DELETE /v1/tokens/{token}"),
            format!("POST /v1/settlements/{lease}/accept"),
        ]
    );
    assert_eq!(b.log(), Vec::<String>::new());
}

#[test]
fn what_a_viewer_may_not_do_is_not_offered() {
    let daemon = Daemon::start("127.0.0.1:0", Shared::new(false, None));
    let b = Browser::start();
    b.open(&format!("{}#token={VIEWER}", daemon.url()));
    b.wait_text("Members");
    let tabs = b.run("return [...document.querySelectorAll('header nav a')].map((a) => a.hash)");
    assert_eq!(
        tabs,
        json!(["#/clouds", "#/services", "#/journeys", "#/plans", "#/leases", "#/continuity", "#/pact", "#/journal"])
    );
    for page in ["clouds", "services", "services/notes", "journeys", "plans", "leases", "continuity", "pact", "journal"]
    {
        go(&b, page);
        let buttons = b.run("return [...document.querySelectorAll('button[data-act]')].map((b) => b.dataset.act)");
        assert_eq!(buttons, json!(["language", "leave"]), "{page}");
    }
    // By its address it is not there either.
    b.run("location.hash = '#/tokens'");
    b.wait("the first page", "document.querySelector('main .page')?.dataset.key === 'clouds'");
    assert_eq!(b.log(), Vec::<String>::new());
}

#[test]
fn in_a_lab_and_there_alone_a_crowd_can_be_sent() {
    let shared = Shared::new(false, None);
    let daemon = Daemon::start("127.0.0.1:0", shared.clone());
    let b = Browser::start();
    b.open(&format!("{}#token={TOKEN}", daemon.url()));
    b.wait_text("Members");
    assert_eq!(b.run("return document.querySelectorAll('[data-act=crowd]').length"), 0);
    shared.lab.store(true, std::sync::atomic::Ordering::Relaxed);
    b.open("about:blank");
    b.open(&format!("{}#token={TOKEN}", daemon.url()));
    b.click("button[data-act=crowd]");
    b.wait_text("A crowd is on its way");
    assert_eq!(shared.acts.lock().unwrap()[0].0, "POST /lab/crowd");
}

#[test]
fn one_cloud_has_one_colour_and_the_page_speaks_korean_when_asked() {
    let daemon = Daemon::start("127.0.0.1:0", Shared::new(false, None));
    let b = Browser::start();
    b.open(&format!("{}#token={TOKEN}", daemon.url()));
    b.wait_text("Members");
    // Places among busan, fukuoka, gwangju, jeju, seoul.
    for (cloud, colour) in [("busan", "c0"), ("fukuoka", "c1"), ("seoul", "c4")] {
        let names = format!("[...document.querySelectorAll('.cloud')].filter((c) => c.textContent === '{cloud}')");
        b.wait(cloud, &format!("{names}.length && {names}.every((c) => c.classList.contains('{colour}'))"));
        b.wait(
            cloud,
            &format!("document.querySelector('[data-key=node-{cloud}] .core').classList.contains('{colour}')"),
        );
    }
    b.wait("land under them", "document.querySelector('.map .land').getAttribute('d').length > 500");
    b.click("button[data-act=language]");
    b.wait_text("자동화 멈추기…");
    assert_eq!(b.run("return document.documentElement.lang"), "ko");
    go(&b, "leases");
    b.wait_text("빌린 것");
    // A time has its zone, and its instant in UTC.
    go(&b, "journal");
    b.wait(
        "a time with its zone",
        "/(UTC|GMT)/.test(document.querySelector('main time').textContent) && document.querySelector('main time').title.endsWith('Z')",
    );
    b.click("button[data-act=language]");
    b.wait_text("Stop automation…");
}

#[test]
fn a_daemon_that_is_gone_is_told_and_found_again() {
    let shared = Shared::new(false, None);
    let daemon = Daemon::start("127.0.0.1:0", shared.clone());
    let address = daemon.address.to_string();
    let b = Browser::start();
    b.open(&daemon.url());
    b.wait_text("Sign in");
    b.click("#token");
    b.press(&format!("wrong{ENTER}"));
    b.wait_text("this token is not known here");
    b.picture("sign-in");
    b.click("#token");
    b.press(&format!("{TOKEN}{ENTER}"));
    b.wait_text("Members");
    b.wait_text("live");

    drop(daemon);
    b.wait_text("The daemon does not answer.");
    b.wait_text("Trying again in");
    assert!(b.text().contains("busan"), "what was known is still shown");
    b.picture("lost");
    // To a person's click as well as by itself.
    b.click("button[data-act=retry]");
    b.wait_text("The daemon does not answer.");
    let _daemon = Daemon::start(&address, shared);
    b.wait(
        "found again",
        "!document.body.innerText.includes('does not answer') && document.body.innerText.includes('live')",
    );
}

#[test]
fn a_cloud_that_has_nothing_says_what_to_do() {
    let daemon = Daemon::start("127.0.0.1:0", Shared::new(true, None));
    let b = Browser::start();
    b.open(&format!("{}#token={TOKEN}", daemon.url()));
    b.wait_text("No other member yet");
    b.picture("empty-clouds");
    for (page, told) in [
        ("services", "pumasi apply"),
        ("journeys", "No journey yet"),
        ("plans", "Nothing to decide"),
        ("leases", "Nothing is rented"),
        ("continuity", "Nothing is kept ready here"),
        ("deploy", "Manifest (YAML or JSON"),
        ("logs", "No services yet"),
        ("pact", "This cloud is in no pact"),
        ("bill", "Nothing was rented or lent"),
        ("journal", "Nothing has happened yet"),
    ] {
        go(&b, page);
        b.wait_text(told);
    }
    assert_eq!(b.log(), Vec::<String>::new());
}
