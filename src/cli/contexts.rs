//! `shale context …`: there is one context, `default`, which is this machine.

use serde_json::json;

use super::Failure;
use super::args::{ContextCommand, ContextListArgs};
use super::console::{print, say};
use super::diagnostic::Diagnostic;
use super::inspect::pretty;
use super::listing::Listing;
use super::template::{Struct, Template, TemplateError, Value};

const DEFAULT: &str = "default";
/// Where Docker's client would ask. Nobody listens there for shale's sake.
const ENDPOINT: &str = "unix:///var/run/docker.sock";

const LISTING: Listing<'_> = Listing {
    heads: &[("Name", "NAME"), ("Description", "DESCRIPTION"), ("DockerEndpoint", "DOCKER ENDPOINT"), ("Error", "ERROR")],
    table: "{{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}",
    quiet: "{{.Name}}",
    raw: None,
};

/// Runs one of the commands.
pub fn run(command: &ContextCommand) -> Result<(), Failure> {
    match command {
        ContextCommand::Ls(args) => print(listed(args).map_err(|error| Diagnostic::of(&error))?),
        ContextCommand::Show => print(format!("{DEFAULT}\n")),
        ContextCommand::Use { name } => {
            known(name)?;
            print(format!("{name}\n"))?;
            say(&format!("Current context is now {name:?}\n"));
            Ok(())
        }
        ContextCommand::Inspect { format, names } => {
            for name in names {
                known(name)?;
            }
            let count = names.len().max(1);
            match described(format.as_deref(), count).map_err(|error| Failure::template(&error))? {
                Ok(text) => print(text),
                Err(error) => {
                    print("\n")?;
                    Err(Diagnostic::of(&error).into())
                }
            }
        }
    }
}

fn known(name: &str) -> Result<(), Failure> {
    if name == DEFAULT { Ok(()) } else { Err(Diagnostic::new(format!("context {name:?}: context not found")).into()) }
}

fn listed(args: &ContextListArgs) -> Result<String, TemplateError> {
    let row = Struct::new(
        "*formatter.clientContextContext",
        [
            ("Current", Value::Bool(true)),
            ("Description", Value::text("This process: images are in the local store")),
            ("DockerEndpoint", Value::text(ENDPOINT)),
            ("Error", Value::text("")),
            ("Name", Value::text(DEFAULT)),
        ],
    );
    let format = args.format.as_deref().filter(|_| !args.quiet);
    LISTING.render(vec![row], format, args.quiet)
}

/// The outer error is a template that cannot be read, the inner one what does not fit.
fn described(format: Option<&str>, count: usize) -> Result<Result<String, TemplateError>, TemplateError> {
    let context = json!({
        "Name": DEFAULT,
        "Metadata": {},
        "Endpoints": { "docker": { "Host": ENDPOINT, "SkipTLSVerify": false } },
        "TLSMaterial": {},
        "Storage": { "MetadataPath": "<IN MEMORY>", "TLSPath": "<IN MEMORY>" },
    });
    match format {
        None => Ok(Ok(pretty(&vec![context; count]))),
        Some("json") => Ok(Ok(format!("{}\n", serde_json::Value::from(vec![context; count])))),
        Some(format) => Ok(Template::parse(format)?.fill(&Value::from(context)).map(|line| (line + "\n").repeat(count))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_context() {
        let args = |format: Option<&str>, quiet| ContextListArgs { format: format.map(Into::into), quiet };
        assert!(listed(&args(None, false)).unwrap().starts_with("NAME        DESCRIPTION"));
        assert_eq!(listed(&args(None, true)).unwrap(), "default\n");
        assert_eq!(listed(&args(Some("{{.Name}} {{.Current}}"), false)).unwrap(), "default true\n");
        assert_eq!(described(Some("{{.Endpoints.docker.Host}}"), 1).unwrap().unwrap(), "unix:///var/run/docker.sock\n");
        assert!(known("ci").is_err() && known("default").is_ok());
    }
}
