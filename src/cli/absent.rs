//! What Docker has beside images, and is not here: containers, volumes, networks. Lists of them are empty, prunings find nothing, and
//! whoever asks for one by name hears that there is none, in Docker's words.

use super::Failure;
use super::args::{AbsentInspectArgs, ContainerCommand, NetworkCommand, NetworksArgs, PsArgs, VolumeCommand, VolumesArgs};
use super::console::print;
use super::diagnostic::Diagnostic;
use super::environment::Environment;
use super::image::told;
use super::inspect::Form;
use super::listing::Listing;
use super::template::TemplateError;

const CONTAINERS: Listing<'_> = Listing {
    heads: &[
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("CreatedAt", "CREATED AT"),
        ("RunningFor", "CREATED"),
        ("Status", "STATUS"),
        ("State", "STATE"),
        ("Ports", "PORTS"),
        ("Names", "NAMES"),
        ("Size", "SIZE"),
        ("Labels", "LABELS"),
        ("Mounts", "MOUNTS"),
        ("Networks", "NETWORKS"),
    ],
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
    quiet: "{{.ID}}",
    raw: Some("container_id: {{.ID}}"),
};

const VOLUMES: Listing<'_> = Listing {
    heads: &[
        ("Name", "VOLUME NAME"),
        ("Group", "GROUP"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("Availability", "AVAILABILITY"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("Size", "SIZE"),
        ("Status", "STATUS"),
    ],
    table: "{{.Driver}}\t{{.Name}}",
    quiet: "{{.Name}}",
    raw: Some("name: {{.Name}}"),
};

/// The table of `volume ls --cluster`.
const OF_CLUSTER: &str = "{{.Name}}\t{{.Group}}\t{{.Driver}}\t{{.Availability}}\t{{.Status}}";

const NETWORKS: Listing<'_> = Listing {
    heads: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
    quiet: "{{.ID}}",
    raw: Some("network_id: {{.ID}}"),
};

/// What a pruning of nothing says.
const NOTHING_PRUNED: &str = "Total reclaimed space: 0B\n";

/// `shale container …`
pub fn container(command: &ContainerCommand, environment: &Environment) -> Result<(), Failure> {
    match command {
        ContainerCommand::Ls(args) => containers(args),
        ContainerCommand::Inspect(args) => inspect("container", args, environment),
        ContainerCommand::Prune(_) => print(NOTHING_PRUNED),
    }
}

/// `shale volume …`
pub fn volume(command: &VolumeCommand, environment: &Environment) -> Result<(), Failure> {
    match command {
        VolumeCommand::Ls(args) => listed(no_volumes(args)),
        VolumeCommand::Inspect(args) => inspect("volume", args, environment),
        VolumeCommand::Prune(_) => print(NOTHING_PRUNED),
    }
}

/// `shale network …`
pub fn network(command: &NetworkCommand, environment: &Environment) -> Result<(), Failure> {
    match command {
        NetworkCommand::Ls(args) => listed(no_networks(args)),
        NetworkCommand::Inspect(args) => inspect("network", args, environment),
        // Docker names what it removed, and nothing else.
        NetworkCommand::Prune(_) => Ok(()),
    }
}

/// `shale ps`
pub fn containers(args: &PsArgs) -> Result<(), Failure> {
    listed(no_containers(args))
}

fn listed(text: Result<String, TemplateError>) -> Result<(), Failure> {
    print(text.map_err(|error| Diagnostic::of(&error))?)
}

fn no_containers(args: &PsArgs) -> Result<String, TemplateError> {
    let with_size = format!("{}\t{{{{.Size}}}}", CONTAINERS.table);
    let listing = Listing { table: if args.size { &with_size } else { CONTAINERS.table }, ..CONTAINERS };
    listing.render(vec![], args.format.as_deref(), args.quiet)
}

fn no_volumes(args: &VolumesArgs) -> Result<String, TemplateError> {
    let (table, format) = if args.cluster { (OF_CLUSTER, None) } else { (VOLUMES.table, args.format.as_deref()) };
    Listing { table, ..VOLUMES }.render(vec![], format, args.quiet)
}

fn no_networks(args: &NetworksArgs) -> Result<String, TemplateError> {
    NETWORKS.render(vec![], args.format.as_deref(), args.quiet)
}

fn inspect(kind: &str, args: &AbsentInspectArgs, environment: &Environment) -> Result<(), Failure> {
    let form = Form::parse(args.format.as_deref()).map_err(|error| Failure::template(&error))?;
    inspect_all(kind, &args.names, &form, environment)
}

/// `inspect --type KIND` of what is no image: none of the names is there.
pub fn inspect_all(kind: &str, names: &[String], form: &Form, environment: &Environment) -> Result<(), Failure> {
    print(form.render(&[]).0)?;
    told(names.iter().map(|name| Diagnostic::new(no_such(kind, name)).of_engine()).collect(), environment)
}

/// What Docker's daemon says of a name that nothing of a kind has.
fn no_such(kind: &str, name: &str) -> String {
    match kind {
        "volume" => format!("get {name}: no such volume"),
        "network" => format!("network {name} not found"),
        _ => format!("No such {kind}: {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_containers() {
        let args =
            PsArgs { all: true, filters: vec![], format: None, last: None, latest: false, no_trunc: false, quiet: false, size: false };
        assert_eq!(no_containers(&args).unwrap(), "CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES\n");
        assert_eq!(no_containers(&PsArgs { quiet: true, ..args.clone() }).unwrap(), "");
        assert!(no_containers(&PsArgs { format: Some("{{.ID".into()), ..args }).is_err());
    }

    #[test]
    fn there_are_no_volumes_and_no_networks() {
        let args = VolumesArgs { cluster: false, filters: vec![], format: None, quiet: false };
        assert_eq!(no_volumes(&args).unwrap(), "DRIVER    VOLUME NAME\n");
        assert_eq!(no_volumes(&VolumesArgs { quiet: true, ..args.clone() }).unwrap(), "");
        let of_cluster = no_volumes(&VolumesArgs { cluster: true, ..args }).unwrap();
        assert_eq!(of_cluster, "VOLUME NAME   GROUP     DRIVER    AVAILABILITY   STATUS\n");
        let args = NetworksArgs { filters: vec![], format: None, no_trunc: false, quiet: false };
        assert_eq!(no_networks(&args).unwrap(), "NETWORK ID   NAME      DRIVER    SCOPE\n");
        assert_eq!(no_networks(&NetworksArgs { format: Some("{{.Name}}".into()), ..args }).unwrap(), "");
    }
}
