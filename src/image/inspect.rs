//! Docker's JSON about an image.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use shale_cache::{ImageRecord, OciDigest};

use super::{ImageError, ImageService};
use crate::oci::config::{HealthConfig, RunConfig};
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;

/// What `docker inspect` prints of an image, in its order.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspect {
    /// The image id.
    pub id: String,
    /// Familiar names.
    pub repo_tags: Vec<String>,
    /// Familiar names with digests.
    pub repo_digests: Vec<String>,
    /// Always empty; asked for by templates.
    pub parent: String,
    /// Comment of the last history entry.
    pub comment: String,
    /// RFC 3339 time; empty if unknown.
    pub created: String,
    /// Always empty; asked for by templates.
    pub docker_version: String,
    /// MAINTAINER.
    pub author: String,
    /// The run settings.
    pub config: ContainerConfig,
    /// GOARCH name.
    pub architecture: String,
    /// CPU variant.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// GOOS name.
    pub os: String,
    /// Sum of the layers' sizes.
    pub size: u64,
    /// What keeps the layers; there are no directories to name.
    pub graph_driver: GraphDriver,
    /// The layers.
    #[serde(rename = "RootFS")]
    pub root_fs: InspectRootFs,
    /// When it came into the store.
    pub metadata: InspectMetadata,
}

/// `Config` of [`Inspect`]: every key that templates ask for is there, set or not.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// Always empty.
    pub hostname: String,
    /// Always empty.
    pub domainname: String,
    /// USER
    pub user: String,
    /// EXPOSE
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Value>>,
    /// ENV
    pub env: Option<Vec<String>>,
    /// CMD
    pub cmd: Option<Vec<String>>,
    /// HEALTHCHECK
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    /// Windows only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// Always empty.
    pub image: String,
    /// VOLUME
    pub volumes: Option<BTreeMap<String, Value>>,
    /// WORKDIR
    pub working_dir: String,
    /// ENTRYPOINT
    pub entrypoint: Option<Vec<String>>,
    /// ONBUILD
    pub on_build: Option<Vec<String>>,
    /// LABEL
    pub labels: Option<BTreeMap<String, String>>,
    /// STOPSIGNAL
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// SHELL
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

/// `GraphDriver` of [`Inspect`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GraphDriver {
    /// Always null.
    pub data: Option<BTreeMap<String, String>>,
    /// `shale`
    pub name: &'static str,
}

/// `RootFS` of [`Inspect`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InspectRootFs {
    /// `layers`
    pub r#type: String,
    /// DiffIDs.
    pub layers: Vec<String>,
}

/// `Metadata` of [`Inspect`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InspectMetadata {
    /// When it came into the store, RFC 3339.
    pub last_tag_time: String,
}

impl ImageService {
    /// The images of all platforms that were built under a name, with their ids; the one that the name stands for is the first.
    pub fn variants(&self, name: &str) -> Result<Vec<(OciDigest, Platform)>, ImageError> {
        let (record, _) = self.find(name)?;
        Ok(self.variants_of(record)?.into_iter().map(|(record, platform)| (record.id, platform)).collect())
    }

    /// The same by the record.
    pub(super) fn variants_of(&self, record: ImageRecord) -> Result<Vec<(ImageRecord, Platform)>, ImageError> {
        let mut records = vec![record.clone()];
        for id in record.built.platforms.iter().filter(|id| **id != record.id) {
            records.extend(self.store.images().get(id)?);
        }
        let with_platform = |record: ImageRecord| {
            let platform = self.config_of(&record)?.0.platform();
            Ok((record, platform))
        };
        records.into_iter().map(with_platform).collect()
    }

    /// Everything about an image, by name, digest, id or id prefix.
    pub fn inspect(&self, name: &str) -> Result<Inspect, ImageError> {
        let (record, _) = self.find(name)?;
        let (config, _) = self.config_of(&record)?;
        let familiar = |names: Vec<Reference>| names.iter().map(Reference::familiar).collect::<Vec<_>>();
        let stored = time::OffsetDateTime::from_unix_timestamp(record.stored_at_secs).ok();
        let stored = stored.and_then(|t| t.format(&time::format_description::well_known::Rfc3339).ok());
        Ok(Inspect {
            id: record.id.to_string(),
            repo_tags: familiar(self.names_of(&record.id)?),
            repo_digests: familiar(super::lookup::references(&record.repo_digests)),
            parent: String::new(),
            comment: config.history.last().map(|h| h.comment.clone()).unwrap_or_default(),
            created: config.created.unwrap_or_default(),
            docker_version: String::new(),
            author: config.author.unwrap_or_default(),
            architecture: config.architecture,
            variant: config.variant,
            os: config.os,
            size: self.sizes().of(&record)?,
            graph_driver: GraphDriver { data: None, name: "shale" },
            root_fs: InspectRootFs { r#type: config.rootfs.kind, layers: config.rootfs.diff_ids },
            config: config.config.into(),
            metadata: InspectMetadata { last_tag_time: stored.unwrap_or_default() },
        })
    }
}

impl From<RunConfig> for ContainerConfig {
    fn from(run: RunConfig) -> Self {
        Self {
            hostname: String::new(),
            domainname: String::new(),
            user: run.user,
            exposed_ports: run.exposed_ports,
            env: run.env,
            cmd: run.cmd,
            healthcheck: run.healthcheck,
            args_escaped: run.args_escaped,
            image: String::new(),
            volumes: run.volumes,
            working_dir: run.working_dir,
            entrypoint: run.entrypoint,
            on_build: run.on_build,
            labels: run.labels,
            stop_signal: run.stop_signal,
            shell: run.shell,
        }
    }
}
