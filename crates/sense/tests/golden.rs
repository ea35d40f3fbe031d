//! A meter window as version 1 of the gateway reports it.

use pumasi_sense::MeterWindow;

#[test]
fn a_window_of_version_1_is_read_and_written_as_it_was() {
    let golden = include_str!("golden/window-v1.json");
    let read: MeterWindow = serde_json::from_str(golden).expect("a window of version 1 is read");
    let before: serde_json::Value = serde_json::from_str(golden).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), before);
}
