//! Keeps the values of secrets out of what a step prints, on its way to the terminal and to the log.

const MASK: &[u8] = b"***";
/// Shorter values are in everything: masking them would only tell what they are.
const SHORTEST_BYTES: usize = 3;

/// One stream of a step.
#[derive(Debug)]
pub(super) struct Redactor {
    /// Longest first, so that a value that begins with another one is masked whole.
    values: Vec<Vec<u8>>,
    /// The end of what came, which may be the beginning of a value.
    held: Vec<u8>,
}

impl Redactor {
    /// Masks the values, and each line of those that have several.
    pub(super) fn new(secrets: &[Vec<u8>]) -> Self {
        let lines = secrets.iter().flat_map(|secret| secret.split(|b| *b == b'\n').chain([secret.as_slice()]));
        let mut values: Vec<Vec<u8>> = lines.map(|v| v.trim_ascii().to_vec()).filter(|v| v.len() >= SHORTEST_BYTES).collect();
        values.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        values.dedup();
        Self { values, held: Vec::new() }
    }

    /// What of the stream can be shown now.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.values.is_empty() {
            return bytes.to_vec();
        }
        let all = [std::mem::take(&mut self.held), bytes.to_vec()].concat();
        let mut shown = Vec::with_capacity(all.len());
        let mut rest = all.as_slice();
        while !rest.is_empty() {
            // A longer value that may still be coming goes before a shorter one that is there.
            if self.values.iter().any(|value| value.len() > rest.len() && value.starts_with(rest)) {
                self.held = rest.to_vec();
                break;
            }
            if let Some(value) = self.values.iter().find(|value| rest.starts_with(value)) {
                shown.extend(MASK);
                rest = &rest[value.len()..];
            } else {
                shown.push(rest[0]);
                rest = &rest[1..];
            }
        }
        shown
    }

    /// The rest, when nothing more comes.
    pub(super) fn end(&mut self) -> Vec<u8> {
        let mut shown = Vec::new();
        while !self.held.is_empty() {
            // What was held for a longer value may be a shorter one.
            let held = std::mem::take(&mut self.held);
            if let Some(value) = self.values.iter().find(|value| held.starts_with(value)) {
                shown.extend(MASK);
                let rest = held[value.len()..].to_vec();
                shown.extend(self.pass(&rest));
            } else {
                shown.push(held[0]);
                shown.extend(self.pass(&held[1..]));
            }
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redact(secrets: &[&str], chunks: &[&str]) -> String {
        let mut redactor = Redactor::new(&secrets.iter().map(|s| s.as_bytes().to_vec()).collect::<Vec<_>>());
        let mut out: Vec<u8> = chunks.iter().flat_map(|chunk| redactor.pass(chunk.as_bytes())).collect();
        out.extend(redactor.end());
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn values_are_masked_however_they_are_cut() {
        for (secrets, chunks, want) in [
            (&["token"][..], &["a token b"][..], "a *** b"),
            (&["token"], &["a to", "ken b"], "a *** b"),
            (&["token"], &["t", "o", "k", "e", "n"], "***"),
            (&["token"], &["tok"], "tok"),
            (&["token"], &["totoken"], "to***"),
            (&["token\n"], &["token\n"], "***\n"),
            (&["abcabd"], &["abcabcabd"], "abc***"),
            (&["abc", "abcdef"], &["abcdef abcde"], "*** ***de"),
            (&["line one\nline two"], &["line two, line one"], "***, ***"),
            (&["x"], &["xx"], "xx"),
            (&[], &["a", "b"], "ab"),
        ] {
            assert_eq!(redact(secrets, chunks), want, "{secrets:?} {chunks:?}");
        }
    }
}
