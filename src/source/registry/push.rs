//! Pushing: blobs first, then the manifests that name them.
//!
//! A blob is asked for, then taken from another repository of the same registry, and only then sent: a small one in one request, a
//! large one in parts. When a part is interrupted, the registry is asked how much of it has arrived.

use std::fs::File;

use shale_cache::OciDigest;
use ureq::http::Method;

use super::auth::{Scope, escape};
use super::client::{Call, Client};
use super::config::Progress;
use super::error::RegistryError;
use super::http::{Payload, Piece, Response, follow};
use super::retry::{Attempts, Fault, with_retry};
use crate::oci::reference::Reference;

/// Repositories that a blob is looked for in; each costs a request.
const MOUNT_LIMIT: usize = 3;
/// How often an upload that the registry has lost, or does not recognise as its digest, is begun anew.
const RESTART_LIMIT: u32 = 2;

/// Where a blob is, seen from the registry that shall have it.
#[derive(Debug)]
pub enum Sent {
    /// The repository has it.
    Present,
    /// The repository has taken it from another one, by this path.
    Mounted(String),
    /// It must be uploaded.
    Absent(UploadSession),
}

/// An upload that the registry has opened, if it has.
#[derive(Debug, Default)]
pub struct UploadSession(Option<Session>);

/// A manifest or index to push.
#[derive(Clone, Debug)]
pub struct NewManifest<'a> {
    /// The bytes that are hashed.
    pub bytes: &'a [u8],
    /// Their media type.
    pub media_type: &'a str,
    /// Their digest.
    pub digest: &'a OciDigest,
}

#[derive(Clone, Debug)]
struct Session {
    /// Where the next part goes; its query is the registry's secret.
    url: String,
    /// How much the registry has.
    offset: u64,
    /// Whether that is certain: not after an interruption.
    is_certain: bool,
}

impl Client {
    /// Asks for a blob, and for its being taken from one of these repositories of the same registry.
    pub fn place_blob(
        &self,
        target: &Reference,
        digest: &OciDigest,
        mount_from: &[String],
        progress: &dyn Progress,
    ) -> Result<Sent, RegistryError> {
        let retry = self.transport.config().retry;
        let what = format!("{}@{digest}", target.familiar_name());
        if with_retry(retry, &what, progress, || self.has_blob(target, digest))? {
            return Ok(Sent::Present);
        }
        let mut session: Option<Session> = None;
        for path in mount_from.iter().filter(|path| *path != target.path()).take(MOUNT_LIMIT) {
            if let Some(unused) = session.take() {
                self.abandon(target, &unused);
            }
            match with_retry(retry, &what, progress, || self.mount(target, digest, path)) {
                Ok(Mount::Done) => return Ok(Sent::Mounted(path.clone())),
                Ok(Mount::Upload(opened)) => session = Some(opened),
                Ok(Mount::Refused) | Err(RegistryError::Unauthorized { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Sent::Absent(UploadSession(session)))
    }

    /// Sends a blob. The registry checks its digest.
    pub fn upload_blob(
        &self,
        target: &Reference,
        digest: &OciDigest,
        file: &File,
        size_bytes: u64,
        session: UploadSession,
        progress: &dyn Progress,
    ) -> Result<(), RegistryError> {
        let what = format!("{}@{digest}", target.familiar_name());
        let chunk_bytes = self.transport.config().upload.chunk_bytes.max(1);
        let upload = Upload {
            client: self,
            target,
            digest,
            file,
            size_bytes,
            progress,
            session: session.0,
            chunk_bytes,
            acknowledged: 0,
            restarts: 0,
        };
        upload.run(&what)
    }

    /// Puts a manifest or an index under a tag or its digest. What it names must be there.
    pub fn push_manifest(
        &self,
        target: &Reference,
        name: &str,
        manifest: &NewManifest<'_>,
        progress: &dyn Progress,
    ) -> Result<(), RegistryError> {
        let what = format!("{}:{name}", target.familiar_name());
        with_retry(self.transport.config().retry, &what, progress, || {
            let scope = Scope::push(target);
            let url = self.url(target, &format!("manifests/{name}"));
            let payload = Payload::Bytes(manifest.bytes, manifest.media_type);
            let response = self.call(Call { scope, method: Method::PUT, url, headers: Vec::new(), payload })?;
            if !matches!(response.status, 200..=202) {
                return Err(self.refused(scope, response).into());
            }
            Ok(confirm(&response, manifest.digest)?)
        })
    }

    fn has_blob(&self, target: &Reference, digest: &OciDigest) -> Result<bool, Fault> {
        let scope = Scope::push(target);
        let url = self.url(target, &format!("blobs/{digest}"));
        let response = self.call(Call { scope, method: Method::HEAD, url, headers: Vec::new(), payload: Payload::Nothing })?;
        match response.status {
            200..=204 => Ok(true),
            401 | 403 if !response.is_foreign => Err(self.refused(scope, response).into()),
            // Whatever else it says, or whom it leads to, an upload will tell more.
            _ => Ok(false),
        }
    }

    fn mount(&self, target: &Reference, digest: &OciDigest, path: &str) -> Result<Mount, Fault> {
        let scope = Scope { mount_from: Some(path), ..Scope::push(target) };
        let url = self.url(target, &format!("blobs/uploads/?mount={}&from={}", escape(digest.as_str()), escape(path)));
        let asked = url.clone();
        let response = match self.call(Call { scope, method: Method::POST, url, headers: Vec::new(), payload: Payload::Bytes(&[], "") }) {
            // A registry that fails over this may still take the blob itself.
            Err(fault) if fault.is_answer() => return Ok(Mount::Refused),
            answer => answer?,
        };
        match response.status {
            201 => Ok(Mount::Done),
            202 => Ok(opened(&asked, &response).map_or(Mount::Refused, Mount::Upload)),
            _ => Ok(Mount::Refused),
        }
    }

    /// Gives up a session that nobody needs; a registry forgets those that it is not told about, too.
    fn abandon(&self, target: &Reference, session: &Session) {
        let (scope, url) = (Scope::push(target), session.url.clone());
        drop(self.call(Call { scope, method: Method::DELETE, url, headers: Vec::new(), payload: Payload::Nothing }));
    }

    /// The error for a status that a write does not expect.
    fn refused(&self, scope: Scope<'_>, response: Response) -> RegistryError {
        match response.status {
            401 | 403 => self.tokens.refusal(&self.transport, scope, response),
            _ => response.into_error(),
        }
    }
}

/// What a registry answers to the wish for another repository's blob.
enum Mount {
    Done,
    Upload(Session),
    Refused,
}

/// The session that an answer opens.
fn opened(asked: &str, response: &Response) -> Option<Session> {
    let url = follow(asked, response.header("location")?)?;
    Some(Session { url, offset: 0, is_certain: true })
}

/// Checks the digest that the registry says it has stored; not every registry tells it.
fn confirm(response: &Response, expected: &OciDigest) -> Result<(), RegistryError> {
    match response.header("docker-content-digest").and_then(|text| text.parse::<OciDigest>().ok()) {
        Some(actual) if actual != *expected && actual.algorithm() == expected.algorithm() => {
            Err(RegistryError::DigestMismatch { url: response.url.clone(), expected: expected.clone(), actual })
        }
        _ => Ok(()),
    }
}

/// Bytes that a registry says it has: `Range: 0-1023`, without a unit. `0-0` is what an empty upload has.
fn received(response: &Response) -> Option<u64> {
    let range = response.header("range")?;
    let end: u64 = range.rsplit_once('-')?.1.trim().parse().ok()?;
    Some(if end == 0 { 0 } else { end + 1 })
}

/// A blob on its way.
struct Upload<'a> {
    client: &'a Client,
    target: &'a Reference,
    digest: &'a OciDigest,
    file: &'a File,
    size_bytes: u64,
    progress: &'a dyn Progress,
    session: Option<Session>,
    chunk_bytes: u64,
    /// The most that the registry has ever had.
    acknowledged: u64,
    restarts: u32,
}

impl Upload<'_> {
    fn run(mut self, what: &str) -> Result<(), RegistryError> {
        let policy = self.client.transport.config().retry;
        let mut attempts = Attempts::new(policy, what, self.progress);
        let mut in_vain = 0;
        loop {
            if self.progress.is_cancelled() {
                return Err(RegistryError::Cancelled);
            }
            let before = self.acknowledged;
            let Err(fault) = self.attempt() else { return Ok(()) };
            if self.acknowledged > before {
                attempts.reset();
                in_vain = 0;
            }
            in_vain += 1;
            if in_vain > 1 {
                // A proxy that takes no long bodies often hangs up before it says so.
                self.cut_smaller();
            }
            attempts.pause(fault)?;
        }
    }

    /// One try, from where the last one ended.
    fn attempt(&mut self) -> Result<(), Fault> {
        let mut session = match self.session.take() {
            Some(session) if session.is_certain => session,
            Some(session) => match self.status(session)? {
                Some(session) => session,
                // The upload is over for the registry: it failed, or only its answer was lost.
                None if self.client.has_blob(self.target, self.digest)? => return Ok(()),
                None => self.begin()?,
            },
            None => self.begin()?,
        };
        self.acknowledged = self.acknowledged.max(session.offset);
        let single_bytes = self.client.transport.config().upload.single_bytes.min(self.chunk_bytes);
        if session.offset == 0 && self.size_bytes <= single_bytes {
            return self.finish(&session, self.size_bytes);
        }
        while session.offset < self.size_bytes {
            session = self.patch(&session)?;
            self.acknowledged = self.acknowledged.max(session.offset);
        }
        self.finish(&session, 0)
    }

    fn begin(&mut self) -> Result<Session, Fault> {
        let scope = Scope::push(self.target);
        let url = self.client.url(self.target, "blobs/uploads/");
        let asked = url.clone();
        let call = Call { scope, method: Method::POST, url, headers: Vec::new(), payload: Payload::Bytes(&[], "") };
        let response = self.client.call(call)?;
        if response.status != 202 {
            return Err(self.client.refused(scope, response).into());
        }
        if let Some(least) = response.header("oci-chunk-min-length").and_then(|text| text.parse().ok()) {
            self.chunk_bytes = self.chunk_bytes.max(least);
        }
        opened(&asked, &response).ok_or_else(|| response.into_error().into())
    }

    /// How much the registry has; `None` where it knows nothing of the upload.
    fn status(&mut self, session: Session) -> Result<Option<Session>, Fault> {
        let (scope, url) = (Scope::push(self.target), session.url.clone());
        // If this fails too, the next try asks again.
        self.session = Some(session.clone());
        let response = self.client.call(Call { scope, method: Method::GET, url, headers: Vec::new(), payload: Payload::Nothing })?;
        match (response.status, received(&response)) {
            (200..=204, Some(offset)) if offset <= self.size_bytes => {
                let url = response.header("location").and_then(|location| follow(&session.url, location)).unwrap_or(session.url);
                Ok(Some(Session { url, offset, is_certain: true }))
            }
            (401 | 403, _) => Err(self.client.refused(scope, response).into()),
            _ => {
                self.session = None;
                Ok(None)
            }
        }
    }

    /// Sends the next part.
    fn patch(&mut self, session: &Session) -> Result<Session, Fault> {
        let len_bytes = self.chunk_bytes.min(self.size_bytes - session.offset);
        let end = session.offset + len_bytes;
        // A blob in one part goes without, for registries that know no parts.
        let is_part = len_bytes < self.size_bytes;
        let headers = if is_part { vec![("content-range", format!("{}-{}", session.offset, end - 1))] } else { Vec::new() };
        let response = self.send(session, Method::PATCH, session.url.clone(), len_bytes, headers)?;
        match response.status {
            200..=204 => {
                let url = response.header("location").and_then(|l| follow(&session.url, l)).unwrap_or_else(|| session.url.clone());
                // Some registries name the range of the part and not of the whole: what makes no sense is not taken.
                let offset = received(&response).filter(|at| (session.offset + 1..=end).contains(at)).unwrap_or(end);
                Ok(Session { url, offset, is_certain: true })
            }
            _ => Err(self.after_refusal(response)),
        }
    }

    /// Ends the upload, with the last bytes in the same request or without any.
    fn finish(&mut self, session: &Session, len_bytes: u64) -> Result<(), Fault> {
        let separator = if session.url.contains('?') { '&' } else { '?' };
        let url = format!("{}{separator}digest={}", session.url, escape(self.digest.as_str()));
        let response = self.send(session, Method::PUT, url, len_bytes, Vec::new())?;
        match response.status {
            200..=204 => Ok(confirm(&response, self.digest)?),
            _ => Err(self.after_refusal(response)),
        }
    }

    fn send(
        &mut self,
        session: &Session,
        method: Method,
        url: String,
        len_bytes: u64,
        headers: Vec<(&'static str, String)>,
    ) -> Result<Response, Fault> {
        // From here on the registry may have taken something.
        self.session = Some(Session { is_certain: false, ..session.clone() });
        let on_sent = |at: u64| self.progress.on_bytes(self.digest.as_str(), at.min(self.size_bytes), self.size_bytes);
        let is_cancelled = || self.progress.is_cancelled();
        let piece = Piece { file: self.file, offset: session.offset, len_bytes, on_sent: &on_sent, is_cancelled: &is_cancelled };
        let payload = if len_bytes == 0 { Payload::Bytes(&[], "application/octet-stream") } else { Payload::Piece(piece) };
        self.client.call(Call { scope: Scope::push(self.target), method, url, headers, payload })
    }

    /// What to do about a part that was not taken.
    fn after_refusal(&mut self, response: Response) -> Fault {
        let status = response.status;
        if status == 413 && self.cut_smaller() {
            return retry(response);
        }
        match status {
            // Not the part that was expected: ask which one is.
            416 if self.restarts < RESTART_LIMIT => {
                self.restarts += 1;
                retry(response)
            }
            // The upload is forgotten, or its bytes do not have the digest: an interruption that nobody noticed.
            400 | 404 if self.restarts < RESTART_LIMIT => {
                self.restarts += 1;
                self.session = None;
                retry(response)
            }
            _ => self.client.refused(Scope::push(self.target), response).into(),
        }
    }

    /// Cuts the blob into smaller parts, if it is not.
    fn cut_smaller(&mut self) -> bool {
        let small = self.client.transport.config().upload.small_chunk_bytes.max(1);
        let is_new = self.chunk_bytes > small && self.size_bytes > small;
        self.chunk_bytes = self.chunk_bytes.min(small);
        is_new
    }
}

fn retry(response: Response) -> Fault {
    Fault::Retry { error: response.into_error(), after: None, connecting: false }
}
