//! The registry client: names → manifests, configs and layers and back, by the OCI distribution protocol.
//!
//! It keeps nothing on disk: bytes that the store already holds come in through a callback, layers go out through a writer.
//! Manifests and configs that leave it have the digest and the size that they were asked for by; of layers it checks the size,
//! and the blob writer that takes them the digest.
//!
//! Rules about secrets: credentials go to the registry they were stored for and to the token server that this registry names
//! over TLS, never along a redirect to another host; queries of URLs are not printed.

mod auth;
mod client;
mod config;
mod connect;
mod credentials;
mod error;
mod failure;
mod forward;
pub(in crate::source) mod http;
mod keyring;
mod pull;
mod push;
mod reach;
pub(in crate::source) mod retry;
mod stream;
mod tls;

pub use client::Client;
pub use config::{BlobState, Mirror, Place, Progress, RegistryConfig, RetryPolicy, UploadPolicy};
pub use credentials::Credential;
pub use error::{RegistryError, TlsFault};
pub use keyring::{Kept, Keyring};
pub use pull::{RemoteDocument, RemoteImage};
pub use push::{NewManifest, Sent, UploadSession};
