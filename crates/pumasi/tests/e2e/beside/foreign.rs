//! An application that was not written for this project: sqlite-web, installed by pip, borrows from a partner and loses not one row.
//! Needs python3, pip and the package index; a failing install fails.

use crate::played;

#[test]
fn a_stock_sqlite_application_is_carried_by_a_partner_and_loses_nothing() {
    let _stage = played::beside();
    let played = played::lab(&["play", "foreign", "--app", "sqlite"]);
    // An interpreter that answers forty requests a second is no clock: this is about what it answers and keeps.
    played.must_be_correct_whenever(1);
    for judged in ["partners answered reads", "acknowledged records lost", "processes and directories left at lenders"]
    {
        let name = format!("sqlite: {judged}");
        assert!(played.promises().iter().any(|p| p["name"] == *name), "{name} was not judged:\n{}", played.report);
    }
}
