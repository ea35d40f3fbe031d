//! What people say of themselves and of each other, within bounds. Pure.

pub const NAME_BYTES_MAX: usize = 128;
pub const EMAIL_BYTES_MAX: usize = 254;
pub const GROUPS_MAX: usize = 32;
pub const GROUP_BYTES_MAX: usize = 64;

/// One line without what is not to be seen. None: it is longer than it may be, or no such line.
pub fn line(text: &str, bytes_max: usize) -> Option<String> {
    let text = text.trim();
    // Line separators and what turns the direction of writing: each makes a name look like another one.
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    (text.len() <= bytes_max && !text.chars().any(hidden)).then(|| text.to_owned())
}

pub fn name(text: &str) -> Option<String> {
    line(text, NAME_BYTES_MAX)
}

/// Empty, or something with one `@`. Whether anybody gets mail there is not known.
pub fn email(text: &str) -> Option<String> {
    let text = line(text, EMAIL_BYTES_MAX)?;
    let parts =
        text.split_once('@').is_some_and(|(who, host)| !who.is_empty() && !host.is_empty() && !host.contains('@'));
    (text.is_empty() || parts && !text.contains([' ', ',', '<', '>'])).then_some(text)
}

/// Applications get them separated by commas.
pub fn groups(groups: &[String]) -> Result<(), String> {
    if groups.len() > GROUPS_MAX {
        return Err(format!("{} groups; at most {GROUPS_MAX}", groups.len()));
    }
    for (i, group) in groups.iter().enumerate() {
        let fine = !group.is_empty() && !group.contains(',') && line(group, GROUP_BYTES_MAX).as_ref() == Some(group);
        if !fine {
            return Err(format!("the group {group:?} is not 1 to {GROUP_BYTES_MAX} bytes in one line without commas"));
        }
        if groups.iter().take(i).any(|other| other == group) {
            return Err(format!("the group {group:?} stands twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(name("  김민준 ").as_deref(), Some("김민준"));
        for bad in ["a\nb", "a\u{202e}b", "a\u{0}b", &"a".repeat(129)] {
            assert_eq!(name(bad), None, "{bad:?}");
        }
        for (text, fine) in
            [("", true), ("a@b", true), ("a", false), ("@b", false), ("a@", false), ("a@b@c", false), ("a b@c", false)]
        {
            assert_eq!(email(text).is_some(), fine, "{text}");
        }
    }

    #[test]
    fn groups_are_lists_in_one_field() {
        let of = |list: &[&str]| groups(&list.iter().map(|g| (*g).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["staff", "서울"]), Ok(()));
        for bad in [&["a,b"][..], &[""], &["a", "a"], &["a\r\nb"], &[" a"], &["a"; 33]] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
