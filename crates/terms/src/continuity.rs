//! Where a service must be able to live on, as its customer says, and what a cloud promises that keeps it ready.

use crate::CloudName;
use crate::document::{FieldError, Validate, fault};
use serde::{Deserialize, Serialize};

/// Standbys of one service.
pub const STANDBYS_MAX: u32 = 8;
/// Instances that one standby keeps running.
pub const WARM_MAX: u32 = 64;
/// A year.
const RETAIN_HOURS_MAX: u32 = 8_784;

/// The customer's wish. A standby has the application, fresh copies of all datasets, and room to run; it serves nobody until it must.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Continuity {
    /// How many clouds beside the service's own keep it ready; unsaid: all that `clouds` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standbys: Option<u32>,
    /// Those that may, the best first; empty: every member that may hold the service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clouds: Vec<CloudName>,
    /// Instances that run at each standby all the time, so that it serves at once.
    #[serde(default)]
    pub warm: u32,
    /// A standby keeps what it has at least so long after it last heard from the service's own cloud.
    #[serde(default = "default_retain_hours")]
    pub retain_hours: u32,
}

fn default_retain_hours() -> u32 {
    720
}

impl Default for Continuity {
    fn default() -> Self {
        Self { standbys: None, clouds: Vec::new(), warm: 0, retain_hours: default_retain_hours() }
    }
}

impl Continuity {
    /// Whether the customer asked for nothing.
    pub fn is_none(&self) -> bool {
        self == &Self::default()
    }
    /// Standbys that there shall be.
    pub fn wanted(&self) -> u32 {
        self.standbys.unwrap_or_else(|| u32::try_from(self.clouds.len()).unwrap_or(u32::MAX))
    }
    /// Lower is better; none: not there.
    pub fn rank(&self, cloud: &CloudName) -> Option<usize> {
        if self.clouds.is_empty() { Some(0) } else { self.clouds.iter().position(|c| c == cloud) }
    }
    /// What the cloud that owns the service asks of others.
    #[must_use]
    pub fn beside(&self, owner: &CloudName) -> Self {
        let named = self.clouds.len();
        let mut wish = self.clone();
        wish.clouds.retain(|c| c != owner);
        if wish.clouds.is_empty() && named > 0 {
            // All that was named is the owner itself.
            wish.standbys = Some(0);
        } else if named > 0 {
            let most = u32::try_from(wish.clouds.len()).unwrap_or(u32::MAX);
            wish.standbys = self.standbys.map(|n| n.min(most));
        }
        wish
    }
    /// What is agreed with each cloud.
    pub fn standby(&self) -> Standby {
        Standby { warm: self.warm, retain_ms: u64::from(self.retain_hours) * 3_600_000 }
    }
}

impl Validate for Continuity {
    fn validate(&self, at: &str, e: &mut Vec<FieldError>) {
        if self.clouds.len() > STANDBYS_MAX as usize {
            fault(e, at, "clouds", format!("name at most {STANDBYS_MAX} clouds"));
        }
        for (i, cloud) in self.clouds.iter().enumerate() {
            if self.clouds[..i].contains(cloud) {
                fault(e, at, &format!("clouds[{i}]"), format!("{cloud} is named twice"));
            }
        }
        let most = if self.clouds.is_empty() { STANDBYS_MAX as usize } else { self.clouds.len() };
        if self.wanted() as usize > most {
            fault(e, at, "standbys", format!("is {}, at most {most} can be found", self.wanted()));
        }
        if self.wanted() == 0 && self.warm > 0 {
            fault(e, at, "warm", "there is no standby that could keep them: name clouds, or say how many standbys");
        }
        if self.warm > WARM_MAX {
            fault(e, at, "warm", format!("at most {WARM_MAX}"));
        }
        if !(1..=RETAIN_HOURS_MAX).contains(&self.retain_hours) {
            fault(e, at, "retain_hours", format!("must be 1 to {RETAIN_HOURS_MAX}"));
        }
    }
}

/// What a lease of a standby promises beyond its room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Standby {
    /// Instances that run while nobody is served there.
    pub warm: u32,
    /// Its silence ends nothing before this.
    pub retain_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let mut e = Vec::new();
        serde_json::from_str::<Continuity>(text).unwrap().validate("continuity", &mut e);
        e.into_iter().map(|f| f.field).collect()
    }

    #[test]
    fn what_cannot_be_is_named_by_its_field() {
        assert!(faults(r#"{"clouds": ["b", "c"], "warm": 1}"#).is_empty());
        assert!(faults(r#"{"standbys": 2}"#).is_empty());
        assert_eq!(faults(r#"{"clouds": ["b", "b"]}"#), ["continuity.clouds[1]"]);
        assert_eq!(faults(r#"{"clouds": ["b"], "standbys": 2}"#), ["continuity.standbys"]);
        assert_eq!(faults(r#"{"standbys": 9}"#), ["continuity.standbys"]);
        assert_eq!(faults(r#"{"warm": 1}"#), ["continuity.warm"]);
        assert_eq!(faults(r#"{"clouds": ["b"], "warm": 65}"#), ["continuity.warm"]);
        assert_eq!(faults(r#"{"clouds": ["b"], "retain_hours": 0}"#), ["continuity.retain_hours"]);
    }

    #[test]
    fn named_clouds_are_all_wanted_unless_a_number_is_said() {
        let of = |text: &str| serde_json::from_str::<Continuity>(text).unwrap();
        let two = of(r#"{"clouds": ["b", "c"]}"#);
        assert_eq!((two.wanted(), two.rank(&CloudName::parse("c").unwrap())), (2, Some(1)));
        assert_eq!(two.rank(&CloudName::parse("d").unwrap()), None);
        assert_eq!(of(r#"{"clouds": ["b", "c"], "standbys": 1}"#).wanted(), 1);
        let beside = |text: &str, owner: &str| of(text).beside(&CloudName::parse(owner).unwrap()).wanted();
        assert_eq!(beside(r#"{"clouds": ["b", "c"]}"#, "c"), 1, "the owner is no standby of its own");
        assert_eq!(beside(r#"{"clouds": ["c"]}"#, "c"), 0);
        assert_eq!(beside(r#"{"clouds": ["b", "c"], "standbys": 2}"#, "c"), 1);
        assert_eq!(beside(r#"{"standbys": 2}"#, "c"), 2);
        assert_eq!((Continuity::default().wanted(), Continuity::default().is_none()), (0, true));
    }
}
