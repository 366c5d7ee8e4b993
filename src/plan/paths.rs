//! Paths of Dockerfiles: always with `/`, never looked up.

/// Go's `path.Clean` of an absolute path: no empty, `.` and `..` parts, no slash at the end.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Go's `path.Clean` of any path: a relative one stays relative, and what leads out of it stays too.
pub(crate) fn cleaned(path: &str) -> String {
    if path.starts_with('/') {
        return clean(path);
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    if parts.is_empty() { ".".into() } else { parts.join("/") }
}

/// The directory that WORKDIR sets: as written if it is absolute, else joined to the current one.
pub(crate) fn workdir(current: &str, written: &str) -> String {
    let current = if current.starts_with('/') { current.to_string() } else { clean(current) };
    if written.is_empty() {
        current
    } else if written.starts_with('/') {
        written.into()
    } else {
        clean(&format!("{current}/{written}"))
    }
}

/// Where COPY writes: absolute and clean, with a slash at the end if the text says that it is a directory.
pub(crate) fn destination(workdir: &str, written: &str) -> String {
    let directory = matches!(written, "" | ".") || written.ends_with('/') || written.ends_with("/.");
    let joined = if written.starts_with('/') { clean(written) } else { clean(&format!("{workdir}/{written}")) };
    if directory && joined != "/" { joined + "/" } else { joined }
}

/// A source of COPY, relative to the root of where it is taken from; `.` is the root itself.
pub(crate) fn source(written: &str) -> String {
    match clean(written).trim_start_matches('/') {
        "" => ".".into(),
        relative => relative.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_stay_relative() {
        for (path, clean) in [("", "."), ("a/../b/", "b"), ("/x/", "/x"), ("../a/..", ".."), ("a/../..", ".."), ("./a", "a"), ("/..", "/")]
        {
            assert_eq!(cleaned(path), clean, "{path}");
        }
    }

    #[test]
    fn workdirs() {
        for (current, written, want) in [
            ("/", "/a/b/", "/a/b/"),
            ("/a", "b", "/a/b"),
            ("/a/b", "../c", "/a/c"),
            ("/a", "", "/a"),
            ("", "x", "/x"),
            ("/a", "../../..", "/"),
            ("rel", "x", "/rel/x"),
        ] {
            assert_eq!(workdir(current, written), want, "{current} {written}");
        }
    }

    #[test]
    fn destinations_keep_their_slash() {
        for (written, want) in [
            ("/a/", "/a/"),
            ("/a", "/a"),
            (".", "/w/"),
            ("", "/w/"),
            ("./", "/w/"),
            ("x/.", "/w/x/"),
            ("x", "/w/x"),
            ("../y", "/y"),
            ("..", "/"),
            ("/", "/"),
            ("/a//b/../c", "/a/c"),
        ] {
            assert_eq!(destination("/w", written), want, "{written}");
        }
    }

    #[test]
    fn sources_are_relative() {
        for (written, want) in [("a", "a"), ("/a/b/", "a/b"), (".", "."), ("", "."), ("/", "."), ("../x", "x"), ("./*.go", "*.go")] {
            assert_eq!(source(written), want, "{written}");
        }
    }
}
