//! What members ask of each other about the vote, and this cloud's own commands.
//!
//! Enters: batches, commands, questions for the register. Leaves: what this cloud's voter answers, or who is to be asked instead.
//! Always holds: a command counts as of the member that calls, and of nobody else; what may have been taken is never asked twice.

use super::group::Group;
use super::voter::Outcome;
use super::wire::{self, Applied, AskCommand, Batch, Followed, Heard};
use super::{Event, RETRY_MS};
use crate::{Node, clock};
use pumasi_api::{CallError, Fault, Problem};
use pumasi_ownership::timers::Timers;
use pumasi_ownership::{Command, Renewal, Told};
use pumasi_terms::{CloudName, Digest, Serial};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A proposal is given up no sooner than this.
const PROPOSE_MS_MIN: u64 = 3_000;
/// Refusals of a command after which it may be asked again, since nothing came of it.
const AGAIN: [&str; 5] = ["not_leader", "not_taken", "no_vote", "too_often", "too_much_at_once"];

fn no_vote(what: &str) -> Problem {
    Problem::new(409, "no_vote", Fault::Input, format!("{what}: the pact does not vote, or not by this serial"))
}

fn not_now(what: &str) -> Problem {
    Problem::unavailable(format!("{what}: this cloud has no vote, or it does not go on just now; ask another voter"))
}

/// A member's call.
pub fn receive(node: &Node, from: &CloudName, batch: Batch) -> Result<Heard, Problem> {
    if batch.messages.len().max(batch.renewals.len()) > wire::BATCH_MESSAGES_MAX {
        let text = format!("a batch of more than {} words about the vote", wire::BATCH_MESSAGES_MAX);
        return Err(Problem::bad_request(text));
    }
    let (voting, now) = (&node.voting, clock::boot());
    let group = voting.group().filter(|g| g.since == batch.since).ok_or_else(|| no_vote("a word about the vote"))?;
    // Others' renewals are believed of voters only, who could put them into the log themselves.
    let forwards = group.named().contains(from);
    let renewals: Vec<Renewal> = batch.renewals().filter(|r| &r.cloud == from || forwards).collect();
    // By its renewals alone: a voter whose gateway or disk is dead goes on voting, and must count as silent.
    for own in renewals.iter().filter(|r| &r.cloud == from) {
        voting.saw(own, now);
        voting.heard(from, now);
    }
    let bytes: usize = batch.messages.iter().map(|m| m.len() + 64).sum::<usize>() + renewals.len() * 512;
    let room = voting.room.clone().try_acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX));
    let event =
        |_room| Event::Batch { from: from.clone(), id: group.id(from, batch.incarnation), batch, renewals, _room };
    if !room.is_ok_and(|room| voting.tell_voter(event(room))) {
        return Err(not_now("a word about the vote"));
    }
    let revision = *voting.changed.borrow();
    let renewed = voting.renewed(from);
    Ok(Heard { revision, leader: voting.leader(), incarnation: group.incarnation, renewed })
}

/// A member asks what the register became; waits up to a second for news. Nothing to begin after: the whole is told.
pub async fn followed(node: &Node, since: Serial, after: Option<u64>) -> Result<Followed, Problem> {
    let voting = &node.voting;
    voting.group().filter(|g| g.since == since).ok_or_else(|| no_vote("the register"))?;
    let mut changed = voting.changed();
    let news = changed.wait_for(|revision| after.is_none_or(|after| *revision > after));
    let _ = tokio::time::timeout(Duration::from_secs(1), news).await;
    let (reply, answer) = oneshot::channel();
    let asked = voting.tell_voter(Event::Follow { after, reply });
    let answer = if asked { answer.await.ok() } else { None };
    answer.map(|f| Followed { since, ..f }).ok_or_else(|| not_now("the register"))
}

pub async fn snapshot(node: &Node, digest: Digest) -> Result<Arc<[u8]>, Problem> {
    let (reply, answer) = oneshot::channel();
    if !node.voting.tell_voter(Event::Snapshot { digest, reply }) {
        return Err(not_now("a snapshot of the register"));
    }
    answer.await.ok().flatten().ok_or_else(|| Problem::not_found("snapshot of the register", digest))
}

/// To this cloud's own voter, where it leads.
async fn propose_here(node: &Node, by: &CloudName, command: Command, until: Instant) -> Outcome {
    let (reply, answer) = oneshot::channel();
    if !node.voting.tell_voter(Event::Propose { by: by.clone(), command, reply }) {
        return Outcome::NotLeader(None);
    }
    match tokio::time::timeout_at(until, answer).await {
        Ok(Ok(outcome)) => outcome,
        _ => Outcome::Unknown,
    }
}

/// A member's command, on its own behalf, at the leader.
pub async fn command(node: &Node, by: &CloudName, asked: AskCommand) -> Result<Applied, Problem> {
    let group = node.voting.group().filter(|g| g.since == asked.since).ok_or_else(|| no_vote("a command"))?;
    if let Command::Renew { .. } | Command::Pact { .. } = asked.command {
        return Err(Problem::forbidden("renewals and the pact's serial are put into the register by whoever leads"));
    }
    let until = Instant::now() + patience(group.timers());
    match propose_here(node, by, asked.command, until).await {
        Outcome::Done { index, told } => Ok(Applied { index, told }),
        Outcome::Unfit(why) => Err(Problem::bad_request(format!("a command for the register: {why}"))),
        Outcome::NotLeader(leader) => Err(not_leader(leader.as_ref())),
        Outcome::Busy | Outcome::Lost => Err(Problem { code: "not_taken".into(), ..busy() }),
        Outcome::Unknown => Err(unknown()),
    }
}

fn busy() -> Problem {
    Problem::unavailable("the command was not taken into the register: nothing came of it; try again")
}

fn not_leader(leader: Option<&CloudName>) -> Problem {
    let text = leader.map_or("no voter leads just now; try again".to_owned(), |l| format!("{l} leads: ask there"));
    Problem { retry: true, ..Problem::new(409, "not_leader", Fault::Peer, text) }
}

fn unknown() -> Problem {
    let text = "what became of the command is not known: it may have been taken or not; read the register before it is asked again";
    Problem::new(503, "unknown_outcome", Fault::Peer, text)
}

/// For a proposal, an election in between included.
fn patience(timers: &Timers) -> Duration {
    Duration::from_millis((timers.election_ms_max * 2).max(PROPOSE_MS_MIN))
}

/// One command on this cloud's behalf, through whoever leads. Answers what it told once it is applied here. An answer that it is not known
/// what became of it is possible, and means that the register is read again; nothing is asked twice then.
pub async fn propose(node: &Node, command: Command) -> Result<Vec<Told>, Problem> {
    let group = node.voting.group().ok_or_else(|| no_vote("a command for the register"))?;
    let until = Instant::now() + patience(group.timers());
    let mut turn = 0;
    loop {
        let asked = ask(node, &group, &command, (until, turn)).await;
        match asked {
            Asked::Done(applied) => {
                await_applied(node, applied.index, until).await?;
                return Ok(applied.told);
            }
            Asked::Failed(problem) => return Err(problem),
            Asked::Again(why) if Instant::now() + Duration::from_millis(RETRY_MS) >= until => return Err(why),
            Asked::Again(_) => tokio::time::sleep(Duration::from_millis(RETRY_MS)).await,
        }
        turn += 1;
    }
}

enum Asked {
    Done(Applied),
    Failed(Problem),
    /// Nothing came of it: it may be asked again.
    Again(Problem),
}

async fn ask(node: &Node, group: &Group, command: &Command, (until, turn): (Instant, usize)) -> Asked {
    let (leader, others) = (node.voting.leader(), group.others().collect::<Vec<_>>());
    if leader.as_ref() == Some(&group.me) {
        return match propose_here(node, &group.me, command.clone(), until).await {
            Outcome::Done { index, told } => Asked::Done(Applied { index, told }),
            Outcome::Unfit(why) => Asked::Failed(Problem::bad_request(format!("a command for the register: {why}"))),
            Outcome::NotLeader(leader) => Asked::Again(not_leader(leader.as_ref())),
            Outcome::Busy | Outcome::Lost => Asked::Again(busy()),
            Outcome::Unknown => Asked::Failed(unknown()),
        };
    }
    // A voter hears of a leader by itself; who follows without a vote asks one after the other.
    if leader.is_none() && node.voting.inbox().is_some() {
        return Asked::Again(not_leader(None));
    }
    let to = leader.filter(|l| group.members.contains(l));
    let Some(to) = to.or_else(|| others.get(turn % others.len().max(1)).map(|c| (*c).clone())) else {
        return Asked::Again(not_leader(None));
    };
    let client = match node.peers.clients.of(node, &to) {
        Ok(client) => {
            client.with_timeout(until.saturating_duration_since(Instant::now()).min(patience(group.timers())))
        }
        Err(problem) => return Asked::Again(problem),
    };
    let body = AskCommand { since: group.since, command: command.clone() };
    match client.post::<Applied>(&format!("/v1/pacts/{}/commands", group.pact), &body).await {
        Ok(applied) => Asked::Done(applied),
        Err(CallError::Refused(p)) if AGAIN.contains(&p.code.as_str()) => {
            node.voting.no_leader(&to);
            Asked::Again(p)
        }
        Err(CallError::Refused(p)) => Asked::Failed(p),
        Err(CallError::Unreachable { problem, .. }) if problem.contains("connection refused") => {
            node.voting.no_leader(&to);
            Asked::Again(Problem::unavailable(format!("{to} does not answer: {problem}")))
        }
        Err(_) => Asked::Failed(unknown()),
    }
}

async fn await_applied(node: &Node, index: u64, until: Instant) -> Result<(), Problem> {
    let mut changed = node.voting.changed();
    let applied = changed.wait_for(|revision| *revision >= index);
    match tokio::time::timeout_at(until, applied).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(Problem::unavailable("the command is in the register, and this cloud has not applied it yet")),
    }
}
