//! `os/arch[/variant]`, normalised as containerd does.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A platform such as `linux/amd64` or `linux/arm/v7`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`
    pub os: String,
    /// `amd64`
    pub architecture: String,
    /// `v7`, empty if none.
    pub variant: String,
}

/// A platform that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// A part between slashes.
    #[error(
        "{component:?} is an invalid component of {text:?}: platform specifier component must match \"^[A-Za-z0-9_.-]+$\": invalid argument"
    )]
    Component {
        /// The part.
        component: String,
        /// What was given.
        text: String,
    },
    /// One word that is neither.
    #[error("{text:?}: unknown operating system or architecture: invalid argument")]
    Unknown {
        /// What was given.
        text: String,
    },
    /// More parts than a platform has.
    #[error("{text:?}: cannot parse platform specifier: invalid argument")]
    Parts {
        /// What was given.
        text: String,
    },
}

impl Platform {
    /// The platform this binary runs on.
    pub fn native() -> Self {
        let (architecture, variant) = normalise_arch(std::env::consts::ARCH, "");
        Self { os: "linux".into(), architecture, variant }
    }

    /// Whether a processor of `self` runs programs of `other` without emulation.
    pub fn can_run(&self, other: &Self) -> bool {
        let runs = |own: &str, theirs: &str| own == theirs || (own == "amd64" && theirs == "386");
        self.os == other.os && runs(&self.architecture, &other.architecture)
    }

    /// The architecture whose images stand in where there is none for this one.
    pub fn predecessor(&self) -> Option<Self> {
        let (architecture, variant) = match self.architecture.as_str() {
            "amd64" => ("386", ""),
            "arm64" => ("arm", "v8"),
            _ => return None,
        };
        Some(Self { os: self.os.clone(), architecture: architecture.into(), variant: variant.into() })
    }

    /// Whether an image for `self` can be used where `wanted` is asked for.
    pub fn satisfies(&self, wanted: &Self) -> bool {
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && (self.variant == wanted.variant || (self.architecture == "arm64" && wanted.variant.is_empty()))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let is_part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
        if let Some(component) = text.split('/').find(|part| !is_part(part)) {
            return Err(PlatformError::Component { component: component.into(), text: text.into() });
        }
        let lower = text.to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        let (os, arch, variant) = match parts[..] {
            ["local"] => return Ok(Self::native()),
            [one] if is_os(one) => (normalise_os(one), std::env::consts::ARCH, ""),
            [one] if is_arch(one) => ("linux".into(), one, ""),
            [os, arch] => (normalise_os(os), arch, ""),
            [os, arch, variant] => (normalise_os(os), arch, variant),
            [_] => return Err(PlatformError::Unknown { text: text.into() }),
            _ => return Err(PlatformError::Parts { text: text.into() }),
        };
        let (architecture, variant) = normalise_arch(arch, variant);
        Ok(Self { os, architecture, variant })
    }
}

fn is_os(text: &str) -> bool {
    matches!(text, "linux" | "windows" | "darwin" | "macos" | "freebsd" | "netbsd" | "openbsd" | "wasip1" | "js")
}

fn is_arch(text: &str) -> bool {
    matches!(
        text,
        "amd64"
            | "x86_64"
            | "x86-64"
            | "386"
            | "i386"
            | "arm"
            | "armhf"
            | "armel"
            | "arm64"
            | "aarch64"
            | "ppc64le"
            | "s390x"
            | "riscv64"
            | "mips64le"
            | "loong64"
            | "loongarch64"
            | "wasm"
    )
}

fn normalise_os(os: &str) -> String {
    if os == "macos" { "darwin".into() } else { os.into() }
}

fn normalise_arch(arch: &str, variant: &str) -> (String, String) {
    let (arch, variant) = match (arch, variant) {
        ("i386" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
        ("x86_64" | "x86-64", v) => ("amd64", v),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0" | "") => ("arm64", ""),
        ("aarch64", v) => ("arm64", v),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        ("loongarch64", v) => ("loong64", v),
        ("powerpc64le" | "powerpc64", v) => ("ppc64le", v),
        other => other,
    };
    (arch.into(), variant.into())
}
