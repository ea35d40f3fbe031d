//! Links between clouds break end to end: real daemons that vote, behind relays, as `pumasi lab play split` plays it.

mod played;

#[test]
fn whatever_links_break_nobody_writes_twice_and_all_heals() {
    let played = played::lab(&["play", "split"]);
    let (story, report) = (&played.story, &played.report);
    let broken = played.wrong();
    assert!(broken.is_empty(), "{broken:#?}\n{story}\n{report}");
    assert!(played.promises().len() > 12, "the scenario judged nothing:\n{report}");
    // A promise of time on a machine that does other things gets no word here.
    assert!(played.code.is_some_and(|c| [0, 1, 3].contains(&c)), "{story}\n{report}");
}
