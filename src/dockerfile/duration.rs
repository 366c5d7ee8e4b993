//! Durations as Go writes them: `1h15m30.5s`, `-300ms`, `0`.

use super::word::quote;

/// Why a text is no duration, in the words of Go's `time` package, which BuildKit prints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// No number, a second dot, more than fits into 64 bits.
    #[error("time: invalid duration {}", quote(.0))]
    Invalid(String),
    /// A number without a unit.
    #[error("time: missing unit in duration {}", quote(.0))]
    MissingUnit(String),
    /// A unit that Go does not know, such as `d`.
    #[error("time: unknown unit {} in duration {}", quote(.unit), quote(.text))]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// A duration in nanoseconds.
pub fn parse_duration(text: &str) -> Result<i64, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if unsigned == "0" {
        return Ok(0);
    }
    if unsigned.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    let mut rest = unsigned;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        if unit.is_empty() {
            return Err(DurationError::MissingUnit(text.to_owned()));
        }
        let scale = unit_ns(unit).ok_or_else(|| DurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() })?;
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        total = whole.checked_mul(scale).and_then(|ns| total.checked_add(ns + fraction_of(fraction, scale))).ok_or_else(invalid)?;
        rest = next;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

fn unit_ns(unit: &str) -> Option<i128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// Digits after the dot, in nanoseconds, cut off (not rounded) below one.
fn fraction_of(digits: &str, scale: i128) -> i128 {
    let (mut sum, mut place) = (0, 1);
    // 18 digits are far below a nanosecond of an hour.
    for digit in digits.bytes().take(18) {
        sum = sum * 10 + i128::from(digit - b'0');
        place *= 10;
    }
    sum * scale / place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse_as_in_go() {
        let table = [
            ("0", "0"),
            ("5s", "5000000000"),
            ("1h15m30.918s", "4530918000000"),
            ("-1.5h", "-5400000000000"),
            ("+5s", "5000000000"),
            (".5s", "500000000"),
            ("1.s", "1000000000"),
            ("100ms", "100000000"),
            ("3us", "3000"),
            ("3µs", "3000"),
            ("0.3333333333333333333h", "1199999999999"),
            ("9223372036854775807ns", "9223372036854775807"),
            ("9223372036854775808ns", "time: invalid duration \"9223372036854775808ns\""),
            ("", "time: invalid duration \"\""),
            ("-", "time: invalid duration \"-\""),
            (".s", "time: invalid duration \".s\""),
            ("x", "time: invalid duration \"x\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5s3", "time: missing unit in duration \"5s3\""),
            ("2d", "time: unknown unit \"d\" in duration \"2d\""),
        ];
        for (text, expected) in table {
            let got = parse_duration(text).map_or_else(|e| e.to_string(), |ns| ns.to_string());
            assert_eq!(got, expected, "{text}");
        }
    }
}
