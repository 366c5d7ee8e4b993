//! Keeps the values of secrets out of what a step prints, on its way to the terminal and to the log.

use std::collections::HashMap;
use std::sync::Arc;

const MASK: &[u8] = b"***";
/// Shorter values are in everything: masking them would only tell what they are.
const SHORTEST_BYTES: usize = 3;

/// One stream of a step.
#[derive(Clone, Debug)]
pub(super) struct Redactor {
    values: Arc<Values>,
    /// The end of what came, which may be the beginning of a value.
    held: Vec<u8>,
}

/// What is masked.
#[derive(Debug)]
struct Values {
    /// Longest first, so that a value that begins with another one is masked whole.
    all: Vec<Vec<u8>>,
    /// Bytes that some value begins with: most of what a step prints is no more than looked up here.
    first_bytes: [bool; 256],
    /// Values by how they begin: a secret may have thousands of lines.
    by_start: HashMap<[u8; SHORTEST_BYTES], Vec<usize>>,
}

impl Values {
    fn new(mut all: Vec<Vec<u8>>) -> Self {
        all.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        all.dedup();
        let mut values = Self { all: Vec::new(), first_bytes: [false; 256], by_start: HashMap::new() };
        for (number, start) in all.iter().enumerate().filter_map(|(number, value)| Some((number, *value.first_chunk()?))) {
            values.first_bytes[usize::from(start[0])] = true;
            values.by_start.entry(start).or_default().push(number);
        }
        Self { all, ..values }
    }

    /// Those that may stand where `rest` begins, or come there, longest first.
    fn near<'a>(&'a self, rest: &[u8]) -> impl Iterator<Item = &'a Vec<u8>> + use<'a> {
        let (few, all) = match rest.first_chunk() {
            Some(start) => (self.by_start.get(start).map_or(&[][..], Vec::as_slice), &[][..]),
            None => (&[][..], self.all.as_slice()),
        };
        few.iter().map(|number| &self.all[*number]).chain(all)
    }

    /// The one that stands where `rest` begins.
    fn at(&self, rest: &[u8]) -> Option<&Vec<u8>> {
        self.near(rest).find(|value| rest.starts_with(value))
    }

    /// Whether one may be coming of which `rest` is all that came yet.
    fn may_come(&self, rest: &[u8]) -> bool {
        self.near(rest).any(|value| value.len() > rest.len() && value.starts_with(rest))
    }
}

impl Redactor {
    /// Masks the values, and each line of those that have several.
    pub(super) fn new(secrets: &[Vec<u8>]) -> Self {
        let lines = secrets.iter().flat_map(|secret| secret.split(|b| *b == b'\n').chain([secret.as_slice()]));
        let values = lines.map(|v| v.trim_ascii().to_vec()).filter(|v| v.len() >= SHORTEST_BYTES).collect();
        Self { values: Arc::new(Values::new(values)), held: Vec::new() }
    }

    /// What of the stream can be shown now.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.values.all.is_empty() {
            return bytes.to_vec();
        }
        let all = [std::mem::take(&mut self.held), bytes.to_vec()].concat();
        let mut shown = Vec::with_capacity(all.len());
        let mut rest = all.as_slice();
        while let Some(first) = rest.first() {
            if !self.values.first_bytes[usize::from(*first)] {
                shown.push(*first);
                rest = &rest[1..];
                continue;
            }
            // A longer value that may still be coming goes before a shorter one that is there.
            if self.values.may_come(rest) {
                self.held = rest.to_vec();
                break;
            }
            if let Some(value) = self.values.at(rest) {
                shown.extend(MASK);
                rest = &rest[value.len()..];
            } else {
                shown.push(*first);
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
            if let Some(value) = self.values.at(&held) {
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
            (&["one", "two", "owl"], &["on", "e o two ow", "l o", "n"], "*** o *** *** on"),
            (&["abcd", "bc"], &["abcx bc"], "abcx bc"),
            (&["abcd", "bcx"], &["abcx"], "a***"),
            (&[], &["a", "b"], "ab"),
        ] {
            assert_eq!(redact(secrets, chunks), want, "{secrets:?} {chunks:?}");
        }
    }
}
