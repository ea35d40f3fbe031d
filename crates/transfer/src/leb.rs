//! Numbers in as few bytes as they need (LEB128): seven bits a byte, the lowest first.

pub(crate) fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Takes a number off the front; none if it is broken off or longer than 64 bits.
pub(crate) fn take(input: &mut &[u8]) -> Option<u64> {
    let mut n = 0u128;
    for at in 0..10 {
        let (first, rest) = input.split_first()?;
        *input = rest;
        n |= u128::from(first & 0x7f) << (7 * at);
        if first & 0x80 == 0 {
            return u64::try_from(n).ok();
        }
    }
    None
}

pub(crate) fn put_number(out: &mut Vec<u8>, n: u32) {
    put(out, n.into());
}

/// None, too, if it is longer than 32 bits.
pub(crate) fn take_number(input: &mut &[u8]) -> Option<u32> {
    take(input).and_then(|n| u32::try_from(n).ok())
}

/// Small numbers of either sign are short.
pub(crate) fn put_signed(out: &mut Vec<u8>, n: i64) {
    put(out, (n.wrapping_shl(1) ^ (n >> 63)) as u64);
}

pub(crate) fn take_signed(input: &mut &[u8]) -> Option<i64> {
    take(input).map(|n| (n >> 1) as i64 ^ -((n & 1) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_out_again_and_broken_ones_do_not() {
        for n in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put(&mut out, n);
            assert_eq!(take(&mut &out[..]), Some(n));
            assert_eq!(take(&mut &out[..out.len() - 1]), None);
            assert_eq!(take_number(&mut &out[..]), u32::try_from(n).ok());
        }
        for n in [0, -1, 1, i64::MIN, i64::MAX, 1_700_000_000_123_456_789] {
            let mut out = Vec::new();
            put_signed(&mut out, n);
            assert_eq!(take_signed(&mut &out[..]), Some(n));
        }
        assert_eq!(take(&mut &[0xff; 11][..]), None);
    }
}
