//! Layers, when they are needed.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shale_cache::{BlobRef, BlobWriter, OciDigest, StoreError};

use super::lookup::references;
use super::{ImageError, ImageService, InFlight, Origin, ResolvedImage};
use crate::oci::reference::Reference;
use crate::source::archive::Layout;
use crate::source::registry::{BlobState, Progress, RegistryError};
use crate::threads::in_parallel;

/// Blobs that one image fetches at a time; registries throttle who asks for more.
const PARALLEL_BLOBS: usize = 4;
/// Downloads of one blob whose digest turned out wrong.
const MISMATCH_ATTEMPTS: usize = 2;

impl ImageService {
    /// The blob of layer `n`, fetched into the store if it is absent. Several threads may ask for the same one.
    pub fn ensure_blob(&self, image: &ResolvedImage, n: usize, progress: &dyn Progress) -> Result<BlobRef, ImageError> {
        let layer = image.layers.get(n).expect("a layer of the image");
        let missing = |digest: &OciDigest| ImageError::MissingBlob { image: image.name.clone(), digest: digest.clone() };
        let blob = layer.blob.as_ref().ok_or_else(|| missing(&layer.diff_id.0))?;
        let _turn = self.in_flight.enter(&blob.digest);
        if self.store.blobs().size(&blob.digest)?.is_some() {
            progress.on_blob(blob.digest.as_str(), &BlobState::Present);
            return Ok(blob.clone());
        }
        progress.on_blob(blob.digest.as_str(), &BlobState::Started);
        match &image.origin {
            // Built here upon a base whose layers were not needed so far.
            Origin::Store => self.download(&self.repositories_with(&blob.digest)?, blob, missing(&blob.digest), progress)?,
            Origin::Layout(path) => self.copy(Layout::open(path)?.open_blob(&blob.digest)?, blob)?,
            Origin::Registry(repositories) => self.download(repositories, blob, missing(&blob.digest), progress)?,
        }
        progress.on_blob(blob.digest.as_str(), &BlobState::Done);
        Ok(blob.clone())
    }

    /// The repositories that have a blob, as far as the store knows.
    fn repositories_with(&self, digest: &OciDigest) -> Result<Vec<Reference>, ImageError> {
        let mut found = Vec::new();
        for (record, _) in self.store.images().list()? {
            if record.layers.iter().any(|layer| layer.blob.as_ref().is_some_and(|blob| blob.digest == *digest)) {
                found.extend(references(&record.repo_digests));
            }
        }
        Ok(found)
    }

    /// The blobs of all layers, several at a time.
    pub fn ensure_blobs(&self, image: &ResolvedImage, progress: &dyn Progress) -> Result<Vec<BlobRef>, ImageError> {
        let next = AtomicUsize::new(0);
        let count = image.layers.len();
        let results = Mutex::new((0..count).map(|_| None).collect::<Vec<_>>());
        let work = || {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return;
                }
                let result = self.ensure_blob(image, n, progress);
                if result.is_err() {
                    // The others end what they have begun and begin nothing more.
                    next.store(count, Ordering::Relaxed);
                }
                locked(&results)[n] = Some(result);
            }
        };
        in_parallel(PARALLEL_BLOBS.min(count), work);
        results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()
    }

    /// Fetches a blob from the first repository that has it.
    fn download(&self, repositories: &[Reference], blob: &BlobRef, nowhere: ImageError, progress: &dyn Progress) -> Result<(), ImageError> {
        let mut last = nowhere;
        for repository in repositories {
            match self.download_from(repository, blob, progress) {
                Err(ImageError::Registry(error)) if !matches!(error, RegistryError::Cancelled | RegistryError::Sink { .. }) => {
                    last = error.into();
                }
                done => return done,
            }
        }
        Err(last)
    }

    pub(super) fn download_from(&self, repository: &Reference, blob: &BlobRef, progress: &dyn Progress) -> Result<(), ImageError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut writer = self.store.blobs().writer()?;
            self.client.fetch_blob(repository, &blob.digest, blob.size_bytes, &mut writer, progress)?;
            match commit(writer, blob) {
                // A broken proxy on the way may do better the second time.
                Err(StoreError::DigestMismatch { .. }) if tries < MISMATCH_ATTEMPTS => {}
                Err(StoreError::DigestMismatch { expected, actual, .. }) => {
                    return Err(RegistryError::DigestMismatch { url: repository.name(), expected, actual }.into());
                }
                other => return Ok(other?),
            }
        }
    }

    fn copy(&self, mut from: File, blob: &BlobRef) -> Result<(), ImageError> {
        let mut writer = self.store.blobs().writer()?;
        let failed = |source| ImageError::Write { digest: blob.digest.clone(), source };
        io::copy(&mut from, &mut writer).map_err(failed)?;
        Ok(commit(writer, blob)?)
    }
}

fn commit(writer: BlobWriter, blob: &BlobRef) -> Result<(), StoreError> {
    writer.commit(Some(&blob.digest)).map(drop)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to fetch a blob.
struct Turn<'a> {
    in_flight: &'a InFlight,
    digest: OciDigest,
}

impl InFlight {
    /// Waits until no other thread fetches the blob.
    fn enter(&self, digest: &OciDigest) -> Turn<'_> {
        let mut digests: MutexGuard<'_, HashSet<OciDigest>> = locked(&self.digests);
        while !digests.insert(digest.clone()) {
            digests = self.ended.wait(digests).unwrap_or_else(PoisonError::into_inner);
        }
        Turn { in_flight: self, digest: digest.clone() }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        locked(&self.in_flight.digests).remove(&self.digest);
        self.in_flight.ended.notify_all();
    }
}
