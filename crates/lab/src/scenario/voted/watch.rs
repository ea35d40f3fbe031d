//! Who owned what, as the clouds themselves say it all the time.
//!
//! Enters: the clouds' registers, looked at again and again. Leaves: the owner of each service at each epoch, and every word that
//! contradicts another. Always holds: a cloud that says nothing holds nobody up.

use super::{CLOUDS, Stage};
use pumasi_api::Client;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// For one answer.
pub const PATIENCE: Duration = Duration::from_millis(1_500);
const LOOK: Duration = Duration::from_millis(150);

#[derive(Debug, Clone, Default)]
pub struct Known {
    /// By service and epoch.
    owners: BTreeMap<String, BTreeMap<u64, String>>,
    /// Two clouds named two owners of one epoch.
    pub contradictions: BTreeSet<String>,
    /// Clouds that were called lost, as others said.
    pub lost: BTreeSet<String>,
}

impl Known {
    pub fn owners(&self, name: &str) -> BTreeMap<u64, String> {
        self.owners.get(name).cloned().unwrap_or_default()
    }

    fn hear(&mut self, vote: &serde_json::Value) {
        for entry in vote["services"].as_array().into_iter().flatten() {
            let (Some(name), Some(owner), Some(epoch)) =
                (entry["service"].as_str(), entry["owner"].as_str(), entry["epoch"].as_u64())
            else {
                continue;
            };
            let of = self.owners.entry(name.to_owned()).or_default();
            let known = of.entry(epoch).or_insert_with(|| owner.to_owned());
            if known != owner {
                self.contradictions.insert(format!("{name} at epoch {epoch}: {known} and {owner}"));
            }
        }
        let lost = vote["clouds"].as_array().into_iter().flatten().filter(|c| c["standing"] == "lost");
        self.lost.extend(lost.filter_map(|c| c["cloud"].as_str().map(str::to_owned)));
    }
}

/// Ends when it is dropped.
#[derive(Debug)]
pub struct Watch {
    known: Arc<Mutex<Known>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    pub fn begin(stage: &Stage) -> anyhow::Result<Self> {
        let known: Arc<Mutex<Known>> = Arc::default();
        let mut tasks = Vec::new();
        for cloud in CLOUDS {
            let (client, known) = (stage.cluster.client(cloud)?, known.clone());
            tasks.push(tokio::spawn(look(client, known)));
        }
        Ok(Self { known, tasks })
    }

    pub fn known(&self) -> Known {
        lock(&self.known).clone()
    }
}

async fn look(client: Client, known: Arc<Mutex<Known>>) {
    loop {
        let asked = client.get::<serde_json::Value>("/v1/pact");
        if let Ok(Ok(shown)) = tokio::time::timeout(PATIENCE, asked).await {
            lock(&known).hear(&shown["vote"]);
        }
        tokio::time::sleep(LOOK).await;
    }
}
