//! The console in a real browser, with its Content-Security-Policy in force.
#![allow(clippy::unwrap_used)]

mod driver;
mod fake;

use driver::Browser;
use fake::{Daemon, Shared, TOKEN};
use serde_json::json;

const PLAN: &str = "plan-22222222222222222222222222222222";
const ENTER: &str = "\u{e007}";

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
    b.wait_text("automatic, at most 8 instances and 10.00 an hour");
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
        ("journal", "Nothing has happened yet"),
    ] {
        go(&b, page);
        b.wait_text(told);
    }
    assert_eq!(b.log(), Vec::<String>::new());
}
