//! Every endpoint that shows or changes what a customer owns, asked by its owner, another customer, viewers of both, and the operator.

mod diverged;
mod former;
mod lendable;
mod reasons;
mod rollout;
mod tls;

use super::*;
use crate::ground::{GatewayPort, Ground};
use crate::identity::Identity;
use crate::object::{
    JOURNEY, LENT, PLAN, PlanRecord, PlanState, RETIRED, Retired, SERVICE, ServiceRecord, TOKEN, TokenRecord,
};
use crate::testing::Gate;
use crate::{clock, home, serve, tenancy};
use axum::body::Body;
use axum::http::Request;
use pumasi_api::Role;
use pumasi_engine::SimEngine;
use pumasi_journey::Journey;
use pumasi_store::{Expect, Store};
use pumasi_terms::{Digest, ServiceId, TokenId, WallMs};
use pumasi_transfer::{ChunkCache, ScanLimits, TreeChunks, TreeManifest, encode_pack, scan};
use serde_json::{Value, json};
use std::path::PathBuf;
use tokio::sync::watch;
use tower::ServiceExt;

const PLAN_ID: &str = "plan-00000000000000000000000000000001";
const JOURNEY_ID: &str = "jrn-00000000000000000000000000000001";
const LEASE_ID: &str = "lease-00000000000000000000000000000002";
const SECRET: &str = "victims-secret-key";

struct Rig {
    node: Arc<Node>,
    router: Router,
    engine: Arc<SimEngine>,
    gate: Arc<Gate>,
    dir: PathBuf,
    _stop: watch::Sender<bool>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

type Asked = (u16, String);

/// As it comes through people's door from a user whom the configuration does not name: the token alone says who asks.
fn people(mut request: Request<Body>) -> Request<Body> {
    request.extensions_mut().insert(Connection::of_user(None));
    request
}

impl Rig {
    /// A cloud with the customers `acme` and `evil`; tokens are called as their holders.
    async fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("pumasi-tenants-{:032x}", clock::entropy()));
        std::fs::create_dir_all(dir.join("store")).unwrap();
        let mut config = crate::Config::parse("version = 1\n[cloud]\nname = \"city-a\"\n", std::iter::empty()).unwrap();
        config.cloud.data_dir = dir.clone();
        let (stop, stopping) = watch::channel(false);
        let (engine, gate) = (Arc::new(SimEngine::new()), Arc::<Gate>::default());
        let ground = Ground {
            store: Store::open(dir.join("store/pumasi.sqlite"), clock::wall(), clock::entropy()).unwrap(),
            engine: engine.clone(),
            gateway: gate.clone(),
            wire: None,
            hands: Default::default(),
        };
        let node = Node::new(config.clone(), Identity::load(&config).unwrap(), ground, 1, stopping);
        let router = router(node.clone(), Door::People, Router::new());
        let rig = Self { node, router, engine, gate, dir, _stop: stop };
        for (token, role, customer) in [
            ("operator", Role::Operator, None),
            ("acme", Role::Customer, Some("acme")),
            ("acme-viewer", Role::Viewer, Some("acme")),
            ("eve", Role::Customer, Some("evil")),
            ("eve-viewer", Role::Viewer, Some("evil")),
        ] {
            rig.token(token, role, customer).await;
        }
        for name in ["acme", "evil"] {
            assert_eq!(rig.ask("operator", "PUT", &format!("/v1/customers/{name}"), json!({})).await.0, 200);
        }
        rig
    }

    async fn token(&self, name: &str, role: Role, customer: Option<&str>) {
        let record = TokenRecord {
            id: TokenId::from_entropy(clock::entropy()),
            name: name.parse().unwrap(),
            role,
            customer: customer.map(|c| c.parse().unwrap()),
            secret_digest: digest_of_secret(name),
            created_at: clock::wall(),
            expires_at: None,
        };
        let put =
            self.node.transact(move |tx| Ok(tx.put(TOKEN, record.id.as_str(), &record, Expect::Absent).map(|_| ())?));
        put.await.unwrap();
    }

    async fn raw(&self, who: &str, method: &str, path: &str, body: Vec<u8>, kind: &str) -> Asked {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {who}"))
            .header("content-type", kind)
            .body(Body::from(body))
            .unwrap();
        let answer = self.router.clone().oneshot(people(request)).await.unwrap();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 24).await.unwrap();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    async fn ask(&self, who: &str, method: &str, path: &str, body: Value) -> Asked {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.raw(who, method, path, body, "application/json").await
    }

    async fn get(&self, who: &str, path: &str) -> Asked {
        self.ask(who, "GET", path, Value::Null).await
    }

    fn bundle(&self, content: &str) -> (PathBuf, TreeManifest) {
        let dir = self.dir.join(format!("app-{}", content.len()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("server"), content).unwrap();
        let tree = scan(&dir, &mut ChunkCache::default(), ScanLimits::default()).unwrap();
        (dir, tree)
    }

    async fn upload(&self, who: &str, content: &str) -> Digest {
        let (dir, tree) = self.bundle(content);
        let (status, text) = self.raw(who, "POST", "/v1/bundles/missing", tree.to_bytes(), "application/json").await;
        assert_eq!(status, 200, "{text}");
        let missing: pumasi_api::message::Missing = serde_json::from_str(&text).unwrap();
        let pack = encode_pack(&TreeChunks::new(dir, &tree), &missing.chunks).unwrap();
        let sent = self.raw(who, "POST", "/v1/bundles/chunks", pack, "application/octet-stream").await;
        assert_eq!(sent.0, 200, "{}", sent.1);
        let done = self.raw(who, "POST", "/v1/bundles", tree.to_bytes(), "application/json").await;
        assert_eq!(done.0, 200, "{}", done.1);
        tree.digest()
    }

    fn record(&self, name: &str) -> Option<ServiceRecord> {
        self.node.get(SERVICE, name).unwrap()
    }

    /// A service of acme with a plan that waits, a journey with a rented part, and an entry in the journal.
    async fn victim(&self) -> Digest {
        let digest = self.upload("acme", "acme's application").await;
        let put = self.ask("acme", "PUT", "/v1/services/victim", service("victim", "victim.example", digest)).await;
        assert_eq!(put.0, 200, "{}", put.1);
        let id = self.record("victim").unwrap().id;
        let plan = json!({
            "version": 1, "id": PLAN_ID, "journey": JOURNEY_ID, "number": 1, "parent": null, "service": "victim", "epoch": 1, "created_at": 1,
            "verdict": {"service": "victim", "cause": "overload", "at": 1, "borrowed_wanted": 1, "reasons": []},
            "mode": "ask", "borrow": null, "parts": [], "application": digest, "datasets": [],
            "route": {"mode": "proxy", "start": 1, "step": 1, "step_ms": 100}, "cost_per_hour_max": 1, "bytes_max": 1,
        });
        let record = PlanRecord {
            plan: serde_json::from_value(plan).unwrap(),
            state: PlanState::Waiting,
            decided_by: None,
            why: String::new(),
            service_id: Some(id),
        };
        let golden = include_str!("../../../journey/tests/golden/journey-v1.json");
        let mut journey: Journey = serde_json::from_str(golden).unwrap();
        journey.service = "victim".parse().unwrap();
        let made = self.node.transact(move |tx| {
            tx.put(PLAN, PLAN_ID, &record, Expect::Absent)?;
            tx.put(JOURNEY, JOURNEY_ID, &journey, Expect::Absent)?;
            let note = crate::node::Note::new("plan_made", "plan", PLAN_ID).because("victims-reason");
            tx.journal(note.entry("daemon", clock::wall()))?;
            let note = crate::node::Note::new("lease_signed", "lease", LEASE_ID).because("victims-price");
            tx.journal(note.entry("daemon", clock::wall()))?;
            Ok(())
        });
        made.await.unwrap();
        digest
    }

    /// The victim's is over.
    async fn close_journey(&self) {
        let close = self.node.transact(|tx| {
            let mut journey = tx.get::<Journey>(JOURNEY, JOURNEY_ID)?.unwrap().body;
            let end = json!({"phase": "closed", "at": 5, "outcome": "returned", "why": ""});
            journey.phase = serde_json::from_value(end).unwrap();
            tx.put(JOURNEY, JOURNEY_ID, &journey, Expect::Any)?;
            Ok(())
        });
        close.await.unwrap();
    }

    /// Deletes a service and waits for its end as the reconciler makes it.
    async fn end(&self, who: &str, name: &str) {
        assert_eq!(self.ask(who, "DELETE", &format!("/v1/services/{name}"), Value::Null).await.0, 200);
        for _ in 0..1_000 {
            self.node.gateway_status.set(Some(self.gate.status().await.unwrap()));
            serve::look(&self.node).await;
            if self.record(name).is_none() {
                return;
            }
            self.engine.advance(50);
        }
        panic!("{name} does not end: {:?}", self.node.instances.get());
    }
}

fn service(name: &str, host: &str, bundle: Digest) -> Value {
    json!({
        "apiVersion": "pumasi/v1", "kind": "Service", "metadata": {"name": name},
        "spec": {
            "hosts": [host],
            "application": {"bundle": bundle, "command": ["${BUNDLE}/server"], "env": {"API_KEY": SECRET}},
            "datasets": [{"name": "notes", "kind": "files"}],
        },
    })
}

/// What may never come to the wrong eyes, whatever was asked.
const TRACES: &[&str] = &["victim", SECRET, PLAN_ID, JOURNEY_ID, LEASE_ID];

#[tokio::test]
async fn what_is_somebody_elses_is_not_there() {
    let rig = Rig::new().await;
    rig.victim().await;
    let (status, text) = rig.get("operator", "/v1/services").await;
    assert_eq!(status, 200);
    let before = rig.record("victim");
    for eve in ["eve", "eve-viewer"] {
        // Lists are empty of it.
        for path in [
            "services",
            "journeys",
            "plans",
            "leases",
            "instances",
            "retired",
            "divergences",
            "traffic",
            "events",
            "events?subject=victim",
            "events?after=0&limit=1000",
        ] {
            let (status, text) = rig.get(eve, &format!("/v1/{path}")).await;
            assert_eq!(status, 200, "{eve} {path}: {text}");
            for trace in TRACES {
                assert!(!text.contains(trace), "{eve} reads {trace} in {path}: {text}");
            }
        }
        // One of them does not exist, and the answer is the one of a thing that never was.
        for (path, never) in [
            ("services/victim", "services/nobody"),
            (&*format!("journeys/{JOURNEY_ID}"), "journeys/jrn-9"),
            (&*format!("plans/{PLAN_ID}"), "plans/plan-9"),
            (&*format!("leases/{LEASE_ID}"), "leases/lease-9"),
        ] {
            let asked = rig.get(eve, &format!("/v1/{path}")).await;
            let other = rig.get(eve, &format!("/v1/{never}")).await;
            assert_eq!((asked.0, other.0), (404, 404), "{eve} {path}: {}", asked.1);
            assert_eq!(asked.1.len() - path.len(), other.1.len() - never.len(), "told apart: {} {}", asked.1, other.1);
        }
    }
    for (method, path, body) in [
        ("GET", "/v1/services/victim/logs".to_owned(), Value::Null),
        ("DELETE", "/v1/services/victim".to_owned(), Value::Null),
        ("POST", format!("/v1/journeys/{JOURNEY_ID}/cancel"), json!({})),
        ("POST", "/v1/services/victim/rehearsals".to_owned(), json!({"cause": "overload"})),
        ("POST", "/v1/services/victim/move".to_owned(), json!({"to": "city-b"})),
        ("POST", "/v1/services/victim/move/cancel".to_owned(), json!({})),
        ("GET", "/v1/services/victim/move".to_owned(), Value::Null),
        ("POST", format!("/v1/plans/{PLAN_ID}/approve"), json!({})),
        ("POST", format!("/v1/plans/{PLAN_ID}/refuse"), json!({})),
    ] {
        let (status, text) = rig.ask("eve", method, &path, body.clone()).await;
        assert_eq!(status, 404, "eve {method} {path}: {text}");
        let (status, text) = rig.ask("eve-viewer", method, &path, body).await;
        assert!(matches!(status, 403 | 404), "her viewer {method} {path}: {status} {text}");
    }
    // It is the operator's, who answers for another cloud: no customer's, not even the owner's.
    for who in ["eve", "acme", "acme-viewer"] {
        let asked =
            rig.ask(who, "POST", "/v1/services/victim/move/abandon", json!({"heir": "city-b", "why": "x"})).await;
        assert_eq!(asked.0, 403, "{who}: {asked:?}");
    }
    assert_eq!(rig.record("victim"), before, "eve changed something");
    assert_eq!(rig.node.get::<PlanRecord>(PLAN, PLAN_ID).unwrap().unwrap().state, PlanState::Waiting);
    assert!(text.contains("victim"), "the operator sees whose is what: {text}");
}

#[tokio::test]
async fn owner_and_operator_see_all_of_it_and_may_act() {
    let rig = Rig::new().await;
    rig.victim().await;
    for who in ["acme", "acme-viewer", "operator"] {
        for (path, trace) in [
            ("services", "victim"),
            ("journeys", JOURNEY_ID),
            ("plans", PLAN_ID),
            ("leases", LEASE_ID),
            ("events?subject=victim", "service_created"),
            ("events", "victims-price"),
            ("events?after=0", "victims-reason"),
        ] {
            let (status, text) = rig.get(who, &format!("/v1/{path}")).await;
            assert!(status == 200 && text.contains(trace), "{who} {path}: {status} {text}");
        }
        for path in ["services/victim", &format!("plans/{PLAN_ID}"), &format!("leases/{LEASE_ID}")] {
            assert_eq!(rig.get(who, &format!("/v1/{path}")).await.0, 200, "{who} {path}");
        }
    }
    assert_eq!(rig.get("acme", "/v1/services/victim/logs").await.0, 200);
    assert_eq!(rig.ask("acme", "POST", &format!("/v1/plans/{PLAN_ID}/refuse"), json!({})).await.0, 200);
    assert_eq!(rig.ask("operator", "POST", &format!("/v1/journeys/{JOURNEY_ID}/cancel"), json!({})).await.0, 200);
}

#[tokio::test]
async fn values_of_the_environment_are_their_owners() {
    let rig = Rig::new().await;
    let digest = rig.victim().await;
    for (who, path, shown) in [
        ("acme", "services", true),
        ("acme", "services/victim", true),
        ("acme-viewer", "services", false),
        ("acme-viewer", "services/victim", false),
        ("operator", "services", false),
        ("operator", "services/victim", true),
    ] {
        let (status, text) = rig.get(who, &format!("/v1/{path}")).await;
        assert_eq!((status, text.contains(SECRET)), (200, shown), "{who} {path}: {text}");
        assert!(text.contains("API_KEY"), "names are shown: {text}");
    }
    let mut hidden = service("victim", "victim.example", digest);
    hidden["spec"]["application"]["env"]["API_KEY"] = tenancy::NOT_SHOWN.into();
    let (status, text) = rig.ask("operator", "PUT", "/v1/services/victim", hidden).await;
    assert!(status >= 400 && text.contains("API_KEY"), "a redacted manifest was applied: {status} {text}");
}

#[tokio::test]
async fn eve_cannot_replace_take_or_claim() {
    let rig = Rig::new().await;
    let theirs = rig.victim().await;
    let hers = rig.upload("eve", "eve's application reads your database").await;
    let before = rig.record("victim");
    for (what, name, host, bundle, status) in [
        ("replaces the bundle", "victim", "victim.example", hers, 409),
        ("takes the name", "victim", "eve.example", hers, 409),
        ("claims the host", "eves", "victim.example", hers, 409),
        ("names the bundle", "eves", "eve.example", theirs, 404),
    ] {
        let (found, text) = rig.ask("eve", "PUT", &format!("/v1/services/{name}"), service(name, host, bundle)).await;
        assert_eq!(found, status, "eve {what}: {text}");
        assert!(!text.contains("acme") && !text.contains("service victim"), "whose it is, is told: {text}");
    }
    // The manifest of a bundle is no proof that she has what is in it.
    let (_, tree) = rig.bundle("acme's application");
    let (_, missing) = rig.raw("eve", "POST", "/v1/bundles/missing", tree.to_bytes(), "application/json").await;
    let missing: pumasi_api::message::Missing = serde_json::from_str(&missing).unwrap();
    assert_eq!(missing.chunks.len(), tree.digests().len(), "which chunks acme sent is told to eve");
    assert_eq!(rig.raw("eve", "POST", "/v1/bundles", tree.to_bytes(), "application/json").await.0, 409);
    let asked = rig.ask("eve", "PUT", "/v1/services/eves?customer=acme", service("eves", "eve.example", theirs)).await;
    assert_eq!(asked.0, 404, "she acts for acme: {}", asked.1);
    let missing =
        rig.raw("eve", "POST", "/v1/bundles/missing?customer=acme", tree.to_bytes(), "application/json").await;
    assert_eq!(missing.0, 404);
    assert_eq!(rig.record("victim"), before);
    assert!(rig.record("eves").is_none());
}

#[tokio::test]
async fn a_new_service_of_the_same_name_inherits_nothing() {
    let rig = Rig::new().await;
    rig.victim().await;
    let old = rig.record("victim").unwrap();
    let path = home::data_dir(&rig.node, &old, &"notes".parse().unwrap());
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("notes.txt"), "acme's data").unwrap();
    let logs = crate::borrower::returned_log(&rig.node, &old, &LEASE_ID.parse().unwrap());
    std::fs::create_dir_all(logs.parent().unwrap()).unwrap();
    std::fs::write(&logs, "acme's log").unwrap();
    // The journey is over, so that the service can end.
    rig.close_journey().await;
    rig.end("acme", "victim").await;
    let hers = rig.upload("eve", "eve's own").await;
    let put = rig.ask("eve", "PUT", "/v1/services/victim", service("victim", "eve.example", hers)).await;
    assert_eq!(put.0, 200, "{}", put.1);
    let new = rig.record("victim").unwrap();
    assert!(new.id != old.id && new.owner() != old.owner());
    let hers = home::data_dir(&rig.node, &new, &"notes".parse().unwrap());
    assert_ne!(hers, path);
    assert!(!hers.join("notes.txt").exists());
    for path in [
        "events",
        "events?subject=victim",
        "events?after=0",
        "journeys",
        "plans",
        "leases",
        "services/victim/logs",
        "retired",
    ] {
        let (status, text) = rig.get("eve", &format!("/v1/{path}")).await;
        assert_eq!(status, 200, "{path}: {text}");
        for trace in ["acme", "victims-reason", JOURNEY_ID, PLAN_ID, LEASE_ID, old.id.as_str()] {
            assert!(!text.contains(trace), "eve inherits {trace} in {path}: {text}");
        }
    }
    // Its owner still finds what was, and nothing of hers.
    let (_, events) = rig.get("acme", "/v1/events?subject=victim").await;
    assert_eq!(
        (events.matches("service_created").count(), events.matches("service_deleted").count()),
        (1, 1),
        "{events}"
    );
    assert!(rig.get("acme", "/v1/retired").await.1.contains(old.id.as_str()));
    assert_eq!(rig.ask("eve", "DELETE", &format!("/v1/retired/{}", old.id), Value::Null).await.0, 404);
    assert!(path.join("notes.txt").exists());
    assert_eq!(rig.get("acme", "/v1/services/victim").await.0, 404, "the name is eve's now");
}

#[tokio::test]
async fn data_of_the_deleted_are_kept_for_their_time_and_then_erased() {
    let rig = Rig::new().await;
    let digest = rig.upload("acme", "acme's application").await;
    for name in ["one", "two"] {
        let made = rig
            .ask("acme", "PUT", &format!("/v1/services/{name}"), service(name, &format!("{name}.example"), digest))
            .await;
        assert_eq!(made.0, 200, "{}", made.1);
    }
    let records = ["one", "two"].map(|name| rig.record(name).unwrap());
    let dirs = records.each_ref().map(|r| tenancy::service_dir(&rig.node, r));
    for dir in &dirs {
        std::fs::create_dir_all(dir.join("data/notes")).unwrap();
        std::fs::write(dir.join("data/notes/kept"), "data").unwrap();
    }
    rig.end("acme", "one").await;
    tenancy::erase_retired(&rig.node).await.unwrap();
    assert!(dirs[0].join("data/notes/kept").exists(), "it is not yet time");
    let retired: Retired = rig.node.get(RETIRED, records[0].id.as_str()).unwrap().unwrap();
    assert_eq!(retired.erase_after.since(retired.retired_at), 168 * 3_600_000);
    assert_eq!(rig.ask("operator", "DELETE", "/v1/customers/acme", Value::Null).await.0, 409, "it still has data");
    // Its time is over. A record that names what lives is not obeyed.
    let wrong = Retired { erase_after: WallMs(0), place: records[1].place().to_owned(), ..retired.clone() };
    let due = Retired { erase_after: WallMs(0), ..retired };
    let (id, other) = (due.id.clone(), ServiceId::from_entropy(7));
    rig.node.transact(move |tx| Ok(tx.put(RETIRED, other.as_str(), &wrong, Expect::Any).map(|_| ())?)).await.unwrap();
    assert!(tenancy::erase_retired(&rig.node).await.is_err());
    assert!(dirs[1].join("data/notes/kept").exists(), "the data of a living service were erased");
    let other = ServiceId::from_entropy(7);
    rig.node
        .transact(move |tx| {
            tx.delete(RETIRED, other.as_str(), Expect::Any)?;
            tx.put(RETIRED, id.as_str(), &due, Expect::Any)?;
            Ok(())
        })
        .await
        .unwrap();
    tenancy::erase_retired(&rig.node).await.unwrap();
    assert!(!dirs[0].exists() && dirs[1].join("data/notes/kept").exists());
    // Its owner need not wait.
    rig.end("acme", "two").await;
    let erased = rig.ask("acme", "DELETE", &format!("/v1/retired/{}", records[1].id), Value::Null).await;
    assert_eq!(erased.0, 200, "{}", erased.1);
    assert!(!dirs[1].exists());
}

#[tokio::test]
async fn a_customer_keeps_to_what_it_is_granted() {
    let rig = Rig::new().await;
    let grant = json!({"hosts": ["*.acme.example", "acme.example"], "services_max": 2, "resources_max": {"cpu_millis": 600, "memory_mib": 0}});
    assert_eq!(rig.ask("operator", "PUT", "/v1/customers/acme", grant).await.0, 200);
    let digest = rig.upload("acme", "app").await;
    let put = |name: &'static str, host: &'static str, instances: u32| {
        let mut s = service(name, host, digest);
        s["spec"]["instances"] = json!({"home": instances});
        (format!("/v1/services/{name}"), s)
    };
    for (name, host, instances, status) in [
        ("far", "acme.example.evil", 1, 403),
        ("near", "xacme.example", 1, 403),
        ("much", "a.acme.example", 3, 403),
        ("one", "a.acme.example", 1, 200),
        ("two", "acme.example", 1, 200),
        ("three", "c.acme.example", 1, 403),
        ("one", "a.acme.example", 2, 403),
    ] {
        let (path, body) = put(name, host, instances);
        let (found, text) = rig.ask("acme", "PUT", &path, body).await;
        assert_eq!(found, status, "{name} {host} {instances}: {text}");
    }
    for bad in [
        json!({"hosts": ["*"]}),
        json!({"hosts": ["*.*.example"]}),
        json!({"hosts": ["A.example"]}),
        json!({"host": []}),
    ] {
        assert_eq!(rig.ask("operator", "PUT", "/v1/customers/acme", bad.clone()).await.0 / 100, 4, "{bad}");
    }
    // Nobody but the operator grants.
    for (method, path) in [
        ("GET", "/v1/customers"),
        ("PUT", "/v1/customers/acme"),
        ("DELETE", "/v1/customers/evil"),
        ("GET", "/v1/tokens"),
        ("POST", "/v1/tokens"),
    ] {
        for who in ["acme", "acme-viewer", "eve"] {
            assert_eq!(rig.ask(who, method, path, json!({})).await.0, 403, "{who} {method} {path}");
        }
    }
}

#[tokio::test]
async fn tokens_speak_for_one_customer() {
    let rig = Rig::new().await;
    let make = |role: &str, customer: Value| json!({"name": "ci", "role": role, "customer": customer});
    for (body, status) in [
        (make("customer", json!("acme")), 200),
        (make("viewer", Value::Null), 200),
        (make("operator", json!("acme")), 400),
        (make("customer", json!("nobody")), 404),
        (make("peer", Value::Null), 400),
    ] {
        let (found, text) = rig.ask("operator", "POST", "/v1/tokens", body.clone()).await;
        assert_eq!(found, status, "{body}: {text}");
    }
    // A record of before customers, if one was missed: it is the default customer's, not everybody's.
    rig.token("old", Role::Customer, None).await;
    rig.victim().await;
    assert_eq!(rig.get("old", "/v1/services/victim").await.0, 404);
    let (_, text) = rig.get("old", "/v1/services").await;
    assert!(!text.contains("victim"), "{text}");
}

/// Reads the changes from the beginning until `end` events came or nothing more comes.
async fn watched(rig: &Rig, who: &str) -> String {
    use futures_util::StreamExt;
    let request = Request::builder()
        .uri("/v1/watch?after=0")
        .header("authorization", format!("Bearer {who}"))
        .body(Body::empty())
        .unwrap();
    let answer = rig.router.clone().oneshot(people(request)).await.unwrap();
    assert_eq!(answer.status(), 200);
    let (mut stream, mut text) = (answer.into_body().into_data_stream(), String::new());
    while let Ok(Some(Ok(bytes))) = tokio::time::timeout(std::time::Duration::from_millis(500), stream.next()).await {
        text.push_str(&String::from_utf8_lossy(&bytes));
    }
    text
}

#[tokio::test]
async fn a_watch_tells_each_its_own() {
    let rig = Rig::new().await;
    rig.victim().await;
    let lent = json!({"lease": "victim of another cloud"});
    rig.node.transact(move |tx| Ok(tx.put(LENT, "lease-1", &lent, Expect::Any).map(|_| ())?)).await.unwrap();
    let end = rig.node.transact(|tx| Ok(tx.delete(PLAN, PLAN_ID, Expect::Any).map(|_| ())?));
    let (acme, eve) = (watched(&rig, "acme").await, watched(&rig, "eve").await);
    for trace in TRACES {
        assert!(!eve.contains(trace), "eve watches {trace}: {eve}");
        assert!(acme.contains(trace), "acme misses {trace}: {acme}");
    }
    assert!(!acme.contains("of another cloud"), "what is lent is the operator's: {acme}");
    let (viewer, operator) = (watched(&rig, "acme-viewer").await, watched(&rig, "operator").await);
    assert!(viewer.contains("API_KEY") && !viewer.contains(SECRET), "{viewer}");
    assert!(operator.contains("of another cloud") && !operator.contains(SECRET), "{operator}");
    end.await.unwrap();
    let eve = watched(&rig, "eve").await;
    assert!(!eve.contains(PLAN_ID), "that a plan is gone is told to eve: {eve}");
}

#[tokio::test]
async fn a_watch_ends_with_the_token_that_began_it() {
    use futures_util::StreamExt;
    for ends_by in ["DELETE", "expiry"] {
        let rig = Rig::new().await;
        rig.token("leaver", Role::Customer, Some("acme")).await;
        let request = Request::builder().uri("/v1/watch").header("authorization", "Bearer leaver");
        let answer = rig.router.clone().oneshot(people(request.body(Body::empty()).unwrap())).await.unwrap();
        let mut stream = answer.into_body().into_data_stream();
        let tokens = rig.node.items::<TokenRecord>(TOKEN).unwrap();
        let token = TokenRecord::clone(tokens.iter().find(|t| t.name.as_str() == "leaver").unwrap());
        if ends_by == "expiry" {
            let over = TokenRecord { expires_at: Some(WallMs(1)), ..token.clone() };
            let put = move |tx: &mut pumasi_store::Tx<'_>| {
                Ok(tx.put(TOKEN, over.id.as_str(), &over, Expect::Any).map(drop)?)
            };
            rig.node.transact(put).await.unwrap();
        } else {
            assert_eq!(rig.ask("operator", "DELETE", &format!("/v1/tokens/{}", token.id), json!({})).await.0, 200);
        }
        // What happens later is not told any more, and the stream ends by itself.
        rig.victim().await;
        let mut text = String::new();
        let read = async {
            while let Some(Ok(bytes)) = stream.next().await {
                text.push_str(&String::from_utf8_lossy(&bytes));
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), read).await.expect("the stream ends");
        assert!(text.contains("unauthenticated") && !text.contains("victim"), "{ends_by}: {text}");
    }
}

#[tokio::test]
async fn secrets_go_in_and_never_come_out() {
    const VALUE: &str = "sk_live_4b7e9d";
    let rig = Rig::new().await;
    let digest = rig.upload("acme", "acme's application").await;
    let mut manifest = service("shop", "shop.example", digest);
    manifest["spec"]["application"]["secrets"] = json!({"STRIPE_KEY": "stripe"});
    let early = rig.ask("acme", "PUT", "/v1/services/shop", manifest.clone()).await;
    assert!(early.0 == 400 && early.1.contains("pumasi secret set stripe"), "{early:?}");
    assert_eq!(rig.ask("acme", "PUT", "/v1/secrets/stripe", json!({"value": VALUE})).await.0, 200);
    let put = rig.ask("acme", "PUT", "/v1/services/shop", manifest).await;
    assert_eq!(put.0, 200, "{put:?}");
    let old = rig.record("shop").unwrap();
    assert_eq!(crate::secrets::of_service(&rig.node, &old).unwrap().expose()["STRIPE_KEY"], VALUE);
    home::reconcile(&rig.node).await.unwrap();
    // Another value is another generation.
    let second = format!("{VALUE}-second");
    let set = rig.ask("acme", "PUT", "/v1/secrets/stripe", json!({"value": second})).await;
    assert!(set.0 == 200 && set.1.contains("shop") && !set.1.contains(VALUE), "{set:?}");
    let new = rig.record("shop").unwrap();
    assert_eq!((new.generation, &new.id), (old.generation + 1, &old.id));
    // Eve has a secret of the same name, and that is another one.
    assert_eq!(rig.ask("eve", "PUT", "/v1/secrets/stripe", json!({"value": "hers"})).await.0, 200);
    assert_eq!(crate::secrets::of_service(&rig.node, &new).unwrap().expose()["STRIPE_KEY"], second);
    for (who, method, path, status) in [
        ("eve", "PUT", "/v1/secrets/stripe?customer=acme", 404),
        ("eve", "GET", "/v1/secrets?customer=acme", 404),
        ("eve", "DELETE", "/v1/secrets/stripe?customer=acme", 404),
        ("acme-viewer", "PUT", "/v1/secrets/stripe", 403),
        ("acme", "DELETE", "/v1/secrets/stripe", 409),
        ("acme", "GET", "/v1/secrets/stripe", 405),
        ("acme", "PUT", "/v1/secrets/..%2f..%2fx", 400),
    ] {
        let found = rig.ask(who, method, path, json!({"value": "x"})).await;
        assert_eq!(found.0, status, "{who} {method} {path}: {found:?}");
    }
    let mut seen = String::new();
    for who in ["acme", "acme-viewer", "operator", "eve", "eve-viewer"] {
        for path in [
            "services",
            "services/shop",
            "secrets",
            "secrets?customer=acme",
            "events?after=0&limit=1000",
            "plans",
            "instances",
            "services/shop/logs",
        ] {
            seen.push_str(&rig.get(who, &format!("/v1/{path}")).await.1);
        }
        seen.push_str(&watched(&rig, who).await);
    }
    assert!(seen.contains("stripe") && !seen.contains("sk_live"), "{seen}");
    assert_eq!(rig.ask("operator", "POST", "/v1/backup", json!({})).await.0, 200);
    let (mut files, mut at) = (0, vec![rig.dir.clone()]);
    while let Some(dir) = at.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                at.push(entry.path());
                continue;
            }
            files += 1;
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            let found = bytes.windows(7).any(|w| w == b"sk_live");
            assert!(!found, "{} holds the secret", entry.path().display());
        }
    }
    assert!(files > 10, "{files} files were looked at");
}

#[tokio::test]
async fn a_customer_inherits_nothing_from_one_that_had_its_name() {
    let rig = Rig::new().await;
    let digest = rig.upload("acme", "acme's application").await;
    assert_eq!(rig.ask("acme", "PUT", "/v1/secrets/stripe", json!({"value": "sk_live"})).await.0, 200);
    for token in ["acme", "acme-viewer"] {
        let named =
            rig.node.items::<TokenRecord>(TOKEN).unwrap().iter().find(|t| t.name.as_str() == token).unwrap().id.clone();
        assert_eq!(rig.ask("operator", "DELETE", &format!("/v1/tokens/{named}"), Value::Null).await.0, 200);
    }
    let kept = rig.ask("operator", "DELETE", "/v1/customers/acme", Value::Null).await;
    assert!(kept.0 == 409 && kept.1.contains("pumasi secret delete stripe --customer acme"), "{kept:?}");
    assert_eq!(rig.ask("operator", "DELETE", "/v1/secrets/stripe?customer=acme", Value::Null).await.0, 200);
    assert_eq!(rig.ask("operator", "DELETE", "/v1/customers/acme", Value::Null).await.0, 200);
    // As a crash in the middle of a deletion leaves it.
    let value = pumasi_trust::Secret::new("sk_live".to_owned());
    rig.node.identity.vault.set(&"acme".parse().unwrap(), &"stripe".parse().unwrap(), &value, clock::wall()).unwrap();
    assert_eq!(rig.ask("operator", "PUT", "/v1/customers/acme", json!({})).await.0, 200);
    rig.token("new-acme", Role::Customer, Some("acme")).await;
    let secrets = rig.get("new-acme", "/v1/secrets").await;
    assert!(secrets.0 == 200 && !secrets.1.contains("stripe"), "{secrets:?}");
    let named = rig.ask("new-acme", "PUT", "/v1/services/shop", service("shop", "shop.example", digest)).await;
    assert_eq!(named.0, 404, "it names a bundle that the earlier one sent: {named:?}");
    assert!(!crate::quarantine::list(&rig.node).unwrap().is_empty(), "the operator has what there was for a day");
}

#[test]
fn every_endpoint_for_customers_is_in_the_matrix_or_tells_nothing_of_them() {
    // A new endpoint that viewers or customers may call must be attacked above, and then be named here.
    let known = [
        "/v1/cloud",
        "/v1/traffic",
        "/v1/watch",
        "/v1/events",
        "/v1/services",
        "/v1/services/{name}",
        "/v1/services/{name}/check",
        "/v1/services/{name}/generations",
        "/v1/services/{name}/undo",
        "/v1/services/{name}/restart",
        "/v1/services/{name}/scale",
        "/v1/services/{name}/rehearsals",
        "/v1/services/{name}/move",
        "/v1/services/{name}/move/cancel",
        "/v1/services/{name}/logs",
        "/v1/divergences",
        "/v1/services/{name}/divergences/{epoch}/archive",
        "/v1/services/{name}/divergences/{epoch}/discard",
        "/v1/retired",
        "/v1/retired/{id}",
        "/v1/secrets",
        "/v1/secrets/{name}",
        "/v1/bundles/missing",
        "/v1/bundles/chunks",
        "/v1/bundles",
        "/v1/instances",
        "/v1/journeys",
        "/v1/journeys/{id}",
        "/v1/journeys/{id}/cancel",
        "/v1/plans",
        "/v1/plans/{id}",
        "/v1/plans/{id}/approve",
        "/v1/plans/{id}/refuse",
        "/v1/leases",
        "/v1/continuity",
        "/v1/leases/{id}",
        "/v1/offers",
        "/v1/pact",
    ];
    for e in ENDPOINTS.iter().filter(|e| e.roles.contains(&Role::Customer) || e.roles.contains(&Role::Viewer)) {
        assert!(known.contains(&e.path), "{} {}", e.method.as_str(), e.path);
    }
}
