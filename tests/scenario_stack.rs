//! Stacks of layers that are higher than the kernel mounts in one go.

mod support;

use support::as_everybody_at_once;

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
