//! This cloud: health, standing, automation, live traffic, backup.

use super::body::{Answer, Json};
use super::params::Path;
use crate::node::Note;
use crate::object::{CLOUD, CloudRecord, ONLY};
use crate::sensing::served_by;
use crate::tenancy::Estate;
use crate::{Node, clock, disk, diverged, gateway, lender, metrics, reload, witness};
use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use pumasi_api::message::{
    AcceptRestored, Automation, BackupDone, CloudStatus, GatewayState, MemberStatus, Pong, ReloadDone, StopCloud,
    Traffic, TrafficView, UserPorts, Why,
};
use pumasi_api::{Fault, Principal, Problem};
use pumasi_store::{Expect, Standing};
use pumasi_terms::{CloudName, Resources};
use std::collections::BTreeMap;
use std::sync::Arc;

pub async fn healthz() -> &'static str {
    "ok\n"
}

pub async fn readyz(State(node): State<Arc<Node>>) -> Response {
    let problem = match (gateway::trouble(&node), node.may_act()) {
        (Some(why), _) => Some(why),
        (_, Err(why)) => Some(why),
        _ => match disk::check_write(&node).await {
            Err(why) => Some(why),
            Ok(()) => node.health.problem(),
        },
    };
    match problem {
        // Others are served all the same.
        None => {
            let left: String = node.health.left_alone().iter().map(|line| format!("left alone: {line}\n")).collect();
            let kept = diverged::notice(&node).map(|line| format!("notice: {line}\n")).unwrap_or_default();
            format!("ready\n{left}{kept}").into_response()
        }
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

pub async fn metrics(State(node): State<Arc<Node>>) -> Response {
    let text = metrics::text(&node).await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

pub async fn status(State(node): State<Arc<Node>>) -> Answer<CloudStatus> {
    let lents = lender::lents(&node)?;
    let lent = lents.iter().filter(|l| l.binds()).map(|l| l.lease.requirement.resources.times(l.lease.instances));
    let isolation = node.engine.capabilities().isolation;
    let missing = isolation.missing_for_lending();
    let now = clock::boot();
    let view = node.pact();
    let members = view.iter().flat_map(|v| &v.pact.members).filter(|m| &m.cloud != node.name());
    let member = |m: &pumasi_terms::pact::Member| {
        let seen = node.peers.of(&m.cloud);
        MemberStatus {
            cloud: m.cloud.clone(),
            heard_ms_ago: seen.heard_at.map(|at| now.since(at)),
            rtt_us: seen.rtt_us(),
            trouble: seen.trouble.clone(),
            lends: m.terms.lends,
            free: seen.offer.as_ref().map(|o| o.free),
            place: seen.place.clone(),
        }
    };
    let degraded = reload::degraded(&node);
    Ok(axum::Json(CloudStatus {
        name: node.name().clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        place: node.config.cloud.place.clone(),
        standing: match node.store.standing() {
            Standing::Current => "current".into(),
            Standing::Restored { why } => format!("restored: {why}"),
        },
        automation: node.cloud_record()?.automation.clone(),
        capacity: node.config.physical(),
        used_home: lender::home_use(&node, &node.services()?),
        lent: lent.fold(Resources::default(), Resources::plus),
        isolation: if missing.is_empty() { "complete".into() } else { format!("missing: {}", missing.join(", ")) },
        gateway: match node.gateway_status.lock().as_ref() {
            Some(s) if s.table_revision > 0 => GatewayState::Serving,
            Some(_) => GatewayState::Starting,
            None if witness::is(&node.config) => GatewayState::None,
            None => GatewayState::Unreachable,
        },
        members: members.map(member).collect(),
        journal_seq: node.store.journal_head().seq,
        currency: view.as_ref().map(|v| v.pact.currency.clone()),
        isolation_why: isolation.why.clone(),
        disk_free_bytes: node.disk.free_bytes(),
        degraded,
        ports: UserPorts {
            http: node.config.gateway.listen.first().map(|at| at.port()),
            https: node.config.gateway.listen_tls.first().map(|at| at.port()),
        },
        troubles: node.health.problem().into_iter().chain(node.health.left_alone()).collect(),
    }))
}

/// The answer leaves before the daemon does.
pub async fn stop(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(wish): Json<StopCloud>,
) -> Answer<()> {
    let lent = lender::lents(&node)?.iter().filter(|l| l.binds()).count();
    if wish.everything && !wish.force && lent > 0 {
        let text = format!(
            "{lent} leases of other clouds run here: call them back (`pumasi lease recall`), or end them without notice by --force"
        );
        return Err(Problem::conflict(text).into());
    }
    let what = if wish.everything { "with its gateway and every instance" } else { "gateway and instances go on" };
    let mut note = Note::new("cloud_stopped", "cloud", node.name()).because(what);
    note.reasons.extend(Some(wish.why).filter(|w| !w.is_empty()));
    node.note(&who.to_string(), note).await;
    node.health.end(wish.everything);
    Ok(axum::Json(()))
}

/// A member answers a small question; only a member is called.
pub async fn ping(State(node): State<Arc<Node>>, Path(cloud): Path<CloudName>, Json(_): Json<Why>) -> Answer<Pong> {
    let view = node.pact();
    if cloud == *node.name() || !view.iter().any(|v| v.pact.members.iter().any(|m| m.cloud == cloud)) {
        return Err(Problem::not_found("other member", &cloud).into());
    }
    let client = node.peers.clients.of(&node, &cloud)?;
    let begun = tokio::time::Instant::now();
    let answer: Result<serde_json::Value, _> = client.get("/v1/pact").await;
    let rtt_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    answer.map_err(|e| Problem::new(502, "member_unreachable", Fault::Peer, e.to_string()))?;
    Ok(axum::Json(Pong { cloud, rtt_us }))
}

pub async fn traffic(State(node): State<Arc<Node>>, Extension(who): Extension<Principal>) -> Answer<Traffic> {
    let (services, estate) = (node.services()?, Estate::of(&node, &who)?);
    let objectives: BTreeMap<_, _> = services
        .iter()
        .filter(|s| estate.record(s))
        .map(|s| (s.name().clone(), s.document.spec.objective.clone()))
        .collect();
    let mut services = BTreeMap::new();
    for (name, (seen, judgement)) in node.sensing.latest() {
        let Some(objective) = objectives.get(&name) else { continue };
        let served_by = served_by(&seen, node.name());
        // An observation that has grown old says nothing about now.
        let seen = if clock::boot().since(seen.at) > 3_000 { continue } else { seen };
        let view = TrafficView {
            arrivals_mps: seen.arrivals_mps,
            completed_mps: seen.completed_mps,
            shed_mps: seen.shed_mps,
            failed_mps: seen.failed_mps + seen.errors_mps,
            queue_delay_p95_us: seen.queue_delay_p95_us,
            app_time_p50_us: seen.app_time_p50_us,
            app_time_p95_us: seen.app_time_p95_us,
            user_rtt_p50_us: seen.user_rtt_p50_us,
            in_flight: seen.in_flight,
            limit: seen.limit,
            objective_queue_delay_p95_us: objective.queue_delay_p95_ms * 1_000,
            served_by,
            judgement,
        };
        services.insert(name, view);
    }
    Ok(axum::Json(Traffic { at: clock::wall(), services }))
}

pub async fn automation(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(wanted): Json<Automation>,
) -> Answer<Automation> {
    let answer = node
        .transact(move |tx| {
            let old = tx
                .get::<CloudRecord>(CLOUD, ONLY)?
                .ok_or_else(|| Problem::ours("this cloud has no record of itself"))?;
            let record = CloudRecord { automation: wanted.clone(), ..old.body };
            tx.put(CLOUD, ONLY, &record, Expect::Revision(old.revision))?;
            let action = if wanted.stopped { "automation_stopped" } else { "automation_resumed" };
            tx.journal(
                Note::new(action, "cloud", ONLY).because(wanted.why.clone()).entry(&who.to_string(), clock::wall()),
            )?;
            Ok(wanted)
        })
        .await?;
    Ok(axum::Json(answer))
}

pub async fn read_again(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(_): Json<Why>,
) -> Answer<ReloadDone> {
    let done = reload::all(&node).await?;
    if !done.changed.is_empty() {
        let note = Note::new("certificates_reloaded", "cloud", ONLY).because(done.changed.join("; "));
        node.note(&who.to_string(), note).await;
    }
    Ok(axum::Json(done))
}

pub async fn backup(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(_): Json<Why>,
) -> Answer<BackupDone> {
    let dir = node.dir("store").join("backups");
    let path = dir.join(format!("pumasi-{}.sqlite", clock::wall().0));
    let (store, to) = (node.store.clone(), path.clone());
    let written = crate::world::blocking(move || {
        std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
        store.backup_to(&to, |_| {}).map_err(|e| e.to_string())?;
        std::fs::metadata(&to).map(|m| m.len()).map_err(|e| e.to_string())
    })
    .await;
    let bytes = written
        .map_err(|e| Problem::ours(e.to_string()))?
        .map_err(|e| Problem::ours(format!("backup to {}: {e}", path.display())))?;
    node.note(
        &who.to_string(),
        Note::new("backup_written", "cloud", ONLY).because(format!("{} ({bytes} bytes)", path.display())),
    )
    .await;
    Ok(axum::Json(BackupDone { path: path.display().to_string(), bytes }))
}

/// An operator takes a restored store into use. Revisions go on above all that any member has a receipt for; members that the
/// operator names are not waited for, so that a silent one holds nobody.
pub async fn accept_standing(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(wish): Json<AcceptRestored>,
) -> Answer<String> {
    let view = node.pact();
    let members: Vec<_> =
        view.iter().flat_map(|v| &v.pact.members).map(|m| m.cloud.clone()).filter(|c| c != node.name()).collect();
    let silent: Vec<String> = members
        .iter()
        .filter(|c| node.peers.of(c).heard_at.is_none() && !wish.without.contains(c))
        .map(ToString::to_string)
        .collect();
    if !silent.is_empty() {
        let text = format!(
            "not heard yet: {}; what they know of this cloud should be heard first. One that stays silent is passed over by \
             `pumasi accept-restored --without CLOUD`",
            silent.join(", ")
        );
        return Err(Problem { retry: true, ..Problem::conflict(text) }.into());
    }
    let above = node.store.revision();
    node.store.accept_restored(clock::wall(), above, who.to_string()).await?;
    node.wake.notify_one();
    Ok(axum::Json("current".into()))
}
