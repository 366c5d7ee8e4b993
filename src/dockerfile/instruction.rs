//! Nodes → instructions: flags and arguments against the reference.

use super::ast::{ArgDecl, CommandLine, Copy, Healthcheck, Heredoc, Instruction, InstructionKind, KeyValue, Onbuild, Run, Stage};
use super::duration::parse_duration;
use super::error::ErrorKind;
use super::flags::{FlagKind, FlagSpec, Flags, csv_fields};
use super::lines::chomp;
use super::suggest::suggest;
use super::syntax::{Arguments, HeredocWord, INSTRUCTIONS, Node, command_line, heredoc_word};
use crate::span::{Span, Spanned};

/// Errors of one node.
pub(super) type Faults = Vec<(ErrorKind, Span)>;

/// A node, checked.
#[derive(Debug)]
pub(super) enum Checked {
    /// `FROM` opens a stage.
    Stage(Box<Stage>),
    /// Anything else.
    Instruction(Box<Instruction>),
}

/// Checks a node.
pub(super) fn check(node: &Node) -> Result<Checked, Faults> {
    let Some(name) = node.name else {
        let name = node.keyword.node.clone();
        let suggestion = suggest(&name, INSTRUCTIONS, false);
        return Err(vec![(ErrorKind::UnknownInstruction { name, suggestion }, node.keyword.span)]);
    };
    let check = Check { node, name };
    if name == "FROM" {
        return check.stage().map(|stage| Checked::Stage(Box::new(stage)));
    }
    let kind = match name {
        "ADD" | "COPY" => check.copy()?,
        "ARG" => check.arg()?,
        "CMD" => check.command().map(InstructionKind::Cmd)?,
        "ENTRYPOINT" => check.command().map(InstructionKind::Entrypoint)?,
        "ENV" => InstructionKind::Env(check.pairs()?),
        "EXPOSE" => check.expose()?,
        "HEALTHCHECK" => InstructionKind::Healthcheck(check.healthcheck()?),
        "LABEL" => InstructionKind::Label(check.pairs()?),
        "MAINTAINER" => InstructionKind::Maintainer(check.one()?),
        "ONBUILD" => InstructionKind::Onbuild(check.onbuild()?),
        "RUN" => InstructionKind::Run(check.run()?),
        "SHELL" => check.shell()?,
        // BuildKit does not look at the flags of STOPSIGNAL, nor of ARG.
        "STOPSIGNAL" => InstructionKind::Stopsignal(check.argument()?),
        "USER" => InstructionKind::User(check.one()?),
        "VOLUME" => check.volume()?,
        "WORKDIR" => InstructionKind::Workdir(check.one()?),
        other => unreachable!("{other} is in no list of instructions"),
    };
    Ok(Checked::Instruction(Box::new(Instruction {
        keyword: node.keyword.clone(),
        kind,
        span: node.span,
        original: node.text.trim().to_owned(),
        comments: node.comments.clone(),
    })))
}

struct Check<'a> {
    node: &'a Node,
    name: &'static str,
}

impl Check<'_> {
    fn fault<T>(&self, kind: ErrorKind) -> Result<T, Faults> {
        Err(vec![(kind, self.first_line())])
    }

    /// What to mark where the fault has no place of its own: the statement without heredoc bodies.
    fn first_line(&self) -> Span {
        let mut span = self.node.span;
        if let Some(first) = self.node.heredocs.first() {
            span.end = first.span.start.max(span.start + 1) - 1;
        }
        span
    }

    fn flags(&self, known: &[FlagSpec]) -> Result<Flags, Faults> {
        Flags::check(self.name, &self.node.flags, known)
    }

    fn words(&self) -> &[Spanned<String>] {
        match &self.node.arguments {
            Arguments::Words { words, .. } => words,
            _ => &[],
        }
    }

    fn argument(&self) -> Result<Spanned<String>, Faults> {
        match &self.node.arguments {
            Arguments::Text(Some(text)) => Ok(text.clone()),
            _ => self.fault(ErrorKind::ExactlyOneArgument(self.name)),
        }
    }

    fn one(&self) -> Result<Spanned<String>, Faults> {
        let argument = self.argument()?;
        self.flags(&[])?;
        Ok(argument)
    }

    fn stage(&self) -> Result<Stage, Faults> {
        let words = self.words();
        let (base, name) = match words {
            [base] => (base, None),
            [base, keyword, name] if keyword.node.eq_ignore_ascii_case("as") => (base, Some((keyword, name))),
            _ => return self.fault(ErrorKind::FromArguments),
        };
        if let Some((_, name)) = name
            && !is_stage_name(&name.node.to_lowercase())
        {
            return Err(vec![(ErrorKind::StageName(name.node.clone()), name.span)]);
        }
        let flags = self.flags(&[("platform", FlagKind::Text)])?;
        Ok(Stage {
            keyword: self.node.keyword.clone(),
            base: base.clone(),
            name: name.map(|(_, name)| name.clone()),
            as_keyword: name.map(|(keyword, _)| keyword.clone()),
            platform: flags.nonempty("platform"),
            span: self.node.span,
            original: self.node.text.trim().to_owned(),
            comments: self.node.comments.clone(),
            instructions: Vec::new(),
        })
    }

    fn pairs(&self) -> Result<Vec<KeyValue>, Faults> {
        self.flags(&[])?;
        let Arguments::Pairs(pairs) = &self.node.arguments else { return Ok(Vec::new()) };
        if pairs.is_empty() {
            return self.fault(ErrorKind::AtLeastOneArgument(self.name));
        }
        match pairs.iter().find(|pair| pair.key.node.is_empty()) {
            Some(blank) => Err(vec![(ErrorKind::BlankName(self.name), blank.key.span.to(blank.value.span))]),
            None => Ok(pairs.clone()),
        }
    }

    fn arg(&self) -> Result<InstructionKind, Faults> {
        if self.words().is_empty() {
            return self.fault(ErrorKind::AtLeastOneArgument(self.name));
        }
        let declare = |word: &Spanned<String>| {
            let Some((name, value)) = word.node.split_once('=') else {
                return Ok(ArgDecl { name: word.clone(), default: None });
            };
            if name.is_empty() {
                return Err(vec![(ErrorKind::BlankName("ARG"), word.span)]);
            }
            // Bytes stand as in the source unless the line was continued within the word; then both parts are all of it.
            let is_whole = word.span.end - word.span.start == word.node.len() as u32;
            let middle = word.span.start + name.len() as u32;
            let place = |start, end| if is_whole { Span { start, end } } else { word.span };
            let name = Spanned::new(name.to_owned(), place(word.span.start, middle));
            let value = Spanned::new(value.to_owned(), place(middle + 1, word.span.end));
            Ok(ArgDecl { name, default: Some(value) })
        };
        Ok(InstructionKind::Arg(self.words().iter().map(declare).collect::<Result<_, _>>()?))
    }

    fn command(&self) -> Result<CommandLine, Faults> {
        self.flags(&[])?;
        Ok(command_line(&self.node.arguments))
    }

    fn expose(&self) -> Result<InstructionKind, Faults> {
        if self.words().is_empty() {
            return self.fault(ErrorKind::AtLeastOneArgument(self.name));
        }
        self.flags(&[])?;
        let mut ports = self.words().to_vec();
        ports.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(InstructionKind::Expose(ports))
    }

    fn volume(&self) -> Result<InstructionKind, Faults> {
        if self.words().is_empty() {
            return self.fault(ErrorKind::AtLeastOneArgument(self.name));
        }
        self.flags(&[])?;
        let trim = |word: &Spanned<String>| match word.node.trim() {
            "" => Err(vec![(ErrorKind::EmptyVolume, word.span)]),
            path => Ok(Spanned::new(path.to_owned(), word.span)),
        };
        Ok(InstructionKind::Volume(self.words().iter().map(trim).collect::<Result<_, _>>()?))
    }

    fn shell(&self) -> Result<InstructionKind, Faults> {
        self.flags(&[])?;
        match (command_line(&self.node.arguments), &self.node.arguments) {
            (CommandLine::Exec(words), _) if !words.is_empty() => Ok(InstructionKind::Shell(words)),
            (CommandLine::Shell(_), Arguments::Text(Some(_))) => self.fault(ErrorKind::ShellNotJson),
            _ => self.fault(ErrorKind::AtLeastOneArgument(self.name)),
        }
    }

    fn copy(&self) -> Result<InstructionKind, Faults> {
        let [sources @ .., destination] = self.words() else { return self.fault(ErrorKind::NoDestination(self.name)) };
        if sources.is_empty() {
            return self.fault(ErrorKind::NoDestination(self.name));
        }
        let is_add = self.name == "ADD";
        let only: &[FlagSpec] = if is_add {
            &[("keep-git-dir", FlagKind::Switch), ("checksum", FlagKind::Text), ("unpack", FlagKind::Switch)]
        } else {
            &[("from", FlagKind::Text), ("parents", FlagKind::Switch)]
        };
        let both = [("chown", FlagKind::Text), ("chmod", FlagKind::Text), ("link", FlagKind::Switch), ("exclude", FlagKind::Texts)];
        let flags = self.flags(&[&both[..], only].concat())?;
        if matches!(heredoc_word(&destination.node), Ok(Some(_))) {
            return Err(vec![(ErrorKind::HeredocAsDestination(self.name), destination.span)]);
        }
        let mut copy = Copy {
            sources: Vec::new(),
            heredocs: Vec::new(),
            destination: Some(destination.clone()),
            from: flags.nonempty("from"),
            chown: flags.nonempty("chown"),
            chmod: flags.nonempty("chmod"),
            link: flags.switch("link"),
            parents: flags.switch("parents"),
            exclude: flags.texts("exclude"),
            checksum: flags.nonempty("checksum"),
            keep_git_dir: flags.switch("keep-git-dir"),
            unpack: flags.switch("unpack"),
        };
        for source in sources {
            match heredoc_word(&source.node) {
                Ok(Some(word)) => copy.heredocs.push(self.heredoc_of(word, source.span)),
                _ => copy.sources.push(source.clone()),
            }
        }
        Ok(if is_add { InstructionKind::Add(copy) } else { InstructionKind::Copy(copy) })
    }

    /// The heredoc that a source names. In a JSON array the word has no body: the file is empty.
    fn heredoc_of(&self, word: HeredocWord, span: Span) -> Heredoc {
        let body = self.node.heredocs.iter().rev().find(|h| h.name == word.name);
        let (raw, span) = body.map_or((String::new(), span), |h| (h.raw.clone(), h.span));
        heredoc(word, raw, span)
    }

    fn run(&self) -> Result<Run, Faults> {
        let flags = self.flags(&[
            ("mount", FlagKind::Texts),
            ("network", FlagKind::Text),
            ("security", FlagKind::Text),
            ("device", FlagKind::Texts),
        ])?;
        let run = Run {
            command: command_line(&self.node.arguments),
            heredocs: self.node.heredocs.clone(),
            mounts: flags.texts("mount"),
            network: flags.text("network"),
            security: flags.text("security"),
            devices: flags.texts("device"),
        };
        let mut faults = Faults::new();
        let mut note = |span, result: Result<(), ErrorKind>| faults.extend(result.err().map(|kind| (kind, span)));
        for device in &run.devices {
            note(device.span, check_device(&device.node));
        }
        for mount in &run.mounts {
            note(mount.span, check_mount(&mount.node));
        }
        if let Some(network) = run.network.as_ref().filter(|n| !matches!(n.node.as_str(), "default" | "none" | "host")) {
            note(network.span, Err(ErrorKind::NetworkMode(network.node.clone())));
        }
        if let Some(security) = run.security.as_ref().filter(|s| !matches!(s.node.as_str(), "sandbox" | "insecure")) {
            note(security.span, Err(ErrorKind::SecurityMode(security.node.clone())));
        }
        if faults.is_empty() { Ok(run) } else { Err(faults) }
    }

    fn healthcheck(&self) -> Result<Healthcheck, Faults> {
        let Arguments::Probe(Some((kind, rest))) = &self.node.arguments else {
            return self.fault(ErrorKind::AtLeastOneArgument(self.name));
        };
        let command = command_line(rest);
        let is_empty = matches!(&command, CommandLine::Exec(words) if words.is_empty()) || command == CommandLine::Shell(String::new());
        let upper = kind.node.to_uppercase();
        if upper == "NONE" {
            return if is_empty { Ok(Healthcheck::None) } else { self.fault(ErrorKind::HealthcheckNoneArguments) };
        }
        let flags = self.flags(&["interval", "timeout", "start-period", "start-interval", "retries"].map(|name| (name, FlagKind::Text)))?;
        if upper != "CMD" {
            return Err(vec![(ErrorKind::HealthcheckType(upper), kind.span)]);
        }
        if is_empty {
            return self.fault(ErrorKind::HealthcheckNoCommand);
        }
        Ok(Healthcheck::Cmd {
            command,
            interval_ns: interval(&flags, "interval")?,
            timeout_ns: interval(&flags, "timeout")?,
            start_period_ns: interval(&flags, "start-period")?,
            start_interval_ns: interval(&flags, "start-interval")?,
            retries: retries(&flags)?,
        })
    }

    fn onbuild(&self) -> Result<Onbuild, Faults> {
        let Arguments::Node(Some(trigger)) = &self.node.arguments else {
            return self.fault(ErrorKind::AtLeastOneArgument(self.name));
        };
        self.flags(&[])?;
        match trigger.name {
            Some("ONBUILD") => return Err(vec![(ErrorKind::OnbuildChain, trigger.keyword.span)]),
            Some(name @ ("FROM" | "MAINTAINER")) => {
                return Err(vec![(ErrorKind::OnbuildForbidden(name.to_owned()), trigger.keyword.span)]);
            }
            _ => {}
        }
        // The text goes on as it was written behind the keyword.
        let text = self.node.text.trim_start();
        let mut text = text.get(self.name.len()..).unwrap_or_default().trim_start().to_owned();
        for heredoc in &self.node.heredocs {
            text.push('\n');
            text.push_str(&heredoc.raw);
            text.push_str(&heredoc.name);
        }
        let trigger = Node { heredocs: self.node.heredocs.clone(), ..(**trigger).clone() };
        let instruction = match check(&trigger) {
            Ok(Checked::Instruction(instruction)) => Some(instruction),
            _ => None,
        };
        Ok(Onbuild { text, instruction })
    }
}

/// A heredoc from its opening word and its body.
pub(super) fn heredoc(word: HeredocWord, raw: String, span: Span) -> Heredoc {
    let content = if word.chomp { chomp(&raw) } else { raw.clone() };
    Heredoc { name: word.name, fd: word.fd, chomp: word.chomp, expand: word.expand, content, raw, span }
}

fn is_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'))
}

fn interval(flags: &Flags, name: &'static str) -> Result<Option<i64>, Faults> {
    let Some(flag) = flags.nonempty(name) else { return Ok(None) };
    match parse_duration(&flag.node) {
        Ok(0) => Ok(None),
        Ok(ns) if ns < 1_000_000 => Err(vec![(ErrorKind::ShortInterval(name), flag.span)]),
        Ok(ns) => Ok(Some(ns)),
        Err(error) => Err(vec![(error.into(), flag.span)]),
    }
}

fn retries(flags: &Flags) -> Result<Option<i64>, Faults> {
    let Some(flag) = flags.nonempty("retries") else { return Ok(None) };
    let kind = match flag.node.parse::<i32>() {
        Ok(0) => return Ok(None),
        Ok(number) if number > 0 => return Ok(Some(number.into())),
        Ok(number) => ErrorKind::NegativeRetries(number.into()),
        Err(error) => {
            use std::num::IntErrorKind::{NegOverflow, PosOverflow};
            let is_large = matches!(error.kind(), PosOverflow | NegOverflow);
            ErrorKind::NotANumber { value: flag.node.clone(), reason: if is_large { "value out of range" } else { "invalid syntax" } }
        }
    };
    Err(vec![(kind, flag.span)])
}

/// What can be said of a mount before its variables have values.
fn check_mount(value: &str) -> Result<(), ErrorKind> {
    let fields = csv_fields(value).map_err(|error| ErrorKind::Csv { what: "mounts", error })?;
    let is_variable = |value: &str| value.find('$').is_some_and(|at| at + 1 != value.len());
    let from =
        fields.iter().filter_map(|field| field.split_once('=')).find(|(key, value)| key.eq_ignore_ascii_case("from") && is_variable(value));
    if from.is_some() { Err(ErrorKind::VariableInMountFrom) } else { Ok(()) }
}

fn check_device(value: &str) -> Result<(), ErrorKind> {
    let mut name: Option<String> = None;
    for field in csv_fields(value).map_err(|error| ErrorKind::Csv { what: "devices", error })? {
        let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        match (key.to_lowercase().as_str(), value) {
            ("name", Some(value)) => {
                if let Some(first) = name.replace(value.to_owned()).filter(|n| !n.is_empty()) {
                    return Err(ErrorKind::DeviceNamedTwice(first));
                }
            }
            ("required", None) => {}
            ("required", Some(value)) => {
                if !matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True" | "0" | "f" | "F" | "false" | "FALSE" | "False") {
                    return Err(ErrorKind::FieldValue { key: "required".to_owned(), value: value.to_owned() });
                }
            }
            _ if name.as_ref().is_none_or(String::is_empty) => name = Some(field),
            (_, None) => return Err(ErrorKind::FieldWithoutValue(field)),
            (key, Some(_)) => {
                let suggestion = suggest(key, ["name", "required"], true);
                return Err(ErrorKind::UnexpectedKey { key: key.to_owned(), field, suggestion });
            }
        }
    }
    Ok(())
}
