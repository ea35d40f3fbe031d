//! Tokens of people: scoped, revocable, kept as digests.

use super::auth::digest_of_secret;
use super::body::{Answer, Json};
use super::params::Path;
use crate::node::Note;
use crate::object::{TOKEN, TokenRecord};
use crate::{Node, clock, tenancy};
use axum::Extension;
use axum::extract::State;
use pumasi_api::message::{List, NewToken, TokenView};
use pumasi_api::{Principal, Problem, Role};
use pumasi_store::Expect;
use pumasi_terms::{CustomerName, PrincipalName, TokenId};
use pumasi_trust::random_bytes;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

const TOKENS_MAX: usize = 1_000;

fn secret() -> Result<String, Problem> {
    let bytes: [u8; 32] = random_bytes().map_err(|e| Problem::ours(e.to_string()))?;
    Ok(format!("pumasi_{}", hex::encode(bytes)))
}

fn view(record: &TokenRecord, secret: Option<String>) -> TokenView {
    TokenView {
        id: record.id.clone(),
        name: record.name.clone(),
        role: record.role,
        customer: record.customer.clone(),
        created_at: record.created_at,
        expires_at: record.expires_at,
        secret,
    }
}

fn record(new: &NewToken, secret: &str) -> TokenRecord {
    let now = clock::wall();
    TokenRecord {
        id: TokenId::from_entropy(clock::entropy()),
        name: new.name.clone(),
        role: new.role,
        customer: match new.role {
            Role::Operator => None,
            _ => Some(new.customer.clone().unwrap_or_else(CustomerName::default_customer)),
        },
        secret_digest: digest_of_secret(secret),
        created_at: now,
        expires_at: (new.ttl_ms > 0).then(|| now.after(new.ttl_ms)),
    }
}

/// On the first start: an operator's token in a file that only this user reads.
pub async fn bootstrap(node: &Node) -> Result<(), Problem> {
    let path = node.dir("operator.token");
    let tokens = node.items::<TokenRecord>(TOKEN)?;
    // One that cannot be read may be the file's.
    if path.exists() && !(tokens.is_empty() && tokens.unreadable().is_empty()) {
        return Ok(());
    }
    let name = PrincipalName::parse("operator").map_err(|e| Problem::ours(e.to_string()))?;
    let secret = secret()?;
    let record = record(&NewToken { name, role: Role::Operator, customer: None, ttl_ms: 0 }, &secret);
    let write = || -> std::io::Result<()> {
        let partial = path.with_extension("token.new");
        let _ = std::fs::remove_file(&partial);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        writeln!(file, "{secret}")?;
        file.sync_all()?;
        std::fs::rename(&partial, &path)
    };
    write().map_err(|e| Problem::ours(format!("writing {}: {e}", path.display())))?;
    node.transact(move |tx| {
        // A token whose file was lost is no token any more.
        for old in tx.list::<TokenRecord>(TOKEN)?.into_iter().filter(|t| t.body.name == record.name) {
            tx.delete(TOKEN, &old.name, Expect::Any)?;
        }
        tx.put(TOKEN, record.id.as_str(), &record, Expect::Absent)?;
        Ok(())
    })
    .await
}

pub async fn list(State(node): State<Arc<Node>>) -> Answer<List<TokenView>> {
    let listing = node.store.listing::<TokenRecord>(TOKEN)?;
    Ok(axum::Json(List {
        revision: listing.revision,
        items: listing.items.iter().map(|t| view(&t.body, None)).collect(),
    }))
}

pub async fn create(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(new): Json<NewToken>,
) -> Answer<TokenView> {
    if matches!(new.role, Role::Peer | Role::Invited) {
        return Err(Problem::bad_request("role: a token is for people: viewer, customer or operator").into());
    }
    if new.role == Role::Operator && new.customer.is_some() {
        return Err(Problem::bad_request("customer: an operator's token is for the whole cloud").into());
    }
    let secret = secret()?;
    let record = record(&new, &secret);
    let answer = view(&record, Some(secret));
    node.transact(move |tx| {
        if tx.list::<TokenRecord>(TOKEN)?.len() >= TOKENS_MAX {
            return Err(Problem::conflict(format!("there are {TOKENS_MAX} tokens already; revoke some")).into());
        }
        if let Some(customer) = &record.customer {
            tenancy::grant(tx, customer)?;
        }
        tx.put(TOKEN, record.id.as_str(), &record, Expect::Absent)?;
        tx.journal(
            Note::new("token_created", "token", &record.id)
                .with(serde_json::json!({"name": record.name, "role": record.role, "customer": record.customer}))
                .entry(&who.to_string(), clock::wall()),
        )?;
        Ok(())
    })
    .await?;
    Ok(axum::Json(answer))
}

pub async fn revoke(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<TokenId>,
) -> Answer<()> {
    node.transact(move |tx| {
        if tx.delete(TOKEN, id.as_str(), Expect::Any)?.is_none() {
            return Err(Problem::not_found("token", &id).into());
        }
        tx.journal(Note::new("token_revoked", "token", &id).entry(&who.to_string(), clock::wall()))?;
        Ok(())
    })
    .await?;
    Ok(axum::Json(()))
}
