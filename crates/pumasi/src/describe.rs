//! `pumasi describe`: one thing for people, with its reasons and latest events.

use crate::args::Kind;
use crate::events::recent;
use crate::failure::Failure;
use crate::kinds::{Scene, table, text, typed};
use crate::output::{self, Format, Tone, paint};
use crate::session::Session;
use crate::units::{duration_ms, duration_us, money, rate, resources};
use pumasi_api::message::{LendingState, List, ServiceView, Traffic, TrafficView};
use serde_json::{Value, json};
use std::fmt::Write;

const EVENTS_SHOWN: u32 = 12;

pub async fn describe(session: &Session, kind: Kind, name: &str) -> Result<(), Failure> {
    let item = session.one(kind, name).await?;
    let name = kind.name_of(&item);
    let events = match kind {
        Kind::Events | Kind::Tokens | Kind::Customers | Kind::Retired | Kind::Divergences | Kind::Settlements => {
            List { revision: Default::default(), items: Vec::new() }
        }
        _ => recent(session, Some(&name), EVENTS_SHOWN).await?,
    };
    let extra = if kind == Kind::Services { Some(around_service(session, &name).await?) } else { None };
    match session.global.output {
        Format::Table => {}
        Format::Name => return output::print(&format!("{}/{name}\n", kind.singular())),
        form => {
            let mut whole = json!({ kind.singular(): item, "events": events.items });
            if let Some(extra) = &extra {
                whole["traffic"] = serde_json::to_value(&extra.traffic).unwrap_or_default();
                whole["leases"] = Value::Array(extra.leases.clone());
                whole["journeys"] = Value::Array(extra.journeys.clone());
            }
            return output::print(&if form == Format::Json { output::json(&whole)? } else { output::yaml(&whole)? });
        }
    }
    let scene = session.scene(Kind::Leases).await;
    let mut page = Page { out: String::new(), colours: session.colours, scene };
    match &extra {
        Some(extra) => {
            page.service(&typed(kind, &item)?, crate::rehearse::last(&extra.journeys, session.now));
            page.traffic(extra.traffic.as_ref());
            page.things("Leases", Kind::Leases, &extra.leases)?;
            page.things("Journeys", Kind::Journeys, &extra.journeys)?;
        }
        None => page.thing(&item),
    }
    page.things("Events", Kind::Events, &events.items)?;
    output::print(&page.out)
}

struct Around {
    traffic: Option<TrafficView>,
    leases: Vec<Value>,
    journeys: Vec<Value>,
}

async fn around_service(session: &Session, name: &str) -> Result<Around, Failure> {
    let traffic: Traffic = session.client.get("/v1/traffic").await?;
    let own = |list: List<Value>| {
        let own = |i: &Value| text(i, &["service", "journey.service"]) == name;
        list.items.into_iter().filter(own).collect::<Vec<_>>()
    };
    Ok(Around {
        traffic: traffic.services.into_iter().find(|(n, _)| n.as_str() == name).map(|(_, t)| t),
        leases: own(session.list(Kind::Leases).await?),
        journeys: own(session.list(Kind::Journeys).await?),
    })
}

struct Page {
    out: String,
    colours: bool,
    scene: Scene,
}

impl Page {
    fn head(&mut self, title: &str) {
        let gap = if self.out.is_empty() { "" } else { "\n" };
        let _ = writeln!(self.out, "{gap}{}", paint(title, Tone::Head, self.colours));
    }
    fn line(&mut self, label: &str, value: impl AsRef<str>) {
        let value = value.as_ref();
        if !value.is_empty() {
            let clean = crate::output::Cell::from(value).text;
            let _ = writeln!(self.out, "  {label:<18} {clean}");
        }
    }

    fn service(&mut self, view: &ServiceView, rehearsed: Option<String>) {
        let (spec, status) = (&view.service.spec, &view.status);
        self.head(&format!("Service {}", view.service.metadata.name));
        self.line(
            "phase",
            if status.why.is_empty() { status.phase.clone() } else { format!("{}: {}", status.phase, status.why) },
        );
        let lendable = match status.lending.state {
            LendingState::Yes => "yes",
            LendingState::No => "no",
            LendingState::Unknown => "not known",
            LendingState::Unasked => "not asked for",
        };
        let why = status.lending.why.join("; ");
        self.line("lendable", if why.is_empty() { lendable.to_owned() } else { format!("{lendable}: {why}") });
        self.line("rehearsed", rehearsed.unwrap_or_default());
        self.line("hosts", spec.hosts.join(", "));
        let home = spec.instances.home;
        let range = if home.min == home.max { String::new() } else { format!(" ({} to {})", home.min, home.max) };
        self.line(
            "instances",
            format!(
                "{} of {} at home{range}, {} of {} borrowed",
                status.home_ready, status.home_wanted, status.borrowed_ready, status.borrowed_wanted
            ),
        );
        self.line(
            "objective",
            format!("95 % of requests wait at most {}", duration_ms(spec.objective.queue_delay_p95_ms)),
        );
        self.line(
            "bundle",
            match &spec.application.bundle {
                pumasi_terms::service::BundleRef::Digest(d) => d.to_string(),
                pumasi_terms::service::BundleRef::Path(p) => p.clone(),
            },
        );
        self.line("command", spec.application.command.join(" "));
        if spec.application.protocol == pumasi_terms::Protocol::H2c {
            self.line("speaks", "HTTP/2 without TLS (h2c)");
        }
        self.line("each instance", resources(spec.application.resources));
        for dataset in &spec.datasets {
            let kind = format!("{:?}", dataset.kind).to_lowercase();
            self.line(
                "dataset",
                format!("{}: {kind}, copies at most {} old", dataset.name, duration_ms(dataset.rpo_ms)),
            );
        }
        let b = &spec.borrowing;
        let mode = format!("{:?}", b.mode).to_lowercase();
        self.line(
            "borrowing",
            format!(
                "{mode}, at most {} instances and {} {} an hour",
                b.instances_max,
                money(b.money_per_hour_max),
                self.scene.currency
            ),
        );
        self.line("generation", status.generation.to_string());
    }

    fn traffic(&mut self, traffic: Option<&TrafficView>) {
        self.head("Traffic");
        let Some(t) = traffic else { return self.line("now", "none was seen") };
        self.line(
            "requests",
            format!(
                "{} in, {} answered, {} shed, {} failed",
                rate(t.arrivals_mps),
                rate(t.completed_mps),
                rate(t.shed_mps),
                rate(t.failed_mps)
            ),
        );
        let missed = t.queue_delay_p95_us > t.objective_queue_delay_p95_us;
        let tone = if missed { Tone::Bad } else { Tone::Good };
        let delay = paint(&duration_us(t.queue_delay_p95_us), tone, self.colours);
        let _ = writeln!(
            self.out,
            "  {:<18} {delay} (objective {})",
            "queue delay p95",
            duration_us(t.objective_queue_delay_p95_us)
        );
        self.line(
            "application",
            format!("p50 {}, p95 {}", duration_us(t.app_time_p50_us), duration_us(t.app_time_p95_us)),
        );
        self.line("users' network", duration_us(t.user_rtt_p50_us));
        self.line("in flight", format!("{} of {}", t.in_flight, t.limit));
        let whole: u64 = t.served_by.values().sum();
        for (cloud, mps) in &t.served_by {
            self.line("served by", format!("{cloud}: {} ({} %)", rate(*mps), mps * 100 / whole.max(1)));
        }
        self.line("judged", &t.judgement);
    }

    /// A thing whose type others own: its fields, as an indented outline.
    fn thing(&mut self, item: &Value) {
        outline(&mut self.out, item, 0);
    }

    fn things(&mut self, title: &str, kind: Kind, items: &[Value]) -> Result<(), Failure> {
        if items.is_empty() {
            return Ok(());
        }
        self.head(title);
        for line in table(kind, items, &self.scene)?.render(self.colours).lines() {
            let _ = writeln!(self.out, "  {line}");
        }
        Ok(())
    }
}

/// Times and money are told in their units by the names of their fields.
fn scalar(key: &str, value: &Value) -> String {
    let n = value.as_u64();
    match (n, value) {
        (Some(n), _) if key.ends_with("_at") || key == "at" || key == "since" => {
            pumasi_terms::WallMs(n as i64).to_string()
        }
        (Some(n), _) if key.ends_with("_bytes") || key == "bytes_max" => crate::units::bytes(n),
        (Some(n), _) if key.ends_with("_ms") || key.ends_with("_ms_max") => duration_ms(n),
        (Some(n), _) if key.ends_with("_us") => duration_us(n),
        (Some(n), _) if key.starts_with("price_") || key.starts_with("cost_") || key == "amount" => {
            money(pumasi_terms::Money(n))
        }
        (_, Value::String(s)) => crate::output::Cell::from(s.as_str()).text,
        (_, other) => other.to_string(),
    }
}

pub fn outline(out: &mut String, value: &Value, depth: usize) {
    /// Deeper things are printed on one line: the terminal is only so wide.
    const DEPTH_MAX: usize = 8;
    let pad = "  ".repeat(depth);
    let nested = |v: &Value| {
        depth < DEPTH_MAX
            && (v.as_object().is_some_and(|m| !m.is_empty())
                || v.as_array().is_some_and(|a| a.iter().any(Value::is_object)))
    };
    let Value::Object(map) = value else { return };
    for (key, value) in map.iter().filter(|(_, v)| !v.is_null()) {
        let label = key.replace('_', " ");
        match value {
            // A reason is its sentence.
            Value::Array(items) if key == "reasons" => {
                let _ = writeln!(out, "{pad}{label}");
                for item in items {
                    let _ = writeln!(
                        out,
                        "{pad}  - {}",
                        text(item, &["text"]).trim().to_owned() + item.as_str().unwrap_or_default()
                    );
                }
            }
            Value::Array(items) if nested(value) => {
                for (i, item) in items.iter().enumerate() {
                    let _ = writeln!(out, "{pad}{label} {}", i + 1);
                    outline(out, item, depth + 1);
                }
            }
            Value::Array(items) => {
                let line = items.iter().map(|i| scalar(key, i)).collect::<Vec<_>>().join(", ");
                let _ = writeln!(out, "{pad}{label:<22} {line}");
            }
            Value::Object(_) if nested(value) => {
                let _ = writeln!(out, "{pad}{label}");
                outline(out, value, depth + 1);
            }
            _ => {
                let _ = writeln!(out, "{pad}{label:<22} {}", scalar(key, value));
            }
        }
    }
}
