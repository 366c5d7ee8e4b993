//! What was measured → a table, and JSON.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::scenario::Scenario;
use super::subject::Subject;
use super::tool::{Kind, Run, Tool};
use crate::cli::columns::{LIST, aligned};
use crate::cli::environment::Environment;
use crate::cli::human;

/// Everything that a run of the benchmark found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// When it ended.
    pub(super) date: String,
    pub(super) rounds: u32,
    pub(super) context: String,
    pub(super) base: Option<String>,
    pub(super) touched: Option<String>,
    pub(super) cores: usize,
    pub(super) tools: Vec<ToolReport>,
}

/// What a builder did.
#[derive(Debug, Serialize)]
pub(super) struct ToolReport {
    pub(super) name: &'static str,
    pub(super) version: String,
    /// Why it has no figures.
    pub(super) not_compared: Option<String>,
    pub(super) scenarios: Vec<Figures>,
    #[serde(skip)]
    runs: BTreeMap<Scenario, Vec<Run>>,
    #[serde(skip)]
    tool: Option<Tool>,
    #[serde(skip)]
    nonce: u64,
}

/// The medians of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Figures {
    pub(super) scenario: Scenario,
    pub(super) seconds: f64,
    /// How many times shale's.
    pub(super) ratio: Option<f64>,
    /// Of each round.
    pub(super) all_seconds: Vec<f64>,
    /// What shale went on to do behind the build, which is not in its seconds.
    pub(super) behind_seconds: Option<f64>,
    pub(super) hits: usize,
    pub(super) misses: usize,
    pub(super) bytes: Option<u64>,
}

impl ToolReport {
    pub(super) fn new(tool: Tool) -> Self {
        Self::of(tool.kind, env!("CARGO_PKG_VERSION").into(), None, Some(tool))
    }

    /// A builder of PATH, or why it is none.
    pub(super) fn found(kind: Kind, environment: &Environment, place: &Path) -> Self {
        match Tool::found(kind, environment, place) {
            Ok((tool, version)) => Self::of(kind, version, None, Some(tool)),
            Err(why) => Self::of(kind, String::new(), Some(why), None),
        }
    }

    fn of(kind: Kind, version: String, not_compared: Option<String>, tool: Option<Tool>) -> Self {
        Self { name: kind.name(), version, not_compared, scenarios: Vec::new(), runs: BTreeMap::new(), tool, nonce: 0 }
    }

    pub(super) fn is_own(&self) -> bool {
        self.name == Kind::Shale.name()
    }

    pub(super) fn build(&mut self, subject: &Subject, scenario: Scenario, round: u32) -> Option<Result<Run, super::tool::Failed>> {
        self.nonce = subject.nonce;
        self.tool.as_mut().map(|tool| tool.build(subject, scenario, round))
    }

    pub(super) fn add(&mut self, scenario: Scenario, run: Run) {
        self.runs.entry(scenario).or_default().push(run);
    }

    pub(super) fn clear(&self) {
        if let Some(tool) = &self.tool {
            tool.clear(self.nonce);
        }
    }
}

fn figures(scenario: Scenario, runs: &[Run], own: Option<&[Run]>) -> Figures {
    let of = |runs: &[Run]| median(runs.iter().map(|run| run.seconds).collect());
    let behind: Vec<f64> = runs.iter().filter_map(|run| run.behind).collect();
    let (seconds, last) = (of(runs), runs[runs.len() - 1]);
    Figures {
        scenario,
        seconds,
        ratio: own.map(|own| seconds / of(own)),
        all_seconds: runs.iter().map(|run| run.seconds).collect(),
        behind_seconds: (!behind.is_empty()).then(|| median(behind)),
        hits: last.hits,
        misses: last.misses,
        bytes: last.bytes,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

impl Report {
    pub(super) fn new(subject: &Subject, date: String, rounds: u32, mut tools: Vec<ToolReport>) -> Self {
        let own = tools.iter().find(|tool| tool.is_own()).map(|tool| tool.runs.clone()).unwrap_or_default();
        for tool in tools.iter_mut().filter(|tool| tool.not_compared.is_none()) {
            let reference = |scenario: &Scenario| own.get(scenario).map(Vec::as_slice);
            tool.scenarios = tool.runs.iter().map(|(scenario, runs)| figures(*scenario, runs, reference(scenario))).collect();
        }
        Self {
            date,
            rounds,
            context: subject.named.clone(),
            base: subject.base().map(str::to_owned),
            touched: subject.touched(),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            tools,
        }
    }

    /// The builders that have figures.
    pub(super) fn compared(&self) -> impl Iterator<Item = &ToolReport> {
        self.tools.iter().filter(|tool| tool.not_compared.is_none())
    }

    /// The scenarios that were built.
    pub(super) fn scenarios(&self) -> Vec<Scenario> {
        self.compared().next().map(|tool| tool.scenarios.iter().map(|figures| figures.scenario).collect()).unwrap_or_default()
    }

    /// What it was about, on one line.
    pub(super) fn caption(&self) -> String {
        let versions: Vec<String> = self.compared().map(|tool| format!("{} {}", tool.name, tool.version)).collect();
        let base = self.base.as_ref().map(|base| format!(" upon {base}")).unwrap_or_default();
        let rounds = if self.rounds == 1 { "one round".to_owned() } else { format!("medians of {} rounds", self.rounds) };
        let cores = self.cores;
        format!("{}{base}: {rounds}, {cores} cores, {}, {}", self.context, versions.join(", "), self.date)
    }

    /// The table for people.
    pub(super) fn table(&self) -> String {
        let heads = self
            .compared()
            .map(|tool| if tool.is_own() { "SHALE\tHITS\tBYTES".into() } else { format!("{}\tHITS", tool.name.to_uppercase()) });
        let mut lines = vec![std::iter::once("CHANGED".to_owned()).chain(heads).collect::<Vec<_>>().join("\t")];
        for scenario in self.scenarios() {
            let cells = self.compared().map(|tool| cells(tool, tool.scenarios.iter().find(|figures| figures.scenario == scenario)));
            lines.push(std::iter::once(scenario.title().to_owned()).chain(cells).collect::<Vec<_>>().join("\t"));
        }
        let notes = self.notes().map(|note| note + "\n").collect::<String>();
        format!("{}\n\n{}{notes}", self.caption(), aligned(&(lines.join("\n") + "\n"), LIST))
    }

    /// What the figures do not say by themselves.
    pub(super) fn notes(&self) -> impl Iterator<Item = String> {
        let own = || self.tools.iter().filter(|tool| tool.is_own()).flat_map(|tool| &tool.scenarios);
        let longest = own().filter_map(|figures| figures.behind_seconds).reduce(f64::max);
        let behind = longest.map(|longest| {
            let longest = seconds(longest);
            format!("not in shale's times: behind a build the disk is written back, which took {longest} in the slowest row and ended before the next build")
        });
        let is_idle = own().any(|figures| figures.scenario == Scenario::TouchedFile && figures.misses == 0);
        let idle = self.touched.as_ref().filter(|_| is_idle).map(|name| format!("no step copies {name}: its change changed nothing"));
        let others = self.tools.iter().filter_map(|tool| Some(format!("{} is not compared: {}", tool.name, tool.not_compared.as_ref()?)));
        others.chain(behind).chain(idle)
    }
}

fn cells(tool: &ToolReport, figures: Option<&Figures>) -> String {
    let Some(figures) = figures else { return if tool.is_own() { "-\t-\t-".into() } else { "-\t-".into() } };
    let hits = format!("{}/{}", figures.hits, figures.hits + figures.misses);
    match figures.ratio.filter(|_| !tool.is_own()) {
        Some(ratio) => format!("{} ({ratio:.1}×)\t{hits}", seconds(figures.seconds)),
        None => format!("{}\t{hits}\t{}", seconds(figures.seconds), human::short_bytes(figures.bytes.unwrap_or(0))),
    }
}

/// Seconds with as many digits as say something.
pub(super) fn seconds(value: f64) -> String {
    let decimals = match value {
        value if value < 1.0 => 3,
        value if value < 10.0 => 2,
        _ => 1,
    };
    format!("{value:.decimals$}s")
}

/// Two builders and two scenarios.
#[cfg(test)]
pub(super) fn example() -> Report {
    let run = |seconds: f64, hits, misses, bytes: Option<u64>| Run { seconds, behind: bytes.map(|_| seconds / 10.0), hits, misses, bytes };
    let report = |kind: Kind, scale: f64, bytes: &dyn Fn(u64) -> Option<u64>| {
        let mut report = ToolReport::of(kind, "1.2.3".into(), None, None);
        for (scenario, base, hits) in [(Scenario::Cold, 1.0, 0), (Scenario::Unchanged, 0.01, 6)] {
            for spread in [1.5, 1.0, 0.9] {
                report.add(scenario, run(base * spread * scale, hits, 6 - hits, bytes(2_000_000 * (6 - hits as u64))));
            }
        }
        report
    };
    let mut tools = vec![report(Kind::Shale, 1.0, &Some), report(Kind::Buildah, 4.0, &|_| None)];
    tools.push(ToolReport::of(Kind::Docker, String::new(), Some("its daemon is not reachable (<no & socket>)".into()), None));
    let own = tools[0].runs.clone();
    for tool in &mut tools {
        tool.scenarios = tool.runs.iter().map(|(scenario, runs)| figures(*scenario, runs, Some(&own[scenario]))).collect();
    }
    let (date, context) = ("2026-01-31T00:00:00Z".into(), "a <b> & c".into());
    Report { date, rounds: 3, context, base: Some("busybox".into()), touched: None, cores: 2, tools }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_any_number() {
        for (values, expected) in [(vec![3.0], 3.0), (vec![3.0, 1.0], 2.0), (vec![9.0, 1.0, 2.0], 2.0)] {
            assert!((median(values.clone()) - expected).abs() < 1e-9, "{values:?}");
        }
    }

    #[test]
    fn the_table_has_times_hits_and_ratios() {
        insta::assert_snapshot!(example().table(), @r"
        a <b> & c upon busybox: medians of 3 rounds, 2 cores, shale 1.2.3, buildah 1.2.3, 2026-01-31T00:00:00Z

        CHANGED     SHALE     HITS      BYTES     BUILDAH         HITS
        cold        1.00s     0/6       12MB      4.00s (4.0×)    0/6
        unchanged   0.010s    6/6       0B        0.040s (4.0×)   6/6
        docker is not compared: its daemon is not reachable (<no & socket>)
        not in shale's times: behind a build the disk is written back, which took 0.100s in the slowest row and ended before the next build
        ");
    }

    #[test]
    fn a_file_that_no_step_copies_is_told_beside_the_figures() {
        let mut report = example();
        report.touched = Some("notes.txt".into());
        assert!(!report.table().contains("no step copies"));
        report.tools[0].scenarios[1].scenario = Scenario::TouchedFile;
        assert!(report.table().ends_with("\nno step copies notes.txt: its change changed nothing\n"), "{}", report.table());
    }
}
