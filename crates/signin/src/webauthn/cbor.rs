//! The part of CBOR that authenticators write (RFC 8949; CTAP 2.1, 8: definite lengths, little nesting, no floats).

const DEPTH_MAX: u8 = 8;
const ITEMS_MAX: usize = 1_024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    Int(i64),
    Bytes(&'a [u8]),
    Text(&'a str),
    List(Vec<Value<'a>>),
    Map(Vec<(Value<'a>, Value<'a>)>),
    /// false, true, null and the like.
    Simple(u8),
}

impl<'a> Value<'a> {
    fn get(&self, key: &Value<'_>) -> Option<&Value<'a>> {
        match self {
            Self::Map(pairs) => pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }
    pub fn named(&self, name: &str) -> Option<&Value<'a>> {
        self.get(&Value::Text(name))
    }
    pub fn numbered(&self, number: i64) -> Option<&Value<'a>> {
        self.get(&Value::Int(number))
    }
    pub fn bytes(&self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(int) => Some(*int),
            _ => None,
        }
    }
}

/// One value, and what follows it.
pub fn read(bytes: &[u8]) -> Option<(Value<'_>, &[u8])> {
    let mut reader = Reader { rest: bytes, items: 0 };
    let value = reader.value(0)?;
    Some((value, reader.rest))
}

struct Reader<'a> {
    rest: &'a [u8],
    items: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(usize::try_from(n).ok()?)?;
        self.rest = rest;
        Some(taken)
    }

    fn argument(&mut self, short: u8) -> Option<u64> {
        let wide = match short {
            0..=23 => return Some(short.into()),
            24..=27 => 1 << (short - 24),
            // 28 to 30 mean nothing; 31 is a length that is told later.
            _ => return None,
        };
        Some(self.take(wide)?.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    fn value(&mut self, depth: u8) -> Option<Value<'a>> {
        self.items += 1;
        if depth > DEPTH_MAX || self.items > ITEMS_MAX {
            return None;
        }
        let first = *self.take(1)?.first()?;
        let (major, short) = (first >> 5, first & 31);
        if major == 7 {
            return (20..=23).contains(&short).then_some(Value::Simple(short));
        }
        let n = self.argument(short)?;
        Some(match major {
            0 => Value::Int(n.try_into().ok()?),
            1 => Value::Int(-1 - i64::try_from(n).ok()?),
            2 => Value::Bytes(self.take(n)?),
            3 => Value::Text(std::str::from_utf8(self.take(n)?).ok()?),
            4 => Value::List((0..self.count(n)?).map(|_| self.value(depth + 1)).collect::<Option<_>>()?),
            5 => {
                let mut pairs: Vec<(Value<'a>, Value<'a>)> = Vec::new();
                for _ in 0..self.count(n)? {
                    let key = self.value(depth + 1)?;
                    if pairs.iter().any(|(k, _)| *k == key) {
                        return None;
                    }
                    pairs.push((key, self.value(depth + 1)?));
                }
                Value::Map(pairs)
            }
            _ => return None,
        })
    }

    fn count(&self, n: u64) -> Option<usize> {
        usize::try_from(n).ok().filter(|n| *n <= ITEMS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn examples_of_the_standard() {
        let of = |hex: &str| {
            let bytes = hex::decode(hex).unwrap();
            read(&bytes).map(|(v, rest)| format!("{v:?}+{}", rest.len()))
        };
        for (hex, told) in [
            ("00", "Int(0)+0"),
            ("1903e8ff", "Int(1000)+1"),
            ("3903e7", "Int(-1000)+0"),
            ("4401020304", "Bytes([1, 2, 3, 4])+0"),
            ("62c3bc", "Text(\"ü\")+0"),
            ("83010203", "List([Int(1), Int(2), Int(3)])+0"),
            ("a201020304", "Map([(Int(1), Int(2)), (Int(3), Int(4))])+0"),
            ("f5", "Simple(21)+0"),
        ] {
            assert_eq!(of(hex).as_deref(), Some(told), "{hex}");
        }
        for bad in [
            "",
            "1c",
            "5f4101ff",
            "62c328",
            "9bffffffffffffffff",
            "a2010201",
            "fb3ff199999999999a",
            "c0",
            "1bffffffffffffffff",
            "4401",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert_eq!(read(&[0x81; 100]), None, "nested too deep");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Some((_, rest)) = read(&bytes) {
                prop_assert!(rest.len() < bytes.len());
            }
        }
    }
}
