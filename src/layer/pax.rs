//! Records of extended headers.

use std::collections::BTreeMap;

use crate::tree::entry::Mtime;

/// Values by key.
pub(super) type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// The value of a key that is a number.
pub(super) fn number(records: &Records, key: &str) -> Option<u64> {
    std::str::from_utf8(records.get(key.as_bytes())?).ok()?.parse().ok()
}

/// Key, value and what follows a `LENGTH KEY=VALUE\n` record.
pub(super) fn pax_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
        return None;
    }
    let record = &bytes[space + 1..length - 1];
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[length..]))
}

/// `SECONDS[.FRACTION]`, possibly negative.
pub(super) fn pax_time(text: &[u8]) -> Option<Mtime> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let secs: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    Some(match (text.starts_with('-'), nanos) {
        (true, 1..) => Mtime { secs: secs - 1, nanos: 1_000_000_000 - nanos },
        _ => Mtime { secs, nanos },
    })
}
