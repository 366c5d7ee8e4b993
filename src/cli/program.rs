//! Under which name the program was called: a link or a copy named `docker` answers as Docker's client does.

use std::ffi::OsStr;
use std::path::Path;

/// The name that the program goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Program {
    /// `shale`
    #[default]
    Shale,
    /// `docker`
    Docker,
}

/// The version of Docker whose commands, columns and texts are followed. Jenkins reads it and asks for 17.12 at least.
pub const DOCKER_VERSION: &str = "28.5.2";

impl Program {
    /// By the last part of `argv[0]`.
    pub fn of(argv0: &OsStr) -> Self {
        if Path::new(argv0).file_name() == Some(OsStr::new("docker")) { Self::Docker } else { Self::Shale }
    }

    /// The name that usage lines have.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shale => "shale",
            Self::Docker => "docker",
        }
    }

    /// What `--version` prints.
    pub fn version_line(self) -> String {
        let own = env!("CARGO_PKG_VERSION");
        match self {
            Self::Shale => format!("shale version {own}\n"),
            Self::Docker => format!("Docker version {DOCKER_VERSION}, build shale-{own}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_file_name_counts() {
        for (argv0, program) in [
            ("docker", Program::Docker),
            ("/opt/tools/bin/docker", Program::Docker),
            ("./docker", Program::Docker),
            ("shale", Program::Shale),
            ("/docker/shale", Program::Shale),
            ("docker-compose", Program::Shale),
            ("", Program::Shale),
        ] {
            assert_eq!(Program::of(OsStr::new(argv0)), program, "{argv0}");
        }
    }
}
