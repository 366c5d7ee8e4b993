//! `system df` and `buildx du`: what the store holds → text, in Docker's columns.

use shale_cache::{Disk, Inventory, Item, PruneReport};

use super::Failure;
use super::args::{DfArgs, DuArgs};
use super::cache_filter::{self, kind_name};
use super::columns::{LIST, aligned};
use super::config::Config;
use super::console::{print, warn};
use super::diagnostic::Diagnostic;
use super::environment::Environment;
use super::human;
use super::image::{failure, service, store_failure};
use super::listing::Listing;
use super::prune::now_secs;
use super::template::{self, Struct, TemplateError, Value};
use crate::image::{ImageService, ImageSummary};
use crate::oci::reference::Reference;
use crate::worker::Mapped;

/// `shale system df`
pub fn df(args: &DfArgs, environment: &Environment) -> Result<(), Failure> {
    let service = service(environment)?;
    let inventory = taken(&service)?;
    let summaries = service.list().map_err(|error| failure(&error))?;
    let text = if args.verbose {
        let disk = Disk::of(service.store().root()).map_err(|error| store_failure(&error))?;
        let caps = Config::load(environment).map_err(|error| Diagnostic::of(&error))?.gc.describe(disk);
        details(&inventory, &summaries, args.format.as_deref(), (now_secs(), &caps))
    } else {
        summary(&inventory, args.format.as_deref())
    };
    print(text.map_err(|error| Diagnostic::of(&error))?)
}

/// `shale buildx du`
pub fn du(args: &DuArgs, environment: &Environment) -> Result<(), Failure> {
    let filter = cache_filter::of_cache(&args.filters).map_err(Diagnostic::new)?;
    let mut inventory = taken(&service(environment)?)?;
    let now = now_secs();
    inventory.items.retain(|item| filter.takes(item, now));
    let rest = if args.filters.is_empty() { inventory.overhead_bytes } else { 0 };
    print(entries(&inventory.items, rest, args, now).map_err(|error| Diagnostic::of(&error))?)
}

fn taken(service: &ImageService) -> Result<Inventory, Failure> {
    let mut mapped = Mapped::new(service.store().root());
    let inventory = service.store().inventory(&mut |paths| mapped.measure(paths)).map_err(|error| store_failure(&error))?;
    if inventory.unmeasured > 0 {
        warn(&format!("{} directories of mapped users could not be measured and count as nothing", inventory.unmeasured));
    }
    Ok(inventory)
}

/// Column heads by field.
type Heads<'a> = &'a [(&'a str, &'a str)];

fn row(kind: &str, total: usize, active: usize, size: u64, reclaimable: String) -> Struct {
    Struct::new(
        "*formatter.diskUsageContext",
        [
            ("Active", Value::Text(active.to_string())),
            ("Reclaimable", Value::Text(reclaimable)),
            ("Size", Value::Text(human::size(size))),
            ("SizeBytes", Value::Int(size as i64)),
            ("TotalCount", Value::Text(total.to_string())),
            ("Type", Value::text(kind)),
        ],
    )
}

fn with_share(part: u64, of: u64) -> String {
    match (part * 100).checked_div(of) {
        Some(percent) => format!("{} ({percent}%)", human::size(part)),
        None => human::size(part),
    }
}

/// The four rows. No container uses an image, so none is active.
fn summary(inventory: &Inventory, format: Option<&str>) -> Result<String, TemplateError> {
    let active = inventory.items.iter().filter(|item| item.is_in_use).count();
    let used: u64 = inventory.items.iter().filter(|item| item.is_in_use).map(|item| item.size_bytes).sum();
    let cache = inventory.cache_bytes();
    let rows = vec![
        row("Images", inventory.images.len(), 0, inventory.images_bytes, with_share(inventory.images_bytes, inventory.images_bytes)),
        row("Containers", 0, 0, 0, human::size(0)),
        row("Local Volumes", 0, 0, 0, human::size(0)),
        row("Build Cache", inventory.items.len(), active, cache, human::size(cache - used)),
    ];
    let heads = &[("Type", "TYPE"), ("TotalCount", "TOTAL"), ("Active", "ACTIVE"), ("Size", "SIZE"), ("Reclaimable", "RECLAIMABLE")];
    listed(heads, rows, "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}", format)
}

/// Rows as a table, as JSON lines, or by a template.
fn listed(heads: Heads<'_>, rows: Vec<Struct>, columns: &str, format: Option<&str>) -> Result<String, TemplateError> {
    Listing { heads, table: columns, quiet: "{{.ID}}", raw: None }.render(rows, format, false)
}

fn table(lines: &[String]) -> String {
    aligned(&(lines.join("\n") + "\n"), LIST)
}

fn image_row(inventory: &Inventory, image: &ImageSummary, short: bool, now_secs: i64) -> Struct {
    let usage = inventory.images.iter().find(|usage| usage.id == image.id);
    let (size, shared) = usage.map_or((0, 0), |usage| (usage.size_bytes, usage.shared_bytes));
    let (name, id) = (image.names.first(), image.id.to_string());
    Struct::new(
        "*formatter.imageContext",
        [
            ("Containers", Value::text("0")),
            ("CreatedSince", Value::Text(image.created_secs().map_or("N/A".to_owned(), |at| human::ago(at, now_secs)))),
            ("ID", Value::text(if short { human::short_id(&id) } else { &id })),
            ("Repository", Value::Text(name.map_or("<none>".to_owned(), Reference::familiar_name))),
            ("SharedSize", Value::Text(human::size(shared))),
            ("Size", Value::Text(human::size(size))),
            ("Tag", Value::text(name.and_then(|name| name.tag()).unwrap_or("<none>"))),
            ("UniqueSize", Value::Text(human::size(size - shared))),
        ],
    )
}

fn entry_row(item: &Item, short: bool, now_secs: i64) -> Struct {
    let id = item.id();
    let id = if short { human::short_id(&id) } else { &id };
    Struct::new(
        "*formatter.buildCacheContext",
        [
            ("CacheType", Value::text(kind_name(item.kind))),
            ("CreatedAt", Value::Text(human::moment(item.created_secs()).unwrap_or_default())),
            ("CreatedSince", Value::Text(human::ago(item.created_secs(), now_secs))),
            ("Description", Value::text(&*item.description)),
            ("ID", Value::Text(format!("{id}{}", if item.is_in_use { "*" } else { "" }))),
            ("InUse", Value::Text(item.is_in_use.to_string())),
            ("LastUsedAt", Value::Text(human::moment(item.last_used_secs()).unwrap_or_default())),
            ("LastUsedSince", Value::Text(human::ago(item.last_used_secs(), now_secs))),
            ("Parent", Value::text("")),
            ("Shared", Value::Text(item.is_shared.to_string())),
            ("Size", Value::Text(human::short_bytes(item.size_bytes))),
            ("SizeBytes", Value::Int(item.size_bytes as i64)),
            ("UsageCount", Value::Text(item.uses.to_string())),
        ],
    )
}

const IMAGE_HEADS: Heads<'_> = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("Containers", "CONTAINERS"),
];
const ENTRY_HEADS: Heads<'_> = &[
    ("ID", "CACHE ID"),
    ("CacheType", "CACHE TYPE"),
    ("Size", "SIZE"),
    ("CreatedSince", "CREATED"),
    ("LastUsedSince", "LAST USED"),
    ("UsageCount", "USAGE"),
    ("Shared", "SHARED"),
];

/// `system df -v`
fn details(
    inventory: &Inventory,
    summaries: &[ImageSummary],
    format: Option<&str>,
    (now_secs, caps): (i64, &str),
) -> Result<String, TemplateError> {
    let is_table = format.is_none_or(|format| format == "table");
    let images: Vec<Struct> = summaries.iter().map(|image| image_row(inventory, image, is_table, now_secs)).collect();
    let entries: Vec<Struct> = inventory.items.iter().map(|item| entry_row(item, is_table, now_secs)).collect();
    if !is_table {
        let list = |rows: Vec<Struct>| Value::List(Some(rows.into_iter().map(Value::Struct).collect()));
        let fields = [("Images", list(images)), ("Containers", list(vec![])), ("Volumes", list(vec![])), ("BuildCache", list(entries))];
        let all = Value::Struct(Struct::new("*formatter.diskUsageContext", fields));
        let format = format.filter(|format| *format != "json").unwrap_or("{{json .}}");
        return template::render(format, &all).map(|text| text + "\n");
    }
    let columns = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}";
    let images = listed(IMAGE_HEADS, images, columns, None)?;
    let columns = "{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}";
    let entries = listed(ENTRY_HEADS, entries, columns, None)?;
    let containers = table(&["CONTAINER ID\tIMAGE\tCOMMAND\tLOCAL VOLUMES\tSIZE\tCREATED\tSTATUS\tNAMES".into()]);
    let volumes = table(&["VOLUME NAME\tLINKS\tSIZE".into()]);
    Ok(format!(
        "Images space usage:\n\n{images}\nContainers space usage:\n\n{containers}\nLocal Volumes space usage:\n\n{volumes}\n\
         Build cache usage: {}\nBuild cache caps: {caps}\n\n{entries}",
        human::size(inventory.cache_bytes())
    ))
}

const DU_HEAD: &str = "ID\tRECLAIMABLE\tSIZE\tLAST ACCESSED";

fn du_line(item: &Item, now_secs: i64) -> String {
    let size = format!("{}{}", human::size(item.size_bytes), if item.is_shared { "*" } else { "" });
    format!("{}\t{}\t{size}\t{}", item.id(), !item.is_in_use, human::ago(item.last_used_secs(), now_secs))
}

fn du_block(item: &Item, now_secs: i64) -> String {
    let mut lines = vec![
        format!("ID:\t{}", item.id()),
        format!("Created at:\t{}", human::moment(item.created_secs()).unwrap_or_default()),
        "Mutable:\tfalse".to_owned(),
        format!("Reclaimable:\t{}", !item.is_in_use),
        format!("Shared:\t{}", item.is_shared),
        format!("Size:\t{}", human::size(item.size_bytes)),
    ];
    lines.extend((!item.description.is_empty()).then(|| format!("Description:\t{}", item.description)));
    lines.push(format!("Usage count:\t{}", item.uses));
    lines.push(format!("Last used:\t{}", human::ago(item.last_used_secs(), now_secs)));
    lines.push(format!("Type:\t{}", kind_name(item.kind)));
    table(&lines) + "\n"
}

/// `buildx du`. `overhead_bytes` is what belongs to no entry; it counts as reclaimable, for it goes with the entries.
fn entries(items: &[Item], overhead_bytes: u64, args: &DuArgs, now_secs: i64) -> Result<String, TemplateError> {
    if let Some(format) = args.format.as_deref().filter(|format| *format != "table") {
        let rows = items.iter().map(|item| entry_row(item, false, now_secs)).collect();
        return listed(ENTRY_HEADS, rows, "", Some(format));
    }
    let mut text = if args.verbose {
        items.iter().map(|item| du_block(item, now_secs)).collect()
    } else {
        let lines: Vec<String> = std::iter::once(DU_HEAD.to_owned()).chain(items.iter().map(|item| du_line(item, now_secs))).collect();
        table(&lines)
    };
    if args.filters.is_empty() {
        let sum = |takes: &dyn Fn(&Item) -> bool| items.iter().filter(|item| takes(item)).map(|item| item.size_bytes).sum::<u64>();
        let (total, shared) = (sum(&|_| true) + overhead_bytes, sum(&|item| item.is_shared));
        let mut lines = Vec::new();
        if shared > 0 {
            lines.push(format!("Shared:\t{}", human::size(shared)));
            lines.push(format!("Private:\t{}", human::size(total - shared)));
        }
        lines.push(format!("Reclaimable:\t{}", human::size(sum(&|item| !item.is_in_use) + overhead_bytes)));
        lines.push(format!("Total:\t{}", human::size(total)));
        text += &table(&lines);
    }
    Ok(text)
}

/// What `buildx prune` says.
pub(super) fn pruned(report: &PruneReport, verbose: bool, now_secs: i64) -> String {
    let mut text = String::new();
    if verbose {
        text.extend(report.removed.iter().map(|item| du_block(item, now_secs)));
    } else if !report.removed.is_empty() {
        let lines: Vec<String> =
            std::iter::once(DU_HEAD.to_owned()).chain(report.removed.iter().map(|item| du_line(item, now_secs))).collect();
        text += &table(&lines);
    }
    text + &format!("Total:   {}\n", human::size(report.bytes))
}
