//! Changes of known inputs, the same for the same seed: what a test can afford where coverage cannot be measured.

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Below `n`; 0 for 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// One input made from `seeds`: one of them with up to eight changes.
pub fn mutate(seeds: &[Vec<u8>], words: &[&str], bytes_max: usize, random: &mut Random) -> Vec<u8> {
    let mut out = seeds.get(random.below(seeds.len())).cloned().unwrap_or_default();
    for _ in 0..=random.below(8) {
        change(&mut out, seeds, words, random);
    }
    out.truncate(bytes_max);
    out
}

fn change(out: &mut Vec<u8>, seeds: &[Vec<u8>], words: &[&str], random: &mut Random) {
    let at = random.below(out.len() + 1);
    let span = at..(at + 1 + random.below(16)).min(out.len());
    match random.below(10) {
        0 if at < out.len() => out[at] ^= 1 << random.below(8),
        1 if at < out.len() => out[at] = random.next() as u8,
        2 => out.insert(at, random.next() as u8),
        3 if span.start < span.end => drop(out.drain(span)),
        4 if span.start < span.end => {
            let again = out[span.clone()].to_vec();
            drop(out.splice(span.end..span.end, again));
        }
        5 if !words.is_empty() => {
            let word = words[random.below(words.len())].bytes();
            let end = if random.below(2) == 0 { at } else { span.end.max(at) };
            drop(out.splice(at..end, word));
        }
        // A piece of another seed.
        6 => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len() + 1);
            let to = (from + random.below(64)).min(other.len());
            drop(out.splice(at..at, other[from..to].iter().copied()));
        }
        7 => out.truncate(at),
        // A number, in text or as it is.
        8 => {
            if let Some(start) = out[at..].iter().position(u8::is_ascii_digit).map(|i| at + i) {
                let digits = out[start..].iter().take_while(|b| b.is_ascii_digit()).count();
                let numbers = ["0", "1", "255", "65536", "4294967295", "9223372036854775807", "18446744073709551615"];
                drop(out.splice(start..start + digits, numbers[random.below(numbers.len())].bytes()));
            }
        }
        9 if out.len() >= at + 4 => {
            let numbers = [0u32, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX, 0x0100_0000, 512, 65_536];
            out[at..at + 4].copy_from_slice(&numbers[random.below(numbers.len())].to_le_bytes());
        }
        _ => {}
    }
}
