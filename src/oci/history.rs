//! The `created_by` texts of history entries, byte for byte as BuildKit writes them: tools parse them, and digests hold them.

use super::config::{HealthConfig, HistoryEntry};
use crate::dockerfile::word::quote;

/// The comment of every entry that a Dockerfile makes.
pub const COMMENT: &str = "buildkit.dockerfile.v0";

/// What stands behind RUN, COPY and ADD.
const SUFFIX: &str = " # buildkit";

/// An entry without a time.
pub fn entry(created_by: String, empty_layer: bool) -> HistoryEntry {
    HistoryEntry { created_by, comment: COMMENT.into(), empty_layer, ..HistoryEntry::default() }
}

/// `ENV a=b c=d`, `LABEL a=b`
pub fn pairs(instruction: &str, pairs: &[(String, String)]) -> String {
    let words = pairs.iter().map(|(key, value)| format!(" {key}={value}"));
    format!("{instruction}{}", words.collect::<String>())
}

/// `ARG a=b c`
pub fn arg(args: &[(String, Option<String>)]) -> String {
    let words = args.iter().map(|(name, value)| value.as_ref().map_or_else(|| name.clone(), |v| format!("{name}={v}")));
    format!("ARG {}", words.collect::<Vec<_>>().join(" "))
}

/// `CMD ["a" "b"]`: Go's `%q` of a list.
pub fn quoted_list(instruction: &str, words: &[String]) -> String {
    let words: Vec<_> = words.iter().map(|w| quote(w)).collect();
    format!("{instruction} [{}]", words.join(" "))
}

/// `VOLUME [/a /b]`: Go's `%v` of a list.
pub fn plain_list(instruction: &str, words: &[String]) -> String {
    format!("{instruction} [{}]", words.join(" "))
}

/// `USER x`, `WORKDIR /x`, …
pub fn word(instruction: &str, word: &str) -> String {
    format!("{instruction} {word}")
}

/// `HEALTHCHECK {Test:[CMD-SHELL x] Interval:10s …}`: Go's `%+v` of the struct.
pub fn healthcheck(health: &HealthConfig) -> String {
    format!(
        "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        health.test.join(" "),
        duration(health.interval),
        duration(health.timeout),
        duration(health.start_period),
        duration(health.start_interval),
        health.retries
    )
}

/// `RUN |1 A=b /bin/sh -c cmd # buildkit`: every declared ARG, then the process.
pub fn run(argv: &[String], args: &[(String, String)]) -> String {
    let mut words = vec!["RUN".to_string()];
    if !args.is_empty() {
        words.push(format!("|{}", args.len()));
        words.extend(args.iter().map(|(name, value)| format!("{name}={value}")));
    }
    words.extend_from_slice(argv);
    words.join(" ") + SUFFIX
}

/// The words of a COPY or ADD entry, after expansion.
#[derive(Clone, Copy, Debug)]
pub struct CopyText<'a> {
    /// `COPY` or `ADD`
    pub instruction: &'a str,
    /// `--parents`
    pub parents: bool,
    /// `--chown=`
    pub chown: Option<&'a str>,
    /// `--chmod=`
    pub chmod: Option<&'a str>,
    /// Sources, without heredocs.
    pub sources: &'a [String],
    /// Names of heredocs.
    pub heredocs: &'a [String],
    /// The destination as written.
    pub destination: &'a str,
}

/// `COPY --chown=1:2 a b /c # buildkit`; `--from`, `--link`, `--exclude` and the like are not told.
pub fn copy(text: CopyText<'_>) -> String {
    let mut words = vec![text.instruction.to_string()];
    words.extend(text.parents.then(|| "--parents".into()));
    words.extend(text.chown.map(|chown| format!("--chown={chown}")));
    words.extend(text.chmod.map(|chmod| format!("--chmod={chmod}")));
    words.extend_from_slice(text.sources);
    words.extend(text.heredocs.iter().map(|name| format!("<<{name}")));
    words.push(text.destination.into());
    words.join(" ") + SUFFIX
}

/// A duration in nanoseconds as Go prints it: `1m30s`, `1.5s`, `250ms`, `0s`.
pub fn duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let fraction = |value: u64, unit: u64, name: &str| {
        let digits = unit.ilog10() as usize;
        let rest = format!("{:0digits$}", value % unit);
        let rest = rest.trim_end_matches('0');
        let point = if value.is_multiple_of(unit) { "" } else { "." };
        format!("{}{point}{}{name}", value / unit, if point.is_empty() { "" } else { rest })
    };
    let text = match n {
        0 => "0s".into(),
        n if n < 1_000 => format!("{n}ns"),
        n if n < 1_000_000 => fraction(n, 1_000, "µs"),
        n if n < 1_000_000_000 => fraction(n, 1_000_000, "ms"),
        n => {
            let (minutes, rest) = (n / 60_000_000_000, n % 60_000_000_000);
            let seconds = fraction(rest, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, m) => format!("{m}m{seconds}"),
                (h, m) => format!("{h}h{m}m{seconds}"),
            }
        }
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn durations_print_as_in_go() {
        for (nanos, text) in [
            (0, "0s"),
            (7, "7ns"),
            (1_500, "1.5µs"),
            (250_000_000, "250ms"),
            (1_500_000_000, "1.5s"),
            (10_000_000_000, "10s"),
            (90_000_000_000, "1m30s"),
            (60_000_000_000, "1m0s"),
            (3_600_000_000_000, "1h0m0s"),
            (5_400_500_000_000, "1h30m0.5s"),
            (-1_000_000_000, "-1s"),
        ] {
            assert_eq!(duration(nanos), text);
        }
    }

    #[test]
    fn runs_show_their_args() {
        let argv = words(&["/bin/sh", "-c", "a && b"]);
        assert_eq!(run(&argv, &[]), "RUN /bin/sh -c a && b # buildkit");
        let args = [("A".to_string(), "b".to_string()), ("C".to_string(), String::new())];
        assert_eq!(run(&argv, &args), "RUN |2 A=b C= /bin/sh -c a && b # buildkit");
    }

    #[test]
    fn lists_as_go_prints_them() {
        assert_eq!(quoted_list("CMD", &words(&["a b", "\"c\"\n"])), r#"CMD ["a b" "\"c\"\n"]"#);
        assert_eq!(quoted_list("ENTRYPOINT", &[]), "ENTRYPOINT []");
        assert_eq!(plain_list("VOLUME", &words(&["/a", "/b"])), "VOLUME [/a /b]");
        assert_eq!(arg(&[("A".into(), Some(String::new())), ("B".into(), None)]), "ARG A= B");
    }

    #[test]
    fn copies_show_chown_and_chmod_only() {
        let sources = words(&["file"]);
        let heredocs = words(&["robots.txt", "humans.txt"]);
        let mut text = CopyText {
            instruction: "COPY",
            parents: false,
            chown: None,
            chmod: None,
            sources: &sources,
            heredocs: &heredocs,
            destination: "/test/",
        };
        assert_eq!(copy(text), "COPY file <<robots.txt <<humans.txt /test/ # buildkit");
        text = CopyText { instruction: "ADD", parents: true, chown: Some("1:2"), chmod: Some("755"), heredocs: &[], ..text };
        assert_eq!(copy(text), "ADD --parents --chown=1:2 --chmod=755 file /test/ # buildkit");
    }
}
