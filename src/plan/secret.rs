//! Which values look secret: records and progress do not hold them.

use std::borrow::Cow;

use crate::dockerfile::lint::is_secret_name;

/// What stands where something was taken out.
const MASK: &str = "***";

/// Whether a variable looks secret: by a word in its name, or because its value has a URL with a user or a password in it.
pub fn looks_secret(name: &str, value: &str) -> bool {
    is_secret_name(name) || matches!(without_user_info(value), Cow::Owned(_))
}

/// A text with [`MASK`] for the users and passwords of the URLs in it. Borrowed if there are none.
pub fn without_user_info(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut told = 0;
    for (at, sign) in text.match_indices("://") {
        let from = at + sign.len();
        let authority = text[from..].split(ends_authority).next().unwrap_or_default();
        if let Some(end) = authority.rfind('@') {
            out.extend([&text[told..from], MASK]);
            told = from + end;
        }
    }
    if told == 0 { Cow::Borrowed(text) } else { Cow::Owned(out + &text[told..]) }
}

/// Where a path begins, or another word. Passwords in which `?` or `#` is not escaped are common, so these end nothing.
fn ends_authority(c: char) -> bool {
    c == '/' || c.is_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_passwords_of_urls_are_taken_out() {
        for (text, shown) in [
            ("postgres://u:secretpw@h/db", "postgres://***@h/db"),
            ("https://token@h", "https://***@h"),
            ("redis://:p@ss#1@h:6379/0", "redis://***@h:6379/0"),
            ("a=http://h/x,http://u:p@h/y@z", "a=http://h/x,http://***@h/y@z"),
            ("http://u:p@a/ and http://v:q@b/", "http://***@a/ and http://***@b/"),
            ("http://u://v:q@b/", "http://u://***@b/"),
        ] {
            assert_eq!(without_user_info(text), shown, "{text}");
            assert!(looks_secret("ANY", text), "{text}");
        }
        for text in ["", "1.0", "https://h/react@18", "u:p@h", "http://h and a@b", "git@h:a/b", "://"] {
            assert_eq!(without_user_info(text), text);
            assert!(!looks_secret("ANY", text), "{text}");
        }
        assert!(looks_secret("API_TOKEN", ""));
    }
}
