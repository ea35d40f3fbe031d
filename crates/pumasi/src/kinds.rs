//! The kinds of things: where they are, what they are called, and their columns.

use crate::args::Kind;
use crate::failure::Failure;
use crate::output::{Cell, Table, Tone};
use crate::units::{age, bytes, cpu, duration_ms, duration_us, money, resources, short_id};
use pumasi_api::message::{
    BillLine, CustomerView, DivergenceView, Event, InstanceView, LeaseView, LendingState, MemberStatus, RetiredView,
    ServiceView, StandbyView, TokenView,
};
use pumasi_terms::offer::Offer;
use pumasi_terms::{Money, WallMs};
use serde::de::DeserializeOwned;
use serde_json::Value;

impl Kind {
    pub fn plural(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Instances => "instances",
            Self::Journeys => "journeys",
            Self::Plans => "plans",
            Self::Leases => "leases",
            Self::Continuity => "continuity",
            Self::Offers => "offers",
            Self::Members => "members",
            Self::Events => "events",
            Self::Tokens => "tokens",
            Self::Customers => "customers",
            Self::Retired => "retired",
            Self::Divergences => "divergences",
            Self::Settlements => "settlements",
        }
    }
    pub fn singular(self) -> &'static str {
        let plural = self.plural();
        plural.strip_suffix('s').unwrap_or(plural)
    }
    /// What the daemon's watch calls it.
    pub fn watched(self) -> &'static str {
        match self {
            Self::Leases => "lent",
            Self::Continuity => "journey",
            Self::Members => "cloud",
            other => other.singular(),
        }
    }
    pub fn has_ids(self) -> bool {
        matches!(self, Self::Instances | Self::Journeys | Self::Plans | Self::Leases | Self::Tokens | Self::Retired)
    }
    /// Whether its table tells prices.
    pub fn is_priced(self) -> bool {
        matches!(self, Self::Plans | Self::Leases | Self::Offers | Self::Settlements)
    }
    /// 32 hex digits after the kind: nothing is left to look up.
    pub fn is_whole_id(self, name: &str) -> bool {
        self.has_ids() && name.split_once('-').is_some_and(|(_, rest)| rest.len() >= 32)
    }
    /// What a thing of this kind is called.
    pub fn name_of(self, item: &Value) -> String {
        let paths: &[&str] = match self {
            Self::Services => &["service.metadata.name", "metadata.name"],
            Self::Offers | Self::Members => &["cloud"],
            Self::Continuity | Self::Divergences => &["service"],
            Self::Events => &["seq"],
            Self::Plans => &["id", "plan.id"],
            Self::Journeys => &["id", "journey.id"],
            Self::Leases => &["id", "lease.id"],
            Self::Instances | Self::Tokens | Self::Retired => &["id"],
            Self::Customers => &["name"],
            Self::Settlements => &["lease"],
        };
        text(item, paths)
    }
}

/// The value at the first of `paths` that is there.
pub fn dig<'a>(item: &'a Value, paths: &[&str]) -> Option<&'a Value> {
    paths.iter().find_map(|path| path.split('.').try_fold(item, |v, key| v.get(key)).filter(|v| !v.is_null()))
}

/// What tells variants apart in our documents.
const TAGS: [&str; 4] = ["text", "state", "phase", "kind"];

/// The same as text; an object with a tag (`{"state": "active", ...}`) by its tag, a list by its parts.
pub fn text(item: &Value, paths: &[&str]) -> String {
    fn flat(value: &Value) -> String {
        match value {
            Value::String(s) => s.clone(),
            Value::Null => String::new(),
            Value::Array(parts) => parts.iter().map(flat).collect::<Vec<_>>().join("; "),
            Value::Object(map) => match (TAGS.iter().find_map(|tag| map.get(*tag)), map.iter().next()) {
                (Some(tag), _) => flat(tag),
                (None, Some((key, _))) if map.len() == 1 => key.clone(),
                _ => value.to_string(),
            },
            other => other.to_string(),
        }
    }
    dig(item, paths).map(flat).unwrap_or_default()
}

fn number(item: &Value, paths: &[&str]) -> Option<u64> {
    dig(item, paths).and_then(Value::as_u64)
}

fn since(item: &Value, paths: &[&str], scene: &Scene) -> Cell {
    match dig(item, paths).and_then(Value::as_i64) {
        Some(ms) => age(scene.now, WallMs(ms)).into(),
        None => "-".into(),
    }
}

/// Reads an answer by its type; what does not fit is the daemon's version, not the user's fault.
pub fn typed<T: DeserializeOwned>(kind: Kind, item: &Value) -> Result<T, Failure> {
    T::deserialize(item).map_err(|e| {
        Failure::failed(format!("a {} of the answer is not what this version expects: {e}", kind.singular()))
            .hint("use the command of the daemon's version, or -o json")
    })
}

pub fn state_cell(state: &str) -> Cell {
    let tone = match state {
        "serving" | "running" | "ready" | "active" | "kept" | "current" | "executing" | "done" | "settled"
        | "approved" => Tone::Good,
        "starting" | "borrowing" | "helping" | "coming" | "waiting" | "recalled" | "draining" | "resting"
        | "proposed" | "ending" | "deleting" | "ask" | "stands_back" => Tone::Busy,
        "degraded" | "failing" | "silent" | "missing" | "failed" | "crashed" | "refused" | "unreachable" | "lost"
        | "error" => Tone::Bad,
        "ended" | "closed" | "released" | "observed" | "stopped" | "superseded" => Tone::Faint,
        _ => Tone::Plain,
    };
    Cell::toned(state, tone)
}

fn of(ready: u32, wanted: u32) -> Cell {
    let tone = if ready < wanted { Tone::Busy } else { Tone::Plain };
    Cell::toned(format!("{ready}/{wanted}"), tone)
}

/// Whether a partner could take it.
fn lendable(state: LendingState) -> Cell {
    match state {
        LendingState::Yes => "yes".into(),
        LendingState::No => Cell::toned("no", Tone::Bad),
        LendingState::Unknown | LendingState::Unasked => "-".into(),
    }
}

fn or_dash(text: &str) -> Cell {
    if text.is_empty() { "-".into() } else { text.into() }
}

/// What a table is seen in.
#[derive(Debug, Clone)]
pub struct Scene {
    pub now: WallMs,
    /// Of prices; empty where it is not known.
    pub currency: String,
    /// With more columns, and nothing cut short.
    pub wide: bool,
}

impl Scene {
    fn money(&self, amount: Money) -> String {
        format!("{} {}", money(amount), self.currency).trim_end().to_owned()
    }

    /// Long sentences stay in `describe`.
    fn brief(&self, text: &str) -> Cell {
        const SHOWN: usize = 72;
        if self.wide || text.chars().count() <= SHOWN {
            or_dash(text)
        } else {
            format!("{}…", text.chars().take(SHOWN - 1).collect::<String>()).into()
        }
    }

    /// Of the thing that a row is about.
    fn id(&self, id: &str) -> Cell {
        if self.wide { id.into() } else { short_id(id).into() }
    }
}

/// The table of `items`.
pub fn table(kind: Kind, items: &[Value], scene: &Scene) -> Result<Table, Failure> {
    let (head, row): (&[&'static str], Row) = match kind {
        Kind::Services => {
            (&["NAME", "PHASE", "HOME", "BORROWED", "LENDABLE", "HOST", "CUSTOMER", "GENERATION", "WHY"], service)
        }
        Kind::Instances => {
            (&["ID", "SERVICE", "OF", "LEASE", "STATE", "GENERATION", "RESTARTS", "CPU", "MEMORY", "WHY"], instance)
        }
        Kind::Journeys => (&["ID", "SERVICE", "CAUSE", "STATE", "AGE", "WHY"], journey),
        Kind::Plans => (&["ID", "NO", "SERVICE", "CAUSE", "MODE", "STATE", "BORROWS", "COST/H", "AGE", "WHY"], plan),
        Kind::Leases => (
            &["ID", "SIDE", "WITH", "SERVICE", "STATE", "READY", "GRANTED", "PRICE/H", "EXPIRES", "REQUESTS", "AGE"],
            lease,
        ),
        Kind::Continuity => {
            (&["SERVICE", "OF", "AT", "STATE", "READY", "SERVES IN", "LOSES", "KEPT FOR", "WHY"], standby)
        }
        Kind::Offers => (&["CLOUD", "FREE CPU", "FREE MEMORY", "STORAGE", "CPU-HOUR", "RECALL", "RUNS", "AGE"], offer),
        Kind::Members => (&["CLOUD", "CITY", "HEARD", "RTT", "LENDS", "FREE", "TROUBLE"], member),
        Kind::Events => (&["SEQ", "AT", "ACTOR", "ACTION", "SUBJECT", "CAUSE", "REASONS"], event_row),
        Kind::Tokens => (&["ID", "NAME", "ROLE", "CUSTOMER", "AGE", "EXPIRES"], token),
        Kind::Customers => (&["NAME", "SERVICES", "AT MOST", "HOSTS", "USES", "MAY USE", "TOKENS"], customer),
        Kind::Retired => (&["ID", "NAME", "CUSTOMER", "DELETED", "ERASED IN"], retired),
        Kind::Settlements => {
            let lines = items.iter().map(|i| typed(kind, i)).collect::<Result<Vec<BillLine>, _>>()?;
            return Ok(crate::bill::table(&lines, &scene.currency));
        }
        Kind::Divergences => (&["SERVICE", "EPOCH", "CUSTOMER", "SET ASIDE", "SIZE", "ONLY HERE", "WHAT"], divergence),
    };
    let more: &[More] = if scene.wide { more(kind) } else { &[] };
    let mut table = Table::new(head);
    table.head.extend(more.iter().map(|(head, _)| *head));
    for item in items {
        let mut cells = row(item, scene)?;
        cells.extend(more.iter().map(|(_, of)| or_dash(&of(item))));
        table.row(cells);
    }
    Ok(table)
}

type More = (&'static str, fn(&Value) -> String);

/// Columns of a wide table behind the others.
fn more(kind: Kind) -> &'static [More] {
    match kind {
        Kind::Services => &[
            ("HOSTS", |i| text(i, &["service.spec.hosts"])),
            ("BUNDLE", |i| text(i, &["service.spec.application.bundle"])),
            ("LABELS", |i| labels(i, "service.metadata.labels")),
        ],
        Kind::Instances => &[("ADDRESS", |i| text(i, &["address"]))],
        _ => &[],
    }
}

fn labels(item: &Value, path: &str) -> String {
    let map = dig(item, &[path]).and_then(Value::as_object);
    let one = |(k, v): (&String, &Value)| format!("{k}={}", v.as_str().unwrap_or_default());
    map.map(|m| m.iter().map(one).collect::<Vec<_>>().join(",")).unwrap_or_default()
}

type Row = fn(&Value, &Scene) -> Result<Vec<Cell>, Failure>;

fn service(item: &Value, scene: &Scene) -> Result<Vec<Cell>, Failure> {
    let v: ServiceView = typed(Kind::Services, item)?;
    let host = v.service.spec.hosts.first().map(String::as_str).unwrap_or_default();
    Ok(vec![
        v.service.metadata.name.as_str().into(),
        state_cell(if v.status.deleting { "deleting" } else { &v.status.phase }),
        of(v.status.home_ready, v.status.home_wanted),
        of(v.status.borrowed_ready, v.status.borrowed_wanted),
        lendable(v.status.lending.state),
        host.into(),
        v.status.customer.as_str().into(),
        generations(&v.status).into(),
        scene.brief(&v.status.why),
    ])
}

/// The one in force, and the one that still serves beside it.
fn generations(status: &pumasi_api::message::ServiceStatus) -> String {
    let older = status.rollout.as_ref().and_then(|r| r.older.as_ref());
    match older {
        Some(older) => format!("{} ({} serves)", status.generation, older.generation),
        None => status.generation.to_string(),
    }
}

fn instance(item: &Value, scene: &Scene) -> Result<Vec<Cell>, Failure> {
    let v: InstanceView = typed(Kind::Instances, item)?;
    Ok(vec![
        scene.id(v.id.as_str()),
        v.service.as_str().into(),
        v.cloud.as_str().into(),
        v.lease.as_ref().map_or("home", |l| short_id(l.as_str())).into(),
        state_cell(&v.state),
        v.generation.to_string().into(),
        v.restarts.to_string().into(),
        duration_us(v.cpu_used_us).into(),
        bytes(v.memory_bytes).into(),
        scene.brief(&v.why),
    ])
}

fn journey(item: &Value, scene: &Scene) -> Result<Vec<Cell>, Failure> {
    Ok(vec![
        scene.id(&Kind::Journeys.name_of(item)),
        text(item, &["service", "journey.service"]).into(),
        or_dash(&text(item, &["cause", "verdict.cause", "journey.cause"])),
        state_cell(&text(item, &["phase", "journey.phase"])),
        since(item, &["opened_at", "journey.opened_at"], scene),
        scene.brief(&text(item, &["why", "phase.why", "verdict.reasons", "reasons"])),
    ])
}

fn plan(item: &Value, scene: &Scene) -> Result<Vec<Cell>, Failure> {
    let id = Kind::Plans.name_of(item);
    let cost = number(item, &["cost_per_hour_max", "plan.cost_per_hour_max"]);
    let borrows = text(item, &["borrow.requirement.instances", "plan.borrow.requirement.instances"]);
    Ok(vec![
        scene.id(&id),
        text(item, &["number", "plan.number"]).into(),
        text(item, &["service", "plan.service"]).into(),
        or_dash(&text(item, &["verdict.cause", "plan.verdict.cause"])),
        text(item, &["mode", "plan.mode"]).into(),
        state_cell(&text(item, &["state", "status", "status.state"])),
        or_dash(&borrows),
        cost.map_or("-".into(), |c| scene.money(Money(c)).into()),
        since(item, &["created_at", "plan.created_at"], scene),
        scene.brief(&text(item, &["why", "verdict.reasons", "plan.verdict.reasons"])),
    ])
}

fn lease(item: &Value, scene: &Scene) -> Result<Vec<Cell>, Failure> {
    let v: LeaseView = typed(Kind::Leases, item)?;
    let other = if v.side == "rented" { &v.lender } else { &v.borrower };
    Ok(vec![
        scene.id(v.id.as_str()),
        v.side.as_str().into(),
        other.as_str().into(),
        v.service.as_str().into(),
        state_cell(&v.state),
        of(v.instances_ready, v.instances_wanted),
        v.instances_granted.to_string().into(),
        scene.money(v.price_per_instance_hour).into(),
        if v.expires_in_ms == 0 { "-".into() } else { duration_ms(v.expires_in_ms).into() },
        v.requests.to_string().into(),
        age(scene.now, v.since).into(),
    ])
}

fn standby(item: &Value, scene: &Scene) -> Result<Vec<Cell>, Failure> {
    let v: StandbyView = typed(Kind::Continuity, item)?;
    let span = |ms: Option<u64>, none: &'static str| match ms {
        Some(0) => "at once".into(),
        Some(ms) => duration_ms(ms).into(),
        None => none.into(),
    };
    let loss: Cell = match (&v.cloud, v.loss_ms) {
        (None, _) => Cell::toned("all", Tone::Bad),
        (_, Some(0)) => "nothing".into(),
        (_, Some(ms)) => duration_ms(ms).into(),
        (_, None) => "-".into(),
    };
    Ok(vec![
        v.service.as_str().into(),
        v.owner.as_str().into(),
        v.cloud.as_ref().map_or("-", |c| c.as_str()).into(),
        state_cell(&v.state),
        if v.cloud.is_some() { format!("{}/{}", v.ready, v.room).into() } else { "-".into() },
        if v.cloud.is_some() { span(v.serves_in_ms, "-") } else { "never".into() },
        loss,
        span(v.kept_ms, "-"),
        scene.brief(&v.why),
    ])
}

fn offer(item: &Value, scene: &Scene) -> Result<Vec<Cell>, Failure> {
    let v: Offer = typed(Kind::Offers, item)?;
    let runs = v.platforms.iter().map(|p| {
        let more = p.runtimes.iter().map(|r| format!("+{r}")).collect::<String>();
        format!("{}/{}{more}", p.os, p.arch)
    });
    Ok(vec![
        v.cloud.as_str().into(),
        cpu(v.free.cpu_millis).into(),
        bytes(u64::from(v.free.memory_mib) << 20).into(),
        bytes(v.storage_free_bytes).into(),
        scene.money(v.price_per_cpu_hour).into(),
        duration_ms(v.recall_notice_ms).into(),
        runs.collect::<Vec<_>>().join(" ").into(),
        age(scene.now, v.at).into(),
    ])
}

fn member(item: &Value, _: &Scene) -> Result<Vec<Cell>, Failure> {
    let v: MemberStatus = typed(Kind::Members, item)?;
    let heard = match v.heard_ms_ago {
        Some(ms) if v.trouble.is_some() => Cell::toned(duration_ms(ms), Tone::Bad),
        Some(ms) => duration_ms(ms).into(),
        None => Cell::toned("never", Tone::Bad),
    };
    Ok(vec![
        v.cloud.as_str().into(),
        v.place.as_ref().map_or("-", |p| &p.city).into(),
        heard,
        v.rtt_us.map_or("-".into(), duration_us).into(),
        resources(v.lends).into(),
        v.free.map_or("-".into(), resources).into(),
        or_dash(v.trouble.as_deref().unwrap_or_default()),
    ])
}

fn event_row(item: &Value, _: &Scene) -> Result<Vec<Cell>, Failure> {
    event(item)
}

pub fn event(item: &Value) -> Result<Vec<Cell>, Failure> {
    let v: Event = typed(Kind::Events, item)?;
    Ok(vec![
        v.seq.to_string().into(),
        Cell::toned(v.at.to_string(), Tone::Faint),
        v.actor.as_str().into(),
        v.action.as_str().into(),
        format!("{}/{}", v.subject_kind, short_id(&v.subject)).into(),
        or_dash(v.cause.as_deref().unwrap_or_default()),
        or_dash(&v.reasons.join("; ")),
    ])
}

fn token(item: &Value, scene: &Scene) -> Result<Vec<Cell>, Failure> {
    let v: TokenView = typed(Kind::Tokens, item)?;
    let role = text(item, &["role"]);
    Ok(vec![
        scene.id(v.id.as_str()),
        v.name.as_str().into(),
        role.into(),
        v.customer.as_ref().map_or("-", |c| c.as_str()).into(),
        age(scene.now, v.created_at).into(),
        match v.expires_at {
            None => "never".into(),
            Some(at) if at <= scene.now => Cell::toned("expired", Tone::Faint),
            Some(at) => duration_ms(at.since(scene.now)).into(),
        },
    ])
}

fn customer(item: &Value, _: &Scene) -> Result<Vec<Cell>, Failure> {
    let v: CustomerView = typed(Kind::Customers, item)?;
    let max = v.grant.resources_max;
    let limit = |n: u32, shown: String| if n == 0 { "-".to_owned() } else { shown };
    Ok(vec![
        v.name.as_str().into(),
        v.services.len().to_string().into(),
        limit(v.grant.services_max, v.grant.services_max.to_string()).into(),
        if v.grant.hosts.is_empty() { "any that is free".into() } else { v.grant.hosts.join(" ").into() },
        resources(v.used).into(),
        match (max.cpu_millis, max.memory_mib) {
            (0, 0) => "no limit".into(),
            (0, mib) => format!("any CPU, {}", bytes(u64::from(mib) << 20)).into(),
            (cpus, 0) => format!("{} CPU, any memory", cpu(cpus)).into(),
            _ => resources(max).into(),
        },
        v.tokens.to_string().into(),
    ])
}

fn divergence(item: &Value, scene: &Scene) -> Result<Vec<Cell>, Failure> {
    let v: DivergenceView = typed(Kind::Divergences, item)?;
    Ok(vec![
        v.service.as_str().into(),
        v.epoch.to_string().into(),
        v.customer.as_str().into(),
        age(scene.now, v.set_aside_at).into(),
        bytes(v.bytes).into(),
        v.only_here.map_or("-".to_owned(), |n| n.to_string()).into(),
        scene.brief(&v.summary),
    ])
}

fn retired(item: &Value, scene: &Scene) -> Result<Vec<Cell>, Failure> {
    let v: RetiredView = typed(Kind::Retired, item)?;
    Ok(vec![
        scene.id(v.id.as_str()),
        v.name.as_str().into(),
        v.customer.as_str().into(),
        age(scene.now, v.retired_at).into(),
        duration_ms(v.erase_after.since(scene.now)).into(),
    ])
}
