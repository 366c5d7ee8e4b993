//! `--output`: a CSV line of `key=value` fields, parsed into what an exporter needs.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::export::annotation::{Annotations, Place as Annotated};
use crate::layer::compress::{DEFAULT_GZIP_LEVEL, DEFAULT_ZSTD_LEVEL, Encoder};
use crate::oci::platform::PlatformError;
use crate::worker::Packing;

use super::environment::Environment;
use super::flags::parse_bool;

/// One result that the build is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// What is written.
    pub kind: OutputKind,
    /// Where to.
    pub destination: Destination,
    /// `name=`: names besides those of `--tag`.
    pub names: Vec<String>,
    /// How layers are packed.
    pub layers: LayerOptions,
    /// `tar=false`: a layout directory instead of a tar archive.
    pub as_directory: bool,
    /// `oci-mediatypes=false`: Docker's media types.
    pub docker_media_types: bool,
    /// Not `store=false`: the store keeps the image.
    pub keep: bool,
    /// `unpack=true`: the layers are unpacked at once, ready for a RUN upon them.
    pub unpack: bool,
    /// `mode=delete`: the directory holds nothing but the result afterwards.
    pub mirror: bool,
    /// `platform-split`: a folder for each platform; `None` where there are several.
    pub platform_split: Option<bool>,
    /// `annotation…`
    pub annotations: Annotations,
    /// `push=true`, `type=registry`
    pub push: Option<Push>,
}

/// How an image goes to its registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Push {
    /// `push-by-digest=true`: without a tag.
    pub by_digest: bool,
    /// `registry.insecure=true`
    pub insecure: bool,
    /// `name-canonical=true`: the name with the digest is told, too.
    pub canonical: bool,
}

/// The exporters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// An image of the local store (`type=image`, `type=docker` without a destination, and no `--output` at all).
    Store,
    /// An OCI image layout.
    Oci,
    /// An OCI image layout that `docker load` of any age reads too.
    Docker,
    /// The files of the image in a directory.
    Local,
    /// The files of the image as a tar archive.
    Tar,
    /// Nothing: the build only fills the cache.
    CacheOnly,
}

impl OutputKind {
    /// Whether the result is an image.
    pub fn is_image(self) -> bool {
        matches!(self, Self::Store | Self::Oci | Self::Docker)
    }
}

/// Where a result goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The exporter needs no place.
    None,
    /// Standard output.
    Stdout,
    /// A file or directory, absolute.
    Path(PathBuf),
}

/// How layers are packed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerOptions {
    /// `compression=`
    pub compression: Compression,
    /// `compression-level=`; `None` is the exporter's own.
    pub level: Option<i32>,
    /// `force-compression=true`: layers of base images are packed anew too.
    pub force: bool,
    /// `rewrite-timestamp=true`: times in layers are not later than SOURCE_DATE_EPOCH.
    pub rewrite_timestamp: bool,
}

impl LayerOptions {
    /// The same for the packer. Times are cut only if that was asked for and there is an epoch.
    pub fn packing(&self, source_date_epoch: Option<i64>) -> Packing {
        let encoder = match self.compression {
            Compression::Uncompressed => Encoder::None,
            Compression::Gzip => Encoder::Gzip { level: self.level.map_or(DEFAULT_GZIP_LEVEL, i32::cast_unsigned) },
            Compression::Zstd => Encoder::Zstd { level: self.level.unwrap_or(DEFAULT_ZSTD_LEVEL) },
        };
        Packing { encoder, clamp_secs: source_date_epoch.filter(|_| self.rewrite_timestamp) }
    }
}

/// The compressions of layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// No compression.
    Uncompressed,
    /// The one that everybody reads.
    #[default]
    Gzip,
    /// Smaller and faster; read by newer tools.
    Zstd,
}

/// An `--output` that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    /// The CSV itself is broken.
    #[error("invalid output {text:?}: {reason}")]
    Csv {
        /// The flag's value.
        text: String,
        /// What the reader says.
        reason: String,
    },
    /// A digest is not pushed under a tag (BuildKit's words).
    #[error("can't push tagged ref {name} by digest")]
    TagByDigest {
        /// The name.
        name: String,
    },
    /// A field without `=`.
    #[error("invalid value {field:?} in output {text:?}: must be a key=value pair")]
    Field {
        /// The flag's value.
        text: String,
        /// The field.
        field: String,
    },
    /// No `type=`.
    #[error("type is required for output {text:?}")]
    NoType {
        /// The flag's value.
        text: String,
    },
    /// A type nobody has.
    #[error("unknown output type {kind:?}; known are oci, docker, local, tar, image, registry and cacheonly")]
    UnknownType {
        /// The type.
        kind: String,
    },
    /// Something of Docker's that shale does not do.
    #[error("output {what} is not supported yet")]
    Unsupported {
        /// `attribute unpack=true`
        what: String,
    },
    /// An attribute that the exporter does not have.
    #[error("unknown attribute {key:?} for output type={kind}{}", .better.map_or_else(String::new, |better| format!("; did you mean {better}?")))]
    UnknownAttribute {
        /// The attribute.
        key: String,
        /// The exporter.
        kind: String,
        /// What it is called here.
        better: Option<&'static str>,
    },
    /// An annotation without a place or a key.
    #[error("invalid output attribute {attribute:?}: {reason}")]
    Annotation {
        /// The attribute.
        attribute: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `mode=` of files that nobody has.
    #[error("invalid local exporter mode {mode:?}")]
    Mode {
        /// The mode.
        mode: String,
    },
    /// `mode=delete` outside of the working directory.
    #[error("local output mode=delete for destination {destination:?} requires --allow=buildx.local.delete")]
    Delete {
        /// The directory.
        destination: String,
    },
    /// A value that the attribute does not take.
    #[error("invalid value {value:?} for output attribute {key}: {reason}")]
    Value {
        /// The attribute.
        key: String,
        /// Its value.
        value: String,
        /// What it takes.
        reason: String,
    },
    /// The exporter needs a place.
    #[error("dest is required for output type={kind}")]
    NoDestination {
        /// The exporter.
        kind: String,
    },
    /// Binary data for a terminal.
    #[error("dest file is required for {kind} exporter. refusing to write to console")]
    Console {
        /// The exporter.
        kind: String,
    },
    /// Standard output for a directory.
    #[error("dest cannot be stdout for {kind} exporter")]
    DirectoryOnStdout {
        /// The exporter.
        kind: String,
    },
}

impl Output {
    /// The result of a build without `--output`: an image of the local store.
    pub fn to_store() -> Self {
        Self {
            kind: OutputKind::Store,
            destination: Destination::None,
            names: vec![],
            layers: LayerOptions::default(),
            as_directory: false,
            docker_media_types: false,
            keep: true,
            unpack: false,
            mirror: false,
            platform_split: None,
            annotations: Annotations::default(),
            push: None,
        }
    }

    /// Reads one `--output`.
    pub fn parse(text: &str, environment: &Environment) -> Result<Self, OutputError> {
        let fields = csv_fields(text).map_err(|reason| OutputError::Csv { text: text.into(), reason })?;
        // `-o dir` and `-o -` are short for the two that export files.
        if let [field] = &fields[..] {
            if field == "-" {
                return finish(OutputKind::Tar, "tar", Fields { dest: Some("-".into()), ..Fields::default() }, environment);
            }
            if !field.contains('=') {
                return finish(OutputKind::Local, "local", Fields { dest: Some(field.clone()), ..Fields::default() }, environment);
            }
        }
        let mut pairs = Vec::new();
        for field in &fields {
            let pair = field.split_once('=').ok_or_else(|| OutputError::Field { text: text.into(), field: field.clone() })?;
            pairs.push((pair.0.trim().to_lowercase(), pair.1.to_owned()));
        }
        let kind_name = pairs.iter().rev().find(|(key, _)| key == "type").map(|(_, value)| value.clone());
        let kind_name = kind_name.ok_or_else(|| OutputError::NoType { text: text.into() })?;
        let kind = match kind_name.as_str() {
            "oci" => OutputKind::Oci,
            "docker" => OutputKind::Docker,
            "local" => OutputKind::Local,
            "tar" => OutputKind::Tar,
            "cacheonly" => OutputKind::CacheOnly,
            "image" | "registry" => OutputKind::Store,
            _ => return Err(OutputError::UnknownType { kind: kind_name }),
        };
        let mut read = Fields { is_pushed: kind_name == "registry", ..Fields::default() };
        for (key, value) in pairs {
            read.take(kind, &kind_name, &key, value)?;
        }
        finish(kind, &kind_name, read, environment)
    }

    /// Names that the store's image gets: not those that are only pushed by digest.
    pub fn own_names(&self) -> &[String] {
        if self.push.is_some_and(|push| push.by_digest) { &[] } else { &self.names }
    }

    /// The same output for several `--output` flags: only one of them may own standard output.
    pub fn shares_stdout_with(&self, other: &Self) -> bool {
        self.destination == Destination::Stdout && other.destination == Destination::Stdout
    }
}

/// The attributes as they come in.
#[derive(Debug, Default)]
struct Fields {
    dest: Option<String>,
    names: Vec<String>,
    layers: LayerOptions,
    as_directory: bool,
    docker_media_types: bool,
    drop: bool,
    unpack: bool,
    mirror: bool,
    platform_split: Option<bool>,
    annotations: Annotations,
    is_pushed: bool,
    push: Push,
}

impl Fields {
    fn take(&mut self, kind: OutputKind, kind_name: &str, key: &str, value: String) -> Result<(), OutputError> {
        let wrong = |reason: &str| OutputError::Value { key: key.into(), value: value.clone(), reason: reason.into() };
        let switch = || parse_bool(&value).map_err(|reason| OutputError::Value { key: key.into(), value: value.clone(), reason });
        let is_image = kind.is_image();
        let is_files = matches!(kind, OutputKind::Local | OutputKind::Tar);
        let unsupported = || OutputError::Unsupported { what: format!("attribute {key}={value}") };
        match key {
            "type" => {}
            "dest" if !matches!(kind, OutputKind::Store | OutputKind::CacheOnly) => self.dest = Some(value),
            "name" if is_image => self.names.extend(value.split(',').filter(|name| !name.is_empty()).map(Into::into)),
            "compression" if is_image => {
                self.layers.compression = match value.as_str() {
                    "gzip" => Compression::Gzip,
                    "zstd" => Compression::Zstd,
                    "uncompressed" => Compression::Uncompressed,
                    "estargz" => return Err(unsupported()),
                    _ => return Err(wrong("it is one of gzip, zstd, uncompressed")),
                }
            }
            "compression-level" if is_image => self.layers.level = Some(value.parse().map_err(|_| wrong("it is a number"))?),
            "force-compression" if is_image => self.layers.force = switch()?,
            "rewrite-timestamp" if is_image => self.layers.rewrite_timestamp = switch()?,
            "tar" if matches!(kind, OutputKind::Oci | OutputKind::Docker) => self.as_directory = !switch()?,
            "oci-mediatypes" if is_image => self.docker_media_types = !switch()?,
            "store" if is_image => self.drop = !switch()?,
            "unpack" if kind == OutputKind::Store => self.unpack = switch()?,
            "platform-split" if is_files => self.platform_split = Some(switch()?),
            "mode" if kind == OutputKind::Local => {
                self.mirror = match value.trim().to_lowercase().as_str() {
                    "" | "copy" => false,
                    "delete" => true,
                    _ => return Err(OutputError::Mode { mode: value }),
                }
            }
            // Times of files are the epoch's in any case, as BuildKit has it.
            "rewrite-timestamp" if is_files => drop(switch()?),
            "push" if kind == OutputKind::Store => self.is_pushed = switch()?,
            "push-by-digest" if kind == OutputKind::Store => self.push.by_digest = switch()?,
            "registry.insecure" if kind == OutputKind::Store => self.push.insecure = switch()?,
            "name-canonical" if kind == OutputKind::Store => self.push.canonical = switch()?,
            "push"
            | "push-by-digest"
            | "registry.insecure"
            | "oci-artifact"
            | "name-canonical"
            | "prefer-nondist-layers"
            | "attestation-inline"
                if is_image =>
            {
                if switch()? {
                    return Err(unsupported());
                }
            }
            "context" | "dangling-name-prefix" | "danging-name-empty-only" | "buildinfo" | "attestation-prefix" => {
                return Err(unsupported());
            }
            _ if is_image && key.starts_with("annotation") => self.annotate(key, value)?,
            _ => {
                let better = ["dst", "destination", "path", "out"].contains(&key).then_some("dest");
                return Err(OutputError::UnknownAttribute { key: key.into(), kind: kind_name.into(), better });
            }
        }
        Ok(())
    }
}

impl Fields {
    /// `annotation.KEY`, `annotation-TYPE.KEY`, `annotation-TYPE[PLATFORM].KEY`
    fn annotate(&mut self, attribute: &str, value: String) -> Result<(), OutputError> {
        let wrong = |reason: String| OutputError::Annotation { attribute: attribute.into(), reason };
        let rest = attribute.strip_prefix("annotation").unwrap_or(attribute);
        let end = rest.find(['[', '.']).ok_or_else(|| wrong("it has no key".into()))?;
        let (place, rest) = rest.split_at(end);
        let place = match place.strip_prefix('-') {
            Some(name) => Annotated::named(name).ok_or_else(|| wrong(format!("unrecognized annotation type {name}")))?,
            None if place.is_empty() => Annotated::Manifest,
            None => return Err(wrong("it has no key".into())),
        };
        let (platform, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((platform, rest)) => (Some(platform.parse().map_err(|e: PlatformError| wrong(e.to_string()))?), rest),
            None => (None, rest),
        };
        match rest.strip_prefix('.') {
            Some(key) if !key.is_empty() => self.annotations.set(place, platform, key, value),
            _ => return Err(wrong("it has no key".into())),
        }
        Ok(())
    }
}

/// Settles the destination.
fn finish(kind: OutputKind, name: &str, fields: Fields, environment: &Environment) -> Result<Output, OutputError> {
    let Fields {
        dest,
        names,
        layers,
        as_directory,
        docker_media_types,
        drop,
        unpack,
        mirror,
        platform_split,
        annotations,
        is_pushed,
        push,
    } = fields;
    // Without a registry there is no digest that a name could be given.
    if !is_pushed && (push.by_digest || push.canonical) {
        let key = if push.by_digest { "push-by-digest" } else { "name-canonical" };
        return Err(OutputError::Unsupported { what: format!("attribute {key}=true without push=true") });
    }
    check_level(&layers)?;
    let is_directory = kind == OutputKind::Local || as_directory;
    let to_stdout = |kind| {
        if environment.stdout_is_terminal { Err(OutputError::Console { kind: name.into() }) } else { Ok((kind, Destination::Stdout)) }
    };
    let (kind, destination) = match (kind, dest.as_deref()) {
        (OutputKind::Store | OutputKind::CacheOnly, _) => (kind, Destination::None),
        (OutputKind::Docker, None) => (OutputKind::Store, Destination::None),
        (_, Some("-")) if is_directory => return Err(OutputError::DirectoryOnStdout { kind: name.into() }),
        (_, None | Some("")) if is_directory => return Err(OutputError::NoDestination { kind: name.into() }),
        (_, None | Some("" | "-")) => to_stdout(kind)?,
        (_, Some(path)) => (kind, Destination::Path(environment.resolve(path.as_ref()))),
    };
    Ok(Output {
        kind,
        destination,
        names,
        layers,
        as_directory,
        docker_media_types,
        keep: !drop,
        unpack,
        mirror,
        platform_split,
        annotations,
        push: is_pushed.then_some(push),
    })
}

fn check_level(layers: &LayerOptions) -> Result<(), OutputError> {
    let Some(level) = layers.level else { return Ok(()) };
    let (range, reason) = match layers.compression {
        Compression::Gzip => (0..=9, "gzip has levels 0 to 9"),
        Compression::Zstd => (1..=22, "zstd has levels 1 to 22"),
        Compression::Uncompressed => return Ok(()),
    };
    if range.contains(&level) {
        return Ok(());
    }
    Err(OutputError::Value { key: "compression-level".into(), value: level.to_string(), reason: reason.into() })
}

/// Splits one CSV record; a field may be quoted as a whole (`"name=a,b"`).
pub(super) fn csv_fields(text: &str) -> Result<Vec<String>, String> {
    if text.contains('\n') {
        return Err("it has more than one line".into());
    }
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut record = csv::StringRecord::new();
    match reader.read_record(&mut record) {
        Ok(true) => Ok(record.iter().map(str::to_owned).collect()),
        Ok(false) => Err("it is empty".into()),
        Err(e) => Err(e.to_string()),
    }
}

/// Names that stand twice among outputs and tags are written once.
pub(super) fn unique<T: Clone + Ord>(names: Vec<T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    names.into_iter().filter(|name| seen.insert(name.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::environment::test_environment;
    use super::*;

    fn parse(text: &str) -> Result<Output, OutputError> {
        Output::parse(text, &test_environment(&[]))
    }

    #[test]
    fn kinds_and_places() {
        let path = |p: &str| Destination::Path(p.into());
        for (text, kind, destination) in [
            ("out", OutputKind::Local, path("/work dir/out")),
            ("-", OutputKind::Tar, Destination::Stdout),
            ("type=oci,dest=-", OutputKind::Oci, Destination::Stdout),
            ("type=oci", OutputKind::Oci, Destination::Stdout),
            ("type=docker,dest=/a.tar", OutputKind::Docker, path("/a.tar")),
            ("type=docker", OutputKind::Store, Destination::None),
            ("type=image,name=x:y", OutputKind::Store, Destination::None),
            ("type=tar,dest=t.tar", OutputKind::Tar, path("/work dir/t.tar")),
            ("type=local,\"dest=a,b\"", OutputKind::Local, path("/work dir/a,b")),
            ("type=cacheonly", OutputKind::CacheOnly, Destination::None),
            ("type=oci,tar=false,dest=layout", OutputKind::Oci, path("/work dir/layout")),
        ] {
            let output = parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((output.kind, output.destination), (kind, destination), "{text}");
        }
    }

    #[test]
    fn attributes_are_typed() {
        let output =
            parse("type=oci,dest=x,compression=zstd,compression-level=19,force-compression=true,rewrite-timestamp=1,\"name=a,b:1\"")
                .unwrap();
        assert_eq!(output.names, ["a", "b:1"]);
        assert_eq!(output.layers, LayerOptions { compression: Compression::Zstd, level: Some(19), force: true, rewrite_timestamp: true });
    }

    #[test]
    fn images_are_pushed_where_that_is_said() {
        let push = |text: &str| parse(text).unwrap().push;
        assert_eq!(push("type=image"), None);
        assert_eq!(push("type=registry,push=false"), None);
        assert_eq!(push("type=registry"), Some(Push::default()));
        assert_eq!(push("type=image,push=true"), Some(Push::default()));
        let all = "type=image,name=r.io/a,push=true,push-by-digest=true,name-canonical=true,registry.insecure=true";
        assert_eq!(push(all), Some(Push { by_digest: true, insecure: true, canonical: true }));
        assert!(parse(all).unwrap().own_names().is_empty(), "a name without a tag is none of the store's");
    }

    #[test]
    fn times_are_cut_only_when_that_is_asked_for() {
        let packing = |text: &str, epoch| parse(text).unwrap().layers.packing(epoch);
        assert_eq!(packing("type=oci,dest=x", Some(5)), Packing { encoder: Encoder::Gzip { level: 5 }, clamp_secs: None });
        assert_eq!(packing("type=oci,dest=x,rewrite-timestamp=true", Some(5)).clamp_secs, Some(5));
        assert_eq!(packing("type=oci,dest=x,rewrite-timestamp=true", None).clamp_secs, None);
        assert_eq!(packing("type=oci,dest=x,compression=zstd,compression-level=9", None).encoder, Encoder::Zstd { level: 9 });
    }

    #[test]
    fn nothing_is_dropped_in_silence() {
        for (text, message) in [
            ("dest=x,a=b", "type is required for output \"dest=x,a=b\""),
            ("type=oci,x", "invalid value \"x\" in output \"type=oci,x\": must be a key=value pair"),
            ("type=floppy", "unknown output type \"floppy\"; known are oci, docker, local, tar, image, registry and cacheonly"),
            ("type=oci,dest=x,push=true", "output attribute push=true is not supported yet"),
            ("type=oci,annotation-layer.a=b,dest=x", "invalid output attribute \"annotation-layer.a\": unrecognized annotation type layer"),
            ("type=local,annotation.a=b,dest=x", "unknown attribute \"annotation.a\" for output type=local"),
            ("type=local,dest=x,mode=move", "invalid local exporter mode \"move\""),
            ("type=image,name-canonical=true", "output attribute name-canonical=true without push=true is not supported yet"),
            ("type=oci,dest=x,colour=red", "unknown attribute \"colour\" for output type=oci"),
            ("type=local,dest=x,compression=gzip", "unknown attribute \"compression\" for output type=local"),
            ("type=oci,dst=x", "unknown attribute \"dst\" for output type=oci; did you mean dest?"),
            ("type=cacheonly,dest=x", "unknown attribute \"dest\" for output type=cacheonly"),
            (
                "type=oci,dest=x,compression=lzma",
                "invalid value \"lzma\" for output attribute compression: it is one of gzip, zstd, uncompressed",
            ),
            ("type=oci,dest=x,compression-level=11", "invalid value \"11\" for output attribute compression-level: gzip has levels 0 to 9"),
            ("type=local", "dest is required for output type=local"),
            ("type=local,dest=-", "dest cannot be stdout for local exporter"),
            ("", "invalid output \"\": it is empty"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn a_terminal_is_no_place_for_a_tar() {
        let environment = Environment { stdout_is_terminal: true, ..test_environment(&[]) };
        for text in ["-", "type=oci", "type=docker,dest=-"] {
            assert!(matches!(Output::parse(text, &environment), Err(OutputError::Console { .. })), "{text}");
        }
    }
}
