//! Two values side by side, cut to what fits a line.

/// Characters of one value in a line.
const LIMIT_CHARS: usize = 60;
/// Characters before the first difference that are shown for context.
const CONTEXT_CHARS: usize = 10;
/// Words of a command from the first difference on.
const WORDS: usize = 8;

/// A value cut to what fits a line, on one line; nothing is shown as `""`.
pub(super) fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.chars().count() {
        0 => "\"\"".to_owned(),
        n if n <= LIMIT_CHARS => line,
        _ => format!("{}…", line.chars().take(LIMIT_CHARS).collect::<String>()),
    }
}

/// `1 → 2`; of long values only the part from shortly before the first difference on.
pub(super) fn contrast(before: &str, after: &str) -> String {
    let fits = |text: &str| text.chars().count() <= LIMIT_CHARS;
    if fits(before) && fits(after) {
        return format!("{} → {}", short(before), short(after));
    }
    let same = before.chars().zip(after.chars()).take_while(|(a, b)| a == b).count();
    let skip = if same > CONTEXT_CHARS * 2 { same - CONTEXT_CHARS } else { 0 };
    let from = |text: &str| {
        let rest = short(&text.chars().skip(skip).collect::<String>());
        if skip > 0 { format!("…{rest}") } else { rest }
    };
    format!("{} → {}", from(before), from(after))
}

/// `… install curl → … install wget`: the first words that differ, with the one before them.
pub(super) fn contrast_words(before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.split_whitespace().collect(), after.split_whitespace().collect());
    let same = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    if same == old.len() && same == new.len() {
        return "only blanks and line ends".to_owned();
    }
    let start = same.saturating_sub(1);
    let from = |words: &[&str]| {
        let shown = short(&words[start..].iter().take(WORDS).copied().collect::<Vec<_>>().join(" "));
        let head = if start > 0 { "… " } else { "" };
        let tail = if words.len() > start + WORDS && !shown.ends_with('…') { " …" } else { "" };
        format!("{head}{shown}{tail}")
    };
    format!("{} → {}", from(&old), from(&new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_shown_from_where_they_differ() {
        assert_eq!(contrast("1", "2"), "1 → 2");
        assert_eq!(contrast("", "a b\n"), "\"\" → a b");
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        assert_eq!(contrast(path, &format!("{path}:/opt/tool/bin")), "…/sbin:/bin → …/sbin:/bin:/opt/tool/bin");
        assert_eq!(contrast(&"x".repeat(70), "y"), format!("{}… → y", "x".repeat(60)));
    }

    #[test]
    fn commands_are_shown_from_their_first_other_word() {
        assert_eq!(contrast_words("echo 1", "echo 2"), "echo 1 → echo 2");
        assert_eq!(contrast_words("apt-get install -y curl", "apt-get install -y wget git"), "… -y curl → … -y wget git");
        assert_eq!(contrast_words("make", "make all"), "make → make all");
        assert_eq!(contrast_words("a  b", "a b"), "only blanks and line ends");
        assert_eq!(contrast_words("1 2 3 4 5 6 7 8 9 10", "x"), "1 2 3 4 5 6 7 8 … → x");
    }
}
