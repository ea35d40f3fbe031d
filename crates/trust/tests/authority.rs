//! The authority's file: what survives, what is refused, what never leaves.

#![allow(clippy::unwrap_used)] // a test helper fails loudly

use pumasi_terms::{CloudName, WallMs};
use pumasi_trust::{Authority, AuthorityError, CA_LIFETIME_MS, SVID_TTL_MS_MAX, SharedIdentity, SpiffeId, Svid};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const NOW: WallMs = WallMs(1_800_000_000_000);

fn cloud(name: &str) -> CloudName {
    CloudName::parse(name).unwrap()
}

#[test]
fn an_authority_survives_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trust");
    let mut made = Authority::load_or_create(&path, &cloud("city-a"), NOW).unwrap();
    assert!(matches!(Authority::create(&path, &cloud("city-a"), NOW), Err(AuthorityError::Exists(_))));
    let read = Authority::load_or_create(&path, &cloud("city-a"), NOW).unwrap();
    assert_eq!(read.bundle().unwrap(), made.bundle().unwrap());
    assert!(matches!(Authority::load_or_create(&path, &cloud("city-b"), NOW), Err(AuthorityError::WrongCloud { .. })));
    for (file, mode) in [("authority.json", 0o600), ("ca.pem", 0o644)] {
        assert_eq!(fs::metadata(path.join(file)).unwrap().permissions().mode() & 0o777, mode, "{file}");
    }
    assert!(!fs::read_to_string(path.join("ca.pem")).unwrap().contains("PRIVATE"));

    // Each step of a rotation survives too, and the sequence rises with it.
    let mut sequence = made.bundle().unwrap().sequence();
    for step in 0..3 {
        match step {
            0 => made.prepare(NOW).unwrap(),
            1 => made.rotate(NOW).unwrap(),
            _ => assert!(made.prune(NOW.after(SVID_TTL_MS_MAX + 60_001)).unwrap()),
        }
        let read = Authority::load(&path).unwrap();
        assert_eq!(read.bundle().unwrap(), made.bundle().unwrap());
        assert!(read.bundle().unwrap().sequence() > sequence);
        assert_eq!(read.fingerprint().unwrap(), made.fingerprint().unwrap());
        sequence = read.bundle().unwrap().sequence();
    }
    assert_eq!(made.bundle().unwrap().fingerprints().len(), 1);
}

#[test]
fn a_lost_public_file_is_written_again_and_a_bad_private_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    Authority::create(path, &cloud("city-a"), NOW).unwrap();
    let pem = fs::read_to_string(path.join("ca.pem")).unwrap();
    fs::remove_file(path.join("ca.pem")).unwrap();
    Authority::load(path).unwrap();
    assert_eq!(fs::read_to_string(path.join("ca.pem")).unwrap(), pem);

    let file = path.join("authority.json");
    let good = fs::read_to_string(&file).unwrap();
    let write = |text: &str| fs::write(&file, text).unwrap();
    write(&good.replace("\"version\": 1", "\"version\": 2"));
    assert!(matches!(Authority::load(path), Err(AuthorityError::Newer { found: 2, .. })));
    write(&good[..good.len() / 2]);
    assert!(matches!(Authority::load(path), Err(AuthorityError::Corrupt { .. })));
    write(&good.replace("\"active\"", "\"retired\""));
    assert!(matches!(Authority::load(path), Err(AuthorityError::Corrupt { .. })));
    // The key of another root does not pass for ours.
    let other_dir = tempfile::tempdir().unwrap();
    Authority::create(other_dir.path(), &cloud("city-a"), NOW).unwrap();
    let other = fs::read_to_string(other_dir.path().join("authority.json")).unwrap();
    let key = |text: &str| {
        let json: serde_json::Value = serde_json::from_str(text).unwrap();
        json["roots"][0]["key"].as_str().unwrap().replace('\n', "\\n")
    };
    write(&good.replace(&key(&good), &key(&other)));
    assert!(matches!(Authority::load(path), Err(AuthorityError::Corrupt { .. })));
    write(&good);
    Authority::load(path).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(Authority::load(path), Err(AuthorityError::File(_))));
}

#[test]
fn leaves_are_short_lived_and_of_this_domain() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(dir.path(), &cloud("city-a"), NOW).unwrap();
    let id = SpiffeId::daemon(&cloud("city-a"));
    let names = ["api.city-a.example".to_owned(), "127.0.0.1".to_owned()];
    let svid = authority.issue(&id, SVID_TTL_MS_MAX, NOW, &names).unwrap();
    assert_eq!(svid.not_after(), NOW.after(SVID_TTL_MS_MAX));
    assert!(svid.renew_at() > NOW && svid.renew_at() < NOW.after(SVID_TTL_MS_MAX / 2));
    assert!(matches!(authority.issue(&id, SVID_TTL_MS_MAX + 1, NOW, &[]), Err(AuthorityError::BadTtl(_))));
    assert!(matches!(authority.issue(&id, 0, NOW, &[]), Err(AuthorityError::BadTtl(0))));
    let foreign = SpiffeId::daemon(&cloud("city-b"));
    assert!(matches!(authority.issue(&foreign, 60_000, NOW, &[]), Err(AuthorityError::ForeignId { .. })));
    let domain = SpiffeId::of_domain(&cloud("city-a"));
    assert!(matches!(authority.issue(&domain, 60_000, NOW, &[]), Err(AuthorityError::ForeignId { .. })));
    let bad = ["not a name".to_owned()];
    assert!(matches!(authority.issue(&id, 60_000, NOW, &bad), Err(AuthorityError::BadName(_))));
    // No leaf outlives its root; no clock makes it panic.
    let end = authority.not_after().unwrap();
    let last = authority.issue(&id, SVID_TTL_MS_MAX, WallMs(end.0 - 5_000), &[]).unwrap();
    assert_eq!(last.not_after(), end);
    assert!(matches!(authority.issue(&id, 60_000, end, &[]), Err(AuthorityError::Expired(_))));
    assert!(matches!(authority.issue(&id, 60_000, WallMs(i64::MIN), &[]), Err(AuthorityError::BadClock(_))));
    let elsewhere = dir.path().join("x");
    assert!(Authority::create(&elsewhere, &cloud("city-a"), WallMs(i64::MAX)).is_err());
    assert!(!authority.rotation_due(NOW));
    assert!(authority.rotation_due(NOW.after(CA_LIFETIME_MS - 1_000)));

    // As handed to the gateway, by file.
    let file = dir.path().join("gateway.pem");
    svid.save(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let read = Svid::load(&file).unwrap();
    assert_eq!((read.id(), read.chain()), (svid.id(), svid.chain()));
    SharedIdentity::new(&read).unwrap();
    assert!(!format!("{svid:?}{authority:?}").contains("PRIVATE"));
    // A key that belongs to another certificate is not presented.
    let other = authority.issue(&id, 60_000, NOW, &[]).unwrap();
    let mixed = other.to_pem().expose().split("-----BEGIN CERT").next().unwrap().to_owned() + &svid.chain_pem();
    assert!(SharedIdentity::new(&Svid::from_pem(mixed.as_bytes()).unwrap()).is_err());
}
