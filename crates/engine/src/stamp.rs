//! The time at the beginning of each line of an instance's log: UTC to the millisecond (RFC 3339), and a blank.
//!
//! Always holds: what the application wrote follows its time, so that it can forge none; lines of older versions have none.

use pumasi_terms::WallMs;

/// `2026-11-30T22:04:21.361Z`.
pub const STAMP_BYTES: usize = 24;

pub fn of(at: WallMs) -> String {
    at.to_string()
}

/// The time of a line, if it has one, and the line without it.
pub fn split(line: &str) -> (Option<&str>, &str) {
    let shape = b"0000-00-00T00:00:00.000Z ";
    let bytes = line.as_bytes();
    let fits = |(want, is): (&u8, &u8)| if *want == b'0' { is.is_ascii_digit() } else { want == is };
    if bytes.len() <= STAMP_BYTES || !shape.iter().zip(bytes).all(fits) {
        return (None, line);
    }
    // Both sides of the cut are ASCII.
    let (stamp, rest) = line.split_at(STAMP_BYTES);
    (Some(stamp), &rest[1..])
}

/// A log without its times.
pub fn plain(text: &str) -> String {
    text.split_inclusive('\n').map(|line| split(line).1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_from_text() {
        let stamp = of(WallMs(1_764_540_261_361));
        assert_eq!(stamp.len(), STAMP_BYTES, "{stamp}");
        assert_eq!(split(&format!("{stamp} hello")), (Some(stamp.as_str()), "hello"));
        assert_eq!(split(&format!("{stamp} ")), (Some(stamp.as_str()), ""));
        for text in ["", "hello", "2026-11-30", &stamp, "2026-11-30T22:04:21,361Z x", "äöüäöüäöüäöüäöü x"]
        {
            assert_eq!(split(text), (None, text));
        }
        assert_eq!(plain(&format!("{stamp} a\n\n{stamp} b")), "a\n\nb");
    }
}
