//! A registry that takes pushes, kept in memory. What it does wrong, a test says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use shale_cache::OciDigest;

use super::{Reply, Seen};

/// What was pushed.
#[derive(Default)]
pub struct Stock {
    /// `/v2/app/blobs/sha256:…` and `/v2/app/manifests/…` → content.
    pub files: HashMap<String, Vec<u8>>,
    /// Media types of manifests.
    pub types: HashMap<String, String>,
    /// Uploads that are open, by number.
    pub uploads: HashMap<usize, Vec<u8>>,
    opened: usize,
}

/// A registry in memory.
#[derive(Clone, Default)]
pub struct Receiver {
    pub stock: Arc<Mutex<Stock>>,
    /// How a `Location` begins: nothing for relative ones.
    pub prefix: Arc<Mutex<String>>,
}

impl Receiver {
    pub fn has(&self, path: &str) -> bool {
        self.stock.lock().expect("the stock").files.contains_key(path)
    }

    pub fn file(&self, path: &str) -> Option<Vec<u8>> {
        self.stock.lock().expect("the stock").files.get(path).cloned()
    }

    /// Forgets all uploads that are open.
    pub fn forget_uploads(&self) {
        self.stock.lock().expect("the stock").uploads.clear();
    }

    /// What a healthy registry answers.
    pub fn answer(&self, seen: &Seen) -> Reply {
        let mut stock = self.stock.lock().expect("the stock");
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        let param =
            |name: &str| query.split('&').find_map(|p| p.split_once('=').filter(|(k, _)| *k == name).map(|(_, v)| v.replace("%3A", ":")));
        let (repository, rest) = path.trim_start_matches("/v2/").split_once('/').unwrap_or((path, ""));
        match (seen.method.as_str(), rest) {
            ("POST", "blobs/uploads/") => {
                if let (Some(digest), Some(from)) = (param("mount"), param("from"))
                    && let Some(bytes) = stock.files.get(&format!("/v2/{from}/blobs/{digest}")).cloned()
                {
                    stock.files.insert(format!("/v2/{repository}/blobs/{digest}"), bytes);
                    return Reply::new(201).with("location", format!("/v2/{repository}/blobs/{digest}"));
                }
                stock.opened += 1;
                let number = stock.opened;
                stock.uploads.insert(number, Vec::new());
                Reply::new(202).with("location", self.location(number)).with("range", "0-0")
            }
            (method, _) if path.starts_with("/uploads/") => {
                let number = path.trim_start_matches("/uploads/").parse().expect("a number");
                self.upload(&mut stock, method, number, seen, param("digest"))
            }
            ("HEAD" | "GET", _) => match stock.files.get(path) {
                Some(bytes) => Reply::ok(bytes.clone()).with("docker-content-digest", OciDigest::sha256_of(bytes).to_string()),
                None => Reply::new(404),
            },
            ("PUT", _) if rest.starts_with("manifests/") => {
                let digest = OciDigest::sha256_of(&seen.raw);
                let by_digest = format!("/v2/{repository}/manifests/{digest}");
                for path in [path.to_owned(), by_digest] {
                    stock.types.insert(path.clone(), seen.header("content-type").unwrap_or_default().into());
                    stock.files.insert(path, seen.raw.clone());
                }
                Reply::new(201).with("docker-content-digest", digest.to_string())
            }
            _ => Reply::new(405),
        }
    }

    fn location(&self, number: usize) -> String {
        format!("{}/uploads/{number}?_state=secret", self.prefix.lock().expect("the prefix"))
    }

    fn upload(&self, stock: &mut Stock, method: &str, number: usize, seen: &Seen, digest: Option<String>) -> Reply {
        let Some(bytes) = stock.uploads.get_mut(&number) else {
            return Reply {
                body: br#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"blob upload unknown to registry"}]}"#.into(),
                ..Reply::new(404)
            };
        };
        assert!(seen.path.contains("_state=secret"), "the query of a Location belongs to it: {}", seen.path);
        if let Some(start) = seen.header("content-range").and_then(|r| r.split('-').next()?.parse::<usize>().ok())
            && start != bytes.len()
        {
            return Reply::new(416).with("range", format!("0-{}", bytes.len().max(1) - 1));
        }
        if matches!(method, "PATCH" | "PUT") {
            bytes.extend_from_slice(&seen.raw);
        }
        let range = format!("0-{}", bytes.len().max(1) - 1);
        let whole = seen.header("content-length").is_none_or(|len| len.parse() == Ok(seen.raw.len()));
        match method {
            // The connection broke off: what came stays, and nobody is there to be answered.
            "PATCH" | "PUT" if !whole => Reply { hang_up: true, ..Reply::default() },
            "GET" => Reply::new(204).with("range", range),
            "PATCH" => Reply::new(202).with("location", self.location(number)).with("range", range),
            "PUT" => {
                let bytes = stock.uploads.remove(&number).expect("it is open");
                let digest = digest.expect("a digest");
                if OciDigest::sha256_of(&bytes).as_str() != digest {
                    return Reply {
                        body: br#"{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match"}]}"#.into(),
                        ..Reply::new(400)
                    };
                }
                stock.files.insert(format!("/v2/app/blobs/{digest}"), bytes);
                Reply::new(201).with("docker-content-digest", digest)
            }
            "DELETE" => {
                stock.uploads.remove(&number);
                Reply::new(204)
            }
            _ => Reply::new(405),
        }
    }
}
