//! `pumasi top`: live traffic, refreshed each second.

use crate::failure::Failure;
use crate::output::{self, Cell, Format, Table, Tone};
use crate::session::Session;
use crate::units::{duration_us, rate};
use pumasi_api::message::Traffic;
use std::io::IsTerminal;
use std::time::Duration;

const EVERY: Duration = Duration::from_millis(1_000);

pub fn table(traffic: &Traffic) -> Table {
    let head = [
        "SERVICE",
        "IN",
        "ANSWERED",
        "SHED",
        "FAILED",
        "QUEUE P95",
        "OBJECTIVE",
        "APP P95",
        "USER RTT",
        "IN FLIGHT",
        "SERVED BY",
    ];
    let mut table = Table::new(&head);
    for (name, t) in &traffic.services {
        let bad = |mps: u64| Cell::toned(rate(mps), if mps > 0 { Tone::Bad } else { Tone::Plain });
        let missed = t.queue_delay_p95_us > t.objective_queue_delay_p95_us;
        let whole: u64 = t.served_by.values().sum();
        let share = t.served_by.iter().filter(|(_, mps)| **mps > 0);
        let share = share.map(|(cloud, mps)| format!("{cloud} {}%", mps * 100 / whole.max(1)));
        table.row(vec![
            name.as_str().into(),
            rate(t.arrivals_mps).into(),
            rate(t.completed_mps).into(),
            bad(t.shed_mps),
            bad(t.failed_mps),
            Cell::toned(duration_us(t.queue_delay_p95_us), if missed { Tone::Bad } else { Tone::Good }),
            duration_us(t.objective_queue_delay_p95_us).into(),
            duration_us(t.app_time_p95_us).into(),
            duration_us(t.user_rtt_p50_us).into(),
            format!("{}/{}", t.in_flight, t.limit).into(),
            share.collect::<Vec<_>>().join(" ").into(),
        ]);
    }
    table
}

pub async fn top(session: &Session, once: bool) -> Result<(), Failure> {
    let screen = std::io::stdout().is_terminal() && session.global.output == Format::Table && !once;
    loop {
        let traffic: Traffic = session.client.get("/v1/traffic").await?;
        let text = match session.global.output {
            Format::Json => {
                serde_json::to_string(&traffic).map_err(|e| Failure::failed(format!("writing JSON: {e}")))? + "\n"
            }
            Format::Yaml => format!("---\n{}", output::yaml(&traffic)?),
            Format::Name => traffic.services.keys().map(|n| format!("service/{n}\n")).collect(),
            Format::Table => table(&traffic).render(session.colours),
        };
        // Home, then erase below: no flicker.
        output::print(&if screen { format!("\x1b[H\x1b[J{}\n\n{text}", traffic.at) } else { text })?;
        if once {
            return Ok(());
        }
        tokio::time::sleep(EVERY).await;
    }
}
