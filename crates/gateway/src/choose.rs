//! Which cloud serves a user: weighted rendezvous hashing.
//!
//! Always holds: the same user and the same weights give the same choice; when one weight changes, only users that
//! move to or from that candidate move at all.

/// A candidate's name as a number, computed once.
pub fn hash(bytes: &[u8]) -> u64 {
    // FNV-1a, finished by a mixer, since FNV's high bits are poor on short keys.
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    for &b in bytes {
        h = (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    }
    mix(h)
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The higher the score, the better; a weight of 0 never wins over another.
pub fn score(user: u64, candidate: u64, weight: u32) -> f64 {
    if weight == 0 {
        return 0.0;
    }
    let bits = mix(user ^ candidate.rotate_left(17)) >> 11;
    let uniform = (bits as f64 + 0.5) / (1u64 << 53) as f64;
    f64::from(weight) / -uniform.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(user: u64, weights: &[(u64, u32)]) -> u64 {
        let mut best = (0, -1.0);
        for &(c, w) in weights {
            let s = score(user, c, w);
            if s > best.1 {
                best = (c, s);
            }
        }
        best.0
    }

    #[test]
    fn shares_follow_weights_and_users_stay() {
        let (a, b, c) = (hash(b"home"), hash(b"lease-1"), hash(b"lease-2"));
        let users: Vec<u64> = (0..20_000u32).map(|i| hash(format!("user-{i}").as_bytes())).collect();
        let before: Vec<u64> = users.iter().map(|&u| choice(u, &[(a, 500_000), (b, 300_000), (c, 200_000)])).collect();
        let share = |chosen: &[u64], who| chosen.iter().filter(|&&x| x == who).count() as f64 / chosen.len() as f64;
        assert!((share(&before, a) - 0.5).abs() < 0.02);
        assert!((share(&before, b) - 0.3).abs() < 0.02);
        let after: Vec<u64> = users.iter().map(|&u| choice(u, &[(a, 500_000), (b, 400_000), (c, 200_000)])).collect();
        for (x, y) in before.iter().zip(&after) {
            assert!(x == y || *y == b, "a user moved between candidates whose weights stood still");
        }
        assert!(share(&after, b) > 0.34);
    }

    #[test]
    fn no_weight_no_users() {
        assert!((0..1_000u64).all(|u| choice(mix(u), &[(1, 0), (2, 5)]) == 2));
    }
}
