//! What the store takes, told and got rid of by Docker's commands.

mod support;

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::{Lab, Said, as_everybody, du};

fn ok(lab: &Lab, args: &[&str]) -> String {
    let said = lab.run(args);
    assert!(said.ok(), "{:?}: {args:?}: {}", lab.who(), said.stderr);
    said.stdout
}

/// Bytes by row of `system df`, once nothing writes any more: the process that a build leaves behind adds its mark.
fn sizes(lab: &Lab) -> Vec<(String, u64)> {
    lab.wait_for_sync("sizes");
    let rows = ok(lab, &["system", "df", "--format", "json"]);
    let row = |line: &str| {
        let row: Value = serde_json::from_str(line).expect("JSON");
        (row["Type"].as_str().expect("text").to_owned(), row["SizeBytes"].as_u64().expect("a number"))
    };
    rows.lines().map(row).collect()
}

/// `system df` adds up to what `du` counts as root, files of mapped ids included.
fn assert_counted(lab: &Lab, when: &str) {
    lab.assert_no_process(when);
    let rows = sizes(lab);
    assert_eq!(rows.iter().map(|(_, size)| size).sum::<u64>(), du(&lab.store()), "{:?}: {when}: {rows:?}", lab.who());
}

const DOCKERFILE: &str = "FROM busybox AS a\nCOPY f /w/f\nRUN --mount=type=cache,target=/c dd if=/dev/zero of=/c/x bs=1k count=100 2>&1; \
    dd if=/dev/zero of=/big bs=1k count=300; ln /big /again; mkdir -m 700 /closed; echo x >/closed/x; chown -R 7:7 /closed\n\
    FROM busybox\nCOPY --from=a /closed /closed\nRUN ls / >/list\n";

#[test]
fn what_is_counted_is_what_du_counts() {
    if !support::is_root() {
        support::skip("what du counts", "only root can look into files of mapped ids");
        return;
    }
    as_everybody(|lab| {
        lab.own_binary();
        lab.load_busybox();
        assert_counted(lab, "a base");
        lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("f", &"f\n".repeat(5000))]);
        ok(lab, &["build", "-q", "-t", "app", "ctx"]);
        assert_counted(lab, "an image that was not packed");
        ok(lab, &["build", "-q", "-t", "app", "-o", "type=oci,dest=app.tar", "ctx"]);
        assert_counted(lab, "a packed image");
        ok(lab, &["builder", "prune", "-f"]);
        assert_counted(lab, "without unshared layers");
        ok(lab, &["rmi", "-f", "app"]);
        ok(lab, &["system", "prune", "-a", "-f"]);
        assert_counted(lab, "after a pruning of everything");
        let rows = sizes(lab);
        assert!(rows[0].0 == "Images" && rows[0].1 == 0 && rows[3].0 == "Build Cache" && rows[3].1 < 400_000, "{rows:?}");
    });
}

#[test]
fn the_columns_are_docker_s() {
    let lab = Lab::new(support::Who::Caller);
    lab.load_busybox();
    lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("f", "f\n")]);
    // Files of the same tick of the file system's clock as the build are not remembered.
    std::thread::sleep(std::time::Duration::from_millis(50));
    ok(&lab, &["build", "-q", "-t", "app", "ctx"]);
    let table = ok(&lab, &["system", "df"]);
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    assert_eq!((words[1][0], words[1][1], words[1][2], words[1][5]), ("Images", "2", "0", "(100%)"), "{table}");
    assert_eq!(words[2], ["Containers", "0", "0", "0B", "0B"]);
    assert_eq!(words[3], ["Local", "Volumes", "0", "0", "0B", "0B"]);
    assert_eq!(words[4][..2], ["Build", "Cache"]);
    let details = ok(&lab, &["system", "df", "-v"]);
    for part in [
        "Images space usage:\n\nREPOSITORY",
        "SHARED SIZE",
        "UNIQUE SIZE",
        "\nContainers space usage:\n\nCONTAINER ID",
        "\nLocal Volumes space usage:\n\nVOLUME NAME",
        "\nBuild cache usage: ",
        "CACHE TYPE",
        "LAST USED",
        "exec.cachemount",
        "source.local",
    ] {
        assert!(details.contains(part), "{part}:\n{details}");
    }
    assert_eq!(ok(&lab, &["system", "df", "--format", "{{.Type}}:{{.TotalCount}}"]).lines().next(), Some("Images:2"));
    let json: Value = serde_json::from_str(&ok(&lab, &["system", "df", "-v", "--format", "json"])).expect("JSON");
    assert_eq!(json["Images"].as_array().map(Vec::len), Some(2));
    let du = ok(&lab, &["buildx", "du"]);
    assert!(du.starts_with("ID") && du.contains("RECLAIMABLE") && du.contains("\nReclaimable:") && du.contains("\nTotal:"), "{du}");
    let mount = ok(&lab, &["builder", "du", "--filter", "type=exec.cachemount", "--format", "{{.CacheType}} {{.InUse}}"]);
    assert_eq!(mount, "exec.cachemount false\n");
    assert!(ok(&lab, &["buildx", "du", "--verbose"]).contains("Description:"), "every entry is described");
}

#[test]
fn pruning_asks_and_answers_as_docker_does() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("f", "f\n")]);
        ok(lab, &["build", "-q", "-t", "app", "ctx"]);
        let before = sizes(lab);
        // Nobody answers.
        for (args, question) in [
            (&["builder", "prune"][..], "WARNING! This will remove all dangling build cache. Are you sure you want to continue? [y/N] "),
            (&["buildx", "prune", "-a"], "WARNING! This will remove all build cache. Are you sure you want to continue? [y/N] "),
            (&["image", "prune"], "WARNING! This will remove all dangling images.\nAre you sure you want to continue? [y/N] "),
        ] {
            assert_eq!(ok(lab, args), question);
        }
        assert_eq!(sizes(lab), before);
        assert!(ok(lab, &["builder", "prune", "-f", "--filter", "unused-for=1h"]).starts_with("Total reclaimed space: 0B"));
        assert_eq!(ok(lab, &["buildx", "prune", "-f", "--reserved-space", "1GB"]), "Total:   0B\n");
        let said = ok(lab, &["builder", "prune", "--force", "--filter", "type=exec.cachemount"]);
        assert_eq!(said.lines().next(), Some("Deleted build cache objects:"));
        assert_eq!(said.lines().count(), 4, "{said}");
        assert!(said.lines().nth(3).is_some_and(|line| line.starts_with("Total reclaimed space: ") && line.ends_with("kB")), "{said}");
        // Another image takes the name.
        lab.context("other", &[("Dockerfile", "FROM busybox\nLABEL a=1\nRUN echo other >/o\n")]);
        ok(lab, &["build", "-q", "-t", "app", "other"]);
        let id = ok(lab, &["images", "-q", "--no-trunc", "app"]);
        assert_eq!(ok(lab, &["image", "prune", "-f", "--filter", "until=1h"]), "Total reclaimed space: 0B\n");
        let said = ok(lab, &["image", "prune", "-f"]);
        assert!(said.starts_with("Deleted Images:\ndeleted: sha256:") && said.contains("\n\nTotal reclaimed space: "), "{said}");
        assert_eq!(ok(lab, &["images", "-q", "--no-trunc", "app"]), id);
        let said = ok(lab, &["image", "prune", "-a", "-f", "--filter", "label=a=1"]);
        assert_eq!(said.lines().nth(1), Some("untagged: app:latest"), "{said}");
        assert_eq!(said.lines().nth(2), Some(format!("deleted: {}", id.trim()).as_str()), "{said}");
        // A yes from a pipe is a yes.
        let mut child = lab.shale(&["system", "prune", "-a"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("shale starts");
        child.stdin.take().expect("piped").write_all(b"y\n").expect("written");
        let said = Said::of(child.wait_with_output().expect("it ends"));
        assert!(said.ok() && said.stdout.starts_with("WARNING! This will remove:\n  - all stopped containers\n"), "{}", said.stdout);
        assert!(
            said.stdout.contains("untagged: busybox:latest\n") && said.stdout.contains("Deleted build cache objects:\n"),
            "{}",
            said.stdout
        );
        assert!(lab.names_in_store("layers").is_empty() && lab.names_in_store("steps").is_empty());
    });
}

#[test]
fn what_stays_after_a_pruning_to_a_size_is_what_was_used_last() {
    as_everybody(|lab| {
        lab.own_binary();
        lab.load_busybox();
        for name in ["one", "two", "three"] {
            lab.context(name, &[("Dockerfile", &format!("FROM scratch\nCOPY f /{name}\n")), ("f", &"f".repeat(100_000))]);
            ok(lab, &["build", "-q", "-o", "type=oci,dest=out.tar", name]);
        }
        // Without the images that have no name.
        ok(lab, &["image", "prune", "-f"]);
        // The step that was used least recently goes, or a part of it.
        let cache = sizes(lab)[3].1;
        ok(lab, &["builder", "prune", "-f", "--filter", "type=regular", "--max-used-space", &(cache - 5_000).to_string()]);
        assert_counted(lab, "pruned to a size");
        let last = lab.run(&["build", "--progress", "plain", "-o", "type=oci,dest=out.tar", "three"]);
        assert!(last.ok() && last.executed().is_empty(), "{:?}: {}", lab.who(), last.stderr);
        let first = lab.run(&["build", "--progress", "plain", "-o", "type=oci,dest=out.tar", "one"]);
        assert!(first.ok() && first.executed().len() == 1, "{:?}: {}", lab.who(), first.stderr);
    });
}

#[test]
fn verify_finds_nothing_in_what_builds_left_and_everything_that_was_changed() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("f", "f\n")]);
        ok(lab, &["build", "-q", "-t", "app", "-o", "type=oci,dest=app.tar", "ctx"]);
        let clean = ok(lab, &["store", "verify"]);
        assert!(clean.ends_with("Damaged: 0\n"), "{:?}: {clean}", lab.who());
        // A file of an unpacked layer that belongs to a mapped id: only root can change it from outside.
        if !support::is_root() {
            support::skip("damage to files of mapped ids", "only root can do it");
            return;
        }
        let script = format!("find {}/layers -path '*/root/closed/x' -exec sh -c 'echo y >\"$1\"' sh {{}} ';'", lab.store().display());
        assert!(Command::new("sh").args(["-c", &script]).status().expect("sh starts").success());
        let said = lab.run(&["store", "verify"]);
        assert!(said.code == 1 && said.stdout.contains("closed/x has another content\n"), "{:?}: {}", lab.who(), said.stdout);
        let said = lab.run(&["store", "verify", "--repair"]);
        assert!(said.ok() && said.stdout.contains("Removed: "), "{:?}: {}{}", lab.who(), said.stdout, said.stderr);
        assert!(ok(lab, &["store", "verify"]).ends_with("Damaged: 0\n"));
        let again = lab.run(&["build", "--progress", "plain", "-o", "type=oci,dest=again.tar", "ctx"]);
        assert!(again.ok(), "{:?}: {}", lab.who(), again.stderr);
    });
}

#[test]
fn a_damaged_layer_of_a_base_is_named_and_taken_away_and_got_again() {
    as_everybody(|lab| {
        lab.context("base", &[("Dockerfile", "FROM scratch\nADD rootfs.tar /\n")]);
        lab.write("base/rootfs.tar", support::busybox_rootfs());
        ok(lab, &["build", "-q", "-o", "type=docker,dest=base.tar,name=base", "base"]);
        ok(lab, &["builder", "prune", "--all", "--force"]);
        let said = ok(lab, &["load", "-i", "base.tar"]);
        assert!(said.contains("base"), "{said}");
        let blobs = lab.store().join("blobs/sha256");
        let largest = || {
            let files = fs::read_dir(&blobs).expect("there").map(|entry| entry.expect("read").path());
            files.max_by_key(|path| path.metadata().expect("there").len()).expect("a blob")
        };
        let layer = largest();
        let mut bytes = fs::read(&layer).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&layer, bytes).expect("written");
        let named = format!("sha256:{}", layer.file_name().expect("a name").display());
        for instruction in ["RUN true", "COPY --from=base /bin /b/"] {
            lab.context("ctx", &[("Dockerfile", &format!("FROM base\n{instruction}\n"))]);
            let said = lab.run(&["build", "ctx"]);
            let words = [&format!("the layer {named} is damaged in the store"), "store verify --repair"];
            assert!(words.iter().all(|word| said.stderr.contains(*word)), "{:?}: {instruction}: {}", lab.who(), said.stderr);
        }
        let said = lab.run(&["store", "verify", "--repair"]);
        assert!(
            said.code == 1 && said.stderr.contains("has lost the layer") && said.stderr.contains("hint: load, pull"),
            "{}",
            said.stderr
        );
        // It stays lost until somebody brings it.
        let said = lab.run(&["store", "verify"]);
        assert!(said.code == 1 && said.stdout.contains("has lost the layer"), "{}", said.stdout);
        ok(lab, &["load", "-i", "base.tar"]);
        assert!(ok(lab, &["store", "verify"]).ends_with("Damaged: 0\n"));
        ok(lab, &["build", "-q", "ctx"]);
    });
}

#[test]
fn what_a_killed_export_left_goes_with_the_next_one() {
    let lab = Lab::new(support::Who::Caller);
    lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "f\n")]);
    // No process has this id: it is beyond what the kernel gives.
    let left = lab.write(".o.tar.0123abcd.shale-4194999", "half");
    let other = lab.write(".p.tar.0123abcd.shale-4194999", "of another output");
    let alive = lab.write(&format!(".o.tar.0123abcd.shale-{}", std::process::id()), "ours");
    ok(&lab, &["build", "-q", "-o", "type=oci,dest=o.tar", "ctx"]);
    assert_eq!([left, other, alive].map(|path| path.exists()), [false, true, true]);
}
