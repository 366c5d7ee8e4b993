//! The rules by name, and which of them a file wants.

use std::borrow::Cow;

use crate::dockerfile::ast::Dockerfile;
use crate::dockerfile::word::quote;

/// What is to be known of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `StageNameCasing`
    pub name: &'static str,
    /// One sentence.
    pub description: &'static str,
    /// Last part of the address of its documentation, if it has one.
    pub page: &'static str,
    /// Only run when asked for.
    pub is_experimental: bool,
}

impl Rule {
    /// The address of its documentation.
    pub fn url(&self) -> String {
        if self.page.is_empty() { String::new() } else { format!("https://docs.docker.com/go/dockerfile/rule/{}/", self.page) }
    }
}

const fn rule(name: &'static str, page: &'static str, description: &'static str) -> Rule {
    Rule { name, description, page, is_experimental: false }
}

/// All rules of BuildKit, also those that `plan` finds.
pub const RULES: [Rule; 22] = [
    rule("StageNameCasing", "stage-name-casing", "Stage names should be lowercase"),
    rule("FromAsCasing", "from-as-casing", "The 'as' keyword should match the case of the 'from' keyword"),
    rule("NoEmptyContinuation", "no-empty-continuation", "Empty continuation lines will become errors in a future release"),
    rule(
        "ConsistentInstructionCasing",
        "consistent-instruction-casing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
    ),
    rule("DuplicateStageName", "duplicate-stage-name", "Stage names should be unique"),
    rule("ReservedStageName", "reserved-stage-name", "Reserved words should not be used as stage names"),
    rule(
        "JSONArgsRecommended",
        "json-args-recommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    ),
    rule(
        "MaintainerDeprecated",
        "maintainer-deprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    ),
    rule("UndefinedArgInFrom", "undefined-arg-in-from", "FROM command must use declared ARGs"),
    rule(
        "WorkdirRelativePath",
        "workdir-relative-path",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
    ),
    rule("UndefinedVar", "undefined-var", "Variables should be defined before their use"),
    rule(
        "MultipleInstructionsDisallowed",
        "multiple-instructions-disallowed",
        "Multiple instructions of the same type should not be used in the same stage",
    ),
    rule("LegacyKeyValueFormat", "legacy-key-value-format", "Legacy key/value format with whitespace separator should not be used"),
    rule("InvalidBaseImagePlatform", "", "Base image platform does not match expected target platform"),
    rule(
        "RedundantTargetPlatform",
        "redundant-target-platform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    ),
    rule("SecretsUsedInArgOrEnv", "secrets-used-in-arg-or-env", "Sensitive data should not be used in the ARG or ENV commands"),
    rule(
        "InvalidDefaultArgInFrom",
        "invalid-default-arg-in-from",
        "Default value for global ARG results in an empty or invalid base image name",
    ),
    rule("FromPlatformFlagConstDisallowed", "from-platform-flag-const-disallowed", "FROM --platform flag should not use a constant value"),
    rule("CopyIgnoredFile", "copy-ignored-file", "Attempting to Copy file that is excluded by .dockerignore"),
    Rule {
        name: "InvalidDefinitionDescription",
        description: "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
        page: "invalid-definition-description",
        is_experimental: true,
    },
    rule("ExposeProtoCasing", "expose-proto-casing", "Protocol in EXPOSE instruction should be lowercase"),
    rule(
        "ExposeInvalidFormat",
        "expose-invalid-format",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
    ),
];

/// A rule by its name.
pub fn find_rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.name == name)
}

/// Which rules run: `# check=skip=A,B;error=true;experimental=C`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// `skip=all`
    pub skip_all: bool,
    /// `skip=A,B`
    pub skip: Vec<String>,
    /// `experimental=all`
    pub experimental_all: bool,
    /// `experimental=A,B`
    pub experimental: Vec<String>,
    /// `error=true`: a warning fails the build.
    pub error: bool,
}

/// A `check` value that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// No such option, or no `=`.
    #[error("failed to parse check options: invalid check option {}", quote(.0))]
    Option(String),
    /// `error=` with something that is no boolean.
    #[error("failed to parse check options: failed to parse check option {}: strconv.ParseBool: parsing {}: invalid syntax", quote(.option), quote(.value))]
    Boolean {
        /// The option as written.
        option: String,
        /// Its value.
        value: String,
    },
}

impl CheckOptions {
    /// Reads the value of a `check` directive or of the build argument `BUILDKIT_DOCKERFILE_CHECK`, which goes before it.
    pub fn parse(text: &str) -> Result<Self, CheckError> {
        let mut options = Self::default();
        if text.trim().is_empty() {
            return Ok(options);
        }
        for part in text.trim().splitn(3, ';') {
            let (key, value) = part.split_once('=').ok_or_else(|| CheckError::Option(part.to_owned()))?;
            let (key, value) = (key.trim(), value.trim());
            let names = || value.split(',').map(|name| name.trim().to_owned()).collect();
            match key {
                "skip" if value == "all" => options.skip_all = true,
                "skip" => options.skip = names(),
                "experimental" if value == "all" => options.experimental_all = true,
                "experimental" => options.experimental = names(),
                "error" => match value {
                    "1" | "t" | "T" | "true" | "TRUE" | "True" => options.error = true,
                    "0" | "f" | "F" | "false" | "FALSE" | "False" => options.error = false,
                    _ => return Err(CheckError::Boolean { option: part.to_owned(), value: value.to_owned() }),
                },
                _ => return Err(CheckError::Option(key.to_owned())),
            }
        }
        Ok(options)
    }

    /// The options of a file's own directive.
    pub fn of(file: &Dockerfile) -> Result<Self, CheckError> {
        file.directives.check.as_ref().map_or_else(|| Ok(Self::default()), |check| Self::parse(&check.node))
    }

    /// Whether a rule runs.
    pub fn allows(&self, name: &str) -> bool {
        if find_rule(name).is_some_and(|rule| rule.is_experimental) {
            self.experimental_all || self.experimental.iter().any(|n| n == name)
        } else {
            !self.skip_all && !self.skip.iter().any(|n| n == name)
        }
    }

    /// The options for one instruction: those of a `# check=` among its comments come on top.
    pub fn with_comments(&self, comments: &[String]) -> Cow<'_, Self> {
        let own = comments.iter().find_map(|comment| {
            let (name, value) = comment.split_once('=')?;
            let value = value.trim();
            (name.trim_end().eq_ignore_ascii_case("check") && !value.is_empty()).then(|| value.split(' ').next().unwrap_or(value))
        });
        let Some(Ok(own)) = own.map(Self::parse) else { return Cow::Borrowed(self) };
        let mut merged = self.clone();
        merged.skip_all |= own.skip_all;
        merged.skip.extend(own.skip);
        merged.experimental_all |= own.experimental_all;
        merged.experimental.extend(own.experimental);
        Cow::Owned(merged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_parse() {
        let names = |n: &[&str]| n.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let plain = CheckOptions::default();
        for (text, expected) in [
            ("", plain.clone()),
            ("skip=all", CheckOptions { skip_all: true, ..plain.clone() }),
            ("skip=A, B;error=true", CheckOptions { skip: names(&["A", "B"]), error: true, ..plain.clone() }),
            (" error=0 ; experimental=all", CheckOptions { experimental_all: true, ..plain.clone() }),
            ("experimental=X;skip=Y", CheckOptions { experimental: names(&["X"]), skip: names(&["Y"]), ..plain }),
        ] {
            assert_eq!(CheckOptions::parse(text), Ok(expected), "{text}");
        }
        for (text, expected) in [
            ("skip", "failed to parse check options: invalid check option \"skip\""),
            ("warn=A", "failed to parse check options: invalid check option \"warn\""),
            (
                "error=maybe",
                "failed to parse check options: failed to parse check option \"error=maybe\": strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
        ] {
            assert_eq!(CheckOptions::parse(text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn comments_add_to_the_options() {
        let file = CheckOptions { skip: vec!["A".to_owned()], error: true, ..CheckOptions::default() };
        let merged = file.with_comments(&["about it".to_owned(), "check=skip=B // reason".to_owned()]);
        assert!(!merged.allows("A") && !merged.allows("B") && merged.allows("C") && merged.error);
        assert!(file.with_comments(&["check=nonsense".to_owned()]).allows("B"));
        assert!(!file.allows("InvalidDefinitionDescription"));
        assert!(file.with_comments(&["check=experimental=all".to_owned()]).allows("InvalidDefinitionDescription"));
    }
}
