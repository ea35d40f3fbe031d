//! Units as people write and read them.

use pumasi_terms::{Money, Resources, WallMs};

/// `10s`, `1h 30m`, `2d` as milliseconds.
pub fn parse_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a time; write 500ms, 10s, 5m, 2h or 30d");
    let mut total = 0u64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit_ms = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        rest = rest[letters..].trim_start();
        total = number.checked_mul(unit_ms).and_then(|ms| total.checked_add(ms)).ok_or_else(wrong)?;
    }
    Ok(total)
}

/// Thousandths of a CPU, as people are asked for them.
pub fn parse_millis(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| not_whole(text, "thousandths of a CPU", "one CPU is 1000"))
}

/// MiB, as people are asked for them.
pub fn parse_mib<N: std::str::FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| not_whole(text, "MiB", "one GiB is 1024"))
}

fn not_whole(text: &str, unit: &str, so: &str) -> String {
    match text.parse::<f64>() {
        Ok(_) => format!("{text} is not whole {unit}; {so}"),
        Err(_) => format!("write whole {unit}; {so}"),
    }
}

/// What the standard library says of numbers, in words; everything else stays as it is.
pub fn numbers_in_words(text: &str) -> String {
    let words = [
        ("invalid digit found in string", "not a whole number"),
        ("cannot parse integer from empty string", "a number is missing"),
        ("number too large to fit in target type", "too large"),
        ("number too small to fit in target type", "too small"),
    ];
    words.iter().fold(text.to_owned(), |text, (theirs, ours)| text.replace(theirs, ours))
}

/// `0.05` as millionths; more than six decimals are refused, not rounded.
pub fn parse_money(text: &str) -> Result<Money, String> {
    let wrong = || format!("{text:?} is not an amount; write 0.05, with at most six decimals");
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if part.len() > 6 || !digits(whole) || !digits(part) || (whole.is_empty() && part.is_empty()) {
        return Err(wrong());
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| wrong())? };
    let part: u64 = format!("{part:0<6}").parse().map_err(|_| wrong())?;
    whole.checked_mul(1_000_000).and_then(|w| w.checked_add(part)).map(Money).ok_or_else(wrong)
}

/// `3`, or `2-6`: least and most.
pub fn parse_range(text: &str) -> Result<(u32, u32), String> {
    let wrong = || format!("{text:?} is no number of instances; write 3, or 2-6");
    let (min, max) = text.split_once('-').unwrap_or((text, text));
    let (min, max) = (min.trim().parse().map_err(|_| wrong())?, max.trim().parse().map_err(|_| wrong())?);
    if min <= max { Ok((min, max)) } else { Err(wrong()) }
}

/// Two decimals at least, six where they say something.
pub fn money(amount: Money) -> String {
    let text = amount.to_string();
    let least = text.find('.').map_or(text.len(), |dot| dot + 3);
    let kept = text.trim_end_matches('0').len().max(least);
    text[..kept.min(text.len())].to_owned()
}

pub fn duration_ms(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..10_000 => format!("{:.1}s", ms as f64 / 1e3),
        10_000..120_000 => format!("{}s", ms / 1_000),
        120_000..7_200_000 => format!("{}m", ms / 60_000),
        7_200_000..172_800_000 => format!("{}h", ms / 3_600_000),
        _ => format!("{}d", ms / 86_400_000),
    }
}

pub fn duration_us(us: u64) -> String {
    match us {
        0..1_000 => format!("{us}us"),
        1_000..100_000 => format!("{:.1}ms", us as f64 / 1e3),
        _ => duration_ms(us / 1_000),
    }
}

/// How long ago, in whole units.
pub fn age(now: WallMs, then: WallMs) -> String {
    let ms = now.since(then);
    if ms < 10_000 { format!("{}s", ms / 1_000) } else { duration_ms(ms) }
}

pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = n as f64;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 || scaled >= 100.0 {
        format!("{scaled:.0}{}", UNITS[unit])
    } else {
        format!("{scaled:.1}{}", UNITS[unit])
    }
}

pub fn resources(r: Resources) -> String {
    format!("{} CPU, {}", cpu(r.cpu_millis), bytes(u64::from(r.memory_mib) << 20))
}

pub fn cpu(millis: u32) -> String {
    if millis.is_multiple_of(1000) {
        format!("{}", millis / 1000)
    } else {
        format!("{:.2}", f64::from(millis) / 1000.0)
    }
}

/// Thousandths a second.
pub fn rate(mps: u64) -> String {
    if mps < 100_000 { format!("{:.1}/s", mps as f64 / 1e3) } else { format!("{}/s", mps / 1_000) }
}

/// An id by its kind and enough of it to tell it from the others; the CLI takes such beginnings.
pub fn short_id(id: &str) -> &str {
    const SHOWN: usize = 12;
    match id.split_once('-') {
        Some((kind, rest)) if rest.len() > SHOWN => &id[..kind.len() + 1 + SHOWN],
        _ => id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_a_unit() {
        assert_eq!(parse_ms("1h 30m"), Ok(5_400_000));
        assert_eq!(parse_ms("250ms"), Ok(250));
        for bad in ["", "10", "s", "-1s", "1 s", "9999999999999999999d", "5x", "1é"] {
            assert!(parse_ms(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_range_is_a_number_or_two() {
        assert_eq!((parse_range("3"), parse_range("2-6")), (Ok((3, 3)), Ok((2, 6))));
        for bad in ["", "-1", "6-2", "a", "1-", "1..3"] {
            assert!(parse_range(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_number_in_another_unit_is_told_the_right_one() {
        assert_eq!(parse_millis("1500"), Ok(1_500));
        assert_eq!(parse_millis("1.5").unwrap_err(), "1.5 is not whole thousandths of a CPU; one CPU is 1000");
        assert_eq!(parse_millis("two").unwrap_err(), "write whole thousandths of a CPU; one CPU is 1000");
        assert_eq!(parse_mib::<u64>("4G").unwrap_err(), "write whole MiB; one GiB is 1024");
        assert_eq!(
            numbers_in_words("'x' for '--lines': invalid digit found in string"),
            "'x' for '--lines': not a whole number"
        );
    }

    #[test]
    fn money_is_never_rounded() {
        assert_eq!(parse_money("0.05"), Ok(Money(50_000)));
        assert_eq!(parse_money(".5"), Ok(Money(500_000)));
        assert_eq!(parse_money("3"), Ok(Money(3_000_000)));
        for bad in ["", ".", "0.0000001", "-1", "1,5", "1e3", "99999999999999999999"] {
            assert!(parse_money(bad).is_err(), "{bad:?}");
        }
        assert_eq!(money(Money(50_000)), "0.05");
        assert_eq!(money(Money(12_500)), "0.0125");
        assert_eq!(money(Money(3_000_000)), "3.00");
    }

    #[test]
    fn short_forms() {
        assert_eq!(short_id("lease-0123456789abcdef0123456789abcdef"), "lease-0123456789ab");
        assert_eq!(bytes(1536), "1.5KiB");
        assert_eq!(duration_us(180_000), "180ms");
        assert_eq!(duration_us(1_500), "1.5ms");
        assert_eq!(rate(123_456), "123/s");
    }
}
