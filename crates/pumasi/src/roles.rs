//! The long-running roles of this binary and what each calls.

use crate::args::{ConfigCommand, Dir, Global};
use crate::failure::Failure;
use crate::output::{self, Format};
use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use pumasi_lab::WrongUsage;
use pumasi_node::{Config, Node};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// Taken from this directory where none is named.
pub const CONFIG_FILE: &str = "cloud.toml";

/// The configuration that a command means: named, or in this directory.
pub fn config_path(global: &Global) -> PathBuf {
    global.config.clone().unwrap_or_else(|| PathBuf::from(CONFIG_FILE))
}

fn load(global: &Global) -> Result<Config, Failure> {
    // Shims and instances run in other directories: what is relative to the file must be found from everywhere.
    let path = std::path::absolute(config_path(global)).map_err(|e| Failure::failed(format!("this directory: {e}")))?;
    Config::load(&path).map_err(|e| Failure::input(e.to_string()))
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("starting the runtime: {e}")))
}

pub fn serve(global: &Global) -> Result<(), Failure> {
    let config = load(global)?;
    let executable = std::env::current_exe().map_err(|e| Failure::failed(format!("finding this program: {e}")))?;
    runtime()?.block_on(async {
        let failed = |e: std::io::Error| Failure::failed(format!("listening for signals: {e}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let stop = async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        };
        pumasi_node::serve(config, executable, console(), stop).await.map_err(|e| Failure::failed(e.to_string()))
    })
}

/// The console's files, beside the API. They hold no data: the page asks for a token.
fn console() -> Router<Arc<Node>> {
    let index = || async { Redirect::permanent("/console/") };
    Router::new()
        .route("/", get(index))
        .route("/console", get(index))
        .route("/console/", get(|headers: HeaderMap| async move { asset("", &headers) }))
        .route(
            "/console/{*path}",
            get(|Path(path): Path<String>, headers: HeaderMap| async move { asset(&path, &headers) }),
        )
}

fn asset(path: &str, headers: &HeaderMap) -> Response {
    let Some(asset) = pumasi_console::asset(path) else { return StatusCode::NOT_FOUND.into_response() };
    let common = [
        (header::CONTENT_TYPE, asset.content_type.to_owned()),
        (header::ETAG, asset.etag.clone()),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::CONTENT_SECURITY_POLICY, pumasi_console::CONTENT_SECURITY_POLICY.to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
    ];
    let held = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    if held == Some(asset.etag.as_str()) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    (common, asset.bytes).into_response()
}

pub fn gateway(dir: &Dir) -> ExitCode {
    pumasi_gateway::gateway_main(&dir.dir)
}
pub fn shim(dir: &Dir) -> ExitCode {
    pumasi_engine::shim_main(&dir.dir)
}
pub fn instance_exec(dir: &Dir) -> ExitCode {
    pumasi_engine::instance_exec_main(&dir.dir)
}

pub fn lab(args: &[String]) -> Result<ExitCode, Failure> {
    let executable = std::env::current_exe().map_err(|e| Failure::failed(format!("finding this program: {e}")))?;
    runtime()?.block_on(pumasi_lab::run(executable, args)).map(ExitCode::from).map_err(|e| match e.is::<WrongUsage>() {
        true => Failure::input(e.to_string()),
        false => Failure::failed(format!("{e:#}")),
    })
}

pub fn lab_app(kind: &str, args: &[String]) -> Result<(), Failure> {
    pumasi_lab::example::run(kind, args).map_err(|e| Failure::failed(e.to_string()))
}

pub fn config(command: &ConfigCommand, global: &Global) -> Result<(), Failure> {
    let config = load(global)?;
    match command {
        ConfigCommand::Check => output::note(&format!("{}: fine", config_path(global).display())),
        ConfigCommand::Show => {
            // People get it in the language of the file.
            let text = match global.output {
                Format::Json => output::json(&config)?,
                Format::Yaml => output::yaml(&config)?,
                Format::Table | Format::Name => {
                    pumasi_node::config_shown(&config).map_err(|e| Failure::failed(format!("writing TOML: {e}")))?
                }
            };
            output::print(&text)?;
        }
    }
    Ok(())
}
