//! Certificates of services with their private keys, as customers write them down: one PEM text.
//!
//! Enters: the text, hosts, the wall clock. Leaves: nothing, or what is wrong with it.
//! Always holds: nothing that is said of it comes from the private key. Who signed the certificate is its users' affair and not looked at.

use crate::tls::provider;
use crate::x509;
use pumasi_terms::WallMs;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    #[error("it holds no certificate: write the certificate, its chain and the private key into one PEM text")]
    NoCertificate,
    #[error("its certificate does not read: {0}")]
    Certificate(String),
    #[error(
        "it holds no private key that reads: write the certificate, its chain and the private key into one PEM text"
    )]
    NoKey,
    #[error("its private key is not that of its first certificate")]
    DoesNotFit,
    #[error("its certificate is valid from {0} on only")]
    NotYet(WallMs),
    #[error("its certificate has expired at {0}")]
    Expired(WallMs),
    #[error("its certificate does not name host {0}")]
    Host(String),
}

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, PairError> {
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| PairError::Certificate("it is not PEM to its end".into()))?;
    if chain.is_empty() { Err(PairError::NoCertificate) } else { Ok(chain) }
}

/// Whether users who trust its authority would accept it for all these hosts, now.
pub fn check_certificate<S: AsRef<str>>(pem: &str, hosts: &[S], now: WallMs) -> Result<(), PairError> {
    let chain = chain(pem)?;
    let own = chain.first().ok_or(PairError::NoCertificate)?;
    let (from, until) = x509::validity(own).map_err(|e| PairError::Certificate(e.to_owned()))?;
    if now < from {
        return Err(PairError::NotYet(from));
    }
    if now >= until {
        return Err(PairError::Expired(until));
    }
    let parsed = webpki::EndEntityCert::try_from(own).map_err(|e| PairError::Certificate(e.to_string()))?;
    for host in hosts.iter().map(AsRef::as_ref) {
        let name = ServerName::try_from(host).map_err(|_| PairError::Host(host.to_owned()))?;
        parsed.verify_is_valid_for_subject_name(&name).map_err(|_| PairError::Host(host.to_owned()))?;
    }
    Ok(())
}

/// The same, and that the private key in the text is the certificate's.
pub fn check_pair<S: AsRef<str>>(pem: &str, hosts: &[S], now: WallMs) -> Result<(), PairError> {
    let chain = chain(pem)?;
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| PairError::NoKey)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => PairError::DoesNotFit,
        rustls::Error::InvalidCertificate(_) => PairError::Certificate(e.to_string()),
        _ => PairError::NoKey,
    })?;
    check_certificate(pem, hosts, now)
}

/// Which of the two files of a listener is of no use, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilesFault {
    Certificate(String),
    Key(String),
}

/// A certificate and its key in a file each, as a listener shows them: whether users could accept it now.
pub fn check_files(certificate: &str, key: &str, now: WallMs) -> Result<(), FilesFault> {
    let none = || FilesFault::Certificate("it holds no certificate in PEM".into());
    let fault = |e: PairError| match e {
        PairError::NoCertificate => none(),
        other => FilesFault::Certificate(other.to_string()),
    };
    let chain = chain(certificate).map_err(fault)?;
    let unread = || FilesFault::Key("it holds no private key in PEM that reads".into());
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| unread())?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => FilesFault::Key("it is not the key of the certificate".into()),
        rustls::Error::InvalidCertificate(_) => FilesFault::Certificate(e.to_string()),
        _ => unread(),
    })?;
    check_certificate::<&str>(certificate, &[], now).map_err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    const NOW: WallMs = WallMs(1_800_000_000_000);

    fn made(hosts: &[&str], from: i32, until: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(hosts.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn what_users_would_not_accept_is_told_by_its_reason() {
        let (cert, key) = made(&["a.example", "*.b.example"], 2026, 2030);
        let (_, other) = made(&["a.example"], 2026, 2030);
        let (old, old_key) = made(&["a.example"], 2020, 2022);
        let (late, late_key) = made(&["a.example"], 2040, 2041);
        let hosts = ["a.example", "x.b.example"];
        assert_eq!(check_pair(&format!("{cert}{key}"), &hosts, NOW), Ok(()));
        assert_eq!(check_pair(&format!("{key}{cert}"), &hosts, NOW), Ok(()), "in any order");
        assert_eq!(check_certificate(&cert, &hosts, NOW), Ok(()));
        for (pem, wanted) in [
            (format!("{cert}{other}"), PairError::DoesNotFit),
            (cert.clone(), PairError::NoKey),
            (key.clone(), PairError::NoCertificate),
            (String::new(), PairError::NoCertificate),
            ("sk_live".into(), PairError::NoCertificate),
        ] {
            assert_eq!(check_pair(&pem, &hosts, NOW).unwrap_err(), wanted);
        }
        assert!(matches!(check_pair(&format!("{old}{old_key}"), &["a.example"], NOW), Err(PairError::Expired(_))));
        assert!(matches!(check_pair(&format!("{late}{late_key}"), &["a.example"], NOW), Err(PairError::NotYet(_))));
        let elsewhere = check_pair(&format!("{cert}{key}"), &["a.example", "c.example"], NOW).unwrap_err();
        assert_eq!(elsewhere, PairError::Host("c.example".into()));
        assert!(elsewhere.to_string().contains("c.example"));
    }

    proptest! {
        #[test]
        fn reading_anything_never_panics(text in ".{0,300}") {
            let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n{text}");
            prop_assert!(check_pair(&pem, &["a.example"], NOW).is_err());
        }
    }
}
