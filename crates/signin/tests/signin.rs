//! The process as gateway, daemon and browsers meet it: over loopback, with a plain client.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::{ADMIN, GATE, HOST, Process, SESSION, client, digest, settings};
use serde_json::json;

const PASSWORD: &str = "correct horse battery";

#[test]
fn child() {
    harness::child();
}

#[tokio::test]
async fn a_user_signs_up_out_and_in_and_the_gateway_hears_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &settings()).await;
    let next = process.ended(0).await["next"].as_u64().unwrap();
    let mut browser = process.browser();
    assert_eq!(browser.get("account").await.location, "/.pumasi/sign-in?return=%2F.pumasi%2Faccount");
    let page = browser.get("sign-up?return=/notes").await;
    assert_eq!(page.status, 200);
    for (name, value) in
        [("cache-control", "no-store"), ("referrer-policy", "same-origin"), ("x-content-type-options", "nosniff")]
    {
        assert_eq!(page.headers[name], value);
    }
    assert!(page.headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none';"));
    let form = [
        ("login", " MinJun "),
        ("password", PASSWORD),
        ("name", "김민준"),
        ("email", "m@example.org"),
        ("return", "/notes"),
    ];
    let page = browser.post("sign-up", &form).await;
    assert_eq!((page.status, page.location.as_str()), (303, "/notes"));

    let secret = browser.session().unwrap().to_owned();
    let checked = process.gate(json!({"by": "session", "digest": digest(&secret)})).await;
    assert_eq!(checked["user"]["login"], "minjun");
    assert_eq!((&checked["user"]["name"], &checked["user"]["email"]), (&json!("김민준"), &json!("m@example.org")));
    assert_eq!(checked["user"]["subject"].as_str().unwrap().len(), 32);
    assert_eq!(checked["holds_ms"], 60_000);
    assert!(browser.get("account").await.text.contains("minjun"));

    browser.get("sign-out").await;
    assert_eq!(process.who(&secret).await.as_deref(), Some("minjun"), "looking at the page ends nothing");
    let page = browser.post("sign-out", &[]).await;
    assert_eq!((page.location.as_str(), browser.session()), ("/.pumasi/sign-in?out=1", None));
    assert_eq!(process.who(&secret).await, None);
    let ended = process.ended(next).await;
    assert_eq!((&ended["digests"], &ended["all"]), (&json!([digest(&secret)]), &json!(false)));

    let page = browser.sign_in("minjun", PASSWORD).await;
    assert_eq!((page.status, page.location.as_str()), (303, "/"));
    let again = browser.session().unwrap().to_owned();
    assert_ne!(again, secret);
    assert_eq!(process.who(&again).await.as_deref(), Some("minjun"));
}

#[tokio::test]
async fn wrong_passwords_and_unknown_users_are_told_alike_and_slow_down() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &settings()).await;
    process.browser().sign_up("minjun", PASSWORD).await;
    let told = |page: &harness::Page, login: &str| {
        page.text.replace(login, "LOGIN").replace(|c: char| c.is_ascii_hexdigit(), "")
    };
    let mut browser = process.browser();
    let wrong = browser.sign_in("minjun", "wrong horse battery").await;
    let unknown = browser.sign_in("nobody", "wrong horse battery").await;
    assert_eq!((wrong.status, unknown.status), (403, 403));
    assert_eq!(told(&wrong, "minjun"), told(&unknown, "nobody"));
    assert!(wrong.text.contains(r#"role="alert""#));
    let guess = async |browser: &mut harness::Browser, login: &str| {
        // A slow machine may need longer for a guess than the first waits are.
        for tries in 0.. {
            let page = browser.sign_in(login, "wrong horse battery").await;
            match page.status {
                403 => assert!(tries < 12, "guessing is never slowed down"),
                status => return (tries, status),
            }
        }
        unreachable!()
    };
    let (tries, status) = guess(&mut browser, "nobody").await;
    assert!(tries >= 4 && status == 429, "{tries} {status}");
    assert_eq!(browser.sign_in("minjun", PASSWORD).await.status, 303, "another login has not to wait");
    let (tries, status) = guess(&mut browser, "minjun").await;
    assert!(tries >= 5 && status == 429, "{tries} {status}");
    let mut page = browser.sign_in("minjun", PASSWORD).await;
    while page.status == 429 {
        let wait: u64 = page.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait));
        tokio::time::sleep(std::time::Duration::from_secs(wait)).await;
        page = browser.sign_in("minjun", PASSWORD).await;
    }
    assert_eq!(page.status, 303, "who has waited gets in");
}

#[tokio::test]
async fn nobody_without_the_key_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &settings()).await;
    let ask = |path: &str, key: Option<(&'static str, &'static str)>| {
        let request = client().get(format!("{}{path}", process.base)).header("host", HOST);
        async move {
            let request = key.into_iter().fold(request, |r, (name, value)| r.header(name, value));
            request.send().await.unwrap().status().as_u16()
        }
    };
    let wrong = "3333333333333333333333333333333333333333333333333333333333333333";
    for path in ["/.pumasi/sign-in", "/gate/v1/ended?after=0", "/admin/v1/status", "/admin/v1/users", "/", "/else"] {
        for key in [None, Some(("pumasi-gate", wrong)), Some(("pumasi-admin", wrong)), Some(("pumasi-gate", ""))] {
            assert_eq!(ask(path, key).await, 403, "{path} {key:?}");
        }
    }
    assert_eq!(ask("/admin/v1/status", Some(("pumasi-gate", GATE))).await, 403, "the gateway is not the daemon");
    assert_eq!(ask("/.pumasi/sign-in", Some(("pumasi-admin", ADMIN))).await, 403, "nor the daemon the gateway");
    assert_eq!(ask("/gate/v1/ended?after=0", Some(("pumasi-gate", GATE))).await, 200);
    assert_eq!(ask("/else", Some(("pumasi-gate", GATE))).await, 404);
    assert_eq!(ask("/ready", None).await, 204);
}

#[tokio::test]
async fn forged_forms_returns_and_sessions() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &settings()).await;
    let mut victim = process.browser();
    victim.sign_up("minjun", PASSWORD).await;
    let secret = victim.session().unwrap().to_owned();
    victim.get("sign-out").await;
    let token = victim.token.clone();
    let mut attacker = process.browser();
    attacker.get("sign-in").await;

    // Another site's page with the victim's cookies: no token, the attacker's own, or the right one from elsewhere.
    let forged = [("", None), (attacker.token.as_str(), None), (&token, Some(("origin", "https://elsewhere.example")))];
    for (token, field) in forged {
        let mut browser = victim.clone();
        if let Some((name, value)) = field {
            browser.set(name, value);
        }
        assert_eq!(browser.post("sign-out", &[("token", token)]).await.status, 403);
    }
    for (name, value) in [
        ("origin", "null"),
        ("origin", "http://docs.example"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        let mut browser = victim.clone();
        browser.set(name, value);
        assert_eq!(browser.post("sign-out", &[]).await.status, 403, "{name}: {value}");
    }
    assert_eq!(process.who(&secret).await.as_deref(), Some("minjun"));
    let mut honest = victim.clone();
    honest.set("origin", "https://docs.example");
    honest.set("sec-fetch-site", "same-origin");
    assert_eq!(honest.post("sign-out", &[]).await.status, 303);

    // A session that an attacker put into the browser is not the one that the victim signs in to.
    let mut fixed = process.browser();
    fixed.cookies.insert(SESSION.into(), "A".repeat(43));
    fixed.sign_in("minjun", PASSWORD).await;
    assert_ne!(fixed.session().unwrap(), "A".repeat(43));
    assert_eq!(process.who(&"A".repeat(43)).await, None);
    // A token from before the sign-in is none after it.
    let before = attacker.token.clone();
    attacker.sign_in("minjun", PASSWORD).await;
    assert_eq!(attacker.post("sign-out", &[("token", &before)]).await.status, 403);
    // Who signs in again leaves no session behind.
    let old = fixed.session().unwrap().to_owned();
    fixed.get("sign-in?again=1").await;
    fixed.post("sign-in", &[("login", "minjun"), ("password", PASSWORD)]).await;
    assert_eq!((process.who(&old).await, process.who(fixed.session().unwrap()).await), (None, Some("minjun".into())));

    for hostile in [
        "//elsewhere.example",
        "/\\elsewhere.example",
        "https://elsewhere.example",
        "/a\r\nb: c",
        "javascript:alert(1)",
    ] {
        let mut browser = process.browser();
        browser.get("sign-in").await;
        let page = browser.post("sign-in", &[("login", "minjun"), ("password", PASSWORD), ("return", hostile)]).await;
        assert_eq!((page.status, page.location.as_str()), (303, "/"), "{hostile:?}");
    }
    // What is put into a page stays text.
    let mut browser = process.browser();
    browser.get("sign-in?return=%22%3E%3Cscript%3E").await;
    let page = browser.post("sign-in", &[("login", "\"><script>x"), ("password", "x")]).await;
    assert!(!page.text.contains("<script>"), "{}", page.text);
    // Another host than the service's.
    browser.set("host", "elsewhere.example");
    assert_eq!(browser.get("sign-in").await.status, 421);
    // Without TLS no cookie would stay, and the page says so.
    let mut plain = process.browser();
    plain.set("x-forwarded-proto", "http");
    assert!(plain.get("sign-in").await.text.contains("https://docs.example/.pumasi/sign-in"));
}

#[tokio::test]
async fn invitations_are_good_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut closed = settings();
    closed["sign_up"] = "invited".into();
    let process = Process::start(dir.path(), &closed).await;
    let mut stranger = process.browser();
    assert!(
        stranger.get("sign-up").await.text.contains("pumasi user invite"),
        "an empty realm says what is to be done"
    );
    stranger.get("sign-in").await;
    assert_eq!(stranger.post("sign-up", &[("login", "eve"), ("password", PASSWORD)]).await.status, 403);

    let path = process.invite(json!({"login": "minjun", "groups": ["staff", "서울"], "ttl_hours": 1})).await;
    let invitation = path.split_once('=').unwrap().1.to_owned();
    let mut browser = process.browser();
    for _ in 0..2 {
        assert!(browser.get(&path).await.text.contains("minjun"), "looking at it does not use it up");
    }
    let form = [("invitation", invitation.as_str()), ("login", "root"), ("password", PASSWORD)];
    assert_eq!(browser.post("sign-up", &form).await.status, 303);
    let checked = process.gate(json!({"by": "session", "digest": digest(browser.session().unwrap())})).await;
    assert_eq!((&checked["user"]["login"], &checked["user"]["groups"]), (&json!("minjun"), &json!(["staff", "서울"])));
    let mut second = process.browser();
    second.get(&path).await;
    second.get("sign-in").await;
    assert_eq!(second.post("sign-up", &form).await.status, 403);
    // Two at the same moment: one of them.
    let path = process.invite(json!({"ttl_hours": 1})).await;
    let invitation = path.split_once('=').unwrap().1.to_owned();
    let asked = ["one", "two", "three", "four"].map(|login| {
        let mut browser = process.browser();
        let invitation = invitation.clone();
        async move {
            browser.get("sign-in").await;
            browser
                .post("sign-up", &[("invitation", &invitation), ("login", login), ("password", PASSWORD)])
                .await
                .status
        }
    });
    let [a, b, c, d] = asked;
    let (a, b, c, d) = tokio::join!(a, b, c, d);
    assert_eq!([a, b, c, d].iter().filter(|s| **s == 303).count(), 1);
    assert_eq!(process.admin("GET", "status", None).await.1["users"], 2);

    // Back in: for users only, once, and not for one that ended since.
    for (invite, status) in [
        (json!({"login": "nobody", "recovery": true, "ttl_hours": 1}), 404),
        (json!({"recovery": true, "ttl_hours": 1}), 400),
        (json!({"login": "minjun", "ttl_hours": 1}), 409),
        (json!({"login": "new", "ttl_hours": 0}), 400),
        (json!({"login": "new", "ttl_hours": 721}), 400),
        (json!({"groups": ["a,b"], "ttl_hours": 1}), 400),
        (json!({"else": 1, "ttl_hours": 1}), 400),
    ] {
        assert_eq!(process.admin("POST", "invitations", Some(invite.clone())).await.0, status, "{invite}");
    }
    let path = process.invite(json!({"login": "minjun", "recovery": true, "ttl_hours": 1})).await;
    let unused = process.invite(json!({"login": "minjun", "recovery": true, "ttl_hours": 1})).await;
    let mut back = process.browser();
    back.get(&path).await;
    let invitation = path.split_once('=').unwrap().1.to_owned();
    let page = back.post("sign-up", &[("invitation", &invitation)]).await;
    assert_eq!((page.status, page.location.as_str()), (303, "/.pumasi/account"));
    assert_eq!(process.who(back.session().unwrap()).await.as_deref(), Some("minjun"));
    assert_eq!(back.post("sign-up", &[("invitation", &invitation)]).await.status, 403);
    process.admin("DELETE", "users/minjun", None).await;
    let mut late = process.browser();
    late.get(&unused).await;
    late.get("sign-in").await;
    let invitation = unused.split_once('=').unwrap().1.to_owned();
    assert_eq!(late.post("sign-up", &[("invitation", &invitation)]).await.status, 403);
}

#[tokio::test]
async fn whoever_ends_is_let_in_by_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &settings()).await;
    let mut browser = process.browser();
    browser.sign_up("minjun", PASSWORD).await;
    let (_, user) = process.admin("GET", "users/minjun", None).await;
    assert_eq!((&user["sessions"], &user["password"], &user["disabled"]), (&json!(1), &json!(true), &json!(false)));
    let first = user["subject"].clone();

    for (change, word) in [(json!({"disabled": true}), "disabled"), (json!({"sign_out": true}), "signed out")] {
        process.admin("POST", "users/minjun", Some(json!({"disabled": false}))).await;
        browser.sign_in("minjun", PASSWORD).await;
        let secret = browser.session().unwrap().to_owned();
        assert_eq!(process.who(&secret).await.as_deref(), Some("minjun"));
        let next = process.ended(0).await["next"].as_u64().unwrap();
        assert_eq!(process.admin("POST", "users/minjun", Some(change)).await.0, 200);
        assert_eq!(process.who(&secret).await, None, "{word}");
        let ended = process.ended(next).await;
        assert!(ended["digests"].as_array().unwrap().contains(&json!(digest(&secret))), "{word}: {ended}");
        let status = browser.sign_in("minjun", PASSWORD).await.status;
        assert_eq!(status, if word == "disabled" { 403 } else { 303 });
    }
    // What applications are told changes at once.
    let secret = browser.session().unwrap().to_owned();
    let next = process.ended(0).await["next"].as_u64().unwrap();
    let (_, user) = process.admin("POST", "users/minjun", Some(json!({"groups": ["staff"]}))).await;
    assert_eq!(user["groups"], json!(["staff"]));
    assert_eq!(process.ended(next).await["digests"], json!([digest(&secret)]));
    assert_eq!(process.who(&secret).await.as_deref(), Some("minjun"), "it is asked for anew, and still signed in");

    let (status, was) = process.admin("DELETE", "users/minjun", None).await;
    assert_eq!((status, &was["login"]), (200, &json!("minjun")));
    assert_eq!(process.who(&secret).await, None);
    assert_eq!(browser.sign_in("minjun", PASSWORD).await.status, 403);
    assert_eq!(process.admin("GET", "users/minjun", None).await.0, 404);
    assert_eq!(process.admin("DELETE", "users/minjun", None).await.0, 404);
    // The login is free again, for somebody else.
    let page = process.browser().sign_up("minjun", "another horse battery").await;
    assert_eq!(page.status, 303);
    let (_, user) = process.admin("GET", "users/minjun", None).await;
    assert_ne!(user["subject"], first);
    assert_eq!(process.browser().sign_in("minjun", PASSWORD).await.status, 403, "the old password is nobody's");
}

#[tokio::test]
async fn users_are_listed_by_pages() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &settings()).await;
    for (i, login) in ["d", "a", "c", "민준", "b"].iter().enumerate() {
        let mut browser = process.browser().from(&format!("192.0.2.{i}"));
        assert_eq!(browser.sign_up(login, PASSWORD).await.status, 303);
    }
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let (status, users) = process.admin("GET", &format!("users?after={after}&limit=2"), None).await;
        assert_eq!(status, 200);
        seen.extend(users["items"].as_array().unwrap().iter().map(|u| u["login"].as_str().unwrap().to_owned()));
        match users["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, ["a", "b", "c", "d", "민준"]);
    assert_eq!(process.admin("GET", "users/%EB%AF%BC%EC%A4%80", None).await.0, 200);
    for bad in ["users?limit=0", "users?limit=501", "users?limit=x", "users/%2E"] {
        assert_eq!(process.admin("GET", bad, None).await.0, 400, "{bad}");
    }
    assert_eq!(process.admin("GET", "status", None).await.1, json!({"users": 5, "sessions": 5}));
}
