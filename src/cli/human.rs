//! Numbers as people read them, in Docker's spelling.

use std::time::Duration;

/// A size with two decimals, as progress lines have it: `2B`, `1.05MB`.
pub fn bytes(size: u64) -> String {
    let (number, unit) = scaled(size);
    if unit == "B" { format!("{size}B") } else { format!("{number:.2}{unit}") }
}

/// A size with three digits, as `docker images` has it: `4.21MB`, `77.8MB`, `0B`.
pub fn short_bytes(size: u64) -> String {
    let (number, unit) = scaled(size);
    let decimals = match number {
        n if n < 9.995 => 2,
        n if n < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{number:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// A size in powers of 1024 with four digits, as `docker info` has memory: `3.725GiB`.
pub fn binary_bytes(size: u64) -> String {
    let mut number = size as f64;
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    while number >= 1024.0 && unit + 1 < units.len() {
        number /= 1024.0;
        unit += 1;
    }
    let digits = number.max(1.0).log10() as usize + 1;
    let text = format!("{number:.*}", 4_usize.saturating_sub(digits));
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", units[unit])
}

/// A size with four digits, as `docker system df` and the prune commands have it: `16.43MB`, `0B`.
pub fn size(bytes: u64) -> String {
    let (number, unit) = scaled(bytes);
    let decimals = match number {
        n if n < 9.9995 => 3,
        n if n < 99.995 => 2,
        n if n < 999.95 => 1,
        _ => 0,
    };
    let text = format!("{number:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

fn scaled(size: u64) -> (f64, &'static str) {
    let mut number = size as f64;
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut unit = 0;
    while number >= 999.5 && unit + 1 < units.len() {
        number /= 1000.0;
        unit += 1;
    }
    (number, units[unit])
}

/// How long ago something was: `About a minute`, `3 weeks`.
pub fn span(seconds: u64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".into(),
        (1, ..) => "1 second".into(),
        (s, ..) if s < 60 => format!("{s} seconds"),
        (_, 1, _) => "About a minute".into(),
        (_, m, _) if m < 60 => format!("{m} minutes"),
        (_, _, 1) => "About an hour".into(),
        (_, _, h) if h < 48 => format!("{h} hours"),
        (_, _, h) if h < 24 * 7 * 2 => format!("{} days", h / 24),
        (_, _, h) if h < 24 * 30 * 2 => format!("{} weeks", h / 24 / 7),
        (_, _, h) if h < 24 * 365 * 2 => format!("{} months", h / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// How long ago a time was: `3 weeks ago`. What lies in the future is now.
pub fn ago(created_secs: i64, now_secs: i64) -> String {
    format!("{} ago", span(now_secs.saturating_sub(created_secs).max(0) as u64))
}

/// A time as Go prints it: `2023-10-24 22:13:20 +0000 UTC`. `None` for a time that no calendar has.
pub fn moment(secs: i64) -> Option<String> {
    let layout = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] +0000 UTC");
    time::OffsetDateTime::from_unix_timestamp(secs).ok()?.format(layout).ok()
}

/// A time in RFC 3339: `2023-10-24T22:13:20Z`.
pub fn rfc3339(secs: i64) -> Option<String> {
    time::OffsetDateTime::from_unix_timestamp(secs).ok()?.format(&time::format_description::well_known::Rfc3339).ok()
}

/// A text that is cut after some characters and then ends in `…`.
pub fn shortened(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    text.chars().take(limit.saturating_sub(1)).chain(['…']).collect()
}

/// How long a task ran: `0.4s`.
pub fn seconds(elapsed: Duration) -> String {
    format!("{:.1}s", elapsed.as_secs_f64())
}

/// How long a build or a step took, as `buildx history` has it: `0.4s`, `1m  5s`.
pub fn duration_ms(ms: u64) -> String {
    let secs = ms / 1000;
    if secs < 60 { format!("{:.1}s", ms as f64 / 1000.0) } else { format!("{}m {:2}s", secs / 60, secs % 60) }
}

/// When a line came, in seconds since its task began; always five characters while the task is young.
pub fn offset(at: Duration) -> String {
    let seconds = at.as_secs_f64();
    match seconds {
        s if s < 10.0 => format!("{s:.3}"),
        s if s < 100.0 => format!("{s:.2}"),
        s => format!("{s:.1}"),
    }
}

/// The first twelve hex digits of an id, without its algorithm.
pub fn short_id(id: &str) -> &str {
    let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_docker_s() {
        for (size, long, short) in [
            (0, "0B", "0B"),
            (2, "2B", "2B"),
            (999, "999B", "999B"),
            (1000, "1.00kB", "1kB"),
            (4_210_000, "4.21MB", "4.21MB"),
            (4_200_000, "4.20MB", "4.2MB"),
            (77_800_000, "77.80MB", "77.8MB"),
            (9_999_000, "10.00MB", "10MB"),
            (999_900, "1.00MB", "1MB"),
            (156_000_000, "156.00MB", "156MB"),
            (100_000_000, "100.00MB", "100MB"),
            (1_230_000_000, "1.23GB", "1.23GB"),
        ] {
            assert_eq!((bytes(size).as_str(), short_bytes(size).as_str()), (long, short), "{size}");
        }
    }

    #[test]
    fn memory_reads_as_docker_s() {
        for (size, text) in [(0, "0B"), (1023, "1023B"), (1024, "1KiB"), (1536, "1.5KiB"), (4_000_000_000, "3.725GiB")] {
            assert_eq!(binary_bytes(size), text);
        }
    }

    #[test]
    fn sizes_of_disk_usage_have_four_digits() {
        for (bytes, text) in
            [(0, "0B"), (36, "36B"), (212_000, "212kB"), (16_430_000, "16.43MB"), (1_234_567, "1.235MB"), (123_456_789, "123.5MB")]
        {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn spans_read_as_docker_s() {
        const HOUR: u64 = 3600;
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (HOUR, "About an hour"),
            (2 * HOUR, "2 hours"),
            (47 * HOUR, "47 hours"),
            (3 * 24 * HOUR, "3 days"),
            (21 * 24 * HOUR, "3 weeks"),
            (90 * 24 * HOUR, "3 months"),
            (800 * 24 * HOUR, "2 years"),
        ] {
            assert_eq!(span(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn offsets_keep_their_width() {
        for (millis, text) in [(0, "0.000"), (123, "0.123"), (9_999, "9.999"), (12_345, "12.35"), (123_456, "123.5")] {
            assert_eq!(offset(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn durations_read_as_docker_s() {
        for (ms, text) in [(0, "0.0s"), (1_450, "1.4s"), (59_900, "59.9s"), (65_000, "1m  5s"), (3_725_000, "62m  5s")] {
            assert_eq!(duration_ms(ms), text);
        }
    }

    #[test]
    fn ids_are_cut() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("abc"), "abc");
    }
}
