//! The long-running roles of this binary and what each calls.

use crate::args::{ConfigCommand, Dir, Global};
use crate::failure::Failure;
use crate::output::{self, Format};
use axum::Router;
use axum::extract::Path as UrlPath;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use pumasi_lab::WrongUsage;
use pumasi_node::{Config, ConfigError, Node};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// A gateway that was told to end has let go of its addresses by then.
const GATEWAY_ENDS: Duration = Duration::from_secs(3);

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
    let runtime = runtime()?;
    // First of all: a signal that comes before somebody listens would end it, SIGHUP too.
    let guard = runtime.enter();
    let failed = |e: std::io::Error| Failure::failed(format!("listening for signals: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    drop(guard);
    let config = load(global)?;
    can_come_up(&config)?;
    let executable = std::env::current_exe().map_err(|e| Failure::failed(format!("finding this program: {e}")))?;
    runtime.block_on(async {
        let (reload, reloads) = mpsc::channel(1);
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                // One that waits already reads what this one means.
                let _ = reload.try_send(());
            }
        });
        let stop = async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        };
        pumasi_node::serve(config, executable, console(), stop, reloads)
            .await
            .map_err(|e| Failure::failed(e.to_string()))
    })
}

/// A gateway that could not come up is told before anything is started. One that runs already goes on, whatever became of its files.
fn can_come_up(config: &Config) -> Result<(), Failure> {
    let told = |(field, why): (&str, String)| format!("{field}: {why}");
    let runs = pumasi_node::gateway::runs(config);
    if let Some(named) = config.wrong_certificates().into_iter().find(|(field, _)| !runs || field.starts_with("api.")) {
        return Err(Failure::input(told(named)));
    }
    // One that ends may be about to let go.
    match config.gateway_ports_taken(GATEWAY_ENDS).into_iter().next() {
        Some(named) => Err(Failure::failed(told(named))),
        None => Ok(()),
    }
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
            get(|UrlPath(path): UrlPath<String>, headers: HeaderMap| async move { asset(&path, &headers) }),
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
/// A keeper of an instance as the engine starts it, word for word; whatever else is asked goes the way of all commands.
pub fn keeper(mut args: impl Iterator<Item = OsString>) -> Option<impl FnOnce() -> ExitCode> {
    let role: fn(&Path) -> ExitCode = match args.next()?.to_str()? {
        "shim" => pumasi_engine::shim_main,
        "instance-exec" => pumasi_engine::instance_exec_main,
        _ => return None,
    };
    let (word, dir) = (args.next()?, args.next()?);
    let whole = word == "--dir" && args.next().is_none();
    whole.then_some(move || role(Path::new(&dir)))
}

pub fn shim(dir: &Dir) -> ExitCode {
    pumasi_engine::shim_main(&dir.dir)
}
pub fn instance_exec(dir: &Dir) -> ExitCode {
    pumasi_engine::instance_exec_main(&dir.dir)
}

/// Its settings are in the environment: the engine starts it.
pub fn signin() -> ExitCode {
    if let Err(failure) = crate::logging::init(true, false, None) {
        eprintln!("pumasi signin: {failure}");
    }
    match pumasi_signin::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("pumasi signin: {why}");
            ExitCode::FAILURE
        }
    }
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
        ConfigCommand::Check => {
            let path = config_path(global);
            let text =
                std::fs::read_to_string(&path).map_err(|e| Failure::input(format!("{}: {e}", path.display())))?;
            let faults = config.faults_here(&text);
            if !faults.is_empty() {
                return Err(Failure::input(ConfigError::Faults { path, faults }.to_string()));
            }
            output::note(&format!("{}: fine", path.display()));
        }
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
