//! `${NAME}` in the command and the environment of an application.
//!
//! Enters: text as the customer wrote it, values by name. Leaves: the text with its names filled in, or what is wrong with it.
//! Always holds: the manifest's check and the engine know the same names, so that what was applied is not refused at its start.

use crate::faults::words::{nearest, short};
use std::collections::BTreeMap;

/// What the engine sets and no service may set otherwise; a dataset's `DATA_<NAME>` beside them.
pub const FIXED: [&str; 4] = ["PORT", "HOST", "BUNDLE", "HOME"];
/// What the engine sets unless the service does.
pub const DEFAULTED: [&str; 3] = ["PATH", "LANG", "TMPDIR"];

/// The variable that tells where a dataset lies, from the suffix that [`data_suffix`] makes.
pub fn data_variable(suffix: &str) -> String {
    format!("DATA_{suffix}")
}

/// Of a dataset's name: upper case, '-' as '_'.
pub fn data_suffix(dataset: &str) -> String {
    dataset.to_uppercase().replace('-', "_")
}

/// Every name that is known where an application has these datasets.
pub fn names<'a>(data_suffixes: impl Iterator<Item = &'a str>) -> BTreeMap<String, String> {
    let own = FIXED.into_iter().chain(DEFAULTED).map(str::to_owned);
    own.chain(data_suffixes.map(data_variable)).map(|name| (name, String::new())).collect()
}

/// `${NAME}` becomes its value; an unknown name is an error that says which are known.
pub fn fill(text: &str, names: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 2..];
        let end = tail.find('}').ok_or_else(|| format!("\"${{\" without \"}}\" in {text:?}"))?;
        let name = &tail[..end];
        let value = names.get(name).ok_or_else(|| {
            let known: Vec<_> = names.keys().map(String::as_str).collect();
            let meant = nearest(name, &known).map_or(String::new(), |m| format!("; did you mean ${{{m}}}?"));
            format!("${{{}}} is not known here{meant} (known are {})", short(name), known.join(", "))
        })?;
        out.push_str(value);
        rest = &tail[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_and_unknown_ones_are_named() {
        let names = BTreeMap::from([("PORT".to_owned(), "80".to_owned())]);
        assert_eq!(fill("a${PORT}b$PORT ${PORT}", &names).unwrap(), "a80b$PORT 80");
        let error = fill("${PROT}", &names).unwrap_err();
        assert!(error.contains("PROT") && error.contains("PORT"), "{error}");
        assert!(fill("${PORT", &names).is_err());
        assert_eq!(fill("no names", &names).unwrap(), "no names");
    }
}
