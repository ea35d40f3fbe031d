//! An instance that stands before its first instruction: the driver's half of it.
//!
//! Enters: a spec whose data are not there yet, for how long it is kept so. Leaves: an instance that has everything but its data; then the
//! same instance, with its data, on its way.
//! Always holds: until it is started it has no data, not even to look at, and nothing of the application has run; one that nobody starts
//! in time ends by its shim, also where the daemon is gone.

use super::host::{Host, Known};
use super::launch;
use super::layout::{Desired, Layout, boot_now_ms, write_json};
use crate::rules::{Here, Start, on_start};
use crate::{Access, EngineError, InstanceSpec, Prepare};

impl Host {
    pub(super) fn make_ready(&self, spec: InstanceSpec, how: &Prepare) -> Result<(), EngineError> {
        self.can_isolate(&spec)?;
        if spec.data.values().any(|m| m.access == Access::Layered) {
            let problem = "data that are seen through layers are not given late".into();
            return Err(EngineError::Spec { id: spec.id, problem });
        }
        let mut shims = self.change();
        let layout = Layout::of(&self.root, &spec.id);
        let until_ms = boot_now_ms().saturating_add(how.at_most_ms);
        if let Some(record) = layout.read_record()? {
            let (desired, held) = (layout.read_desired()?, layout.is_held()?);
            let here = Here { spec: &record.spec, run: desired.run, held, alive: held };
            return match (on_start(&spec, Some(&here))?, desired.prepared_until_ms) {
                (Start::Keep, Some(_)) => {
                    // Its shim reads it again before it ends.
                    let desired = Desired { prepared_until_ms: Some(until_ms), ..desired };
                    write_json(&layout.desired(), &desired, false)
                }
                (Start::Keep, None) => Ok(()),
                // What would have to be waited for is not prepared: another one is.
                _ => Err(EngineError::Ended { id: spec.id, generation: record.spec.generation }),
            };
        }
        self.check_but_data(&spec)?;
        if let Some(from) = &how.heir_of {
            self.inherit_group(from, &spec.owner)?;
        }
        let secrets = spec.secrets.clone();
        let record = self.new_record(spec, None)?;
        let known = Known { layout, record };
        self.create(&known.layout, &known.record, &Desired::prepared(until_ms))?;
        self.launch(&known, &secrets, &mut shims)
    }

    /// One that was prepared gets its data, and begins; for any other there is nothing to do.
    pub(super) fn begin(&self, known: &Known) -> Result<(), EngineError> {
        let desired = known.layout.read_desired()?;
        if desired.prepared_until_ms.is_none() {
            return Ok(());
        }
        let spec = &known.record.spec;
        launch::check_data(spec).map_err(|problem| EngineError::Spec { id: spec.id.clone(), problem })?;
        self.give_data(known)?;
        write_json(&known.layout.desired(), &Desired { prepared_until_ms: None, ..desired }, false)?;
        known.layout.wake_shim();
        Ok(())
    }
}
