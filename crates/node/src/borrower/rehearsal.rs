//! A rehearsal: would borrowing work? One instance is rented at a partner, asked once, and given back.
//!
//! Enters: somebody's wish. Leaves: a journey like any other, whose rented instance no user is sent to.
//! Always holds: the ceilings of the service bind it too; it needs no automation that is on, for a person asked, but none that is stopped;
//! load that comes meanwhile is judged as if nothing were rented, and then keeps what is.

use super::{Next, begin, input, may_change};
use crate::node::Note;
use crate::object::ServiceRecord;
use crate::{Node, clock};
use pumasi_api::Problem;
use pumasi_api::message::RehearseService;
use pumasi_gateway::{Question, Reply};
use pumasi_journey::{Answer, Event, Journey, Part};
use pumasi_judge::{Cause, Reason, Verdict};
use pumasi_plan::{NoPlan, plan};
use pumasi_terms::service::{AutomationMode, ServiceSpec};
use pumasi_terms::{CloudName, FieldError, JourneyId};

const PATH_BYTES_MAX: usize = 2_048;

/// Opens the journey of a rehearsal, or says why there can be none now.
pub async fn rehearse(
    node: &Node,
    who: &str,
    service: &ServiceRecord,
    wish: RehearseService,
) -> Result<JourneyId, Problem> {
    let (name, spec) = (service.name(), &service.document.spec);
    let path = wish.path.unwrap_or_else(|| spec.application.readiness.path.clone());
    check(node, spec, &path, wish.at.as_ref())?;
    let refused = |why: String| Problem::conflict(format!("{name} cannot be rehearsed now: {why}"));
    if service.deleting {
        return Err(refused("it is being deleted".into()));
    }
    let all = node.journeys()?;
    let own: Vec<&Journey> = all.iter().map(|j| &**j).filter(|j| &j.service == name).collect();
    if let Some(open) = own.iter().find(|j| j.is_open() && !j.is_continuity()) {
        let what = if open.is_rehearsal() { "is rehearsed" } else { "borrows" };
        return Err(refused(format!("it {what} already, see {}", open.id)));
    }
    may_change(node).map_err(refused)?;
    if node.pact().is_none() {
        return Err(refused("this cloud is in no pact: there is nobody to borrow from".into()));
    }
    let verdict = Verdict {
        service: name.clone(),
        cause: Cause::Rehearsal,
        at: clock::wall(),
        borrowed_wanted: 1,
        reasons: vec![Reason { measure: "rehearsal".into(), text: format!("{who} asked for a rehearsal") }],
    };
    // Rehearsals have an hour's count of their own: none takes a move from the load.
    let rehearsals: Vec<&Journey> = own.into_iter().filter(|j| j.is_rehearsal()).collect();
    let mut input = input(node, service, verdict, None, &rehearsals, Vec::new()).await?;
    if let Some(at) = wish.at {
        input.service.spec.borrowing.clouds = vec![at];
    }
    let mut made = plan(&input).map_err(|NoPlan { reasons }| {
        let why: Vec<String> = reasons.into_iter().map(|r| r.text).collect();
        Problem { code: "no_plan".into(), ..refused(why.join("; ")) }
    })?;
    made.mode = AutomationMode::Automatic;
    let id = made.journey.clone();
    let note = Note::new("rehearsal_asked", "service", name).caused_by(&id).because(format!("GET {path}"));
    node.note(who, note).await;
    begin(node, service, made, AutomationMode::Automatic, Next::Rehearse(path)).await?;
    node.wake.notify_one();
    Ok(id)
}

fn check(node: &Node, spec: &ServiceSpec, path: &str, at: Option<&CloudName>) -> Result<(), Problem> {
    let bad = |field: &str, problem: String| {
        Err(Problem::fields("this cannot be rehearsed", vec![FieldError { field: field.into(), problem }]))
    };
    if !path.starts_with('/') || path.len() > PATH_BYTES_MAX || !path.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
    {
        return bad("path", format!("must begin with / and have at most {PATH_BYTES_MAX} visible ASCII characters"));
    }
    if let Some(prefix) = spec.routing.home_only.iter().find(|p| path.starts_with(p.as_str())) {
        return bad("path", format!("{prefix} is home_only: no lender is asked for it"));
    }
    let Some(at) = at else { return Ok(()) };
    if at == node.name() {
        return bad("at", format!("{at} is this cloud; name a partner"));
    }
    if node.pact().is_none_or(|view| view.pact.member(at).is_none()) {
        return bad("at", format!("{at} is no member of this cloud's pact"));
    }
    let allowed = &spec.borrowing.clouds;
    if !allowed.is_empty() && !allowed.contains(at) {
        return bad("at", format!("borrowing.clouds of the service does not name {at}"));
    }
    Ok(())
}

/// Asks the rented instance, by the way that users would take.
pub async fn ask(node: &Node, journey: &Journey, part: &Part) -> Result<Vec<Event>, Problem> {
    let service = node.services()?.iter().find(|s| s.name() == &journey.service).cloned();
    let service = service.ok_or_else(|| Problem::not_found("service", &journey.service))?;
    let Some(path) = journey.rehearsal.as_ref().map(|r| r.path.clone()) else { return Ok(Vec::new()) };
    let question = Question {
        cloud: part.lender.clone(),
        lease: part.lease.clone(),
        service: journey.service.clone(),
        epoch: journey.epoch,
        host: service.document.spec.hosts.first().cloned().unwrap_or_default(),
        path,
        protocol: service.document.spec.application.protocol,
    };
    let why = match node.gateway.ask(&question).await {
        Ok(Reply::Answer { status, body_bytes, took_ms }) => {
            let answer = Ok(Answer { status, body_bytes, took_ms });
            return Ok(vec![Event::Asked { lease: part.lease.clone(), answer }]);
        }
        Ok(Reply::None { why }) => why,
        Err(e) => e.to_string(),
    };
    // Recorded, and asked again soon.
    let event = Event::Asked { lease: part.lease.clone(), answer: Err(why.clone()) };
    super::happened(node, &journey.id, event).await;
    Err(Problem::unavailable(why))
}
