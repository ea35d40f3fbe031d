//! A dataset at home: what is new, and its bytes.

use super::words::{HomePlace, Refusal, Reply, Why, digests_of};
use crate::load::{self, Base, News, Primary, Whole};
use crate::tree::TreeManifest;

type Answer = Result<(Reply, Vec<u8>), Refusal>;

#[derive(Debug)]
pub struct Home(Box<dyn Primary>);

impl Home {
    pub fn open(place: &HomePlace) -> Result<Self, Refusal> {
        load::primary(place).map(Self)
    }

    pub fn look(&mut self, now_ms: u64) -> Answer {
        Ok(match self.0.poll(now_ms)? {
            News::Absent => (Reply::Absent, Vec::new()),
            News::Unchanged { as_of } => (Reply::Unchanged { as_of }, Vec::new()),
            News::Delta { as_of, bytes } => (Reply::Delta { as_of }, bytes),
            News::NeedsBase => (Reply::NeedsBase, Vec::new()),
        })
    }

    pub fn base(&mut self, now_ms: u64) -> Answer {
        let Whole { as_of, manifest, skipped } = self.0.base(now_ms)?;
        Ok((Reply::Base { as_of, skipped }, manifest))
    }

    pub fn pack(&self, digests: &[u8]) -> Answer {
        let digests = digests_of(digests).ok_or_else(|| Refusal::new(Why::Unasked, "that is no list of chunks"))?;
        Ok((Reply::Pack, self.0.pack(&digests)?))
    }

    pub fn told(&mut self, held: bool) -> Answer {
        self.0.told(held).map(|()| (Reply::Done, Vec::new()))
    }

    pub fn digest(&mut self) -> Answer {
        Ok((Reply::Digest { digest: self.0.digest()? }, Vec::new()))
    }

    pub fn demote(&mut self, base: Base, began: &[u8]) -> Answer {
        let began = match began {
            [] => None,
            bytes => Some(TreeManifest::parse(bytes).map_err(|e| Refusal::new(Why::BadTree, e))?),
        };
        Ok((Reply::Demoted(Box::new(self.0.demote(base, began.as_ref())?)), Vec::new()))
    }
}
