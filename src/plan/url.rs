//! Addresses of files: what is one, and the name that a file gets from it. Text only.

/// A URL that is fetched as a file, unless it names a repository.
pub(crate) fn is_http(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// The last part of a URL's path; BuildKit's name where there is none.
pub(crate) fn file_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest).split(['?', '#']).next().unwrap_or_default();
    let path = percent_decoded(rest.split_once('/').map_or("", |(_, path)| path));
    match path.trim_end_matches('/').rsplit('/').next() {
        None | Some("" | "." | "..") => "__unnamed__".into(),
        Some(name) => name.into(),
    }
}

/// `%41` → `A`; what cannot be decoded stays.
pub(crate) fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|byte| bytes[at] == b'%' && *byte != 0);
        out.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).unwrap_or_else(|_| text.into())
}

/// The pairs of a query, decoded, in their order.
pub(crate) fn query_pairs(query: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| percent_decoded(&text.replace('+', " "));
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(key, value)| (decoded(key), decoded(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_the_path_of_their_url() {
        for (url, name) in [
            ("http://h/foo", "foo"),
            ("http://h/a/b.tar.gz?x=/y#/z", "b.tar.gz"),
            ("http://h/dir/", "dir"),
            ("http://h", "__unnamed__"),
            ("http://h/", "__unnamed__"),
            ("http://h?a=/b", "__unnamed__"),
            ("http://h/a/..", "__unnamed__"),
            ("http://h/a%20b", "a b"),
            ("http://h/a%2f..%2F..", "__unnamed__"),
            ("http://h/100%", "100%"),
        ] {
            assert_eq!(file_name(url), name, "{url}");
        }
    }

    #[test]
    fn queries_are_pairs() {
        let pairs = |text| query_pairs(text).into_iter().map(|(k, v)| format!("{k}|{v}")).collect::<Vec<_>>();
        assert_eq!(pairs("a=1&b&c=x%2Fy+z&&a="), ["a|1", "b|", "c|x/y z", "a|"]);
    }
}
