//! ARG and ENV: which names have which values where.
//!
//! As in BuildKit, a stage has one list of variables that ARG and ENV both write: the later one wins, and a stage built on another
//! starts with its list, over which the image's ENV is laid once more. Beside it stands the list of declared ARGs, which RUN's
//! history text and the undefined-variable warning go by.

use std::collections::{BTreeMap, BTreeSet};

use super::error::PlanError;
use super::options::PlanOptions;
use super::outline::{self, OutlineArg};
use super::secret::looks_secret;
use crate::dockerfile;
use crate::dockerfile::ast::{ArgDecl, Dockerfile, Instruction, InstructionKind};
use crate::dockerfile::word;
use crate::oci::platform::Platform;

/// ARGs that reach the scan of an image only, never a command.
const NOT_IN_ENV: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// The proxy arguments that need no declaration, in the order that they reach a process.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// What wrote a variable last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Arg,
    Env,
}

#[derive(Clone, Debug)]
struct Variable {
    name: String,
    value: String,
    origin: Origin,
    /// A secret was expanded in the value.
    is_derived: bool,
}

/// Variables in order of their last writing.
#[derive(Clone, Debug, Default)]
struct Variables(Vec<Variable>);

impl Variables {
    fn get(&self, name: &str) -> Option<String> {
        self.find(name).map(|v| v.value.clone())
    }

    fn find(&self, name: &str) -> Option<&Variable> {
        self.0.iter().find(|v| v.name == name)
    }

    fn is_secret(&self, name: &str) -> bool {
        self.find(name).is_some_and(|v| v.is_derived || looks_secret(name, &v.value))
    }

    fn set(&mut self, name: &str, value: &str, origin: Origin, is_derived: bool) {
        self.0.retain(|v| v.name != name);
        self.0.push(Variable { name: name.into(), value: value.into(), origin, is_derived });
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|v| v.name.clone()).collect()
    }
}

/// The scope before the first FROM: platform arguments and global ARGs.
#[derive(Clone, Debug)]
pub struct GlobalScope {
    variables: Variables,
    declared: Vec<String>,
    /// What the outline tells of each declaration, the last of a name; and the names that its default looks at.
    told: BTreeMap<String, (OutlineArg, Vec<String>)>,
}

impl GlobalScope {
    /// Evaluates the global ARGs for a target platform; `build_args` stand over defaults.
    pub fn evaluate(
        dockerfile: &Dockerfile,
        options: &PlanOptions,
        platform: &Platform,
        build_args: &BTreeMap<String, String>,
    ) -> Result<Self, Vec<PlanError>> {
        let mut scope = Self { variables: predefined(dockerfile, options, platform), declared: Vec::new(), told: BTreeMap::new() };
        let mut errors = Vec::new();
        for instruction in &dockerfile.global_args {
            for declaration in arg_declarations(instruction) {
                if let Err(error) = scope.declare(instruction, declaration, build_args, dockerfile.directives.escape) {
                    errors.push(error);
                }
            }
        }
        if errors.is_empty() { Ok(scope) } else { Err(errors) }
    }

    fn declare(
        &mut self,
        instruction: &Instruction,
        declaration: &ArgDecl,
        build_args: &BTreeMap<String, String>,
        escape: char,
    ) -> Result<(), PlanError> {
        let name = &declaration.name.node;
        self.declared.push(name.clone());
        let mut looked_at = Vec::new();
        let value = match (build_args.get(name), &declaration.default) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(default)) => {
                let expanded = word::expand(default, escape, &|n| self.variables.get(n)).map_err(|e| PlanError::at(default.span, e))?;
                looked_at = expanded.matched;
                Some(expanded.text)
            }
            (None, None) => None,
        };
        let read = looked_at.clone();
        // `ARG A=${A}b` looks at what the earlier declaration looked at.
        if looked_at.contains(name) {
            looked_at.retain(|n| n != name);
            looked_at.extend(self.told.get(name).map(|(_, earlier)| earlier.clone()).unwrap_or_default());
        }
        if let Some(value) = &value {
            let is_derived = read.iter().any(|name| self.variables.is_secret(name));
            self.variables.set(name, value, Origin::Arg, is_derived);
        }
        let told = OutlineArg {
            name: name.clone(),
            description: outline::description(&instruction.comments, name),
            value: value.unwrap_or_default(),
            span: instruction.span,
        };
        self.told.insert(name.clone(), (told, looked_at));
        Ok(())
    }

    /// What the outline tells of a declared name.
    pub(crate) fn declaration(&self, name: &str) -> Option<&OutlineArg> {
        self.told.get(name).map(|(arg, _)| arg)
    }

    /// The names that the default of a declared name looks at.
    pub(crate) fn dependencies(&self, name: &str) -> impl Iterator<Item = &str> {
        self.told.get(name).into_iter().flat_map(|(_, names)| names.iter().map(String::as_str))
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<String> {
        self.variables.get(name)
    }

    /// Whether the value of a name looks secret, or one that does was expanded in it.
    pub(crate) fn is_secret(&self, name: &str) -> bool {
        self.variables.is_secret(name)
    }

    /// Puts another value in the place of a name's own.
    pub(crate) fn replace(&mut self, name: &str, value: &str) {
        self.variables.set(name, value, Origin::Arg, false);
    }

    /// Whether a name is declared, with or without a value.
    pub fn knows(&self, name: &str) -> bool {
        self.declared.iter().any(|n| n == name) || self.variables.get(name).is_some()
    }

    /// Every known name.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.variables.names();
        names.extend(self.declared.iter().filter(|n| self.variables.get(n).is_none()).cloned());
        names
    }
}

/// The declarations of an ARG instruction; nothing for others.
pub(crate) fn arg_declarations(instruction: &Instruction) -> &[ArgDecl] {
    match &instruction.kind {
        InstructionKind::Arg(declarations) => declarations,
        _ => &[],
    }
}

fn predefined(dockerfile: &Dockerfile, options: &PlanOptions, target: &Platform) -> Variables {
    let build = &options.build_platform;
    let last = || dockerfile.stages.last().and_then(|s| s.name.as_ref()).map(|n| n.node.to_lowercase());
    let stage = options.target.clone().filter(|t| !t.is_empty()).or_else(last).unwrap_or_else(|| "default".into());
    let mut variables = Variables::default();
    for (name, value) in [
        ("BUILDPLATFORM", build.to_string()),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", String::new()),
        ("BUILDARCH", build.architecture.clone()),
        ("BUILDVARIANT", build.variant.clone()),
        ("TARGETPLATFORM", target.to_string()),
        ("TARGETOS", target.os.clone()),
        ("TARGETOSVERSION", String::new()),
        ("TARGETARCH", target.architecture.clone()),
        ("TARGETVARIANT", target.variant.clone()),
        ("TARGETSTAGE", stage),
    ] {
        let value = options.build_args.get(name).unwrap_or(&value);
        variables.set(name, value, Origin::Arg, false);
    }
    variables
}

/// What is in scope at one place of a stage.
#[derive(Clone, Debug, Default)]
pub struct StageScope {
    variables: Variables,
    args: Vec<(String, Option<String>)>,
    /// Names of the image's ENV in whose values a secret was expanded: an ARG may stand over them, but not in a stage built on this one.
    derived_env: BTreeSet<String>,
}

impl StageScope {
    /// The value of a name, be it ARG or ENV.
    pub fn get(&self, name: &str) -> Option<String> {
        self.variables.get(name)
    }

    /// Every name with a value, for suggestions.
    pub fn names(&self) -> Vec<String> {
        self.variables.names()
    }

    /// Whether an ARG of this name was declared, with or without a value.
    pub fn declares(&self, name: &str) -> bool {
        self.args.iter().any(|(n, _)| n == name) || NOT_IN_ENV.contains(&name)
    }

    /// Whether the value of a name looks secret, or one that does was expanded in it. Records and progress do not hold it.
    pub fn is_secret(&self, name: &str) -> bool {
        self.variables.is_secret(name)
    }

    /// Whether one of these names is secret.
    pub(crate) fn has_secret(&self, names: &[String]) -> bool {
        names.iter().any(|name| self.is_secret(name))
    }

    /// `ENV name=value`; `is_derived`: a secret was expanded in the value.
    pub fn set_env(&mut self, name: &str, value: &str, is_derived: bool) {
        self.variables.set(name, value, Origin::Env, is_derived);
        if is_derived {
            self.derived_env.insert(name.into());
        } else {
            self.derived_env.remove(name);
        }
    }

    /// Lays an image's ENV list over what is there. Of what a foreign image's values were made nothing is known.
    pub fn set_env_list(&mut self, env: &[String]) {
        for entry in env {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            self.set_env(name, value, self.derived_env.contains(name));
        }
    }

    /// `ARG name`, with the value that it comes to have; `is_derived`: a secret was expanded in it.
    pub fn declare_arg(&mut self, name: &str, value: Option<&str>, is_derived: bool) {
        if let Some(value) = value
            && !NOT_IN_ENV.contains(&name)
        {
            self.variables.set(name, value, Origin::Arg, is_derived);
        }
        self.args.push((name.into(), value.map(Into::into)));
    }

    /// The variables whose value comes from an ARG.
    pub fn arg_values(&self) -> BTreeMap<String, String> {
        self.of(Origin::Arg).collect()
    }

    /// The image's ENV as a command sees it: entries that an ARG overrides are left to [`Self::arg_values`].
    pub fn env_under_args(&self, env: &[String]) -> Vec<String> {
        let args = self.arg_values();
        env.iter().filter(|e| !args.contains_key(e.split_once('=').map_or(e.as_str(), |(name, _)| name))).cloned().collect()
    }

    fn of(&self, origin: Origin) -> impl Iterator<Item = (String, String)> + '_ {
        self.variables.0.iter().filter(move |v| v.origin == origin).map(|v| (v.name.clone(), v.value.clone()))
    }

    /// Declared ARGs in order, each once, with the value that a command sees: the `|2 A=b C=` of RUN's history.
    pub fn history_args(&self) -> Vec<(String, String)> {
        let mut out: Vec<(String, String)> = Vec::new();
        for (name, value) in &self.args {
            let value = self.get(name).or_else(|| value.clone()).unwrap_or_default();
            match out.iter_mut().find(|(n, _)| n == name) {
                Some(known) => known.1 = value,
                None => out.push((name.clone(), value)),
            }
        }
        out
    }

    /// What the predefined proxy arguments give a process, in upper and lower case, where neither ARG nor ENV has the name.
    pub fn proxy_env(&self, build_args: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        for proxy in PROXIES {
            let given = build_args.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case(proxy));
            let Some((_, value)) = given.filter(|(_, value)| !value.is_empty()) else { continue };
            for name in [proxy.to_string(), proxy.to_ascii_lowercase()] {
                if self.get(&name).is_none() {
                    out.insert(name, value.clone());
                }
            }
        }
        out
    }
}

/// Build arguments that nothing in the file declares and that mean nothing by themselves, each with the declared name that is near.
pub(crate) fn unconsumed(
    dockerfile: &Dockerfile,
    onbuild: &[Instruction],
    build_args: &BTreeMap<String, String>,
) -> Vec<(String, Option<String>)> {
    let instructions = dockerfile.global_args.iter().chain(dockerfile.stages.iter().flat_map(|s| &s.instructions)).chain(onbuild);
    let declared: Vec<&str> = instructions.flat_map(arg_declarations).map(|d| d.name.node.as_str()).collect();
    let left = build_args.keys().filter(|name| !declared.contains(&name.as_str()) && !is_predefined(name));
    let known: Vec<&str> = declared.iter().copied().chain(CONTROL).collect();
    left.map(|name| (name.clone(), dockerfile::suggest(name, known.iter().copied(), true))).collect()
}

/// Arguments that tell the builder something.
const CONTROL: [&str; 11] = [
    "BUILDKIT_BUILD_NAME",
    "BUILDKIT_CACHE_MOUNT_NS",
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_DOCKERFILE_CHECK",
    "BUILDKIT_HISTORY_PROVENANCE_V1",
    "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_MULTI_PLATFORM",
    "BUILDKIT_SANDBOX_HOSTNAME",
    "BUILDKIT_SBOM_SCAN_CONTEXT",
    "BUILDKIT_SBOM_SCAN_STAGE",
    "BUILDKIT_SYNTAX",
];

fn is_predefined(name: &str) -> bool {
    let platform = |rest: &str| ["PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT"].contains(&rest);
    PROXIES.iter().any(|p| name.eq_ignore_ascii_case(p))
        || CONTROL.contains(&name)
        || name.starts_with("BUILDX_")
        || name == super::options::EPOCH_ARG
        || name == "TARGETSTAGE"
        || name.strip_prefix("BUILD").is_some_and(platform)
        || name.strip_prefix("TARGET").is_some_and(platform)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect()
    }

    #[test]
    fn the_last_of_arg_and_env_wins() {
        let mut scope = StageScope::default();
        scope.declare_arg("A", Some("arg"), false);
        scope.set_env("A", "env", false);
        assert_eq!(scope.get("A").as_deref(), Some("env"));
        assert!(scope.arg_values().is_empty());
        scope.declare_arg("A", Some("again"), false);
        assert_eq!(scope.get("A").as_deref(), Some("again"));
        assert_eq!(scope.env_under_args(&["A=env".into(), "B=1".into()]), ["B=1"]);
        assert_eq!(scope.history_args(), [("A".to_string(), "again".to_string())]);
    }

    #[test]
    fn an_arg_without_value_is_declared_but_unset() {
        let mut scope = StageScope::default();
        scope.declare_arg("A", None, false);
        assert_eq!(scope.get("A"), None);
        assert!(scope.declares("A") && !scope.declares("B"));
        assert_eq!(scope.history_args(), [("A".to_string(), String::new())]);
    }

    #[test]
    fn what_a_secret_was_expanded_in_is_secret_until_it_is_written_again() {
        let mut scope = StageScope::default();
        scope.set_env("URL", "https://tok@h", true);
        scope.set_env("A", "tok", true);
        scope.declare_arg("A", Some("plain"), false);
        assert!(!scope.is_secret("A") && scope.is_secret("URL") && !scope.is_secret("NONE"));
        // A stage that is built on it has the ENV again.
        scope.set_env_list(&["A=tok".into(), "B=1".into()]);
        assert!(scope.is_secret("A") && !scope.is_secret("B"));
        scope.set_env("A", "plain", false);
        scope.set_env_list(&["A=plain".into()]);
        assert!(!scope.is_secret("A"));
    }

    #[test]
    fn proxies_come_in_both_cases_unless_declared() {
        let given = pairs(&[("http_proxy", "p"), ("No_Proxy", "n"), ("FTP_PROXY", "")]);
        let mut scope = StageScope::default();
        scope.declare_arg("http_proxy", Some("p"), false);
        assert_eq!(scope.proxy_env(&given), pairs(&[("HTTP_PROXY", "p"), ("NO_PROXY", "n"), ("no_proxy", "n")]));
    }

    #[test]
    fn predefined_names_need_no_declaration() {
        for (name, known) in [
            ("http_proxy", true),
            ("HTTPS_PROXY", true),
            ("BUILDKIT_INLINE_CACHE", true),
            ("TARGETARCH", true),
            ("BUILDPLATFORM", true),
            ("SOURCE_DATE_EPOCH", true),
            ("BUILDER", false),
            ("BUILDKIT_INLINE_CASHE", false),
            ("TARGET", false),
            ("VERSION", false),
        ] {
            assert_eq!(is_predefined(name), known, "{name}");
        }
    }
}
