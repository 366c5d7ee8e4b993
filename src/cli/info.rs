//! `shale info`, in the shape of Docker's: scripts ask it to see whether an engine answers.

use std::fs;

use serde_json::json;

use super::args::FormatArgs;
use super::console::print;
use super::diagnostic::Diagnostic;
use super::environment::Environment;
use super::template::{Struct, Template, Value};
use super::{Failure, human, image, version};

/// What `docker info` prints of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    images: usize,
    root: String,
    kernel: String,
    system: String,
    machine: String,
    name: String,
    cpus: usize,
    memory_bytes: u64,
    is_root: bool,
}

/// `shale info`
pub fn run(args: &FormatArgs, environment: &Environment) -> Result<(), Failure> {
    let template = match args.format.as_deref() {
        None => None,
        Some("json") => Some(Template::parse("{{json .}}").map_err(|error| Failure::template(&error))?),
        Some(format) => Some(Template::parse(format).map_err(|error| Failure::template(&error))?),
    };
    let facts = facts(environment)?;
    match template {
        None => print(table(&facts, environment)),
        Some(template) => print(template.fill(&data(&facts, environment)).map_err(|error| Diagnostic::of(&error))? + "\n"),
    }
}

fn facts(environment: &Environment) -> Result<Facts, Failure> {
    let store = image::open_store(environment)?;
    let images = store.images().list().map_err(|error| image::store_failure(&error))?.len();
    let uname = rustix::system::uname();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(Facts {
        images,
        root: store.root().display().to_string(),
        kernel: version::kernel(),
        system: pretty.trim_matches('"').to_owned(),
        machine: uname.machine().to_string_lossy().into_owned(),
        name: uname.nodename().to_string_lossy().into_owned(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: kib.unwrap_or(0) * 1024,
        is_root: environment.uid == 0,
    })
}

fn security(facts: &Facts) -> Vec<&'static str> {
    let mut options = vec!["name=seccomp,profile=builtin"];
    options.extend((!facts.is_root).then_some("name=rootless"));
    options
}

fn data(facts: &Facts, environment: &Environment) -> Value {
    let mut client = version::client(environment.program);
    client.fields.insert(0, super::template::Field { name: "Debug", key: "Debug", value: Value::Bool(false), omits_empty: false });
    let plugins = json!({ "Volume": [], "Network": ["host", "none"], "Authorization": null, "Log": [] });
    Value::Struct(Struct::new(
        "system.dockerInfo",
        [
            ("ID", Value::text(&facts.name)),
            ("Containers", Value::Int(0)),
            ("ContainersRunning", Value::Int(0)),
            ("ContainersPaused", Value::Int(0)),
            ("ContainersStopped", Value::Int(0)),
            ("Images", Value::Int(facts.images as i64)),
            ("Driver", Value::text("shale")),
            ("DriverStatus", Value::List(Some(vec![]))),
            ("Plugins", Value::from(plugins)),
            ("LoggingDriver", Value::text("none")),
            ("CgroupDriver", Value::text("none")),
            ("CgroupVersion", Value::text("2")),
            ("KernelVersion", Value::text(&facts.kernel)),
            ("OperatingSystem", Value::text(&facts.system)),
            ("OSType", Value::text("linux")),
            ("Architecture", Value::text(&facts.machine)),
            ("NCPU", Value::Int(facts.cpus as i64)),
            ("MemTotal", Value::Int(facts.memory_bytes as i64)),
            ("DockerRootDir", Value::text(&facts.root)),
            ("HttpProxy", Value::text("")),
            ("HttpsProxy", Value::text("")),
            ("NoProxy", Value::text("")),
            ("Name", Value::text(&facts.name)),
            ("Labels", Value::List(None)),
            ("ExperimentalBuild", Value::Bool(false)),
            ("ServerVersion", Value::text(version::version_of(environment.program))),
            ("Runtimes", Value::from(json!({}))),
            ("DefaultRuntime", Value::text("")),
            ("Swarm", Value::from(json!({ "NodeID": "", "LocalNodeState": "inactive", "ControlAvailable": false }))),
            ("LiveRestoreEnabled", Value::Bool(false)),
            ("SecurityOptions", Value::texts(security(facts))),
            ("Warnings", Value::List(None)),
            ("ServerErrors", Value::List(None)),
            ("ClientInfo", Value::Struct(client)),
        ],
    ))
}

fn table(facts: &Facts, environment: &Environment) -> String {
    let version = version::version_of(environment.program);
    let rootless = if facts.is_root { "" } else { "  rootless\n" };
    format!(
        "Client: shale\n Version:    {version}\n Context:    default\n Debug Mode: false\n\nServer:\n Containers: 0\n  Running: 0\n  Paused: 0\n  \
         Stopped: 0\n Images: {}\n Server Version: {version}\n Storage Driver: shale\n Swarm: inactive\n Security Options:\n  seccomp\n   \
         Profile: builtin\n{rootless} Kernel Version: {}\n Operating System: {}\n OSType: linux\n Architecture: {}\n CPUs: {}\n Total Memory: \
         {}\n Name: {}\n Docker Root Dir: {}\n Debug Mode: false\n Experimental: false\n Live Restore Enabled: false\n",
        facts.images,
        facts.kernel,
        facts.system,
        facts.machine,
        facts.cpus,
        human::binary_bytes(facts.memory_bytes),
        facts.name,
        facts.root,
    )
}

#[cfg(test)]
mod tests {
    use super::super::environment::test_environment;
    use super::super::program::{DOCKER_VERSION, Program};
    use super::*;

    fn facts() -> Facts {
        Facts {
            images: 2,
            root: "/var/lib/shale".into(),
            kernel: "6.1".into(),
            system: "Debian".into(),
            machine: "x86_64".into(),
            name: "ci".into(),
            cpus: 2,
            memory_bytes: 4_000_000_000,
            is_root: false,
        }
    }

    #[test]
    fn probes_are_answered() {
        let environment = Environment { program: Program::Docker, ..test_environment(&[]) };
        let fill = |format: &str| super::super::template::render(format, &data(&facts(), &environment));
        assert_eq!(fill("{{.ServerVersion}}").as_deref(), Ok(DOCKER_VERSION));
        assert_eq!(
            fill("{{.Images}} {{.Swarm.LocalNodeState}} {{.SecurityOptions}}").as_deref(),
            Ok("2 inactive [name=seccomp,profile=builtin name=rootless]")
        );
        assert_eq!(fill("{{.ClientInfo.Debug}} {{.ClientInfo.Version}}"), Ok(format!("false {DOCKER_VERSION}")));
        assert!(fill("{{json .}}").is_ok_and(|json| json.starts_with("{\"ID\":\"ci\",\"Containers\":0,")));
        let text = table(&facts(), &environment);
        assert!(text.contains("\n Images: 2\n Server Version: 28.") && text.contains("\n Total Memory: 3.725GiB\n"), "{text}");
    }
}
