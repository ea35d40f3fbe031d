//! What users are told at every entrance while nobody may answer for a service.
#![allow(clippy::unwrap_used)]

mod kit;
use kit::*;
use pumasi_ownership::access::{Why, absence, entrances};
use pumasi_ownership::command::Command;
use pumasi_ownership::state::{Agreed, Class, Takeover};
use pumasi_terms::Epoch;

/// Four clouds; `a` owns a guaranteed service, two deferred ones and one that asks.
fn four() -> Register {
    let mut register = Register::new(&["a", "b", "c", "d"]);
    register.protects("a", 1, &agreed("shop", Class::Guaranteed, 9, (1, 1), &["b", "c"]));
    register.protects("a", 2, &agreed("wiki", Class::Deferred, 5, (2, 4), &["b"]));
    register.protects("a", 3, &agreed("blog", Class::Deferred, 1, (1, 1), &["c"]));
    let asks = Agreed { takeover: Takeover::Ask, ..agreed("desk", Class::Early, 5, (1, 1), &["b"]) };
    register.protects("a", 4, &asks);
    register
}

fn told(register: &Register, n: u128) -> (Why, Option<(u32, u32)>, String) {
    let found = absence(&register.state, &service(n)).unwrap();
    (found.why, found.place, found.text)
}

#[test]
fn what_waits_says_its_class_its_place_and_what_it_waits_for() {
    let mut register = four();
    assert!((1..=4).all(|n| absence(&register.state, &service(n)).is_none()), "its owner is alive");
    assert!(absence(&register.state, &service(9)).is_none(), "it is not known");
    let lost =
        register.lost("a", &["b", "c"], vec![taken(1, 1, "b", 1, 1), waits(4, 1, 1), waits(2, 1, 2), waits(3, 1, 3)]);
    register.does("b", Command::Lost(Box::new(lost)));
    assert_eq!(register.owner(1), ("b".into(), 2));
    assert!(absence(&register.state, &service(1)).is_none(), "b answers for it");
    let (why, place, text) = told(&register, 2);
    assert_eq!((why, place), (Why::Waiting, Some((2, 3))));
    assert_eq!(
        text,
        "its owner a is lost; class deferred, place 2 of 3, waits for 0.2 CPU and 200 MiB of room at a cloud that keeps it ready"
    );
    assert_eq!(told(&register, 3).1, Some((3, 3)));
    assert_eq!(told(&register, 4).0, Why::Automation);
    // Who was before it has been taken: the others move up.
    let at_rev = register.state.recovery[&cloud("a")].at_rev;
    let items = vec![taken(2, 1, "b", 2, 4)];
    register.does("b", Command::Recover { cloud: cloud("a"), lost_rev: at_rev, items });
    assert_eq!(told(&register, 3).1, Some((2, 2)));
    // It is back, and owns what nobody took: it resumes.
    register.does("a", Command::Rejoin { cloud: cloud("a"), run: 2 });
    assert!([3, 4].iter().all(|n| absence(&register.state, &service(*n)).is_none()));
    let clouds: Vec<String> = entrances(&register.state, &service(1)).map(ToString::to_string).collect();
    assert_eq!(clouds, ["b", "c", "b"], "its standbys and its owner");
}

#[test]
fn beyond_the_pace_it_waits_for_approval_and_a_yielded_one_says_so() {
    let mut register = four();
    register.does("a", Command::Yield { service: service(3), epoch: Epoch(1), why: "its disk fails".into() });
    assert_eq!(told(&register, 3).0, Why::Yielded);
    let first = register.lost("d", &["b", "c"], Vec::new());
    register.does("b", Command::Lost(Box::new(first)));
    let second = register.lost("a", &["b", "c"], vec![taken(1, 1, "b", 1, 1)]);
    register.does("b", Command::Lost(Box::new(second)));
    let (why, place, text) = told(&register, 1);
    assert_eq!((why, place), (Why::Approval, Some((1, 4))));
    assert!(text.ends_with("waits for operators' approval (0 of 2 clouds have agreed)"), "{text}");
    let lost_rev = register.state.recovery[&cloud("a")].at_rev;
    register.does("b", Command::Approve { cloud: cloud("a"), lost_rev });
    assert!(told(&register, 1).2.contains("(1 of 2 clouds"));
}
