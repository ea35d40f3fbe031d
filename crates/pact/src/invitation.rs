//! An invitation: what an operator hands to another, outside of any network that we control.
//!
//! Its text is `pumasi-invite-v1.` and base64url of JSON. Whoever holds it may ask to join, once, until it ends; the
//! inviter keeps only the digest of the secret. The first to use it is bound to it, by name and document key, so that a
//! join that broke off can be tried again and nobody else can step in.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pumasi_terms::{CloudName, Digest, PactId, WallMs};
use pumasi_trust::{Secret, constant_time_eq, digest};
use serde::{Deserialize, Serialize};

pub const TOKEN_PREFIX: &str = "pumasi-invite-v1.";
const TOKEN_BYTES_MAX: usize = 2 << 10;
/// Open invitations of one cloud.
pub const INVITATIONS_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvitationError {
    #[error("this is no invitation: it must begin with {TOKEN_PREFIX:?}")]
    NotAnInvitation,
    #[error("the invitation is of a newer version: use a newer program")]
    Newer,
    #[error("the invitation is damaged; was it copied whole?")]
    Damaged,
    #[error("the invitation ended at {0}: ask for another")]
    Ended(WallMs),
    /// Unknown and used ones are not told apart to a stranger.
    #[error("the invitation is not valid: it was never made, has ended, or was used by another cloud")]
    NotValid,
    #[error("{INVITATIONS_MAX} invitations are open; let some end first")]
    TooMany,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    pub pact: PactId,
    pub inviter: CloudName,
    /// `host:port` of the inviter's API for peers.
    pub api_address: String,
    /// BLAKE3 of the inviter's root that signs now: what the newcomer pins.
    pub root: Digest,
    pub secret: Secret<[u8; 32]>,
    pub expires_at: WallMs,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    pact: PactId,
    inviter: CloudName,
    api_address: String,
    root: Digest,
    secret: String,
    expires_at: WallMs,
}

impl Invitation {
    /// The token is as secret as a key until it is used or ends.
    pub fn to_token(&self) -> Secret<String> {
        let token = Token {
            pact: self.pact.clone(),
            inviter: self.inviter.clone(),
            api_address: self.api_address.clone(),
            root: self.root,
            secret: URL_SAFE_NO_PAD.encode(self.secret.expose()),
            expires_at: self.expires_at,
        };
        // A struct of strings and numbers always serialises.
        let json = serde_json::to_vec(&token).unwrap_or_default();
        Secret::new(format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(json)))
    }

    pub fn parse(token: &str) -> Result<Self, InvitationError> {
        let token = token.trim();
        let Some(body) = token.strip_prefix(TOKEN_PREFIX) else {
            let newer = token.starts_with("pumasi-invite-v");
            return Err(if newer { InvitationError::Newer } else { InvitationError::NotAnInvitation });
        };
        if token.len() > TOKEN_BYTES_MAX {
            return Err(InvitationError::Damaged);
        }
        let json = URL_SAFE_NO_PAD.decode(body).map_err(|_| InvitationError::Damaged)?;
        let token: Token = serde_json::from_slice(&json).map_err(|_| InvitationError::Damaged)?;
        let secret = URL_SAFE_NO_PAD.decode(&token.secret).map_err(|_| InvitationError::Damaged)?;
        let secret = <[u8; 32]>::try_from(secret).map_err(|_| InvitationError::Damaged)?;
        let address = token.api_address.rsplit_once(':');
        if !address.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
            return Err(InvitationError::Damaged);
        }
        Ok(Self {
            pact: token.pact,
            inviter: token.inviter,
            api_address: token.api_address,
            root: token.root,
            secret: Secret::new(secret),
            expires_at: token.expires_at,
        })
    }

    pub fn check_time(&self, now: WallMs) -> Result<(), InvitationError> {
        if now >= self.expires_at { Err(InvitationError::Ended(self.expires_at)) } else { Ok(()) }
    }
}

/// The inviter's list of open invitations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invitations {
    open: Vec<Open>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Open {
    secret: Digest,
    expires_at: WallMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<User>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct User {
    cloud: CloudName,
    /// Thumbprint of its document key.
    kid: String,
}

impl Invitations {
    pub fn add(&mut self, invitation: &Invitation, now: WallMs) -> Result<(), InvitationError> {
        self.prune(now);
        invitation.check_time(now)?;
        if self.open.len() >= INVITATIONS_MAX {
            return Err(InvitationError::TooMany);
        }
        let secret = digest(invitation.secret.expose());
        self.open.push(Open { secret, expires_at: invitation.expires_at, user: None });
        Ok(())
    }

    /// Binds the invitation to its first user; the same user may come again.
    pub fn redeem(&mut self, secret: &[u8], cloud: &CloudName, kid: &str, now: WallMs) -> Result<(), InvitationError> {
        self.prune(now);
        let user = User { cloud: cloud.clone(), kid: kid.to_owned() };
        let open = self.find(secret).ok_or(InvitationError::NotValid)?;
        match &open.user {
            Some(bound) if *bound != user => Err(InvitationError::NotValid),
            _ => {
                open.user = Some(user);
                Ok(())
            }
        }
    }

    /// The newcomer is a member: the invitation is used up.
    pub fn finish(&mut self, cloud: &CloudName) {
        self.open.retain(|o| o.user.as_ref().is_none_or(|u| &u.cloud != cloud));
    }

    pub fn prune(&mut self, now: WallMs) {
        self.open.retain(|o| now < o.expires_at);
    }
    pub fn len(&self) -> usize {
        self.open.len()
    }
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn find(&mut self, secret: &[u8]) -> Option<&mut Open> {
        let wanted = digest(secret);
        self.open.iter_mut().find(|o| constant_time_eq(&o.secret.0, &wanted.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn invitation(secret: u8) -> Invitation {
        Invitation {
            pact: PactId::from_entropy(1),
            inviter: CloudName::parse("city-a").unwrap(),
            api_address: "a.example:7001".to_owned(),
            root: Digest([3; 32]),
            secret: Secret::new([secret; 32]),
            expires_at: WallMs(1_000),
        }
    }

    fn cloud(name: &str) -> CloudName {
        CloudName::parse(name).unwrap()
    }

    #[test]
    fn tokens_round_trip_and_hide_in_debug() {
        let made = invitation(7);
        let token = made.to_token();
        assert_eq!(Invitation::parse(&format!(" {}\n", token.expose())).unwrap(), made);
        assert!(!format!("{made:?}").contains("7, 7"));
        let newer = token.expose().replace("-v1.", "-v2.");
        assert_eq!(Invitation::parse(&newer), Err(InvitationError::Newer));
        assert_eq!(Invitation::parse("hello"), Err(InvitationError::NotAnInvitation));
        let short = &token.expose()[..token.expose().len() - 3];
        assert_eq!(Invitation::parse(short), Err(InvitationError::Damaged));
        assert!(made.check_time(WallMs(999)).is_ok());
        assert_eq!(made.check_time(WallMs(1_000)), Err(InvitationError::Ended(WallMs(1_000))));
    }

    #[test]
    fn an_invitation_serves_one_cloud_until_it_ends() {
        let mut list = Invitations::default();
        list.add(&invitation(1), WallMs(0)).unwrap();
        list.add(&invitation(2), WallMs(0)).unwrap();
        let now = WallMs(10);
        assert_eq!(list.redeem(&[9; 32], &cloud("city-b"), "k", now), Err(InvitationError::NotValid));
        list.redeem(&[1; 32], &cloud("city-b"), "k", now).unwrap();
        list.redeem(&[1; 32], &cloud("city-b"), "k", now).unwrap();
        assert_eq!(list.redeem(&[1; 32], &cloud("city-b"), "other", now), Err(InvitationError::NotValid));
        assert_eq!(list.redeem(&[1; 32], &cloud("city-c"), "k", now), Err(InvitationError::NotValid));
        list.finish(&cloud("city-b"));
        assert_eq!(list.redeem(&[1; 32], &cloud("city-b"), "k", now), Err(InvitationError::NotValid));
        assert_eq!(list.len(), 1);
        assert_eq!(list.redeem(&[2; 32], &cloud("city-c"), "k", WallMs(1_000)), Err(InvitationError::NotValid));
        assert!(list.is_empty());
        assert!(matches!(list.add(&invitation(1), WallMs(1_000)), Err(InvitationError::Ended(_))));
        for i in 0..INVITATIONS_MAX {
            list.add(&invitation(i as u8), WallMs(0)).unwrap();
        }
        assert_eq!(list.add(&invitation(200), WallMs(0)), Err(InvitationError::TooMany));
    }

    #[test]
    fn a_token_of_version_1_still_reads() {
        let token = concat!(
            "pumasi-invite-v1.",
            "eyJwYWN0IjoicGFjdC0wMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMSIsImludml0ZXIiOiJjaXR5LWEiLCJhcGlf",
            "YWRkcmVzcyI6ImEuZXhhbXBsZTo3MDAxIiwicm9vdCI6ImJsYWtlMzowMzAzMDMwMzAzMDMwMzAzMDMwMzAzMDMwMzAzMDMw",
            "MzAzMDMwMzAzMDMwMzAzMDMwMzAzMDMwMzAzMDMwMzAzIiwic2VjcmV0IjoiQndjSEJ3Y0hCd2NIQndjSEJ3Y0hCd2NIQndj",
            "SEJ3Y0hCd2NIQndjSEJ3YyIsImV4cGlyZXNfYXQiOjEwMDB9",
        );
        assert_eq!(Invitation::parse(token), Ok(invitation(7)));
    }

    proptest! {
        #[test]
        fn parsing_anything_never_panics(s in "\\PC{0,200}") {
            prop_assert!(Invitation::parse(&s).is_err());
            let raw = format!("{TOKEN_PREFIX}{s}");
            prop_assert!(Invitation::parse(&raw).is_err());
            let encoded = format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(&s));
            prop_assert!(Invitation::parse(&encoded).is_err());
        }
    }
}
