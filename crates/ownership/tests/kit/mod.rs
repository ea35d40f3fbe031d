//! What the tests of this crate share: a pact, its clouds, services, and attestations that nobody signed.

#![allow(dead_code, clippy::unwrap_used)] // each test uses a part; a test helper fails loudly

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pumasi_ownership::command::{ATTESTATION_KIND, Lost};
use pumasi_ownership::state::{Class, Health, Mode, Pace, Role, StandbyAt, Takeover};
use pumasi_ownership::timers::{Profile, Timers};
use pumasi_ownership::*;
use pumasi_terms::{CloudName, Digest, Epoch, LeaseId, PactId, Resources, Serial, ServiceId, ServiceName};
use pumasi_trust::SignedDocument;

/// RFC 7515, A.3: a key that everybody knows, for those who sign nothing.
pub const JWK: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

pub fn cloud(name: &str) -> CloudName {
    CloudName::parse(name).unwrap()
}
pub fn service(n: u128) -> ServiceId {
    ServiceId::from_entropy(n)
}
pub fn room(cpu_millis: u32, memory_mib: u32) -> Resources {
    Resources { cpu_millis, memory_mib }
}

/// Clouds `names`, of which the first three vote; a witness `w` votes too where it is named among the first three.
pub fn voting(names: &[&str], timers: Timers) -> Voting {
    let role = |name: &str| if name == "w" { Role::Witness } else { Role::Cloud };
    Voting {
        serial: Serial(1),
        digest: Digest([7; 32]),
        members: names.iter().map(|n| (cloud(n), role(n))).collect(),
        voters: names.iter().take(3).map(|n| (cloud(n), JWK.to_owned())).collect(),
        timers,
        pace: Pace::default(),
    }
}

pub fn agreed(name: &str, class: Class, priority: u32, (least, full): (u32, u32), standbys: &[&str]) -> Agreed {
    Agreed {
        name: ServiceName::parse(name).unwrap(),
        hosts: [format!("{name}.example")].into(),
        class,
        priority,
        unit: room(100, 100),
        full,
        least,
        mode: Mode::Async,
        standbys: standbys
            .iter()
            .map(|s| StandbyAt { cloud: cloud(s), lease: LeaseId::from_entropy(1), warm: 0 })
            .collect(),
        agreement: Digest([9; 32]),
        takeover: Takeover::Automatic,
    }
}

/// Believes what a document says, and who it says signed it.
#[derive(Debug, Clone, Copy)]
pub struct Believing;

impl Verify for Believing {
    fn attested(&self, _: &State, document: &SignedDocument) -> Result<(CloudName, Attestation), String> {
        let voter = document.signers().first().cloned().ok_or("nobody signed")?;
        let says = serde_json::from_slice(document.unverified_payload()).map_err(|e| e.to_string())?;
        Ok((voter, says))
    }
}

pub fn rules() -> Rules<'static> {
    Rules::new(&Believing)
}

/// An attestation whose signature is 64 zeros.
pub fn unsigned(voter: &CloudName, says: &Attestation) -> SignedDocument {
    let header =
        format!(r#"{{"alg":"ES256","kid":"k","typ":"pumasi-{ATTESTATION_KIND}+jws","iss":"{voter}","serial":1}}"#);
    let (payload, header) = (URL_SAFE_NO_PAD.encode(serde_json::to_vec(says).unwrap()), URL_SAFE_NO_PAD.encode(header));
    let signature = URL_SAFE_NO_PAD.encode([0; 64]);
    let json =
        format!(r#"{{"payload":"{payload}","signatures":[{{"protected":"{header}","signature":"{signature}"}}]}}"#);
    SignedDocument::from_json(&json).unwrap()
}

/// The register and what was told of the last entry.
pub struct Register {
    pub state: State,
    pub told: Vec<Told>,
}

impl Register {
    /// All of `names` have joined under run 1, with room for ten instances.
    pub fn new(names: &[&str]) -> Self {
        let state = State::new(PactId::from_entropy(1), voting(names, Profile::Default.timers())).unwrap();
        let mut register = Self { state, told: Vec::new() };
        for name in names {
            register.does(name, Command::Join { cloud: cloud(name), run: 1 });
            register.renews(name, 1, 1);
        }
        register
    }
    pub fn does(&mut self, by: &str, command: Command) -> &[Told] {
        let index = self.state.revision + 1;
        (self.state, self.told) = apply(self.state.clone(), index, &Entry::new(cloud(by), command), rules());
        self.state.check().unwrap();
        &self.told
    }
    pub fn renews(&mut self, name: &str, run: u64, seq: u64) {
        self.renews_after(name, run, seq, 0);
    }
    pub fn renews_after(&mut self, name: &str, run: u64, seq: u64, elapsed_ms: u64) {
        let renewal = self.renewal(name, run, seq);
        let by = self.state.voting.voters.keys().next().unwrap().to_string();
        self.does(&by, Command::Renew { elapsed_ms, renewals: vec![renewal] });
    }
    pub fn renewal(&self, name: &str, run: u64, seq: u64) -> Renewal {
        let ttl_ms = self.state.voting.timers.ttl_ms;
        Renewal { cloud: cloud(name), run, seq, ttl_ms, free: room(1_000, 1_000), health: Health::Well }
    }
    pub fn protects(&mut self, by: &str, n: u128, agreed: &Agreed) -> &[Told] {
        let epoch = self.state.services.get(&service(n)).map_or(Epoch(1), |o| o.epoch);
        self.does(by, Command::Protect { service: service(n), epoch, agreed: Box::new(agreed.clone()) })
    }
    /// With the attestations of `voters`, of the register's last renewal.
    pub fn lost(&self, name: &str, voters: &[&str], plan: Vec<Item>) -> Lost {
        self.lost_at(self.state.clouds[&cloud(name)].seq, name, voters, plan)
    }
    pub fn lost_at(&self, seq: u64, name: &str, voters: &[&str], plan: Vec<Item>) -> Lost {
        let known = &self.state.clouds[&cloud(name)];
        let says = Attestation {
            version: 1,
            pact: self.state.pact.clone(),
            cloud: cloud(name),
            run: known.run,
            seq,
            nonce: 5,
            silent_ms: 5_000,
        };
        let attestations = voters.iter().map(|v| unsigned(&cloud(v), &says)).collect();
        Lost { cloud: cloud(name), run: known.run, seen_seq: seq, nonce: 5, attestations, plan }
    }
    pub fn refused(&self) -> Option<Code> {
        self.told.iter().find_map(|t| if let Told::Refused(r) = t { Some(r.code) } else { None })
    }
    pub fn owner(&self, n: u128) -> (String, u64) {
        let owned = &self.state.services[&service(n)];
        (owned.owner.to_string(), owned.epoch.0)
    }
}

pub fn taken(n: u128, epoch: u64, to: &str, have: u32, want: u32) -> Item {
    Item { service: service(n), epoch: Epoch(epoch), end: state::End::Taken { to: cloud(to), have, want } }
}

pub fn waits(n: u128, epoch: u64, place: u32) -> Item {
    Item { service: service(n), epoch: Epoch(epoch), end: state::End::Waiting { place } }
}
