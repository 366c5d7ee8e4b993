//! build(): every hop of a build on one page.

mod account;
mod bases;
mod call;
mod checks;
mod error;
mod frontend;
mod inputs;
mod output;
mod remote;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use shale_cache::{BuildRecord, OciDigest, Store, StoreError};

use crate::cli::output::Destination;
use crate::cli::request::{BuildRequest, ContextSource, DockerfileSource};
use crate::dockerfile::{ast::Dockerfile, parse};
use crate::execute::ahead::{self, Ahead, Wanted};
use crate::execute::forms::Forms;
use crate::execute::log::StepLogs;
use crate::execute::room::{Fullness, Room};
use crate::execute::{BuildExecutor, StepError, has_privileged, leads_to_run, run_upon, runs};
use crate::image::ImageService;
use crate::plan::PlanOptions;
use crate::plan::graph::Plan;
use crate::sandbox::Cancel;
use crate::solve::event::{Event, Reporter};
use crate::solve::schedule::Solver;
use crate::solve::{Site, SolveError, Solved, Tally};
use account::Account;
use bases::Bases;
pub use call::{Answer, call};
pub use error::BuildError;
use inputs::Inputs;
pub use output::{Written, is_plain_file, write_file};

/// What a build works with besides its request.
#[derive(Clone, Copy)]
pub struct Services<'a> {
    /// The store.
    pub store: &'a Store,
    /// Local images and registries.
    pub images: &'a ImageService,
    /// Takes progress.
    pub reporter: &'a dyn Reporter,
    /// Ends the build.
    pub cancel: &'a Cancel,
    /// Looks after the space on the disk.
    pub room: &'a Room,
}

impl std::fmt::Debug for Services<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").field("store", &self.store.root()).finish_non_exhaustive()
    }
}

/// What a build gave.
#[derive(Clone, Debug)]
pub struct BuildReport {
    /// The image id, unless nothing was to be kept (`type=cacheonly`).
    pub id: Option<OciDigest>,
    /// What was written for it: store, archives.
    pub written: Vec<Written>,
    /// Full names of the image.
    pub names: Vec<String>,
    /// Steps found and steps run.
    pub tally: Tally,
    /// What was done, and why.
    pub record: BuildRecord,
}

/// Builds what the request asks for, and keeps a record of it.
pub fn build(request: &BuildRequest, services: Services<'_>) -> Result<BuildReport, BuildError> {
    let lease = with_room(services, true, || services.store.lease().map_err(BuildError::from), || Ok(()))?;
    let left_by_the_dead = services.store.reap()?;
    let renew = || lease.renew();
    let account = with_room(services, true, || Account::begin(request, services).map_err(BuildError::from), renew)?;
    let built = with_room(services, can_begin_again(request), || build_for(request, services, &account, &left_by_the_dead), renew);
    services.room.settle();
    account.end(built, services)
}

/// Does something, and once more if a full disk was in its way and the cache had something to give. `renew` lets go of what was used.
fn with_room<T>(
    services: Services<'_>,
    can_begin_again: bool,
    work: impl Fn() -> Result<T, BuildError>,
    renew: impl Fn() -> Result<(), StoreError>,
) -> Result<T, BuildError> {
    let failed = match work() {
        Err(error) => error,
        done => return done,
    };
    let Some(fullness) = failed.fullness().filter(|_| can_begin_again) else { return Err(failed) };
    let (task, started) = (services.reporter.new_task(), Instant::now());
    // An output may lie on another disk, which the free space of the store's tells. Everything else is written to the store, and what
    // found no room there is deleted again.
    let is_hidden = fullness == Fullness::Quota || !matches!(failed, BuildError::Export(_));
    if renew().is_err() || !services.room.make(is_hidden) || !services.cancel.withdraw() {
        return Err(failed);
    }
    services
        .reporter
        .report(Event::Started { task, name: "[internal] the disk is full: evict from the build cache and begin again".into() });
    services.reporter.report(Event::Done { task, elapsed: started.elapsed() });
    work()
}

/// What came in on standard input, or went out on standard output, is gone.
fn can_begin_again(request: &BuildRequest) -> bool {
    let reads = request.context == ContextSource::Stdin || request.dockerfile == DockerfileSource::Stdin;
    !reads && request.outputs.iter().all(|output| output.destination != Destination::Stdout)
}

fn build_for(
    request: &BuildRequest,
    services: Services<'_>,
    account: &Account,
    left_by_the_dead: &[PathBuf],
) -> Result<BuildReport, BuildError> {
    let mut inputs = Inputs::open(request, services)?;
    let site = Site { context: inputs.identity(), dockerfile: inputs.dockerfile.clone() };
    account.is_at(&site);
    frontend::check(request, &inputs.source, services)?;
    let dockerfile = parsed(&inputs)?;
    let options = inputs.dated(plan_options(request), &dockerfile, request, services)?;
    let mut bases = Bases::new(request, services);
    let plan = bases.plan(&dockerfile, &inputs, &options)?;
    output::check(request, &plan)?;
    inputs.fetch_read(&plan, request, services)?;
    warn(&inputs, &dockerfile, &plan, &options, services)?;
    let progress = bases::Pulling::quiet(services);
    let forms = Forms::new(services.store, services.images, bases.images(), &progress).with_privileges(has_privileged(&plan.graph));
    // A machine that has come to forbid namespaces must still build what needs none: then it stays for another time.
    drop(forms.remove(left_by_the_dead));
    let written = thread::scope(|scope| {
        let (layers, queue) = ahead::queue();
        let (own, wanted) = (&forms, output::wanted(request, &plan));
        // Without a thread for it everything is packed at the end.
        drop(thread::Builder::new().name("ahead".into()).spawn_scoped(scope, move || queue.work(own, wanted)));
        let solved = solve(request, &inputs, &plan, &bases, (&forms, layers), services, (account, site));
        for context in inputs.contexts.iter() {
            // The next build only loses time without it, and a store that cannot be written has said so already.
            drop(context.save_stat_cache());
        }
        solved.and_then(|solved| output::write(request, services, &plan, &bases, &forms, &solved))
    });
    forms.tidy();
    written
}

/// Every error of the file at once.
fn parsed(inputs: &Inputs) -> Result<Dockerfile, BuildError> {
    match parse(&inputs.source) {
        (Some(dockerfile), _) => Ok(dockerfile),
        (None, errors) => Err(BuildError::Parse { file: inputs.source.clone(), errors }),
    }
}

fn plan_options(request: &BuildRequest) -> PlanOptions {
    PlanOptions {
        build_args: request.build_args.clone(),
        target: request.target.clone(),
        all_stages: false,
        labels: request.labels.clone(),
        platforms: request.platforms.clone(),
        build_platform: crate::oci::platform::Platform::native(),
        contexts: inputs::plan_contexts(request),
        no_cache: request.no_cache.clone(),
        allowed: request.allowed.clone(),
        network: request.network,
        add_hosts: request.add_hosts.clone(),
        shm_size_bytes: request.shm_size_bytes,
        ulimits: request.ulimits.clone(),
        source_date_epoch: request.source_date_epoch,
        source_times: BTreeMap::new(),
    }
}

/// Reports lint warnings, in the order of their lines; `# check=error=true` makes them an error.
fn warn(inputs: &Inputs, dockerfile: &Dockerfile, plan: &Plan, options: &PlanOptions, services: Services<'_>) -> Result<(), BuildError> {
    let check = checks::options(dockerfile, options)?;
    let mut warnings = checks::warnings(inputs, dockerfile, plan, &check);
    let refused = checks::refuse(&warnings, &check);
    warnings.extend(checks::store_in_context(inputs));
    if !warnings.is_empty() {
        services.reporter.report(Event::Warnings { source: inputs.source.clone(), warnings });
    }
    refused
}

fn solve(
    request: &BuildRequest,
    inputs: &Inputs,
    plan: &Plan,
    bases: &Bases<'_>,
    (forms, ahead): (&Forms<'_>, Ahead),
    services: Services<'_>,
    (account, site): (&Account, Site),
) -> Result<Solved, BuildError> {
    services.store.rely_on(&account.dir())?;
    let devices = inputs::devices(request, plan)?;
    let executor = BuildExecutor {
        store: services.store,
        forms,
        contexts: &inputs.contexts,
        lent: request.lent.clone(),
        downloads: &inputs.remotes.downloads,
        repositories: &inputs.remotes.repositories,
        devices,
        run_upon: run_upon(&plan.graph),
        leads_to_run: leads_to_run(&plan.graph),
        held: Mutex::default(),
        runs_left: runs(&plan.graph).into(),
        packing: output::first_packing(request, plan),
        exported: output::exported(plan),
        room: services.room,
        diff_ids: output::wanted(request, plan) == Some(Wanted::DiffId),
        ahead,
        reporter: services.reporter,
        cancel: services.cancel.clone(),
        logs: StepLogs::new(account.dir()),
    };
    let bases = bases.solved();
    let Account { ledger, .. } = account;
    let solver =
        Solver { graph: &plan.graph, store: services.store, bases: &bases, executor: &executor, site, ledger, explain: request.explain };
    let roots: Vec<_> = plan.images.iter().map(|image| image.root).collect();
    solver.solve(&roots, services.reporter).map_err(|error| match error {
        SolveError::Cancelled | SolveError::Step { cause: StepError::Cancelled, .. } => BuildError::Cancelled,
        SolveError::Step { vertex, cause, .. } => {
            let vertex = &plan.graph.vertices[vertex.0];
            BuildError::Step { at: vertex.source.clone(), name: vertex.name.clone(), cause }
        }
    })
}
