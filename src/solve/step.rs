//! One step: look, look again, run, commit.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use shale_cache::{KeyParts, KnownLayer, Lookup, Patience, StepRecord, StepSite, Waiting};

use super::event::{Event, Reporter};
use super::explain::{self, MissReason};
use super::key::{self, Inputs};
use super::schedule::{Outcome, Solver};
use super::{Executor, Held, Made, Step};
use crate::plan::graph::{Op, Vertex};

/// What a step selected: its inputs, and what is to be written.
pub(super) type Selected<E> = Result<(Inputs, <E as Executor>::Selection), <E as Executor>::Error>;

/// Solves one step and reports how it went. `early` is what it selected, if somebody did that already.
pub(super) fn run<E: Executor>(
    solver: &Solver<'_, E>,
    step: &Step<'_>,
    early: Option<Selected<E>>,
    reporter: &dyn Reporter,
) -> Result<Outcome, E::Error> {
    let started = Instant::now();
    let task = step.task;
    reporter.report(Event::Started { task, name: step.vertex.name.clone() });
    let outcome = look_then_run(solver, step, early, reporter, started);
    reporter.report(match &outcome {
        Ok(Outcome { hit: Some(true), .. }) => Event::Cached { task },
        Ok(_) => Event::Done { task, elapsed: started.elapsed() },
        Err(_) if solver.executor.is_cancelled() => Event::Canceled { task },
        Err(error) => Event::Failed { task, error: error.to_string() },
    });
    outcome
}

fn look_then_run<E: Executor>(
    solver: &Solver<'_, E>,
    step: &Step<'_>,
    early: Option<Selected<E>>,
    reporter: &dyn Reporter,
    started: Instant,
) -> Result<Outcome, E::Error> {
    let (inputs, selection) = early.unwrap_or_else(|| solver.executor.select(step))?;
    let first = key::first_look(step.vertex, &step.parent.chain, &inputs);
    let site = site(solver, step.vertex);
    let lock = match look(solver, step, &first, reporter)? {
        Found::Record(record) => return Ok(hit(step, &record)),
        Found::Nothing(lock) => lock,
    };
    let below = if step.vertex.no_cache { None } else { solver.executor.below(step, &selection)? };
    let second = match (&step.vertex.op, below) {
        (Op::Copy(copy), Some(below)) => Some(key::second_look(copy, &inputs, below)),
        _ => None,
    };
    if let Some(second) = &second
        && let Some(record) = solver.store.steps().peek(&second.key())?
    {
        let record = StepRecord { key: first.key(), parts: first, site, ..record };
        commit(lock, &record)?;
        return Ok(hit(step, &record));
    }
    tell_why(solver, step, &site, &first, reporter)?;
    let made = solver.executor.execute(step, selection)?;
    let record = record(solver, &made, site, first, started)?;
    solver.executor.settled(step.id, &record.layer);
    let outcome = Outcome { snapshot: step.parent.with_layer(record.content, record.layer, created(&record)), hit: Some(false) };
    let written = made.inputs.as_ref();
    store_records(solver, step, lock, record, second, written)?;
    Ok(outcome)
}

enum Found {
    Record(StepRecord),
    Nothing(Held),
}

/// The first look. A step that passes the cache by takes no record, but its result still becomes one.
fn look<E: Executor>(solver: &Solver<'_, E>, step: &Step<'_>, parts: &KeyParts, reporter: &dyn Reporter) -> Result<Found, E::Error> {
    let key = parts.key();
    if step.vertex.no_cache {
        return Ok(Found::Nothing(None));
    }
    let task = step.task;
    let mut on_wait = |waiting: &Waiting| {
        let who = waiting.holder_pid.map_or_else(|| "another build".into(), |pid| format!("the build of process {pid}"));
        reporter.report(Event::Note { task, text: format!("waiting for {who}, which runs the same step") });
    };
    let mut patience = Patience { on_wait: &mut on_wait, keep_waiting: &|| !solver.executor.is_cancelled() };
    Ok(match solver.store.steps().lookup_with(&key, &mut patience)? {
        Lookup::Hit(record) => Found::Record(record),
        Lookup::Miss(lock) => Found::Nothing(Some(lock)),
    })
}

fn tell_why<E: Executor>(
    solver: &Solver<'_, E>,
    step: &Step<'_>,
    site: &StepSite,
    parts: &KeyParts,
    reporter: &dyn Reporter,
) -> Result<(), E::Error> {
    let reason = if step.vertex.no_cache {
        MissReason::NoCache
    } else {
        explain::between(solver.store.steps().last(site)?.as_ref().map(|record| &record.parts), parts)
    };
    reporter.report(Event::Note { task: step.task, text: format!("cache miss: {reason}") });
    Ok(())
}

/// The record of what was made. Content that is known already becomes the known layer, with its time: what follows hits again.
fn record<E: Executor>(
    solver: &Solver<'_, E>,
    made: &Made,
    site: StepSite,
    parts: KeyParts,
    started: Instant,
) -> Result<StepRecord, E::Error> {
    let layers = solver.store.layers();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut record = StepRecord {
        version: shale_cache::STEP_RECORD_VERSION,
        key: parts.key(),
        parts,
        layer: made.layer,
        content: made.content,
        created_secs: now.as_secs() as i64,
        created_nanos: now.subsec_nanos(),
        cost_ms: started.elapsed().as_millis() as u64,
        site,
    };
    if let Some(known) = layers.by_content(&made.content)? {
        record.layer = known.layer;
        (record.created_secs, record.created_nanos) = (known.created_secs, known.created_nanos);
    } else {
        let known = KnownLayer { layer: record.layer, created_secs: record.created_secs, created_nanos: record.created_nanos };
        layers.set_by_content(&made.content, &known)?;
    }
    Ok(record)
}

/// Commits under the key of the bytes that were written: where they changed after they had been hashed, that is another key.
fn store_records<E: Executor>(
    solver: &Solver<'_, E>,
    step: &Step<'_>,
    lock: Held,
    record: StepRecord,
    second: Option<KeyParts>,
    written: Option<&Inputs>,
) -> Result<(), E::Error> {
    let steps = solver.store.steps();
    if let Some(written) = written {
        let parts = key::first_look(step.vertex, &step.parent.chain, written);
        steps.put(&StepRecord { key: parts.key(), parts, ..record })?;
        return Ok(());
    }
    if let Some(second) = second {
        steps.put(&StepRecord { key: second.key(), parts: second, ..record.clone() })?;
    }
    match lock {
        Some(lock) => commit(Some(lock), &record)?,
        None => steps.put(&record)?,
    }
    Ok(())
}

fn commit(lock: Held, record: &StepRecord) -> Result<(), shale_cache::StoreError> {
    lock.map_or(Ok(()), |lock| lock.commit(record))
}

fn hit(step: &Step<'_>, record: &StepRecord) -> Outcome {
    Outcome { snapshot: step.parent.with_layer(record.content, record.layer, created(record)), hit: Some(true) }
}

fn created(record: &StepRecord) -> (i64, u32) {
    (record.created_secs, record.created_nanos)
}

fn site<E: Executor>(solver: &Solver<'_, E>, vertex: &Vertex) -> StepSite {
    StepSite {
        context: solver.site.context.clone(),
        dockerfile: solver.site.dockerfile.clone(),
        stage: vertex.stage.clone(),
        ordinal: vertex.ordinal,
        platform: vertex.platform.to_string(),
    }
}
