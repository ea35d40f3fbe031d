//! An application that was not written for this project, as `pumasi lab play foreign --app sqlite` plays it: sqlite-web, installed by
//! pip, borrows from a partner and loses not one row. Needs python3, pip and the package index; a failing install fails.

mod played;

/// Every promise kept; one of time was not; the machine was too busy for a word about time. An interpreter that answers forty requests
/// a second is no clock: its times are figures of the scenario, and this test is about what it answers and keeps.
const CORRECT: [i32; 3] = [0, 1, 3];

#[test]
fn a_stock_sqlite_application_is_carried_by_a_partner_and_loses_nothing() {
    let played = played::lab(&["play", "foreign", "--app", "sqlite"]);
    let (story, report, promises) = (&played.story, &played.report, played.promises());
    let broken = played.wrong();
    assert!(broken.is_empty(), "{broken:#?}\n{story}\n{report}");
    for judged in ["partners answered reads", "acknowledged records lost", "processes and directories left at lenders"]
    {
        let name = format!("sqlite: {judged}");
        assert!(promises.iter().any(|p| p["name"] == *name), "{name} was not judged:\n{report}");
    }
    let code = played.code;
    assert!(code.is_some_and(|c| CORRECT.contains(&c)), "exit {code:?}\n{story}\n{report}");
}
