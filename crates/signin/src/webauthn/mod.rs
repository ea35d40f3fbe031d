//! placeholder
#[derive(Debug)]
pub struct Challenges {
    rp_id: String,
}
impl Challenges {
    pub fn new(h: &str) -> Self {
        Self { rp_id: h.to_ascii_lowercase() }
    }
    pub fn rp_id(&self) -> &str {
        &self.rp_id
    }
}
