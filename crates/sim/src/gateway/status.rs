//! What the gateway answers when its daemon asks how it stands.

use super::{Inner, PLACES, Place, SimGateway, draining, keys};
use crate::mutant::Mutant;
use pumasi_gateway::{BackendStatus, GatewayStatus, HeldStatus, PlaceStatus};
use pumasi_sense::meter::BackendKey;
use pumasi_terms::{InstanceId, LeaseId};

fn handed_over(inner: &Inner, mutant: Option<Mutant>) -> Vec<HeldStatus> {
    let held = inner.services.iter().filter_map(|(name, place)| Some((name, place.right.held()?)));
    held.map(|(service, held)| HeldStatus {
        service: service.clone(),
        until: held.until,
        in_flight: if mutant == Some(Mutant::Impatient) { 0 } else { held.inside },
        waiting: held.waiting,
    })
    .collect()
}

impl SimGateway {
    pub(super) fn status_now(&self) -> GatewayStatus {
        let inner = self.lock();
        let at = self.clock.now().boot;
        let status = |place: Option<&Place>, key: &BackendKey, draining: bool, limit: usize| {
            let in_flight = place.map_or(0, |p| p.busy(key));
            let aside = match key {
                BackendKey::Lease(_, lease) => {
                    place.and_then(|p| p.set_aside.get(lease)).is_some_and(|t| *t > self.clock.true_ms())
                }
                BackendKey::Home(_) | BackendKey::Front(_) => false,
            };
            BackendStatus {
                backend: key.clone(),
                in_flight: in_flight as u32,
                streams: 0,
                tunnels: 0,
                limit: limit as u32,
                draining,
                drained: draining && in_flight == 0,
                set_aside: aside,
            }
        };
        let table = inner.table.as_ref();
        let mut services = Vec::new();
        let mut leaving = Vec::new();
        for (name, route) in table.iter().flat_map(|t| &t.services) {
            let place = inner.services.get(name);
            let backends =
                keys(route).into_iter().map(|(k, places)| status(place, &k, draining(route, &k), places)).collect();
            services.push(PlaceStatus {
                name: name.to_string(),
                queued: place.map_or(0, |p| p.waiting.len() as u64),
                backends,
            });
        }
        for (name, place) in &inner.services {
            let route = table.and_then(|t| t.services.get(name));
            let known: Vec<BackendKey> = route.map(keys).unwrap_or_default().into_iter().map(|(k, _)| k).collect();
            let guests = place.guests.iter().filter(|(_, n)| **n > 0).map(|(i, _)| BackendKey::Home(i.clone()));
            let mut gone: Vec<BackendKey> =
                place.working.iter().map(|w| w.key.clone()).chain(guests).filter(|k| !known.contains(k)).collect();
            gone.sort();
            gone.dedup();
            if !gone.is_empty() {
                let backends = gone.iter().map(|k| status(Some(place), k, true, 0)).collect();
                leaving.push(PlaceStatus { name: name.to_string(), queued: 0, backends });
            }
        }
        let held =
            |lease: &LeaseId, i: &InstanceId| inner.leases.get(lease).and_then(|l| l.get(i)).copied().unwrap_or(0);
        let lent = |i: &InstanceId, draining: bool, in_flight: u32| BackendStatus {
            backend: BackendKey::Home(i.clone()),
            in_flight,
            streams: 0,
            tunnels: 0,
            limit: PLACES as u32,
            draining,
            drained: draining && in_flight == 0,
            set_aside: false,
        };
        let mut leases = Vec::new();
        for (lease, route) in table.iter().flat_map(|t| &t.leases) {
            let backends =
                route.instances.iter().map(|i| lent(&i.instance, i.draining, held(lease, &i.instance))).collect();
            leases.push(PlaceStatus { name: lease.to_string(), queued: 0, backends });
        }
        for (lease, instances) in &inner.leases {
            let known = table.and_then(|t| t.leases.get(lease));
            let gone = |i: &InstanceId| !known.is_some_and(|r| r.instances.iter().any(|k| &k.instance == i));
            let backends: Vec<BackendStatus> =
                instances.iter().filter(|(i, n)| **n > 0 && gone(i)).map(|(i, n)| lent(i, true, *n)).collect();
            if !backends.is_empty() {
                leaving.push(PlaceStatus { name: lease.to_string(), queued: 0, backends });
            }
        }
        GatewayStatus {
            version: 1,
            cloud: self.cloud.clone(),
            gateway_run: inner.run,
            pid: 1,
            table_revision: table.map_or(0, |t| t.revision),
            at,
            uptime_ms: 0,
            stopping: false,
            listening: Vec::new(),
            peer_listening: None,
            connections: 0,
            tunnels: 0,
            services,
            leases,
            leaving,
            held: handed_over(&inner, self.mutant),
        }
    }
}
