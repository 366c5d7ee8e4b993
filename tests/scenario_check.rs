//! Questions about a Dockerfile: `--check` and `--call`. Nothing runs and nothing is kept.

mod support;

use serde_json::Value;
use support::{Lab, Said, Who, as_everybody};

const GOOD: &str = "FROM scratch AS base\nCOPY f /f\nRUN [\"/nothing\"]\nFROM base\nCMD [\"/f\"]\n";
const BAD: &str = "FROM scratch AS unused\nCMD a\nFROM scratch\nCOPY f /f\nlabel a=b\nENV c=$d\n";

fn lab_with(who: Who, dockerfile: &str) -> Lab {
    let lab = Lab::new(who);
    fill(&lab, dockerfile);
    lab
}

fn fill(lab: &Lab, dockerfile: &str) {
    lab.context("ctx", &[("Dockerfile", dockerfile), ("f", "f\n")]);
}

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", said.stdout, said.stderr))
}

#[test]
fn a_check_finds_what_every_stage_does_and_runs_nothing() {
    as_everybody(|lab| {
        fill(lab, GOOD);
        let said = lab.run(&["build", "--check", "ctx"]);
        assert_eq!((said.code, said.stdout.as_str()), (0, "Check complete, no warnings found.\n"), "{}", said.stderr);
        fill(lab, BAD);
        let said = lab.run(&["build", "--check", "--progress", "plain", "ctx"]);
        assert_eq!(said.code, 1, "{}", said.stderr);
        assert!(
            said.stdout.starts_with("Check complete, 3 warnings have been found!\n\nWARNING: JSONArgsRecommended - "),
            "{}",
            said.stdout
        );
        assert!(said.stdout.contains("\nDockerfile:5\n--------------------\n"), "{}", said.stdout);
        assert!(said.stdout.contains("   5 | >>> label a=b\n"), "{}", said.stdout);
        // The target's stages only.
        let said = lab.run(&["build", "--call=check", "--target", "unused", "ctx"]);
        assert!(said.stdout.contains("JSONArgsRecommended") && !said.stdout.contains("UndefinedVar"), "{}", said.stdout);
        assert_eq!(lab.run(&["images", "-q"]).stdout, "", "something was kept");
        lab.assert_tidy("after checks");
    });
}

#[test]
fn a_check_says_what_can_be_said_of_a_file_that_would_not_build() {
    let lab = lab_with(Who::Caller, "ARG base\nFROM ${base}\nMAINTAINER x\n");
    let rules = |lab: &Lab| {
        let found = json(&lab.run(&["build", "--call=check,format=json", "ctx"]));
        let warnings = found["warnings"].as_array().cloned().unwrap_or_default();
        warnings.iter().map(|w| w["ruleName"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(rules(&lab), ["InvalidDefaultArgInFrom", "MaintainerDeprecated"]);
    // Words are expanded before an instruction is looked at.
    fill(&lab, "FROM scratch\nWORKDIR $X\n");
    assert_eq!(rules(&lab), ["UndefinedVar", "WorkdirRelativePath"]);
    // Whoever only asks need not be granted anything.
    fill(&lab, "FROM scratch\nRUN --network=host --security=insecure [\"x\"]\n");
    let said = lab.run(&["build", "--check", "ctx"]);
    assert_eq!((said.code, said.stdout.as_str()), (0, "Check complete, no warnings found.\n"), "{}", said.stderr);
    assert!(lab.run(&["build", "--call=outline", "ctx"]).ok());
    assert!(!lab.run(&["build", "ctx"]).ok());
}

#[test]
fn answers_are_json_for_programs() {
    let lab = lab_with(Who::Caller, BAD);
    let said = lab.run(&["build", "--call=check,format=json", "ctx"]);
    assert_eq!(said.code, 1);
    let found = json(&said);
    let rules: Vec<_> = found["warnings"].as_array().expect("a list").iter().map(|w| w["ruleName"].as_str().expect("a name")).collect();
    assert_eq!(rules, ["JSONArgsRecommended", "ConsistentInstructionCasing", "UndefinedVar"]);
    assert_eq!(found["sources"][0]["filename"], "Dockerfile");
    let said = lab.run(&["build", "--call=check,format=json,ignorestatus=true", "ctx"]);
    assert_eq!(said.code, 0);
    let said = lab.run(&["build", "--call=targets,format=json", "ctx"]);
    assert_eq!((said.code, json(&said)["targets"][1]["default"].as_bool()), (0, Some(true)));
    let said = lab.run(&["build", "--print=subrequests.describe,format=json", "ctx"]);
    assert_eq!(json(&said)[0]["name"], "frontend.outline");
}

#[test]
fn an_outline_is_what_the_target_takes() {
    let dockerfile = "\
ARG BASE=scratch
ARG UNUSED=1
FROM $BASE AS first
# TOOL is what is built
ARG TOOL=${BASE}-tool
RUN --mount=type=ssh,required [\"/x\"]
FROM scratch AS aside
ARG ASIDE
# last is what is shipped
FROM first AS last
ARG EMPTY
RUN --mount=type=secret,id=key,required=true \\
    --mount=type=secret,id=other [\"/x\"]
";
    let lab = lab_with(Who::Caller, dockerfile);
    let said = lab.run(&["build", "--call", "outline", "--build-arg", "TOOL=mine", "ctx"]);
    assert_eq!(
        (said.code, said.stdout.as_str()),
        (
            0,
            "TARGET:      last\n\
             DESCRIPTION: is what is shipped\n\
             \n\
             BUILD ARG   VALUE     DESCRIPTION\n\
             BASE        scratch   \n\
             TOOL        mine      is what is built\n\
             EMPTY                 \n\
             \n\
             SECRET   REQUIRED\n\
             key      true\n\
             other    \n\
             \n\
             SSH       REQUIRED\n\
             default   true\n\
             \n"
        ),
        "{}",
        said.stderr
    );
}

#[test]
fn what_cannot_be_checked_says_why() {
    let lab = lab_with(Who::Caller, "FROM scratch\nCOPPY f /\n");
    for call in ["check", "outline", "targets"] {
        let said = lab.run(&["build", "--call", call, "ctx"]);
        assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{call}: {}", said.stderr);
        assert!(
            said.stderr.contains("dockerfile parse error on line 2: unknown instruction: COPPY (did you mean COPY?)"),
            "{}",
            said.stderr
        );
    }
    fill(&lab, "FROM scratch AS A\nCOPY --from=7 f /\n");
    let said = lab.run(&["build", "--check", "ctx"]);
    assert_eq!(said.code, 1);
    assert!(said.stdout.contains("WARNING: StageNameCasing"), "{}", said.stdout);
    assert!(said.stderr.contains("ERROR: invalid stage index 7\nDockerfile:2\n"), "{}", said.stderr);
    let said = lab.run(&["build", "--call=check,format=json", "ctx"]);
    assert_eq!((said.code, &json(&said)["buildError"]["message"]), (1, &Value::from("invalid stage index 7")));
}

#[test]
fn violations_fail_a_build_that_wants_it_and_remarks_do_not() {
    let lab = lab_with(Who::Caller, "# check=error=true\nFROM scratch\nCOPY f /f\nLABEL a=$b\n");
    let out = ["-o", "type=oci,dest=o.tar"];
    let said = lab.run(&[&["build", "--progress", "plain", "ctx"][..], &out].concat());
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("lint violation found for rules: UndefinedVar"), "{}", said.stderr);
    assert!(
        said.stderr.contains("\n 1 warning found (use --debug to expand):\n - UndefinedVar: Usage of undefined variable '$b' (line 4)\n")
    );
    let skip = "BUILDKIT_DOCKERFILE_CHECK=skip=UndefinedVar;error=true";
    let said = lab.run(&[&["build", "--progress", "plain", "--build-arg", skip, "--build-arg", "VRSION=1", "ctx"][..], &out].concat());
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stderr.contains("[Warning] One or more build-args [VRSION] were not consumed\n"), "{}", said.stderr);
    fill(&lab, "# check=skip=UndefindVar\nFROM scratch\nARG VERSION\nCOPY f /f\nLABEL a=$b\n");
    let said = lab.run(&[&["build", "-D", "--progress", "plain", "--build-arg", "VRSION=1", "ctx"][..], &out].concat());
    assert_eq!(said.code, 0, "{}", said.stderr);
    for part in [
        "[Warning] One or more build-args [VRSION] were not consumed (did you mean VERSION?)\n",
        "[Warning] check=skip names no rule: UndefindVar (did you mean UndefinedVar?)\n",
        "Variables should be defined before their use\nMore info: https://docs.docker.com/go/dockerfile/rule/undefined-var/\nDockerfile:5\n",
        "   5 | >>> LABEL a=$b\n",
    ] {
        assert!(said.stderr.contains(part), "{part:?}: {}", said.stderr);
    }
}

#[test]
fn the_dockerfile_frontend_is_built_in_whatever_its_version() {
    let lab = lab_with(Who::Caller, "");
    for (syntax, remark) in
        [("docker/dockerfile:1", false), ("docker/dockerfile-upstream:master-labs", false), ("docker/dockerfile:1.99", true)]
    {
        fill(&lab, &format!("# syntax={syntax}\nFROM scratch\nCOPY f /f\n"));
        let said = lab.run(&["build", "--progress", "plain", "-o", "type=oci,dest=o.tar", "ctx"]);
        assert_eq!(said.code, 0, "{syntax}: {}", said.stderr);
        assert_eq!(said.stderr.matches("is newer than the language that is known").count(), usize::from(remark), "{}", said.stderr);
    }
    for (dockerfile, name) in [
        ("// syntax=example/one\nanything", "example/one"),
        ("{\"syntax\": \"example/two:1\"}", "example/two:1"),
        ("#!/usr/bin/env x\n# syntax=example/three\nFROM scratch\n", "example/three"),
    ] {
        fill(&lab, dockerfile);
        let said = lab.run(&["build", "ctx"]);
        assert_eq!(said.code, 1);
        assert!(said.stderr.contains(&format!("frontend {name} cannot be run")), "{}", said.stderr);
    }
}
