//! Edits of a Dockerfile's text and of a file that change what is built and break nothing.

use crate::dockerfile::ast::{CommandLine, Dockerfile, InstructionKind};
use crate::dockerfile::parse;
use crate::span::SourceFile;

/// Where the command of a RUN begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EarlyRun {
    at: usize,
    /// The stage it is in, for people.
    pub(super) line: usize,
}

/// The first RUN with a shell of a stage that is wanted, if words can be put before its command.
pub(super) fn first_run(source: &SourceFile, dockerfile: &Dockerfile, is_wanted: &dyn Fn(usize) -> bool) -> Option<EarlyRun> {
    let stages = dockerfile.stages.iter().enumerate().filter(|(number, _)| is_wanted(*number));
    let runs = stages.flat_map(|(_, stage)| &stage.instructions).filter_map(|instruction| match &instruction.kind {
        InstructionKind::Run(run) if run.heredocs.is_empty() && matches!(run.command, CommandLine::Shell(_)) => Some((instruction, run)),
        _ => None,
    });
    let (instruction, run) = runs.into_iter().next()?;
    let CommandLine::Shell(command) = &run.command else { return None };
    let first = command.split_whitespace().next()?;
    let start = instruction.keyword.span.end as usize;
    let text = &source.text()[start..instruction.span.end as usize];
    // Flags stand before the command; they begin with two dashes, and no command does.
    let at = start + words(text).find(|(_, word)| *word == first)?.0;
    let found = EarlyRun { at, line: source.line_of(instruction.span.start) };
    // The parser has the last word on what the command is.
    let edited = parse(&SourceFile::new("Dockerfile", found.before(source.text(), ": x &&"))).0?;
    let is_so = edited.stages.iter().flat_map(|stage| &stage.instructions).any(|edited| match &edited.kind {
        InstructionKind::Run(run) => run.command == CommandLine::Shell(format!(": x && {command}")),
        _ => false,
    });
    is_so.then_some(found)
}

/// Whether a stage that is wanted has a RUN of any kind.
pub(super) fn has_run(dockerfile: &Dockerfile, is_wanted: &dyn Fn(usize) -> bool) -> bool {
    let mut stages = dockerfile.stages.iter().enumerate().filter(|(number, _)| is_wanted(*number));
    stages.any(|(_, stage)| stage.instructions.iter().any(|instruction| matches!(instruction.kind, InstructionKind::Run(_))))
}

/// The words of a text with the places where they begin.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_whitespace().map(|word| (word.as_ptr() as usize - text.as_ptr() as usize, word))
}

impl EarlyRun {
    /// The text with words before the command.
    pub(super) fn before(&self, text: &str, words: &str) -> String {
        format!("{}{words} {}", &text[..self.at], &text[self.at..])
    }
}

/// A line of blanks and tabs that stands for a number: other content, and the same program in every language that is likely.
pub(super) fn blank_line(number: u64) -> String {
    let digits = (0..u64::BITS).map(|bit| if number >> bit & 1 == 1 { '\t' } else { ' ' });
    digits.chain(['\n']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: &str, wanted: usize) -> Option<String> {
        let source = SourceFile::new("Dockerfile", text);
        let dockerfile = parse(&source).0.expect("a Dockerfile");
        first_run(&source, &dockerfile, &|stage| stage >= wanted).map(|run| run.before(text, ": 1 &&"))
    }

    #[test]
    fn words_go_before_the_first_command_of_a_shell() {
        for (text, wanted, expected) in [
            ("FROM a\nRUN make\n", 0, Some("FROM a\nRUN : 1 && make\n")),
            (
                "FROM a\nrun --mount=type=cache,target=/make \\\n  --network=none \\\n  make all\n",
                0,
                Some("FROM a\nrun --mount=type=cache,target=/make \\\n  --network=none \\\n  : 1 && make all\n"),
            ),
            (
                "FROM a\nRUN --mount=type=cache,target=/c \\\n  set -e; make\n",
                0,
                Some("FROM a\nRUN --mount=type=cache,target=/c \\\n  : 1 && set -e; make\n"),
            ),
            ("FROM a\nRUN one\nFROM b\nRUN two\n", 1, Some("FROM a\nRUN one\nFROM b\nRUN : 1 && two\n")),
            ("FROM a\nRUN [\"x\"]\nRUN y\n", 0, Some("FROM a\nRUN [\"x\"]\nRUN : 1 && y\n")),
            ("FROM a\nRUN <<E\nx\nE\n", 0, None),
            ("FROM a\nCOPY a b\n", 0, None),
        ] {
            assert_eq!(edited(text, wanted).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn numbers_are_lines_of_blanks() {
        assert_eq!(blank_line(5).trim_end_matches([' ', '\n']), "\t \t");
        assert_ne!(blank_line(1), blank_line(2));
        assert_eq!(blank_line(u64::MAX).trim(), "");
    }
}
