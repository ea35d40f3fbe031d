//! A single etcd member with its defaults, on the same disk.

use super::grpc::{Channel, GrpcBody, bytes_field, framed, int_field};
use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use pumasi_engine::free_address;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 8;
const TXNS_IN_FLIGHT: usize = 4;
const PUTS_IN_FLIGHT: usize = 64;
/// etcd's default for `--max-txn-ops`.
const TXN_OPS: usize = 128;
const TTL_S: u64 = 600;
const UP: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy)]
pub enum Way {
    Txn,
    Put,
    KeepAlive,
}

pub struct Etcd {
    child: Child,
    channels: Vec<Channel>,
    leases: usize,
    _dir: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is kept of a lease: the same as ours writes.
fn put(lease: usize, turn: u64) -> Vec<u8> {
    let key = format!("/renewals/lease-{lease:032x}");
    let value = format!("{{\"expires_at\":{},\"instances_wanted\":1,\"epoch\":1}}", 1_700_000_000_000 + turn);
    let mut message = Vec::new();
    bytes_field(&mut message, 1, key.as_bytes());
    bytes_field(&mut message, 2, value.as_bytes());
    message
}

fn txn(leases: impl Iterator<Item = usize>, turn: u64) -> Vec<u8> {
    let mut message = Vec::new();
    for lease in leases {
        let mut operation = Vec::new();
        bytes_field(&mut operation, 2, &put(lease, turn));
        bytes_field(&mut message, 2, &operation);
    }
    message
}

impl Etcd {
    pub async fn start(leases: usize) -> anyhow::Result<Self> {
        // Beside the lender's store: in the system's temporary directory.
        let dir = tempfile::tempdir()?;
        let (client, peer) = (free_address(Ipv4Addr::LOCALHOST.into())?, free_address(Ipv4Addr::LOCALHOST.into())?);
        let url = |address| format!("http://{address}");
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)])
            .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
            .args(["--initial-cluster", &format!("default={}", url(peer)), "--log-level", "error"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("running etcd; bench/install installs it")?;
        let mut etcd = Self { child, channels: Vec::new(), leases, _dir: dir };
        etcd.wait_up(client).await?;
        for lease in 1..=leases {
            let mut grant = Vec::new();
            int_field(&mut grant, 1, TTL_S);
            int_field(&mut grant, 2, lease as u64);
            etcd.channels[lease % CONNECTIONS].unary("/etcdserverpb.Lease/LeaseGrant", &grant).await?;
            if lease == 1 {
                eprintln!("   etcd grants {leases} leases of its own");
            }
        }
        Ok(etcd)
    }

    async fn wait_up(&mut self, at: SocketAddr) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            ensure!(self.child.try_wait()?.is_none(), "etcd ended at once");
            if let Ok(channel) = Channel::connect(at).await
                && channel.unary("/etcdserverpb.KV/Put", &put(0, 0)).await.is_ok()
            {
                break;
            }
            ensure!(begun.elapsed() < UP, "etcd was not up within {UP:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for _ in 0..CONNECTIONS {
            self.channels.push(Channel::connect(at).await?);
        }
        Ok(())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How many leases were renewed, every one once before any a second time.
    pub async fn renew_for(&self, way: Way, time: Duration) -> anyhow::Result<u64> {
        let until = Instant::now() + time;
        let next = AtomicU64::new(0);
        match way {
            Way::Txn => self.puts(until, &next, TXNS_IN_FLIGHT, TXN_OPS).await,
            Way::Put => self.puts(until, &next, PUTS_IN_FLIGHT, 1).await,
            Way::KeepAlive => self.keep_alive(until).await,
        }
    }

    async fn puts(&self, until: Instant, next: &AtomicU64, in_flight: usize, each: usize) -> anyhow::Result<u64> {
        let one = async |channel: &Channel| -> anyhow::Result<u64> {
            let mut done = 0;
            while Instant::now() < until {
                let first = next.fetch_add(each as u64, Ordering::Relaxed);
                let (turn, at) = (first / self.leases as u64, first as usize % self.leases);
                match each {
                    1 => channel.unary("/etcdserverpb.KV/Put", &put(at, turn)).await?,
                    _ => {
                        let leases = (at..at + each).map(|l| l % self.leases);
                        channel.unary("/etcdserverpb.KV/Txn", &txn(leases, turn)).await?;
                    }
                }
                done += each as u64;
            }
            Ok(done)
        };
        let workers = self.channels.iter().flat_map(|c| std::iter::repeat_n(c, in_flight));
        Ok(try_join_all(workers.map(one)).await?.into_iter().sum())
    }

    /// A stream a connection, each with its part of the leases: all are asked for, then all answers are read.
    async fn keep_alive(&self, until: Instant) -> anyhow::Result<u64> {
        let each = self.leases / CONNECTIONS;
        let one = async |(index, channel): (usize, &Channel)| -> anyhow::Result<u64> {
            let mut asked = Vec::new();
            for lease in 0..each {
                let mut message = Vec::new();
                int_field(&mut message, 1, (index * each + lease + 1) as u64);
                asked.extend_from_slice(&framed(&message));
            }
            let asked = Bytes::from(asked);
            let (to, from) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
            let frames = futures_util::stream::unfold(from, async |mut from| from.recv().await.map(|f| (f, from)));
            let body: GrpcBody = BodyExt::boxed_unsync(StreamBody::new(frames));
            to.send(Ok(Frame::data(asked.clone()))).await?;
            let mut answers = channel.call("/etcdserverpb.Lease/LeaseKeepAlive", body).await?;
            let (mut done, mut held) = (0, Vec::new());
            loop {
                let mut open = each;
                while open > 0 {
                    let frame = answers.frame().await.context("etcd ended the stream")??;
                    held.extend_from_slice(frame.data_ref().context("etcd ended the stream")?);
                    open -= take_messages(&mut held).min(open);
                }
                done += each as u64;
                if Instant::now() >= until {
                    return Ok(done);
                }
                to.send(Ok(Frame::data(asked.clone()))).await?;
            }
        };
        Ok(try_join_all(self.channels.iter().enumerate().map(one)).await?.into_iter().sum())
    }
}

/// Takes whole messages off the front; how many.
fn take_messages(held: &mut Vec<u8>) -> usize {
    let (mut at, mut whole) = (0, 0);
    while let Some(head) = held.get(at..at + 5) {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if held.len() < at + 5 + length {
            break;
        }
        at += 5 + length;
        whole += 1;
    }
    held.drain(..at);
    whole
}
