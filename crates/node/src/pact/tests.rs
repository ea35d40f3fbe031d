//! Three clouds on this machine, over real sockets and mutual TLS.

use super::*;
use crate::api;
use crate::ground::{GatewayProcess, Ground};
use crate::identity::Identity;
use crate::object::INVITATION;
use pumasi_engine::SimEngine;
use pumasi_store::{JournalFilter, Store};
use pumasi_terms::Money;
use std::path::PathBuf;
use tokio::sync::watch;

pub(super) struct Cloud {
    pub(super) node: Arc<Node>,
    stop: watch::Sender<bool>,
    dir: PathBuf,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn free_port() -> u16 {
    pumasi_engine::free_address([127, 0, 0, 1].into()).unwrap().port()
}

pub(super) fn operator() -> Principal {
    Principal::Person { name: "operator".parse().unwrap(), role: pumasi_api::Role::Operator, customer: None }
}

impl Cloud {
    pub(super) async fn start(name: &str) -> Self {
        Self::start_with(name, "auto").await
    }

    async fn start_with(name: &str, admit: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("pumasi-pact-{:032x}", clock::entropy()));
        std::fs::create_dir_all(dir.join("store")).unwrap();
        let text = format!(
            "version = 1\n[cloud]\nname = {name:?}\n[peer]\nlisten = \"127.0.0.1:{}\"\n[gateway]\npeer_listen = \"127.0.0.1:{}\"\n[pact]\nadmit = \"{admit}\"\n",
            free_port(),
            free_port()
        );
        let mut config = crate::Config::parse(&text, std::iter::empty()).unwrap();
        config.cloud.data_dir = dir.clone();
        let (stop, stopping) = watch::channel(false);
        let ground = Ground {
            hands: Default::default(),
            store: Store::open(dir.join("store/pumasi.sqlite"), clock::wall(), clock::entropy()).unwrap(),
            engine: Arc::new(SimEngine::new()),
            gateway: Arc::new(GatewayProcess::new(&dir, PathBuf::from("/nonexistent"))),
            wire: None,
            signin: None,
        };
        let node = Node::new(config.clone(), Identity::load(&config).unwrap(), ground, 1, stopping);
        load(&node).unwrap();
        let cloud = Self { node, stop, dir };
        cloud.serve().await;
        cloud
    }

    async fn serve(&self) {
        let (identity, trust) = (self.identity.daemon.clone(), self.identity.trust.clone());
        let tls = pumasi_trust::server_config_open(identity, trust, &[b"h2", b"http/1.1"]).unwrap();
        let router = api::router(self.node.clone(), pumasi_api::Door::Members, axum::Router::new());
        let at = self.config.peer.listen;
        api::members(at, tls, router, self.stop.subscribe()).await.unwrap();
    }

    /// Stops answering, as a daemon that was killed.
    async fn fall_silent(&self) {
        self.stop.send(true).unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while std::net::TcpListener::bind(self.config.peer.listen).is_err() {
            assert!(tokio::time::Instant::now() < deadline, "it still listens");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.stop.send(false).unwrap();
    }

    fn serial(&self) -> u64 {
        self.pact().map_or(0, |v| v.pact.serial.0)
    }
    fn members(&self) -> Vec<String> {
        self.pact().iter().flat_map(|v| &v.pact.members).map(|m| m.cloud.to_string()).collect()
    }
    pub(super) async fn invites(&self, other: &Cloud) -> String {
        invite(self, &operator(), other.name().clone(), 60_000).await.unwrap().invitation
    }
    /// Another price: all must sign that.
    async fn changes(&self, price: u64) -> Result<(), Problem> {
        set_terms(self, &operator(), Terms { price_per_cpu_hour: Money(price), ..Terms::default() }).await
    }
    fn price_of(&self, other: &Cloud) -> u64 {
        self.pact().unwrap().pact.member(other.name()).unwrap().terms.price_per_cpu_hour.0
    }
    async fn lends_nothing(&self) -> Result<(), Problem> {
        let terms = self.pact().unwrap().pact.member(self.name()).unwrap().terms.clone();
        set_terms(self, &operator(), Terms { storage_bytes: 0, ..terms }).await
    }
    fn storage_of(&self, other: &Cloud) -> u64 {
        self.pact().unwrap().pact.member(other.name()).unwrap().terms.storage_bytes
    }
}

impl std::ops::Deref for Cloud {
    type Target = Node;
    fn deref(&self) -> &Node {
        &self.node
    }
}

pub(super) async fn founded() -> Cloud {
    let a = Cloud::start("city-a").await;
    found(&a, &operator(), "EUR".into(), Terms::default()).await.unwrap();
    a
}

async fn three() -> (Cloud, Cloud, Cloud) {
    let a = founded().await;
    let (b, c) = (Cloud::start("city-b").await, Cloud::start("city-c").await);
    join(&b, &operator(), &a.invites(&b).await, Terms::default()).await.unwrap();
    // Invited by one member, signed by both.
    join(&c, &operator(), &b.invites(&c).await, Terms::default()).await.unwrap();
    (a, b, c)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clouds_enter_and_trust_each_other() {
    let (a, b, c) = three().await;
    for cloud in [&a, &b, &c] {
        assert_eq!((cloud.serial(), cloud.members()), (3, vec!["city-a".into(), "city-b".into(), "city-c".into()]));
        for other in [&a, &b, &c].into_iter().filter(|o| o.name() != cloud.name()) {
            let client = cloud.peers.clients.of(cloud, other.name()).unwrap();
            let shown: Shown = client.get("/v1/pact").await.unwrap();
            assert_eq!(shown.signed.signers().len(), 3);
        }
    }
    // A restart takes up the same.
    c.identity.adopt(None).unwrap();
    load(&c).unwrap();
    assert_eq!(c.serial(), 3);
    let signed = a.store.journal_page(0, 100, &JournalFilter::default()).unwrap();
    let signed: Vec<_> = signed.iter().filter(|r| r.entry.action == "pact_signed").map(|r| &r.entry.reasons).collect();
    assert_eq!(signed, [&["city-c enters, invited by city-b".to_owned(), "serial 3".to_owned()]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_is_good_for_one_cloud() {
    let a = founded().await;
    let (b, c) = (Cloud::start("city-b").await, Cloud::start("city-c").await);
    let token = a.invites(&b).await;
    let stolen = join(&c, &operator(), &token, Terms::default()).await.unwrap_err();
    assert_eq!((stolen.status, stolen.code.as_str()), (403, "bad_invitation"), "{stolen}");
    join(&b, &operator(), &token, Terms::default()).await.unwrap();
    let again = join(&b, &operator(), &token, Terms::default()).await.unwrap_err();
    assert_eq!(again.status, 409, "{again}");
    // Its answer was lost and its store too: the same invitation brings it back.
    b.transact(super::adopt::forget).await.unwrap();
    load(&b).unwrap();
    join(&b, &operator(), &token, Terms::default()).await.unwrap();
    assert_eq!((a.serial(), b.serial()), (2, 2));
    let garbage = join(&c, &operator(), "hello", Terms::default()).await.unwrap_err();
    assert_eq!(garbage.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_reach_all_and_cost_no_serial_while_one_is_silent() {
    let (a, b, c) = three().await;
    c.changes(7_000).await.unwrap();
    assert_eq!([&a, &b, &c].map(|x| (x.serial(), x.price_of(&c))), [(4, 7_000); 3]);
    // The same once more is no change.
    c.changes(7_000).await.unwrap();
    assert_eq!(a.serial(), 4);
    b.fall_silent().await;
    let failed = a.changes(8_000).await.unwrap_err();
    assert_eq!((failed.code.as_str(), failed.retry), ("peer_unreachable", true), "{failed}");
    assert_eq!(stored(&a).unwrap().next_serial(), Serial(5));
    b.serve().await;
    a.changes(8_000).await.unwrap();
    assert_eq!([&a, &b, &c].map(|x| (x.serial(), x.price_of(&a))), [(5, 8_000); 3]);
    assert!(!refresh_own_entry(&a).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_at_the_same_time_all_come_through() {
    let (a, b, c) = three().await;
    let (x, y, z) = tokio::join!(a.changes(1_000), b.changes(2_000), c.changes(3_000));
    for (cloud, result, ms) in [(&a, x, 1_000), (&b, y, 2_000), (&c, z, 3_000)] {
        if let Err(problem) = result {
            // Overtaken too often: it says so, and nothing is half done.
            assert!(problem.retry, "{problem}");
            cloud.changes(ms).await.unwrap();
        }
    }
    for cloud in [&a, &b, &c] {
        assert_eq!([&a, &b, &c].map(|x| cloud.price_of(x)), [1_000, 2_000, 3_000]);
        assert_eq!(cloud.serial(), a.serial());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_not_told_fetches_it() {
    let (a, b, c) = three().await;
    let entry = Member {
        terms: Terms { price_per_cpu_hour: Money(9_000), ..Terms::default() },
        ..a.pact().unwrap().pact.member(a.name()).unwrap().clone()
    };
    let full = propose(&a, &operator(), Step::Update(Box::new(entry))).await.unwrap();
    // The daemon ends between adopting and telling.
    take_over(&a, &operator(), full, Basis::Ours).await.unwrap();
    assert_eq!((a.serial(), b.serial()), (4, 3));
    // A proposal on top of it is signed all the same: the signer fetches what it missed.
    a.changes(9_500).await.unwrap();
    assert_eq!((a.serial(), b.serial(), c.serial()), (5, 5, 5));
    let full = promise_collect(&a, 9_700).await;
    take_over(&a, &operator(), full, Basis::Ours).await.unwrap();
    catch_up(&b, a.name()).await.unwrap();
    assert_eq!(b.price_of(&a), 9_700);
    // And one who is behind finds out before it proposes.
    c.changes(1_234).await.unwrap();
    assert_eq!([&a, &b, &c].map(|x| (x.serial(), x.price_of(&c))), [(7, 1_234); 3]);
}

async fn promise_collect(a: &Cloud, price: u64) -> SignedDocument {
    let mut entry = a.pact().unwrap().pact.member(a.name()).unwrap().clone();
    entry.terms.price_per_cpu_hour = Money(price);
    propose(a, &operator(), Step::Update(Box::new(entry))).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloud_leaves_and_may_come_back() {
    let (a, b, c) = three().await;
    let old = b.pact().unwrap().signed.clone();
    leave(&b, &operator(), "moving on".into()).await.unwrap();
    assert!(b.pact().is_none() && b.get::<PactState>(PACT, ONLY).unwrap().is_none());
    assert_eq!(
        [&a, &c].map(|x| x.members()),
        [vec!["city-a".to_owned(), "city-c".to_owned()], vec!["city-a".into(), "city-c".into()]]
    );
    assert_eq!(a.peers.clients.of(&a, b.name()).unwrap_err().status, 404);
    // What it once signed does not bring it back against its will.
    let replayed = bring(&b, old.clone()).await.unwrap_err();
    assert_eq!(replayed.status, 403, "{replayed}");
    bring(&a, old).await.unwrap();
    assert_eq!(a.members().len(), 2, "the same pact is no news, and the leave still counts");
    join(&b, &operator(), &c.invites(&b).await, Terms::default()).await.unwrap();
    assert_eq!([&a, &b, &c].map(|x| x.serial()), [4; 3]);
    leave(&a, &operator(), String::new()).await.unwrap();
    leave(&b, &operator(), String::new()).await.unwrap();
    leave(&c, &operator(), String::new()).await.unwrap();
    assert!(c.pact().is_none());
    assert_eq!(leave(&c, &operator(), String::new()).await.unwrap_err().code, "no_pact");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_member_holds_nobody() {
    let (a, b, c) = three().await;
    b.fall_silent().await;
    // Lending less and leaving need nobody else.
    c.lends_nothing().await.unwrap();
    assert_eq!((c.storage_of(&c), a.storage_of(&c)), (0, 0));
    assert_eq!(c.changes(70_000).await.unwrap_err().code, "peer_unreachable", "more is not said alone");
    leave(&c, &operator(), String::new()).await.unwrap();
    assert!(c.pact().is_none());
    assert_eq!((a.members().len(), b.members().len()), (2, 3));
    assert_eq!(untold(&c), [b.name().clone()]);
    // It comes back, and hears it from the leaver itself.
    b.serve().await;
    go_on(&c).await.unwrap();
    assert_eq!((b.members().len(), untold(&c).len()), (2, 0));
    a.changes(5_500).await.unwrap();
    assert_eq!((b.price_of(&a), a.serial(), b.serial()), (5_500, 4, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_away_learns_notices_from_any_member() {
    let (a, b, c) = three().await;
    b.fall_silent().await;
    c.lends_nothing().await.unwrap();
    b.serve().await;
    assert_ne!(b.storage_of(&c), 0);
    assert_ne!(a.pact().unwrap().digest, b.pact().unwrap().digest, "heartbeats show it");
    catch_up(&b, a.name()).await.unwrap();
    assert_eq!(b.storage_of(&c), 0);
    assert_eq!(a.pact().unwrap().digest, b.pact().unwrap().digest);
    // And before it proposes on top of what it does not know.
    b.fall_silent().await;
    leave(&c, &operator(), String::new()).await.unwrap();
    b.serve().await;
    b.changes(4_000).await.unwrap();
    assert_eq!((b.members().len(), a.price_of(&b)), (2, 4_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_member_is_dismissed_by_the_others_operators() {
    let (a, b, c) = three().await;
    // It refuses every signature, by being silent.
    c.fall_silent().await;
    let said = dismiss(&a, &operator(), c.name().clone(), "it pays nothing".into()).await.unwrap();
    assert!(said.contains("pumasi pact approve"), "{said}");
    assert_eq!(a.members().len(), 3, "nobody is dismissed by one alone");
    let waiting = proposals(&b).unwrap();
    assert_eq!((waiting.len(), waiting[0].what.as_str()), (1, "dismissal of city-c"));
    assert_eq!((waiting[0].by.as_str(), waiting[0].why.as_str()), ("city-a", "it pays nothing"));
    go_on(&a).await.unwrap();
    assert_eq!((a.members().len(), proposals(&b).unwrap().len()), (3, 1), "asked again is no other question");
    say(&b, &operator(), waiting[0].id.clone(), true, String::new()).await.unwrap();
    go_on(&a).await.unwrap();
    assert_eq!(
        [&a, &b].map(|x| x.members()),
        [vec!["city-a".to_owned(), "city-b".into()], vec!["city-a".into(), "city-b".into()]]
    );
    assert!(proposals(&a).unwrap().is_empty() && proposals(&b).unwrap().is_empty());
    // Its key is believed no more, and its notices neither.
    assert!(!b.identity.trust.allows(&SpiffeId::daemon(c.name())));
    let refused = dismiss(&b, &operator(), c.name().clone(), String::new()).await.unwrap_err();
    assert_eq!(refused.status, 404);
    assert_eq!(dismiss(&b, &operator(), b.name().clone(), String::new()).await.unwrap_err().status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_dismissal_stays_refused() {
    let (a, b, c) = three().await;
    dismiss(&a, &operator(), c.name().clone(), String::new()).await.unwrap();
    let id = proposals(&b).unwrap()[0].id.clone();
    say(&b, &operator(), id, false, "we need them".into()).await.unwrap();
    assert_eq!(go_on(&a).await.unwrap_err().code, "refused");
    assert_eq!((a.members().len(), proposals(&a).unwrap().len()), (3, 0));
    assert_eq!(say(&b, &operator(), "nothing".into(), true, String::new()).await.unwrap_err().status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puppets_of_a_member_are_not_admitted_without_each_operators_word() {
    let a = Cloud::start_with("city-a", "ask").await;
    found(&a, &operator(), "EUR".into(), Terms::default()).await.unwrap();
    let b = Cloud::start("city-b").await;
    join(&b, &operator(), &a.invites(&b).await, Terms::default()).await.unwrap();
    let puppet = Cloud::start("puppet-1").await;
    let token = b.invites(&puppet).await;
    for _ in 0..2 {
        let refused = join(&puppet, &operator(), &token, Terms::default()).await.unwrap_err();
        assert_eq!(refused.code, "needs_operator", "{refused}");
    }
    assert_eq!((a.members().len(), b.members().len(), puppet.members().len()), (2, 2, 0));
    let waiting = proposals(&a).unwrap();
    assert_eq!((waiting.len(), waiting[0].what.as_str()), (1, "admission of puppet-1"));
    let told = a.store.journal_page(0, 100, &JournalFilter::default()).unwrap();
    assert!(told.iter().any(|r| r.entry.action == "pact_word_asked"));
    // With the operator's word the same invitation goes through.
    say(&a, &operator(), waiting[0].id.clone(), true, String::new()).await.unwrap();
    join(&puppet, &operator(), &token, Terms::default()).await.unwrap();
    assert_eq!((a.members().len(), puppet.members().len()), (3, 3));
    assert!(proposals(&a).unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_learn_and_change_nothing() {
    let (a, b, c) = three().await;
    let d = Cloud::start("city-d").await;
    let invitations = a.store.list_raw(INVITATION).unwrap();
    let view = a.pact().unwrap();
    let root = view.pact.member(a.name()).unwrap();
    let root = pumasi_trust::Bundle::from_json(&root.bundle).unwrap().fingerprints()[0];
    let tls = pumasi_trust::client_config_pinned(a.name(), root, &[b"h2"]).unwrap();
    let stranger = connect(&d, a.name(), &a.config.api_address(), (*tls).clone()).unwrap();
    let status = |e: CallError| e.problem().map(|p| p.status);
    assert_eq!(stranger.get::<Shown>("/v1/pact").await.map_err(status).unwrap_err(), Some(401));
    let ask = crate::wire::AskAdmission { secret: "00".repeat(32), member: own_member(&d, Terms::default()).unwrap() };
    let answer = stranger.post::<crate::wire::Signed>("/v1/pact/admissions", &ask).await;
    assert_eq!(answer.map_err(status).unwrap_err(), Some(403));
    // A proposal that somebody made up with the members' names.
    let mut made_up = view.pact.clone();
    made_up.serial = Serial(4);
    made_up.parent = Some(view.signed.digest());
    made_up.members.push(own_member(&d, Terms::default()).unwrap());
    let payload = pumasi_pact::payload(&made_up).unwrap();
    let mut document = SignedDocument::sign_new(&payload, KIND, d.name(), Serial(4), &d.identity.key).unwrap();
    for name in [a.name(), b.name(), c.name()] {
        document = document.countersign(name, &d.identity.key).unwrap();
    }
    let body = crate::wire::Signed { document };
    let answer = stranger.put::<crate::wire::Signed>("/v1/pact/current", &body).await;
    assert_eq!(answer.map_err(status).unwrap_err(), Some(403));
    let answer = stranger.post::<SignAnswer>("/v1/pact/signatures", &body).await;
    assert_eq!(answer.map_err(status).unwrap_err(), Some(401));
    assert_eq!([&a, &b, &c].map(|x| x.serial()), [3; 3]);
    assert_eq!(a.store.list_raw(INVITATION).unwrap(), invitations);
}
