//! Doors for the fuzz targets to what reads outside bytes in this crate. Nothing else may use them.

pub use crate::alias::{on_this_host, parse_position};
pub use crate::headers::{
    cookies, forwarded_for, join_cookies, set_forwarded, set_trace, strip_cookie, strip_hop_by_hop, strip_ours,
    under_prefix,
};
pub use crate::position::{COOKIE, Positions};
pub use crate::public::name_of;
pub use crate::ticket::{COOKIES_BYTES_MAX, PARAMETER, Spent, Ticket, attach, detach, open, seal};

use crate::chunks::{Chunks, Piece};
use crate::peers::Peers;
use crate::plain;
use crate::table::Tables;
use bytes::BytesMut;
use http::{HeaderMap, Method, StatusCode};
use pumasi_route::table::RouteTable;
use std::path::Path;

/// The head of an instance's answer.
#[derive(Debug, PartialEq, Eq)]
pub struct AnswerHead {
    pub status: StatusCode,
    pub fields: HeaderMap,
    /// How the end of the body is found, in words.
    pub framing: String,
    pub keep_alive: bool,
    /// What is behind it.
    pub rest: Vec<u8>,
}

/// Reads the head of an answer that arrives in these parts; None: it is not complete.
pub fn answer_head(method: &Method, parts: &[&[u8]]) -> Result<Option<AnswerHead>, String> {
    let (mut arrived, mut spare) = (BytesMut::new(), HeaderMap::new());
    for (at, part) in parts.iter().enumerate() {
        arrived.extend_from_slice(part);
        if let Some(head) = plain::read_head(&mut arrived, method, &mut spare)? {
            let (status, fields, framing, keep_alive) = head.told();
            let rest = [arrived.as_ref(), &parts[at + 1..].concat()].concat();
            return Ok(Some(AnswerHead { status, fields, framing, keep_alive, rest }));
        }
    }
    Ok(None)
}

/// The data, the trailers and what is behind a chunked body that arrives in these parts; None: it is not complete.
pub type Chunked = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

pub fn chunked(parts: &[&[u8]]) -> Result<Option<Chunked>, &'static str> {
    let (mut chunks, mut arrived) = (Chunks::new(), BytesMut::new());
    let (mut data, mut trailers, mut rest) = (Vec::new(), None, parts.iter());
    loop {
        match chunks.next(&mut arrived)? {
            Piece::Data(bytes) => data.extend_from_slice(&bytes),
            Piece::Trailers(fields) => trailers = Some(fields),
            Piece::Over => {
                rest.for_each(|more| arrived.extend_from_slice(more));
                return Ok(Some((data, trailers, arrived.to_vec())));
            }
            Piece::More => match rest.next() {
                Some(more) => arrived.extend_from_slice(more),
                None => return Ok(None),
            },
        }
    }
}

/// What a gateway does with a route table, without listening: checks it and puts it in force.
pub fn take_table(dir: &Path, boot_id: &str, table: RouteTable) -> Result<u64, String> {
    let peers = Peers::new(None).map_err(|e| e.to_string())?;
    let tables = Tables::new(dir, table.cloud.clone(), boot_id.to_owned(), peers);
    tables.put(table, None).map_err(|e| e.to_string())
}
