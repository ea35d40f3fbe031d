//! What the forwarder adds to what it passes on: in a lab the wish for a crowd, elsewhere nothing.
#![allow(clippy::unwrap_used)]

use axum::Router;
use axum::http::{StatusCode, Uri};
use axum::response::IntoResponse;
use pumasi_api::Client;
use pumasi_console::Forwarder;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

/// A daemon that knows who asks and nothing else.
async fn daemon(uri: Uri) -> impl IntoResponse {
    if uri.path() == "/v1/whoami" { (StatusCode::OK, "{}") } else { (StatusCode::NOT_FOUND, "{}") }
}

struct Page {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Page {
    fn of(forwarder: &Forwarder) -> Self {
        let url = forwarder.url();
        let (base, token) = url.split_once("/console/#token=").unwrap();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
        Self { http, base: base.to_owned(), token: token.to_owned() }
    }

    /// The status, and what a lab offers.
    async fn ask(&self, method: &str, path: &str, token: &str) -> (u16, Option<String>) {
        let request = self.http.request(method.parse().unwrap(), format!("{}{path}", self.base)).bearer_auth(token);
        let answer = request.send().await.unwrap();
        let lab = answer.headers().get("pumasi-lab").map(|v| v.to_str().unwrap().to_owned());
        (answer.status().as_u16(), lab)
    }
}

#[tokio::test]
async fn a_crowd_is_wished_for_in_a_lab_and_nowhere_else() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("api.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(daemon)).await });
    let client = Client::over_socket(&socket, None, Duration::from_secs(10)).unwrap();

    let alone = Forwarder::start(client.clone(), 0).await.unwrap();
    let page = Page::of(&alone);
    assert_eq!(page.ask("GET", "/v1/whoami", &page.token).await, (200, None));
    assert_eq!(page.ask("POST", "/lab/crowd", &page.token).await.0, 404);

    let (wish, mut wishes) = mpsc::channel(1);
    let lab = Forwarder::start_with_crowd(client, 0, wish).await.unwrap();
    let page = Page::of(&lab);
    assert_eq!(page.ask("GET", "/v1/whoami", &page.token).await, (200, Some("crowd".into())));
    assert_eq!(page.ask("GET", "/v1/other", &page.token).await, (404, None));
    assert_eq!(page.ask("POST", "/lab/crowd", "another").await.0, 401);
    assert!(wishes.try_recv().is_err(), "a stranger's wish was heard");
    assert_eq!(page.ask("GET", "/lab/crowd", &page.token).await.0, 405);
    assert_eq!(page.ask("POST", "/lab/crowd", &page.token).await.0, 202);
    assert_eq!(page.ask("POST", "/lab/crowd", &page.token).await.0, 409);
    assert_eq!(wishes.try_recv(), Ok(()));
    assert_eq!(page.ask("POST", "/lab/crowd", &page.token).await.0, 202);
    drop(wishes);
    assert_eq!(page.ask("POST", "/lab/crowd", &page.token).await.0, 410);
}
