//! Doors for the fuzz targets to what reads outside bytes in this crate. Nothing else may use them.

pub use crate::alias::{on_this_host, parse_position};
pub use crate::headers::{
    cookie, forwarded_for, join_cookies, set_forwarded, set_trace, strip_cookie, strip_hop_by_hop, strip_ours,
    under_prefix,
};
pub use crate::position::{COOKIE, Positions};
pub use crate::public::name_of;
pub use crate::ticket::{COOKIES_BYTES_MAX, PARAMETER, Spent, Ticket, attach, detach, open, seal};

use crate::peers::Peers;
use crate::table::Tables;
use pumasi_route::table::RouteTable;
use std::path::Path;

/// What a gateway does with a route table, without listening: checks it and puts it in force.
pub fn take_table(dir: &Path, boot_id: &str, table: RouteTable) -> Result<u64, String> {
    let peers = Peers::new(None).map_err(|e| e.to_string())?;
    let tables = Tables::new(dir, table.cloud.clone(), boot_id.to_owned(), peers);
    tables.put(table, None).map_err(|e| e.to_string())
}
