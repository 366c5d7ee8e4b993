//! Records of builds: every build has one, however it ended, and `explain`, `builds` and `buildx history` read it.

mod support;

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use support::{Lab, Said, Who, as_everybody, processes};

fn inspected(lab: &Lab, name: &str) -> Value {
    let said = lab.run(&["builds", "inspect", "--format", "json", name]);
    assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
    serde_json::from_str(&said.stdout).expect("JSON")
}

fn column(said: &Said, number: usize) -> Vec<String> {
    said.stdout
        .lines()
        .skip(1)
        .map(|line| line.split("   ").filter(|cell| !cell.is_empty()).nth(number).unwrap_or_default().trim().to_owned())
        .collect()
}

#[test]
fn every_build_is_on_record_with_its_reasons() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nARG V=1\nCOPY f /f\nRUN echo said $V\n"), ("f", "1\n")]);
        assert!(lab.run(&["build", "-q", "-t", "app:1", "--build-arg", "MY_TOKEN=hidden-value", "ctx"]).ok());
        lab.write("ctx/f", "2\n");
        assert!(lab.run(&["build", "-q", "-t", "app:2", "--build-arg=V=2", "ctx"]).ok());
        let (last, first) = (inspected(lab, "^0"), inspected(lab, "app:1"));
        assert_eq!((&last["result"], &last["misses"], &last["hits"]), (&"ok".into(), &2.into(), &0.into()), "{last}");
        assert_eq!(last["steps"][0]["changes"][0]["files"][0]["path"], "f");
        assert_eq!(last["steps"][1]["changes"][0]["text"], "build arg V: 1 → 2");
        assert_eq!(last["tags"][0], "docker.io/library/app:2");
        assert!(last["image"].as_str().is_some_and(|id| id.starts_with("sha256:")), "{last}");
        assert!(first.to_string().contains("MY_TOKEN=***") && !first.to_string().contains("hidden-value"), "{first}");
        let said = lab.run(&["explain"]);
        for part in
            ["app:2", "completed", "0 hits, 2 misses", "1 file changed: f", "f (content)", "build arg V: 1 → 2", "also: an earlier step"]
        {
            assert!(said.stdout.contains(part), "{part:?} is not in\n{}", said.stdout);
        }
        let id = last["id"].as_str().expect("an id");
        let explained: Value =
            serde_json::from_str(&lab.run(&["explain", "--format=json", &format!("default/default/{id}")]).stdout).expect("JSON");
        assert_eq!(explained, last);
        let logs = lab.run(&["builds", "logs", id]).stdout;
        assert!(logs.contains("#2 [3/3] RUN echo said 2\n#2 said 2\n#2 DONE "), "{logs}");
        let said = lab.run(&["buildx", "history", "logs", id]);
        assert_eq!((said.stdout.as_str(), said.stderr), ("", logs));
        let listed = lab.run(&["builds"]);
        assert_eq!((column(&listed, 0)[0].as_str(), column(&listed, 1)[0].as_str()), (id, "app:2"), "{}", listed.stdout);
        assert_eq!(column(&listed, 2), ["Completed"; 3], "{}", listed.stdout);
        assert_eq!(column(&lab.run(&["builds", "--filter", "status=failed"]), 0), [""; 0]);
        let image = last["image"].as_str().expect("an image").to_owned();
        for name in [&image[..], &image["sha256:".len()..], &image["sha256:".len()..][..12]] {
            let said = lab.run(&["explain", name]);
            assert!(said.stdout.starts_with(&format!("Build {id} of app:2")), "{name}: {}{}", said.stdout, said.stderr);
        }
        let line = lab.run(&["buildx", "history", "ls", "--format", "{{.Ref}} {{.Name}} {{.Status}}"]).stdout;
        assert_eq!(line.lines().next(), Some(&*format!("{id} ctx Completed")));
        lab.context("bad", &[("Dockerfile", "FROM busybox\nRUN echo said; exit 5\n")]);
        assert_eq!(lab.run(&["build", "-q", "bad"]).code, 1);
        let logs = lab.run(&["builds", "logs"]).stdout;
        let failed = "#1 [2/2] RUN echo said; exit 5\n#1 said\n#1 ERROR: process \"/bin/sh -c echo said; exit 5\" did not complete successfully: exit code: 5\n";
        assert!(logs.starts_with(failed), "{logs}");
        assert!(lab.run(&["builds", "rm", id]).ok());
        let said = lab.run(&["explain", id]);
        assert_eq!((said.code, said.stderr.lines().next()), (1, Some(&*format!("ERROR: no record found for ref {id:?}"))));
        assert!(lab.run(&["buildx", "history", "rm", "--all"]).ok());
        assert!(lab.run(&["explain"]).stderr.starts_with("ERROR: no records found\n"));
        assert_eq!(lab.run(&["builds", "-q"]).stdout, "");
    });
}

#[test]
fn in_a_context_the_last_build_is_that_of_the_context() {
    let lab = Lab::new(Who::Caller);
    for name in ["one", "two"] {
        lab.context(name, &[("Dockerfile", "FROM scratch\nCOPY src/f /\n"), ("src/f", name)]);
        assert!(lab.run(&["build", "-q", "-t", name, name]).ok());
    }
    for (dir, args, image) in
        [(".", &[][..], "two"), ("one", &[], "one"), ("one/src", &[], "one"), ("two", &[], "two"), ("two", &["../one"], "one")]
    {
        let said = Said::of(lab.shale(&["explain"]).args(args).current_dir(lab.work(dir)).output().expect("shale starts"));
        assert!(said.stdout.contains(&format!(" of {image}:latest, ")), "{dir} {args:?}: {}{}", said.stdout, said.stderr);
    }
    let here = lab.shale(&["build", "-q", "."]).current_dir(lab.work("one")).output().expect("shale starts");
    assert!(here.status.success());
    assert_eq!(lab.run(&["builds", "--format", "{{.Name}}"]).stdout, "one\ntwo:latest\none:latest\n");
}

/// A build whose step runs.
struct Running {
    child: Child,
    pid: String,
}

impl Running {
    /// Starts it and waits until its command has said a word.
    fn start(lab: &Lab, word: &str) -> Self {
        lab.context("ctx", &[("Dockerfile", &format!("FROM busybox\nCOPY Dockerfile /\nRUN echo {word}; sleep 100\n"))]);
        let mut child = lab.shale(&["build", "ctx"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("shale starts");
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < Duration::from_secs(60), "the step never began");
            assert!(child.try_wait().expect("a child").is_none(), "the build has ended");
            let record = inspected(lab, "^0");
            let said = lab.run(&["builds", "logs", "^0"]).stdout;
            if record["result"] == "running" && said.contains(&format!(" {word}\n")) {
                return Self { child, pid: record["pid"].to_string() };
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(mut self, signal: Signal) {
        processes::send_to(&self.pid, signal);
        self.child.wait().expect("it ended");
    }
}

#[test]
fn a_build_that_failed_was_stopped_or_was_killed_says_so() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN exit 3\n")]);
        assert!(!lab.run(&["build", "ctx"]).ok());
        let record = inspected(lab, "^0");
        assert_eq!((&record["result"], &record["steps"][0]["status"]), (&"failed".into(), &"failed".into()), "{record}");
        assert_eq!((&record["hits"], &record["misses"]), (&0.into(), &1.into()), "what ran and failed was not found: {record}");
        assert!(record["error"].as_str().is_some_and(|error| error.contains("exit code: 3")), "{record}");
        lab.context("bad", &[("Dockerfile", "FORM busybox\n")]);
        assert!(!lab.run(&["build", "bad"]).ok());
        assert_eq!(inspected(lab, "^0")["result"], "failed");
        lab.context("bad", &[("Dockerfile", "FROM busybox\nCOPY nowhere /\n")]);
        assert!(!lab.run(&["build", "bad"]).ok());
        assert_eq!(inspected(lab, "^0")["misses"], 0, "nothing was looked for");
        let mut expected = vec!["Failed", "Failed", "Failed", "Completed"];
        for (word, signal, result, status) in
            [("INT", Signal::INT, "cancelled", "Cancelled"), ("KILL", Signal::KILL, "interrupted", "Killed")]
        {
            let build = Running::start(lab, word);
            let listed = lab.run(&["builds"]);
            assert_eq!((column(&listed, 2)[0].as_str(), column(&listed, 6)[0].as_str()), ("Running", "1"), "{}", listed.stdout);
            let said = lab.run(&["builds", "rm", "^0"]);
            assert!(said.code == 1 && said.stderr.contains(" still runs"), "{}", said.stderr);
            build.stop(signal);
            // Nor does the process stay that waited to look after the store.
            lab.wait_for_sync(word);
            let record = inspected(lab, "^0");
            assert_eq!(record["result"], result, "{:?}", lab.who());
            // What ran until then is told, also of a build that could not say goodbye.
            assert_eq!((&record["steps"][0]["status"], &record["misses"]), (&"executed".into(), &1.into()), "{record}");
            let explained = lab.run(&["explain"]).stdout;
            assert!(explained.lines().any(|line| line.contains("RUN echo") && line.contains(&status.to_lowercase())), "{explained}");
            assert!(lab.run(&["builds", "logs"]).stdout.contains(&format!(" {word}\n")));
            expected.insert(0, status);
            assert_eq!(column(&lab.run(&["builds"]), 2), expected, "{:?}", lab.who());
        }
        let said = lab.run(&["buildx", "history", "ls", "--format", "{{.Status}}", "--filter=status=canceled"]);
        assert_eq!(said.stdout, "Error\n");
    });
}

#[test]
fn a_build_that_has_to_be_given_up_was_cancelled() {
    let lab = Lab::new(Who::Caller);
    lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    // Nobody reads the pipe, and nothing asks the writer whether the build is still wanted.
    lab.write("ctx/large", vec![1_u8; 4 << 20]);
    lab.write("ctx/Dockerfile", "FROM scratch\nCOPY large /\n");
    let mut build = lab.shale(&["build", "-o", "type=tar,dest=-", "ctx"]);
    let mut child = build.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("shale starts");
    let start = Instant::now();
    while !lab.run(&["builds"]).stdout.contains("Running") || inspected(&lab, "^0")["misses"] != 1 {
        assert!(start.elapsed() < Duration::from_secs(60), "the step never ran");
        thread::sleep(Duration::from_millis(20));
    }
    processes::send(&child, Signal::TERM);
    assert_eq!(child.wait().expect("it ended").code(), Some(143));
    assert_eq!(inspected(&lab, "^0")["result"], "cancelled");
}
