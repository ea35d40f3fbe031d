//! A cloud is lost end to end: real daemons that vote, killed with everything on them, as `pumasi lab play disaster` plays it.

mod played;

#[test]
fn services_of_a_lost_cloud_go_on_at_others_and_go_back() {
    let played = played::lab(&["play", "disaster"]);
    let (story, report) = (&played.story, &played.report);
    let broken = played.wrong();
    assert!(broken.is_empty(), "{broken:#?}\n{story}\n{report}");
    assert!(played.promises().len() > 12, "the scenario judged nothing:\n{report}");
    // A promise of time on a machine that does other things gets no word here.
    assert!(played.code.is_some_and(|c| [0, 1, 3].contains(&c)), "{story}\n{report}");
}
