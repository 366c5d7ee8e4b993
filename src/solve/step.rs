//! One step: look, look again, run, commit.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use shale_cache::{
    BuildRecord, BuildStep, ChainId, KeyParts, LastRun, ListId, Lookup, Nearness, Patience, StepBase, StepRecord, StepSite, StepStatus,
    Waiting,
};

use super::event::{Event, Reporter};
use super::explain::{self, Causes, MissReason, Side};
use super::filing::{Filing, Paper};
use super::key::{self, Inputs};
use super::schedule::{Outcome, Solver};
use super::snapshot::LayerRef;
use super::{Base, Executor, Held, Made, Step, cause};
use crate::plan::graph::{BaseId, CopySource, Op, PassedBy, Vertex};

/// What a step selected: its inputs, and what is to be written.
pub(super) type Selected<E> = Result<(Inputs, <E as Executor>::Selection), <E as Executor>::Error>;

/// Solves one step, reports how it went, and enters it into the account. `early` is what it selected, if somebody did that already.
pub(super) fn run<E: Executor>(
    solver: &Solver<'_, E>,
    mut step: Step<'_>,
    early: Option<Selected<E>>,
    filing: &Filing<'_, '_, E>,
    reporter: &dyn Reporter,
) -> Result<Outcome, E::Error> {
    let started = Instant::now();
    let task = step.task;
    let mut account = BuildStep {
        name: step.vertex.name.split_whitespace().collect::<Vec<_>>().join(" "),
        stage: step.vertex.stage.clone(),
        ordinal: step.vertex.ordinal,
        number: step.id.0,
        platform: step.vertex.platform.to_string(),
        ..BuildStep::default()
    };
    let early = early.filter(|early| early.as_ref().map_or(true, |(_, selection)| solver.executor.is_current(selection)));
    let outcome = look_then_run(solver, &mut step, early, filing, reporter, started, &mut account);
    if let Err(error) = &outcome {
        let is_cancelled = solver.executor.is_cancelled();
        account.status = if is_cancelled { StepStatus::Cancelled } else { StepStatus::Failed };
        account.error = (!is_cancelled).then(|| error.to_string());
        if account.reason.is_empty() {
            account.reason = error.to_string();
        }
    }
    account.duration_ms = started.elapsed().as_millis() as u64;
    filing.note(solver.ledger.add(account));
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
    step: &mut Step<'_>,
    early: Option<Selected<E>>,
    filing: &Filing<'_, '_, E>,
    reporter: &dyn Reporter,
    started: Instant,
    account: &mut BuildStep,
) -> Result<Outcome, E::Error> {
    let (inputs, selection) = early.unwrap_or_else(|| solver.executor.select(step))?;
    let hiding = if step.vertex.has_secrets() { Some(solver.store.hiding_key()?) } else { None };
    let first = key::first_look(step.vertex, &step.parent.chain, &inputs, hiding.as_ref());
    let site = site(solver, step.vertex);
    (account.key, account.words) = (Some(first.key()), site.words.clone());
    let mut hit = |record: &StepRecord, status, reason: &str| {
        (account.status, account.reason) = (status, reason.to_owned());
        if solver.explain {
            reporter.report(Event::Note { task: step.task, text: format!("cache hit: {reason}") });
        }
        let snapshot = step.parent.with_layer(record.content, record.layer, created(record));
        Outcome { snapshot, hit: Some(true), changed_by: step.changed_by.clone() }
    };
    let lock = match look(solver, step, &first, reporter)? {
        Found::Record(record) if step.is_after_run => {
            return Ok(hit(&record, StepStatus::CutOffHit, "cut-off: a step before it ran and made what it had made before"));
        }
        Found::Record(record) => return Ok(hit(&record, StepStatus::Hit, "nothing changed")),
        Found::Nothing(lock) => lock,
    };
    solver.executor.expect(step.id);
    let selection = solver.executor.complete(step, selection)?;
    let below = if step.vertex.no_cache.is_some() { None } else { solver.executor.below(step, &selection)? };
    let second = match (&step.vertex.op, below) {
        (Op::Copy(copy), Some(below)) => Some(key::second_look(step.vertex, copy, &inputs, below, hiding.as_ref())),
        _ => None,
    };
    if let Some(second) = &second
        && let Some(record) = solver.store.steps().peek(&second.key())?
    {
        let base = base_below(solver, step);
        let record = StepRecord { key: first.key(), parts: first, site, base, ..record };
        // The first look of the next build finds it, unless the store cannot be written.
        if !solver.store.is_read_only() {
            commit(lock, &record)?;
        }
        return Ok(hit(&record, StepStatus::Hit, "second look: its files, and what lies where they go, are the same"));
    }
    let last = last_run(solver, &site, &first)?;
    if step.changed_by.is_none() {
        step.changed_by = found_below(solver, step, last.as_ref(), &first)?;
    }
    let reason = tell_why(solver, step, last.as_ref(), &first, reporter);
    (account.status, account.reason, account.changes) = (StepStatus::Executed, reason.to_string(), reason.changes().to_vec());
    solver.store.require_writable("keep what the step makes, which it does not have yet, in steps/ and layers/")?;
    filing.note(solver.ledger.begins(account));
    let last = last.and_then(|last| last.record);
    let last_content = last.as_ref().map(|last| last.content);
    // Who asks for no cache wants nothing of old.
    step.former = last.filter(|_| step.vertex.no_cache.is_none());
    let made = solver.executor.execute(step, selection)?;
    let record = record(solver, step, &made, site, first, started);
    solver.executor.settled(step.id, &record.layer);
    let is_as_before = last_content == Some(record.content);
    if solver.explain && is_as_before {
        let text = "it made the same files as the last time: what follows can hit".to_owned();
        reporter.report(Event::Note { task: step.task, text });
    }
    account.bytes = solver.executor.size_bytes(&made.layer);
    let own = || (!is_as_before).then(|| Arc::from(explain::made_others(&account.name)));
    let outcome = Outcome {
        snapshot: step.parent.with_layer(record.content, record.layer, created(&record)),
        hit: Some(false),
        changed_by: step.changed_by.clone().or_else(own),
    };
    let written = made.inputs.as_ref().map(|written| key::first_look(step.vertex, &step.parent.chain, written, hiding.as_ref()));
    let records = records(record, second, written);
    account.key = Some(records[0].key);
    filing.take(Paper::Records { of: (step.id, step.task), records, lock });
    Ok(outcome)
}

/// The image at the bottom of the step's stage.
fn base_below<E: Executor>(solver: &Solver<'_, E>, step: &Step<'_>) -> Option<StepBase> {
    let LayerRef::Base { image: BaseId(number), .. } = step.parent.layers.first()? else { return None };
    let Base { name, digest, diff_ids } = &solver.bases[*number];
    Some(StepBase { name: name.clone(), digest: digest.clone(), chain: ChainId::of_base(diff_ids) })
}

#[expect(clippy::large_enum_variant, reason = "there is one per step, and it is taken apart at once")]
enum Found {
    Record(StepRecord),
    Nothing(Held),
}

/// The first look. A step that passes the cache by takes no record, but its result still becomes one.
fn look<E: Executor>(solver: &Solver<'_, E>, step: &Step<'_>, parts: &KeyParts, reporter: &dyn Reporter) -> Result<Found, E::Error> {
    let key = parts.key();
    if step.vertex.no_cache.is_some() {
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

/// Builds among which the nearest run of a step is looked for.
const RECENT_BUILDS: usize = 32;

/// The run to compare a step with: of the same words in the last build, else of the same place, there for another platform, else of the
/// same words anywhere.
fn last_run<E: Executor>(solver: &Solver<'_, E>, site: &StepSite, now: &KeyParts) -> Result<Option<LastRun>, E::Error> {
    let steps = solver.store.steps();
    let previous = solver.ledger.previous(|| solver.store.builds().last_of(&solver.site.context, &solver.site.dockerfile))?;
    for nearness in Nearness::ALL {
        let key = match nearness {
            Nearness::Anywhere => None,
            nearness => previous.as_ref().as_ref().and_then(|build| build.key_at(site, nearness)),
        };
        let found = match key {
            Some(key) => Some(LastRun { nearness, key, record: steps.any(&key)? }),
            None if nearness == Nearness::Platform => None,
            None => steps.last_run(site, nearness)?,
        };
        // What stands at the same place may be another step, which has only moved, or another instruction.
        let is_other = |record: &StepRecord| {
            let words = &record.site.words;
            (*words != site.words && solver.ledger.has_words(solver.graph, words)) || record.parts.kind() != now.kind()
        };
        match found {
            Some(LastRun { record: Some(record), .. }) if nearness == Nearness::Place && is_other(&record) => {}
            Some(LastRun { record, .. })
                if nearness == Nearness::Platform && record.as_ref().is_none_or(|r| r.parts.kind() != now.kind()) => {}
            Some(run) => return Ok(Some(nearest(solver, site, now, run)?)),
            None => {}
        }
    }
    Ok(None)
}

/// The run that differs the least, of those that a build lately found or made where the last one is: in a matrix of builds each has others
/// between itself and the one that it could have hit. Of several the newest. One that differs in a single part is near enough.
fn nearest<E: Executor>(solver: &Solver<'_, E>, site: &StepSite, now: &KeyParts, last: LastRun) -> Result<LastRun, E::Error> {
    let mut least = last.record.as_ref().map_or(0, |record| explain::distance(&record.parts, now));
    if least <= 1 || !matches!(last.nearness, Nearness::Words | Nearness::Place) {
        return Ok(last);
    }
    let mut found = last;
    let mut seen = HashSet::from([found.key]);
    for build in solver.ledger.recent(|| recent_builds(solver)) {
        let Some(key) = build.key_at(site, found.nearness).filter(|key| seen.insert(*key)) else { continue };
        let of_same_step = |record: &StepRecord| record.parts.kind() == now.kind() && record.site.platform == site.platform;
        let Some(record) = solver.store.steps().any(&key)?.filter(of_same_step) else { continue };
        let distance = explain::distance(&record.parts, now);
        if distance < least {
            (least, found) = (distance, LastRun { nearness: found.nearness, key, record: Some(record) });
        }
    }
    Ok(found)
}

/// Builds of the same context and Dockerfile, the newest first; those that cannot be read are none.
fn recent_builds<E: Executor>(solver: &Solver<'_, E>) -> Vec<BuildRecord> {
    let builds = solver.store.builds();
    let is_same = |build: &BuildRecord| build.context_id == solver.site.context && build.dockerfile == solver.site.dockerfile;
    let ids = builds.ids().unwrap_or_default();
    ids.iter().take(RECENT_BUILDS).filter_map(|id| builds.get(id).ok().flatten()).filter(is_same).collect()
}

/// Which step below is another one than at the last run, if nothing that ran tells, and the base did not move.
fn found_below<E: Executor>(
    solver: &Solver<'_, E>,
    step: &Step<'_>,
    last: Option<&LastRun>,
    now: &KeyParts,
) -> Result<Option<Arc<str>>, E::Error> {
    let parent = |parts: &KeyParts| parts.parts().iter().find(|(name, _)| name == "parent").cloned();
    let content = |base: Option<&StepBase>| base.map(|base| (base.name.clone(), base.chain));
    match last {
        Some(last @ LastRun { record: Some(record), .. })
            if parent(&record.parts) != parent(now) && content(record.base.as_ref()) == content(base_below(solver, step).as_ref()) =>
        {
            Ok(cause::of(solver, step, last)?)
        }
        _ => Ok(None),
    }
}

/// What made the stage or image another one that is mounted at a place; a store that cannot be read costs these words, not the build.
fn changed_at<E: Executor>(solver: &Solver<'_, E>, step: &Step<'_>, last: &LastRun, place: &str) -> Option<Arc<str>> {
    let Op::Run(run) = &step.vertex.op else { return None };
    let mount = run.mounts.iter().find(|mount| mount.target() == Some(place))?;
    let Some(CopySource::Vertex(id)) = mount.source() else { return None };
    cause::of_source(solver, step.sources.iter().find(|source| source.id == *id)?, last).ok().flatten()
}

fn tell_why<E: Executor>(
    solver: &Solver<'_, E>,
    step: &Step<'_>,
    last: Option<&LastRun>,
    parts: &KeyParts,
    reporter: &dyn Reporter,
) -> MissReason {
    let reason = match last {
        _ if step.vertex.no_cache == Some(PassedBy::NoCache) => MissReason::NoCache,
        _ if step.vertex.no_cache == Some(PassedBy::NoCacheFilter) => MissReason::NoCacheFilter(step.vertex.stage.clone()),
        None => MissReason::NeverBuilt,
        Some(last) if last.key == parts.key() => MissReason::Evicted,
        Some(LastRun { record: None, .. }) => MissReason::Forgotten,
        Some(LastRun { record: Some(record), nearness, .. }) => {
            let base = base_below(solver, step);
            let (before, now) = (Side::of(record), Side { parts, base: base.as_ref() });
            // A list that cannot be read costs the names of the files, not the build.
            let lists = |id: &ListId| solver.store.lists().get(id).ok().flatten();
            let mounted = |place: &str| changed_at(solver, step, last?, place);
            let causes = Causes { below: step.changed_by.as_deref(), mounted: &mounted };
            let changes = explain::changes(before, now, causes, &lists);
            match nearness {
                Nearness::Anywhere => {
                    let other = match &record.site {
                        there if there.context != solver.site.context => "context",
                        there if there.dockerfile != solver.site.dockerfile => "Dockerfile",
                        _ => "stage or platform",
                    };
                    MissReason::Elsewhere { other, changes }
                }
                Nearness::Words | Nearness::Place | Nearness::Platform => MissReason::Changed(changes),
            }
        }
    };
    reporter.report(Event::Note { task: step.task, text: format!("cache miss: {reason}") });
    if solver.explain {
        for text in reason.details() {
            reporter.report(Event::Note { task: step.task, text });
        }
    }
    reason
}

/// The record of what was made.
fn record<E: Executor>(
    solver: &Solver<'_, E>,
    step: &Step<'_>,
    made: &Made,
    site: StepSite,
    parts: KeyParts,
    started: Instant,
) -> StepRecord {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    StepRecord {
        version: shale_cache::STEP_RECORD_VERSION,
        key: parts.key(),
        parts,
        layer: made.layer,
        content: made.content,
        created_secs: now.as_secs() as i64,
        created_nanos: now.subsec_nanos(),
        cost_ms: started.elapsed().as_millis() as u64,
        site,
        base: base_below(solver, step),
    }
}

/// The record under the key of the bytes that were written, by which the next build finds them: where they changed after they had been
/// hashed, that is another key. And under that of the second look.
fn records(record: StepRecord, second: Option<KeyParts>, written: Option<KeyParts>) -> Vec<StepRecord> {
    let under = |parts: KeyParts| StepRecord { key: parts.key(), parts, ..record.clone() };
    if let Some(written) = written {
        return vec![under(written)];
    }
    [record.clone()].into_iter().chain(second.map(under)).collect()
}

fn commit(lock: Held, record: &StepRecord) -> Result<(), shale_cache::StoreError> {
    lock.map_or(Ok(()), |lock| lock.commit(record))
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
        words: key::words(vertex),
    }
}
