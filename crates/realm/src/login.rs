//! What a user calls itself, in one spelling.

use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

pub const LOGIN_BYTES_MAX: usize = 64;

/// Letters and digits of any script in lower case, `.`, `-`, `_` and `@`; it begins with a letter or a digit. Two that look alike to
/// a program are the same: `Minjun ` and `minjun` both become `minjun`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Login(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginError {
    Empty,
    Long,
    Begins,
    Character,
}

impl fmt::Display for LoginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the login is empty"),
            Self::Long => write!(f, "the login is longer than {LOGIN_BYTES_MAX} bytes"),
            Self::Begins => f.write_str("the login must begin with a letter or a digit"),
            Self::Character => f.write_str("the login may hold letters, digits, '.', '-', '_' and '@' only"),
        }
    }
}

impl std::error::Error for LoginError {}

impl Login {
    pub fn parse(text: &str) -> Result<Self, LoginError> {
        let text = text.trim();
        // Bounded before it is worked on.
        if text.len() > LOGIN_BYTES_MAX {
            return Err(LoginError::Long);
        }
        let low = text.to_lowercase();
        match low.chars().next() {
            None => return Err(LoginError::Empty),
            Some(first) if !first.is_alphanumeric() => return Err(LoginError::Begins),
            Some(_) => {}
        }
        if low.len() > LOGIN_BYTES_MAX {
            return Err(LoginError::Long);
        }
        let fine = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '@');
        if !low.chars().all(fine) {
            return Err(LoginError::Character);
        }
        Ok(Self(low))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Login {
    type Err = LoginError;
    fn from_str(text: &str) -> Result<Self, LoginError> {
        Self::parse(text)
    }
}

impl<'de> Deserialize<'de> for Login {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Login {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Login".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "minLength": 1, "maxLength": LOGIN_BYTES_MAX})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_spelling() {
        for (text, login) in [("Minjun ", "minjun"), ("민준", "민준"), ("a.b-c_d@e", "a.b-c_d@e"), ("9", "9")] {
            assert_eq!(Login::parse(text).unwrap().as_str(), login);
        }
        for text in ["", " ", ".a", "a b", "a:b", "a\r\nb", "a/b", "a,b", "a\u{200b}b", "a%20", "\u{202e}a"] {
            assert!(Login::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(Login::parse(&"a".repeat(65)), Err(LoginError::Long));
    }

    proptest! {
        #[test]
        fn what_is_parsed_again_stays(text in "\\PC{0,70}") {
            if let Ok(login) = Login::parse(&text) {
                prop_assert!(login.as_str().len() <= LOGIN_BYTES_MAX);
                prop_assert_eq!(Login::parse(login.as_str()), Ok(login.clone()));
            }
        }
    }
}
