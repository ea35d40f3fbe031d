//! What can befall a cloud on this machine, and its end.
//!
//! Enters: a fault, the cloud that it befalls. Leaves: signals to its processes, changes of the links between the clouds, and the way back.
//! Always holds: only processes of this run are signalled; what was done is undone by `end`, where it can be.
//!
//! Impossible here, since links are TCP relays and clouds are processes of one kernel: lost or late single packets (below TCP), a stepped or
//! drifting clock, a full or stalled disk of one cloud, a machine that is paused with its clock.

use super::{CLOUDS, Stage};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    KillAll,
    KillDaemon,
    KillGateway,
    PauseAll,
    PauseDaemon,
    PauseGateway,
    /// Cut off both ways.
    Blackhole,
    /// Nothing of what it sends arrives.
    DropSend,
    /// Nothing arrives there.
    DropReceive,
    /// Cut off for a second, connected for a second, and so on.
    Flap,
    /// Half a second more on every way from and to it.
    Slow,
}

const FLAP: Duration = Duration::from_secs(1);
const FLAPS: u32 = 10;
const SLOW: Duration = Duration::from_millis(250);

impl Fault {
    pub const ALL: [Fault; 11] = [
        Fault::KillAll,
        Fault::KillDaemon,
        Fault::KillGateway,
        Fault::PauseAll,
        Fault::PauseDaemon,
        Fault::PauseGateway,
        Fault::Blackhole,
        Fault::DropSend,
        Fault::DropReceive,
        Fault::Flap,
        Fault::Slow,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Fault::KillAll => "kill-all",
            Fault::KillDaemon => "kill-daemon",
            Fault::KillGateway => "kill-gateway",
            Fault::PauseAll => "pause-all",
            Fault::PauseDaemon => "pause-daemon",
            Fault::PauseGateway => "pause-gateway",
            Fault::Blackhole => "blackhole",
            Fault::DropSend => "drop-send",
            Fault::DropReceive => "drop-receive",
            Fault::Flap => "flap",
            Fault::Slow => "slow",
        }
    }

    /// Whether the others may call the cloud lost for it: it cannot be told from a cloud that is no more.
    pub fn may_be_lost(self) -> bool {
        !matches!(self, Fault::KillGateway | Fault::Flap | Fault::Slow)
    }
}

/// A fault that has begun.
#[derive(Debug)]
pub struct Ongoing {
    fault: Fault,
    paused: Vec<u32>,
    /// All of it was there. What was answered while one process after the other died was answered by it.
    pub since: Instant,
}

impl Stage {
    pub async fn strike(&self, cloud: &str, fault: Fault) -> anyhow::Result<Ongoing> {
        let (mut paused, began) = (Vec::new(), Instant::now());
        match fault {
            Fault::KillAll => {
                self.cluster.supervisor.kill9(cloud)?;
                self.cluster.signal_all(cloud, Signal::SIGKILL);
            }
            Fault::KillDaemon => self.cluster.supervisor.kill9(cloud)?,
            Fault::KillGateway => {
                self.signal_gateway(cloud, Signal::SIGKILL);
            }
            Fault::PauseAll => paused = self.cluster.signal_all(cloud, Signal::SIGSTOP),
            Fault::PauseDaemon => self.cluster.supervisor.pause(cloud)?,
            Fault::PauseGateway => paused = self.signal_gateway(cloud, Signal::SIGSTOP),
            Fault::Blackhole => self.cluster.wan.isolate(cloud)?,
            Fault::DropSend => others(cloud).try_for_each(|o| self.cluster.wan.drop_one_way(cloud, o))?,
            Fault::DropReceive => others(cloud).try_for_each(|o| self.cluster.wan.drop_one_way(o, cloud))?,
            Fault::Flap => self.flap(cloud).await?,
            Fault::Slow => others(cloud).try_for_each(|o| {
                self.cluster.wan.add_latency(cloud, o, SLOW)?;
                self.cluster.wan.add_latency(o, cloud, SLOW)
            })?,
        }
        self.story.tell(cloud, fault.name(), "is there");
        let since = if fault == Fault::Flap { began } else { Instant::now() };
        Ok(Ongoing { fault, paused, since })
    }

    async fn flap(&self, cloud: &str) -> anyhow::Result<()> {
        for _ in 0..FLAPS {
            self.cluster.wan.isolate(cloud)?;
            tokio::time::sleep(FLAP).await;
            self.cluster.wan.heal_all();
            tokio::time::sleep(FLAP).await;
        }
        Ok(())
    }

    pub async fn end(&self, cloud: &str, ongoing: Ongoing) -> anyhow::Result<()> {
        match ongoing.fault {
            Fault::KillAll | Fault::KillDaemon => {
                self.cluster.supervisor.restart(cloud)?;
                self.cluster.wait_up(cloud).await?;
            }
            Fault::PauseDaemon => self.cluster.supervisor.resume(cloud)?,
            Fault::PauseAll | Fault::PauseGateway => {
                for pid in ongoing.paused {
                    // One of them may have ended meanwhile.
                    let _ = self.cluster.supervisor.signal_pid(pid, Signal::SIGCONT);
                }
            }
            Fault::KillGateway => {}
            Fault::Blackhole | Fault::DropSend | Fault::DropReceive | Fault::Flap | Fault::Slow => {
                self.cluster.wan.heal_all();
            }
        }
        self.story.tell(cloud, ongoing.fault.name(), "is over");
        Ok(())
    }

    fn signal_gateway(&self, cloud: &str, signal: Signal) -> Vec<u32> {
        let dir = self.cluster.dir(cloud).display().to_string();
        let its = self.cluster.supervisor.belonging().into_iter();
        let its = its.filter(|found| found.command.contains(&dir) && found.command.contains(" gateway "));
        its.filter(|f| self.cluster.supervisor.signal_pid(f.pid, signal).is_ok()).map(|f| f.pid).collect()
    }
}

fn others(cloud: &str) -> impl Iterator<Item = &'static str> {
    CLOUDS.into_iter().filter(move |c| *c != cloud)
}
