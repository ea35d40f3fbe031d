//! Route tables as the versions wrote them: a gateway that serves by an old file must keep reading it.
#![allow(clippy::expect_used)]

use pumasi_route::table::{TABLE_VERSION, Writes, is_read};
use pumasi_route::{Keys, RouteTable, Tenure};

const OLD: [&str; 2] = [include_str!("golden/table-v1.json"), include_str!("golden/table-v2.json")];
const NEW: &str = include_str!("golden/table-v3.json");

fn read(text: &str) -> RouteTable {
    serde_json::from_str(text).expect("a table of an older version is read")
}

fn writes(table: &RouteTable) -> Writes {
    table.services.values().next().expect("it has a service").writes
}

#[test]
fn a_table_is_read_and_written_as_it_was() {
    let table = read(NEW);
    assert!(table.version == TABLE_VERSION && is_read(table.version) && !is_read(table.version + 1));
    assert_eq!(serde_json::to_value(&table).unwrap(), serde_json::from_str::<serde_json::Value>(NEW).unwrap());
    assert_eq!(writes(&table), Writes::Bound);
}

#[test]
fn older_tables_are_read_and_an_instant_in_them_binds() {
    for text in OLD {
        let table = read(text);
        assert!(is_read(table.version) && writes(&table) == Writes::Unbound);
        let bound = text.replacen(r#""writable_until": null"#, r#""writable_until": 5"#, 1);
        assert_eq!(writes(&read(&bound)), Writes::Bound, "what was bound once is not for ever now");
        for bad in [r#""writes": "often""#, r#""writes": true"#, r#""hosts_only": 1"#] {
            let text = text.replacen(r#""writable_until": null"#, bad, 1);
            assert!(serde_json::from_str::<RouteTable>(&text).is_err(), "{bad}");
        }
    }
}

#[test]
fn a_tenure_is_read_and_written_as_it_was() {
    let golden = include_str!("golden/tenure-v1.json");
    let tenure: Tenure = serde_json::from_str(golden).expect("the golden tenure is read");
    assert_eq!(serde_json::to_value(&tenure).unwrap(), serde_json::from_str::<serde_json::Value>(golden).unwrap());
}

#[test]
fn keys_are_read_and_written_as_they_were_and_never_shown() {
    let golden = include_str!("golden/keys-v1.json");
    let keys: Keys = serde_json::from_str(golden).expect("golden keys are read");
    assert_eq!(serde_json::to_value(&keys).unwrap(), serde_json::from_str::<serde_json::Value>(golden).unwrap());
    let shown = format!("{keys:?}");
    assert!(shown.contains("shop.example") && !shown.contains("0102030405") && !shown.contains("BEGIN"), "{shown}");
}
