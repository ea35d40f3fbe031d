//! Every case of [`cases`] against this gateway.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cases;
mod common;
use cases::{Instance, all, play};

/// Cases are played side by side, each by a gateway and an instance of its own.
const LANES: usize = 6;

#[test]
fn every_case_holds_but_those_that_are_known_not_to() {
    let lanes: Vec<_> = (0..LANES).map(|lane| std::thread::spawn(move || lane_of(lane))).collect();
    let wrong: Vec<String> = lanes.into_iter().flat_map(|lane| lane.join().unwrap()).collect();
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
    assert!(all().len() >= 200, "{} cases", all().len());
}

fn lane_of(lane: usize) -> Vec<String> {
    let instance = Instance::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let gateway = runtime.block_on(common::for_cases(instance.address));
    let mut wrong = Vec::new();
    for case in all().into_iter().skip(lane).step_by(LANES) {
        let outcome = play(&case, gateway.address, &instance, common::RULE);
        if (case.holds)(&outcome) != case.ours_fails.is_none() {
            let users: Vec<_> = (0..outcome.users.len())
                .map(|u| String::from_utf8_lossy(&outcome.users[u].bytes).chars().take(400).collect::<String>())
                .collect();
            let seen = String::from_utf8_lossy(&outcome.seen.raw).chars().take(600).collect::<String>();
            wrong.push(format!("{}: {}\n   users {users:?}\n   instance {seen:?}", case.subject, case.name));
        }
    }
    wrong
}
