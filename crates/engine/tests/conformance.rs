//! One suite, both drivers: what every engine must do.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{App, ProcessRig, Rig, SimRig, id, ready, status, wait};
use pumasi_engine::{EngineError, Freeze, InstanceState, InstanceStatus, Prepare};

/// Each promise once for each driver.
macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        mod sim {
            use super::*;
            $(#[tokio::test] async fn $name() { super::$name(&mut SimRig::new()).await })*
        }
        mod process {
            use super::*;
            $(#[tokio::test] async fn $name() {
                let mut rig = ProcessRig::new().await;
                super::$name(&mut rig).await;
                rig.end().await;
            })*
        }
    };
}

suite!(
    starts_becomes_ready_stops_and_leaves_nothing,
    restarts_what_crashes_with_growing_rest,
    restarts_what_is_not_alive,
    kills_what_ignores_sigterm,
    repeats_change_nothing,
    generations_only_rise,
    a_new_daemon_adopts_what_runs,
    a_killed_shim_is_reported_and_revived,
    running_instances_are_not_removed,
    owners_are_told_apart,
    what_is_frozen_does_nothing_and_goes_on_where_it_was,
    a_freeze_ends_by_itself_unless_its_bound_is_lifted,
    what_is_frozen_ends_at_once_and_as_it_stands,
    a_freeze_outlives_daemons_and_shims,
    what_is_prepared_begins_when_it_is_started,
    what_is_prepared_and_not_started_ends_by_itself,
);

fn is_stopped(state: &InstanceState) -> bool {
    matches!(state, InstanceState::Stopped { .. })
}

async fn end(rig: &impl Rig, number: u32) {
    let id = id(number);
    rig.engine().stop(&id).await.unwrap();
    wait(rig, &id, |s| is_stopped(&s.state)).await;
    rig.engine().remove(&id).await.unwrap();
    assert!(status(rig, &id).await.is_none());
}

async fn starts_becomes_ready_stops_and_leaves_nothing(rig: &mut impl Rig) {
    assert!(rig.engine().remains(None).await.unwrap().is_empty());
    let spec = rig.spec(1, App::Well);
    rig.engine().start(spec.clone()).await.unwrap();
    let found = ready(rig, &spec.id).await;
    assert_eq!((found.owner.as_str(), found.generation, found.restarts), ("service-a", 1, 0));
    assert_eq!(found.memory_max_bytes, 128 << 20);
    assert!(found.address.is_some() && found.pid.is_some() && found.started_at.is_some());
    let left = rig.engine().remains(None).await.unwrap();
    assert!(left.processes >= 2 && left.directories == 1, "{left:?}");
    assert!(!rig.engine().logs(&spec.id, 1_000).await.unwrap().is_empty());

    rig.engine().stop(&spec.id).await.unwrap();
    assert_ne!(status(rig, &spec.id).await.unwrap().state, InstanceState::Ready);
    let found = wait(rig, &spec.id, |s| is_stopped(&s.state)).await;
    let InstanceState::Stopped { exit } = found.state else { unreachable!() };
    assert_eq!(exit.unwrap().signal, Some(15));
    rig.engine().remove(&spec.id).await.unwrap();
    let left = rig.engine().remains(None).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    assert!(matches!(rig.engine().logs(&spec.id, 10).await, Err(EngineError::Unknown { .. })));
}

async fn restarts_what_crashes_with_growing_rest(rig: &mut impl Rig) {
    let spec = rig.spec(1, App::Crashes { after_ms: 150 });
    rig.engine().start(spec.clone()).await.unwrap();
    ready(rig, &spec.id).await;
    let found = wait(rig, &spec.id, |s| matches!(s.state, InstanceState::BackingOff { .. })).await;
    let InstanceState::BackingOff { restarts, why } = found.state else { unreachable!() };
    assert!(restarts >= 1 && why.contains("code 3"), "{restarts} {why}");
    let again = wait(rig, &spec.id, |s| s.restarts >= 2 && s.state == InstanceState::Ready).await;
    assert_eq!(again.address, found.address, "the port is kept");
    end(rig, 1).await;
}

async fn restarts_what_is_not_alive(rig: &mut impl Rig) {
    let spec = rig.spec(1, App::Sick { after_ms: 200 });
    rig.engine().start(spec.clone()).await.unwrap();
    let first = ready(rig, &spec.id).await;
    assert_eq!(first.restarts, 0);
    let found = wait(rig, &spec.id, |s| matches!(s.state, InstanceState::BackingOff { .. })).await;
    assert!(matches!(&found.state, InstanceState::BackingOff { why, .. } if why.contains("not alive")), "{found:?}");
    wait(rig, &spec.id, |s| s.restarts >= 1 && s.state == InstanceState::Ready).await;
    end(rig, 1).await;
}

async fn kills_what_ignores_sigterm(rig: &mut impl Rig) {
    let mut spec = rig.spec(1, App::IgnoresTerm);
    spec.stop_grace_ms = 300;
    rig.engine().start(spec.clone()).await.unwrap();
    ready(rig, &spec.id).await;
    rig.engine().stop(&spec.id).await.unwrap();
    let found = status(rig, &spec.id).await.unwrap();
    assert!(matches!(&found.state, InstanceState::Unready { why } if why == "stopping"), "{found:?}");
    end(rig, 1).await;
}

async fn repeats_change_nothing(rig: &mut impl Rig) {
    let spec = rig.spec(1, App::Well);
    for _ in 0..3 {
        rig.engine().start(spec.clone()).await.unwrap();
    }
    let first = ready(rig, &spec.id).await;
    rig.engine().start(spec.clone()).await.unwrap();
    let second = ready(rig, &spec.id).await;
    assert_eq!((first.pid, first.restarts), (second.pid, second.restarts));
    assert_eq!(rig.engine().list().await.unwrap().len(), 1);
    rig.engine().stop(&spec.id).await.unwrap();
    rig.engine().stop(&spec.id).await.unwrap();
    wait(rig, &spec.id, |s| is_stopped(&s.state)).await;
    rig.engine().stop(&spec.id).await.unwrap();
    // What was stopped does not rise from a late repetition.
    assert!(matches!(rig.engine().start(spec.clone()).await, Err(EngineError::Ended { .. })));
    rig.engine().remove(&spec.id).await.unwrap();
    rig.engine().remove(&spec.id).await.unwrap();
    rig.engine().stop(&spec.id).await.unwrap();
}

async fn generations_only_rise(rig: &mut impl Rig) {
    let old = rig.spec(1, App::Well);
    rig.engine().start(old.clone()).await.unwrap();
    ready(rig, &old.id).await;
    let mut changed = old.clone();
    changed.stop_grace_ms += 1;
    assert!(matches!(rig.engine().start(changed.clone()).await, Err(EngineError::Conflict { .. })));
    changed.generation = 2;
    let error = rig.engine().start(changed.clone()).await.unwrap_err();
    assert!(matches!(error, EngineError::Replacing { older: 1, .. }) && error.is_retryable(), "{error}");
    let mut tries = 0;
    while rig.engine().start(changed.clone()).await.is_err() {
        rig.pass(5).await;
        tries += 1;
        assert!(tries < 2_000, "the older generation never ends");
    }
    let found = ready(rig, &old.id).await;
    assert_eq!(found.generation, 2);
    assert!(matches!(rig.engine().start(old).await, Err(EngineError::Stale { asked: 1, known: 2, .. })));
    end(rig, 1).await;
}

async fn a_new_daemon_adopts_what_runs(rig: &mut impl Rig) {
    let spec = rig.spec(1, App::Well);
    rig.engine().start(spec.clone()).await.unwrap();
    let before = ready(rig, &spec.id).await;
    rig.reopen().await;
    let after = status(rig, &spec.id).await.unwrap();
    assert_eq!((after.state, after.pid, after.address), (before.state, before.pid, before.address));
    rig.engine().start(spec).await.unwrap();
    end(rig, 1).await;
}

async fn a_killed_shim_is_reported_and_revived(rig: &mut impl Rig) {
    let spec = rig.spec(1, App::Well);
    rig.engine().start(spec.clone()).await.unwrap();
    ready(rig, &spec.id).await;
    rig.kill_shim(&spec.id).await;
    let found = wait(rig, &spec.id, |s| matches!(s.state, InstanceState::Failed { .. })).await;
    assert_eq!(found.address, None);
    rig.engine().start(spec.clone()).await.unwrap();
    ready(rig, &spec.id).await;
    rig.kill_shim(&spec.id).await;
    wait(rig, &spec.id, |s| matches!(s.state, InstanceState::Failed { .. })).await;
    end(rig, 1).await;
}

async fn running_instances_are_not_removed(rig: &mut impl Rig) {
    let spec = rig.spec(1, App::Well);
    rig.engine().start(spec.clone()).await.unwrap();
    let error = rig.engine().remove(&spec.id).await.unwrap_err();
    assert!(matches!(error, EngineError::Running { .. }), "{error}");
    ready(rig, &spec.id).await;
    end(rig, 1).await;
}

async fn owners_are_told_apart(rig: &mut impl Rig) {
    let mut lent = rig.spec(2, App::Well);
    lent.owner = "lease-7".into();
    for spec in [rig.spec(1, App::Well), lent] {
        rig.engine().start(spec.clone()).await.unwrap();
        ready(rig, &spec.id).await;
    }
    assert_eq!(rig.engine().remains(Some("lease-7")).await.unwrap().directories, 1);
    end(rig, 2).await;
    let left = rig.engine().remains(Some("lease-7")).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    assert!(!rig.engine().remains(Some("service-a")).await.unwrap().is_empty());
    end(rig, 1).await;
}

fn freeze(name: &str, at_most_ms: Option<u64>) -> Freeze {
    Freeze { name: name.into(), at_most_ms }
}

async fn what_is_frozen_does_nothing_and_goes_on_where_it_was(rig: &mut impl Rig) {
    let (one, mut other) = (rig.spec(1, App::Crashes { after_ms: 600 }), rig.spec(2, App::Crashes { after_ms: 600 }));
    other.owner = "service-b".into();
    for spec in [&one, &other] {
        rig.engine().start(spec.clone()).await.unwrap();
        ready(rig, &spec.id).await;
    }
    rig.engine().freeze(&one.owner, &freeze("first", None)).await.unwrap();
    // Nobody has to be told twice, and nobody is asked how it is.
    rig.engine().freeze(&one.owner, &freeze("first", None)).await.unwrap();
    wait(rig, &other.id, |s| s.restarts >= 1).await;
    rig.pass(300).await;
    let found = status(rig, &one.id).await.unwrap();
    assert_eq!((found.frozen, &found.state, found.restarts), (true, &InstanceState::Ready, 0));
    assert!(!status(rig, &other.id).await.unwrap().frozen, "another owner's");
    rig.engine().thaw(&one.owner).await.unwrap();
    rig.engine().thaw(&one.owner).await.unwrap();
    wait(rig, &one.id, |s| !s.frozen && s.restarts >= 1).await;
    // What rests after a crash does not start while it is frozen.
    rig.engine().freeze(&one.owner, &freeze("second", None)).await.unwrap();
    let before = status(rig, &one.id).await.unwrap();
    rig.pass(1_500).await;
    let after = status(rig, &one.id).await.unwrap();
    assert_eq!((after.frozen, after.restarts, after.pid), (true, before.restarts, before.pid));
    rig.engine().thaw(&one.owner).await.unwrap();
    wait(rig, &one.id, |s| s.restarts > before.restarts).await;
    end(rig, 1).await;
    end(rig, 2).await;
}

async fn a_freeze_ends_by_itself_unless_its_bound_is_lifted(rig: &mut impl Rig) {
    let spec = rig.spec(1, App::Well);
    rig.engine().start(spec.clone()).await.unwrap();
    ready(rig, &spec.id).await;
    rig.engine().freeze(&spec.owner, &freeze("first", Some(300))).await.unwrap();
    // A repetition does not make it longer.
    rig.engine().freeze(&spec.owner, &freeze("first", Some(60_000))).await.unwrap();
    assert!(status(rig, &spec.id).await.unwrap().frozen);
    wait(rig, &spec.id, |s| !s.frozen).await;
    for bound in [None, Some(1_000)] {
        let late = rig.engine().freeze(&spec.owner, &freeze("first", bound)).await;
        assert!(matches!(&late, Err(EngineError::Thawed { name, .. }) if name == "first"), "{late:?}");
    }
    rig.engine().freeze(&spec.owner, &freeze("second", Some(400))).await.unwrap();
    rig.engine().freeze(&spec.owner, &freeze("second", None)).await.unwrap();
    rig.engine().freeze(&spec.owner, &freeze("second", Some(1))).await.unwrap();
    rig.pass(1_000).await;
    let found = status(rig, &spec.id).await.unwrap();
    assert_eq!((found.frozen, &found.state, found.restarts), (true, &InstanceState::Ready, 0));
    rig.engine().thaw(&spec.owner).await.unwrap();
    wait(rig, &spec.id, |s| !s.frozen).await;
    end(rig, 1).await;
}

async fn what_is_frozen_ends_at_once_and_as_it_stands(rig: &mut impl Rig) {
    let mut spec = rig.spec(1, App::IgnoresTerm);
    spec.stop_grace_ms = 600_000;
    rig.engine().start(spec.clone()).await.unwrap();
    ready(rig, &spec.id).await;
    rig.engine().freeze(&spec.owner, &freeze("first", Some(60_000))).await.unwrap();
    rig.engine().stop(&spec.id).await.unwrap();
    let found = wait(rig, &spec.id, |s| is_stopped(&s.state)).await;
    let InstanceState::Stopped { exit } = found.state else { unreachable!() };
    assert_eq!(exit.unwrap().signal, Some(9));
    // What is gone stands still.
    rig.engine().freeze(&spec.owner, &freeze("second", None)).await.unwrap();
    rig.engine().remove(&spec.id).await.unwrap();
    rig.engine().freeze(&spec.owner, &freeze("third", None)).await.unwrap();
    // One that is on its way out does not, yet.
    let mut slow = rig.spec(2, App::IgnoresTerm);
    slow.stop_grace_ms = 400;
    rig.engine().start(slow.clone()).await.unwrap();
    ready(rig, &slow.id).await;
    rig.engine().stop(&slow.id).await.unwrap();
    let refused = rig.engine().freeze(&slow.owner, &freeze("fourth", None)).await;
    assert!(matches!(&refused, Err(e @ EngineError::Stirs { .. }) if e.is_retryable()), "{refused:?}");
    end(rig, 2).await;
    rig.engine().freeze(&slow.owner, &freeze("fourth", None)).await.unwrap();
}

async fn a_freeze_outlives_daemons_and_shims(rig: &mut impl Rig) {
    let spec = rig.spec(1, App::Well);
    rig.engine().start(spec.clone()).await.unwrap();
    ready(rig, &spec.id).await;
    rig.engine().freeze(&spec.owner, &freeze("first", None)).await.unwrap();
    rig.reopen().await;
    assert!(status(rig, &spec.id).await.unwrap().frozen);
    rig.kill_shim(&spec.id).await;
    let dead = wait(rig, &spec.id, |s| matches!(s.state, InstanceState::Failed { .. })).await;
    assert!(!dead.frozen);
    rig.engine().start(spec.clone()).await.unwrap();
    wait(rig, &spec.id, |s| s.frozen).await;
    rig.pass(300).await;
    assert_ne!(status(rig, &spec.id).await.unwrap().state, InstanceState::Ready, "nothing begins while it is frozen");
    rig.engine().freeze(&spec.owner, &freeze("first", None)).await.unwrap();
    rig.engine().thaw(&spec.owner).await.unwrap();
    let found = ready(rig, &spec.id).await;
    assert!(!found.frozen);
    end(rig, 1).await;
}

fn for_ms(at_most_ms: u64) -> Prepare {
    Prepare { at_most_ms, heir_of: None }
}

/// It stands before its first instruction.
fn stands(s: &InstanceStatus) -> bool {
    s.prepared && s.state == InstanceState::Starting && s.pid.is_some()
}

async fn what_is_prepared_begins_when_it_is_started(rig: &mut impl Rig) {
    // Had it begun when it was prepared, it would have crashed.
    let spec = rig.spec(1, App::Crashes { after_ms: 300 });
    rig.engine().prepare(spec.clone(), for_ms(60_000)).await.unwrap();
    let before = wait(rig, &spec.id, stands).await;
    rig.pass(600).await;
    rig.reopen().await;
    rig.engine().prepare(spec.clone(), for_ms(60_000)).await.unwrap();
    let after = status(rig, &spec.id).await.unwrap();
    assert!(stands(&after), "{after:?}");
    assert_eq!((after.pid, after.restarts), (before.pid, 0));
    let mut other = spec.clone();
    other.stop_grace_ms += 1;
    assert!(matches!(rig.engine().start(other).await, Err(EngineError::Conflict { .. })));
    rig.engine().start(spec.clone()).await.unwrap();
    let begun = ready(rig, &spec.id).await;
    assert_eq!((begun.prepared, begun.pid, begun.restarts), (false, before.pid, 0));
    // One that runs is not made to wait again; and it runs like any other.
    rig.engine().prepare(spec.clone(), for_ms(1)).await.unwrap();
    wait(rig, &spec.id, |s| !s.prepared && s.restarts >= 2).await;
    end(rig, 1).await;
    let unwanted = rig.spec(2, App::Well);
    rig.engine().prepare(unwanted.clone(), for_ms(60_000)).await.unwrap();
    wait(rig, &unwanted.id, stands).await;
    rig.engine().stop(&unwanted.id).await.unwrap();
    let found = wait(rig, &unwanted.id, |s| is_stopped(&s.state)).await;
    assert!(found.prepared, "nobody takes it for one that ran: {found:?}");
    assert!(matches!(rig.engine().start(unwanted.clone()).await, Err(EngineError::Ended { .. })));
    end(rig, 2).await;
    assert!(rig.engine().remains(None).await.unwrap().is_empty());
}

async fn what_is_prepared_and_not_started_ends_by_itself(rig: &mut impl Rig) {
    let specs = [rig.spec(1, App::Well), rig.spec(2, App::Well)];
    for spec in &specs {
        rig.engine().prepare(spec.clone(), for_ms(700)).await.unwrap();
        wait(rig, &spec.id, stands).await;
    }
    rig.engine().prepare(specs[1].clone(), for_ms(60_000)).await.unwrap();
    let found = wait(rig, &specs[0].id, |s| matches!(s.state, InstanceState::Failed { .. })).await;
    assert!(found.prepared && found.pid.is_none(), "{found:?}");
    assert!(stands(&status(rig, &specs[1].id).await.unwrap()), "its time was made longer");
    assert!(matches!(rig.engine().prepare(specs[0].clone(), for_ms(700)).await, Err(EngineError::Ended { .. })));
    // Started all the same, it is started anew.
    rig.engine().start(specs[0].clone()).await.unwrap();
    assert!(!ready(rig, &specs[0].id).await.prepared);
    end(rig, 1).await;
    end(rig, 2).await;
}
