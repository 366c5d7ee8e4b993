//! WORKDIR: the directory with its parents, where they are missing.

use super::{BuildExecutor, StepError, copy};
use crate::plan::graph::WorkdirOp;
use crate::solve::{Made, Step};
use crate::tree::entry::Mtime;
use crate::tree::graft::make_dir;

/// Makes the directory; where it exists, the layer is the canonical empty one.
pub(super) fn make(executor: &BuildExecutor<'_>, step: &Step<'_>, op: &WorkdirOp) -> Result<Made, StepError> {
    let view = executor.forms.view_without_layers(&step.parent)?;
    let owner = executor.forms.owner(&step.parent, &view, &op.user)?;
    let (created, times) = match op.created_secs {
        Some(secs) => (Mtime { secs, nanos: 0 }, copy::Times::Asked),
        None => (copy::now(), copy::Times::Incidental),
    };
    let graft = make_dir(&view, &op.path, owner, created)?;
    copy::write_layer(executor, step, graft, copy::Places::default(), times)
}
