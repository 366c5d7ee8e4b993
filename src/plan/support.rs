//! Which parts of the language a plan may hold. A part that the back half cannot do yet is refused here, by name, and never ignored.

/// A part of the language that is switched on by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// `COPY --link`, `ADD --link`
    Link,
    /// `COPY --parents`
    Parents,
    /// `COPY --exclude`, `ADD --exclude`
    Exclude,
    /// `ADD --unpack` of local files
    Unpack,
    /// `SOURCE_DATE_EPOCH` taken from a stage
    EpochFromSource,
}

/// What the back half executes. Whoever teaches it one more part adds it here, after the operations of [`super::graph`] have a place
/// for it: a test knows for which they have.
const SUPPORTED: &[Feature] = &[Feature::Unpack, Feature::Link, Feature::Parents, Feature::Exclude];

impl Feature {
    /// Whether a plan may hold it.
    pub(crate) fn is_supported(self) -> bool {
        SUPPORTED.contains(&self)
    }

    /// As it is written after the instruction.
    pub fn name(self) -> &'static str {
        match self {
            Self::Link => "--link",
            Self::Parents => "--parents",
            Self::Exclude => "--exclude",
            Self::Unpack => "--unpack",
            Self::EpochFromSource => "from a stage",
        }
    }

    /// What can be done without it.
    pub(crate) fn hint(self) -> &'static str {
        match self {
            Self::Link => "remove --link: a COPY layer survives a changed base without it",
            Self::Parents => "write one COPY for each directory, with its full destination",
            Self::Exclude => "name the files in .dockerignore, or copy what is wanted by name",
            Self::Unpack => "unpack it in a RUN",
            Self::EpochFromSource => "give the seconds themselves: --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a plan hands on. The rest is read for its names and errors only.
    const CARRIED: [Feature; 4] = [Feature::Link, Feature::Parents, Feature::Exclude, Feature::Unpack];

    #[test]
    fn nothing_is_switched_on_that_a_plan_would_drop() {
        assert!(SUPPORTED.iter().all(|feature| CARRIED.contains(feature)));
    }
}
