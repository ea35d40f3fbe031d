//! `pumasi pact`: found, invite, join, show, leave, and what this cloud lends.

use crate::args::{PactCommand, TermsArgs};
use crate::failure::{Exit, Failure};
use crate::game_day;
use crate::output::{self, Cell, Format, Table, note};
use crate::session::Session;
use crate::units::{bytes, duration_ms, money, resources};
use base64::Engine;
use pumasi_api::game_day::AskGameDay;
use pumasi_api::message::{
    CloudStatus, Dismiss, FoundPact, Invite, Invited, Join, PactProposal, RehearsalView, TakeOver, TakenOver, Vote,
    Why, Word,
};
use pumasi_terms::pact::{Pact, Terms};
use pumasi_terms::{CloudName, FieldError, Validate};
use serde::Deserialize;
use serde_json::Value;
use std::io::Read;
use std::path::Path;

const INVITATION_BYTES_MAX: u64 = 64 << 10;

pub async fn pact(session: &Session, command: &PactCommand) -> Result<(), Failure> {
    match command {
        PactCommand::Init { currency, terms } => {
            let terms = over(terms, &Terms::default())?;
            let told = lends_nothing(&terms);
            let answer: Value =
                session.client.post("/v1/pact", &FoundPact { currency: currency.clone(), terms }).await?;
            told.into_iter().for_each(note);
            session.done("pact", "founded", &answer)
        }
        PactCommand::Invite { cloud, ttl } => {
            let invited: Invited =
                session.client.post("/v1/pact/invitations", &Invite { cloud: cloud.clone(), ttl_ms: *ttl }).await?;
            match session.global.output {
                Format::Json => output::print(&output::json(&invited)?),
                Format::Yaml => output::print(&output::yaml(&invited)?),
                Format::Table | Format::Name => {
                    note(&format!("for {cloud} alone, once, until {}; hand it over as a secret", invited.expires_at));
                    output::print(&format!("{}\n", invited.invitation))
                }
            }
        }
        PactCommand::Join { invitation_file, terms } => {
            let terms = over(terms, &Terms::default())?;
            let told = lends_nothing(&terms);
            let invitation = invitation(invitation_file)?;
            let answer: Value = session.client.post("/v1/pact/join", &Join { invitation, terms }).await?;
            told.into_iter().for_each(note);
            session.done("pact", "joined", &answer)
        }
        PactCommand::Show => {
            let signed: Value = session.client.get("/v1/pact").await?;
            let names = || signed_pact(&signed).map(|p| format!("pact/{}\n", p.id)).unwrap_or_default();
            session.show(&signed, names, || {
                waiting(&signed);
                votes(&signed);
                Ok(members(&signed_pact(&signed)?))
            })
        }
        PactCommand::Leave(why) => {
            let answer: Value = session.client.post("/v1/pact/leave", &Why { why: why.why.clone() }).await?;
            session.done("pact", "left", &answer)
        }
        PactCommand::Dismiss { cloud, why } => {
            let wish = Dismiss { cloud: cloud.clone(), why: why.why.clone() };
            let answer: Value = session.client.post("/v1/pact/dismissals", &wish).await?;
            session.done(&format!("member/{cloud}"), answer.as_str().unwrap_or("dismissal asked"), &answer)
        }
        PactCommand::Approve { proposal, why } => say(session, proposal, "approve", "approved", &why.why).await,
        PactCommand::Refuse { proposal, why } => say(session, proposal, "refuse", "refused", &why.why).await,
        PactCommand::Vote { voters, profile, stop } => {
            let wish = Vote { voters: voters.clone(), profile: profile.clone(), stop: *stop };
            let answer: Value = session.client.put("/v1/pact/voting", &wish).await?;
            session.done("pact", if *stop { "votes no more" } else { "votes" }, &answer)
        }
        PactCommand::Recover { cloud, why } => {
            let path = format!("/v1/pact/recoveries/{cloud}");
            let answer: Value = session.client.post(&path, &Why { why: why.why.clone() }).await?;
            let done = if answer["carried_out"] == true { "is recovered from" } else { "waits for more approvals" };
            session.done("cloud", done, &answer)
        }
        PactCommand::Takeover { lost, service, i_have_fenced_it, why } => {
            let asked =
                TakeOver { lost: lost.clone(), fenced: *i_have_fenced_it, service: service.clone(), why: why.clone() };
            take_over(session, &asked).await
        }
        PactCommand::Rehearse { lose } => rehearse(session, lose).await,
        PactCommand::GameDay { service: Some(service), every, never } => {
            game_day::run(session, service, AskGameDay { every_ms: *every, never: *never }).await
        }
        PactCommand::GameDay { service: None, .. } => game_day::show(session).await,
        PactCommand::Terms(flags) => terms(session, flags).await,
    }
}

async fn say(session: &Session, id: &str, word: &str, done: &str, why: &str) -> Result<(), Failure> {
    let answer: Value =
        session.client.post(&format!("/v1/pact/proposals/{id}/{word}"), &Why { why: why.to_owned() }).await?;
    let what = answer.get("what").and_then(Value::as_str).unwrap_or_default();
    session.done(&format!("proposal/{id} ({what})"), done, &answer)
}

async fn terms(session: &Session, flags: &TermsArgs) -> Result<(), Failure> {
    let cloud: CloudStatus = session.client.get("/v1/cloud").await?;
    let signed: Value = session.client.get("/v1/pact").await?;
    let pact = signed_pact(&signed)?;
    let own = pact
        .member(&cloud.name)
        .map(|m| m.terms.clone())
        .ok_or_else(|| Failure::not_found("member", cloud.name.as_str()))?;
    if *flags != TermsArgs::default() {
        let answer: Value = session.client.put("/v1/pact/terms", &over(flags, &own)?).await?;
        return session.done("pact", "changed", &answer);
    }
    session.show(
        &own,
        || format!("member/{}\n", cloud.name),
        || {
            let mut table = Table::new(&["TERM", "VALUE"]);
            let mut row = |term: &str, value: String| table.row(vec![term.into(), value.into()]);
            row("lends at most", resources(own.lends));
            row("storage", bytes(own.storage_bytes));
            row("to one borrower", format!("{} %, {} holds", own.share_per_borrower_percent, own.holds_per_borrower));
            row("a CPU-hour", format!("{} {}", money(own.price_per_cpu_hour), pact.currency));
            row("recall notice", duration_ms(own.recall_notice_ms));
            row("a hold lasts", duration_ms(own.hold_ttl_ms_max));
            row("a lease lasts", duration_ms(own.lease_ttl_ms_max));
            let who = own.borrowers.iter().map(|b| b.as_str()).collect::<Vec<_>>().join(", ");
            row("may ask", if who.is_empty() { "every member".into() } else { who });
            row("gives way to what is taken over", own.gives_way.as_str().replace('_', " "));
            Ok(table)
        },
    )
}

fn over(flags: &TermsArgs, base: &Terms) -> Result<Terms, Failure> {
    let terms = flags.over(base)?;
    let mut errors: Vec<FieldError> = Vec::new();
    terms.validate("", &mut errors);
    if errors.is_empty() {
        return Ok(terms);
    }
    Err(Failure::input(errors.iter().map(|e| format!("{}: {}", e.field, e.problem)).collect::<Vec<_>>().join("\n")))
}

/// Why a member with these terms lends nothing.
fn lends_nothing(terms: &Terms) -> Option<&'static str> {
    match (terms.lends.cpu_millis, terms.lends.memory_mib) {
        (0, 0) => Some(
            "this cloud lends nothing yet; change it with `pumasi pact terms --lends-cpu MILLIS --lends-memory MIB`",
        ),
        (0, _) => Some("no CPU is lent, so nothing can be lent; add it with `pumasi pact terms --lends-cpu MILLIS`"),
        (_, 0) => Some("no memory is lent, so nothing can be lent; add it with `pumasi pact terms --lends-memory MIB`"),
        _ => None,
    }
}

fn invitation(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(INVITATION_BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|f| f.take(INVITATION_BYTES_MAX).read_to_string(&mut text))
    };
    read.map_err(|e| Failure::input(format!("reading the invitation in {}: {e}", path.display())))?;
    match text.trim() {
        "" => Err(Failure::input(format!("{} holds no invitation", path.display()))),
        text => Ok(text.to_owned()),
    }
}

/// The payload of the signed document (RFC 7515, general JSON), however deep the answer wraps it.
fn signed_pact(answer: &Value) -> Result<Pact, Failure> {
    let inner = answer.get("pact").or_else(|| answer.get("document")).unwrap_or(answer);
    let parsed = match inner.get("payload").and_then(Value::as_str) {
        Some(payload) => base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(payload)
            .map_err(|e| e.to_string())
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|e| e.to_string())),
        None => Pact::deserialize(inner).map_err(|e| e.to_string()),
    };
    parsed.map_err(|e| Failure::new(Exit::Failed, format!("the pact is not what this version expects: {e}")))
}

/// What waits for a word, beside the table.
fn waiting(answer: &Value) {
    let listed = answer.get("proposals").cloned().unwrap_or_default();
    for p in serde_json::from_value::<Vec<PactProposal>>(listed).unwrap_or_default() {
        let why = if p.why.is_empty() { String::new() } else { format!(": {}", p.why) };
        let lends = p.lends.map_or_else(String::new, |lends| format!(", would lend {}", resources(lends)));
        let hint = match p.word {
            Word::Waiting => format!("pumasi pact approve {0} | pumasi pact refuse {0}", p.id),
            Word::Agreed => "agreed".to_owned(),
            Word::Refused => "refused".to_owned(),
        };
        note(&format!("{} proposes the {}{lends}{why} ({hint})", p.by, p.what));
    }
}

async fn take_over(session: &Session, asked: &TakeOver) -> Result<(), Failure> {
    let done: Vec<TakenOver> = session.client.post("/v1/pact/takeovers", asked).await?;
    let names = || done.iter().filter(|d| d.epoch.is_some()).map(|d| format!("service/{}\n", d.service)).collect();
    session.show(&done, names, || {
        let mut table = Table::new(&["SERVICE", "EPOCH", "PROBLEM"]);
        for d in &done {
            let epoch = d.epoch.map_or_else(String::new, |e| e.to_string());
            table.row(vec![d.service.as_str().into(), epoch.into(), d.problem.as_str().into()]);
        }
        Ok(table)
    })?;
    match done.iter().filter(|d| d.epoch.is_none()).count() {
        0 => Ok(()),
        n => Err(Failure::new(Exit::Failed, format!("{n} of {} services were not taken over", done.len()))),
    }
}

async fn rehearse(session: &Session, lose: &CloudName) -> Result<(), Failure> {
    let view: RehearsalView = session.client.get(&format!("/v1/pact/rehearsal?lose={lose}")).await?;
    let names = || view.services.iter().map(|s| format!("service/{}\n", s.service)).collect();
    session.show(&view, names, || {
        note(&format!("{lose} would be called lost {} after its last sign of life", duration_ms(view.noticed_ms)));
        if view.asks {
            note("others were lost lately: operators of a majority would be asked first (pumasi pact show)");
        }
        if view.services.is_empty() {
            note(&format!("{lose} owns nothing that the pact looks after: a service needs `continuity`, and a standby that has all of it"));
        }
        view.silent.iter().for_each(|c| note(&format!("{c} did not answer: the plan is made without it")));
        Ok(rehearsed(&view))
    })
}

fn rehearsed(view: &RehearsalView) -> Table {
    let mut table =
        Table::new(&["SERVICE", "CLASS", "PRIORITY", "OUTCOME", "HEIR", "INSTANCES", "AFTER", "LOSES", "WHY"]);
    for s in &view.services {
        let why =
            [s.why.as_str(), s.mend.as_str()].iter().filter(|t| !t.is_empty()).copied().collect::<Vec<_>>().join("; ");
        table.row(vec![
            s.service.to_string().into(),
            s.class.clone().into(),
            s.priority.to_string().into(),
            s.outcome.clone().into(),
            s.heir.as_ref().map_or("-".to_owned(), ToString::to_string).into(),
            match s.grows_to {
                Some(later) => format!("{}, then {later} of {}", s.instances, s.of),
                None => format!("{} of {}", s.instances, s.of),
            }
            .into(),
            s.rto_ms.map_or("-".to_owned(), duration_ms).into(),
            s.rpo.clone().into(),
            (if why.is_empty() { "-".to_owned() } else { why }).into(),
        ]);
    }
    table
}

/// How the vote stands, beside the table.
fn votes(answer: &Value) {
    let Some(vote) = answer.get("vote").and_then(|v| pumasi_node::voting::Status::deserialize(v).ok()) else { return };
    for line in vote_lines(&vote) {
        note(&line);
    }
}

fn vote_lines(vote: &pumasi_node::voting::Status) -> Vec<String> {
    if !vote.votes {
        return vote.remarks.clone();
    }
    let leader = vote.leader.as_ref().map_or("nobody leads just now".to_owned(), |l| format!("{l} leads"));
    let profile = vote.profile.as_deref().unwrap_or("own times");
    let right = match vote.right_ms {
        Some(0) => "this cloud's right to write is over".to_owned(),
        Some(ms) => format!("this cloud may write for {}", duration_ms(ms)),
        None => "this cloud has no right to write yet".to_owned(),
    };
    let mut lines = vec![format!(
        "votes since serial {}: {leader}, {profile}, ttl {}; {right}",
        vote.since.unwrap_or_default(),
        duration_ms(vote.ttl_ms)
    )];
    let of = |votes: bool| {
        let told = |c: &pumasi_node::voting::StoodUp| {
            let ailing = if c.ailing { ", ailing" } else { "" };
            let witness = if c.witness { ", a witness" } else { "" };
            format!("{} ({}{ailing}{witness})", c.cloud, c.standing)
        };
        vote.clouds.iter().filter(|c| c.votes == votes).map(told).collect::<Vec<_>>().join(", ")
    };
    lines.push(format!("voters: {}", of(true)));
    if vote.clouds.iter().any(|c| !c.votes) {
        lines.push(format!("without a vote: {}", of(false)));
    }
    lines.extend(vote.services.iter().map(|s| {
        let names = |of: &[CloudName]| of.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        // What is kept in step goes only where every acknowledged write is.
        let (heirs, why) = if s.sync { (&s.in_step, ", in step") } else { (&s.standbys, "") };
        let standbys = names(heirs);
        let detail = if s.detail.is_empty() { String::new() } else { format!(" ({})", s.detail) };
        let standbys = if standbys.is_empty() { "nobody".to_owned() } else { format!("{standbys}{why}") };
        format!(
            "{}: {} owns it at epoch {}, {}{detail}; {standbys} may take over",
            s.service, s.owner, s.epoch, s.phase
        )
    }));
    lines.extend(vote.remarks.iter().cloned());
    lines
}

fn members(pact: &Pact) -> Table {
    note(&format!("{} serial {}, prices in {}", pact.id, pact.serial, pact.currency));
    let mut table = Table::new(&["CLOUD", "API", "GATEWAY", "LENDS", "CPU-HOUR", "RECALL", "LEASE", "BORROWERS"]);
    for m in &pact.members {
        let who = m.terms.borrowers.iter().map(|b| b.as_str()).collect::<Vec<_>>().join(",");
        table.row(vec![
            m.cloud.as_str().into(),
            m.api_address.as_str().into(),
            m.gateway_address.as_str().into(),
            resources(m.terms.lends).into(),
            money(m.terms.price_per_cpu_hour).into(),
            duration_ms(m.terms.recall_notice_ms).into(),
            duration_ms(m.terms.lease_ttl_ms_max).into(),
            Cell::from(if who.is_empty() { "all".to_owned() } else { who }),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pact_is_read_out_of_its_signatures() {
        let text = r#"{"apiVersion":"pumasi/v1","kind":"Pact","id":"pact-1","serial":3,"created_at":0,"currency":"EUR","members":[]}"#;
        let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        for answer in [
            serde_json::json!({"payload": payload, "signatures": []}),
            serde_json::json!({"pact": serde_json::from_str::<Value>(text).unwrap()}),
        ] {
            assert_eq!(signed_pact(&answer).unwrap().serial.0, 3);
        }
        assert!(signed_pact(&serde_json::json!({"payload": "?"})).is_err());
    }

    #[test]
    fn wrong_terms_never_leave() {
        let flags = TermsArgs { share_per_borrower: Some(101), ..Default::default() };
        assert_eq!(over(&flags, &Terms::default()).unwrap_err().exit, Exit::Usage);
        let flags = TermsArgs { borrower: vec!["all".into()], ..Default::default() };
        let base = Terms { borrowers: vec![pumasi_terms::CloudName::parse("b").unwrap()], ..Terms::default() };
        assert!(over(&flags, &base).unwrap().borrowers.is_empty());
    }
}
