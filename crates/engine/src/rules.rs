//! What every driver decides alike. Pure.

use crate::{EngineError, InstanceSpec};

/// What is known of an instance when a start is asked for.
pub(crate) struct Here<'a> {
    pub spec: &'a InstanceSpec,
    /// Whether it is wanted to run.
    pub run: bool,
    /// Whether its shim lives.
    pub held: bool,
    /// Whether anything of it lives.
    pub alive: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    Create,
    Keep,
    Revive,
    /// The older generation is gone.
    Replace,
    /// It is not; the answer is [`EngineError::Replacing`].
    StopOlder,
}

pub(crate) fn on_start(asked: &InstanceSpec, here: Option<&Here<'_>>) -> Result<Start, EngineError> {
    let Some(here) = here else { return Ok(Start::Create) };
    let (id, generation) = (asked.id.clone(), asked.generation);
    let known = here.spec.generation;
    if generation < known {
        return Err(EngineError::Stale { id, asked: generation, known });
    }
    if generation > known {
        return Ok(if here.alive || here.held { Start::StopOlder } else { Start::Replace });
    }
    if here.spec != asked {
        return Err(EngineError::Conflict { id, generation });
    }
    match (here.run, here.held) {
        (false, _) => Err(EngineError::Ended { id, generation }),
        (true, true) => Ok(Start::Keep),
        (true, false) => Ok(Start::Revive),
    }
}

/// Rest between an application's end and its next start: doubled each time, forgotten after it was well for long enough.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BackOff {
    next_ms: u64,
}

impl BackOff {
    pub(crate) const MIN_MS: u64 = 100;
    pub(crate) const MAX_MS: u64 = 30_000;
    pub(crate) const WELL_MS: u64 = 30_000;

    pub(crate) fn new() -> Self {
        Self { next_ms: Self::MIN_MS }
    }
    pub(crate) fn peek_ms(self) -> u64 {
        self.next_ms
    }
    pub(crate) fn take_ms(&mut self) -> u64 {
        let now_ms = self.next_ms;
        self.next_ms = (now_ms * 2).min(Self::MAX_MS);
        now_ms
    }
    pub(crate) fn was_well_for(&mut self, ms: u64) {
        if ms >= Self::WELL_MS {
            *self = Self::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_doubles_to_a_bound_and_is_forgotten() {
        let mut back_off = BackOff::new();
        let rests: Vec<u64> = (0..11).map(|_| back_off.take_ms()).collect();
        assert_eq!(rests, [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000]);
        back_off.was_well_for(29_999);
        assert_eq!(back_off.peek_ms(), 30_000);
        back_off.was_well_for(30_000);
        assert_eq!(back_off.peek_ms(), 100);
    }
}
