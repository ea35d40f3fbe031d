//! A certificate of a service's own: checked where it is written down, shown by the gateway, told to nobody else.

use super::*;
use crate::keys;

fn pem(hosts: &[&str]) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(hosts.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn with_tls(digest: Digest, travels: bool) -> Value {
    let mut service = service("victim", "victim.example", digest);
    service["spec"]["tls"] = json!({"secret": "victim-tls", "travels": travels});
    service
}

impl Rig {
    async fn set_pair(&self, who: &str, pem: &str) -> Asked {
        self.ask(who, "PUT", "/v1/secrets/victim-tls", json!({"value": pem})).await
    }

    /// What the gateway has of the service after a look.
    async fn shown(&self) -> pumasi_route::ServiceKeys {
        self.node.gateway_status.set(Some(self.gate.status().await.unwrap()));
        keys::tell(&self.node).await.unwrap();
        self.gate.keys().unwrap().services.get(&"victim".parse().unwrap()).cloned().unwrap_or_default()
    }

    fn package(&self) -> Option<Digest> {
        keys::package(&self.node, &self.record("victim").unwrap()).unwrap().map(|p| p.digest)
    }
}

#[tokio::test]
async fn a_pair_that_users_would_not_accept_is_refused_where_it_is_written_down() {
    let rig = Rig::new().await;
    let digest = rig.upload("acme", "acme's application").await;
    let apply = || rig.ask("acme", "PUT", "/v1/services/victim", with_tls(digest, true));
    let (status, text) = apply().await;
    assert!(status == 400 && text.contains("secret set victim-tls"), "{status} {text}");
    let ((cert, key), (other, _)) = (pem(&["victim.example"]), pem(&["victim.example"]));
    let (elsewhere, its_key) = pem(&["other.example"]);
    for (value, why) in [
        (format!("{other}{key}"), "is not that of its first certificate"),
        (format!("{elsewhere}{its_key}"), "does not name host victim.example"),
        (cert.clone(), "no private key"),
        ("sk_live".into(), "no certificate"),
    ] {
        assert_eq!(rig.set_pair("acme", &value).await.0, 200, "nothing shows it yet");
        let (status, text) = apply().await;
        assert!(status == 422 && text.contains("\"spec.tls.secret\"") && text.contains(why), "{status} {text}");
        assert!(rig.record("victim").is_none());
    }
    assert_eq!(rig.set_pair("acme", &format!("{cert}{key}")).await.0, 200);
    assert_eq!(apply().await.0, 200);
    // From now on it is shown: what would take it from its users is refused, and the one before stays.
    let (status, text) = rig.set_pair("acme", &format!("{other}{key}")).await;
    assert!(status == 422 && text.contains("\"value\""), "{status} {text}");
    let shown = rig.shown().await;
    let tls = shown.tls.unwrap();
    assert_eq!((tls.hosts, tls.pem), (vec!["victim.example".to_owned()], format!("{cert}{key}")));
    assert_eq!(rig.ask("acme", "DELETE", "/v1/secrets/victim-tls", Value::Null).await.0, 409);
    // Another customer's of the same name is another one.
    assert_eq!(rig.set_pair("eve", "anything").await.0, 200);
}

#[tokio::test]
async fn a_renewed_pair_goes_where_the_old_one_was_and_nothing_is_exchanged_for_it() {
    let rig = Rig::new().await;
    let digest = rig.upload("acme", "acme's application").await;
    let mut keys = Vec::new();
    let mut renew = async || {
        let (cert, key) = pem(&["victim.example"]);
        let (status, text) = rig.set_pair("acme", &format!("{cert}{key}")).await;
        keys.push(key);
        assert_eq!(status, 200, "{text}");
        text
    };
    renew().await;
    assert_eq!(rig.ask("acme", "PUT", "/v1/services/victim", with_tls(digest, true)).await.0, 200);
    let (first, packed, generation) = (rig.shown().await, rig.package(), rig.record("victim").unwrap().generation);
    assert!(renew().await.contains("victim\""), "who uses it is told");
    let second = rig.shown().await;
    assert!(second.tls != first.tls && second.positions == first.positions && second.positions.len() == 1);
    assert!(rig.package() != packed, "standbys are sent the new one");
    assert_eq!(rig.record("victim").unwrap().generation, generation);
    // One that stays at home is shown there, and no standby is told.
    assert_eq!(rig.ask("acme", "PUT", "/v1/services/victim", with_tls(digest, false)).await.0, 200);
    let packed = rig.package();
    renew().await;
    assert_eq!(rig.package(), packed);
    assert_ne!(rig.shown().await.tls, second.tls);
    for path in ["services", "services/victim", "secrets", "events?after=0&limit=1000"] {
        let (status, text) = rig.get("acme", &format!("/v1/{path}")).await;
        assert_eq!(status, 200);
        for key in &keys {
            let line = key.lines().nth(1).unwrap();
            assert!(!text.contains(line), "{path}: {text}");
        }
    }
    rig.end("acme", "victim").await;
    keys::tell(&rig.node).await.unwrap();
    assert!(rig.gate.keys().unwrap().services.is_empty());
}
