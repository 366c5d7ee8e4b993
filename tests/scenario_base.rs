//! Base images that are not what they say.

mod support;

use std::fs;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use support::{Lab, as_everybody};

/// Unpacks an OCI archive into a layout directory and changes its config; manifest and index follow.
fn forged_layout(lab: &Lab, archive: &std::path::Path, change: impl Fn(&mut Value)) {
    let dir = lab.work("layout");
    let mut tar = tar::Archive::new(fs::File::open(archive).expect("open"));
    for entry in tar.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if !name.ends_with('/') {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).expect("read");
            lab.write(&format!("layout/{name}"), bytes);
        }
    }
    let read = |name: &str| -> Value { serde_json::from_slice(&fs::read(dir.join(name)).expect("read")).expect("JSON") };
    let put = |value: &Value| -> (String, usize) {
        let bytes = serde_json::to_vec(value).expect("JSON");
        let hex: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        lab.write(&format!("layout/blobs/sha256/{hex}"), &bytes);
        (format!("sha256:{hex}"), bytes.len())
    };
    let blob = |digest: &Value| format!("blobs/sha256/{}", digest.as_str().expect("text").trim_start_matches("sha256:"));
    let mut index = read("index.json");
    let mut manifest = read(&blob(&index["manifests"][0]["digest"]));
    let mut config = read(&blob(&manifest["config"]["digest"]));
    change(&mut config);
    let (digest, size) = put(&config);
    (manifest["config"]["digest"], manifest["config"]["size"]) = (digest.into(), size.into());
    let (digest, size) = put(&manifest);
    (index["manifests"][0]["digest"], index["manifests"][0]["size"]) = (digest.into(), size.into());
    lab.write("layout/index.json", serde_json::to_vec(&index).expect("JSON"));
}

#[test]
fn a_layer_that_is_not_what_the_config_says_is_refused_and_poisons_nothing() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.context("honest", &[("Dockerfile", "FROM busybox\nCOPY f /f\n"), ("f", "honest\n")]);
        let honest = lab.build("honest", &["-t", "honest"]);
        lab.context("other", &[("Dockerfile", "FROM busybox\nCOPY f /f\n"), ("f", "forged\n")]);
        let other = lab.build("other", &[]);
        // The forger's bytes under the honest layer's name.
        let claimed = honest.image.config["rootfs"]["diff_ids"].clone();
        forged_layout(lab, &other.archive, |config| config["rootfs"]["diff_ids"] = claimed.clone());
        assert!(lab.run(&["rmi", "-f", "honest"]).ok());
        assert!(lab.run(&["builder", "prune", "--all", "--force"]).ok());
        for step in ["RUN true", "COPY --from=base /f /g"] {
            lab.context("victim", &[("Dockerfile", &format!("FROM base\n{step}\n"))]);
            let layout = format!("base=oci-layout://{}", lab.work("layout").display());
            let said = lab.run(&["build", "--progress", "plain", "--build-context", &layout, "victim"]);
            assert_eq!(said.code, 1, "{:?}: {step}: {}", lab.who(), said.stderr);
            assert!(said.stderr.contains("damaged or forged"), "{:?}: {step}: {}", lab.who(), said.stderr);
        }
        let again = lab.build("honest", &["-t", "honest"]);
        lab.context("reader", &[("Dockerfile", "FROM honest\nRUN cp /f /read\n")]);
        assert_eq!(lab.build("reader", &[]).image.text("read"), "honest\n");
        assert_eq!(again.image.layers, honest.image.layers);
    });
}
