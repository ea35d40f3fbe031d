//! Log lines: to standard error, JSON for machines, filtered by PUMASI_LOG.

use crate::args::LogFormat;
use crate::failure::Failure;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Unless PUMASI_LOG says otherwise: `quiet` where a story tells it all, as of thousands of simulated daemons; long-running roles log
/// what they do; commands only what is wrong.
pub fn init(daemon: bool, quiet: bool, format: Option<LogFormat>) -> Result<(), Failure> {
    let filter = match std::env::var("PUMASI_LOG") {
        Ok(text) if !text.trim().is_empty() => {
            EnvFilter::try_new(&text).map_err(|e| Failure::input(format!("PUMASI_LOG {text:?}: {e}")))?
        }
        _ if quiet => EnvFilter::new("off"),
        _ => EnvFilter::new(if daemon { "info" } else { "warn" }),
    };
    let json = match format {
        Some(format) => format == LogFormat::Json,
        None => daemon && !std::io::stderr().is_terminal(),
    };
    let base = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = if json {
        base.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
    } else {
        base.with_ansi(crate::output::stderr_colours()).try_init()
    };
    done.map_err(|e| Failure::failed(format!("starting the log: {e}")))
}
