//! What users do: requests a second to a service, in phases, and a part of them writes.

/// From `from_ms` of the world's time on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Phase {
    pub from_ms: u64,
    pub per_second: f64,
    /// Part of the requests that must go home.
    pub home_only: f64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Load(pub Vec<Phase>);

impl Load {
    pub fn at(&self, ms: u64) -> Option<&Phase> {
        self.0.iter().rev().find(|p| p.from_ms <= ms)
    }
}
