//! What a step sees of the layers below it: stacks that are higher than the kernel mounts in one go, and the accounts in them.

mod support;

use support::{as_everybody, as_everybody_at_once};

/// Every tenth step sees what the one before it left, removes that, and adds its own; the others are cheaper ones that write two files.
fn step(n: u32) -> String {
    if n.is_multiple_of(10) {
        let before = n - 10;
        format!(
            "RUN test $(cat same) = {} && echo {n} >same && mkdir -p dirs/{n} && rm -rf dirs/{before} && test ! -e dirs/{before} && echo {n} >>all\n",
            n - 1
        )
    } else {
        format!("COPY <<A <<B /w/\n{n}\nA\n{n}\nB\n").replace("<<A", "<<same").replace("\nA\n", "\nsame\n").replace('B', &format!("own{n}"))
    }
}

#[test]
fn the_oldest_layers_of_a_high_stack_are_merged_and_nobody_notices() {
    as_everybody_at_once(|lab| {
        lab.load_busybox();
        let steps: String = (1..=130).map(step).collect();
        let dockerfile = format!(
            "FROM busybox AS high\nWORKDIR /w\n\
             RUN ln -s same link && echo x >first && ln first second && echo someone:x:1234:1234::/:/bin/sh >>/etc/passwd && chmod 777 .\n{steps}\
             USER someone\nRUN id -u >/w/who && test $(wc -l <all) = 13\n\
             FROM scratch\nCOPY --from=high /w /out/\n"
        );
        lab.context("ctx", &[("Dockerfile", &dockerfile)]);
        let built = lab.build("ctx", &[]);
        assert_eq!(built.image.text("out/same"), "130\n");
        assert_eq!(built.image.text("out/own1"), "1\n");
        assert!(built.image.files.contains_key("out/dirs/130") && !built.image.files.contains_key("out/dirs/120"));
        assert_eq!(built.image.files["out/link"].link, "same");
        assert_eq!(built.image.files["out/first"].content, b"x\n");
        assert_eq!(built.image.text("out/who"), "1234\n");
        // The merged layers are found again by a build that runs a new step on top.
        lab.write("ctx/Dockerfile", dockerfile.replace("id -u", "id -u -r"));
        let again = lab.build("ctx", &[]);
        assert_eq!(again.image.text("out/who"), "1234\n");
        assert!(lab.run(&["builder", "prune", "--all", "--force"]).ok());
    });
}

#[test]
fn a_user_is_who_the_files_below_the_step_say() {
    let account = |name: &str, id: u32| format!("echo {name}:x:{id}:{id}::/:/bin/sh");
    let is = |id: u32| format!("USER u\nRUN [ \"$(id -u) $(id -g)\" = \"{id} {id}\" ]\nUSER 0\n");
    // Two stages by turns, and a file that is added to and replaced.
    let stage = |name: &str, first: u32| {
        let (add, replace) = (account("u", first), account("u", first + 1));
        let (one, two) = (is(first), is(first + 1));
        format!(
            "FROM busybox AS {name}\nRUN {add} >>/etc/passwd\n{one}RUN >/x\n{one}RUN rm /etc/passwd && {replace} >/etc/passwd\n{two}RUN >/y\n{two}"
        )
    };
    as_everybody(|lab| {
        lab.load_busybox();
        let text = format!("{}{}FROM a\nCOPY --from=b /x /x2\n", stage("a", 1000), stage("b", 2000));
        lab.context("ctx", &[("Dockerfile", &text)]);
        let said = lab.run(&["build", "--progress", "plain", "ctx"]);
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
    });
}
