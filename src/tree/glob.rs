//! Wildcards of one path component, with the meaning of Go's `filepath.Match`.
//!
//! `*` any run of bytes, `?` one character, `[a-z]` and `[^a-z]` a class, `\x` the character itself. A malformed pattern matches
//! nothing.

/// Whether a component holds a wildcard. A backslash takes the next byte's meaning.
pub fn has_wildcard(pattern: &[u8]) -> bool {
    let mut bytes = pattern.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Whether a component is a pattern: classes are closed, and something stands behind a backslash.
pub fn is_well_formed(pattern: &[u8]) -> bool {
    let mut rest = pattern;
    while let Some((byte, after)) = rest.split_first() {
        rest = match byte {
            b'\\' if after.is_empty() => return false,
            b'\\' => &after[1..],
            b'[' => match class(after, 0) {
                Some((_, after)) => after,
                None => return false,
            },
            _ => after,
        };
    }
    true
}

/// Whether `name`, a single component, matches all of `pattern`.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut pattern, mut name) = (pattern, name);
    // Where to go on after the last `*`: the pattern behind it and the name it has not swallowed yet.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some(rest) = pattern.strip_prefix(b"*") {
            star = Some((rest, name));
            pattern = rest;
            continue;
        }
        if pattern.is_empty() && name.is_empty() {
            return true;
        }
        if let Some((next_pattern, next_name)) = step(pattern, name) {
            (pattern, name) = (next_pattern, next_name);
            continue;
        }
        match star {
            Some((rest, swallowed)) if !swallowed.is_empty() => {
                let (_, shorter) = take_char(swallowed);
                star = Some((rest, shorter));
                (pattern, name) = (rest, shorter);
            }
            _ => return false,
        }
    }
}

/// Matches one unit of the pattern against one character; what is left of both.
fn step<'p, 'n>(pattern: &'p [u8], name: &'n [u8]) -> Option<(&'p [u8], &'n [u8])> {
    if name.is_empty() {
        return None;
    }
    let (found, rest_of_name) = take_char(name);
    match pattern.first()? {
        b'?' => Some((&pattern[1..], rest_of_name)),
        b'[' => {
            let (inside, rest) = class(&pattern[1..], found)?;
            inside.then_some((rest, rest_of_name))
        }
        b'\\' => (*pattern.get(1)? == name[0]).then_some((&pattern[2..], &name[1..])),
        byte => (*byte == name[0]).then_some((&pattern[1..], &name[1..])),
    }
}

/// Reads a class up to its `]` and says whether `wanted` is in it.
fn class(pattern: &[u8], wanted: u32) -> Option<(bool, &[u8])> {
    let negated = pattern.first() == Some(&b'^');
    let mut rest = &pattern[usize::from(negated)..];
    let mut inside = false;
    let mut ranges = 0;
    loop {
        if ranges > 0
            && let Some(after) = rest.strip_prefix(b"]")
        {
            return Some((inside != negated, after));
        }
        let (low, after) = class_char(rest)?;
        let (high, after) = match after.strip_prefix(b"-") {
            Some(after) => class_char(after)?,
            None => (low, after),
        };
        inside |= (low..=high).contains(&wanted);
        ranges += 1;
        rest = after;
    }
}

fn class_char(pattern: &[u8]) -> Option<(u32, &[u8])> {
    let pattern = match pattern.first()? {
        b'-' | b']' => return None,
        b'\\' => &pattern[1..],
        _ => pattern,
    };
    let (found, rest) = (!pattern.is_empty()).then(|| take_char(pattern))?;
    (!rest.is_empty()).then_some((found, rest))
}

/// The first character, decoded where it is UTF-8 and else a byte of its own.
fn take_char(bytes: &[u8]) -> (u32, &[u8]) {
    for len in 1..=bytes.len().min(4) {
        if let Ok(text) = std::str::from_utf8(&bytes[..len])
            && let Some(c) = text.chars().next()
        {
            return (c.into(), &bytes[len..]);
        }
    }
    // Go's replacement character, one byte wide.
    (0xfffd, &bytes[1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_go_does() {
        let cases = [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*", "", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("a?c", "abc", true),
            ("a?c", "aéc", true),
            ("a??c", "aéc", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "zx", true),
            ("[α-ω]", "β", true),
            ("arr[[]0].txt", "arr[0].txt", true),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "-", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("[", "a", false),
            ("[]a]", "]", false),
            ("[-]", "-", false),
            ("[a-]", "a", false),
            ("a[", "ab", false),
            ("\\", "\\", false),
            ("*x", "xxx", true),
            ("", "", true),
            ("", "a", false),
            ("?", "", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern:?} {name:?}");
        }
    }

    #[test]
    fn sees_wildcards() {
        for (pattern, expected) in [("a", false), ("a*", true), ("a\\*", false), ("\\\\?", true), ("[", true), ("a]", false)] {
            assert_eq!(has_wildcard(pattern.as_bytes()), expected, "{pattern}");
        }
    }
}
