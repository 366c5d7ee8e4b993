//! What is built, in this order: each time one thing has changed since the build before.

use serde::Serialize;

/// One build of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Scenario {
    /// Nothing is in the cache but the base image.
    Cold,
    /// Nothing has changed.
    Unchanged,
    /// One file of the context has other content.
    TouchedFile,
    /// The first RUN has other words and makes the same files.
    SameResult,
    /// The first RUN makes other files.
    OtherResult,
    /// The base image has one more file.
    ChangedBase,
}

impl Scenario {
    pub(super) const ALL: [Self; 6] =
        [Self::Cold, Self::Unchanged, Self::TouchedFile, Self::SameResult, Self::OtherResult, Self::ChangedBase];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Unchanged => "unchanged",
            Self::TouchedFile => "a file changed",
            Self::SameResult => "an early step changed, same result",
            Self::OtherResult => "an early step changed",
            Self::ChangedBase => "the base image changed",
        }
    }
}
