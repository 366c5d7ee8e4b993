//! Why the filesystem below a step is another one although no step before it ran: one of them found another result than the last time.

use std::sync::Arc;

use shale_cache::{BuildRecord, BuildStep, LastRun, ListId, StepRecord, StepStatus, StoreError};

use super::explain::{self, Causes, Side};
use super::schedule::Solver;
use super::{Executor, Source, Step};
use crate::plan::graph::{BaseId, Op, VertexId};

/// Builds that are looked at for the last run of a step: it is mostly in the one before, and in an older one if that failed.
const BUILDS: usize = 32;

/// The step below that is another one than in the build of the last run, in words; `None` if there is none, or if steps were added,
/// moved or removed.
pub(super) fn of<E: Executor>(solver: &Solver<'_, E>, step: &Step<'_>, last: &LastRun) -> Result<Option<Arc<str>>, StoreError> {
    let was_searched = step.vertex.parent.is_some_and(|parent| solver.ledger.is_without_cause(parent.0));
    let found = if was_searched { None } else { search(solver, step.vertex.parent, last)? };
    if found.is_none() {
        solver.ledger.note_without_cause(step.id.0);
    }
    Ok(found)
}

/// Why a stage or image that a step mounts as a whole is another one than at the last run of that step, in words.
pub(super) fn of_source<E: Executor>(solver: &Solver<'_, E>, source: &Source, last: &LastRun) -> Result<Option<Arc<str>>, StoreError> {
    if source.changed_by.is_some() {
        return Ok(source.changed_by.clone());
    }
    if let Op::Image(BaseId(number)) = solver.graph.vertices[source.id.0].op {
        return Ok(Some(explain::another_image(&solver.bases[number].name).into()));
    }
    search(solver, Some(source.id), last)
}

/// The lowest step up to `top` that is another one than in the build of the last run.
fn search<E: Executor>(solver: &Solver<'_, E>, top: Option<VertexId>, last: &LastRun) -> Result<Option<Arc<str>>, StoreError> {
    let previous = solver.ledger.previous(|| solver.store.builds().last_of(&solver.site.context, &solver.site.dockerfile))?;
    let has_run = |build: &BuildRecord| build.steps.iter().any(|step| step.key == Some(last.key) && is_solved(step));
    let older_one;
    let (build, since) = if let Some(build) = previous.as_ref().as_ref().filter(|build| has_run(build)) {
        (build, "in the last build")
    } else {
        older_one = older(solver, &has_run)?;
        let Some(build) = &older_one else { return Ok(None) };
        (build, "when this one ran last")
    };
    Ok(first_other(solver, top, build)?.and_then(|(then, now)| {
        let lists = |id: &ListId| solver.store.lists().get(id).ok().flatten();
        let changes = explain::changes(Side::of(&then.record), Side::of(&now.record), Causes::UNKNOWN, &lists);
        // Where its own inputs are the same, what differs lies below it, where no step of the same words or place stood.
        let first = changes.first().filter(|change| change.part != "step")?;
        Some(explain::found_another(&then.name, &now.name, &first.text, since).into())
    }))
}

/// A step of a build and what is on record of its result.
struct Known {
    name: String,
    record: StepRecord,
}

fn is_solved(step: &BuildStep) -> bool {
    matches!(step.status, StepStatus::Hit | StepStatus::CutOffHit | StepStatus::Executed)
}

/// The newest build that had the last run.
fn older<E: Executor>(solver: &Solver<'_, E>, has_run: &dyn Fn(&BuildRecord) -> bool) -> Result<Option<BuildRecord>, StoreError> {
    for id in solver.store.builds().ids()?.iter().take(BUILDS) {
        if let Some(build) = solver.store.builds().get(id)?.filter(|build| has_run(build)) {
            return Ok(Some(build));
        }
    }
    Ok(None)
}

/// The lowest step below whose result is not that of the same step in another build: that one and this. `None` too if the same step was
/// not there, for then steps came, went or moved, or if nobody knows any more.
fn first_other<E: Executor>(
    solver: &Solver<'_, E>,
    top: Option<VertexId>,
    build: &BuildRecord,
) -> Result<Option<(Known, Known)>, StoreError> {
    for now in below(solver, top) {
        let Some(then) = same(solver, build, &now) else { return Ok(None) };
        // One that ran made what it had made before, or it would be the cause that is known.
        if then.key == now.key || now.status == StepStatus::Executed {
            continue;
        }
        let (Some(then), Some(now)) = (known(solver, then)?, known(solver, &now)?) else { return Ok(None) };
        if then.record.content != now.record.content {
            return Ok(Some((then, now)).filter(|(then, now)| then.record.parts.kind() == now.record.parts.kind()));
        }
    }
    Ok(None)
}

/// The steps of this build from the lowest up to a vertex.
fn below<E: Executor>(solver: &Solver<'_, E>, top: Option<VertexId>) -> Vec<BuildStep> {
    let upward = std::iter::successors(top, |id| solver.graph.vertices[id.0].parent);
    let mut steps: Vec<BuildStep> = upward.filter_map(|id| solver.ledger.step(id.0)).collect();
    steps.reverse();
    steps
}

/// The step of another build that is the same one: of the same words, else of the same place, unless that one has only moved.
fn same<'b, E: Executor>(solver: &Solver<'_, E>, build: &'b BuildRecord, now: &BuildStep) -> Option<&'b BuildStep> {
    let near: Vec<&BuildStep> =
        build.steps.iter().filter(|step| is_solved(step) && (&step.stage, &step.platform) == (&now.stage, &now.platform)).collect();
    let here = near.iter().copied().find(|step| step.ordinal == now.ordinal);
    let is_same = |step: &&BuildStep| step.words == now.words;
    here.filter(is_same)
        .or_else(|| near.into_iter().find(is_same))
        .or_else(|| here.filter(|step| !solver.ledger.has_words(solver.graph, &step.words)))
}

fn known<E: Executor>(solver: &Solver<'_, E>, step: &BuildStep) -> Result<Option<Known>, StoreError> {
    let record = step.key.map_or(Ok(None), |key| solver.store.steps().any(&key))?;
    Ok(record.map(|record| Known { name: step.name.clone(), record }))
}
