//! Prometheus metrics of the daemon; the gateway's own are appended.

use crate::object::HOLD;
use crate::takeover::game_day;
use crate::{Node, clock, diverged, witness};
use pumasi_api::Problem;
use pumasi_api::message::LendingState;
use pumasi_lease::Hold;
use std::fmt::Write;

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Of a pact that votes only: an alert needs no rule that knows whether it does.
fn votes(node: &Node, t: &mut String) {
    let Some(view) = node.pact().filter(|_| node.voting.is_on()) else { return };
    let status = node.voting.status(&view.pact, clock::boot());
    let (bytes, calls) = node.voting.lanes.totals();
    let leads = matches!(status.part, crate::voting::Part::Leads);
    let right = status.right_ms.unwrap_or(0);
    for (name, kind, help, value) in [
        (
            "pumasi_vote_leader_known",
            "gauge",
            "1 while a leader of the pact's vote is known",
            u64::from(status.leader.is_some()),
        ),
        ("pumasi_vote_leads", "gauge", "1 while this cloud leads the pact's vote", u64::from(leads)),
        ("pumasi_vote_term", "gauge", "Term of the pact's vote", status.term),
        ("pumasi_vote_revision", "gauge", "Revision of the register of owners", status.revision),
        ("pumasi_vote_right_milliseconds", "gauge", "How long this cloud may still write; 0: not at all", right),
        ("pumasi_vote_elections_total", "counter", "Elections that this voter began", status.campaigns),
        ("pumasi_vote_transactions_total", "counter", "Transactions that this voter wrote", status.transactions),
        ("pumasi_vote_sent_bytes_total", "counter", "Bytes of words about the vote that left here", bytes),
        ("pumasi_vote_calls_total", "counter", "Calls that carried them", calls),
    ] {
        family(t, name, kind, help);
        let _ = writeln!(t, "{name} {value}");
    }
    if let Some(last) = node.takeover.rehearsed.get() {
        family(
            t,
            "pumasi_rehearsal_short",
            "gauge",
            "Services that would not go on as promised if this cloud were lost",
        );
        for class in ["guaranteed", "early"] {
            let short = last.short().filter(|s| s.class == class).count();
            let _ = writeln!(t, "pumasi_rehearsal_short{{class=\"{class}\"}} {short}");
        }
        family(t, "pumasi_rehearsal_timestamp_seconds", "gauge", "When that was rehearsed last");
        let _ = writeln!(t, "pumasi_rehearsal_timestamp_seconds {}", last.at.0 / 1_000);
    }
    family(t, "pumasi_vote_cloud_alive", "gauge", "1 while a cloud is alive in the register");
    for c in &status.clouds {
        let _ = writeln!(t, "pumasi_vote_cloud_alive{{cloud=\"{}\"}} {}", c.cloud, u8::from(c.standing == "alive"));
    }
}

/// Text exposition format 0.0.4.
pub async fn text(node: &Node) -> String {
    let mut t = String::new();
    let cloud = node.name();
    family(&mut t, "pumasi_up", "gauge", "1 while the daemon serves");
    let _ = writeln!(t, "pumasi_up{{cloud=\"{cloud}\",version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    family(&mut t, "pumasi_store_current", "gauge", "0 where the store may be old and nothing is done to others");
    let _ = writeln!(t, "pumasi_store_current {}", u8::from(node.may_act().is_ok()));
    if let Ok(record) = node.cloud_record() {
        family(&mut t, "pumasi_automation_stopped", "gauge", "1 while an operator has stopped automation");
        let _ = writeln!(t, "pumasi_automation_stopped {}", u8::from(record.automation.stopped));
    }
    family(
        &mut t,
        "pumasi_store_readable",
        "gauge",
        "0 where something could not be read and nothing is done about it",
    );
    let _ = writeln!(t, "pumasi_store_readable {}", u8::from(node.health.problem().is_none()));
    family(&mut t, "pumasi_records_unreadable", "gauge", "Records that cannot be read and are set aside by name");
    let _ = writeln!(t, "pumasi_records_unreadable {}", node.health.aside());
    family(&mut t, "pumasi_stray_owners", "gauge", "Owners of instances that no record explains");
    let _ = writeln!(t, "pumasi_stray_owners {}", node.health.strays.lock().len());
    family(&mut t, "pumasi_tasks_down", "gauge", "Tasks of the daemon that do not run now");
    let _ = writeln!(t, "pumasi_tasks_down {}", node.health.down.lock().len());
    if !witness::is(&node.config) {
        family(&mut t, "pumasi_gateway_up", "gauge", "1 while the gateway answers");
        let _ = writeln!(t, "pumasi_gateway_up {}", u8::from(node.gateway_status.lock().is_some()));
    }
    votes(node, &mut t);
    family(&mut t, "pumasi_journal_seq", "counter", "Entries of the journal");
    let _ = writeln!(t, "pumasi_journal_seq {}", node.store.journal_head().seq);

    // What cannot be read is left out: a number would be a lie.
    if let Err(e) = leases(node, &mut t) {
        tracing::warn!(error = %e, "metrics of leases are left out");
    }

    if let Some(all) = game_day::results(node).ok().filter(|all| !all.is_empty()) {
        let failed = "1 while the last game day of a service failed";
        family(&mut t, "pumasi_game_day_failed", "gauge", failed);
        for (service, failed, _) in &all {
            let _ = writeln!(t, "pumasi_game_day_failed{{service=\"{service}\"}} {}", u8::from(*failed));
        }
        family(
            &mut t,
            "pumasi_game_day_began_seconds",
            "gauge",
            "When the last game day of a service began, Unix time",
        );
        for (service, _, at) in &all {
            let _ = writeln!(t, "pumasi_game_day_began_seconds{{service=\"{service}\"}} {}", at.0 / 1_000);
        }
    }

    if let Ok(all) = diverged::all(node) {
        let help = "Divergences that are kept: what services wrote here before this cloud was found lost";
        family(&mut t, "pumasi_divergences", "gauge", help);
        let _ = writeln!(t, "pumasi_divergences {}", all.iter().count());
        family(&mut t, "pumasi_divergence_bytes", "gauge", "What the divergences that are kept take up");
        let _ = writeln!(t, "pumasi_divergence_bytes {}", all.iter().map(|d| d.bytes).fold(0, u64::saturating_add));
    }

    family(&mut t, "pumasi_copy_lag_seconds", "gauge", "How far a copy at a lender is behind");
    for ((lease, dataset), lag_ms) in node.datasets.lags_ms() {
        let lag = if lag_ms == u64::MAX { f64::INFINITY } else { lag_ms as f64 / 1e3 };
        let _ = writeln!(
            t,
            "pumasi_copy_lag_seconds{{lease=\"{lease}\",dataset=\"{dataset}\"}} {}",
            if lag.is_finite() { lag.to_string() } else { "+Inf".into() }
        );
    }
    if let Ok(services) = node.services() {
        family(
            &mut t,
            "pumasi_service_lendable",
            "gauge",
            "0 where something stands against lending a service; left out where that is not known",
        );
        family(&mut t, "pumasi_service_in_trouble", "gauge", "1 while instances at home do not start or are not ready");
        let instances = node.instances.get();
        for service in services.iter() {
            let name = service.name();
            match node.lendable.of(service).state {
                LendingState::Yes => drop(writeln!(t, "pumasi_service_lendable{{service=\"{name}\"}} 1")),
                LendingState::No => drop(writeln!(t, "pumasi_service_lendable{{service=\"{name}\"}} 0")),
                LendingState::Unknown | LendingState::Unasked => {}
            }
            let trouble = node.troubles.of(&service.owner(), &instances).is_some();
            let _ = writeln!(t, "pumasi_service_in_trouble{{service=\"{name}\"}} {}", u8::from(trouble));
        }
    }
    let per_second = |mps: u64| mps as f64 / 1e3;
    family(&mut t, "pumasi_service_arrivals_per_second", "gauge", "Requests that came in, over the last half second");
    family(&mut t, "pumasi_service_queue_delay_p95_seconds", "gauge", "Wait for a place, 95th percentile");
    family(&mut t, "pumasi_service_shed_per_second", "gauge", "Requests refused at admission");
    for (service, (seen, _)) in node.sensing.latest() {
        let _ = writeln!(
            t,
            "pumasi_service_arrivals_per_second{{service=\"{service}\"}} {}",
            per_second(seen.arrivals_mps)
        );
        let _ = writeln!(
            t,
            "pumasi_service_queue_delay_p95_seconds{{service=\"{service}\"}} {}",
            seen.queue_delay_p95_us as f64 / 1e6
        );
        let _ = writeln!(t, "pumasi_service_shed_per_second{{service=\"{service}\"}} {}", per_second(seen.shed_mps));
    }
    family(&mut t, "pumasi_member_reachable", "gauge", "1 while a member of the pact answers");
    for member in node.pact().iter().flat_map(|v| &v.pact.members).filter(|m| &m.cloud != cloud) {
        let seen = node.peers.of(&member.cloud);
        let up = seen.heard_at.is_some() && seen.trouble.is_none();
        let _ = writeln!(t, "pumasi_member_reachable{{member=\"{}\"}} {}", member.cloud, u8::from(up));
    }
    if let Ok(gateway) = node.gateway.metrics().await {
        t.push_str(&gateway);
    }
    t
}

fn leases(node: &Node, t: &mut String) -> Result<(), Problem> {
    let journeys = node.open_journeys()?;
    family(t, "pumasi_journeys_open", "gauge", "Journeys that are not over");
    let _ = writeln!(t, "pumasi_journeys_open {}", journeys.len());
    family(t, "pumasi_rented_instances_ready", "gauge", "Ready instances at a lender");
    for part in journeys.iter().flat_map(|j| &j.parts).filter(|p| !p.is_over()) {
        let _ = writeln!(
            t,
            "pumasi_rented_instances_ready{{lender=\"{}\",lease=\"{}\"}} {}",
            part.lender, part.lease, part.ready
        );
    }
    let mut lents = crate::lender::lents(node)?;
    lents.retain(|l| l.binds());
    family(t, "pumasi_lent_leases", "gauge", "Leases that bind this cloud's resources");
    let _ = writeln!(t, "pumasi_lent_leases {}", lents.len());
    let now = clock::boot();
    family(t, "pumasi_holds", "gauge", "Live holds of this cloud's resources");
    let _ = writeln!(t, "pumasi_holds {}", node.items::<Hold>(HOLD)?.iter().filter(|h| h.expires_at > now).count());
    Ok(())
}
