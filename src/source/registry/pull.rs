//! Pulling: tags and digests → manifests and configs, and the blobs of layers.

use std::io::{self, Read as _, Write};

use shale_cache::OciDigest;
use ureq::http::Method;

use super::auth::{NO_WORDS, Scope};
use super::client::{Call, Client, not_found};
use super::config::{Progress, RetryPolicy};
use super::error::RegistryError;
use super::http::{self, Payload, Response};
use super::retry::{Attempts, Fault, with_retry};
use crate::oci::manifest::{CONFIG_LIMIT_BYTES, Descriptor, Document, MANIFEST_LIMIT_BYTES, Manifest, media};
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;

/// An index may name another index; deeper nesting is nobody's image.
const INDEX_DEPTH_LIMIT: usize = 3;
/// Pages of a list of tags; more is a registry that goes in a circle.
const TAG_PAGE_LIMIT: usize = 1000;
const CHUNK_BYTES: usize = 64 << 10;

/// An image as a registry has it, without its layers.
#[derive(Clone, Debug)]
pub struct RemoteImage {
    /// Digest of what the name points to: the index, or the manifest.
    pub top: OciDigest,
    /// The manifests and indexes that were read, top first.
    pub documents: Vec<Vec<u8>>,
    /// Where the manifest is.
    pub manifest_descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// The config, as it is hashed.
    pub config: Vec<u8>,
}

/// A manifest or an index as a registry has it.
#[derive(Clone, Debug)]
pub struct RemoteDocument {
    /// What points to it.
    pub descriptor: Descriptor,
    /// What it says.
    pub document: Document,
    /// Its bytes, as they are hashed.
    pub bytes: Vec<u8>,
}

/// Content that need not be fetched, by digest.
pub(crate) type Known<'a> = &'a dyn Fn(&OciDigest) -> Option<Vec<u8>>;

/// Who is asked for something of an image: a mirror or the registry.
#[derive(Clone, Copy)]
struct Source<'a> {
    /// The image by the name it has there.
    reference: &'a Reference,
    retry: RetryPolicy,
    progress: &'a dyn Progress,
}

impl Source<'_> {
    /// Asks until there is an answer or the patience ends.
    fn ask<T>(&self, mut question: impl FnMut(&Reference) -> Result<T, Fault>) -> Result<T, RegistryError> {
        with_retry(self.retry, &self.reference.to_string(), self.progress, || question(self.reference))
    }
}

impl Client {
    /// Finds the manifest and config of a name for a platform. A tag costs one HEAD if `known` has everything else.
    pub fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        known: Known<'_>,
        progress: &dyn Progress,
    ) -> Result<RemoteImage, RegistryError> {
        self.try_sources(reference, progress, |source| self.resolve_at(source, platform, known))
    }

    /// Fetches what a name itself points to, a manifest or an index, for no platform in particular.
    pub fn document(&self, reference: &Reference, progress: &dyn Progress) -> Result<RemoteDocument, RegistryError> {
        self.try_sources(reference, progress, |source| {
            let (descriptor, bytes) = self.top(source, &|_| None)?;
            let named = Some(descriptor.media_type.as_str()).filter(|t| !t.is_empty());
            let document = Document::parse(&bytes, named);
            let document = document.map_err(|source| RegistryError::Manifest { reference: reference.to_string(), source })?;
            Ok(RemoteDocument {
                descriptor: Descriptor::new(document.media_type(), descriptor.digest, bytes.len() as u64),
                document,
                bytes,
            })
        })
    }

    /// Fetches the config that a manifest names.
    pub fn config_of(&self, reference: &Reference, manifest: &Manifest, progress: &dyn Progress) -> Result<Vec<u8>, RegistryError> {
        self.try_sources(reference, progress, |source| self.config(source, manifest, &|_| None))
    }

    /// Tries the mirrors of a name one after the other, then its registry, whose error counts.
    fn try_sources<T>(
        &self,
        reference: &Reference,
        progress: &dyn Progress,
        mut deed: impl FnMut(Source<'_>) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let retry = self.transport.config().retry;
        let mut sources = self.transport.config().sources(reference)?;
        let home = sources.pop().unwrap_or_else(|| reference.clone());
        for mirror in sources.iter().filter(|mirror| !self.is_given_up(mirror)) {
            match deed(Source { reference: mirror, retry: retry.with_others_to_ask(), progress }) {
                Err(error @ (RegistryError::Cancelled | RegistryError::Sink { .. })) => return Err(error),
                Err(error) => self.note_failure(mirror, &error),
                done => return done,
            }
        }
        deed(Source { reference: &home, retry, progress })
    }

    fn resolve_at(&self, source: Source<'_>, platform: &Platform, known: Known<'_>) -> Result<RemoteImage, RegistryError> {
        let reference = source.reference;
        let (mut descriptor, mut bytes) = self.top(source, known)?;
        let top = descriptor.digest.clone();
        let mut documents = Vec::new();
        for _ in 0..INDEX_DEPTH_LIMIT {
            let named = Some(descriptor.media_type.as_str()).filter(|t| !t.is_empty());
            let document = Document::parse(&bytes, named);
            let document = document.map_err(|source| RegistryError::Manifest { reference: reference.to_string(), source })?;
            documents.push(bytes);
            match document {
                Document::Manifest(manifest) => {
                    let config = self.config(source, &manifest, known)?;
                    return Ok(RemoteImage { top, documents, manifest_descriptor: descriptor, manifest: *manifest, config });
                }
                Document::Index(index) => {
                    descriptor = index.choose(platform).cloned().ok_or_else(|| RegistryError::NoPlatform {
                        reference: reference.to_string(),
                        wanted: platform.to_string(),
                        offered: index.platforms(),
                    })?;
                    bytes = self.by_digest(source, &descriptor, known)?;
                }
            }
        }
        let source = crate::oci::manifest::ManifestError::NotAnImage { media_type: "index of indexes".into() };
        Err(RegistryError::Manifest { reference: reference.to_string(), source })
    }

    /// Fetches a blob into a writer, resuming where the connection broke. The size is checked here, the digest by the writer.
    pub fn fetch_blob(
        &self,
        reference: &Reference,
        digest: &OciDigest,
        size_bytes: u64,
        sink: &mut dyn Write,
        progress: &dyn Progress,
    ) -> Result<(), RegistryError> {
        let what = format!("{}@{digest}", reference.familiar_name());
        // What one source gave stays, and the next one goes on from there: the digest is of the whole.
        let mut done_bytes = 0;
        self.try_sources(reference, progress, |source| {
            let mut attempts = Attempts::new(source.retry, &what, progress);
            loop {
                let before = done_bytes;
                let (done_bytes, sink) = (&mut done_bytes, &mut *sink);
                let mut transfer = Transfer { reference: source.reference, digest, size_bytes, done_bytes, sink, progress };
                let Err(fault) = transfer.run(self) else { return Ok(()) };
                if *transfer.done_bytes >= before + CHUNK_BYTES as u64 {
                    attempts.reset();
                }
                attempts.pause(fault)?;
            }
        })
    }

    /// The tags of a repository, in the registry's order.
    pub fn tags(&self, reference: &Reference, progress: &dyn Progress) -> Result<Vec<String>, RegistryError> {
        #[derive(serde::Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let reference = &self.home(reference)?;
        let mut tags: Vec<String> = Vec::new();
        let mut next = Some(self.url(reference, "tags/list"));
        let mut pages = 0;
        while let Some(url) = next.take().filter(|_| pages < TAG_PAGE_LIMIT) {
            pages += 1;
            let (page, link) = with_retry(self.transport.config().retry, &reference.name(), progress, || {
                let call = Call {
                    scope: Scope::pull(reference),
                    method: Method::GET,
                    url: url.clone(),
                    headers: Vec::new(),
                    payload: Payload::Nothing,
                };
                let response = self.call(call)?;
                if response.status != 200 {
                    return Err(self.unexpected(reference, response).into());
                }
                let link = response.header("link").and_then(next_link).and_then(|link| http::follow(&url, link));
                Ok((response.read(MANIFEST_LIMIT_BYTES)?, link))
            })?;
            let invalid = |source: serde_json::Error| RegistryError::Manifest { reference: reference.name(), source: source.into() };
            tags.extend(serde_json::from_slice::<Page>(&page).map_err(invalid)?.tags.into_iter().flatten());
            next = link;
        }
        Ok(tags)
    }

    /// What the name itself points to.
    fn top(&self, source: Source<'_>, known: Known<'_>) -> Result<(Descriptor, Vec<u8>), RegistryError> {
        let reference = source.reference;
        if let Some(digest) = reference.digest() {
            let descriptor = Descriptor::new("", digest.clone(), 0);
            let bytes = self.by_digest(source, &descriptor, known)?;
            return Ok((descriptor, bytes));
        }
        let tag = reference.tag().unwrap_or(crate::oci::reference::DEFAULT_TAG);
        if let Some(digest) = self.head(source, tag)? {
            let descriptor = Descriptor::new("", digest, 0);
            // By digest, so that what was announced is what is used even if the tag moves meanwhile.
            let bytes = self.by_digest(source, &descriptor, known)?;
            return Ok((descriptor, bytes));
        }
        let (media_type, bytes) = self.get_manifest(source, tag)?;
        let digest = OciDigest::sha256_of(&bytes);
        Ok((Descriptor::new(&media_type, digest, bytes.len() as u64), bytes))
    }

    /// The digest of a tag; `None` where the registry does not tell it. HEAD is free of Docker Hub's limits.
    fn head(&self, source: Source<'_>, tag: &str) -> Result<Option<OciDigest>, RegistryError> {
        source.ask(|reference| {
            let response = match self.request(reference, Method::HEAD, &format!("manifests/{tag}"), &media::ACCEPTED, 0) {
                Err(Fault::Fatal(RegistryError::Unauthorized { detail, .. })) if detail == NO_WORDS => return Ok(None),
                // One that fails over HEAD alone is known, too; GET has its own patience.
                Err(Fault::Retry { error: RegistryError::Status { status: 500.., .. }, after: None, .. }) => return Ok(None),
                response => response?,
            };
            match response.status {
                200 => Ok(response.header("docker-content-digest").and_then(|d| d.parse().ok())),
                404 => Err(not_found(reference).into()),
                // Some registries answer GET only. The GET that follows brings the words of a refusal, too.
                _ => Ok(None),
            }
        })
    }

    /// A manifest or index by digest.
    fn by_digest(&self, source: Source<'_>, descriptor: &Descriptor, known: Known<'_>) -> Result<Vec<u8>, RegistryError> {
        if let Some(bytes) = known(&descriptor.digest) {
            return Ok(bytes);
        }
        let name = descriptor.digest.to_string();
        let (_, bytes) = self.get_manifest(source, &name)?;
        verify(&format!("{}@{name}", source.reference.name()), &descriptor.digest, &bytes)?;
        Ok(bytes)
    }

    fn get_manifest(&self, source: Source<'_>, name: &str) -> Result<(String, Vec<u8>), RegistryError> {
        source.ask(|reference| {
            let response = self.request(reference, Method::GET, &format!("manifests/{name}"), &media::ACCEPTED, 0)?;
            if response.status != 200 {
                return Err(self.unexpected(reference, response).into());
            }
            let media_type = response.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim().to_owned();
            if media_type == "text/html" {
                return Err(RegistryError::WebPage { reference: reference.to_string(), host: reference.domain().to_owned() }.into());
            }
            Ok((media_type, response.read(MANIFEST_LIMIT_BYTES)?))
        })
    }

    fn config(&self, source: Source<'_>, manifest: &Manifest, known: Known<'_>) -> Result<Vec<u8>, RegistryError> {
        let digest = &manifest.config.digest;
        if let Some(bytes) = known(digest) {
            return Ok(bytes);
        }
        let bytes = source.ask(|reference| {
            let response = self.request(reference, Method::GET, &format!("blobs/{digest}"), &[], 0)?;
            if response.status != 200 {
                return Err(self.unexpected_of_blob(reference, digest, response).into());
            }
            response.read(CONFIG_LIMIT_BYTES)
        })?;
        verify(&format!("{}@{digest}", source.reference.name()), digest, &bytes)?;
        Ok(bytes)
    }
}

/// A blob on its way.
struct Transfer<'a> {
    reference: &'a Reference,
    digest: &'a OciDigest,
    size_bytes: u64,
    done_bytes: &'a mut u64,
    sink: &'a mut dyn Write,
    progress: &'a dyn Progress,
}

impl Transfer<'_> {
    /// One try, from where the last one ended.
    fn run(&mut self, client: &Client) -> Result<(), Fault> {
        let (digest, offset) = (self.digest, *self.done_bytes);
        let ask = |offset| client.request(self.reference, Method::GET, &format!("blobs/{digest}"), &[], offset);
        let mut response = ask(offset)?;
        // Who misunderstands ranges is asked for all of it, like who knows none.
        if offset > 0 && (response.status == 416 || response.status == 206 && !starts_at(&response, offset)) {
            response = ask(0)?;
        }
        let url = response.url.clone();
        // A server that knows no ranges sends everything again.
        let mut skip_bytes = match response.status {
            200 => offset,
            206 if starts_at(&response, offset) => 0,
            _ => return Err(client.unexpected_of_blob(self.reference, digest, response).into()),
        };
        let mut reader = response.into_reader();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            if self.progress.is_cancelled() {
                return Err(RegistryError::Cancelled.into());
            }
            let len = match reader.read(&mut chunk) {
                Ok(0) => break,
                Ok(len) => len,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // What comes behind the last byte, such as the end mark of a chunked answer, is not missed: there is nothing to go on with.
                Err(_) if *self.done_bytes == self.size_bytes => break,
                Err(e) => return Err(http::broken(&url, &e)),
            };
            let skipped = skip_bytes.min(len as u64);
            skip_bytes -= skipped;
            self.take(&chunk[skipped as usize..len], &url)?;
        }
        if *self.done_bytes < self.size_bytes {
            return Err(http::broken(&url, &io::Error::from(io::ErrorKind::UnexpectedEof)));
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], url: &str) -> Result<(), RegistryError> {
        let actual_bytes = *self.done_bytes + bytes.len() as u64;
        if actual_bytes > self.size_bytes {
            return Err(RegistryError::SizeMismatch { url: url.into(), expected_bytes: self.size_bytes, actual_bytes });
        }
        self.sink.write_all(bytes).map_err(|source| RegistryError::Sink { what: self.digest.to_string(), source })?;
        *self.done_bytes = actual_bytes;
        self.progress.on_bytes(self.digest.as_str(), actual_bytes, self.size_bytes);
        Ok(())
    }
}

/// The target of `Link: </v2/app/tags/list?last=x>; rel="next"`.
fn next_link(header: &str) -> Option<&str> {
    let (target, rest) = header.trim().strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then_some(target)
}

fn starts_at(response: &Response, offset: u64) -> bool {
    let range = response.header("content-range").and_then(|r| r.strip_prefix("bytes "));
    range.and_then(|r| r.split('-').next()).and_then(|start| start.trim().parse().ok()) == Some(offset)
}

fn verify(url: &str, expected: &OciDigest, bytes: &[u8]) -> Result<(), RegistryError> {
    let actual = if expected.algorithm() == "sha512" { OciDigest::sha512_of(bytes) } else { OciDigest::sha256_of(bytes) };
    if actual == *expected {
        return Ok(());
    }
    Err(RegistryError::DigestMismatch { url: url.into(), expected: expected.clone(), actual })
}
