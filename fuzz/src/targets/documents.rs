//! What people write: names, manifests, configurations, invitations.

use super::{same_again, text};
use pumasi_node::Config;
use pumasi_pact::Invitation;
use pumasi_terms::Position;
use pumasi_terms::{
    CloudName, DatasetName, Digest, InstanceId, JourneyId, LeaseId, PactId, PlanId, PrincipalName, ReservationId,
    ServiceName, TokenId, manifest,
};
use pumasi_trust::SpiffeId;
use std::fmt::Display;
use std::str::FromStr;

/// Each word has one form: whatever is taken is told as it came. A word is safe as the name of a file and in a header.
fn word<T: FromStr + Display>(input: &str) {
    if let Ok(value) = input.parse::<T>() {
        assert_eq!(value.to_string(), input);
        assert!(!input.bytes().any(|b| b <= b' ' || b >= 0x7f), "{input:?}");
    }
}

pub fn words(input: &[u8]) {
    let Some(input) = text(input) else { return };
    word::<CloudName>(input);
    word::<ServiceName>(input);
    word::<DatasetName>(input);
    word::<PrincipalName>(input);
    word::<PactId>(input);
    word::<ReservationId>(input);
    word::<LeaseId>(input);
    word::<PlanId>(input);
    word::<JourneyId>(input);
    word::<InstanceId>(input);
    word::<TokenId>(input);
    word::<Digest>(input);
    word::<Position>(input);
    word::<SpiffeId>(input);
    assert!(!CloudName::parse(input).is_ok_and(|n| n.as_str().contains(['/', '.'])));
}

/// A service is the same whether it is kept as JSON or shown to people as YAML and applied again.
pub fn manifest(input: &[u8]) {
    let Some(input) = text(input) else { return };
    let services = match manifest::services("manifest", input) {
        Ok(services) => services,
        Err(error) => return told_with_a_place(input, &error.faults),
    };
    for service in services {
        same_again(&service);
        let shown = serde_saphyr::to_string(&service).expect("a service can be shown");
        let again = manifest::services("shown", &shown).unwrap_or_else(|e| panic!("{e}\n{shown}"));
        assert_eq!(again, [service], "{shown}");
    }
}

/// Whoever is refused is told where, and what is wrong there.
fn told_with_a_place(input: &str, faults: &[pumasi_terms::faults::Fault]) {
    assert!(!faults.is_empty(), "refused without a reason");
    let lines = input.lines().count() as u64;
    assert!(faults.iter().all(|f| f.line <= lines + 1 && !f.problem.is_empty()), "{faults:?}");
}

pub fn config(input: &[u8]) {
    let Some(input) = text(input) else { return };
    match Config::parse(input, std::iter::empty()) {
        Ok(config) => {
            let written = toml::to_string(&config).expect("a configuration can be written");
            let again = Config::parse(&written, std::iter::empty()).unwrap_or_else(|e| panic!("{e:?}\n{written}"));
            assert_eq!(again, config, "{written}");
        }
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a reason");
            let lines = input.lines().count();
            assert!(faults.iter().all(|f| f.line <= lines + 1 && !f.problem.is_empty()), "{faults:?}");
        }
    }
}

pub fn invitation(input: &[u8]) {
    let Some(input) = text(input) else { return };
    if let Ok(invitation) = Invitation::parse(input) {
        assert_eq!(Invitation::parse(invitation.to_token().expose()).as_ref(), Ok(&invitation));
    }
}
