//! The route table as version 1 wrote it: a gateway that serves by an old file must keep reading it.

use pumasi_route::RouteTable;

#[test]
fn a_table_of_version_1_is_read_and_written_as_it_was() {
    let golden = include_str!("golden/table-v1.json");
    let read: RouteTable = serde_json::from_str(golden).expect("a table of version 1 is read");
    let before: serde_json::Value = serde_json::from_str(golden).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), before);
}
