//! Build arguments that tell the builder something: those that mean nothing here say so.

use std::collections::BTreeMap;

use crate::cli::flags::parse_bool;

/// Arguments that other builders carry out and this one does not, each with the reason. Those that are booleans ask for nothing when off.
const WITHOUT_EFFECT: [(&str, &str); 5] = [
    ("BUILDKIT_BUILD_NAME", "builds have no names"),
    ("BUILDKIT_HISTORY_PROVENANCE_V1", "no attestations are made"),
    ("BUILDKIT_INLINE_CACHE", "no cache metadata is put into images"),
    ("BUILDKIT_SBOM_SCAN_CONTEXT", "no attestations are made"),
    ("BUILDKIT_SBOM_SCAN_STAGE", "no attestations are made"),
];

/// One line for each argument that was given in vain.
pub(super) fn notes(build_args: &BTreeMap<String, String>) -> Vec<String> {
    let given = WITHOUT_EFFECT.iter().filter(|(name, _)| build_args.get(*name).is_some_and(|value| asks(value)));
    given.map(|(name, reason)| format!("--build-arg {name} has no effect: {reason}")).collect()
}

fn asks(value: &str) -> bool {
    !value.is_empty() && parse_bool(value) != Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_effect_is_said_once() {
        let given = [("BUILDKIT_INLINE_CACHE", "1"), ("BUILDKIT_BUILD_NAME", "x"), ("BUILDKIT_SANDBOX_HOSTNAME", "h"), ("A", "b")];
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(
            notes(&given),
            [
                "--build-arg BUILDKIT_BUILD_NAME has no effect: builds have no names",
                "--build-arg BUILDKIT_INLINE_CACHE has no effect: no cache metadata is put into images",
            ]
        );
        for off in ["0", "false", ""] {
            assert_eq!(notes(&BTreeMap::from([("BUILDKIT_INLINE_CACHE".to_owned(), off.to_owned())])), [""; 0]);
        }
    }
}
