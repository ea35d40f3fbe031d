//! The one binary: the roles of a cloud (`serve`, `gateway`, `shim`), the lab, and the command line over the public API.
//!
//! Enters: arguments. Leaves: data on standard output, everything else on standard error, and an exit code ([`failure::Exit`]).

mod acts;
mod apply;
mod args;
mod bill;
mod bundle;
mod complete;
mod connect;
mod context;
mod cp;
mod customer;
mod describe;
mod diff;
mod divergence;
mod events;
mod exec;
mod failure;
mod game_day;
mod get;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod hints;
mod kinds;
mod logging;
mod logs;
mod manifests;
mod moving;
mod output;
mod pact;
mod plan;
mod quarantine;
mod rehearse;
mod replay;
mod retry;
mod roles;
mod rollout;
mod secret;
mod session;
mod sim;
mod status;
mod top;
mod units;
mod user;

use args::{Cli, Command, Wanted};
use clap::Parser;
use failure::{Exit, Failure};
use output::{Tone, note, paint, stderr_colours};
use session::Session;
use std::process::ExitCode;

/// The system's allocator gives the gateway's buffers back and asks for them again at nearly every request.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // There are two of these for each instance: they pay for nothing that they do not need, not even for the command line's own tree.
    if let Some(role) = roles::keeper(std::env::args_os().skip(1)) {
        return role();
    }
    // clap prints help to standard output and ends with 0, wrong usage to standard error with 2.
    complete::answer();
    let mut cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return told(&usage),
    };
    settle(&mut cli.global);
    match &cli.command {
        Command::Shim(dir) => return roles::shim(dir),
        Command::InstanceExec(dir) => return roles::instance_exec(dir),
        Command::DataHelper => return pumasi_node::data_helper_main(),
        Command::Signin => return roles::signin(),
        _ => {}
    }
    match run(&cli) {
        Ok(code) => code,
        Err(failure) => {
            // A difference that was asked for is told by the exit code alone.
            if failure.exit != Exit::Done && !failure.message.is_empty() {
                note(&format!("{} {failure}", paint("error:", Tone::Bad, stderr_colours())));
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// What follows from the words alone. As `serve` takes cloud.toml of this directory, so do the commands that ask its daemon, unless another is
/// named.
fn settle(global: &mut args::Global) {
    global.output = global.form.format();
    global.config_named = global.config.is_some();
    let unnamed = global.config.is_none() && global.server.is_none() && global.context.is_none();
    if unnamed && std::path::Path::new(roles::CONFIG_FILE).is_file() {
        global.config = Some(roles::CONFIG_FILE.into());
    }
}

/// Help goes to standard output and ends with 0; wrong usage to standard error, and ends with 2.
fn told(usage: &clap::Error) -> ExitCode {
    if !usage.use_stderr() {
        // A reader that has gone has read what it wanted.
        let _ = usage.print();
        return ExitCode::SUCCESS;
    }
    let text = usage.render();
    let text = if stderr_colours() { text.ansi().to_string() } else { text.to_string() };
    note(units::numbers_in_words(&text).trim_end());
    ExitCode::from(Exit::Usage as u8)
}

fn run(cli: &Cli) -> Result<ExitCode, Failure> {
    let daemon = matches!(cli.command, Command::Serve | Command::Gateway(_));
    let quiet = matches!(&cli.command, Command::Lab { args } if args.first().is_some_and(|a| a == "sim"));
    logging::init(daemon, quiet, cli.global.log_format)?;
    // The HTTP client takes the process's provider; a second installation is no fault.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let done = match &cli.command {
        Command::Gateway(dir) => return Ok(roles::gateway(dir)),
        Command::Lab { args } if args.first().is_some_and(|a| a == "replay") => {
            replay::replay(&args[1..], cli.global.output)
        }
        Command::Lab { args } if args.first().is_some_and(|a| a == "sim") => sim::sim(&args[1..], cli.global.output),
        Command::Lab { args } => return roles::lab(args),
        Command::Serve => roles::serve(&cli.global),
        Command::LabApp { kind, args } => roles::lab_app(kind, args),
        Command::Config(command) => roles::config(command, &cli.global),
        Command::Restore { from, to, force } => acts::restore(from, to, *force),
        Command::Completions { shell } => {
            let script = complete::script(&shell.to_string());
            let script = script.ok_or_else(|| Failure::input(format!("no completions for {shell}")))?;
            output::print(&String::from_utf8_lossy(&script))
        }
        Command::Context(command) => context::context(command, &cli.global),
        asking => {
            let mut global = cli.global.clone();
            context::fill(&mut global)?;
            let session = Session::open(&global)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|e| Failure::failed(format!("starting: {e}")))?;
            if let Command::Exec(args) = asking {
                // The command's own code.
                return runtime.block_on(exec::exec(&session, args));
            }
            runtime.block_on(ask(&session, asking))
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// The commands over the public API.
async fn ask(session: &Session, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Apply(args) => apply::apply(session, args).await,
        Command::Get { kind: Wanted::All, name, watch, selector } => {
            if name.is_some() || *watch || !selector.is_empty() {
                return Err(Failure::input(
                    "get all takes no name, -w or -l: ask for one kind, as `pumasi get services`",
                ));
            }
            get::all(session).await
        }
        Command::Get { kind: Wanted::Of(kind), name, watch, selector } => {
            let selector = get::Selector::parse(*kind, selector)?;
            match watch {
                false => get::get(session, *kind, name.as_deref(), &selector).await,
                true => get::watch(session, *kind, name.as_deref(), &selector).await,
            }
        }
        Command::Describe { kind, name } => describe::describe(session, *kind, name).await,
        Command::Delete { name, wait, file, .. } => match name {
            Some(name) => acts::delete(session, name, *wait).await,
            None => apply::delete(session, file, *wait).await,
        },
        Command::Diff { file } => diff::diff(session, file).await,
        Command::Rollout(command) => rollout::rollout(session, command).await,
        Command::Restart { service, why, wait } => rollout::restart(session, service, &why.why, wait).await,
        Command::Scale { service, home, why, wait } => rollout::scale(session, service, *home, &why.why, wait).await,
        Command::Watch { kind, count } => events::watch(session, *kind, *count).await,
        Command::Plan(command) => plan::plan(session, command).await,
        Command::Lease(command) => acts::lease(session, command).await,
        Command::Settlement(command) => acts::settlement(session, command).await,
        Command::Journey(command) => acts::journey(session, command).await,
        Command::Move(command) => moving::moving(session, command).await,
        Command::Rehearse(command) => rehearse::rehearse(session, command).await,
        Command::Events { follow, subject, limit } => {
            events::events(session, subject.as_deref(), *limit, *follow).await
        }
        Command::Logs(args) => logs::logs(session, args).await,
        Command::Cp(args) => cp::cp(session, args).await,
        Command::StopAutomation(why) => acts::automation(session, true, &why.why).await,
        Command::ResumeAutomation(why) => acts::automation(session, false, &why.why).await,
        Command::Pact(command) => pact::pact(session, command).await,
        Command::Token(command) => acts::token(session, command).await,
        Command::Quarantine(command) => quarantine::quarantine(session, command).await,
        Command::Divergence(command) => divergence::divergence(session, command).await,
        Command::Customer(command) => customer::customer(session, command).await,
        Command::Secret(command) => secret::secret(session, command).await,
        Command::User(command) => user::user(session, command).await,
        Command::Erase { id } => customer::erase(session, id).await,
        Command::Stop { everything, force, why } => acts::stop(session, *everything, *force, &why.why).await,
        Command::Reload => acts::reload(session).await,
        Command::Backup => acts::backup(session).await,
        Command::AcceptRestored { why, without } => acts::accept_restored(session, &why.why, without).await,
        Command::Console { port } => acts::console(session, *port).await,
        Command::Status => status::status(session).await,
        Command::Doctor => status::doctor(session).await,
        Command::Ping { cloud, count } => status::ping(session, cloud, *count).await,
        Command::Bill { month } => bill::bill(session, month.as_deref()).await,
        Command::Top { once } => top::top(session, *once).await,
        other => Err(Failure::failed(format!("{other:?} does not ask a daemon"))),
    }
}
