//! `shale version`, in the shape of `docker version`: `{{.Server.Version}}` is asked to see whether Docker lives.

use serde_json::json;

use super::Failure;
use super::args::VersionArgs;
use super::columns::{FACTS, aligned};
use super::console::print;
use super::diagnostic::Diagnostic;
use super::environment::Environment;
use super::program::{DOCKER_VERSION, Program};
use super::template::{Struct, Template, Value};
use crate::oci::platform::Platform;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What Docker's client and daemon speak with each other; scripts compare it.
const API_VERSION: &str = "1.51";
const LEAST_API_VERSION: &str = "1.24";

/// `shale version`
pub fn run(args: &VersionArgs, environment: &Environment) -> Result<(), Failure> {
    let template = match args.format.as_deref() {
        None => return print(table(environment.program)),
        Some("json") => Template::parse("{{json .}}"),
        Some(format) => Template::parse(format),
    };
    let template = template.map_err(|error| Failure::template(&error.named("version")))?;
    let text = template.fill(&data(environment.program)).map_err(|error| Diagnostic::of(&error.named("version")))?;
    print(text + "\n")
}

/// The version that a client or daemon of this name would have.
pub fn version_of(program: Program) -> &'static str {
    match program {
        Program::Shale => VERSION,
        Program::Docker => DOCKER_VERSION,
    }
}

fn commit() -> String {
    format!("shale-{VERSION}")
}

/// The kernel's release.
pub fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The fields of the client, as `docker info` shows them too.
pub fn client(program: Program) -> Struct {
    let platform = Platform::native();
    Struct::new(
        "system.clientVersion",
        [
            ("Platform", Value::from(json!({ "Name": "shale" }))),
            ("Version", Value::text(version_of(program))),
            ("APIVersion", Value::text(API_VERSION)),
            ("DefaultAPIVersion", Value::text(API_VERSION)),
            ("GitCommit", Value::Text(commit())),
            ("GoVersion", Value::text("")),
            ("Os", Value::Text(platform.os)),
            ("Arch", Value::Text(platform.architecture)),
            ("BuildTime", Value::text("")),
            ("Context", Value::text("default")),
        ],
    )
    .renamed("APIVersion", "ApiVersion")
    .omitting(&["GoVersion", "BuildTime"])
}

fn data(program: Program) -> Value {
    let platform = Platform::native();
    let details = json!({
        "ApiVersion": API_VERSION, "Arch": platform.architecture, "Experimental": "false", "GitCommit": commit(),
        "KernelVersion": kernel(), "MinAPIVersion": LEAST_API_VERSION, "Os": platform.os,
    });
    let components = json!([{ "Name": "Engine", "Version": version_of(program), "Details": details }]);
    let server = Struct::new(
        "*system.serverVersion",
        [
            ("Platform", Value::from(json!({ "Name": "shale" }))),
            ("Version", Value::text(version_of(program))),
            ("APIVersion", Value::text(API_VERSION)),
            ("MinAPIVersion", Value::text(LEAST_API_VERSION)),
            ("Os", Value::Text(platform.os)),
            ("Arch", Value::Text(platform.architecture)),
            ("Components", Value::from(components)),
            ("GitCommit", Value::Text(commit())),
            ("GoVersion", Value::text("")),
            ("KernelVersion", Value::Text(kernel())),
            ("Experimental", Value::Bool(false)),
            ("BuildTime", Value::text("")),
        ],
    );
    let server = server.renamed("APIVersion", "ApiVersion").omitting(&["GoVersion", "Experimental", "BuildTime"]);
    Value::Struct(Struct::new("system.versionInfo", [("Client", Value::Struct(client(program))), ("Server", Value::Struct(server))]))
}

fn table(program: Program) -> String {
    if program == Program::Shale {
        return program.version_line();
    }
    let Platform { os, architecture, .. } = Platform::native();
    let (version, commit) = (version_of(program), commit());
    let text = format!(
        "Client: shale\n Version:\t{version}\n API version:\t{API_VERSION}\n Git commit:\t{commit}\n OS/Arch:\t{os}/{architecture}\n \
         Context:\tdefault\n\nServer: shale\n Engine:\n  Version:\t{version}\n  API version:\t{API_VERSION} (minimum version \
         {LEAST_API_VERSION})\n  Git commit:\t{commit}\n  OS/Arch:\t{os}/{architecture}\n  Experimental:\tfalse\n"
    );
    aligned(&text, FACTS)
}

#[cfg(test)]
mod tests {
    use super::super::template::TemplateError;
    use super::*;

    fn filled(format: &str, program: Program) -> Result<String, TemplateError> {
        Template::parse(format).and_then(|template| template.fill(&data(program)))
    }

    #[test]
    fn probes_find_a_version() {
        for (format, program, text) in [
            ("{{.Server.Version}}", Program::Shale, VERSION),
            ("{{.Server.Version}}", Program::Docker, DOCKER_VERSION),
            ("{{.Client.APIVersion}} {{.Server.Os}} {{.Server.Platform.Name}}", Program::Docker, "1.51 linux shale"),
            ("{{range .Server.Components}}{{.Name}}{{end}}", Program::Docker, "Engine"),
        ] {
            assert_eq!(filled(format, program).as_deref(), Ok(text), "{format}");
        }
        assert_eq!(table(Program::Shale), format!("shale version {VERSION}\n"));
        assert!(table(Program::Docker).contains("\n\nServer: shale\n Engine:\n  Version:          28."), "{}", table(Program::Docker));
        let json: serde_json::Value = serde_json::from_str(&filled("{{json .}}", Program::Docker).unwrap()).unwrap();
        assert_eq!(json["Server"]["ApiVersion"], "1.51");
        let error = filled("{{.Nope}}", Program::Docker).unwrap_err().to_string();
        assert!(error.ends_with("can't evaluate field Nope in type system.versionInfo"), "{error}");
    }
}
