//! A command of a person in an instance of a service.
//!
//! Enters: who, which service, which command; then frames ([`pumasi_api::exec`]). Leaves: frames; `exec_begun` and `exec_ended` in the
//! journal.
//! Always holds: it is an instance of the caller's own service, at home, never one that runs for another cloud; what the command may do is
//! the engine's business and nothing more than the application may. It ends when the client is gone, its token is no longer good, nothing
//! was said for [`IDLE`], or the daemon stops; of what is on its way there is one frame in each direction and
//! [`INPUT_BYTES_MAX`] of input.

use super::auth::Caller;
use super::body::{ApiError, Json};
use super::params::Path;
use super::services::theirs;
use crate::Node;
use crate::node::Note;
use crate::object::ServiceRecord;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use bytes::{Buf, Bytes, BytesMut};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use pumasi_api::exec::{
    COMMAND_BYTES_MAX, Ending, FRAME_BYTES_MAX, Frame, Frames, INPUT_BYTES_MAX, PROTOCOL, RunCommand,
};
use pumasi_api::{Fault, Principal, Problem};
use pumasi_engine::{EngineError, Exit, InstanceState, InstanceStatus, Session, SessionStream, TerminalSize};
use pumasi_terms::{InstanceId, ServiceName};
use serde_json::json;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

/// At one time, of all services of this cloud. The engine has a bound for each instance.
pub(crate) const EXECS_MAX: usize = 64;
/// Neither input nor output for so long: it is over.
const IDLE: Duration = Duration::from_secs(15 * 60);
/// So often it is looked whether it may go on.
const LOOK: Duration = Duration::from_secs(2);
/// For a client to take its connection over.
const TAKE_OVER: Duration = Duration::from_secs(10);
/// After the end of the command, for output that somebody else still holds open.
const DRAIN: Duration = Duration::from_secs(2);
/// Of what was called, in the journal.
const TOLD_CHARS_MAX: usize = 256;
const WORDS_MAX: usize = 1_024;

pub async fn exec(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Extension(caller): Extension<Caller>,
    upgrade: Option<Extension<OnUpgrade>>,
    Path(name): Path<ServiceName>,
    headers: HeaderMap,
    Json(asked): Json<RunCommand>,
) -> Result<Response, ApiError> {
    let record = theirs(&node, &who, &name)?.body;
    check(&asked)?;
    let instance = choose(&node, &who, &record, asked.instance.as_ref())?;
    let wanted = headers.get(header::UPGRADE).is_some_and(|p| p.as_bytes().eq_ignore_ascii_case(PROTOCOL.as_bytes()));
    let Some(Extension(upgrade)) = upgrade.filter(|_| wanted) else {
        let text = format!("a command needs the connection for itself: ask by HTTP/1.1 with Upgrade: {PROTOCOL}");
        return Err(Problem::new(426, "upgrade_required", Fault::Input, text).into());
    };
    let place = node.exec_places.clone().try_acquire_owned().map_err(|_| {
        let text = format!("{EXECS_MAX} commands run in instances of this cloud already; try again when one has ended");
        Problem { retry_after_ms: Some(5_000), ..Problem::new(429, "too_many_commands", Fault::Us, text) }
    })?;
    let terminal = asked.terminal.map(|size| TerminalSize { columns: size.columns, rows: size.rows });
    let session = node.engine.exec(&instance, asked.command.clone(), terminal).await.map_err(|e| refused(&e))?;
    let told = told(&asked.command);
    let data = json!({ "instance": instance, "terminal": terminal.is_some() });
    let begun = Note::new("exec_begun", "service", &name).because(format!("in {instance}: {told}")).with(data);
    node.note(&who.to_string(), begun).await;
    tokio::spawn(attend(Visit { node, who, caller, name, instance, told, _place: place }, session, upgrade));
    let answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, PROTOCOL)
        .body(Body::empty());
    answer.map_err(|e| Problem::ours(format!("the answer: {e}")).into())
}

fn check(asked: &RunCommand) -> Result<(), Problem> {
    let bytes: usize = asked.command.iter().map(String::len).sum();
    if asked.command.first().is_none_or(String::is_empty) {
        return Err(Problem::bad_request("say which command: it has no first word"));
    }
    if bytes > COMMAND_BYTES_MAX || asked.command.len() > WORDS_MAX {
        let text = format!("a command has at most {WORDS_MAX} words and {COMMAND_BYTES_MAX} bytes");
        return Err(Problem::bad_request(text));
    }
    if asked.command.iter().any(|word| word.contains('\0')) {
        return Err(Problem::bad_request("a command cannot hold NUL"));
    }
    Ok(())
}

/// One of the service's at home: the one that was named, or one that is ready, or one that at least runs.
fn choose(
    node: &Node,
    who: &Principal,
    record: &ServiceRecord,
    named: Option<&InstanceId>,
) -> Result<InstanceId, Problem> {
    let instances = node.instances.lock();
    let own = |i: &&InstanceStatus| i.owner == record.owner();
    if let Some(id) = named {
        let found = instances.iter().find(|i| i.id == *id);
        // A customer does not know of what others have here.
        let operates = matches!(who, Principal::Person { customer: None, .. });
        return match found {
            Some(instance) if own(&instance) => Ok(id.clone()),
            Some(_) if operates => Err(Problem::forbidden(format!(
                "instance {id} is not one of service {} at this cloud: what runs here for another cloud is its own \
                 people's only",
                record.document.metadata.name
            ))),
            _ => Err(Problem::not_found("instance", format!("{id} of this service at this cloud"))),
        };
    }
    let ready = instances.iter().filter(own).find(|i| i.state == InstanceState::Ready);
    let running = || instances.iter().filter(own).find(|i| i.pid.is_some() && !i.prepared);
    ready.or_else(running).map(|i| i.id.clone()).ok_or_else(|| {
        let name = &record.document.metadata.name;
        Problem::conflict(format!(
            "no instance of service {name} runs at this cloud; `pumasi get instances` lists them"
        ))
    })
}

fn refused(error: &EngineError) -> Problem {
    match error {
        EngineError::Session { id, why } => Problem::conflict(format!("nothing was run in instance {id}: {why}")),
        EngineError::Unknown { id } => Problem::not_found("instance", id),
        other => Problem::new(500, "engine", Fault::Engine, format!("running a command in an instance: {other}")),
    }
}

/// On one line, and no longer than a line: words of the caller's in a record that stays.
fn told(command: &[String]) -> String {
    let plain =
        |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c));
    let quoted = command.iter().map(|word| if plain(word) { word.clone() } else { format!("{word:?}") });
    let text = quoted.collect::<Vec<_>>().join(" ");
    if text.chars().count() <= TOLD_CHARS_MAX {
        return text;
    }
    text.chars().take(TOLD_CHARS_MAX).chain(['…']).collect()
}

/// Who is where, for as long as it lasts.
struct Visit {
    node: Arc<Node>,
    who: Principal,
    caller: Caller,
    name: ServiceName,
    instance: InstanceId,
    told: String,
    _place: OwnedSemaphorePermit,
}

/// Why it is over.
enum Over {
    Ended(Option<Exit>),
    Cut(String),
}

/// What passed, and when last.
struct Traffic {
    begun: Instant,
    last_ms: AtomicU64,
    input_bytes: AtomicU64,
    output_bytes: AtomicU64,
}

impl Traffic {
    fn begin() -> Self {
        let none = || AtomicU64::new(0);
        Self { begun: Instant::now(), last_ms: none(), input_bytes: none(), output_bytes: none() }
    }
    fn ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
    fn count(&self, which: &AtomicU64, bytes: usize) {
        which.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.last_ms.store(self.ms(), Ordering::Relaxed);
    }
    fn idle(&self) -> Duration {
        Duration::from_millis(self.ms().saturating_sub(self.last_ms.load(Ordering::Relaxed)))
    }
}

async fn attend(visit: Visit, mut session: Session, upgrade: OnUpgrade) {
    let traffic = Traffic::begin();
    let over = match tokio::time::timeout(TAKE_OVER, upgrade).await {
        Ok(Ok(connection)) => serve(&visit, &mut session, connection, &traffic).await,
        Ok(Err(_)) | Err(_) => Over::Cut("the client went away before it began".into()),
    };
    // Ends whatever still runs.
    drop(session);
    let how = match over {
        Over::Ended(exit) => exit.map_or_else(|| "its instance ended".to_owned(), |e| e.to_string()),
        Over::Cut(why) => why,
    };
    let (input, output) = (traffic.input_bytes.into_inner(), traffic.output_bytes.into_inner());
    let ended = Note::new("exec_ended", "service", &visit.name)
        .because(format!("in {}: {}: {how}", visit.instance, visit.told))
        .with(json!({
            "instance": visit.instance, "ms": traffic.begun.elapsed().as_millis(), "input_bytes": input, "output_bytes": output,
        }));
    visit.node.note(&visit.who.to_string(), ended).await;
}

async fn serve(visit: &Visit, session: &mut Session, connection: Upgraded, traffic: &Traffic) -> Over {
    let (reader, mut writer) = tokio::io::split(TokioIo::new(connection));
    let (took, taken) = watch::channel(0u64);
    let (input, terminal) = (session.input.take(), session.errors.is_none());
    let over = tokio::select! {
        why = inward(reader, input, terminal, &took, traffic) => Over::Cut(why),
        over = outward(&mut writer, session, taken, traffic) => over,
        why = allowed(visit, traffic) => Over::Cut(why),
    };
    let ending = match &over {
        Over::Ended(Some(exit)) if exit.out_of_memory => {
            Ending { code: exit.code, signal: exit.signal, why: exit.to_string() }
        }
        Over::Ended(Some(exit)) => Ending { code: exit.code, signal: exit.signal, why: String::new() },
        Over::Ended(None) => Ending { why: "its instance ended".into(), ..Ending::default() },
        Over::Cut(why) => Ending { why: why.clone(), ..Ending::default() },
    };
    // To a client that reads nothing it is not told.
    let _ = tokio::time::timeout(DRAIN, async {
        put(&mut writer, &Frame::Ended(ending)).await?;
        writer.shutdown().await
    })
    .await;
    over
}

/// Until it may not go on.
async fn allowed(visit: &Visit, traffic: &Traffic) -> String {
    let mut stopping = visit.node.stopping.clone();
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stops| *stops) => return "this cloud's daemon stops".into(),
            () = tokio::time::sleep(LOOK) => {}
        }
        if traffic.idle() >= IDLE {
            return format!("nothing was said for {} minutes", IDLE.as_secs() / 60);
        }
        if let Err(problem) = visit.caller.check(&visit.node) {
            return problem.detail;
        }
    }
}

/// What the client sends. It is read on whether or not the command reads, within what a client may send ahead: so its going is seen.
async fn inward(
    reader: ReadHalf<TokioIo<Upgraded>>,
    mut input: Option<SessionStream>,
    terminal: bool,
    took: &watch::Sender<u64>,
    traffic: &Traffic,
) -> String {
    let mut frames = Frames::of(reader);
    let (mut ahead, mut ends) = (BytesMut::new(), false);
    loop {
        if ends && ahead.is_empty() && !terminal {
            // The last of our ends: the command reads the end of its input.
            input = None;
        }
        let frame = tokio::select! {
            frame = frames.next() => frame,
            written = write(&input, &ahead), if !ahead.is_empty() => {
                // Nobody reads it any more: as to a pipe whose reader has gone, and the command goes on.
                let count = written.unwrap_or(ahead.len());
                ahead.advance(count);
                took.send_modify(|sum| *sum += u64::try_from(count).unwrap_or(0));
                traffic.count(&traffic.input_bytes, count);
                continue;
            }
        };
        match frame {
            Ok(Some(Frame::Input(bytes))) if !ends && ahead.len() + bytes.len() <= INPUT_BYTES_MAX => {
                ahead.extend_from_slice(&bytes);
            }
            Ok(Some(Frame::InputEnds)) => ends = true,
            Ok(Some(Frame::Resize(size))) if terminal => {
                let size = TerminalSize { columns: size.columns, rows: size.rows };
                if let Some(Err(e)) = input.as_ref().map(|i| i.resize(size)) {
                    tracing::debug!(error = %e, "a terminal was not resized");
                }
            }
            Ok(Some(_)) => return "the client sent what it may not send".into(),
            Ok(None) => return "the client hung up".into(),
            Err(e) => return format!("the client's connection: {e}"),
        }
    }
}

async fn write(input: &Option<SessionStream>, bytes: &[u8]) -> io::Result<usize> {
    match input {
        Some(input) => input.write(bytes).await,
        None => Ok(bytes.len()),
    }
}

async fn put(writer: &mut WriteHalf<TokioIo<Upgraded>>, frame: &Frame) -> io::Result<()> {
    writer.write_all(&frame.encode()?).await?;
    writer.flush().await
}

/// What the command says, and how it ends. While the client does not read, the command waits.
async fn outward(
    writer: &mut WriteHalf<TokioIo<Upgraded>>,
    session: &mut Session,
    mut taken: watch::Receiver<u64>,
    traffic: &Traffic,
) -> Over {
    let (output, errors) = (session.output.clone(), session.errors.clone());
    let (mut said, mut complained) = (vec![0u8; FRAME_BYTES_MAX], vec![0u8; FRAME_BYTES_MAX]);
    let (mut output_open, mut errors_open) = (true, errors.is_some());
    let (mut ended, mut told_taken) = (None, 0u64);
    let mut drained_at = Instant::now() + IDLE;
    while ended.is_none() || output_open || errors_open {
        let frame = tokio::select! {
            count = output.read(&mut said), if output_open => piece(count, &said, &mut output_open).map(Frame::Output),
            count = read(&errors, &mut complained), if errors_open => {
                piece(count, &complained, &mut errors_open).map(Frame::Errors)
            }
            changed = taken.changed() => {
                let now = *taken.borrow_and_update();
                let news = now.saturating_sub(told_taken);
                told_taken = now;
                changed.ok().and_then(|()| u32::try_from(news).ok()).map(Frame::Taken)
            }
            exit = &mut session.ended, if ended.is_none() => {
                ended = Some(exit);
                drained_at = Instant::now() + DRAIN;
                None
            }
            () = tokio::time::sleep_until(drained_at), if ended.is_some() => break,
        };
        if let Some(frame) = frame {
            if let Frame::Output(bytes) | Frame::Errors(bytes) = &frame {
                traffic.count(&traffic.output_bytes, bytes.len());
            }
            if let Err(e) = put(writer, &frame).await {
                return Over::Cut(format!("the client's connection: {e}"));
            }
        }
    }
    Over::Ended(ended.flatten())
}

async fn read(from: &Option<SessionStream>, into: &mut [u8]) -> io::Result<usize> {
    match from {
        Some(stream) => stream.read(into).await,
        None => Ok(0),
    }
}

/// What was read, if anything; at the end nothing more is.
fn piece(count: io::Result<usize>, from: &[u8], open: &mut bool) -> Option<Bytes> {
    match count {
        Ok(count) if count > 0 => Some(Bytes::copy_from_slice(from.get(..count).unwrap_or_default())),
        _ => {
            *open = false;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_called_is_told_on_one_bounded_line() {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(told(&words(&["ls", "-l", "/tmp"])), "ls -l /tmp");
        assert_eq!(told(&words(&["sh", "-c", "echo a\nrm b"])), r#"sh -c "echo a\nrm b""#);
        let long = told(&words(&["echo", &"x".repeat(9_000)]));
        assert_eq!(long.chars().count(), TOLD_CHARS_MAX + 1);
    }

    #[test]
    fn a_command_has_a_first_word_and_bounds() {
        let command = |words: Vec<String>| RunCommand { command: words, instance: None, terminal: None };
        assert!(check(&command(vec!["ls".into()])).is_ok());
        assert!(check(&command(vec![])).is_err() && check(&command(vec![String::new()])).is_err());
        assert!(check(&command(vec!["x".repeat(COMMAND_BYTES_MAX + 1)])).is_err());
        assert!(check(&command(vec!["x".into(); WORDS_MAX + 1])).is_err());
        assert!(check(&command(vec!["a\0b".into()])).is_err());
    }
}
