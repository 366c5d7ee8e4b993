//! The record of a build: begun with it, ended with it however it ends.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Instant;

use shale_cache::{BuildRecord, BuildResult, OpenBuild, StoreError};

use super::{BuildError, BuildReport, Services};
use crate::cli::request::{BuildRequest, ContextSource};
use crate::solve::Site;
use crate::solve::ledger::Ledger;

/// What is written down of a build that runs.
#[derive(Debug)]
pub(super) struct Account {
    build: OpenBuild,
    started: Instant,
    record: RefCell<BuildRecord>,
    /// Takes the steps.
    pub(super) ledger: Ledger,
}

impl Account {
    /// Writes that the build runs.
    pub(super) fn begin(request: &BuildRequest, services: Services<'_>) -> Result<Self, StoreError> {
        let context = match &request.context {
            // Without the `.` that most builds are called with.
            ContextSource::Dir(dir) => dir.components().collect::<PathBuf>().display().to_string(),
            ContextSource::Stdin => "-".to_owned(),
            ContextSource::Git(_) | ContextSource::Http(_) => request.context_name.clone(),
        };
        let record = BuildRecord {
            command: request.command.clone(),
            context,
            target: request.target.clone(),
            tags: request.tags.iter().map(ToString::to_string).collect(),
            platforms: request.platforms.iter().map(ToString::to_string).collect(),
            ..BuildRecord::default()
        };
        let build = services.store.builds().begin(record.clone())?;
        let ledger = Ledger::with_journal(build.journal());
        Ok(Self { build, started: Instant::now(), record: RefCell::new(record), ledger })
    }

    /// Where the logs of its steps go.
    pub(super) fn dir(&self) -> std::path::PathBuf {
        self.build.dir().to_owned()
    }

    /// Context and Dockerfile turned out to be these.
    pub(super) fn is_at(&self, site: &Site) {
        let mut record = self.record.borrow_mut();
        record.context_id.clone_from(&site.context);
        record.dockerfile.clone_from(&site.dockerfile);
    }

    /// Writes how it ended.
    pub(super) fn end(self, built: Result<BuildReport, BuildError>, services: Services<'_>) -> Result<BuildReport, BuildError> {
        let mut record = self.build.own(self.record.take());
        record.steps = self.ledger.steps();
        record.duration_ms = self.started.elapsed().as_millis() as u64;
        record.count();
        // What ran has at least written a log.
        services.store.growth().add(record.bytes.max((record.steps.len() > record.hits).into()));
        record.result = match &built {
            Ok(_) => BuildResult::Ok,
            Err(_) if services.cancel.is_wished() => BuildResult::Cancelled,
            Err(BuildError::Cancelled) => BuildResult::Cancelled,
            Err(_) => BuildResult::Failed,
        };
        record.error = built.as_ref().err().map(ToString::to_string);
        if let Ok(report) = &built {
            record.image = report.id.as_ref().map(ToString::to_string);
            record.tags.clone_from(&report.names);
        }
        // A build is not failed for its record: a full disk has said so already, and a killed build has none either.
        drop(self.build.end(record.clone()));
        built.map(|report| BuildReport { record, ..report })
    }
}
