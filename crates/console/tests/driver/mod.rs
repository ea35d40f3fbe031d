//! A real browser over the WebDriver protocol (W3C), and nothing more of it than these tests need.
#![allow(dead_code, clippy::unwrap_used)]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const MISSING: &str = "these tests need Debian's chromium and chromium-driver: run .ci/install";

pub struct Browser {
    driver: Child,
    http: reqwest::Client,
    session: String,
    runtime: tokio::runtime::Runtime,
    _profile: tempfile::TempDir,
}

impl Browser {
    pub fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let driver = Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut driver = driver.unwrap_or_else(|e| panic!("chromedriver: {e}; {MISSING}"));
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines
            .map_while(Result::ok)
            .find_map(|line| {
                Some(line.split_once("successfully on port ")?.1.trim_end_matches('.').parse::<u16>().unwrap())
            })
            .unwrap_or_else(|| panic!("chromedriver ended before it listened; {MISSING}"));
        let profile = tempfile::tempdir().unwrap();
        let user_data = format!("--user-data-dir={}", profile.path().display());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1440,960",
            &user_data,
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let mut browser = Self { driver, http, session: String::new(), runtime, _profile: profile };
        let base = format!("http://127.0.0.1:{port}");
        browser.session = format!("{base}/session");
        let made = browser.call("POST", "", &wanted);
        let id = made["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {made}; {MISSING}")).to_owned();
        browser.session = format!("{base}/session/{id}");
        browser
    }

    pub fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let request = self.http.request(method.parse().unwrap(), format!("{}{path}", self.session));
        let request = if method == "POST" { request.json(body) } else { request };
        let answer = self.runtime.block_on(async { request.send().await.unwrap().json::<Value>().await.unwrap() });
        assert!(answer["value"]["error"].is_null(), "{method} {path} {body}: {}; {MISSING}", answer["value"]);
        answer["value"].clone()
    }

    pub fn open(&self, url: &str) {
        self.call("POST", "/url", &json!({ "url": url }));
    }

    /// The value of a script's `return`.
    pub fn run(&self, script: &str) -> Value {
        self.call("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    pub fn text(&self) -> String {
        self.run("return document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    /// Until `script` returns something true.
    #[track_caller]
    pub fn wait(&self, what: &str, script: &str) {
        let end = Instant::now() + PATIENCE;
        while self.run(&format!("return Boolean({script})")) != true {
            assert!(
                Instant::now() < end,
                "never seen: {what}\n{script}\non the page:\n{}\nlog: {:?}",
                self.text(),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    pub fn wait_text(&self, text: &str) {
        self.wait(text, &format!("document.body.innerText.includes({})", json!(text)));
    }

    pub fn click(&self, selector: &str) {
        self.wait(selector, &format!("document.querySelector({})", json!(selector)));
        let found = self.call("POST", "/element", &json!({"using": "css selector", "value": selector}));
        // Not below the frame, which stays where it is.
        self.run(&format!("document.querySelector({}).scrollIntoView({{ block: 'center' }})", json!(selector)));
        let id = found.as_object().and_then(|o| o.values().next()).and_then(Value::as_str).unwrap();
        self.call("POST", &format!("/element/{id}/click"), &json!({}));
    }

    /// Keys as a person presses them, at whatever has the focus.
    pub fn press(&self, keys: &str) {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|k| [json!({"type": "keyDown", "value": k}), json!({"type": "keyUp", "value": k})])
            .collect();
        self.call("POST", "/actions", &json!({"actions": [{"type": "key", "id": "keys", "actions": actions}]}));
    }

    /// A command of Chromium's own protocol.
    fn devtools(&self, command: &str, params: &Value) {
        self.call("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": params}));
    }

    /// As on a screen of this width, in CSS pixels, for somebody who likes it dark or light.
    pub fn screen(&self, width: u32, height: u32, is_dark: bool) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
        let scheme = json!({"name": "prefers-color-scheme", "value": if is_dark { "dark" } else { "light" }});
        let calm = json!({"name": "prefers-reduced-motion", "value": "reduce"});
        self.devtools("Emulation.setEmulatedMedia", &json!({"features": [scheme, calm]}));
    }

    /// What a script gives to its last argument.
    pub fn run_async(&self, script: &str) -> Value {
        self.call("POST", "/execute/async", &json!({"script": script, "args": []}))
    }

    /// What the browser complained about since the last time.
    pub fn log(&self) -> Vec<String> {
        let entries = self.call("POST", "/se/log", &json!({"type": "browser"}));
        let bad = |e: &&Value| matches!(e["level"].as_str(), Some("SEVERE" | "WARNING"));
        entries
            .as_array()
            .unwrap()
            .iter()
            .filter(bad)
            .map(|e| e["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Into the directory named by PUMASI_SCREENSHOTS, if it is.
    pub fn picture(&self, name: &str) {
        if let Some(dir) = std::env::var_os("PUMASI_SCREENSHOTS") {
            self.picture_in(std::path::Path::new(&dir), name);
        }
    }

    pub fn picture_in(&self, dir: &std::path::Path, name: &str) {
        use base64::Engine;
        let picture = self.call("GET", "/screenshot", &Value::Null);
        let bytes = base64::engine::general_purpose::STANDARD.decode(picture.as_str().unwrap()).unwrap();
        std::fs::write(dir.join(format!("{name}.png")), bytes).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser; without a timer of the runtime even a request cannot be begun.
        let _ = self.runtime.block_on(async { self.http.delete(&self.session).send().await });
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
