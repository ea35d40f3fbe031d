//! What the gateway reads of an instance's answer by itself.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, StatusCode};
use pumasi_gateway::fuzzing::{answer_head, chunked};

/// The first byte says in what steps the rest arrives.
struct Steps<'a> {
    first: u8,
    text: &'a [u8],
    parts: Vec<&'a [u8]>,
}

impl<'a> Steps<'a> {
    fn of(input: &'a [u8]) -> Option<Self> {
        let (&first, text) = input.split_first()?;
        Some(Self { first, text, parts: text.chunks(usize::from(first) / 2 + 1).collect() })
    }
}

/// However it arrives it is one answer, which nobody further on can take for a longer or a shorter one.
pub fn head(input: &[u8]) {
    let Some(Steps { first, text, parts }) = Steps::of(input) else { return };
    let method = if first % 2 == 0 { Method::GET } else { Method::HEAD };
    let whole = answer_head(&method, &[text]);
    match (&whole, answer_head(&method, &parts)) {
        (Ok(whole), Ok(stepwise)) => assert_eq!(whole, &stepwise),
        (Err(_), Err(_)) => {}
        (whole, stepwise) => panic!("at once: {whole:?}; in steps: {stepwise:?}"),
    }
    let Ok(Some(head)) = whole else { return };
    assert!(text.ends_with(&head.rest));
    assert!(!head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS);
    if head.framing != "None" {
        assert!(head.fields.get_all(CONTENT_LENGTH).iter().count() <= 1, "{head:?}");
        let both = head.fields.contains_key(TRANSFER_ENCODING) && head.fields.contains_key(CONTENT_LENGTH);
        assert!(!both, "{head:?}");
    }
}

/// However it arrives it is one body, and what is behind it is left alone.
pub fn chunks(input: &[u8]) {
    let Some(Steps { text, parts, .. }) = Steps::of(input) else { return };
    match (chunked(&[text]), chunked(&parts)) {
        (Ok(whole), Ok(stepwise)) => {
            assert_eq!(whole, stepwise);
            if let Some((_, _, rest)) = whole {
                assert!(text.ends_with(&rest));
            }
        }
        (Err(_), Err(_)) => {}
        (whole, stepwise) => panic!("at once: {whole:?}; in steps: {stepwise:?}"),
    }
}
