use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;

/// Makes keys as users do. `None`, and a line that says so, without OpenSSH's programs.
fn keygen(dir: &Path, name: &str, arguments: &[&str]) -> Option<PathBuf> {
    let path = dir.join(name);
    let made = Command::new("ssh-keygen").args(["-q", "-C", "me", "-f"]).arg(&path).args(arguments).stdin(Stdio::null()).output();
    let Ok(output) = made else {
        println!("SKIP: ssh keys: no ssh-keygen in PATH");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(path)
}

#[test]
fn keys_of_all_kinds_sign_as_an_agent_would() {
    let dir = tempfile::tempdir().expect("a folder");
    let kinds: &[(&str, &[&str])] = &[
        ("ed", &["-N", "", "-t", "ed25519"]),
        ("ec256", &["-N", "", "-t", "ecdsa", "-b", "256"]),
        ("ec384", &["-N", "", "-t", "ecdsa", "-b", "384"]),
        ("rsa", &["-N", "", "-t", "rsa", "-b", "2048"]),
        ("ec-pem", &["-N", "", "-t", "ecdsa", "-b", "256", "-m", "PEM"]),
        ("ec-pkcs8", &["-N", "", "-t", "ecdsa", "-b", "384", "-m", "PKCS8"]),
        ("rsa-pem", &["-N", "", "-t", "rsa", "-b", "2048", "-m", "PEM"]),
        ("rsa-pkcs8", &["-N", "", "-t", "rsa", "-b", "2048", "-m", "PKCS8"]),
    ];
    let mut paths = Vec::new();
    for (name, arguments) in kinds {
        let Some(path) = keygen(dir.path(), name, arguments) else { return };
        paths.push(path);
    }
    let agent = Agent::open(&paths).expect("keys");
    let forwarded = Forwarded::start(dir.path(), "s", agent).expect("a socket");
    let socket = forwarded.short_path();
    let listed = Command::new("ssh-add").arg("-L").env("SSH_AUTH_SOCK", &socket).output().expect("ssh-add is there").stdout;
    let words = |text: &str| text.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
    let public = |path: &PathBuf| fs::read_to_string(path.with_extension("pub")).expect("made");
    assert_eq!(words(&String::from_utf8_lossy(&listed)), words(&paths.iter().map(public).collect::<String>()));
    // OpenSSH has each key sign a message by the agent, and checks it.
    for path in &paths {
        let sign = Command::new("ssh-keygen")
            .args(["-q", "-Y", "sign", "-n", "test", "-f"])
            .arg(path.with_extension("pub"))
            .env("SSH_AUTH_SOCK", &socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut sign = sign.expect("it starts");
        sign.stdin.take().expect("piped").write_all(b"message").expect("it reads");
        let output = sign.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
        let signature = dir.path().join("signature");
        fs::write(&signature, output.stdout).expect("written");
        let mut check = Command::new("ssh-keygen")
            .args(["-q", "-Y", "check-novalidate", "-n", "test", "-s"])
            .arg(&signature)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        check.stdin.take().expect("piped").write_all(b"message").expect("it reads");
        assert!(check.wait().expect("it ends").success(), "{}", path.display());
    }
}

#[test]
fn what_cannot_be_served_is_told_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("written");
        path
    };
    let refused =
        |paths: &[PathBuf]| Agent::open(paths).expect_err("no agent").to_string().replace(&format!("{}/", dir.path().display()), "");
    assert_eq!(refused(&[write("text", "hello")]), "failed to parse text: ssh: no key found");
    let pem = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    assert_eq!(refused(&[write("pem", pem)]), "failed to parse pem: ssh: this private key is passphrase protected");
    assert_eq!(
        refused(&[write("dsa", &pem.replace("RSA", "DSA").replace("ENCRYPTED", ""))]),
        "failed to parse dsa: ssh: unsupported key type \"DSA PRIVATE KEY\""
    );
    let cut = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n-----END OPENSSH PRIVATE KEY-----\n";
    assert_eq!(refused(&[write("cut", cut)]), "failed to parse cut: ssh: the key is malformed: it is cut off");
    assert!(refused(&[dir.path().join("none")]).starts_with("failed to open none: "));
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    assert_eq!(Agent::open(std::slice::from_ref(&socket)).expect("an agent"), Agent::Socket(socket.clone()));
    assert_eq!(refused(&[socket.clone(), socket.clone()]), "only single socket allowed");
    let Some(locked) = keygen(dir.path(), "locked", &["-N", "secret", "-t", "ed25519"]) else { return };
    assert_eq!(refused(&[locked]), "failed to parse locked: ssh: this private key is passphrase protected");
    let open = keygen(dir.path(), "open", &["-N", "", "-t", "ed25519"]).expect("as before");
    assert_eq!(refused(&[open.clone(), socket]), "invalid combination of keys and sockets");
    let long = keygen(dir.path(), "long", &["-N", "", "-t", "ecdsa", "-b", "521"]).expect("as before");
    assert_eq!(refused(&[long]), "failed to parse long: ssh: unsupported key type \"ecdsa-sha2-nistp521\"");
    assert!(!format!("{:?}", Agent::open(&[open]).expect("a key")).contains("PRIVATE"));
}
