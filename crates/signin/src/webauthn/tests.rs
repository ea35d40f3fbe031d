use super::*;

#[path = "../../tests/harness/authenticator.rs"]
mod authenticator;

use authenticator::{Authenticator, PRESENT};

const HOST: &str = "docs.example";
const ORIGIN: &str = "https://docs.example";
const NOW_MS: u64 = 1_000_000;
const ADD: Purpose<'_> = Purpose { act: Act::Add, subject: "11", browser: "b" };
const SIGN_IN: Purpose<'_> = Purpose { act: Act::SignIn, subject: "", browser: "b" };

fn register(challenges: &Challenges, device: &Authenticator) -> Result<Registered, Refused> {
    let client = device.client_data("webauthn.create", &challenges.make(ADD, NOW_MS));
    challenges.register(ADD, &client, &device.attestation(), NOW_MS)
}

fn assertion(device: &Authenticator, challenge: &str) -> Assertion {
    let (client, authenticator, signature) = device.assertion(challenge);
    Assertion { client, authenticator, signature }
}

fn sign_in(challenges: &Challenges, device: &Authenticator) -> Result<u32, Refused> {
    let said = assertion(device, &challenges.make(SIGN_IN, NOW_MS));
    challenges.verify(SIGN_IN, &device.cose(), &said, NOW_MS)
}

#[test]
fn passkeys_of_each_kind_are_made_and_used() {
    let challenges = Challenges::new(HOST);
    for algorithm in key::ALGORITHMS {
        let mut device = Authenticator::new(algorithm, HOST, ORIGIN);
        let made = register(&challenges, &device).unwrap();
        assert_eq!((made.id, made.key, made.counter), (device.id.clone(), device.cose(), 0));
        device.counter = 7;
        assert_eq!(sign_in(&challenges, &device), Ok(7));
        // Beside the user's word, some say that the key is in a cloud, and give extensions.
        device.flags |= 1 << 3 | 1 << 4 | 1 << 7;
        device.tail = vec![0xa1, 0x61, b'x', 0xf5];
        assert_eq!(sign_in(&challenges, &device), Ok(7));
        assert!(register(&challenges, &device).is_ok());
    }
}

#[test]
fn everything_but_the_right_ceremony_is_refused() {
    type Change = fn(&mut Authenticator);
    let changes: [(Refused, Change); 12] = [
        (Refused::Origin, |d| d.origin = "https://docs.example.evil".into()),
        (Refused::Origin, |d| d.origin = "https://evil.docs.example".into()),
        (Refused::Origin, |d| d.origin = "http://docs.example".into()),
        (Refused::Origin, |d| d.origin = "null".into()),
        (Refused::Origin, |d| d.cross_origin = true),
        (Refused::Malformed("client data"), |d| d.kind = Some("webauthn.else")),
        (Refused::OtherHost, |d| d.rp_id = "example".into()),
        (Refused::Unverified, |d| d.flags = PRESENT),
        (Refused::Unverified, |d| d.flags = authenticator::VERIFIED),
        (Refused::Malformed("authenticator data"), |d| d.flags |= 1 << 4),
        (Refused::Malformed("authenticator data"), |d| d.tail = vec![0]),
        (Refused::Malformed("authenticator data"), |d| d.flags |= 1 << 7),
    ];
    let challenges = Challenges::new(HOST);
    for (i, (refused, change)) in changes.into_iter().enumerate() {
        let mut device = Authenticator::new(-7, HOST, ORIGIN);
        change(&mut device);
        assert_eq!(register(&challenges, &device), Err(refused), "{i}");
        assert_eq!(sign_in(&challenges, &device), Err(refused), "{i}");
    }
    let (one, other) = (Authenticator::new(-7, HOST, ORIGIN), Authenticator::new(-7, HOST, ORIGIN));
    let said = assertion(&one, &challenges.make(SIGN_IN, NOW_MS));
    assert_eq!(challenges.verify(SIGN_IN, &other.cose(), &said, NOW_MS), Err(Refused::Signature));
    // An assertion is no registration, and the other way round.
    let challenge = challenges.make(ADD, NOW_MS);
    assert!(
        challenges.register(ADD, &one.client_data("webauthn.get", &challenge), &one.attestation(), NOW_MS).is_err()
    );
    assert!(
        challenges
            .verify(
                ADD,
                &one.cose(),
                &Assertion { client: one.client_data("webauthn.create", &challenge), ..said },
                NOW_MS
            )
            .is_err()
    );
}

#[test]
fn no_bit_of_a_ceremony_can_be_changed() {
    let challenges = Challenges::new(HOST);
    for algorithm in key::ALGORITHMS {
        let device = Authenticator::new(algorithm, HOST, ORIGIN);
        let said = assertion(&device, &challenges.make(SIGN_IN, NOW_MS));
        let parts: [fn(&mut Assertion) -> &mut Vec<u8>; 3] =
            [|a| &mut a.client, |a| &mut a.authenticator, |a| &mut a.signature];
        for part in parts {
            let length = part(&mut said.clone()).len();
            for bit in 0..length * 8 {
                let mut changed = said.clone();
                part(&mut changed)[bit / 8] ^= 1 << (bit % 8);
                assert!(challenges.verify(SIGN_IN, &device.cose(), &changed, NOW_MS).is_err(), "{algorithm} bit {bit}");
            }
            for length in 0..length {
                let mut cut = said.clone();
                part(&mut cut).truncate(length);
                assert!(
                    challenges.verify(SIGN_IN, &device.cose(), &cut, NOW_MS).is_err(),
                    "{algorithm} cut at {length}"
                );
            }
        }
        assert_eq!(challenges.verify(SIGN_IN, &device.cose(), &said, NOW_MS), Ok(0), "and unchanged it is good");
    }
}

#[test]
fn a_challenge_is_for_one_act_user_browser_and_time_and_once() {
    let challenges = Challenges::new(HOST);
    let device = Authenticator::new(-8, HOST, ORIGIN);
    let others = [
        Purpose { act: Act::SignUp, ..SIGN_IN },
        Purpose { browser: "c", ..SIGN_IN },
        Purpose { subject: "11", ..SIGN_IN },
        Purpose { subject: "b", browser: "", ..SIGN_IN },
    ];
    let said = assertion(&device, &challenges.make(SIGN_IN, NOW_MS));
    let verify = |challenges: &Challenges, purpose, now_ms| challenges.verify(purpose, &device.cose(), &said, now_ms);
    for other in others {
        assert_eq!(verify(&challenges, other, NOW_MS), Err(Refused::Expired), "{other:?}");
    }
    assert_eq!(verify(&challenges, SIGN_IN, NOW_MS + LIFE_MS), Err(Refused::Expired));
    assert_eq!(verify(&Challenges::new(HOST), SIGN_IN, NOW_MS), Err(Refused::Expired), "another process's");
    assert_eq!(verify(&challenges, SIGN_IN, NOW_MS + LIFE_MS - 1), Ok(0));
    assert_eq!(verify(&challenges, SIGN_IN, NOW_MS), Err(Refused::Expired), "a second time");
}

#[test]
fn origins_are_hosts_and_tls_but_on_this_machine() {
    for (host, origin, allowed) in [
        ("docs.example", "https://docs.example:8443", true),
        ("docs.example", "http://docs.example:8080", false),
        ("docs.localhost", "http://docs.localhost:8080", true),
        ("docs.localhost", "http://localhost:8080", false),
        ("localhost", "http://localhost", true),
        ("docslocalhost", "http://docslocalhost", false),
        ("docs.example", "https://docs.example@evil", false),
    ] {
        assert_eq!(Challenges::new(host).allows(origin), allowed, "{host} {origin}");
    }
}

#[test]
fn keys_that_are_none() {
    let es256 = Authenticator::new(-7, HOST, ORIGIN).cose();
    assert!(Key::read(&es256).is_some());
    for (at, byte) in [(2, 3), (4, 0x27), (6, 2)] {
        let mut other = es256.clone();
        other[at] = byte;
        assert!(Key::read(&other).is_none(), "byte {at}");
    }
    // A point that is not on the curve signs nothing.
    let mut off = es256.clone();
    let last = off.len() - 1;
    off[last] ^= 1;
    assert!(!Key::read(&off).unwrap().0.verifies(b"", b""));
}

/// A generator that is the same in every run (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % n
    }

    /// One, two or three small changes, or none.
    fn change(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.below(4) {
            if bytes.is_empty() {
                return;
            }
            let at = self.below(bytes.len());
            match self.below(5) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = u8::try_from(self.below(256)).unwrap(),
                2 => bytes.insert(at, u8::try_from(self.below(256)).unwrap()),
                3 => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(1)),
            }
        }
    }
}

/// `tests/differential.py` says what another implementation thinks of them.
#[test]
#[ignore = "writes changed ceremonies to PUMASI_CEREMONIES, for another implementation to judge"]
fn ceremonies_for_others() {
    use std::io::Write;
    let mut file = std::fs::File::create(std::env::var_os("PUMASI_CEREMONIES").unwrap()).unwrap();
    let challenges = Challenges::new(HOST);
    let mut random = Random(0x5eed);
    let of = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    for algorithm in key::ALGORITHMS {
        let device = Authenticator::new(algorithm, HOST, ORIGIN);
        for _ in 0..1_000 {
            let challenge = challenges.make(ADD, NOW_MS);
            let (mut client, mut attestation) =
                (device.client_data("webauthn.create", &challenge), device.attestation());
            let part = if random.below(4) == 0 { &mut client } else { &mut attestation };
            random.change(part);
            let ours = challenges.register(ADD, &client, &attestation, NOW_MS);
            let line = serde_json::json!({
                "kind": "create", "challenge": challenge, "id": of(&device.id), "client": of(&client), "attestation": of(&attestation),
                "ours": ours.as_ref().map_or_else(ToString::to_string, |_| "accepted".into()),
            });
            writeln!(file, "{line}").unwrap();

            let challenge = challenges.make(SIGN_IN, NOW_MS);
            let (mut client, mut data) = (device.client_data("webauthn.get", &challenge), device.data(false));
            let part = if random.below(2) == 0 { &mut client } else { &mut data };
            random.change(part);
            // Signed as it is now, so that more than the signature is judged.
            let signature = device.sign(&[data.as_slice(), digest(&SHA256, &client).as_ref()].concat());
            let said = Assertion { client, authenticator: data, signature };
            let ours = challenges.verify(SIGN_IN, &device.cose(), &said, NOW_MS);
            let line = serde_json::json!({
                "kind": "get", "challenge": challenge, "id": of(&device.id), "key": of(&device.cose()), "client": of(&said.client),
                "data": of(&said.authenticator), "signature": of(&said.signature),
                "ours": ours.as_ref().map_or_else(ToString::to_string, |_| "accepted".into()),
            });
            writeln!(file, "{line}").unwrap();
        }
    }
}
