//! What a cloud lends, and what makes room there, as flags.

use super::*;

/// What a cloud lends. Flags that are left out keep what was agreed before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct TermsArgs {
    /// Most CPU lent at one time, thousandths of one CPU
    #[arg(long, value_name = "MILLIS", value_parser = crate::units::parse_millis)]
    pub lends_cpu: Option<u32>,
    /// Most memory lent at one time, MiB
    #[arg(long, value_name = "MIB", value_parser = crate::units::parse_mib::<u32>)]
    pub lends_memory: Option<u32>,
    /// Most storage lent at one time, MiB
    #[arg(long, value_name = "MIB", value_parser = crate::units::parse_mib::<u64>)]
    pub storage: Option<u64>,
    /// Most that one borrower may hold, percent of what is lent
    #[arg(long, value_name = "PERCENT")]
    pub share_per_borrower: Option<u32>,
    /// Holds that one borrower may have open
    #[arg(long, value_name = "N")]
    pub holds_per_borrower: Option<u32>,
    /// Price of a CPU-hour in the pact's currency, as 0.05
    #[arg(long, value_name = "AMOUNT", value_parser = crate::units::parse_money)]
    pub price: Option<Money>,
    /// Warning before a lease is called back
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    pub recall_notice: Option<u64>,
    /// Longest that a hold lasts
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    pub hold_ttl_max: Option<u64>,
    /// Longest that a lease lasts after its last renewal
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    pub lease_ttl_max: Option<u64>,
    /// Member that may ask; may be repeated, 'all' for every member
    #[arg(long, value_name = "CLOUD")]
    pub borrower: Vec<String>,
    /// What makes room here for services that are taken over from a lost member
    #[arg(long, value_enum, value_name = "WHAT")]
    pub gives_way: Option<GivesWay>,
}

/// What stands back for a service of a lost member that was promised more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum GivesWay {
    Nothing,
    /// Instances of this cloud's own deferred services
    OwnDeferred,
    /// Leases that it lent, called back with the agreed notice
    Rented,
    Both,
}

impl From<GivesWay> for pumasi_terms::pact::GiveWay {
    fn from(way: GivesWay) -> Self {
        match way {
            GivesWay::Nothing => Self::Nothing,
            GivesWay::OwnDeferred => Self::OwnDeferred,
            GivesWay::Rented => Self::Rented,
            GivesWay::Both => Self::Both,
        }
    }
}

impl TermsArgs {
    /// These flags over `base`.
    pub fn over(&self, base: &pumasi_terms::pact::Terms) -> Result<pumasi_terms::pact::Terms, pumasi_terms::BadId> {
        let mut terms = base.clone();
        terms.lends = Resources {
            cpu_millis: self.lends_cpu.unwrap_or(base.lends.cpu_millis),
            memory_mib: self.lends_memory.unwrap_or(base.lends.memory_mib),
        };
        terms.storage_bytes = self.storage.map_or(base.storage_bytes, |mib| mib.saturating_mul(1 << 20));
        terms.share_per_borrower_percent = self.share_per_borrower.unwrap_or(base.share_per_borrower_percent);
        terms.holds_per_borrower = self.holds_per_borrower.unwrap_or(base.holds_per_borrower);
        terms.price_per_cpu_hour = self.price.unwrap_or(base.price_per_cpu_hour);
        terms.recall_notice_ms = self.recall_notice.unwrap_or(base.recall_notice_ms);
        terms.hold_ttl_ms_max = self.hold_ttl_max.unwrap_or(base.hold_ttl_ms_max);
        terms.lease_ttl_ms_max = self.lease_ttl_max.unwrap_or(base.lease_ttl_ms_max);
        terms.gives_way = self.gives_way.map_or(base.gives_way, Into::into);
        if !self.borrower.is_empty() {
            let named = self.borrower.iter().filter(|b| *b != "all");
            terms.borrowers = named.map(|b| CloudName::parse(b.as_str())).collect::<Result<_, _>>()?;
        }
        Ok(terms)
    }
}
