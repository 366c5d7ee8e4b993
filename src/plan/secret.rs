//! Which values look secret: records and progress do not hold them.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::stage::StageLowering;
use crate::dockerfile::ast::ArgDecl;
use crate::dockerfile::lint::is_secret_name;
use crate::dockerfile::word;
use crate::span::Spanned;

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

impl StageLowering<'_, '_, '_> {
    /// Whether a word has a variable whose value must not be told.
    pub(crate) fn names_secret(&self, word: &str) -> bool {
        let scope = &self.state.scope;
        word::expand(word, self.escape(), &|n| scope.get(n)).is_ok_and(|expanded| scope.has_secret(&expanded.matched))
    }

    /// Whether a secret was expanded in the value that an ARG comes to have. One that the caller gives stands for itself.
    pub(crate) fn is_arg_derived(&self, declaration: &ArgDecl) -> bool {
        let name = &declaration.name.node;
        match (self.table.build_args.contains_key(name), &declaration.default) {
            (true, _) => false,
            (false, Some(default)) => self.names_secret(default),
            (false, None) => self.table.global.is_secret(name),
        }
    }

    /// Notes whether USER or WORKDIR, by the name of its part in keys, has a secret in it from here on.
    pub(crate) fn note_secret(&mut self, part: &'static str, is_secret: bool) {
        if is_secret {
            self.state.secret_parts.insert(part);
        } else {
            self.state.secret_parts.remove(part);
        }
    }

    /// Whether a path has a secret in it, its own or that of the WORKDIR in which it lies.
    pub(crate) fn is_secret_path(&self, written: &str, expanded: &str) -> bool {
        self.names_secret(written) || (!expanded.starts_with('/') && self.state.secret_parts.contains("workdir"))
    }

    /// Of these parts those whose words have a secret in them.
    pub(crate) fn secret_words(&self, words: &[(&str, Option<&Spanned<String>>)]) -> BTreeSet<String> {
        let secret = words.iter().filter(|(_, word)| word.is_some_and(|word| self.names_secret(word)));
        secret.map(|(part, _)| (*part).to_owned()).collect()
    }
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
