//! "Did you mean": the nearest of some words.

/// The nearest option that is less than three edits away; of several one with the same letters, then the first in byte order. An exact
/// match is no suggestion.
/// Without `case_sensitive` the answer takes the case of `given` where that has one.
pub fn suggest<'a>(given: &str, options: impl IntoIterator<Item = &'a str>, case_sensitive: bool) -> Option<String> {
    let fold = |s: &str| if case_sensitive { s.to_owned() } else { s.to_lowercase() };
    let wanted = fold(given);
    let letters = |word: &str| {
        let mut letters: Vec<char> = word.chars().collect();
        letters.sort_unstable();
        letters
    };
    let judged = options.into_iter().map(fold).map(|option| (distance(&wanted, &option), letters(&option) != letters(&wanted), option));
    let (distance, _, option) = judged.min()?;
    match (distance, option) {
        (1 | 2, option) if !case_sensitive && given == given.to_uppercase() && given != given.to_lowercase() => Some(option.to_uppercase()),
        (1 | 2, option) => Some(option),
        _ => None,
    }
}

/// Insertions, deletions and substitutions between two texts.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_suggested() {
        let names = ["FROM", "RUN", "COPY", "ENTRYPOINT"];
        for (given, expected) in [
            ("FRM", Some("FROM")),
            ("frm", Some("from")),
            ("COYP", Some("COPY")),
            ("Runn", Some("run")),
            ("ENTRYPONT", Some("ENTRYPOINT")),
            ("NOTHING", None),
            ("RUN", None),
            ("RNU", Some("RUN")),
        ] {
            assert_eq!(suggest(given, names, false).as_deref(), expected, "{given}");
        }
        // Letters that changed places are likelier than others in their stead.
        assert_eq!(suggest("chwon", ["chmod", "chown"], true).as_deref(), Some("chown"));
        assert_eq!(suggest("frm", names, true), None);
        assert_eq!(suggest("x", [], true), None);
    }

    #[test]
    fn distances_count_edits() {
        for (a, b, expected) in [("", "", 0), ("", "ab", 2), ("ab", "", 2), ("kitten", "sitting", 3), ("größe", "grösse", 2)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
