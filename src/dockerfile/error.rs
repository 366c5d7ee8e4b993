//! What can be wrong with a Dockerfile, in BuildKit's sentences.

use super::duration::DurationError;
use super::flags::CsvError;
use super::word::{WordError, quote};
use crate::span::{SourceFile, Span};

/// What a line of a file may have, without its line end.
pub(super) const LINE_LIMIT_BYTES: usize = 65_535;

/// One error of a file. Prints as the bare sentence; [`ParseError::sentence`] is what BuildKit prints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct ParseError {
    /// What is wrong.
    pub kind: ErrorKind,
    /// The part that is wrong.
    pub span: Span,
    /// The 1-based line on which the instruction starts.
    pub line: usize,
    /// What may help, in our words.
    pub hint: Option<String>,
}

impl ParseError {
    pub(super) fn new(kind: ErrorKind, span: Span, source: &SourceFile) -> Self {
        Self { line: source.line_of(span.start), hint: kind.hint(), kind, span }
    }

    /// The sentence as BuildKit prints it: most errors name the line.
    pub fn sentence(&self) -> String {
        if self.kind.is_about_instruction() {
            format!("dockerfile parse error on line {}: {}", self.line, self.kind)
        } else {
            self.kind.to_string()
        }
    }
}

fn did_you_mean(suggestion: Option<&String>) -> String {
    suggestion.map_or(String::new(), |s| format!(" (did you mean {s}?)"))
}

/// The single errors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ErrorKind {
    /// The same directive twice.
    #[error("only one {0} parser directive can be used")]
    RepeatedDirective(String),
    /// `# escape=` with something else than the two.
    #[error("invalid escape token '{0}' does not match ` or \\")]
    EscapeToken(String),
    /// `ENV a=b c`
    #[error("Syntax error - can't find = in {}. Must be of the form: name=value", quote(.0))]
    NotNameValue(String),
    /// `ENV a`, `LABEL a`
    #[error("{0} must have two arguments")]
    TwoArguments(&'static str),
    /// `["a", 1]`
    #[error("when using JSON array syntax, arrays must be comprised of strings only")]
    JsonOfOthers,
    /// A heredoc without its last line.
    #[error("unterminated heredoc")]
    UnterminatedHeredoc {
        /// The line that is missing.
        terminator: String,
    },
    /// A heredoc's delimiter with quotes that do not match.
    #[error(transparent)]
    HeredocDelimiter(#[from] WordError),
    /// A line that BuildKit does not read.
    #[error("dockerfile line greater than max allowed size of {LINE_LIMIT_BYTES}")]
    LongLine,
    /// Nothing at all.
    #[error("the Dockerfile cannot be empty")]
    Empty,
    /// Nothing but comments.
    #[error("file with no instructions")]
    NoInstructions,
    /// `ARG` only.
    #[error("dockerfile contains no stages to build")]
    NoStages,
    /// Something else than `ARG` before the first `FROM`.
    #[error("no build stage in current context")]
    NoStageYet,
    /// A trigger of a base image that is more or less than one instruction.
    #[error("onbuild trigger should be a single expression")]
    TriggerNotSingle,
    /// A trigger of a base image that is a `FROM`.
    #[error("FROM isn't allowed as an ONBUILD trigger")]
    TriggerIsFrom,
    /// No such instruction.
    #[error("unknown instruction: {name}{}", did_you_mean(.suggestion.as_ref()))]
    UnknownInstruction {
        /// As written.
        name: String,
        /// The nearest that exists, in the same case.
        suggestion: Option<String>,
    },
    /// No such flag.
    #[error("unknown flag: {flag}{}", did_you_mean(.suggestion.as_ref()))]
    UnknownFlag {
        /// As written, without its value.
        flag: String,
        /// The nearest that the instruction has, without dashes.
        suggestion: Option<String>,
        /// The instruction.
        instruction: &'static str,
        /// All its flags.
        known: Vec<&'static str>,
    },
    /// A flag twice that stands for one value.
    #[error("duplicate flag specified: {0}")]
    DuplicateFlag(String),
    /// `--from` without `=value`.
    #[error("missing a value on flag: {0}")]
    FlagWithoutValue(String),
    /// `--link=perhaps`
    #[error("expecting boolean value for flag {flag}, not: {value}")]
    FlagNotBoolean {
        /// The flag.
        flag: String,
        /// Its value.
        value: String,
    },
    /// An instruction without anything.
    #[error("{0} requires at least one argument")]
    AtLeastOneArgument(&'static str),
    /// An instruction that takes one word.
    #[error("{0} requires exactly one argument")]
    ExactlyOneArgument(&'static str),
    /// `COPY a`
    #[error("{0} requires at least two arguments, but only one was provided. Destination could not be determined")]
    NoDestination(&'static str),
    /// `COPY a <<EOF`
    #[error("{0} cannot accept a heredoc as a destination")]
    HeredocAsDestination(&'static str),
    /// `ENV =a`
    #[error("{0} names can not be blank")]
    BlankName(&'static str),
    /// `FROM a b`
    #[error("FROM requires either one or three arguments")]
    FromArguments,
    /// `FROM a AS 1`
    #[error("invalid name for build stage: {}, name can't start with a number or contain symbols", quote(.0))]
    StageName(String),
    /// `ONBUILD ONBUILD …`
    #[error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")]
    OnbuildChain,
    /// `ONBUILD FROM`, `ONBUILD MAINTAINER`
    #[error("{0} isn't allowed as an ONBUILD trigger")]
    OnbuildForbidden(String),
    /// `SHELL sh -c`
    #[error("SHELL requires the arguments to be in JSON form")]
    ShellNotJson,
    /// `VOLUME [""]`
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,
    /// `HEALTHCHECK NONE x`
    #[error("HEALTHCHECK NONE takes no arguments")]
    HealthcheckNoneArguments,
    /// `HEALTHCHECK CMD`
    #[error("Missing command after HEALTHCHECK CMD")]
    HealthcheckNoCommand,
    /// `HEALTHCHECK TCP …`
    #[error("Unknown type {} in HEALTHCHECK (try CMD)", quote(.0))]
    HealthcheckType(String),
    /// A duration that is none.
    #[error(transparent)]
    Duration(#[from] DurationError),
    /// A duration below a millisecond.
    #[error("Interval {} cannot be less than 1ms", quote(.0))]
    ShortInterval(&'static str),
    /// `--retries=x`
    #[error("strconv.ParseInt: parsing {}: {reason}", quote(.value))]
    NotANumber {
        /// As written.
        value: String,
        /// In Go's words.
        reason: &'static str,
    },
    /// `--retries=-1`
    #[error("--retries cannot be negative ({0})")]
    NegativeRetries(i64),
    /// `RUN --network=x`
    #[error("invalid network mode {}", quote(.0))]
    NetworkMode(String),
    /// `RUN --security=x`
    #[error("security {} is not valid", quote(.0))]
    SecurityMode(String),
    /// A flag's value that is no row of comma-separated fields.
    #[error("failed to parse csv {what}: {error}")]
    Csv {
        /// `mounts` or `devices`.
        what: &'static str,
        /// The reason.
        error: CsvError,
    },
    /// `RUN --mount=from=$stage`
    #[error("'from' doesn't support variable expansion, define alias stage instead")]
    VariableInMountFrom,
    /// A second name of a device.
    #[error("device name already set to {0}")]
    DeviceNamedTwice(String),
    /// A field without a value that needs one.
    #[error("invalid field '{0}' must be a key=value pair")]
    FieldWithoutValue(String),
    /// A field that does not exist.
    #[error("unexpected key '{key}' in '{field}'{}", did_you_mean(.suggestion.as_ref()))]
    UnexpectedKey {
        /// The key.
        key: String,
        /// The field as written.
        field: String,
        /// The nearest that exists.
        suggestion: Option<String>,
    },
    /// A field's value that does not fit.
    #[error("invalid value for {key}: {value}")]
    FieldValue {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
}

impl ErrorKind {
    /// Errors that BuildKit finds after the whole file was split into instructions. It prints the line for those, and it prints
    /// the others first wherever they stand.
    pub fn is_about_instruction(&self) -> bool {
        !matches!(
            self,
            Self::RepeatedDirective(_)
                | Self::EscapeToken(_)
                | Self::NotNameValue(_)
                | Self::TwoArguments(_)
                | Self::JsonOfOthers
                | Self::UnterminatedHeredoc { .. }
                | Self::HeredocDelimiter(_)
                | Self::LongLine
                | Self::Empty
                | Self::NoInstructions
                | Self::NoStages
                | Self::NoStageYet
                | Self::TriggerNotSingle
                | Self::TriggerIsFrom
        )
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::UnknownInstruction { suggestion: Some(s), .. } => format!("did you mean `{s}`?"),
            Self::UnknownInstruction { name, .. } if name.starts_with(['&', '|', '-', '<', '>', '$', '"', '\'', ';']) => {
                "this looks like the rest of a command: a line that goes on ends with the escape character".to_owned()
            }
            Self::UnknownInstruction { .. } => format!("the instructions are {}", super::syntax::INSTRUCTIONS.join(", ")),
            Self::UnknownFlag { suggestion: Some(s), .. } => format!("did you mean `--{s}`?"),
            Self::UnknownFlag { instruction, known, .. } if known.is_empty() => format!("`{instruction}` has no flags"),
            Self::UnknownFlag { instruction, known, .. } => format!("`{instruction}` has the flags --{}", known.join(", --")),
            Self::FlagWithoutValue(flag) => format!("write `{flag}=value`, without blanks around `=`"),
            Self::FlagNotBoolean { flag, .. } => format!("write `{flag}`, `{flag}=true` or `{flag}=false`"),
            Self::UnterminatedHeredoc { terminator } => format!("no line after it consists of `{terminator}` alone"),
            Self::NotNameValue(word) => format!("quote the value if `{word}` belongs to it"),
            Self::TwoArguments(name) => format!("write `{name} name=value`"),
            Self::JsonOfOthers => "put every element in double quotes".to_owned(),
            Self::LongLine => "continue it on the next line, or put the text into a heredoc or a file of the context".to_owned(),
            Self::Empty | Self::NoInstructions | Self::NoStages => "a Dockerfile needs at least one `FROM`".to_owned(),
            Self::NoStageYet => "only `ARG` may stand before the first `FROM`".to_owned(),
            Self::FromArguments => "write `FROM image` or `FROM image AS name`".to_owned(),
            Self::StageName(_) => "a stage's name has letters, digits, `-`, `_` and `.`, and starts with a letter".to_owned(),
            Self::ShellNotJson => "write `SHELL [\"/bin/sh\", \"-c\"]`".to_owned(),
            Self::Duration(DurationError::MissingUnit(text)) => format!("write `{text}s` for seconds"),
            Self::NetworkMode(_) => "the modes are default, none and host".to_owned(),
            Self::SecurityMode(_) => "the modes are sandbox and insecure".to_owned(),
            Self::VariableInMountFrom => "name a stage: `FROM $image AS name` after a global `ARG`, then `from=name`".to_owned(),
            _ => return None,
        })
    }
}
