//! Killed at any moment, too many at once, other clouds: what was acknowledged counts, and nothing is half there.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Process, settings};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const PASSWORD: &str = "correct horse battery";

#[test]
fn child() {
    harness::child();
}

fn database(path: &Path) -> rusqlite::Connection {
    let db = rusqlite::Connection::open(path).unwrap();
    db.busy_timeout(Duration::from_secs(5)).unwrap();
    db
}

/// Each user has what it was made with, and nothing belongs to nobody.
fn is_whole(dir: &Path) {
    let db = database(&dir.join("realm/realm.sqlite"));
    let check: String = db.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(check, "ok");
    db.execute("ATTACH ?1 AS own", [dir.join("own/own.sqlite").to_str().unwrap()]).unwrap();
    for (what, query) in [
        (
            "users without their password",
            "SELECT count(*) FROM user u WHERE NOT EXISTS (SELECT 1 FROM own.password p WHERE p.subject = u.subject AND p.no = u.password_no)",
        ),
        ("sessions of nobody", "SELECT count(*) FROM session WHERE subject NOT IN (SELECT subject FROM user)"),
        ("users that came back", "SELECT count(*) FROM user WHERE subject IN (SELECT id FROM tombstone)"),
        ("users counted wrongly", "SELECT abs((SELECT users FROM counted) - (SELECT count(*) FROM user))"),
    ] {
        let n: i64 = db.query_row(query, [], |r| r.get(0)).unwrap();
        assert_eq!(n, 0, "{what}");
    }
}

/// PUMASI_KILLS: how often. What is not acknowledged when it is killed may be there or not; what is, is.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_nothing_acknowledged_is_lost_and_nobody_is_half_there() {
    let kills: u32 = std::env::var("PUMASI_KILLS").map_or(12, |n| n.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let number = Arc::new(AtomicU32::new(0));
    let (mut made, mut out, mut gone) = (Vec::<(String, String)>::new(), Vec::<String>::new(), Vec::<String>::new());
    for round in 0..kills {
        let mut process = Process::start(dir.path(), &settings()).await;
        // What was acknowledged before.
        for (login, secret) in &made {
            assert_eq!(process.who(secret).await.as_ref(), Some(login), "round {round}");
        }
        for secret in &out {
            assert_eq!(process.who(secret).await, None, "round {round}: signed out, and back");
        }
        for login in &gone {
            assert_eq!(
                process.admin("GET", &format!("users/{login}"), None).await.0,
                404,
                "round {round}: deleted, and back"
            );
        }
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let mut workers = Vec::new();
        for worker in 0..4 {
            let (browser, base, tell, number) = (process.browser(), process.base.clone(), tell.clone(), number.clone());
            workers.push(tokio::spawn(async move {
                loop {
                    let n = number.fetch_add(1, Ordering::Relaxed);
                    let login = format!("u{n}");
                    let mut browser = browser.clone().from(&format!("10.{}.{}.{worker}", n / 250, n % 250));
                    if browser.sign_up(&login, PASSWORD).await.status != 303 {
                        tokio::task::yield_now().await;
                        continue;
                    }
                    let secret = browser.session().unwrap().to_owned();
                    let _ = tell.send(("made", login.clone(), secret.clone()));
                    match n % 3 {
                        0 => {
                            browser.get("sign-out").await;
                            let _ = tell.send(("ending", login.clone(), secret.clone()));
                            if browser.post("sign-out", &[]).await.status == 303 {
                                let _ = tell.send(("out", login, secret));
                            }
                        }
                        1 => {
                            let request = harness::client().delete(format!("{base}/admin/v1/users/{login}"));
                            let _ = tell.send(("ending", login.clone(), secret.clone()));
                            if request
                                .header("pumasi-admin", harness::ADMIN)
                                .send()
                                .await
                                .is_ok_and(|r| r.status() == 200)
                            {
                                let _ = tell.send(("gone", login, secret));
                            }
                        }
                        _ => {}
                    }
                }
            }));
        }
        // At another moment each time.
        tokio::time::sleep(Duration::from_millis(150 + u64::from(round) * 37 % 300)).await;
        process.kill();
        for worker in workers {
            worker.abort();
            let _ = worker.await;
        }
        drop(tell);
        while let Some((what, login, secret)) = told.recv().await {
            match what {
                "made" => made.push((login, secret)),
                "ending" => made.retain(|(l, _)| *l != login),
                "out" => out.push(secret),
                _ => gone.push(login),
            }
        }
        is_whole(dir.path());
    }
    assert!(made.len() + out.len() + gone.len() > kills as usize / 2, "hardly anything happened");
    eprintln!("{kills} kills: {} users, {} signed out, {} deleted", made.len(), out.len(), gone.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_sign_ins_at_once_are_bounded_and_others_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let process = Arc::new(Process::start(dir.path(), &settings()).await);
    let mut user = process.browser();
    user.sign_up("minjun", PASSWORD).await;
    let secret = user.session().unwrap().to_owned();
    let before_kib = process.memory_kib();
    let mut ready = process.browser();
    ready.get("sign-in").await;
    let (done, mut statuses) = tokio::sync::mpsc::unbounded_channel();
    let mut asked = Vec::new();
    for i in 0..500 {
        let (done, mut browser) = (done.clone(), ready.clone().from(&format!("10.0.{}.{}", i / 250, i % 250)));
        asked.push(tokio::spawn(async move {
            let login = format!("u{}", i % 50);
            let page = browser.post("sign-in", &[("login", &login), ("password", "wrong horse battery")]).await;
            let _ = done.send(page.status);
        }));
    }
    tokio::time::sleep(Duration::from_millis(30)).await;
    for one in asked.iter().step_by(2) {
        one.abort();
    }
    // The gateway's own questions do not wait for any of it.
    let mut longest = Duration::ZERO;
    for _ in 0..50 {
        let begun = Instant::now();
        assert_eq!(process.who(&secret).await.as_deref(), Some("minjun"));
        longest = longest.max(begun.elapsed());
    }
    assert!(longest < Duration::from_secs(2), "{longest:?}");
    for one in asked {
        let _ = one.await;
    }
    drop(done);
    let (mut wrong, mut busy) = (0, 0);
    while let Some(status) = statuses.recv().await {
        match status {
            403 | 429 => wrong += 1,
            503 => busy += 1,
            other => panic!("{other}"),
        }
    }
    assert!(wrong > 0 && wrong + busy >= 250, "{wrong} {busy}");
    let grown_kib = process.memory_kib() - before_kib;
    assert!(grown_kib < 200 << 10, "{grown_kib} KiB more");
    assert_eq!(process.browser().from("10.9.9.9").sign_in("minjun", PASSWORD).await.status, 303);
    eprintln!("{wrong} were worked on, {busy} sent away; {grown_kib} KiB more; the longest check took {longest:?}");
}

#[tokio::test]
async fn a_stop_is_orderly_and_a_start_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), &settings()).await;
    let mut browser = process.browser();
    browser.sign_up("minjun", PASSWORD).await;
    let secret = browser.session().unwrap().to_owned();
    let (http, base) = (process.http.clone(), process.base.clone());
    let next = process.ended(0).await["next"].as_u64().unwrap();
    let open = tokio::spawn(async move {
        let request = http.get(format!("{base}/gate/v1/ended?after={next}")).header("pumasi-gate", harness::GATE);
        request.send().await.map(|r| r.status().as_u16())
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    terminate(process.child.id());
    assert!(process.child.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(3), "an open question holds nothing up");
    assert_eq!(open.await.unwrap().ok(), Some(503));
    let process = Process::start(dir.path(), &settings()).await;
    assert_eq!(process.who(&secret).await.as_deref(), Some("minjun"));
    assert!(process.ended(next).await["all"].as_bool().unwrap(), "numbers of another process are none of this one's");
}

fn terminate(pid: u32) {
    let killed = std::process::Command::new("kill").arg(pid.to_string()).status().unwrap();
    assert!(killed.success());
}

/// Sign-in by password there, and what the page says.
async fn enters(process: &Process, password: &str) -> (u16, String) {
    let mut browser = process.browser();
    let text = browser.get("sign-in").await.text;
    (browser.post("sign-in", &[("login", "minjun"), ("password", password)]).await.status, text)
}

fn copy_realm(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.join("realm")).unwrap();
    let db = database(&from.join("realm/realm.sqlite"));
    let _ = std::fs::remove_file(to.join("realm/realm.sqlite"));
    db.execute("VACUUM INTO ?1", [to.join("realm/realm.sqlite").to_str().unwrap()]).unwrap();
}

fn hashes_in(path: &Path) -> i64 {
    database(path).query_row("SELECT count(*) FROM password", [], |r| r.get(0)).unwrap()
}

#[tokio::test]
async fn hashes_stay_or_go_as_the_settings_say() {
    let (home, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (realm, own) = (home.path().join("realm/realm.sqlite"), home.path().join("own/own.sqlite"));
    let with = |hashes: &str, epoch: u64| {
        let mut settings = settings();
        settings["hashes"] = hashes.into();
        settings["epoch"] = epoch.into();
        settings
    };
    let process = Process::start(home.path(), &with("withheld", 1)).await;
    let mut browser = process.browser();
    browser.sign_up("minjun", PASSWORD).await;
    let secret = browser.session().unwrap().to_owned();
    assert_eq!((hashes_in(&realm), hashes_in(&own)), (0, 1));
    // Elsewhere, on a copy: sessions go on, passwords do not, and the page says so.
    copy_realm(home.path(), away.path());
    let there = Process::start_at(away.path(), None, &with("withheld", 2)).await;
    assert_eq!(there.who(&secret).await.as_deref(), Some("minjun"));
    let (status, text) = enters(&there, PASSWORD).await;
    assert!(status == 403 && text.contains("passwords do not work here"), "{status} {text}");
    drop(there);
    let there = Process::start(away.path(), &with("withheld", 2)).await;
    let (status, text) = enters(&there, PASSWORD).await;
    assert!(status == 403 && text.contains("some passwords did not come along"), "{status} {text}");
    // A password that is set there is the one that counts, also back at home, where only the old one is known.
    let path = there.invite(json!({"login": "minjun", "recovery": true, "ttl_hours": 1})).await;
    let mut back = there.browser();
    back.get(&path).await;
    let invitation = path.split_once('=').unwrap().1.to_owned();
    back.post("sign-up", &[("invitation", &invitation)]).await;
    back.get("account").await;
    assert_eq!(back.post("account/password", &[("password", "another horse battery")]).await.status, 303);
    assert_eq!(enters(&there, "another horse battery").await.0, 303);
    drop((there, process));
    copy_realm(away.path(), home.path());
    for side in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(home.path().join(format!("realm/realm.sqlite{side}")));
    }
    let process = Process::start(home.path(), &with("withheld", 3)).await;
    assert_eq!(enters(&process, PASSWORD).await.0, 403, "the old password does not come back");
    drop(process);
    // Hot: there they go into the realm, and back out of it.
    let own_there = away.path().join("own/own.sqlite");
    let realm_there = away.path().join("realm/realm.sqlite");
    for (hashes, in_realm, in_own) in [("hot", 1, 0), ("withheld", 0, 1), ("hot", 1, 0)] {
        let there = Process::start(away.path(), &with(hashes, 2)).await;
        assert_eq!((hashes_in(&realm_there), hashes_in(&own_there)), (in_realm, in_own), "{hashes}");
        assert_eq!(enters(&there, "another horse battery").await.0, 303, "{hashes}");
    }
    let third = tempfile::tempdir().unwrap();
    copy_realm(away.path(), third.path());
    let there = Process::start_at(third.path(), None, &with("hot", 4)).await;
    assert_eq!(enters(&there, "another horse battery").await.0, 303, "they went along");
    let (_, user): (u16, Value) = there.admin("GET", "users/minjun", None).await;
    assert_eq!(user["password"], true);
}

#[tokio::test]
async fn another_reads_the_realm_while_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &settings()).await;
    let db = database(&dir.path().join("realm/realm.sqlite"));
    db.execute_batch("BEGIN; SELECT count(*) FROM user;").unwrap();
    for i in 0..5 {
        assert_eq!(process.browser().sign_up(&format!("u{i}"), PASSWORD).await.status, 303);
    }
    let seen: i64 = db.query_row("SELECT count(*) FROM user", [], |r| r.get(0)).unwrap();
    assert_eq!(seen, 0, "one snapshot");
    db.execute_batch("COMMIT").unwrap();
    let mode: String = db.query_row("PRAGMA journal_mode", [], |r| r.get(0)).unwrap();
    assert_eq!(mode, "wal");
}
