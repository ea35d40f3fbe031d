//! An authenticator in software, as far as these tests need one: it makes keys, and signs what it is told.
#![allow(clippy::unwrap_used, dead_code)]

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

pub const PRESENT: u8 = 1;
pub const VERIFIED: u8 = 4;

enum Pair {
    Es256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rs256(Box<RsaKeyPair>),
}

pub struct Authenticator {
    pair: Pair,
    pub id: Vec<u8>,
    pub handle: String,
    pub rp_id: String,
    pub origin: String,
    pub flags: u8,
    pub counter: u32,
    /// Put in place of what it would say.
    pub kind: Option<&'static str>,
    pub cross_origin: bool,
    pub tail: Vec<u8>,
}

fn head(major: u8, n: usize) -> Vec<u8> {
    match n {
        0..=23 => vec![major << 5 | n as u8],
        24..=255 => vec![major << 5 | 24, n as u8],
        _ => [vec![major << 5 | 25], (n as u16).to_be_bytes().to_vec()].concat(),
    }
}

fn int(n: i64) -> Vec<u8> {
    if n < 0 { head(1, (-1 - n) as usize) } else { head(0, n as usize) }
}

fn bytes(b: &[u8]) -> Vec<u8> {
    [head(2, b.len()), b.to_vec()].concat()
}

fn text(t: &str) -> Vec<u8> {
    [head(3, t.len()), t.as_bytes().to_vec()].concat()
}

impl Authenticator {
    pub fn new(algorithm: i64, rp_id: &str, origin: &str) -> Self {
        let pair = match algorithm {
            -7 => Pair::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap()),
            -8 => Pair::Ed25519(Ed25519KeyPair::generate().unwrap()),
            -257 => Pair::Rs256(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())),
            other => panic!("{other}"),
        };
        let mut id = vec![0; 32];
        aws_lc_rs::rand::fill(&mut id).unwrap();
        let (rp_id, origin) = (rp_id.to_owned(), origin.to_owned());
        let flags = PRESENT | VERIFIED;
        Self {
            pair,
            id,
            handle: String::new(),
            rp_id,
            origin,
            flags,
            counter: 0,
            kind: None,
            cross_origin: false,
            tail: Vec::new(),
        }
    }

    pub fn cose(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Es256(pair) => {
                let point = pair.public_key().as_ref();
                let parts = [
                    int(1),
                    int(2),
                    int(3),
                    int(-7),
                    int(-1),
                    int(1),
                    int(-2),
                    bytes(&point[1..33]),
                    int(-3),
                    bytes(&point[33..]),
                ];
                [head(5, 5), parts.concat()].concat()
            }
            Pair::Ed25519(pair) => {
                let key = bytes(pair.public_key().as_ref());
                [head(5, 4), int(1), int(1), int(3), int(-8), int(-1), int(6), int(-2), key].concat()
            }
            Pair::Rs256(pair) => {
                // RSAPublicKey in DER: two integers, of which the first has a zero before it.
                let der = pair.public_key().as_ref();
                let (n, e) = (der[9..9 + 256].to_vec(), der[der.len() - 3..].to_vec());
                [head(5, 4), int(1), int(3), int(3), int(-257), int(-1), bytes(&n), int(-2), bytes(&e)].concat()
            }
        }
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Es256(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    pub fn client_data(&self, kind: &str, challenge: &str) -> Vec<u8> {
        let kind = self.kind.unwrap_or(kind);
        json!({"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": self.cross_origin})
            .to_string()
            .into_bytes()
    }

    pub fn data(&self, credential: bool) -> Vec<u8> {
        let mut data = digest(&SHA256, self.rp_id.as_bytes()).as_ref().to_vec();
        data.push(self.flags | if credential { 1 << 6 } else { 0 });
        data.extend(self.counter.to_be_bytes());
        if credential {
            data.extend([0; 16]);
            data.extend((self.id.len() as u16).to_be_bytes());
            data.extend(&self.id);
            data.extend(self.cose());
        }
        data.extend(&self.tail);
        data
    }

    pub fn attestation(&self) -> Vec<u8> {
        let parts = [text("fmt"), text("none"), text("attStmt"), head(5, 0), text("authData"), bytes(&self.data(true))];
        [head(5, 3), parts.concat()].concat()
    }

    /// As `passkey.js` sends it.
    pub fn create(&mut self, options: &Value) -> Value {
        self.handle = options["user"]["id"].as_str().unwrap().to_owned();
        let client = self.client_data("webauthn.create", options["challenge"].as_str().unwrap());
        json!({"client_data": URL_SAFE_NO_PAD.encode(client), "attestation": URL_SAFE_NO_PAD.encode(self.attestation())})
    }

    /// Client data, authenticator data, signature.
    pub fn assertion(&self, challenge: &str) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let client = self.client_data("webauthn.get", challenge);
        let data = self.data(false);
        let signature = self.sign(&[data.as_slice(), digest(&SHA256, &client).as_ref()].concat());
        (client, data, signature)
    }

    pub fn get(&self, options: &Value) -> Value {
        let (client, data, signature) = self.assertion(options["challenge"].as_str().unwrap());
        let of = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({
            "id": of(&self.id), "client_data": of(&client), "authenticator_data": of(&data), "signature": of(&signature),
            "user_handle": self.handle,
        })
    }
}
