//! Prometheus text: gauges of now and counters since the start.

use crate::control;
use crate::gateway::Gateway;
use std::fmt::Write;

pub fn text(gateway: &Gateway) -> String {
    let status = control::status(gateway);
    let mut out = String::with_capacity(4_096);
    let mut put = |name: &str, help: &str, kind: &str, rows: &[(String, u64)]| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in rows {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let one = |value: u64| vec![(String::new(), value)];
    put("pumasi_gateway_table_revision", "Revision of the route table in force.", "gauge", &one(status.table_revision));
    put("pumasi_gateway_connections", "Open connections of users and peers.", "gauge", &one(status.connections.into()));
    put("pumasi_gateway_tunnels", "Open upgraded connections.", "gauge", &one(status.tunnels.into()));
    let unsaid = gateway.unsaid.load(std::sync::atomic::Ordering::Relaxed);
    let help = "Connections of trusted proxies without a PROXY header that reads.";
    put("pumasi_gateway_proxy_headers_refused_total", help, "counter", &one(unsaid));
    let brought = [("read", &gateway.positions_read), ("not_read", &gateway.positions_not_read)];
    let brought =
        brought.map(|(how, n)| (format!("{{signature=\"{how}\"}}"), n.load(std::sync::atomic::Ordering::Relaxed)));
    let help = "Requests with a position cookie whose signature a key of the service or of this gateway made, or none.";
    put("pumasi_gateway_position_cookies_total", help, "counter", &brought);
    let places: Vec<_> = status.services.iter().chain(&status.leases).collect();
    let queued: Vec<_> = places.iter().map(|p| (format!("{{service=\"{}\"}}", p.name), p.queued)).collect();
    put("pumasi_gateway_queued", "Requests that wait for a place.", "gauge", &queued);
    let held: Vec<_> =
        status.held.iter().map(|h| (format!("{{service=\"{}\"}}", h.service), h.waiting.into())).collect();
    put("pumasi_gateway_held", "Requests that wait for the end of a handover.", "gauge", &held);
    let rows = |value: fn(&crate::admission::BackendStatus) -> u64| -> Vec<(String, u64)> {
        let all = places.iter().flat_map(|p| p.backends.iter().map(move |b| (p, b)));
        all.map(|(p, b)| (format!("{{service=\"{}\",backend=\"{}\"}}", p.name, b.backend), value(b))).collect()
    };
    put("pumasi_gateway_in_flight", "Requests at a backend.", "gauge", &rows(|b| b.in_flight.into()));
    put("pumasi_gateway_limit", "Adaptive concurrency limit of a backend.", "gauge", &rows(|b| b.limit.into()));
    let live = gateway.tables.live();
    let totals: Vec<_> = live.services.iter().map(|(n, s)| (n.as_str(), s.admission.totals())).collect();
    type Pick = fn(&crate::admission::Totals) -> u64;
    let counters: [(&str, &str, Pick); 8] = [
        ("pumasi_gateway_arrivals_total", "Requests of users.", |t| t.arrivals),
        ("pumasi_gateway_admitted_total", "Requests given to a backend.", |t| t.admitted),
        ("pumasi_gateway_completed_total", "Requests answered by a backend.", |t| t.completed),
        ("pumasi_gateway_shed_total", "Requests refused at admission.", |t| t.shed),
        ("pumasi_gateway_shed_less_important_total", "Of these, what the service calls less important.", |t| {
            t.shed_less_important
        }),
        ("pumasi_gateway_failed_total", "Requests that an instance answered 5xx or broke off.", |t| t.failed),
        ("pumasi_gateway_errors_total", "Requests lost by the gateway.", |t| t.errors),
        ("pumasi_gateway_retries_total", "Requests handed over once more.", |t| t.retries),
    ];
    for (name, help, pick) in counters {
        let rows: Vec<_> = totals.iter().map(|(s, t)| (format!("{{service=\"{s}\"}}"), pick(t))).collect();
        put(name, help, "counter", &rows);
    }
    out
}
