//! Why a call got no answer, in words.
//!
//! Enters: an error with many layers. Leaves: what happened, once, without the layers that only pass it on.

use rustls::{AlertDescription, CertificateError};
use std::error::Error;
use std::io;

/// What a caller may rest on: nobody was there, so nothing was done.
pub(crate) const REFUSED: &str = "connection refused";

/// `https://city-b:7443/v1/heartbeat` as `city-b:7443`; a socket's path without what was asked there.
pub(crate) fn place(url: &str) -> &str {
    match url.split_once("://") {
        Some((_, rest)) => rest.split('/').next().unwrap_or(rest),
        None => url.rfind("/v1/").map_or(url, |at| &url[..at]),
    }
}

pub(crate) fn words(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return if error.is_connect() { "no connection in time" } else { "no answer in time" }.to_owned();
    }
    let layers = layers(error);
    let known = layers.iter().find_map(|layer| match layer.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().and_then(|e| e.downcast_ref()).map(tls).or_else(|| broken(io.kind())),
        None => layer.downcast_ref::<rustls::Error>().map(tls),
    });
    // The last layer is the one where something happened.
    let last = || layers.last().map_or_else(|| error.to_string(), ToString::to_string);
    known.unwrap_or_else(|| last().lines().next().unwrap_or("no answer").to_owned())
}

fn layers(error: &dyn Error) -> Vec<&(dyn Error + 'static)> {
    let (mut layers, mut next) = (Vec::new(), error.source());
    while let Some(layer) = next {
        layers.push(layer);
        next = layer.source();
    }
    layers
}

fn broken(kind: io::ErrorKind) -> Option<String> {
    let text = match kind {
        io::ErrorKind::ConnectionRefused => REFUSED,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            "the connection broke"
        }
        io::ErrorKind::UnexpectedEof => "the connection ended before an answer",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "there is no way to it",
        io::ErrorKind::TimedOut => "no answer in time",
        io::ErrorKind::PermissionDenied => "this user may not call there",
        _ => return None,
    };
    Some(text.to_owned())
}

fn tls(error: &rustls::Error) -> String {
    const CLOCKS: &str = "its certificate is not valid now: are both clocks right?";
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(why)) => why.0.to_string(),
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => CLOCKS.to_owned(),
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate is signed by no authority that is trusted here".to_owned()
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "its certificate is for another name".to_owned(),
        rustls::Error::InvalidCertificate(_) => "its certificate is of no use".to_owned(),
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied => {
                "it does not take the certificate of this side: it has not heard of it yet, or a clock is wrong"
                    .to_owned()
            }
            _ => "it ended the TLS handshake".to_owned(),
        },
        rustls::Error::InvalidMessage(_) | rustls::Error::PeerIncompatible(_) => {
            "it does not speak the TLS that is spoken here".to_owned()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_without_what_was_asked_there() {
        assert_eq!(place("https://127.0.0.2:7443/v1/heartbeat"), "127.0.0.2:7443");
        assert_eq!(place("https://[::1]:7443"), "[::1]:7443");
        assert_eq!(place("unix:/var/lib/pumasi/api.sock/v1/cloud"), "unix:/var/lib/pumasi/api.sock");
        assert_eq!(place("unix:/run/api.sock"), "unix:/run/api.sock");
    }

    #[test]
    fn what_happened_is_told_without_layers_and_types() {
        for error in [
            rustls::Error::InvalidCertificate(CertificateError::Expired),
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer),
            rustls::Error::InvalidCertificate(CertificateError::BadSignature),
            rustls::Error::AlertReceived(AlertDescription::CertificateUnknown),
            rustls::Error::AlertReceived(AlertDescription::HandshakeFailure),
            rustls::Error::HandshakeNotComplete,
        ] {
            let told = tls(&error);
            assert!(!told.contains(['{', '(']) && told.len() > 10, "{told}");
        }
        assert_eq!(broken(io::ErrorKind::ConnectionRefused).as_deref(), Some(REFUSED));
    }

    #[tokio::test]
    async fn a_closed_port_refuses_connections() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        drop(listener);
        let error = reqwest::Client::new().get(format!("http://{at}/v1/cloud")).send().await.unwrap_err();
        assert_eq!(words(&error), REFUSED);
    }
}
