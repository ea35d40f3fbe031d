//! `pumasi apply`: manifests and bundles to the daemon. Nothing is sent before everything has been read and checked.

use crate::args::Apply;
use crate::bundle::{self, Packed};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::session::Session;
use pumasi_api::CallError;
use pumasi_api::message::{CheckService, Lending, LendingState, ServiceView};
use pumasi_terms::CustomerName;
use pumasi_terms::manifest::{self, MANIFEST_BYTES_MAX};
use pumasi_terms::service::{BundleRef, Service};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

struct Item {
    service: Service,
    /// The directory to send, if the manifest named one.
    bundle: Option<PathBuf>,
}

fn read(file: &Path) -> Result<(String, String, PathBuf), Failure> {
    // One byte more than is allowed shows that there is more.
    let limit = MANIFEST_BYTES_MAX as u64 + 1;
    let mut text = Vec::new();
    let name = if file == Path::new("-") { "<stdin>".to_owned() } else { file.display().to_string() };
    let done = if file == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut text)
    } else {
        std::fs::File::open(file).and_then(|f| f.take(limit).read_to_end(&mut text))
    };
    done.map_err(|e| Failure::input(format!("reading the manifest {name}: {e}")))?;
    let text = String::from_utf8(text).map_err(|_| Failure::input(format!("{name}: a manifest is UTF-8 text")))?;
    let base = match file.parent() {
        Some(dir) if file != Path::new("-") && !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    };
    Ok((name, text, base))
}

fn items(files: &[PathBuf]) -> Result<Vec<Item>, Failure> {
    let mut items: Vec<Item> = Vec::new();
    for file in files {
        let (name, text, base) = read(file)?;
        for service in manifest::services(&name, &text)? {
            if items.iter().any(|i| i.service.metadata.name == service.metadata.name) {
                return Err(Failure::input(format!("{name}: service {} is there twice", service.metadata.name)));
            }
            let bundle = match &service.spec.application.bundle {
                BundleRef::Digest(_) => None,
                BundleRef::Path(path) => {
                    let dir = base.join(path);
                    if !dir.is_dir() {
                        let told = format!(
                            "{name}: service {}: spec.application.bundle: {} is not a directory",
                            service.metadata.name,
                            dir.display()
                        );
                        return Err(Failure::input(told)
                            .hint("a bundle is a directory beside the manifest, or the digest of one sent before"));
                    }
                    Some(dir)
                }
            };
            items.push(Item { service, bundle });
        }
    }
    Ok(items)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Created,
    Configured,
    Unchanged,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

fn outcome(service: &Service, stored: Option<&ServiceView>) -> Outcome {
    match stored {
        None => Outcome::Created,
        Some(view) if view.service.spec == service.spec && !view.status.deleting => Outcome::Unchanged,
        Some(_) => Outcome::Configured,
    }
}

async fn stored(session: &Session, service: &Service) -> Result<Option<ServiceView>, Failure> {
    match session.client.get::<ServiceView>(&format!("/v1/services/{}", service.metadata.name)).await {
        Ok(view) => Ok(Some(view)),
        Err(error) if error.problem().is_some_and(|p| p.status == 404) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What the daemon would say to it. Nothing from one that is older than this question, nor to a viewer; of a bundle
/// that was sent before, it knows itself.
async fn checked(
    session: &Session,
    service: &Service,
    packed: Option<&Packed>,
    query: &str,
) -> Result<Option<Lending>, CallError> {
    let ask = CheckService {
        service: service.clone(),
        bundle_bytes: packed.map_or(0, |p| p.tree.total_bytes),
        bundle_files: packed.map_or(0, |p| p.tree.entries.len() as u64),
    };
    let path = format!("/v1/services/{}/check{query}", service.metadata.name);
    match session.client.post::<Lending>(&path, &ask).await {
        Err(error) if error.problem().is_some_and(|p| [403, 404, 405].contains(&p.status)) => Ok(None),
        asked => asked.map(Some),
    }
}

/// What tells the daemon whose something is: of the default customer nothing need be said.
fn whose(customer: Option<&CustomerName>) -> String {
    match customer {
        Some(customer) if *customer != CustomerName::default_customer() => format!("?customer={customer}"),
        _ => String::new(),
    }
}

pub async fn apply(session: &Session, args: &Apply) -> Result<(), Failure> {
    let mut items = items(&args.file)?;
    // Two services of one directory send it once.
    let mut packed: BTreeMap<PathBuf, Packed> = BTreeMap::new();
    for item in &mut items {
        let Some(dir) = &item.bundle else { continue };
        if !packed.contains_key(dir) {
            packed.insert(dir.clone(), bundle::pack(dir).await?);
        }
        if let Some(packed) = packed.get(dir) {
            item.service.spec.application.bundle = BundleRef::Digest(packed.digest);
            let command = &item.service.spec.application.command;
            pumasi_node::bundles::check_program(&packed.tree, command).map_err(|fault| {
                Failure::input(format!("service {}: {}: {}", item.service.metadata.name, fault.field, fault.problem))
            })?;
        }
    }
    let mut outcomes = Vec::with_capacity(items.len());
    let mut queries = Vec::with_capacity(items.len());
    for item in &items {
        let stored = stored(session, &item.service).await?;
        outcomes.push(outcome(&item.service, stored.as_ref()));
        queries.push(whose(args.customer.as_ref().or(stored.as_ref().map(|s| &s.status.customer))));
    }
    if !args.dry_run {
        // Each customer keeps bundles of its own: one directory goes once to each that has a service of it.
        let mut sent = BTreeSet::new();
        for ((item, outcome), query) in items.iter().zip(&outcomes).zip(&queries) {
            let Some(dir) = item.bundle.as_ref().filter(|_| *outcome != Outcome::Unchanged) else { continue };
            if let (Some(packed), true) = (packed.get(dir), sent.insert((dir, query))) {
                bundle::upload(session, dir, packed, query).await?;
            }
        }
    }
    let mut told = Vec::new();
    for ((item, outcome), query) in items.iter().zip(outcomes).zip(&queries) {
        let name = &item.service.metadata.name;
        let during = |e: CallError| Failure::from(e).during(format!("service {name}"));
        let lending = if args.dry_run {
            let packed = item.bundle.as_ref().and_then(|dir| packed.get(dir));
            checked(session, &item.service, packed, query).await.map_err(during)?
        } else if outcome != Outcome::Unchanged {
            let put = session.client.put::<ServiceView>(&format!("/v1/services/{name}{query}"), &item.service).await;
            Some(put.map_err(during)?.status.lending)
        } else {
            None
        };
        for why in lending.iter().filter(|l| l.state == LendingState::No).flat_map(|l| &l.why) {
            output::note(&format!("service {name} cannot be lent: {why}"));
        }
        let tail = if args.dry_run { " (dry run)" } else { "" };
        match session.global.output {
            Format::Table => output::print(&format!("service/{name} {}{tail}\n", outcome.word()))?,
            Format::Name => output::print(&format!("service/{name}\n"))?,
            Format::Json | Format::Yaml => told.push(json!({
                "name": name, "outcome": outcome.word(), "dry_run": args.dry_run, "bundle": item.service.spec.application.bundle,
                "lending": lending,
            })),
        }
    }
    match session.global.output {
        Format::Json => output::print(&output::json(&told)?),
        Format::Yaml => output::print(&output::yaml(&told)?),
        _ => Ok(()),
    }
}
