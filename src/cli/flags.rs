//! The flags of `docker build` and its relatives that shale does not carry out: one table with the reason for each.
//!
//! A flag that only tunes another engine is accepted with one warning line, so that existing pipelines run. A flag whose
//! absence would change the result is refused by name: nothing is parsed and silently dropped.

use clap::{Arg, ArgAction, ArgMatches, Command};

/// Whether a flag is a switch or wants a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    /// `--rm`, `--rm=false`
    Switch,
    /// `--memory 1g`, `--memory=1g`
    Value,
}

/// What becomes of a flag that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Accepted with a warning that ends in this reason.
    Ignored(&'static str),
    /// An error, with what to do instead. A switch that is given as `=false` asks for nothing and passes.
    Refused(&'static str),
    /// `=false` is accepted with a warning that ends in this reason, any other value is an error with what to do instead.
    RefusedUnlessFalse(&'static str, &'static str),
}

/// A flag that is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedFlag {
    /// Its name with dashes.
    pub flag: String,
    /// What to do instead.
    pub reason: &'static str,
}

/// One row of the table.
#[derive(Debug)]
struct OtherFlag {
    name: &'static str,
    short: Option<char>,
    takes: Takes,
    verdict: Verdict,
}

const NO_CONTAINERS: &str = "no intermediate containers are made";
const NO_CGROUPS: &str = "a RUN step has the limits of the calling process";
const NO_REMOTE_CACHE: &str = "steps are cached in the local store; remote caches are not supported yet";
const NO_ATTESTATIONS: &str = "no attestations are made";
const ATTEST_LATER: &str = "no attestations are made: build without them, and attach them to the pushed image (cosign attest, oras attach)";

/// Every flag of `docker build` and `docker buildx build` that `args::BuildArgs` does not hold.
#[rustfmt::skip]
static TABLE: &[OtherFlag] = &[
    row("rm", None, Takes::Switch, Verdict::Ignored(NO_CONTAINERS)),
    row("force-rm", None, Takes::Switch, Verdict::Ignored(NO_CONTAINERS)),
    row("compress", None, Takes::Switch, Verdict::Ignored("the context is read where it is, not sent")),
    row("builder", None, Takes::Value, Verdict::Ignored("this process is the builder")),
    row("memory", Some('m'), Takes::Value, Verdict::Ignored(NO_CGROUPS)),
    row("memory-swap", None, Takes::Value, Verdict::Ignored(NO_CGROUPS)),
    row("cpu-period", None, Takes::Value, Verdict::Ignored(NO_CGROUPS)),
    row("cpu-quota", None, Takes::Value, Verdict::Ignored(NO_CGROUPS)),
    row("cpu-shares", Some('c'), Takes::Value, Verdict::Ignored(NO_CGROUPS)),
    row("cpuset-cpus", None, Takes::Value, Verdict::Ignored(NO_CGROUPS)),
    row("cpuset-mems", None, Takes::Value, Verdict::Ignored(NO_CGROUPS)),
    row("cgroup-parent", None, Takes::Value, Verdict::Ignored(NO_CGROUPS)),
    row("resource", None, Takes::Value, Verdict::Ignored(NO_CGROUPS)),
    row("isolation", None, Takes::Value, Verdict::Ignored("there is one kind of isolation on Linux")),
    row("disable-content-trust", None, Takes::Switch, Verdict::Ignored("content trust is not checked")),
    row("cache-from", None, Takes::Value, Verdict::Ignored(NO_REMOTE_CACHE)),
    row("cache-to", None, Takes::Value, Verdict::Ignored(NO_REMOTE_CACHE)),
    row("provenance", None, Takes::Value, Verdict::RefusedUnlessFalse(NO_ATTESTATIONS, ATTEST_LATER)),
    row("sbom", None, Takes::Value, Verdict::RefusedUnlessFalse(NO_ATTESTATIONS, ATTEST_LATER)),
    row("attest", None, Takes::Value, Verdict::Refused(ATTEST_LATER)),
    row("detach", None, Takes::Switch, Verdict::Refused("a build is waited for: start it in the background of the shell (`&`)")),
    row("policy", None, Takes::Value, Verdict::Refused("policies are not evaluated: pin images and sources by their digests")),
    row("root", None, Takes::Value, Verdict::Refused("this process is the builder: SHALE_ROOT says where its store is")),
    row("security-opt", None, Takes::Value, Verdict::Refused("RUN steps have no options of their own: RUN --security=insecure, with --allow security.insecure, lifts the sandbox's limits")),
    row("server-config", None, Takes::Value, Verdict::Refused("there is no server: what can be set stands in config.toml (SHALE_CONFIG)")),
    row("squash", None, Takes::Switch, Verdict::Refused("each step is a layer of its own: `--output type=tar,dest=FILE` and `import` make an image of a single layer")),
    row("stream", None, Takes::Switch, Verdict::Refused("the context is read where it is, nothing is sent")),
];

/// Long flags of `buildah build` and kaniko's executor, with what does the same here: refused by name instead of being called unknown.
#[rustfmt::skip]
const OTHER_TOOLS: &[(&str, &str)] = &[
    ("all-platforms", "--platform with all of them"),
    ("arch", "--platform OS/ARCH"),
    ("build-arg-file", "--build-arg NAME for each, with its value in the environment"),
    ("cache", "steps are cached in any case; --no-cache turns that off"),
    ("cache-copy-layers", "every step is cached, COPY too"),
    ("cache-dir", "SHALE_ROOT says where the store is, which holds the cache"),
    ("cache-repo", "steps are cached in the local store; keep SHALE_ROOT between builds"),
    ("cache-run-layers", "every step is cached; --no-cache-filter STAGE leaves one out"),
    ("cache-ttl", "the store keeps itself to its caps: see `shale builder prune --help` and [gc] in config.toml"),
    ("cap-add", ""),
    ("cap-drop", ""),
    ("cert-dir", ""),
    ("cgroupns", ""),
    ("cleanup", "nothing is left outside the store"),
    ("compat-volumes", "what a step writes into a VOLUME stays, as with BuildKit"),
    ("compressed-caching", "cached layers take what they hold, and are compressed when they are exported"),
    ("compression", "--output type=…,compression=gzip"),
    ("compression-level", "--output type=…,compression-level=N"),
    ("context", "the context is the argument: `shale build DIR`"),
    ("context-sub-path", "the context is the argument: `shale build DIR/SUB`"),
    ("cpp-flag", ""),
    ("created-annotation", ""),
    ("creds", ""),
    ("custom-platform", "--platform OS/ARCH"),
    ("customPlatform", "--platform OS/ARCH"),
    ("cw", ""),
    ("decryption-key", ""),
    ("destination", "`--tag NAME --push`"),
    ("device", ""),
    ("digest-file", "--metadata-file FILE has it under containerimage.digest"),
    ("disable-compression", "--output type=…,compression=uncompressed"),
    ("dns", ""),
    ("dns-option", ""),
    ("dns-search", ""),
    ("dockerfile", "--file FILE"),
    ("env", ""),
    ("force", "the machine's own files are never touched, so it need not be forced"),
    ("force-build-metadata", ""),
    ("format", "--output type=oci or type=docker says which"),
    ("from", ""),
    ("git", "the context is the argument, also `https://…/repo.git#ref:dir`"),
    ("group-add", ""),
    ("hooks-dir", ""),
    ("http-proxy", "steps have the proxy that --build-arg HTTP_PROXY=… gives them"),
    ("identity-label", ""),
    ("ignore-path", "what the context is not to have stands in .dockerignore"),
    ("ignore-var-run", "nothing is scanned: what a step changed is known"),
    ("ignorefile", "NAME.dockerignore beside the Dockerfile NAME is used for it alone"),
    ("iidfile-raw", ""),
    ("image-download-retry", "requests that fail are tried again by themselves"),
    ("image-fs-extract-retry", "unpacking is not tried again"),
    ("image-name-tag-with-digest-file", "--metadata-file FILE has name and digest"),
    ("image-name-with-digest-file", "--metadata-file FILE has name and digest"),
    ("inherit-annotations", ""),
    ("inherit-labels", ""),
    ("insecure", "--insecure-registry HOST"),
    ("insecure-pull", "--insecure-registry HOST"),
    ("ipc", ""),
    ("jobs", "stages run side by side in any case"),
    ("kaniko-dir", "SHALE_ROOT says where the store is, the only place that is written to"),
    ("layer-label", ""),
    ("layers", "each step is cached in any case; --no-cache turns that off"),
    ("log-format", "--progress plain, tty or rawjson"),
    ("log-level", "--progress says how much is told, --debug tells more of errors"),
    ("log-timestamp", "--progress plain has the seconds of each step"),
    ("logfile", "redirect standard error, or see `shale builds logs`"),
    ("logsplit", ""),
    ("manifest", "--platform with several platforms makes one index"),
    ("materialize", ""),
    ("no-hostname", ""),
    ("no-hosts", ""),
    ("no-push", "without --push nothing is pushed"),
    ("no-push-cache", "nothing but images is ever pushed"),
    ("oci-layout-path", "--output type=oci,tar=false,dest=DIR"),
    ("omit-history", ""),
    ("os", "--platform OS/ARCH"),
    ("os-feature", ""),
    ("os-version", ""),
    ("pid", ""),
    ("pull-always", "--pull"),
    ("pull-never", "a base that the store has is taken from there unless --pull is given"),
    ("push-ignore-immutable-tag-errors", ""),
    ("push-retry", "requests that fail are tried again by themselves"),
    ("registry-certificate", "--registry-ca FILE"),
    ("registry-client-cert", ""),
    ("registry-map", "mirrors stand in config.toml (SHALE_CONFIG)"),
    ("registry-mirror", "mirrors stand in config.toml (SHALE_CONFIG)"),
    ("reproducible", "set SOURCE_DATE_EPOCH, with --output rewrite-timestamp=true for the files"),
    ("retry", "requests that fail are tried again by themselves"),
    ("retry-delay", "requests that fail are tried again by themselves"),
    ("rewrite-timestamp", "set SOURCE_DATE_EPOCH, with --output rewrite-timestamp=true for the files"),
    ("runtime", ""),
    ("runtime-flag", ""),
    ("rusage", ""),
    ("save-stages", ""),
    ("sbom-image-output", ""),
    ("sbom-image-purl-output", ""),
    ("sbom-merge-strategy", ""),
    ("sbom-output", ""),
    ("sbom-purl-output", ""),
    ("sbom-scanner-command", ""),
    ("sbom-scanner-image", ""),
    ("sign-by", ""),
    ("signature-policy", ""),
    ("single-snapshot", "`--output type=tar,dest=FILE` and `import` make an image of a single layer"),
    ("skip-default-registry-fallback", "mirrors stand in config.toml (SHALE_CONFIG)"),
    ("skip-push-permission-check", "no registry is asked before the push"),
    ("skip-tls-verify", "--tls-verify=false"),
    ("skip-tls-verify-pull", "--tls-verify=false"),
    ("skip-tls-verify-registry", "--insecure-registry HOST"),
    ("skip-unused-stages", "stages that the target does not need are never built"),
    ("snapshot-mode", "nothing is scanned: what a step changed is known"),
    ("snapshotMode", "nothing is scanned: what a step changed is known"),
    ("source-date-epoch", "set SOURCE_DATE_EPOCH, with --output rewrite-timestamp=true for the files"),
    ("source-policy-file", ""),
    ("squash-all", "`--output type=tar,dest=FILE` and `import` make an image of a single layer"),
    ("stage-labels", ""),
    ("stdin", "a step reads an end of file from its standard input"),
    ("storage-driver", "there is one way to keep layers"),
    ("tar-path", "--output type=docker,dest=FILE"),
    ("tarPath", "--output type=docker,dest=FILE"),
    ("timestamp", "set SOURCE_DATE_EPOCH, with --output rewrite-timestamp=true for the files"),
    ("unsetannotation", ""),
    ("unsetenv", "no instruction of Dockerfiles removes a variable: ENV NAME= empties it"),
    ("unsetlabel", ""),
    ("use-new-run", "nothing is scanned: what a step changed is known"),
    ("userns", ""),
    ("userns-gid-map", ""),
    ("userns-gid-map-group", ""),
    ("userns-uid-map", ""),
    ("userns-uid-map-user", ""),
    ("uts", ""),
    ("variant", "--platform OS/ARCH/VARIANT"),
    ("verbosity", "--progress says how much is told"),
    ("volume", "RUN --mount=type=bind and type=cache mount for one step"),
    ("whitelist-var-run", "nothing is scanned: what a step changed is known"),
];

const fn row(name: &'static str, short: Option<char>, takes: Takes, verdict: Verdict) -> OtherFlag {
    OtherFlag { name, short, takes, verdict }
}

/// What to say to a long flag (without dashes) of another builder.
pub(super) fn of_another_tool(name: &str) -> Option<String> {
    let at = OTHER_TOOLS.binary_search_by_key(&name, |(flag, _)| flag).ok()?;
    let hint = Some(OTHER_TOOLS[at].1).filter(|hint| !hint.is_empty()).map(|hint| format!("\nhint: {hint}"));
    Some(format!("ERROR: --{name} is not supported yet{}", hint.unwrap_or_default()))
}

/// Whether a long flag (with its dashes) is one of those that are not carried out, unless it asks for nothing.
pub(super) fn is_refused(flag: &str) -> bool {
    let is_meant = |row: &&OtherFlag| flag.strip_prefix("--") == Some(row.name);
    TABLE.iter().find(is_meant).is_some_and(|row| !matches!(row.verdict, Verdict::Ignored(_)))
}

/// The flags of the table that a command line held, with their values.
#[derive(Clone, Debug, Default)]
pub struct OtherFlags {
    given: Vec<(&'static OtherFlag, Vec<String>)>,
}

impl OtherFlags {
    /// The warning lines for what is accepted, or the first flag that is not.
    pub fn judge(&self) -> Result<Vec<String>, RefusedFlag> {
        let mut warnings = Vec::new();
        for (flag, values) in &self.given {
            let all_false = values.iter().all(|v| parse_bool(v) == Ok(false));
            match flag.verdict {
                Verdict::Ignored(reason) => warnings.push(format!("--{} has no effect: {reason}", flag.name)),
                Verdict::RefusedUnlessFalse(reason, _) if all_false => {
                    warnings.push(format!("--{}=false has no effect: {reason}", flag.name));
                }
                Verdict::Refused(_) if flag.takes == Takes::Switch && all_false => {}
                Verdict::Refused(reason) | Verdict::RefusedUnlessFalse(_, reason) => {
                    return Err(RefusedFlag { flag: format!("--{}", flag.name), reason });
                }
            }
        }
        Ok(warnings)
    }
}

impl clap::FromArgMatches for OtherFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let values = |flag: &OtherFlag| -> Option<Vec<String>> { Some(matches.get_many::<String>(flag.name)?.cloned().collect()) };
        Ok(Self { given: TABLE.iter().filter_map(|flag| Some((flag, values(flag)?))).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for OtherFlags {
    fn augment_args(command: Command) -> Command {
        command.args(TABLE.iter().map(|flag| {
            let arg = Arg::new(flag.name).long(flag.name).hide(true).action(ArgAction::Append);
            let arg = if let Some(short) = flag.short { arg.short(short) } else { arg };
            match flag.takes {
                Takes::Value => arg,
                Takes::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// A boolean as Docker's flags take it.
pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// `--pull`: Docker's boolean, and those of buildah's words that say the same.
pub(super) fn parse_pull(text: &str) -> Result<bool, String> {
    match text {
        "always" | "newer" => Ok(true),
        "missing" | "ifmissing" => Ok(false),
        "never" => Err("a base that the store has is taken from there without the flag; one that it has not is always asked for".into()),
        _ => parse_bool(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches as _;

    fn judge(args: &[&str]) -> Result<Vec<String>, String> {
        let command = <OtherFlags as clap::Args>::augment_args(Command::new("build").no_binary_name(true));
        OtherFlags::from_arg_matches(&command.try_get_matches_from(args).expect("the table parses"))
            .expect("never fails")
            .judge()
            .map_err(|refused| refused.flag)
    }

    #[test]
    fn other_tools_stand_sorted_for_the_search() {
        assert!(OTHER_TOOLS.is_sorted());
        assert!(OTHER_TOOLS.iter().all(|(name, _)| TABLE.iter().all(|flag| flag.name != *name)));
    }

    #[test]
    fn what_tunes_another_engine_passes_with_one_warning_each() {
        let warnings =
            judge(&["--rm", "--force-rm=true", "-m", "1g", "--cache-from=a", "--cache-from", "b", "--provenance=false"]).unwrap();
        assert_eq!(warnings.len(), 5, "{warnings:#?}");
        assert!(warnings.iter().any(|w| w.starts_with("--memory has no effect: ")));
        assert!(warnings.iter().any(|w| w.starts_with("--provenance=false has no effect: ")));
    }

    #[test]
    fn what_would_change_the_result_is_refused_by_name() {
        for (args, name) in [
            (&["--policy", "x"][..], "--policy"),
            (&["--stream"], "--stream"),
            (&["--stream=true"], "--stream"),
            (&["--provenance=mode=max"], "--provenance"),
            (&["--sbom=true"], "--sbom"),
            (&["--squash"], "--squash"),
        ] {
            assert_eq!(judge(args), Err(name.into()), "{args:?}");
        }
    }

    #[test]
    fn a_refused_switch_that_is_off_asks_for_nothing() {
        assert_eq!(judge(&["--stream=false", "--squash=0", "--detach=f"]), Ok(vec![]));
    }
}
