//! Questions about a Dockerfile instead of a build: `--call`. Nothing is executed, and of images only the configs are read.

use super::bases::Bases;
use super::inputs::Inputs;
use super::{BuildError, Services, checks, frontend, parsed, plan_options};
use crate::cli::request::BuildRequest;
use crate::cli::request::call::Method;
use crate::dockerfile::Dockerfile;
use crate::plan::graph::Warning;
use crate::plan::options::{Allowed, AllowedDevices, PlanOptions};
use crate::plan::outline::Outline;
use crate::span::SourceFile;

/// What is answered.
#[derive(Debug)]
pub enum Answer {
    /// `check`
    Check {
        /// The Dockerfile.
        source: SourceFile,
        /// Violations of rules, in the order of their lines.
        warnings: Vec<Warning>,
        /// Why it would not build.
        error: Option<Box<BuildError>>,
    },
    /// `outline`
    Outline {
        /// The Dockerfile.
        source: SourceFile,
        /// What its target takes.
        outline: Box<Outline>,
    },
    /// `targets`
    Targets {
        /// The Dockerfile.
        source: SourceFile,
        /// Its tree.
        dockerfile: Box<Dockerfile>,
    },
    /// `subrequests.describe`
    Describe,
}

/// Answers a question about the Dockerfile of a request.
pub fn call(request: &BuildRequest, method: Method, services: Services<'_>) -> Result<Answer, BuildError> {
    let _lease = services.store.lease()?;
    let mut inputs = Inputs::open(request, services)?;
    frontend::check(request, &inputs.source, services)?;
    let source = inputs.source.clone();
    match method {
        Method::Describe => Ok(Answer::Describe),
        Method::Targets => Ok(Answer::Targets { dockerfile: Box::new(parsed(&inputs)?), source }),
        Method::Outline => {
            let dockerfile = parsed(&inputs)?;
            let options = inputs.dated(asking_options(request), &dockerfile, request, services)?;
            let plan = Bases::new(request, services).plan(&dockerfile, &inputs, &options)?;
            Ok(Answer::Outline { source, outline: Box::new(plan.outline) })
        }
        Method::Check => check(request, &inputs, services),
    }
}

/// What is wrong with the file itself is part of the answer; what keeps it from being looked at is not.
fn check(request: &BuildRequest, inputs: &Inputs, services: Services<'_>) -> Result<Answer, BuildError> {
    let mut options = asking_options(request);
    options.all_stages = options.target.is_none();
    let answer = |warnings: Vec<Warning>, error: Option<BuildError>| Answer::Check {
        source: inputs.source.clone(),
        warnings: warnings.into_iter().filter(Warning::is_violation).collect(),
        error: error.map(Box::new),
    };
    let dockerfile = match parsed(inputs) {
        Ok(dockerfile) => dockerfile,
        Err(error) => return Ok(answer(Vec::new(), Some(error))),
    };
    let wanted = checks::options(&dockerfile, &options)?;
    match Bases::new(request, services).plan(&dockerfile, inputs, &options) {
        Ok(plan) => {
            let warnings = checks::warnings(inputs, &dockerfile, &plan, &wanted);
            let error = checks::refuse(&warnings, &wanted).err();
            Ok(answer(warnings, error))
        }
        Err(BuildError::Cancelled) => Err(BuildError::Cancelled),
        Err(error) => Ok(answer(checks::warnings_without_plan(&dockerfile, &options, &wanted), Some(error))),
    }
}

/// Whoever only asks need not be granted what a build would need.
fn asking_options(request: &BuildRequest) -> PlanOptions {
    let allowed = Allowed { network_host: true, insecure: true, devices: AllowedDevices::All };
    PlanOptions { allowed, ..plan_options(request) }
}
