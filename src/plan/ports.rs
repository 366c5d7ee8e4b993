//! EXPOSE: `80`, `80-90/udp`, and the forms with an address or a host port that BuildKit still takes.

use std::net::IpAddr;

use super::error::PlanErrorKind;

/// The `port/protocol` texts of one word, a range written out.
pub(crate) fn expand_ports(word: &str) -> Result<Vec<String>, PlanErrorKind> {
    let bad = |text: String| PlanErrorKind::BadPort(text);
    let (address, host, container) = split(word);
    let (container, protocol) = container.split_once('/').unwrap_or((container, ""));
    if container.is_empty() {
        return Err(bad(format!("invalid port: {word:?}: no port specified")));
    }
    let lower = protocol.to_ascii_lowercase();
    let lower = if lower.is_empty() { "tcp" } else { &lower };
    if !matches!(lower, "tcp" | "udp" | "sctp") {
        return Err(bad(format!("invalid port: {word:?}: invalid proto: {protocol}")));
    }
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(&address);
    if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(bad(format!("invalid IP address: {bare}")));
    }
    let (first, last) = range(container).ok_or_else(|| bad(format!("invalid containerPort: {container}")))?;
    if !host.is_empty() {
        let (host_first, host_last) = range(host).ok_or_else(|| bad(format!("invalid hostPort: {host}")))?;
        if last - first != host_last - host_first && first != last {
            return Err(bad(format!("invalid ranges specified for container and host Ports: {container} and {host}")));
        }
    }
    Ok((first..=last).map(|port| format!("{port}/{lower}")).collect())
}

/// `[address:]host:container` at its last two colons.
fn split(word: &str) -> (String, &str, &str) {
    let Some((rest, container)) = word.rsplit_once(':') else { return (String::new(), "", word) };
    match rest.rsplit_once(':') {
        Some((address, host)) => (address.into(), host, container),
        None => (String::new(), rest, container),
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |digits: &str| digits.parse::<i64>().ok().and_then(|n| u16::try_from(n).ok());
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        for (word, want) in [
            ("80", vec!["80/tcp"]),
            ("80/", vec!["80/tcp"]),
            ("53/UDP", vec!["53/udp"]),
            ("7000-7002/sctp", vec!["7000/sctp", "7001/sctp", "7002/sctp"]),
            ("8080:80", vec!["80/tcp"]),
            ("127.0.0.1:8080:80", vec!["80/tcp"]),
            ("[::1]:8080:80", vec!["80/tcp"]),
            ("8000-8010:80", vec!["80/tcp"]),
            ("9-9", vec!["9/tcp"]),
        ] {
            assert_eq!(expand_ports(word).expect(word), want, "{word}");
        }
    }

    #[test]
    fn what_is_no_port() {
        for (word, error) in [
            ("/tcp", "invalid port: \"/tcp\": no port specified"),
            ("80/foo", "invalid port: \"80/foo\": invalid proto: foo"),
            ("90-80", "invalid containerPort: 90-80"),
            ("x", "invalid containerPort: x"),
            ("65536", "invalid containerPort: 65536"),
            ("a.b:1:2", "invalid IP address: a.b"),
            ("x:80", "invalid hostPort: x"),
            ("1-3:80-90", "invalid ranges specified for container and host Ports: 80-90 and 1-3"),
        ] {
            assert_eq!(expand_ports(word).expect_err(word).to_string(), error);
        }
    }
}
