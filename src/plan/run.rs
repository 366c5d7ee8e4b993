//! RUN.

use super::error::{PlanError, PlanErrorKind};
use super::graph::{DeviceWish, InlineFile, NetworkMode, Op, RunOp};
use super::image_config;
use super::paths;
use super::stage::{StageLowering, Step};
use crate::dockerfile::ast::{CommandLine, Heredoc, Run};
use crate::dockerfile::flags::csv_fields;
use crate::dockerfile::syntax::heredoc_word;
use crate::oci::history;
use crate::span::Spanned;

/// Where a heredoc that names its interpreter is put.
const SCRIPTS: &str = "/dev/pipes/";

/// The process of a RUN.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    argv: Vec<String>,
    files: Vec<InlineFile>,
    /// The first line of a heredoc that stands for the whole command.
    summary: Option<String>,
}

impl StageLowering<'_, '_, '_> {
    pub(crate) fn run_step(&mut self, step: &Step<'_>, run: &Run) -> Result<(), PlanError> {
        let insecure = run.security.as_ref().is_some_and(|security| security.node == "insecure");
        self.check_granted(step, run, insecure)?;
        let devices = self.devices(step, &run.devices)?;
        let process = process(run, &image_config::shell(&self.state.config));
        if process.argv.is_empty() {
            return Err(PlanError::at(step.span, PlanErrorKind::EmptyRun));
        }
        let (mounts, secret_mounts) = self.mounts(step, &run.mounts)?;
        let network = self.network(run.network.as_ref().map(|n| n.node.as_str()));
        let options = self.options();
        let mut add_hosts = options.add_hosts.clone();
        add_hosts.sort();
        let mut ulimits = options.ulimits.clone();
        ulimits.sort();
        let config = &self.state.config.config;
        let scope = &self.state.scope;
        let env = scope.env_under_args(config.env.as_deref().unwrap_or_default());
        let args = scope.arg_values();
        let names = args.keys().map(String::as_str).chain(env.iter().filter_map(|entry| Some(entry.split_once('=')?.0)));
        let op = RunOp {
            secret_names: names.filter(|name| scope.is_secret(name)).map(str::to_owned).collect(),
            env,
            args,
            proxy_env: scope.proxy_env(&self.table.build_args),
            user: config.user.clone(),
            workdir: paths::clean(&config.working_dir),
            network,
            insecure,
            devices,
            add_hosts,
            shm_size_bytes: options.shm_size_bytes,
            ulimits,
            hostname: options.hostname().into(),
            mounts,
            heredoc_files: process.files,
            argv: process.argv,
        };
        let text = history::run(&op.argv, &scope.history_args());
        let display = self.run_display(step, process.summary.as_deref());
        let of_config = self.state.secret_parts.iter().map(|part| (*part).to_owned());
        let secret_parts = of_config.chain(secret_mounts).collect();
        self.advance(step, Op::Run(Box::new(op)), display, true, text, secret_parts);
        Ok(())
    }

    /// What takes a step out of its sandbox must be granted. `--network=host` of the command line grants it to every step.
    fn check_granted(&self, step: &Step<'_>, run: &Run, insecure: bool) -> Result<(), PlanError> {
        let options = self.options();
        if let Some(network) = run.network.as_ref().filter(|network| network.node == "host")
            && !options.allowed.network_host
            && options.network != NetworkMode::Host
        {
            return Err(PlanError::at(step.at(network.span), PlanErrorKind::NotAllowed("network.host")));
        }
        if let Some(security) = run.security.as_ref().filter(|_| insecure && !options.allowed.insecure) {
            return Err(PlanError::at(step.at(security.span), PlanErrorKind::NotAllowed("security.insecure")));
        }
        Ok(())
    }

    /// The parser has checked the fields.
    fn devices(&mut self, step: &Step<'_>, written: &[Spanned<String>]) -> Result<Vec<DeviceWish>, PlanError> {
        let mut devices = Vec::new();
        for text in written {
            let fault =
                |error: crate::dockerfile::flags::CsvError| PlanError::at(step.at(text.span), PlanErrorKind::BadMount(error.to_string()));
            let mut wish = DeviceWish { name: String::new(), required: false };
            for field in csv_fields(&text.node).map_err(fault)? {
                match field.split_once('=').map_or((field.to_lowercase(), None), |(key, value)| (key.to_lowercase(), Some(value))) {
                    (key, None) if key == "required" => wish.required = true,
                    (key, Some(value)) if key == "required" => wish.required = matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"),
                    (key, Some(value)) if key == "name" => value.clone_into(&mut wish.name),
                    _ => wish.name = field,
                }
            }
            wish.name = self.word(step, &Spanned::new(wish.name, text.span))?;
            devices.push(wish);
        }
        Ok(devices)
    }

    /// The parser took only the three modes.
    fn network(&self, written: Option<&str>) -> NetworkMode {
        match written {
            Some("host") => NetworkMode::Host,
            Some("none") => NetworkMode::None,
            _ => self.options().network,
        }
    }
}

fn process(run: &Run, shell: &[String]) -> Process {
    let line = match &run.command {
        CommandLine::Exec(argv) => return Process { argv: argv.clone(), files: Vec::new(), summary: None },
        CommandLine::Shell(line) => line,
    };
    let mut files = Vec::new();
    let mut summary = None;
    let script = match run.heredocs.first() {
        None => line.clone(),
        Some(heredoc) if heredoc_word(line.trim()).is_ok_and(|word| word.is_some()) => {
            summary = Some(summarize(&heredoc.content));
            if heredoc.content.starts_with("#!") {
                // The file is run by the interpreter that it names, whatever SHELL is.
                let path = format!("{SCRIPTS}{}", heredoc.name);
                files.push(InlineFile { name: path.clone(), content: heredoc.content.clone() });
                path
            } else {
                heredoc.content.clone()
            }
        }
        Some(_) => with_bodies(line, &run.heredocs),
    };
    Process { argv: shell.iter().cloned().chain([script]).collect(), files, summary }
}

/// The command line with its heredocs put back, for the shell to read. Tabs of `<<-` are the shell's to strip.
fn with_bodies(line: &str, heredocs: &[Heredoc]) -> String {
    let mut out = line.to_string();
    for heredoc in heredocs {
        out.push('\n');
        out.push_str(&heredoc.raw);
        out.push_str(&heredoc.name);
    }
    out
}

fn summarize(body: &str) -> String {
    let mut lines = body.trim().lines();
    let first = lines.next().unwrap_or_default().to_string();
    if lines.next().is_some() { first + "..." } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::span::Span;

    fn heredoc(name: &str, content: &str) -> Heredoc {
        Heredoc {
            name: name.into(),
            fd: 0,
            chomp: false,
            expand: true,
            content: content.into(),
            raw: content.into(),
            span: Span::default(),
        }
    }

    fn run(line: &str, heredocs: Vec<Heredoc>) -> Run {
        Run { command: CommandLine::Shell(line.into()), heredocs, mounts: Vec::new(), network: None, security: None, devices: Vec::new() }
    }

    #[test]
    fn a_heredoc_alone_is_the_script() {
        let shell = ["/bin/sh".to_string(), "-c".to_string()];
        for line in ["<<EOF", "<<-EOF", "<<\"EOF\"", "3<<'EOF'"] {
            let made = process(&run(line, vec![heredoc("EOF", "a\nb\n")]), &shell);
            assert_eq!(made.argv, ["/bin/sh", "-c", "a\nb\n"], "{line}");
            assert_eq!(made.summary.as_deref(), Some("a..."));
        }
        let made = process(&run("<<EOF", vec![heredoc("EOF", "#!/usr/bin/env python\nx\n")]), &shell);
        assert_eq!(made.argv[2], "/dev/pipes/EOF");
        assert_eq!(made.files, [InlineFile { name: "/dev/pipes/EOF".into(), content: "#!/usr/bin/env python\nx\n".into() }]);
    }

    #[test]
    fn other_heredocs_stay_in_the_text() {
        let two = vec![heredoc("A", "1\n"), heredoc("B", "2\n")];
        let made = process(&run("cat <<A - <<B", two), &["sh".to_string()]);
        assert_eq!(made.argv, ["sh", "cat <<A - <<B\n1\nA\n2\nB"]);
        assert_eq!(made.summary, None);
    }
}
