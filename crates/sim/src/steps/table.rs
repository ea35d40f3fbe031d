//! The table: every message, durable commit and effect of a journey, a row each. A new step is covered by being listed here.

use crate::steps::trap::{Call, Seen};
use pumasi_api::{ENDPOINTS, Endpoint, Role};
use pumasi_route::Tenure;
use pumasi_route::table::{Role as Stands, RouteTable};
use serde_json::Value;

/// Whose step it is. In these journeys the first cloud borrows, the others lend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Borrower,
    Lender,
}

/// What is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Play {
    /// The first cloud borrows under load, and gives back.
    Borrowed,
    /// The same, called back by the lender.
    Recalled,
    /// The first cloud's service moves to the second.
    Moved,
}

impl Play {
    pub const ALL: [Self; 3] = [Self::Borrowed, Self::Recalled, Self::Moved];
}

/// How a step is recognised.
#[derive(Debug, Clone, Copy)]
pub enum At {
    /// From the borrower to a lender.
    Message {
        method: &'static str,
        path: &'static str,
        body: fn(&Value) -> bool,
    },
    /// The first write of an object of this kind that is so; its transaction is the step.
    Commit {
        side: Side,
        kind: &'static str,
        is: fn(&Value) -> bool,
    },
    Deletion {
        side: Side,
        kind: &'static str,
    },
    Engine {
        side: Side,
        call: Call,
    },
    Table {
        side: Side,
        is: fn(&RouteTable) -> bool,
    },
    Positions {
        side: Side,
    },
    /// What a cloud may write is told to its gateway.
    Tenure {
        side: Side,
        is: fn(&Tenure) -> bool,
    },
    Erase,
}

pub struct Step {
    pub name: &'static str,
    pub at: At,
    /// The act of the journey that it belongs to, by its variant's name.
    pub act: Option<&'static str>,
    /// Where it happens.
    pub play: Play,
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Refused once, with nothing done: 503, an error of store, engine, gateway or disk.
    Fails,
    /// Refused for good, with nothing done: asking again does not help, asking another may.
    Refused,
    /// The connection breaks before anything arrives.
    Breaks,
    /// Done, and told as failed; of a message, the answer is lost.
    AnswerLost,
    /// Done twice at once, answered once.
    Twice,
    /// Done again a while later, when the journey is further on.
    TwiceLate,
    /// Whoever does it is killed right before.
    DiesBefore,
    /// Whoever did it is killed right after, before it hears the answer.
    DiesAfter,
    /// Of a message: the receiver is killed when it has done it, before it answers.
    ReceiverDies,
}

impl Fault {
    /// Whether a daemon dies of it.
    pub fn kills(self) -> bool {
        matches!(self, Self::DiesBefore | Self::DiesAfter | Self::ReceiverDies)
    }
}

use Fault::{AnswerLost, Breaks, DiesAfter, DiesBefore, Fails, ReceiverDies, Refused, Twice, TwiceLate};

impl Step {
    /// Faults that mean something for this step.
    pub fn faults(&self) -> &'static [Fault] {
        match self.at {
            // What is begun with a lender may be refused by it; what is ended with it may not.
            At::Message { .. } if matches!(self.act, Some("Reserve" | "Sign" | "Send")) => {
                &[Fails, Refused, Breaks, AnswerLost, Twice, TwiceLate, DiesBefore, DiesAfter, ReceiverDies]
            }
            At::Message { .. } => &[Fails, Breaks, AnswerLost, Twice, TwiceLate, DiesBefore, DiesAfter, ReceiverDies],
            At::Commit { .. } | At::Deletion { .. } => &[Fails, DiesBefore, DiesAfter],
            At::Engine { call: Call::List | Call::Remains | Call::Logs, .. } => &[Fails, DiesBefore, DiesAfter],
            At::Engine { .. } | At::Table { .. } | At::Positions { .. } | At::Tenure { .. } | At::Erase => {
                &[Fails, AnswerLost, Twice, DiesBefore, DiesAfter]
            }
        }
    }

    /// The one that hurts most: the side that has just acted forgets everything but its disk.
    pub fn worst(&self) -> Fault {
        match self.at {
            At::Message { .. } => ReceiverDies,
            At::Commit { .. } | At::Deletion { .. } => DiesAfter,
            At::Engine { call: Call::List | Call::Remains | Call::Logs, .. } => Fails,
            _ => DiesAfter,
        }
    }

    pub fn side(&self) -> Side {
        match self.at {
            At::Message { .. } => Side::Borrower,
            At::Commit { side, .. }
            | At::Deletion { side, .. }
            | At::Engine { side, .. }
            | At::Table { side, .. }
            | At::Tenure { side, .. }
            | At::Positions { side } => side,
            At::Erase => Side::Lender,
        }
    }

    pub fn is(&self, side: Side, seen: &Seen<'_>) -> bool {
        if self.side() != side {
            return false;
        }
        match (&self.at, seen) {
            (At::Message { method, path, body }, Seen::Message { method: m, path: p, body: b }) => {
                method == m && fits(path, p) && body(&serde_json::from_slice(b).unwrap_or_default())
            }
            (At::Commit { kind, is, .. }, Seen::Put { kind: k, value }) => kind == k && is(value),
            (At::Deletion { kind, .. }, Seen::Deleted { kind: k }) => kind == k,
            (At::Engine { call, .. }, Seen::Engine(c)) => call == c,
            (At::Table { is, .. }, Seen::Table(table)) => is(table),
            (At::Positions { .. }, Seen::Positions { any }) => *any,
            (At::Tenure { is, .. }, Seen::Tenure(tenure)) => is(tenure),
            (At::Erase, Seen::Erase) => true,
            _ => false,
        }
    }
}

/// Whether a path is of a template with `{name}` parameters.
pub fn fits(template: &str, path: &str) -> bool {
    let (mut a, mut b) = (template.split('/'), path.split('/'));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(t), Some(p)) if t == p || (t.starts_with('{') && !p.is_empty()) => {}
            _ => return false,
        }
    }
}

const fn message(name: &'static str, act: Option<&'static str>, method: &'static str, path: &'static str) -> Step {
    Step { name, at: At::Message { method, path, body: any }, act, play: Play::Borrowed }
}

const fn commit(name: &'static str, side: Side, kind: &'static str, is: fn(&Value) -> bool) -> Step {
    Step { name, at: At::Commit { side, kind, is }, act: None, play: Play::Borrowed }
}

const fn local(name: &'static str, at: At) -> Step {
    Step { name, at, act: None, play: Play::Borrowed }
}

const fn recalled(step: Step) -> Step {
    Step { play: Play::Recalled, ..step }
}

const fn moved(step: Step) -> Step {
    Step { play: Play::Moved, ..step }
}

fn any(_: &Value) -> bool {
    true
}

fn part(journey: &Value, is: impl Fn(&Value) -> bool) -> bool {
    journey["parts"].as_array().into_iter().flatten().any(is)
}

fn part_is(journey: &Value, state: &str) -> bool {
    part(journey, |p| p["state"]["state"] == state)
}

fn ending(journey: &Value, step: &str) -> bool {
    part(journey, |p| p["state"]["release"]["step"] == step)
}

fn a_try(journey: &Value, state: &str) -> bool {
    journey["seeking"]["tries"].as_array().into_iter().flatten().any(|t| t["state"]["state"] == state)
}

fn lent_is(lent: &Value, state: &str) -> bool {
    lent["state"]["state"] == state || lent["state"] == state
}

fn at_step(open: &Value, step: &str) -> bool {
    open["step"]["step"] == step
}

/// A service that was handed over, its data not made the heir's own yet, or done.
fn taken(service: &Value, is_own: bool) -> bool {
    service["epoch"] == 2 && service["taking"].is_null() == is_own
}

fn renews(beat: &Value) -> bool {
    beat["renew"].as_array().is_some_and(|r| !r.is_empty())
}

use Side::{Borrower, Lender};

pub const STEPS: &[Step] = &[
    // What the borrower says to a lender.
    message("reserve", Some("Reserve"), "POST", "/v1/reservations"),
    message("let go", Some("LetGo"), "DELETE", "/v1/reservations/{id}"),
    message("sign", Some("Sign"), "POST", "/v1/leases"),
    message("ask missing chunks", Some("Send"), "POST", "/v1/leases/{id}/chunks/missing"),
    message("send chunks", Some("Send"), "POST", "/v1/leases/{id}/chunks"),
    message("ask sealing key", Some("Send"), "GET", "/v1/leases/{id}/sealing-key"),
    message("send application", Some("Send"), "PUT", "/v1/leases/{id}/application"),
    message("send first copy", Some("Send"), "PUT", "/v1/leases/{id}/datasets/{name}"),
    message("bring copy forward", None, "POST", "/v1/leases/{id}/datasets/{name}/batches"),
    Step {
        name: "renew",
        at: At::Message { method: "POST", path: "/v1/heartbeat", body: renews },
        act: None,
        play: Play::Borrowed,
    },
    recalled(Step {
        name: "hear of recall",
        at: At::Message { method: "POST", path: "/v1/heartbeat", body: renews },
        act: None,
        play: Play::Recalled,
    }),
    message("bring logs", Some("Return"), "GET", "/v1/leases/{id}/logs"),
    message("release", Some("Release"), "POST", "/v1/leases/{id}/release"),
    message("settle", Some("Settle"), "POST", "/v1/leases/{id}/settlement"),
    // What the borrower writes down.
    commit("plan made", Borrower, "plan", any),
    commit("journey opened", Borrower, "journey", |j| a_try(j, "asking")),
    commit("grant noted", Borrower, "journey", |j| a_try(j, "granted")),
    commit("lender chosen", Borrower, "journey", |j| part_is(j, "signing")),
    commit("other let go", Borrower, "journey", |j| a_try(j, "over")),
    commit("signed lease kept", Borrower, "signed_lease", any),
    commit("signing noted", Borrower, "journey", |j| part_is(j, "sending")),
    commit("sending noted", Borrower, "journey", |j| part_is(j, "starting")),
    commit("switched over", Borrower, "journey", |j| part_is(j, "serving")),
    recalled(commit("recall noted", Borrower, "journey", |j| part(j, |p| !p["recalled"].is_null()))),
    commit("switched back", Borrower, "journey", |j| ending(j, "draining")),
    commit("drained", Borrower, "journey", |j| ending(j, "stopping")),
    commit("stopped there", Borrower, "journey", |j| ending(j, "returning")),
    commit("logs home", Borrower, "journey", |j| ending(j, "erasing")),
    commit("proof noted", Borrower, "journey", |j| ending(j, "settling")),
    commit("settlement kept", Borrower, "settlement", any),
    commit("lease over", Borrower, "journey", |j| part_is(j, "ended")),
    commit("journey closed", Borrower, "journey", |j| j["phase"]["phase"] == "closed"),
    // What the lender writes down.
    commit("hold granted", Lender, "hold", any),
    local("hold gone", At::Deletion { side: Lender, kind: "hold" }),
    commit("lease lent", Lender, "lent", |l| lent_is(l, "active")),
    commit("signed lease kept there", Lender, "signed_lease", any),
    commit("application received", Lender, "lent_application", any),
    commit("renewals kept", Lender, "lent_renewal", any),
    recalled(commit("recalled", Lender, "lent", |l| lent_is(l, "recalled"))),
    commit("lease released", Lender, "lent", |l| lent_is(l, "ending")),
    local("application forgotten", At::Deletion { side: Lender, kind: "lent_application" }),
    commit("lease emptied", Lender, "lent", |l| lent_is(l, "ended")),
    commit("lease settled", Lender, "lent", |l| lent_is(l, "settled")),
    commit("settlement kept there", Lender, "settlement", any),
    // What the lender does on its host.
    local("start instance", At::Engine { side: Lender, call: Call::Start }),
    local("list instances", At::Engine { side: Lender, call: Call::List }),
    local("stop instance", At::Engine { side: Lender, call: Call::Stop }),
    local("remove instance", At::Engine { side: Lender, call: Call::Remove }),
    local("read logs", At::Engine { side: Lender, call: Call::Logs }),
    local("count what is left", At::Engine { side: Lender, call: Call::Remains }),
    local("erase files", At::Erase),
    // What both tell their gateways.
    local("let the peer in", At::Table { side: Lender, is: |t| !t.leases.is_empty() }),
    local(
        "switch over",
        At::Table { side: Borrower, is: |t| t.services.values().any(|s| s.leases.iter().any(|l| !l.draining)) },
    ),
    local(
        "switch back",
        At::Table { side: Borrower, is: |t| t.services.values().any(|s| s.leases.iter().any(|l| l.draining)) },
    ),
    local("tell how far copies are", At::Positions { side: Borrower }),
    local("tell how far the copy is", At::Positions { side: Lender }),
    // A service moves: what its owner says to the heir.
    moved(message("tell the heir everything", None, "PUT", "/v1/leases/{id}/dossier")),
    moved(message("have all prepared", None, "POST", "/v1/leases/{id}/handover/prepare")),
    moved(message("alert the heir", None, "POST", "/v1/leases/{id}/handover/hold")),
    moved(message("sign the handover", None, "PUT", "/v1/leases/{id}/handover")),
    moved(message("ask whether it is open", None, "GET", "/v1/leases/{id}/handover")),
    // What the owner writes down.
    moved(commit("move asked", Borrower, "move", |m| at_step(m, "placing"))),
    moved(commit("standby ready", Borrower, "move", |m| at_step(m, "preparing"))),
    moved(commit("heir prepared", Borrower, "move", |m| at_step(m, "alerting"))),
    moved(commit("requests held", Borrower, "move", |m| at_step(m, "holding"))),
    moved(commit("requests drained", Borrower, "move", |m| at_step(m, "catching"))),
    moved(commit("data caught", Borrower, "move", |m| at_step(m, "committing"))),
    moved(commit("tenure given", Borrower, "tenure", any)),
    moved(commit("moved", Borrower, "move", |m| at_step(m, "fronted"))),
    // What the heir writes down.
    moved(commit("dossier received", Lender, "dossier", any)),
    moved(commit("tenure taken", Lender, "tenure", any)),
    moved(commit("service taken", Lender, "service", |s| taken(s, false))),
    moved(commit("data made its own", Lender, "service", |s| taken(s, true))),
    // What both do on their hosts.
    moved(local("prepare at the heir", At::Engine { side: Lender, call: Call::Prepare })),
    moved(local("start at the heir", At::Engine { side: Lender, call: Call::Start })),
    moved(local("erase what is left of the lease", At::Erase)),
    moved(local("hold requests", At::Tenure { side: Borrower, is: |t| !t.held.is_empty() })),
    moved(local("take the right away", At::Tenure { side: Borrower, is: |t| t.epochs.is_empty() })),
    moved(local("give the right", At::Tenure { side: Lender, is: |t| t.epochs.values().any(|e| e.0 == 2) })),
    moved(local("send on to the heir", At::Table { side: Borrower, is: |t| t.services.values().any(fronts) })),
    moved(local(
        "serve at the heir",
        At::Table { side: Lender, is: |t| t.services.values().any(|s| s.epoch.0 == 2 && !s.home.is_empty()) },
    )),
];

fn fronts(route: &pumasi_route::table::ServiceRoute) -> bool {
    matches!(route.role, Stands::Front { .. })
}

/// Peers' endpoints that belong to none of these: how a pact is made and kept.
pub const OTHER_ENDPOINTS: &[&str] = &[
    "/v1/pact",
    "/v1/pact/admissions",
    "/v1/pact/signatures",
    "/v1/pact/current",
    "/v1/pact/notices",
    // How a pact votes: tests of their own play it.
    "/v1/pacts/{id}/messages",
    "/v1/pacts/{id}/commands",
    "/v1/pacts/{id}/silence",
    "/v1/pacts/{id}/register",
    "/v1/pacts/{id}/snapshot/{digest}",
    // A cancelled move: seeds play it.
    "/v1/leases/{id}/handover/cancel",
];

macro_rules! acts {
    ($($variant:ident),*) => {
        /// The acts of a journey. A new one does not compile until it is named here, and then must stand in the table.
        pub const ACTS: &[&str] = &[$(stringify!($variant)),*];

        pub fn act_name(act: &pumasi_journey::Act) -> &'static str {
            match act {
                $(pumasi_journey::Act::$variant { .. } => stringify!($variant)),*
            }
        }
    };
}

acts!(Reserve, LetGo, Sign, Send, Inform, Ask, Return, Release, Settle);

/// Acts that no journey with users has: seeds play rehearsals and standbys.
const OTHER_ACTS: &[&str] = &["Ask", "Inform"];

/// What a journey does and the table does not list.
pub fn uncovered() -> Vec<String> {
    let listed = |e: &Endpoint| {
        let row = |s: &Step| matches!(s.at, At::Message { method, path, .. } if method == e.method.as_str() && path == e.path);
        STEPS.iter().any(row) || OTHER_ENDPOINTS.contains(&e.path)
    };
    let peers = ENDPOINTS.iter().filter(|e| e.roles.contains(&Role::Peer) && !listed(e));
    let acts = ACTS.iter().filter(|a| !STEPS.iter().any(|s| s.act == Some(a)) && !OTHER_ACTS.contains(a));
    peers.map(|e| format!("{} {}", e.method.as_str(), e.path)).chain(acts.map(|a| format!("act {a}"))).collect()
}
