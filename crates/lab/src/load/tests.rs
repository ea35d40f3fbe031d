use super::*;
use crate::example::{self, Kind, Options, notes, tickets::TicketsWorkload};
use http_body_util::Full;
use hyper::service::service_fn;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::net::TcpListener;

const MS: Duration = Duration::from_millis(1);

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn example(kind: Kind, args: &[&str]) -> SocketAddr {
    let args: Vec<String> = ["--listen", "127.0.0.1:0"].iter().chain(args).map(|a| a.to_string()).collect();
    let options = Options::parse(kind, &args, |_| None).unwrap();
    let (listener, address) = listener().await;
    tokio::spawn(async move { example::serve(kind, &options, listener, std::future::pending()).await.unwrap() });
    address
}

/// Answers each request by `act`, given its number.
async fn server<F, A>(act: F) -> SocketAddr
where
    F: Fn(u32) -> A + Clone + Send + 'static,
    A: Future<Output = http::Response<Full<Bytes>>> + Send,
{
    let (listener, address) = listener().await;
    let count = Arc::new(AtomicU32::new(0));
    tokio::spawn(async move {
        loop {
            let stream = listener.accept().await.unwrap().0;
            let (act, count) = (act.clone(), Arc::clone(&count));
            let service = service_fn(move |_| {
                let answer = act(count.fetch_add(1, Ordering::Relaxed));
                async move { Ok::<_, Infallible>(answer.await) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service),
            );
        }
    });
    address
}

fn load(target: SocketAddr, duration: Duration, rate: f64) -> LoadOptions {
    LoadOptions::new(Schedule::new(Gaps::Even, 1).level("all", duration, rate), target, "svc.example")
}

#[tokio::test]
async fn users_of_a_closed_loop_wait_for_their_answers() {
    let (inside, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (now, highest) = (Arc::clone(&inside), Arc::clone(&most));
    let address = server(move |_| {
        let (now, highest) = (Arc::clone(&now), Arc::clone(&highest));
        async move {
            highest.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::time::sleep(20 * MS).await;
            now.fetch_sub(1, Ordering::Relaxed);
            http::Response::new(Full::default())
        }
    })
    .await;
    let options = |think: Duration| LoadOptions { users: 8, think: Some(think), ..load(address, 500 * MS, 0.0) };
    let busy = start(options(Duration::ZERO), Arc::new(TicketsWorkload)).unwrap().wait().await.unwrap().all();
    assert_eq!(most.load(Ordering::Relaxed), 8);
    assert!((16..=200).contains(&busy.offered()), "{}", busy.offered());
    let thinking = start(options(480 * MS), Arc::new(TicketsWorkload)).unwrap().wait().await.unwrap().all();
    assert!((8..=16).contains(&thinking.offered()), "{}", thinking.offered());
}

#[tokio::test]
async fn right_answers_are_counted_and_users_keep_connections() {
    let address = example(Kind::Tickets, &["--work", "10"]).await;
    let options = LoadOptions { users: 5, users_from: Some([127, 79, 0, 1].into()), ..load(address, 500 * MS, 200.0) };
    let run = start(options, Arc::new(TicketsWorkload)).unwrap().wait().await.unwrap();
    let all = run.all();
    assert_eq!((all.offered(), all.right()), (99, 99), "{:?}", run.samples);
    assert!(all.latency_ms(0.5) > 0.0 && run.records.iter().all(|r| r.first_byte_us >= r.sent_us));
}

#[tokio::test]
async fn wrong_shed_and_failed_answers_are_told_apart() {
    let address = server(|n| async move {
        let mut answer = http::Response::new(Full::new(Bytes::from_static(b"{}")));
        match n % 4 {
            0 => {}
            1 => {
                *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                answer.headers_mut().insert(SHED_HEADER, "queue-full".parse().unwrap());
            }
            2 => *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE,
            _ => {
                *answer.status_mut() = StatusCode::BAD_GATEWAY;
                answer.headers_mut().insert(OUTCOME_HEADER, "unknown".parse().unwrap());
            }
        }
        answer
    })
    .await;
    let run = start(load(address, 401 * MS, 100.0), Arc::new(TicketsWorkload)).unwrap().wait().await.unwrap();
    let all = run.all();
    assert_eq!((all.count(Outcome::Wrong), all.shed(), all.count(Outcome::Failed)), (10, 10, 10));
    assert_eq!((all.count(Outcome::Unknown), all.failures()), (10, 30));
    assert!(run.samples.iter().any(|s| s.contains("not a seat")), "{:?}", run.samples);
}

#[tokio::test]
async fn a_stalled_server_does_not_hold_the_load_back() {
    // It stalls once for 600 ms: those due meanwhile wait, and each wait is counted.
    let stall = Arc::new(tokio::sync::Mutex::new(()));
    let tickets = example(Kind::Tickets, &["--work", "1"]).await;
    let address = server(move |n| {
        let stall = Arc::clone(&stall);
        async move {
            let held = stall.lock().await;
            if n == 20 {
                tokio::time::sleep(600 * MS).await;
            }
            drop(held);
            http::Response::new(Full::new(fetch(tickets, "svc.example", "/seat/1?n=0").await.unwrap()))
        }
    })
    .await;
    struct AnyAnswer;
    impl Workload for AnyAnswer {
        fn plan(&self, _: u32, _: &mut SmallRng) -> Planned {
            Planned::get("/".into())
        }
        fn check(&self, _: &Planned, _: StatusCode, _: &Bytes) -> Result<(), String> {
            Ok(())
        }
    }
    let run = start(load(address, 1000 * MS, 100.0), Arc::new(AnyAnswer)).unwrap().wait().await.unwrap();
    let all = run.all();
    assert_eq!(all.right(), 99);
    let waited = run.records.iter().filter(|r| r.latency_us() > 100_000).count();
    assert!(waited >= 40, "only {waited} waits were counted: the load waited with the server");
    assert!(all.latency_ms(1.0) >= 550.0);
    assert!(run.between(Duration::ZERO, 150 * MS).latency_ms(1.0) < 300.0);
}

#[tokio::test]
async fn the_bound_of_outstanding_requests_is_kept_and_counted() {
    let address = server(|_| std::future::pending()).await;
    let options = LoadOptions { outstanding_max: 5, timeout: 400 * MS, ..load(address, 200 * MS, 100.0) };
    let run = start(options, Arc::new(TicketsWorkload)).unwrap().wait().await.unwrap();
    let all = run.all();
    assert_eq!((all.count(Outcome::TimedOut), all.count(Outcome::Unsent)), (5, 14));
    assert_eq!(run.validity.unsent, 14);
}

#[tokio::test]
async fn no_server_is_told_from_a_broken_one() {
    let (gone, address) = listener().await;
    drop(gone);
    let run = start(load(address, 101 * MS, 100.0), Arc::new(TicketsWorkload)).unwrap().wait().await.unwrap();
    assert_eq!(run.all().count(Outcome::Unreachable), 10);
    let (closing, address) = listener().await;
    tokio::spawn(async move {
        loop {
            use tokio::io::AsyncReadExt;
            let mut stream = closing.accept().await.unwrap().0;
            let _ = stream.read(&mut [0; 10]).await;
        }
    });
    let run = start(load(address, 101 * MS, 100.0), Arc::new(TicketsWorkload)).unwrap().wait().await.unwrap();
    assert_eq!(run.all().count(Outcome::Broken), 10, "{:?}", run.samples);
}

#[tokio::test]
async fn redirects_are_followed_to_known_hosts() {
    let address = example(Kind::Tickets, &["--work", "1"]).await;
    struct Fixed;
    impl Workload for Fixed {
        fn plan(&self, _: u32, _: &mut SmallRng) -> Planned {
            Planned::get("/seat/5?n=1".into())
        }
        fn check(&self, planned: &Planned, status: StatusCode, body: &Bytes) -> Result<(), String> {
            TicketsWorkload.check(planned, status, body)
        }
    }
    let door = server(|_| async {
        let location = "http://b.svc.example:8443/seat/5?n=1";
        http::Response::builder().status(307).header("location", location).body(Full::default()).unwrap()
    })
    .await;
    let hosts = BTreeMap::from([("b.svc.example".to_owned(), address)]);
    let run =
        start(LoadOptions { hosts, ..load(door, 101 * MS, 100.0) }, Arc::new(Fixed)).unwrap().wait().await.unwrap();
    assert_eq!(run.all().right(), 10, "{:?}", run.samples);
    assert!(run.records.iter().all(|r| r.redirects == 1));
}

#[tokio::test]
async fn notes_under_load_keep_every_acknowledged_write() {
    let dir = tempfile::tempdir().unwrap();
    let address = example(Kind::Notes, &["--work", "10", "--data", dir.path().to_str().unwrap()]).await;
    let workload = Arc::new(notes::NotesWorkload::new(0.5));
    let run = start(LoadOptions { users: 8, ..load(address, 500 * MS, 200.0) }, workload.clone()).unwrap();
    let run = run.wait().await.unwrap();
    assert_eq!(run.all().right(), 99, "{:?}", run.samples);
    let exported = notes::export(address, "svc.example").await.unwrap();
    let audit = workload.audit(&exported);
    assert!(audit.is_clean() && audit.acknowledged > 20, "{audit:?}");
    assert_eq!(audit.acknowledged, exported.len() as u64);
}
