//! Base images that are not what they say.

mod support;

use std::fs;

use serde_json::{Value, json};
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

/// Loads an image of these layers as `docker save` writes it.
fn load_layers(lab: &Lab, name: &str, layers: &[Vec<u8>]) {
    let sha256 = |bytes: &[u8]| -> String { Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect() };
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", sha256(layer))).collect();
    let config = json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = serde_json::to_vec(&config).expect("JSON");
    let files: Vec<String> = (0..layers.len()).map(|number| format!("{number}.tar")).collect();
    let manifest = json!([{"Config": format!("{}.json", sha256(&config)), "RepoTags": [name], "Layers": files}]);
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, bytes).expect("memory");
    };
    add(&format!("{}.json", sha256(&config)), &config);
    files.iter().zip(layers).for_each(|(path, layer)| add(path, layer));
    add("manifest.json", &serde_json::to_vec(&manifest).expect("JSON"));
    lab.write("image.tar", tar.into_inner().expect("memory"));
    let said = lab.run(&["load", "-i", "image.tar"]);
    assert!(said.ok(), "{:?}: {name}: {}", lab.who(), said.stderr);
}

/// What the layers below say of such a directory counts, as for containerd; below none it is 0755 and root's.
#[test]
fn a_directory_that_a_layer_has_no_member_of_is_what_it_is_below() {
    as_everybody(|lab| {
        let mut tar = tar::Builder::new(Vec::new());
        for path in ["tmp/f", "new/f"] {
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            for set in [tar::Header::set_uid, tar::Header::set_gid, tar::Header::set_mtime, tar::Header::set_size] {
                set(&mut header, 0);
            }
            tar.append_data(&mut header, path, &b""[..]).expect("memory");
        }
        let layer = tar.into_inner().expect("memory");
        load_layers(lab, "upon:1", &[support::busybox_rootfs(), layer.clone()]);
        load_layers(lab, "alone:1", &[layer]);
        for (base, mode) in [("upon:1", 0o1777), ("alone:1", 0o755)] {
            lab.context("ctx", &[("Dockerfile", &format!("FROM {base}\nCOPY Dockerfile /tmp/d\nCOPY Dockerfile /new/d\n"))]);
            let layers = lab.build("ctx", &[]).image.layers;
            let modes = layers.iter().rev().take(2).map(|layer| (layer[0].0.clone(), layer[0].1.mode)).collect::<Vec<_>>();
            assert_eq!(modes, [("new".to_owned(), 0o755), ("tmp".to_owned(), mode)], "{:?}: {base}", lab.who());
        }
        // The commands of a step see the same, and what they change is told from it.
        lab.context("ctx", &[("Dockerfile", "FROM upon:1\nRUN stat -c '%a %u %Y' /tmp /new > /said && touch /tmp/x\n")]);
        let image = lab.build("ctx", &[]).image;
        assert_eq!(image.text("said"), "1777 0 1700000000\n755 0 0\n", "{:?}", lab.who());
        let last: Vec<_> = image.layers[2].iter().map(|(path, node)| (path.as_str(), node.mode)).collect();
        assert_eq!(last, [("said", 0o644), ("tmp", 0o1777), ("tmp/x", 0o644)], "{:?}", lab.who());
        let said = lab.run(&["store", "verify"]);
        assert!(said.stdout.ends_with("Damaged: 0\n"), "{:?}: {}", lab.who(), said.stdout);
    });
}
