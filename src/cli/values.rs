//! Values of single flags: sizes, limits, hosts.

use std::net::{IpAddr, Ipv4Addr};

/// `--ulimit name=soft[:hard]`; "unlimited" (`-1`) is `u64::MAX`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ulimit {
    /// `nofile`
    pub name: String,
    /// The soft limit.
    pub soft: u64,
    /// The hard limit.
    pub hard: u64,
}

const ULIMIT_NAMES: &[&str] = &[
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Reads `name=soft[:hard]`.
pub fn parse_ulimit(text: &str) -> Result<Ulimit, String> {
    let invalid = || format!("invalid ulimit argument: {text}");
    let (name, limits) = text.split_once('=').ok_or_else(invalid)?;
    if !ULIMIT_NAMES.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let number = |text: &str| match text.parse::<i64>() {
        Ok(-1) => Ok(u64::MAX),
        Ok(n) if n >= 0 => Ok(n as u64),
        _ => Err(invalid()),
    };
    let (soft, hard) = match limits.split_once(':') {
        None => (number(limits)?, number(limits)?),
        Some((soft, hard)) => (number(soft)?, number(hard)?),
    };
    if soft > hard {
        return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
    }
    Ok(Ulimit { name: name.into(), soft, hard })
}

/// Reads a size with an optional unit: `64m`, `1.5GiB`, `4096`. Units are powers of 1024, as Docker's memory sizes are.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let invalid = || format!("invalid size: {text:?}");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| invalid())?;
    let unit = text[digits..].trim_start().to_ascii_lowercase();
    let power = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit) {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(invalid()),
    };
    Ok((number * 1024_f64.powi(power)) as u64)
}

/// Reads `host:ip` or `host=ip`; a version 6 address may stand in brackets, and `host-gateway` is the host itself.
pub fn parse_add_host(text: &str) -> Result<(String, String), String> {
    let bad = || format!("bad format for add-host: {text:?}");
    let (host, ip) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(bad)?;
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(bad());
    }
    // RUN has the host's network, so the host's services are where they are for the host.
    if ip == "host-gateway" {
        return Ok((host.into(), Ipv4Addr::LOCALHOST.to_string()));
    }
    let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
    match bare.parse::<IpAddr>() {
        Ok(_) => Ok((host.into(), bare.into())),
        Err(_) => Err(format!("invalid IP address in add-host: {ip:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        for (text, bytes) in [("4096", 4096), ("1k", 1024), ("64m", 64 << 20), ("2GB", 2 << 30), ("1.5 MiB", 3 << 19), ("7b", 7)] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "x", "1q", "-1", "1mm", "1.2.3"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ulimits_are_checked() {
        assert_eq!(parse_ulimit("nofile=1024:2048"), Ok(Ulimit { name: "nofile".into(), soft: 1024, hard: 2048 }));
        assert_eq!(parse_ulimit("core=-1"), Ok(Ulimit { name: "core".into(), soft: u64::MAX, hard: u64::MAX }));
        for text in ["nofile", "nofile=", "nofile=x", "nofile=1:", "files=1", "nofile=-2", "nofile=-1:5"] {
            assert!(parse_ulimit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_take_both_separators() {
        for text in ["db:10.0.0.1", "db=10.0.0.1"] {
            assert_eq!(parse_add_host(text), Ok(("db".into(), "10.0.0.1".into())));
        }
        assert_eq!(parse_add_host("host.docker.internal:host-gateway"), Ok(("host.docker.internal".into(), "127.0.0.1".into())));
        assert_eq!(parse_add_host("db:::1"), Ok(("db".into(), "::1".into())));
        assert_eq!(parse_add_host("db=[::1]"), Ok(("db".into(), "::1".into())));
        for text in ["db", "db:", ":1.2.3.4", "db:1.2.3"] {
            assert!(parse_add_host(text).is_err(), "{text}");
        }
    }
}
