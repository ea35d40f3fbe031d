//! Route tables as the versions wrote them: a gateway that serves by an old file must keep reading it.

use pumasi_route::RouteTable;
use pumasi_route::table::is_read;

#[test]
fn tables_of_both_versions_are_read_and_written_as_they_were() {
    for golden in [include_str!("golden/table-v1.json"), include_str!("golden/table-v2.json")] {
        let read: RouteTable = serde_json::from_str(golden).expect("a table of an older version is read");
        assert!(is_read(read.version) && !is_read(read.version + 2));
        let before: serde_json::Value = serde_json::from_str(golden).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), before);
    }
}
