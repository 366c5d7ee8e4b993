//! The names of steps as progress shows them: `[build 2/5] RUN make`.

use crate::oci::platform::Platform;

/// Counts the steps of one stage.
#[derive(Clone, Debug)]
pub(crate) struct StepNames {
    prefix: String,
    total: usize,
    next: usize,
}

impl StepNames {
    /// For a stage with `total` steps; no label for the only stage of a file, a platform only among several.
    pub(crate) fn new(label: Option<&str>, platform: Option<&Platform>, total: usize) -> Self {
        let words = platform.map(ToString::to_string).into_iter().chain(label.map(Into::into));
        Self { prefix: words.map(|w| w + " ").collect(), total, next: 1 }
    }

    /// The next step's name; `text` is its instruction after expansion.
    pub(crate) fn step(&mut self, onbuild: bool, text: &str) -> String {
        let width = self.total.max(1).ilog10() as usize + 1;
        let number = self.next;
        self.next += 1;
        let onbuild = if onbuild { "ONBUILD " } else { "" };
        format!("[{}{number:>width$}/{}] {onbuild}{}", self.prefix, self.total, upper_first_word(text))
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
        let mut lone = StepNames::new(None, None, 3);
        assert_eq!(lone.step(false, "FROM x"), "[1/3] FROM x");
        assert_eq!(lone.step(true, "run make"), "[2/3] ONBUILD RUN make");
        let platform = Platform { os: "linux".into(), architecture: "arm".into(), variant: "v7".into() };
        let mut many = StepNames::new(Some("build"), Some(&platform), 12);
        assert_eq!(many.step(false, "RUN a"), "[linux/arm/v7 build  1/12] RUN a");
    }
}
