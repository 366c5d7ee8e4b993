//! Finding the program of a command inside the root, with the words that container runtimes have for failures.

use std::ffi::CString;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, stat};
use rustix::io::Errno;

use super::Failure;

const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// The program that `name` stands for: a path as it is, a bare name by the PATH of `env`.
pub(super) fn find_program(name: &str, env: &[String]) -> Result<CString, Failure> {
    let c_string = |path: &str| CString::new(path).map_err(|_| failure(format!("exec: {name:?}: invalid argument"), NOT_FOUND));
    if name.contains('/') {
        return match check(name) {
            Ok(()) => c_string(name),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(failure(format!("exec: {name:?}: stat {name}: no such file or directory"), NOT_FOUND)),
            Err(error) => Err(failure(format!("exec: {name:?}: {}", words(error)), NOT_EXECUTABLE)),
        };
    }
    let path = env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
    let candidates = path.split(':').map(|dir| format!("{}/{name}", if dir.is_empty() { "." } else { dir }));
    match candidates.into_iter().find(|candidate| !name.is_empty() && check(candidate).is_ok()) {
        Some(found) => c_string(&found),
        None => Err(failure(format!("exec: {name:?}: executable file not found in $PATH"), NOT_FOUND)),
    }
}

/// The failure of the exec itself.
pub(super) fn exec_failure(path: &str, error: &std::io::Error) -> Failure {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        // The file is there, so what is not there is its interpreter.
        Some(Errno::NOENT) => failure(format!("exec {path}: no such file or directory"), NOT_FOUND),
        Some(errno) => failure(format!("exec {path}: {}", words(errno)), NOT_EXECUTABLE),
        None => failure(format!("exec {path}: {error}"), NOT_EXECUTABLE),
    }
}

fn failure(message: String, code: i32) -> Failure {
    Failure::Exec { message, code }
}

fn words(error: Errno) -> String {
    match error {
        Errno::ACCESS => "permission denied".to_owned(),
        Errno::NOEXEC => "exec format error".to_owned(),
        Errno::ISDIR => "is a directory".to_owned(),
        Errno::LOOP => "too many levels of symbolic links".to_owned(),
        Errno::TOOBIG => "argument list too long".to_owned(),
        other => other.to_string(),
    }
}

fn check(path: &str) -> Result<(), Errno> {
    if FileType::from_raw_mode(stat(Path::new(path))?.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_the_sentences_for_what_is_none() {
        let env = ["A=1", "PATH=/nowhere:/usr/bin:/bin"].map(str::to_owned);
        assert!(find_program("sh", &env).unwrap().to_str().unwrap().ends_with("/sh"));
        assert_eq!(find_program("/bin/sh", &env).unwrap().to_str().unwrap(), "/bin/sh");
        for (name, want, want_code) in [
            ("no-such", "exec: \"no-such\": executable file not found in $PATH", 127),
            ("", "exec: \"\": executable file not found in $PATH", 127),
            ("/no/such", "exec: \"/no/such\": stat /no/such: no such file or directory", 127),
            ("/etc", "exec: \"/etc\": is a directory", 126),
            ("/etc/passwd", "exec: \"/etc/passwd\": permission denied", 126),
        ] {
            match find_program(name, &env) {
                Err(Failure::Exec { message, code }) => assert_eq!((message.as_str(), code), (want, want_code)),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}
