//! Planted bugs: what a wrong line in the protocol would write, say or leave out. The oracles must find each of them.
//!
//! They act where a daemon meets its ground (store, engine, gateway, wire), so that no product code knows of them.

use bytes::Bytes;
use http::Response;
use pumasi_store::sim::Fate;
use serde_json::{Value, json};

macro_rules! mutants {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutant { $($(#[doc = $doc])+ $name,)+ }
        impl Mutant {
            pub const ALL: &[Self] = &[$(Self::$name,)+];
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
            pub fn about(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc,)+).trim_ascii(),)+ }
            }
        }
    };
}

mutants! {
    /// The lender writes a lease down as if it used next to nothing, and lends the same room again.
    Oversell = "oversell",
    /// The lender adds an instance to what was signed.
    Generous = "generous",
    /// The lender takes a lease for ended before it is empty.
    EarlyEnd = "early-end",
    /// The engine says that a lent instance was removed, and keeps what it had.
    Leftover = "leftover",
    /// The lender signs a lease and forgets to write it down.
    Unrecorded = "unrecorded",
    /// A renewal is good for an hour instead of the lease's time.
    Immortal = "immortal",
    /// The lender says that a lease is good for its whole time again, whether it was renewed or not.
    Hopeful = "hopeful",
    /// A recall's notice never ends.
    LongNotice = "long-notice",
    /// Holds that were let go or ran out stay in the ledger.
    StickyHold = "sticky-hold",
    /// What the lender metered is not written down.
    Unmetered = "unmetered",
    /// The borrower believes each part of a journey given back and settled as soon as it ends.
    Forgetful = "forgetful",
    /// The gateway goes on serving leases that left its table.
    StaleRoutes = "stale-routes",
    /// The engine says that a lent instance stopped, and lets it run.
    Zombie = "zombie",
    /// A standby ends when its borrower is not heard.
    Fickle = "fickle",
    /// The settlement that is kept is not the one that was signed.
    CookedBooks = "cooked-books",
    /// The gateway lets requests that write in while the service is handed over.
    Heedless = "heedless",
    /// The gateway says that nothing is in flight, whatever is.
    Impatient = "impatient",
    /// A hold ends when its time is over, though the heir may have signed.
    Unhold = "unhold",
    /// The gateway of a former owner goes on serving.
    Stubborn = "stubborn",
    /// Nobody writes down who owns a service that was handed over.
    Amnesiac = "amnesiac",
    /// A heir opens before it has made the data its own.
    Unpromoted = "unpromoted",
    /// A heir forgets that a handover was cancelled.
    Resigned = "resigned",
    /// The owner takes everything for sent as soon as requests wait.
    Hasty = "hasty",
    /// What a heir prepares begins at once.
    Eager = "eager",
    /// Answers of a service that is kept in step leave at once.
    Rash = "rash",
    /// The gateway waits no longer for a cloud that is slow, and the register hears of that afterwards.
    Unforgiving = "unforgiving",
}

const HOUR_MS: u64 = 3_600_000;

fn add(value: &mut Value, pointer: &str, more: u64) {
    if let Some(place) = value.pointer_mut(pointer)
        && let Some(n) = place.as_u64()
    {
        *place = json!(n + more);
    }
}

fn state_of(value: &Value) -> Option<&str> {
    value.pointer("/state/state").and_then(Value::as_str)
}

impl Mutant {
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|m| m.name() == name)
    }

    /// Whether it shows only where a cloud is lost.
    pub fn is_of_losses(self) -> bool {
        matches!(self, Self::Rash | Self::Unforgiving)
    }

    /// Whether it shows only where a service moves.
    pub fn is_of_moves(self) -> bool {
        use Mutant::{Amnesiac, Eager, Hasty, Heedless, Impatient, Resigned, Stubborn, Unhold, Unpromoted};
        matches!(self, Heedless | Impatient | Unhold | Stubborn | Amnesiac | Unpromoted | Resigned | Hasty | Eager)
    }

    pub(crate) fn on_put(self, kind: &str, _name: &str, value: &mut Value) -> Fate {
        match (self, kind) {
            (Self::Oversell, "lent") => {
                if let Some(each) = value.pointer_mut("/lease/requirement/resources") {
                    *each = json!({ "cpu_millis": 10, "memory_mib": 8 });
                }
            }
            (Self::Generous, "lent")
                if state_of(value) == Some("active")
                    && value.pointer("/usage/instance_ms").and_then(Value::as_u64) == Some(0) =>
            {
                add(value, "/lease/instances", 1);
            }
            (Self::EarlyEnd, "lent") if state_of(value) == Some("ending") => {
                let why = value.pointer("/state/why").cloned().unwrap_or_default();
                let at = value.get("since").cloned().unwrap_or_default();
                value["state"] = json!({ "state": "ended", "why": why, "at": at });
            }
            (Self::Fickle, "lent") if value.get("silence").is_some() && state_of(value) == Some("active") => {
                value["state"] = json!({ "state": "ending", "why": "expiry" });
            }
            (Self::Unrecorded, "lent") => return Fate::Drop,
            (Self::Immortal, "lent") if state_of(value) == Some("active") => add(value, "/expires_at", HOUR_MS),
            (Self::Immortal, "lent_renewal") => {
                for entry in
                    value.get_mut("leases").and_then(Value::as_object_mut).into_iter().flat_map(|o| o.values_mut())
                {
                    add(entry, "/1", HOUR_MS);
                }
            }
            (Self::LongNotice, "lent") if state_of(value) == Some("recalled") => add(value, "/state/deadline", HOUR_MS),
            (Self::Unmetered, "lent") => value["usage"] = json!({ "instance_ms": 0, "requests": 0, "bytes_out": 0 }),
            (Self::Forgetful, "journey") => {
                for part in value.get_mut("parts").and_then(Value::as_array_mut).into_iter().flatten() {
                    if part.pointer("/state/state").and_then(Value::as_str) == Some("ending") {
                        part["state"] =
                            json!({ "state": "ended", "why": "forgotten", "proven": true, "settled": true });
                    }
                }
            }
            (Self::Amnesiac, "tenure" | "handover") | (Self::Resigned, "heir") => return Fate::Drop,
            (Self::Hasty, "move") if value.pointer("/step/step").and_then(Value::as_str) == Some("catching") => {
                value["step"]["step"] = json!("committing");
            }
            (Self::Unpromoted, "service") => {
                if let Some(service) = value.as_object_mut() {
                    service.remove("taking");
                }
            }
            (Self::CookedBooks, "settlement") => {
                if let Some(payload) = value.get_mut("payload") {
                    *payload = json!("e30");
                }
            }
            _ => {}
        }
        Fate::Keep
    }

    pub(crate) fn on_delete(self, kind: &str) -> Fate {
        if self == Self::StickyHold && kind == "hold" { Fate::Drop } else { Fate::Keep }
    }

    pub(crate) fn on_answer(self, what: &str, answer: &mut Response<Bytes>) {
        if self != Self::Hopeful || !what.ends_with("/heartbeat") || !answer.status().is_success() {
            return;
        }
        let Ok(mut body) = serde_json::from_slice::<Value>(answer.body()) else { return };
        for lease in body.get_mut("leases").and_then(Value::as_array_mut).into_iter().flatten() {
            lease["expires_in_ms"] = json!(HOUR_MS);
        }
        *answer.body_mut() = serde_json::to_vec(&body).unwrap_or_default().into();
    }
}
