//! Game day: a service that bears it is given up on purpose, taken over by the register, asked once, and brought back.
//!
//! Enters: an operator's wish, now or again and again; the register, one answer of the service. Leaves: `Yield`, the wish to have the
//! service back, a result with its times.
//! Always holds: it goes the way of a real failure, by this cloud's right let go and the leader's plan, and no shorter one; what began is
//! brought to its end also where something went wrong on the way; a result that is no success is told until a later one is.

use crate::node::{Locked, Note};
use crate::object::{GAME_DAY, SERVICE, ServiceRecord};
use crate::{Node, clock, register, voting};
use pumasi_api::Problem;
use pumasi_api::game_day::{AskGameDay, GameDayResult, GameDayView};
use pumasi_engine::InstanceState;
use pumasi_ownership::command::{How, Progress};
use pumasi_ownership::state::{Class, Phase, Takeover};
use pumasi_ownership::{Command, State, refusal};
use pumasi_store::Expect;
use pumasi_terms::{BootMs, CloudName, Epoch, ServiceId, ServiceName, WallMs};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// More often it would be an outage.
const EVERY_MS_MIN: u64 = 3_600_000;
const EVERY_MS_MAX: u64 = 366 * 86_400_000;
/// Nobody took it: it is taken back.
const TAKEN_MS_MAX: u64 = 60_000;
/// Then it must answer.
const ANSWERED_MS_MAX: u64 = 120_000;
/// Probation does not stand between, but a copy must be made where it was.
const BACK_MS_MAX: u64 = 1_200_000;
const ASK: Duration = Duration::from_secs(2);
/// Of an answer's head.
const HEAD_BYTES_MAX: usize = 512;
/// Services that one cloud may want back from another.
const WANTED_MAX: usize = 64;

/// Kept in the store, by the service's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GameDay {
    pub version: u32,
    pub service: ServiceName,
    pub id: ServiceId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<WallMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Running>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<GameDayResult>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pub asked_by: String,
    pub boot_id: String,
    pub began: BootMs,
    pub began_at: WallMs,
    /// The ownership that is let go.
    pub epoch: Epoch,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heir: Option<CloudName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_ms: Option<u64>,
    /// It goes on to its end all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// What can be seen of the service now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sight {
    owner: CloudName,
    epoch: Epoch,
    yielded: bool,
    /// This cloud owns it, and an instance is ready.
    serves_here: bool,
    answers: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    Wait,
    LetGo,
    TakeBack,
    /// Something was learned.
    Note(Running),
    End(GameDayResult),
}

impl Running {
    fn is_away(&self, own: &CloudName, sight: &Sight) -> bool {
        &sight.owner != own && sight.epoch > self.epoch
    }

    fn wants_back(&self) -> bool {
        self.answered_ms.is_some() || (self.failed.is_some() && self.heir.is_some())
    }

    fn step(&self) -> &'static str {
        match (&self.heir, self.wants_back()) {
            (None, _) => "letting_go",
            (Some(_), false) => "away",
            (Some(_), true) => "returning",
        }
    }

    fn ends(&self, failed: Option<String>, back_ms: Option<u64>) -> Next {
        let why = failed.or_else(|| self.failed.clone()).unwrap_or_default();
        Next::End(GameDayResult {
            began_at: self.began_at,
            passed: why.is_empty(),
            why,
            heir: self.heir.clone(),
            taken_ms: self.taken_ms,
            answered_ms: self.answered_ms,
            back_ms,
        })
    }
}

/// What follows for one that is under way; `lasted_ms`: none where this machine was started again meanwhile.
fn next(own: &CloudName, run: &Running, sight: &Sight, lasted_ms: Option<u64>) -> Next {
    let failed = |why: &str| Running { failed: Some(why.to_owned()), ..run.clone() };
    let Some(ms) = lasted_ms else {
        let why = "this machine was started again meanwhile";
        return if sight.serves_here || run.failed.is_some() {
            run.ends(Some(why.into()), None)
        } else {
            Next::Note(failed(why))
        };
    };
    if &sight.owner == own && sight.epoch == run.epoch {
        return match (sight.yielded, ms >= TAKEN_MS_MAX) {
            (true, true) => Next::TakeBack,
            (false, true) => {
                run.ends(Some("no other cloud took it; pumasi pact rehearse says what stands against it".into()), None)
            }
            (false, false) => Next::LetGo,
            (true, false) => Next::Wait,
        };
    }
    if run.is_away(own, sight) {
        if run.heir.as_ref() != Some(&sight.owner) {
            let taken_ms = Some(run.taken_ms.unwrap_or(ms));
            return Next::Note(Running { heir: Some(sight.owner.clone()), taken_ms, ..run.clone() });
        }
        if ms >= BACK_MS_MAX {
            let why = format!("it is at {} still; bring it back: pumasi move service, there", sight.owner);
            return run.ends(Some(why), None);
        }
        if run.wants_back() {
            return Next::Wait;
        }
        return match (sight.answers, ms >= ANSWERED_MS_MAX) {
            (true, _) => Next::Note(Running { answered_ms: Some(ms), ..run.clone() }),
            (false, true) => Next::Note(failed("nobody answered for it where it was taken over")),
            (false, false) => Next::Wait,
        };
    }
    match (sight.serves_here, ms >= BACK_MS_MAX) {
        (true, _) if run.answered_ms.is_none() => {
            run.ends(Some("it came back before anybody had answered for it".into()), Some(ms))
        }
        (true, _) => run.ends(None, Some(ms)),
        (false, true) => run.ends(Some("it is this cloud's again and does not run".into()), None),
        (false, false) => Next::Wait,
    }
}

/// Services that other clouds want back from this one.
#[derive(Debug, Default)]
pub struct Wanted(Locked<BTreeMap<CloudName, BTreeSet<ServiceId>>>);

impl Wanted {
    /// As a member said in its last heartbeat.
    pub fn told(&self, by: &CloudName, services: BTreeSet<ServiceId>) {
        let mut all = self.0.lock();
        match services.is_empty() {
            true => drop(all.remove(by)),
            false => drop(all.insert(by.clone(), services.into_iter().take(WANTED_MAX).collect())),
        }
    }

    pub(super) fn wants(&self, by: &CloudName, service: &ServiceId) -> bool {
        self.0.lock().get(by).is_some_and(|all| all.contains(service))
    }
}

/// What this cloud wants back from another one.
pub fn wants_back(node: &Node, from: &CloudName) -> BTreeSet<ServiceId> {
    let Ok(all) = node.items::<GameDay>(GAME_DAY) else { return BTreeSet::new() };
    let wants = |g: &&Arc<GameDay>| g.running.as_ref().is_some_and(|r| r.wants_back() && r.heir.as_ref() == Some(from));
    all.iter().filter(wants).map(|g| g.id.clone()).take(WANTED_MAX).collect()
}

/// It may be given up on purpose just now.
pub fn is_under_way(node: &Node, service: &ServiceId) -> bool {
    let all = node.items::<GameDay>(GAME_DAY);
    all.is_ok_and(|all| all.iter().any(|g| &g.id == service && g.running.is_some()))
}

pub fn list(node: &Node) -> Result<Vec<GameDayView>, Problem> {
    Ok(node.items::<GameDay>(GAME_DAY)?.iter().map(|g| view(g)).collect())
}

fn view(game: &GameDay) -> GameDayView {
    GameDayView {
        service: game.service.clone(),
        every_ms: game.every_ms,
        next_at: game.next_at,
        step: game.running.as_ref().map(|r| r.step().to_owned()),
        last: game.last.clone(),
    }
}

/// An operator's wish.
pub async fn ask(node: &Node, who: &str, name: &ServiceName, asked: AskGameDay) -> Result<GameDayView, Problem> {
    node.may_act().map_err(Problem::unavailable)?;
    let service = node.get::<ServiceRecord>(SERVICE, name.as_str())?;
    let service = service.ok_or_else(|| Problem::not_found("service", name))?;
    let old = node.get::<GameDay>(GAME_DAY, name.as_str())?.filter(|g| g.id == service.id);
    if let Some(every) = asked.every_ms.filter(|ms| !(EVERY_MS_MIN..=EVERY_MS_MAX).contains(ms)) {
        return Err(Problem::bad_request(format!("every_ms: {every} is not {EVERY_MS_MIN} to {EVERY_MS_MAX}")));
    }
    if asked.never && asked.every_ms.is_some() {
        return Err(Problem::bad_request("every_ms and never: one of them"));
    }
    let mut game = old.unwrap_or_else(|| fresh(&service));
    game.every_ms = asked.every_ms.or(game.every_ms).filter(|_| !asked.never);
    game.next_at = game.next_at.filter(|_| !asked.never);
    if !asked.never {
        if game.running.is_some() {
            return Err(Problem::conflict(format!("a game day of {name} is under way")));
        }
        may_begin(node, &service).map_err(Problem::conflict)?;
        game.running = Some(begins(node, who, &service));
    }
    let what = match (asked.never, asked.every_ms) {
        (true, _) => "no more of them".to_owned(),
        (false, Some(ms)) => format!("now, and every {} h", ms / 3_600_000),
        (false, None) => "now".to_owned(),
    };
    let note = Note::new("game_day_asked", "service", name).because(what);
    put(node, game.clone(), Some((who.to_owned(), note))).await?;
    Ok(view(&game))
}

fn fresh(service: &ServiceRecord) -> GameDay {
    let (version, id) = (1, service.id.clone());
    GameDay { version, service: service.name().clone(), id, every_ms: None, next_at: None, running: None, last: None }
}

fn begins(node: &Node, who: &str, service: &ServiceRecord) -> Running {
    Running {
        asked_by: who.to_owned(),
        boot_id: node.boot_id.clone(),
        began: clock::boot(),
        began_at: clock::wall(),
        epoch: service.epoch,
        heir: None,
        taken_ms: None,
        answered_ms: None,
        failed: None,
    }
}

/// Whether it would be more than an outage.
fn may_begin(node: &Node, service: &ServiceRecord) -> Result<(), String> {
    let name = service.name();
    register::must_be_ours(node, service).map_err(|e| e.to_string())?;
    let state =
        node.voting.state().ok_or("the pact does not vote: nobody would take the service over (pumasi pact vote)")?;
    let owned = state.services.get(&service.id).filter(|o| o.epoch == service.epoch);
    let owned = owned.ok_or_else(|| format!("the pact's voters do not look after {name}: it needs `continuity`"))?;
    if owned.agreed.class == Class::Guaranteed {
        return Err(format!(
            "{name} is guaranteed: its users would wait for some seconds; take an early or a deferred one"
        ));
    }
    if owned.agreed.takeover != Takeover::Automatic {
        return Err(format!("{name} is taken over by a person's word only (borrowing.mode)"));
    }
    if !owned.agreed.standbys.iter().any(|s| state.may_take(&s.cloud) && owned.may_live_at(&s.cloud)) {
        return Err(format!("no cloud that keeps {name} ready may take it now"));
    }
    match owned.phase {
        Phase::Serving => Ok(()),
        _ => Err(format!("{name} does not serve at full size now")),
    }
}

async fn put(node: &Node, game: GameDay, note: Option<(String, Note)>) -> Result<(), Problem> {
    node.transact(move |tx| {
        tx.put(GAME_DAY, game.service.as_str(), &game, Expect::Any)?;
        if let Some((who, note)) = note {
            tx.journal(note.entry(&who, clock::wall()))?;
        }
        Ok(())
    })
    .await
}

pub(super) async fn reconcile(node: &Node) {
    let Ok(all) = node.items::<GameDay>(GAME_DAY) else { return };
    if all.iter().next().is_none() {
        return;
    }
    let (Ok(services), Some(state)) = (node.services(), node.voting.state()) else { return };
    for game in all.iter() {
        let Some(service) = services.iter().find(|s| s.id == game.id) else {
            let name = game.service.clone();
            let forgotten = node.transact(move |tx| Ok(tx.delete(GAME_DAY, name.as_str(), Expect::Any).map(|_| ())?));
            let _ = forgotten.await;
            continue;
        };
        let done = match &game.running {
            Some(run) => goes_on(node, game, run, service, &state).await,
            None => comes_due(node, game, service).await,
        };
        if let Err(e) = done {
            tracing::warn!(service = %game.service, error = %e, "a game day did not go on; tried again");
        }
    }
}

async fn comes_due(node: &Node, game: &GameDay, service: &ServiceRecord) -> Result<(), Problem> {
    let now = clock::wall();
    let due = game.next_at.is_some_and(|at| at <= now) && game.every_ms.is_some();
    if !due || node.automation_stopped() || node.may_act().is_err() {
        return Ok(());
    }
    let next_at = game.every_ms.map(|ms| now.after(ms));
    match may_begin(node, service) {
        Ok(()) => {
            let run = begins(node, "daemon", service);
            let note = Note::new("game_day_asked", "service", &game.service).because("it is time");
            put(node, GameDay { running: Some(run), ..game.clone() }, Some(("daemon".into(), note))).await
        }
        Err(why) => {
            let result = GameDayResult {
                began_at: now,
                passed: false,
                why,
                heir: None,
                taken_ms: None,
                answered_ms: None,
                back_ms: None,
            };
            let note = told(game, &result);
            put(node, GameDay { next_at, last: Some(result), ..game.clone() }, Some(("daemon".into(), note))).await
        }
    }
}

async fn goes_on(
    node: &Node,
    game: &GameDay,
    run: &Running,
    service: &ServiceRecord,
    state: &State,
) -> Result<(), Problem> {
    let Some(owned) = state.services.get(&game.id) else { return Ok(()) };
    let own = node.name();
    let mut sight = Sight {
        owner: owned.owner.clone(),
        epoch: owned.epoch,
        yielded: owned.phase == Phase::Yielded,
        serves_here: &owned.owner == own && owned.epoch > run.epoch && is_ready(node, service),
        answers: false,
    };
    let opened = matches!(owned.phase, Phase::Serving | Phase::Degraded { have: 1.., .. });
    if run.is_away(own, &sight) && !run.wants_back() && opened {
        sight.answers = answers(node, service).await;
    }
    let lasted_ms = (run.boot_id == node.boot_id).then(|| clock::boot().since(run.began));
    match next(own, run, &sight, lasted_ms) {
        Next::Wait => Ok(()),
        Next::LetGo => {
            let why = "a game day: it is let go on purpose".to_owned();
            propose(node, Command::Yield { service: game.id.clone(), epoch: owned.epoch, why }).await
        }
        Next::TakeBack => {
            let how = How::Degraded { have: 0, want: owned.agreed.full };
            let items = vec![Progress { service: game.id.clone(), epoch: owned.epoch, how, base: BTreeMap::new() }];
            propose(node, Command::Serving { items }).await
        }
        Next::Note(run) => put(node, GameDay { running: Some(run), ..game.clone() }, None).await,
        Next::End(result) => {
            let note = told(game, &result);
            let next_at = game.every_ms.map(|ms| clock::wall().after(ms));
            let over = GameDay { running: None, last: Some(result), next_at, ..game.clone() };
            put(node, over, Some(("daemon".into(), note))).await
        }
    }
}

fn told(game: &GameDay, result: &GameDayResult) -> Note {
    let action = if result.passed { "game_day_passed" } else { "game_day_failed" };
    let ms = |what: &str, ms: Option<u64>| ms.map(|ms| format!("{what} after {ms} ms"));
    let heir = result.heir.as_ref().map_or("nobody".to_owned(), ToString::to_string);
    let mut note = Note::new(action, "service", &game.service).caused_by("game day");
    let times = [
        ms(&format!("{heir} owned it"), result.taken_ms),
        ms("it answered", result.answered_ms),
        ms("it was back", result.back_ms),
    ];
    note.reasons =
        (!result.why.is_empty()).then(|| result.why.clone()).into_iter().chain(times.into_iter().flatten()).collect();
    note.data = serde_json::to_value(result).unwrap_or_default();
    note
}

async fn propose(node: &Node, command: Command) -> Result<(), Problem> {
    let told = voting::propose(node, command).await?;
    match refusal(&told) {
        Some(refused) => Err(Problem::conflict(refused.to_string())),
        None => Ok(()),
    }
}

fn is_ready(node: &Node, service: &ServiceRecord) -> bool {
    let owner = service.owner();
    register::is_ours(node, service)
        && node.instances.lock().iter().any(|i| i.owner == owner && i.state == InstanceState::Ready)
}

/// By the way that users come: this cloud's own door, which is an entrance of it now. Where that door asks for more than a request (TLS, a
/// word of a balancer), what the heir says in the register is enough.
async fn answers(node: &Node, service: &ServiceRecord) -> bool {
    let door = node.config.gateway.listen.first().filter(|_| !node.config.gateway.proxy_protocol);
    let (Some(door), Some(host)) = (door, service.document.spec.hosts.first()) else { return true };
    let asked = tokio::time::timeout(ASK, once(*door, host));
    matches!(asked.await, Ok(Ok(status)) if status < 500)
}

async fn once(door: std::net::SocketAddr, host: &str) -> std::io::Result<u16> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(door).await?;
    let asked = format!("GET / HTTP/1.1\r\nhost: {host}\r\nuser-agent: pumasi-game-day\r\nconnection: close\r\n\r\n");
    stream.write_all(asked.as_bytes()).await?;
    let mut head = Vec::new();
    let mut part = [0; HEAD_BYTES_MAX];
    while head.len() < HEAD_BYTES_MAX && !head.contains(&b'\n') {
        let n = stream.read(&mut part).await?;
        if n == 0 {
            break;
        }
        head.extend_from_slice(part.get(..n).unwrap_or_default());
    }
    status_of(&head).ok_or_else(|| std::io::Error::other("no answer that reads"))
}

/// Of an HTTP/1.1 answer's first line.
fn status_of(head: &[u8]) -> Option<u16> {
    let line = head.split(|b| *b == b'\r').next()?;
    let status = line.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    std::str::from_utf8(status).ok()?.parse().ok()
}

/// For the metrics: the service, whether its last one failed, when it began.
pub fn results(node: &Node) -> Result<Vec<(ServiceName, bool, WallMs)>, Problem> {
    let all = node.items::<GameDay>(GAME_DAY)?;
    Ok(all.iter().filter_map(|g| g.last.as_ref().map(|l| (g.service.clone(), !l.passed, l.began_at))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cloud(name: &str) -> CloudName {
        CloudName::parse(name).unwrap()
    }

    fn run() -> Running {
        Running {
            asked_by: "operator".into(),
            boot_id: "one".into(),
            began: BootMs(0),
            began_at: WallMs(0),
            epoch: Epoch(1),
            heir: None,
            taken_ms: None,
            answered_ms: None,
            failed: None,
        }
    }

    fn sight(owner: &str, epoch: u64) -> Sight {
        Sight { owner: cloud(owner), epoch: Epoch(epoch), yielded: false, serves_here: false, answers: false }
    }

    fn after(run: &Running, sight: &Sight, ms: u64) -> Next {
        next(&cloud("city-a"), run, sight, Some(ms))
    }

    fn noted(next: Next) -> Running {
        let Next::Note(run) = next else { panic!("{next:?}") };
        run
    }

    fn ended(next: Next) -> GameDayResult {
        let Next::End(result) = next else { panic!("{next:?}") };
        result
    }

    #[test]
    fn it_is_let_go_taken_asked_and_brought_back() {
        let (home, given) = (sight("city-a", 1), Sight { yielded: true, ..sight("city-a", 1) });
        assert_eq!(after(&run(), &home, 10), Next::LetGo);
        assert_eq!(after(&run(), &given, 20), Next::Wait);
        let away = sight("city-b", 2);
        let taken = noted(after(&run(), &away, 900));
        assert_eq!((taken.step(), taken.taken_ms), ("away", Some(900)));
        assert_eq!(after(&taken, &away, 950), Next::Wait);
        let answered = noted(after(&taken, &Sight { answers: true, ..away.clone() }, 1_200));
        assert_eq!((answered.step(), answered.answered_ms), ("returning", Some(1_200)));
        assert_eq!(after(&answered, &away, 5_000), Next::Wait);
        let back = Sight { serves_here: true, ..sight("city-a", 3) };
        let result = ended(after(&answered, &back, 9_000));
        assert!(result.passed && result.back_ms == Some(9_000) && result.heir == Some(cloud("city-b")), "{result:?}");
    }

    #[test]
    fn what_goes_wrong_is_told_and_the_service_comes_back_all_the_same() {
        let given = Sight { yielded: true, ..sight("city-a", 1) };
        assert_eq!(after(&run(), &given, TAKEN_MS_MAX), Next::TakeBack);
        assert!(ended(after(&run(), &sight("city-a", 1), TAKEN_MS_MAX)).why.contains("no other cloud took it"));
        let away = sight("city-b", 2);
        let taken = noted(after(&run(), &away, 900));
        let silent = noted(after(&taken, &away, ANSWERED_MS_MAX));
        assert_eq!(silent.step(), "returning");
        let back = Sight { serves_here: true, ..sight("city-a", 3) };
        let result = ended(after(&Running { answered_ms: None, ..silent }, &back, ANSWERED_MS_MAX + 9_000));
        assert!(!result.passed && result.back_ms.is_some(), "{result:?}");
        assert!(ended(after(&taken, &away, BACK_MS_MAX)).why.contains("city-b"));
        let rebooted = noted(next(&cloud("city-a"), &taken, &away, None));
        assert!(rebooted.wants_back() && rebooted.failed.is_some());
    }

    #[test]
    fn an_answers_first_line_is_read_and_nothing_else() {
        assert_eq!(status_of(b"HTTP/1.1 204 No Content\r\nx: y\r\n"), Some(204));
        for odd in [&b"HTTP/1.1 2"[..], b"HTTP/2 200", b"", b"HTTP/1.1 abc\r\n"] {
            assert_eq!(status_of(odd), None);
        }
    }
}
