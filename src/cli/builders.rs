//! `shale buildx create`, `use`, `ls`, `inspect`, `rm`: this process is the one builder there is, under whatever name a script gives it.

use super::Failure;
use super::args::{BuilderArgs, BuilderListArgs, CreateBuilderArgs, RemoveBuilderArgs, UseBuilderArgs};
use super::columns::{Widths, aligned};
use super::console::{print, say, warn};
use super::diagnostic::Diagnostic;
use super::listing::Listing;
use super::template::{Struct, Value};
use crate::oci::platform::Platform;

/// What `buildx version` prints; the second word is what scripts read.
pub const VERSION_LINE: &str =
    concat!("github.com/docker/buildx v", env!("CARGO_PKG_VERSION"), "-shale shale-", env!("CARGO_PKG_VERSION"), "\n");

/// The name of the builder that Docker begins with.
const DEFAULT: &str = "default";
const OWN_VERSION: &str = concat!("shale-", env!("CARGO_PKG_VERSION"));

const HEADS: &[(&str, &str)] = &[
    ("Name", "NAME/NODE"),
    ("DriverEndpoint", "DRIVER/ENDPOINT"),
    ("LastActivity", "LAST ACTIVITY"),
    ("Status", "STATUS"),
    ("Buildkit", "BUILDKIT"),
    ("Platforms", "PLATFORMS"),
];
const LISTING: Listing<'_> = Listing {
    heads: HEADS,
    table: "{{.Name}}\t{{.DriverEndpoint}}\t{{.Status}}\t{{.Buildkit}}\t{{.Platforms}}",
    quiet: "{{.Name}}",
    raw: None,
};

/// `buildx create`: prints the name, as Docker does.
pub fn create(args: &CreateBuilderArgs) -> Result<(), Failure> {
    warn("buildx create has no effect: this process is the builder");
    print(format!("{}\n", args.name.as_deref().unwrap_or(DEFAULT)))
}

/// `buildx use`
pub fn switch(args: &UseBuilderArgs) -> Result<(), Failure> {
    let name = args.name.as_deref().or(args.builder.as_deref()).unwrap_or(DEFAULT);
    if name != DEFAULT {
        warn(&format!("buildx use {name} has no effect: this process is the builder"));
    }
    Ok(())
}

/// `buildx ls`
pub fn list(args: &BuilderListArgs) -> Result<(), Failure> {
    print(listed(args.format.as_deref()).map_err(|error| Diagnostic::of(&error))?)
}

/// `buildx rm`: a script that removes what it made goes on.
pub fn remove(args: &RemoveBuilderArgs) -> Result<(), Failure> {
    let mut names: Vec<&str> = args.names.iter().chain(&args.builder).map(String::as_str).collect();
    if names.is_empty() && !args.all_inactive {
        names.push(DEFAULT);
    }
    for name in names {
        if name == DEFAULT {
            let why = format!("context builder cannot be removed, run `docker context rm {DEFAULT}` to remove this context");
            say(&format!("failed to remove {DEFAULT}: {why}\n"));
            return Err(Diagnostic::new("failed to remove one or more builders").into());
        }
        say(&format!("{name} removed\n"));
    }
    Ok(())
}

fn listed(format: Option<&str>) -> Result<String, super::template::TemplateError> {
    let is_table = format.unwrap_or("table").starts_with("table");
    let row = |name: &str, endpoint: &str, status: &str, version: &str, platforms: &str| {
        Struct::new(
            "*commands.lsContext",
            [
                ("Name", Value::text(name)),
                ("DriverEndpoint", Value::text(endpoint)),
                ("LastActivity", Value::text("")),
                ("Status", Value::text(status)),
                ("Buildkit", Value::text(version)),
                ("Platforms", Value::text(platforms)),
                ("Error", Value::text("")),
            ],
        )
    };
    let platform = Platform::native().to_string();
    let (builder, node) = if is_table { ("default*", " \\_ default") } else { (DEFAULT, DEFAULT) };
    let mut rows = vec![row(builder, "docker", "", "", "")];
    if format != Some("json") {
        rows.push(row(node, node, "running", OWN_VERSION, &platform));
    }
    LISTING.render(rows, format, false)
}

/// `buildx inspect`: the builder, under the name that was asked for.
pub fn described(args: &BuilderArgs) -> String {
    let name = args.name.as_deref().or(args.builder.as_deref()).unwrap_or(DEFAULT);
    let platform = Platform::native();
    let text = format!(
        "Name:\t{name}\nDriver:\tdocker\n\nNodes:\nName:\t{name}\nEndpoint:\t{DEFAULT}\nStatus:\trunning\nBuildKit version:\t{OWN_VERSION}\n\
         Platforms:\t{platform}\n"
    );
    aligned(&text, Widths { least: 0, padding: 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_the_columns_of_buildx() {
        let platform = Platform::native();
        let lines = [
            "NAME/NODE     DRIVER/ENDPOINT   STATUS    BUILDKIT      PLATFORMS".to_owned(),
            "default*      docker                                    ".to_owned(),
            format!(" \\_ default    \\_ default       running   {OWN_VERSION}   {platform}"),
            String::new(),
        ];
        assert_eq!(listed(None).unwrap(), lines.join("\n"));
        assert_eq!(listed(Some("{{.Name}}")).unwrap(), "default\ndefault\n");
        assert_eq!(listed(Some("json")).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_builder_has_the_name_that_is_asked_for() {
        let args = BuilderArgs { bootstrap: true, builder: None, timeout: None, name: Some("ci".into()) };
        let text = described(&args);
        assert!(text.starts_with("Name:   ci\nDriver: docker\n\nNodes:\nName:             ci\nEndpoint:         default\n"), "{text}");
    }
}
