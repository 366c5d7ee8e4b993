//! The syntax tree of a Dockerfile: what was written, unexpanded, with the place of every part.
//!
//! Words keep their quotes and variables; `word` expands them when `plan` knows the values.

use crate::span::{Span, Spanned};

/// A whole file.
#[derive(Clone, Debug)]
pub struct Dockerfile {
    /// Parser directives at the top.
    pub directives: Directives,
    /// `ARG`s before the first `FROM` (the global scope), in order.
    pub global_args: Vec<Instruction>,
    /// Stages in order; never empty in a file that parsed.
    pub stages: Vec<Stage>,
    /// Last lines of instructions whose continuation holds an empty line.
    pub empty_continuations: Vec<Span>,
}

/// `# syntax=`, `# escape=`, `# check=`.
#[derive(Clone, Debug)]
pub struct Directives {
    /// The frontend that the file asks for: the first word of the value.
    pub syntax: Option<Spanned<String>>,
    /// The escape character, `\` unless said otherwise.
    pub escape: char,
    /// The value of `# check=`, up to the first blank.
    pub check: Option<Spanned<String>>,
}

/// One `FROM` and what follows it.
#[derive(Clone, Debug)]
pub struct Stage {
    /// `FROM` as written (`from`, `From`).
    pub keyword: Spanned<String>,
    /// The base as written (`alpine:$V`, `scratch`, an earlier stage).
    pub base: Spanned<String>,
    /// `AS name`, as written; stages are found by it without regard to case.
    pub name: Option<Spanned<String>>,
    /// `AS` as written.
    pub as_keyword: Option<Spanned<String>>,
    /// `--platform=` as written.
    pub platform: Option<Spanned<String>>,
    /// The `FROM` instruction itself.
    pub span: Span,
    /// The source text of the `FROM` with continuations joined.
    pub original: String,
    /// Comments directly before it, without `#`.
    pub comments: Vec<String>,
    /// Instructions after the `FROM`.
    pub instructions: Vec<Instruction>,
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// The instruction's name as written (`RUN`, `run`).
    pub keyword: Spanned<String>,
    /// What it says.
    pub kind: InstructionKind,
    /// All lines of it, heredoc bodies included.
    pub span: Span,
    /// The instruction line with continuations joined and heredoc bodies left out, as it is shown in progress.
    pub original: String,
    /// Comments directly before it, without `#`.
    pub comments: Vec<String>,
}

/// The instructions of the Dockerfile reference.
#[derive(Clone, Debug)]
pub enum InstructionKind {
    /// `ADD`
    Add(Copy),
    /// `ARG a b=c`
    Arg(Vec<ArgDecl>),
    /// `CMD`
    Cmd(CommandLine),
    /// `COPY`
    Copy(Copy),
    /// `ENTRYPOINT`
    Entrypoint(CommandLine),
    /// `ENV k=v …` or `ENV k v`
    Env(Vec<KeyValue>),
    /// `EXPOSE 80 90-91/udp`, words as written, in byte order as BuildKit has them
    Expose(Vec<Spanned<String>>),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `LABEL k=v …` or `LABEL k v`
    Label(Vec<KeyValue>),
    /// `MAINTAINER name`
    Maintainer(Spanned<String>),
    /// `ONBUILD instruction`
    Onbuild(Onbuild),
    /// `RUN`
    Run(Run),
    /// `SHELL ["…"]`, never empty
    Shell(Vec<String>),
    /// `STOPSIGNAL word`
    Stopsignal(Spanned<String>),
    /// `USER word`
    User(Spanned<String>),
    /// `VOLUME` words as written, in JSON or plain form
    Volume(Vec<Spanned<String>>),
    /// `WORKDIR word`
    Workdir(Spanned<String>),
}

/// A key and a value as written, quotes and variables in place.
#[derive(Clone, Debug)]
pub struct KeyValue {
    /// The key, unexpanded.
    pub key: Spanned<String>,
    /// The value, unexpanded.
    pub value: Spanned<String>,
    /// Whether the form was the legacy `KEY value with spaces`.
    pub legacy: bool,
}

/// One name of an `ARG`.
#[derive(Clone, Debug)]
pub struct ArgDecl {
    /// The name as written.
    pub name: Spanned<String>,
    /// The default, unexpanded.
    pub default: Option<Spanned<String>>,
}

/// The command of `RUN`, `CMD`, `ENTRYPOINT` and `HEALTHCHECK CMD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// `["a", "b"]`
    Exec(Vec<String>),
    /// Text for the shell, continuations joined, heredoc operators still inside.
    Shell(String),
}

/// `RUN` with its flags.
#[derive(Clone, Debug)]
pub struct Run {
    /// What runs.
    pub command: CommandLine,
    /// Heredocs that the command line opens, in order.
    pub heredocs: Vec<Heredoc>,
    /// `--mount=` values as written.
    pub mounts: Vec<Spanned<String>>,
    /// `--network=`
    pub network: Option<Spanned<String>>,
    /// `--security=`
    pub security: Option<Spanned<String>>,
    /// `--device=`
    pub devices: Vec<Spanned<String>>,
}

/// `<<EOF` and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter without quotes.
    pub name: String,
    /// The file descriptor before `<<`, 0 if none.
    pub fd: u32,
    /// `<<-`: leading tabs are stripped (already done in `content`).
    pub chomp: bool,
    /// Whether variables in the body are expanded (the delimiter had no quotes).
    pub expand: bool,
    /// The body, chomped if it says so.
    pub content: String,
    /// The body as written.
    pub raw: String,
    /// Where the body stands.
    pub span: Span,
}

/// `COPY` and `ADD` with their flags.
#[derive(Clone, Debug, Default)]
pub struct Copy {
    /// Sources as written.
    pub sources: Vec<Spanned<String>>,
    /// Sources that are heredocs, in order.
    pub heredocs: Vec<Heredoc>,
    /// The destination as written.
    pub destination: Option<Spanned<String>>,
    /// `--from=` (COPY only)
    pub from: Option<Spanned<String>>,
    /// `--chown=`
    pub chown: Option<Spanned<String>>,
    /// `--chmod=`
    pub chmod: Option<Spanned<String>>,
    /// `--link[=bool]`, with where it stands
    pub link: Option<Spanned<bool>>,
    /// `--parents[=bool]`
    pub parents: Option<Spanned<bool>>,
    /// `--exclude=`
    pub exclude: Vec<Spanned<String>>,
    /// `--checksum=` (ADD only)
    pub checksum: Option<Spanned<String>>,
    /// `--keep-git-dir[=bool]` (ADD only)
    pub keep_git_dir: Option<Spanned<bool>>,
    /// `--unpack[=bool]` (ADD only)
    pub unpack: Option<Spanned<bool>>,
}

/// `HEALTHCHECK`. Zero means the default, as if the flag was not there.
#[derive(Clone, Debug)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`
    None,
    /// `HEALTHCHECK [options] CMD …`
    Cmd {
        /// The probe.
        command: CommandLine,
        /// `--interval=` in nanoseconds.
        interval_ns: Option<i64>,
        /// `--timeout=` in nanoseconds.
        timeout_ns: Option<i64>,
        /// `--start-period=` in nanoseconds.
        start_period_ns: Option<i64>,
        /// `--start-interval=` in nanoseconds.
        start_interval_ns: Option<i64>,
        /// `--retries=`
        retries: Option<i64>,
    },
}

/// `ONBUILD`.
#[derive(Clone, Debug)]
pub struct Onbuild {
    /// The trigger as it goes into the image config.
    pub text: String,
    /// The trigger's parsed form; `None` if it says something that is an error where the trigger runs (a flag that does not
    /// exist), which BuildKit reports there and not here.
    pub instruction: Option<Box<Instruction>>,
}
