//! The names of steps as progress shows them: `[build 2/5] RUN make`.

use super::scope::StageScope;
use crate::oci::platform::Platform;

/// Counts the steps of one stage.
#[derive(Clone, Debug)]
pub(crate) struct StepNames {
    label: String,
    total: usize,
    next: usize,
}

impl StepNames {
    /// For a stage with `total` steps; no label for the only stage of a file.
    pub(crate) fn new(label: Option<&str>, total: usize) -> Self {
        Self { label: label.map(|l| format!("{l} ")).unwrap_or_default(), total, next: 1 }
    }

    /// The next step's name; `text` is its instruction after expansion, `platform` is shown where there are several.
    pub(crate) fn step(&mut self, platform: Option<&str>, onbuild: bool, text: &str) -> String {
        let width = self.total.max(1).ilog10() as usize + 1;
        let number = self.next;
        self.next += 1;
        let platform = platform.map(|p| format!("{p} ")).unwrap_or_default();
        let onbuild = if onbuild { "ONBUILD " } else { "" };
        format!("[{platform}{}{number:>width$}/{}] {onbuild}{}", self.label, self.total, upper_first_word(text))
    }
}

/// `linux/amd64`, and `linux/amd64->arm64` where a step on one platform knows that it builds for another.
pub(crate) fn platform(of_stage: &Platform, scope: &StageScope) -> String {
    let part = |name: &str, default: &str| scope.get(name).filter(|v| !v.is_empty()).unwrap_or_else(|| default.into());
    let target = scope.get("TARGETPLATFORM").and_then(|p| p.parse::<Platform>().ok()).or_else(|| {
        let os = part("TARGETOS", &of_stage.os);
        let architecture = part("TARGETARCH", &of_stage.architecture);
        let variant = part("TARGETVARIANT", "");
        format!("{os}/{architecture}/{variant}").trim_end_matches('/').parse().ok()
    });
    match target {
        Some(t) if t.os != of_stage.os => format!("{of_stage}->{t}"),
        Some(t) if t.architecture != of_stage.architecture => {
            let text = t.to_string();
            format!("{of_stage}->{}", text.split_once('/').map_or(text.as_str(), |(_, rest)| rest))
        }
        _ => of_stage.to_string(),
    }
}

fn upper_first_word(text: &str) -> String {
    match text.split_once(' ') {
        Some((first, rest)) => format!("{} {rest}", first.to_uppercase()),
        None => text.to_uppercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_and_padded() {
        let mut lone = StepNames::new(None, 3);
        assert_eq!(lone.step(None, false, "FROM x"), "[1/3] FROM x");
        assert_eq!(lone.step(None, true, "run make"), "[2/3] ONBUILD RUN make");
        let mut many = StepNames::new(Some("build"), 12);
        assert_eq!(many.step(Some("linux/arm/v7"), false, "RUN a"), "[linux/arm/v7 build  1/12] RUN a");
    }

    #[test]
    fn cross_builds_show_their_target() {
        let amd64: Platform = "linux/amd64".parse().expect("a platform");
        for (args, shown) in [
            (vec![], "linux/amd64"),
            (vec![("TARGETPLATFORM", "linux/amd64")], "linux/amd64"),
            (vec![("TARGETPLATFORM", "linux/arm/v6")], "linux/amd64->arm/v6"),
            (vec![("TARGETARCH", "arm64")], "linux/amd64->arm64"),
            (vec![("TARGETOS", "windows")], "linux/amd64->windows/amd64"),
        ] {
            let mut scope = StageScope::default();
            for (name, value) in args {
                scope.declare_arg(name, Some(value), false);
            }
            assert_eq!(platform(&amd64, &scope), shown);
        }
    }
}
