//! What metadata instructions do to the image config. Words come expanded; each function returns the history text.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::error::PlanErrorKind;
use super::paths;
use super::ports::expand_ports;
use crate::dockerfile::ast::{CommandLine, Healthcheck};
use crate::oci::config::{DEFAULT_PATH, HealthConfig, ImageConfig};
use crate::oci::history;
use crate::oci::platform::Platform;

/// The shell of an image whose config names none.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// `SHELL` in force.
pub(crate) fn shell(config: &ImageConfig) -> Vec<String> {
    match &config.config.shell {
        Some(shell) if !shell.is_empty() => shell.clone(),
        _ => DEFAULT_SHELL.map(Into::into).to_vec(),
    }
}

/// A command as the image holds it: shell form behind the shell.
pub(crate) fn command_words(config: &ImageConfig, command: &CommandLine) -> Vec<String> {
    match command {
        CommandLine::Exec(words) => words.clone(),
        CommandLine::Shell(text) => shell(config).into_iter().chain([text.clone()]).collect(),
    }
}

/// The config that a stage starts with: the base's, with a PATH and an absolute working directory, without triggers.
pub(crate) fn begin(config: &mut ImageConfig) {
    config.config.on_build = None;
    let env = config.config.env.get_or_insert_default();
    if !env.iter().any(|e| e.split_once('=').map_or(e.as_str(), |(name, _)| name) == "PATH") {
        env.push(format!("PATH={DEFAULT_PATH}"));
    }
    if !config.config.working_dir.is_empty() {
        config.config.working_dir = paths::workdir(&config.config.working_dir, &config.config.working_dir);
    }
}

/// The last touches of a target: `--label`, and the platform that was asked for.
pub(crate) fn finish(config: &mut ImageConfig, labels: &BTreeMap<String, String>, asked: Option<&Platform>) {
    if !labels.is_empty() {
        config.config.labels.get_or_insert_default().extend(labels.clone());
    }
    if let Some(asked) = asked {
        let same = config.os == asked.os && config.architecture == asked.architecture;
        config.os.clone_from(&asked.os);
        config.architecture.clone_from(&asked.architecture);
        if !asked.variant.is_empty() || !same {
            config.variant.clone_from(&asked.variant);
        }
    }
    let written = config.platform().to_string();
    if let Ok(normal) = written.parse::<Platform>() {
        (config.os, config.architecture, config.variant) = (normal.os, normal.architecture, normal.variant);
    }
}

/// `ENV`: a known name keeps its place.
pub(crate) fn env(config: &mut ImageConfig, pairs: &[(String, String)]) -> String {
    let list = config.config.env.get_or_insert_default();
    for (name, value) in pairs {
        let entry = format!("{name}={value}");
        let known = list.iter_mut().find(|e| e.split_once('=').map_or(e.as_str(), |(n, _)| n) == name);
        match known {
            Some(known) => *known = entry,
            None => list.push(entry),
        }
    }
    history::pairs("ENV", pairs)
}

/// `LABEL`
pub(crate) fn label(config: &mut ImageConfig, pairs: &[(String, String)]) -> String {
    config.config.labels.get_or_insert_default().extend(pairs.iter().cloned());
    history::pairs("LABEL", pairs)
}

/// `CMD`
pub(crate) fn cmd(config: &mut ImageConfig, command: &CommandLine) -> String {
    let words = command_words(config, command);
    let text = history::quoted_list("CMD", &words);
    config.config.cmd = non_empty(words);
    config.config.args_escaped = true;
    text
}

/// `ENTRYPOINT`, which drops a CMD that this stage did not set itself.
pub(crate) fn entrypoint(config: &mut ImageConfig, command: &CommandLine, own_cmd: bool) -> String {
    let words = command_words(config, command);
    let text = history::quoted_list("ENTRYPOINT", &words);
    config.config.entrypoint = non_empty(words);
    if !own_cmd {
        config.config.cmd = None;
    }
    text
}

fn non_empty(words: Vec<String>) -> Option<Vec<String>> {
    (!words.is_empty()).then_some(words)
}

/// `EXPOSE`; history has the ports in the order of the sorted words.
pub(crate) fn expose(config: &mut ImageConfig, words: &[String]) -> Result<String, PlanErrorKind> {
    let mut ports = Vec::new();
    for word in words {
        ports.extend(expand_ports(word)?);
    }
    if ports.is_empty() {
        return Ok(history::plain_list("EXPOSE", &ports));
    }
    config.config.exposed_ports.get_or_insert_default().extend(ports.iter().map(|p| (p.clone(), Value::Object(Map::new()))));
    Ok(history::plain_list("EXPOSE", &ports))
}

/// `VOLUME`
pub(crate) fn volume(config: &mut ImageConfig, words: &[String]) -> Result<String, PlanErrorKind> {
    if words.iter().any(String::is_empty) {
        return Err(PlanErrorKind::EmptyVolume);
    }
    config.config.volumes.get_or_insert_default().extend(words.iter().map(|v| (v.clone(), Value::Object(Map::new()))));
    Ok(history::plain_list("VOLUME", words))
}

/// `USER`
pub(crate) fn user(config: &mut ImageConfig, user: String) -> String {
    let text = history::word("USER", &user);
    config.config.user = user;
    text
}

/// `MAINTAINER`
pub(crate) fn maintainer(config: &mut ImageConfig, name: &str) -> String {
    config.author = (!name.is_empty()).then(|| name.to_string());
    history::word("MAINTAINER", name)
}

/// `SHELL`
pub(crate) fn set_shell(config: &mut ImageConfig, words: &[String]) -> String {
    config.config.shell = Some(words.to_vec());
    history::plain_list("SHELL", words)
}

/// `STOPSIGNAL`
pub(crate) fn stop_signal(config: &mut ImageConfig, signal: String) -> Result<String, PlanErrorKind> {
    if !is_signal(&signal) {
        return Err(PlanErrorKind::BadSignal(signal));
    }
    let text = history::word("STOPSIGNAL", &signal);
    config.config.stop_signal = signal;
    Ok(text)
}

/// A number other than 0, or a name of Linux with or without `SIG`.
fn is_signal(text: &str) -> bool {
    const NAMES: &str = " ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM TRAP TSTP \
        TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX ";
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let realtime = |rest: &str, limit: u32| {
        let plain = !rest.starts_with('0') && rest.bytes().all(|b| b.is_ascii_digit());
        plain && rest.parse::<u32>().is_ok_and(|n| n <= limit)
    };
    match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
        (Some(rest), _) => realtime(rest, 15),
        (_, Some(rest)) => realtime(rest, 14),
        _ => !name.is_empty() && !name.contains(' ') && NAMES.contains(&format!(" {name} ")),
    }
}

/// `HEALTHCHECK`
pub(crate) fn healthcheck(config: &mut ImageConfig, written: &Healthcheck) -> String {
    let health = match written {
        Healthcheck::None => HealthConfig { test: vec!["NONE".into()], ..HealthConfig::default() },
        Healthcheck::Cmd { command, interval_ns, timeout_ns, start_period_ns, start_interval_ns, retries } => HealthConfig {
            test: match command {
                CommandLine::Exec(words) => [vec!["CMD".to_string()], words.clone()].concat(),
                CommandLine::Shell(text) => vec!["CMD-SHELL".into(), text.clone()],
            },
            interval: interval_ns.unwrap_or_default(),
            timeout: timeout_ns.unwrap_or_default(),
            start_period: start_period_ns.unwrap_or_default(),
            start_interval: start_interval_ns.unwrap_or_default(),
            retries: retries.unwrap_or_default(),
        },
    };
    let text = history::healthcheck(&health);
    config.config.healthcheck = Some(health);
    text
}

/// `WORKDIR`: the new directory and its history text.
pub(crate) fn workdir(config: &mut ImageConfig, written: &str) -> String {
    config.config.working_dir = paths::workdir(&config.config.working_dir, written);
    history::word("WORKDIR", &config.config.working_dir)
}

/// `ONBUILD`, which leaves no history.
pub(crate) fn onbuild(config: &mut ImageConfig, text: &str) {
    config.config.on_build.get_or_insert_default().push(text.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> ImageConfig {
        ImageConfig::scratch(&Platform { os: "linux".into(), architecture: "amd64".into(), variant: String::new() })
    }

    fn shell_form(text: &str) -> CommandLine {
        CommandLine::Shell(text.into())
    }

    #[test]
    fn env_keeps_its_place() {
        let mut config = scratch();
        env(&mut config, &[("A".into(), "1".into()), ("B".into(), "2".into())]);
        assert_eq!(env(&mut config, &[("A".into(), "3".into())]), "ENV A=3");
        assert_eq!(config.config.env.expect("set")[1..], ["A=3", "B=2"]);
    }

    #[test]
    fn entrypoint_drops_an_inherited_cmd_only() {
        let mut config = scratch();
        assert_eq!(cmd(&mut config, &shell_form("echo \"x\"")), r#"CMD ["/bin/sh" "-c" "echo \"x\""]"#);
        entrypoint(&mut config, &CommandLine::Exec(vec!["/e".into()]), true);
        assert!(config.config.cmd.is_some());
        assert_eq!(entrypoint(&mut config, &CommandLine::Exec(Vec::new()), false), "ENTRYPOINT []");
        assert_eq!((config.config.cmd, config.config.entrypoint), (None, None));
    }

    #[test]
    fn shell_is_used_from_then_on() {
        let mut config = scratch();
        assert_eq!(set_shell(&mut config, &["/bin/bash".into(), "-ec".into()]), "SHELL [/bin/bash -ec]");
        assert_eq!(command_words(&config, &shell_form("x")), ["/bin/bash", "-ec", "x"]);
    }

    #[test]
    fn signals() {
        for (text, good) in [
            ("SIGTERM", true),
            ("term", true),
            ("9", true),
            ("RTMIN+3", true),
            ("SIGRTMAX-14", true),
            ("0", false),
            ("SIGFOO", false),
            ("", false),
            ("RTMIN+16", false),
            ("INT IO", false),
        ] {
            assert_eq!(is_signal(text), good, "{text}");
        }
    }

    #[test]
    fn healthchecks() {
        let mut config = scratch();
        let probe = Healthcheck::Cmd {
            command: shell_form("curl x || exit 1"),
            interval_ns: Some(10_000_000_000),
            timeout_ns: None,
            start_period_ns: None,
            start_interval_ns: None,
            retries: Some(3),
        };
        let text = "HEALTHCHECK {Test:[CMD-SHELL curl x || exit 1] Interval:10s Timeout:0s StartPeriod:0s StartInterval:0s Retries:3}";
        assert_eq!(healthcheck(&mut config, &probe), text);
        assert!(healthcheck(&mut config, &Healthcheck::None).starts_with("HEALTHCHECK {Test:[NONE] "));
    }

    #[test]
    fn a_stage_starts_with_path_and_without_triggers() {
        let mut config = ImageConfig::default();
        config.config.on_build = Some(vec!["RUN x".into()]);
        begin(&mut config);
        assert_eq!(config.config.env, Some(vec![format!("PATH={DEFAULT_PATH}")]));
        assert_eq!(config.config.on_build, None);
    }

    #[test]
    fn the_platform_asked_for_stands_over_the_base() {
        let mut config = scratch();
        config.variant = "v8".into();
        let arm = Platform { os: "linux".into(), architecture: "arm".into(), variant: "v7".into() };
        finish(&mut config, &BTreeMap::from([("a".into(), "b".into())]), Some(&arm));
        assert_eq!(config.platform(), arm);
        assert_eq!(config.config.labels, Some(BTreeMap::from([("a".into(), "b".into())])));
    }
}
