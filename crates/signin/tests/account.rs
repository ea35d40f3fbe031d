//! What a user does with its own account.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::authenticator::Authenticator;
use harness::{Browser, HOST, Process, digest, settings};
use serde_json::{Value, json};
use std::path::Path;

const PASSWORD: &str = "correct horse battery";
const ORIGIN: &str = "https://docs.example";

#[test]
fn child() {
    harness::child();
}

/// As if the user had signed in `minutes` ago.
fn age(dir: &Path, minutes: u64) {
    let db = rusqlite::Connection::open(dir.join("realm/realm.sqlite")).unwrap();
    db.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    let ms = minutes * 60_000;
    let older = "UPDATE session SET created_at_ms = created_at_ms - ?1, seen_at_ms = seen_at_ms - ?1, idle_until_ms = idle_until_ms - ?1, ends_at_ms = ends_at_ms - ?1";
    db.execute(older, [ms]).unwrap();
}

async fn add(browser: &mut Browser, device: &mut Authenticator, name: &str) -> (u16, Value) {
    browser.get("account").await;
    let (status, begun) = browser.post_json("passkey/add/begin", json!({})).await;
    if status != 200 {
        return (status, begun);
    }
    let mut proof = device.create(&begun["options"]);
    proof["passkey_name"] = name.into();
    browser.post_json("passkey/add/finish", proof).await
}

async fn enter(browser: &mut Browser, device: &Authenticator) -> (u16, Value) {
    browser.get("sign-in?again=1").await;
    let (_, begun) = browser.post_json("passkey/sign-in/begin", json!({})).await;
    browser.post_json("passkey/sign-in/finish", device.get(&begun["options"])).await
}

#[tokio::test]
async fn a_user_is_made_by_a_passkey_and_comes_back_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut without = settings();
    without["passwords"] = false.into();
    let process = Process::start(dir.path(), &without).await;
    let mut browser = process.browser();
    let page = browser.get("sign-up").await;
    assert!(!page.text.contains("assword"), "nothing of passwords is shown: {}", page.text);
    assert_eq!(browser.post("sign-up", &[("login", "minjun"), ("password", PASSWORD)]).await.status, 403);
    let mut device = Authenticator::new(-7, HOST, ORIGIN);
    let wish = json!({"login": "minjun", "name": "김민준", "return": "/notes"});
    let (status, begun) = browser.post_json("passkey/sign-up/begin", wish.clone()).await;
    assert_eq!((status, &begun["options"]["authenticatorSelection"]["userVerification"]), (200, &json!("required")));
    let finish = |proof: Value, subject: &Value| {
        let mut all = wish.clone();
        all.as_object_mut().unwrap().extend(proof.as_object().unwrap().clone());
        all["subject"] = subject.clone();
        all
    };
    let proof = device.create(&begun["options"]);
    let (status, _) = browser.post_json("passkey/sign-up/finish", finish(proof.clone(), &json!("0".repeat(32)))).await;
    assert_eq!(status, 403, "a subject of its own choice");
    let (status, said) = browser.post_json("passkey/sign-up/finish", finish(proof.clone(), &begun["subject"])).await;
    assert_eq!((status, &said["to"]), (200, &json!("/notes")));
    assert_eq!(process.who(browser.session().unwrap()).await.as_deref(), Some("minjun"));

    device.counter = 5;
    let mut second = process.browser();
    assert_eq!(enter(&mut second, &device).await, (200, json!({"to": "/"})));
    device.counter = 2;
    assert_eq!(enter(&mut second, &device).await.0, 200, "a copy with a lower counter is let in");
    let (_, user) = process.admin("GET", "users/minjun", None).await;
    assert_eq!((&user["passkeys"], &user["password"], &user["name"]), (&json!(1), &json!(false), &json!("김민준")));
    let mut other = Authenticator::new(-7, HOST, ORIGIN);
    other.id = device.id.clone();
    other.handle = device.handle.clone();
    assert_eq!(enter(&mut process.browser(), &other).await.0, 403, "another key under its name");
    let handle = std::mem::replace(&mut device.handle, "AAAA".into());
    assert_eq!(enter(&mut process.browser(), &device).await.0, 403, "another user's name under its key");
    device.handle = handle;
    // Of another browser, and twice.
    second.get("sign-in?again=1").await;
    let (_, begun) = second.post_json("passkey/sign-in/begin", json!({})).await;
    let proof = device.get(&begun["options"]);
    let mut thief = process.browser();
    thief.get("sign-in").await;
    assert_eq!(thief.post_json("passkey/sign-in/finish", proof.clone()).await.0, 403);
    second.get("account").await;
    assert_eq!(second.post_json("passkey/sign-in/finish", proof.clone()).await.0, 200);
    second.get("account").await;
    assert_eq!(second.post_json("passkey/sign-in/finish", proof).await.0, 403);

    process.admin("POST", "users/minjun", Some(json!({"disabled": true}))).await;
    assert_eq!(enter(&mut process.browser(), &device).await.0, 403);
    process.admin("POST", "users/minjun", Some(json!({"disabled": false}))).await;
    assert_eq!(enter(&mut process.browser(), &device).await.0, 200);
    drop(process);
    // The realm's first host is another one: the passkey says so, and lets nobody in.
    without["hosts"] = json!(["papers.example", HOST]);
    let process = Process::start(dir.path(), &without).await;
    let mut browser = process.browser();
    assert!(browser.get("sign-in").await.text.contains("papers.example"));
    browser.set("host", "papers.example");
    (device.rp_id, device.origin) = ("papers.example".into(), "https://papers.example".into());
    let (status, said) = enter(&mut browser, &device).await;
    assert!(status == 403 && said["error"].as_str().unwrap().contains("papers.example"), "{said}");
}

#[tokio::test]
async fn ways_to_sign_in_come_and_go_but_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &settings()).await;
    let mut browser = process.browser();
    browser.sign_up("minjun", PASSWORD).await;
    browser.get("account").await;
    assert_eq!(browser.post("account/password/remove", &[]).await.status, 403, "its last way");
    assert_eq!(browser.sign_in("minjun", PASSWORD).await.status, 303, "and it was kept");

    let mut device = Authenticator::new(-8, HOST, ORIGIN);
    assert_eq!(add(&mut browser, &mut device, "My <phone>").await.0, 200);
    let page = browser.get("account").await;
    assert!(page.text.contains("My &lt;phone&gt;"), "{}", page.text);
    assert_eq!(add(&mut browser, &mut device, "again").await.0, 403, "the same credential twice");
    let id = hex::encode(&device.id);
    browser.get("account").await;
    assert_eq!(browser.post("account/passkey/rename", &[("id", &id), ("name", "phone")]).await.status, 303);
    assert_eq!(browser.post("account/password/remove", &[]).await.status, 303);
    assert_eq!(process.browser().sign_in("minjun", PASSWORD).await.status, 403);
    assert_eq!(browser.post("account/passkey/remove", &[("id", &id)]).await.status, 403, "its last way");
    assert_eq!(enter(&mut process.browser(), &device).await.0, 200);

    // A new password ends the other sessions.
    let mut second = process.browser();
    assert_eq!(enter(&mut second, &device).await.0, 200);
    browser.get("account").await;
    assert_eq!(browser.post("account/password", &[("password", "12345678")]).await.status, 403);
    assert_eq!(browser.post("account/password", &[("password", "another horse battery")]).await.status, 303);
    assert_eq!(process.who(second.session().unwrap()).await, None);
    assert_eq!(process.who(browser.session().unwrap()).await.as_deref(), Some("minjun"));
    assert_eq!(process.browser().sign_in("minjun", "another horse battery").await.status, 303);
    browser.get("account").await;
    assert_eq!(browser.post("account/passkey/remove", &[("id", &id)]).await.status, 303);
    assert_eq!(enter(&mut process.browser(), &device).await.0, 403);
    assert_eq!(add(&mut browser, &mut device, "phone").await.0, 403, "what was taken away does not come back");
    // Nobody renames or removes what is another's.
    let mut device = Authenticator::new(-257, HOST, ORIGIN);
    let id = hex::encode(&device.id);
    assert_eq!(add(&mut browser, &mut device, "phone").await.0, 200);
    let mut stranger = process.browser().from("192.0.2.9");
    stranger.sign_up("eve", PASSWORD).await;
    stranger.get("account").await;
    let mine = browser.session().unwrap().to_owned();
    stranger.post("account/passkey/remove", &[("id", &id)]).await;
    stranger.post("account/session/end", &[("digest", &digest(&mine))]).await;
    assert_eq!(enter(&mut process.browser(), &device).await.0, 200);
    assert_eq!(process.who(&mine).await.as_deref(), Some("minjun"));
}

#[tokio::test]
async fn app_passwords_are_told_once_and_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &settings()).await;
    let mut browser = process.browser();
    browser.sign_up("minjun", PASSWORD).await;
    browser.get("account").await;
    let page = browser.post("account/app-password", &[("app_name", "calendar")]).await;
    let secret = page.text.split_once(r#"<code class="secret">"#).unwrap().1[..43].to_owned();
    assert!(!browser.get("account").await.text.contains(&secret), "it is told once");
    assert_eq!(process.app("minjun", &secret).await.as_deref(), Some("minjun"));
    assert_eq!(process.app("Minjun", &secret).await.as_deref(), Some("minjun"), "a login has one spelling");
    assert_eq!(process.app("eve", &secret).await, None);
    assert_eq!(process.app("minjun", PASSWORD).await, None, "the password itself is none");
    let next = process.ended(0).await["next"].as_u64().unwrap();
    let page = browser.post("account/app-password/revoke", &[("digest", &digest(&secret))]).await;
    assert_eq!(page.status, 303);
    assert_eq!(process.app("minjun", &secret).await, None);
    assert_eq!(process.ended(next).await["digests"], json!([digest(&secret)]));
    // As many as there may be.
    for i in 0..51 {
        let page = browser.post("account/app-password", &[("app_name", &format!("{i}"))]).await;
        assert_eq!(page.status, if i < 50 { 200 } else { 403 });
    }
    let (_, user) = process.admin("GET", "users/minjun", None).await;
    assert_eq!(user["app_passwords"], 50);
    drop(process);
    let mut without = settings();
    without["basic"] = false.into();
    let process = Process::start(dir.path(), &without).await;
    let page = browser_at(&process, &browser).get("account").await;
    assert!(!page.text.contains("App passwords"));
}

fn browser_at(process: &Process, other: &Browser) -> Browser {
    let mut browser = process.browser();
    browser.cookies = other.cookies.clone();
    browser
}

#[tokio::test]
async fn what_is_sensitive_needs_a_sign_in_of_just_now() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &settings()).await;
    let mut browser = process.browser();
    browser.sign_up("minjun", PASSWORD).await;
    age(dir.path(), 16);
    browser.get("account").await;
    let again = "/.pumasi/sign-in?again=1&return=%2F.pumasi%2Faccount";
    let mut device = Authenticator::new(-7, HOST, ORIGIN);
    assert_eq!(add(&mut browser, &mut device, "phone").await.1["to"], again);
    for act in ["password", "password/remove", "app-password", "passkey/remove", "delete"] {
        let page = browser
            .post(&format!("account/{act}"), &[("confirm", "minjun"), ("password", "another horse battery")])
            .await;
        assert_eq!((page.status, page.location.as_str()), (303, again), "{act}");
    }
    assert_eq!(
        browser.post("account/profile", &[("name", "김민준")]).await.location,
        "/.pumasi/account?done=1",
        "this is not"
    );
    let page = browser.get("sign-in?again=1&return=%2F.pumasi%2Faccount").await;
    assert!(page.text.contains(r#"value="minjun""#));
    let form = [("login", "minjun"), ("password", PASSWORD), ("return", "/.pumasi/account")];
    assert_eq!(browser.post("sign-in", &form).await.location, "/.pumasi/account");
    assert_eq!(add(&mut browser, &mut device, "phone").await.0, 200);
    browser.get("account").await;
    assert_eq!(browser.post("account/delete", &[("confirm", "else")]).await.status, 403);
    assert_eq!(browser.post("account/delete", &[("confirm", "minjun")]).await.location, "/.pumasi/sign-in?deleted=1");
    assert_eq!(enter(&mut process.browser(), &device).await.0, 403);
    assert_eq!(process.admin("GET", "status", None).await.1, json!({"users": 0, "sessions": 0}));
}

#[tokio::test]
async fn sessions_are_seen_end_and_idle_away() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &settings()).await;
    let mut browser = process.browser();
    browser.sign_up("minjun", PASSWORD).await;
    let mut others = Vec::new();
    for name in ["one", "two", "three"] {
        let mut other = process.browser();
        other.set("user-agent", name);
        other.sign_in("minjun", PASSWORD).await;
        others.push(other.session().unwrap().to_owned());
    }
    let page = browser.get("account").await;
    assert!(["one", "two", "three", "this browser"].iter().all(|name| page.text.contains(name)), "{}", page.text);
    browser.post("account/session/end", &[("digest", &digest(&others[1]))]).await;
    assert_eq!(process.who(&others[1]).await, None);
    assert_eq!(process.who(&others[0]).await.as_deref(), Some("minjun"));
    browser.get("account").await;
    browser.post("account/sessions/end-others", &[]).await;
    for other in &others {
        assert_eq!(process.who(other).await, None);
    }
    let mine = browser.session().unwrap().to_owned();
    // Eleven hours and a request: it goes on; twelve and none: it has ended. What is seen is written a moment later.
    age(dir.path(), 11 * 60);
    assert_eq!(process.who(&mine).await.as_deref(), Some("minjun"));
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    age(dir.path(), 11 * 60);
    assert_eq!(process.who(&mine).await.as_deref(), Some("minjun"));
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    age(dir.path(), 12 * 60);
    assert_eq!(process.who(&mine).await, None);
    assert_eq!(browser.get("account").await.status, 303);
    // The hundred-and-first ends the oldest.
    let db = rusqlite::Connection::open(dir.path().join("realm/realm.sqlite")).unwrap();
    db.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    let (_, user) = process.admin("GET", "users/minjun", None).await;
    let insert = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 120)
        INSERT INTO session SELECT 'd' || i, ?1, '', i, i, 9e15, 9e15, 0, 0 FROM n";
    db.execute(&insert.replace("9e15", "9000000000000000"), [user["subject"].as_str().unwrap()]).unwrap();
    assert_eq!(process.browser().sign_in("minjun", PASSWORD).await.status, 303);
    let (_, user) = process.admin("GET", "users/minjun", None).await;
    assert_eq!(user["sessions"], 100);
}
