//! A value that must not reach a log: its Debug form says only that it is there.

use std::fmt;

#[derive(Clone, Default)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    pub fn new(value: T) -> Self {
        Self(value)
    }
    /// The one way in, so that every use can be found by its name.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl<T: AsRef<[u8]>> PartialEq for Secret<T> {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        crate::constant_time_eq(self.0.as_ref(), other.0.as_ref())
    }
}
impl<T: AsRef<[u8]>> Eq for Secret<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_tells_nothing() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some([secret])");
    }
}
