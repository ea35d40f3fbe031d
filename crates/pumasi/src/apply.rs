//! `pumasi apply`, `delete -f`: manifests and bundles to the daemon. Nothing is sent before everything has been read and checked.

use crate::args::Apply;
use crate::bundle::{self, Packed};
use crate::failure::{Exit, Failure};
use crate::manifests::{self, Item};
use crate::output::{self, Format};
use crate::session::Session;
use crate::{acts, rollout};
use pumasi_api::CallError;
use pumasi_api::message::{ApplyServices, CheckService, Lending, LendingState, List, ServiceView};
use pumasi_terms::CustomerName;
use pumasi_terms::service::Service;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

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

/// One service on its way.
struct Sent<'a> {
    item: &'a Item,
    outcome: Outcome,
    lending: Option<Lending>,
}

pub async fn apply(session: &Session, args: &Apply) -> Result<(), Failure> {
    let mut items = manifests::items(&args.file)?;
    let packed = manifests::pack(&mut items).await?;
    let mut sent = Vec::with_capacity(items.len());
    let mut queries = Vec::with_capacity(items.len());
    for item in &items {
        let stored = stored(session, &item.service).await?;
        let outcome = outcome(&item.service, stored.as_ref());
        queries.push(whose(args.customer.as_ref().or(stored.as_ref().map(|s| &s.status.customer))));
        sent.push(Sent { item, outcome, lending: None });
    }
    if args.dry_run {
        for (s, query) in sent.iter_mut().zip(&queries) {
            let packed = s.item.bundle.as_ref().and_then(|dir| packed.get(dir));
            let during = |e: CallError| Failure::from(e).during(format!("service {}", s.item.service.metadata.name));
            s.lending = checked(session, &s.item.service, packed, query).await.map_err(during)?;
        }
        return tell(session, &sent, true);
    }
    upload(session, &sent, &queries, &packed).await?;
    store(session, &mut sent, &queries).await?;
    tell(session, &sent, false)?;
    let changed = sent.iter().map(|s| &s.item.service.metadata.name);
    rollout::wait_all(session, changed, &args.wait, rollout::Until::First).await
}

/// Each customer keeps bundles of its own: one directory goes once to each that has a service of it.
async fn upload(
    session: &Session,
    sent: &[Sent<'_>],
    queries: &[String],
    packed: &BTreeMap<PathBuf, Packed>,
) -> Result<(), Failure> {
    let mut done = BTreeSet::new();
    for (s, query) in sent.iter().zip(queries).filter(|(s, _)| s.outcome != Outcome::Unchanged) {
        let Some(dir) = &s.item.bundle else { continue };
        if let (Some(packed), true) = (packed.get(dir), done.insert((dir, query))) {
            bundle::upload(session, dir, packed, query).await?;
        }
    }
    Ok(())
}

/// What is changed, in one request for each customer: all of it or nothing.
async fn store(session: &Session, sent: &mut [Sent<'_>], queries: &[String]) -> Result<(), Failure> {
    let customers: BTreeSet<&String> = queries.iter().collect();
    for query in customers {
        let own = sent.iter().zip(queries).filter(|(s, q)| *q == query && s.outcome != Outcome::Unchanged);
        let services: Vec<Service> = own.map(|(s, _)| s.item.service.clone()).collect();
        let views: Vec<ServiceView> = match services.as_slice() {
            [] => continue,
            [one] => {
                let name = &one.metadata.name;
                let put = session.client.put(&format!("/v1/services/{name}{query}"), one).await;
                vec![put.map_err(|e| Failure::from(e).during(format!("service {name}")))?]
            }
            _ => {
                let body = ApplyServices { services };
                let put = session.client.put::<List<ServiceView>>(&format!("/v1/services{query}"), &body).await;
                put.map_err(|e| Failure::from(e).during("nothing was changed"))?.items
            }
        };
        for view in views {
            let name = view.service.metadata.name;
            if let Some(s) = sent.iter_mut().find(|s| s.item.service.metadata.name == name) {
                s.lending = Some(view.status.lending);
            }
        }
    }
    Ok(())
}

fn tell(session: &Session, sent: &[Sent<'_>], dry_run: bool) -> Result<(), Failure> {
    let mut told = Vec::new();
    for Sent { item, outcome, lending } in sent {
        let name = &item.service.metadata.name;
        for why in lending.iter().filter(|l| l.state == LendingState::No).flat_map(|l| &l.why) {
            output::note(&format!("service {name} cannot be lent: {why}"));
        }
        let tail = if dry_run { " (dry run)" } else { "" };
        match session.global.output {
            Format::Table => output::print(&format!("service/{name} {}{tail}\n", outcome.word()))?,
            Format::Name => output::print(&format!("service/{name}\n"))?,
            Format::Json | Format::Yaml => told.push(json!({
                "name": name, "outcome": outcome.word(), "dry_run": dry_run, "bundle": item.service.spec.application.bundle,
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

/// Every service that the manifests name. One that is gone already is no failure.
pub async fn delete(session: &Session, files: &[PathBuf], wait: bool) -> Result<(), Failure> {
    let names: Vec<_> = manifests::items(files)?.into_iter().map(|i| i.service.metadata.name).collect();
    for name in &names {
        match acts::delete(session, name, false).await {
            Err(failure) if failure.exit == Exit::NotFound => output::note(&format!("service/{name} is not there")),
            done => done?,
        }
    }
    for name in names.iter().filter(|_| wait) {
        crate::events::wait_gone(session, name, session.global.timeout).await?;
        output::note(&format!("service/{name} is gone"));
    }
    Ok(())
}
