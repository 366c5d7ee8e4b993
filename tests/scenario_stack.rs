//! Stacks of layers that are higher than the kernel mounts in one go.

mod support;

use support::as_everybody;

/// Each step sees what all before it left: `same` is written again and again, every step removes what the one before it made.
const STEP: &str = "echo N >same && mkdir -p dirs/N && echo N >dirs/N/in && rm -rf dirs/M && test ! -e dirs/M && echo N >>all\n";

#[test]
fn the_oldest_layers_of_a_high_stack_are_merged_and_nobody_notices() {
    as_everybody(|lab| {
        lab.load_busybox();
        let steps: String =
            (1..=140).map(|n: u32| format!("RUN {}", STEP.replace('N', &n.to_string()).replace('M', &(n - 1).to_string()))).collect();
        let dockerfile = format!(
            "FROM busybox AS high\nWORKDIR /w\nRUN ln -s same link && echo x >first && ln first second && chmod 777 . && echo someone:x:1234:1234::/:/bin/sh >>/etc/passwd\n{steps}\
             USER someone\nRUN id -u >/w/who && test $(wc -l <all) = 140\n\
             FROM scratch\nCOPY --from=high /w /out/\n"
        );
        lab.context("ctx", &[("Dockerfile", &dockerfile)]);
        let built = lab.build("ctx", &[]);
        let expected: String = (1..=140).map(|n| format!("{n}\n")).collect();
        assert_eq!(built.image.text("out/all"), expected);
        assert_eq!(built.image.text("out/dirs/140/in"), "140\n");
        assert!(!built.image.files.contains_key("out/dirs/139"));
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
