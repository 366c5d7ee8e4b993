//! RUN.

use super::error::{PlanError, PlanErrorKind};
use super::graph::{InlineFile, NetworkMode, Op, RunOp};
use super::image_config;
use super::paths;
use super::stage::{StageLowering, Step};
use super::support::Feature;
use crate::dockerfile::ast::{CommandLine, Heredoc, Run};
use crate::dockerfile::syntax::heredoc_word;
use crate::oci::history;

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
        self.refuse_run_flags(step, run);
        let process = process(run, &image_config::shell(&self.state.config));
        if process.argv.is_empty() {
            return Err(PlanError::at(step.span, PlanErrorKind::EmptyRun));
        }
        let mounts = self.mounts(step, &run.mounts)?;
        let network = self.network(run.network.as_ref().map(|n| n.node.as_str()));
        let options = self.options();
        let mut add_hosts = options.add_hosts.clone();
        add_hosts.sort();
        let mut ulimits = options.ulimits.clone();
        ulimits.sort();
        let config = &self.state.config.config;
        let scope = &self.state.scope;
        let op = RunOp {
            env: scope.env_under_args(config.env.as_deref().unwrap_or_default()),
            args: scope.arg_values(),
            proxy_env: scope.proxy_env(&self.table.build_args),
            user: config.user.clone(),
            workdir: paths::clean(&config.working_dir),
            network,
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
        self.advance(step, Op::Run(Box::new(op)), display, true, text);
        Ok(())
    }

    fn refuse_run_flags(&mut self, step: &Step<'_>, run: &Run) {
        if let Some(security) = &run.security
            && security.node != "sandbox"
        {
            self.refuse_unsupported(step, security.span, Feature::RunSecurity, "RUN");
        }
        for device in run.devices.iter().take(1) {
            self.refuse_unsupported(step, device.span, Feature::RunDevice, "RUN");
        }
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
