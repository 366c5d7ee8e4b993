//! The identities of the store, each a type of its own, so that a mixed-up digest does not compile.
//!
//! | type | hash of | written by |
//! |---|---|---|
//! | [`OciDigest`] | bytes, by sha256 or sha512 | OCI |
//! | [`DiffId`] | a layer's uncompressed tar | OCI |
//! | [`LayerId`] | the bytes of a layer's index: plain blake3 | [`LayerId::of_index`] |
//! | [`ContentId`] | a layer's index without what a repetition of the step changes | the index |
//! | [`ChainId`] | everything below a step | [`ChainId::scratch`], [`ChainId::of_base`], [`ChainId::child`] |
//! | [`CacheKey`] | the named parts of a step's key | [`KeyParts::key`](crate::KeyParts::key) |
//! | [`ListId`] | a long part of a key | [`ListId::of`] |

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:` in front.
    #[error("{text:?} is not a digest: no algorithm in front")]
    NoAlgorithm {
        /// What was read.
        text: String,
    },
    /// The algorithm is neither sha256 nor sha512.
    #[error("{text:?} is not a digest: the algorithm {algorithm:?} is not supported (sha256 and sha512 are)")]
    Algorithm {
        /// What was read.
        text: String,
        /// The part in front of the colon.
        algorithm: String,
    },
    /// The rest is not lower-case hexadecimal of the algorithm's length.
    #[error("{text:?} is not a digest: {wanted} lower-case hexadecimal digits expected")]
    Hex {
        /// What was read.
        text: String,
        /// The number of digits that the algorithm has.
        wanted: usize,
    },
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]).map(char::from).collect()
}

/// A digest as OCI writes it: `sha256:<64 hex>` or `sha512:<128 hex>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OciDigest(String);

/// The length of `sha256` and of `sha512` alike.
const ALGORITHM_LEN: usize = 6;

impl OciDigest {
    /// The sha256 of some bytes.
    pub fn sha256_of(bytes: &[u8]) -> Self {
        Self::of_sha256(Sha256::new_with_prefix(bytes))
    }

    /// The sha512 of some bytes.
    pub fn sha512_of(bytes: &[u8]) -> Self {
        Self::of_sha512(Sha512::new_with_prefix(bytes))
    }

    /// The digest of what a sha256 hasher has seen.
    pub fn of_sha256(hasher: Sha256) -> Self {
        Self(format!("sha256:{}", to_hex(&hasher.finalize())))
    }

    /// The digest of what a sha512 hasher has seen.
    pub fn of_sha512(hasher: Sha512) -> Self {
        Self(format!("sha512:{}", to_hex(&hasher.finalize())))
    }

    /// The digest of all that can be read, by an algorithm as [`OciDigest::algorithm`] names it.
    pub fn of_reader(mut from: impl io::Read, algorithm: &str) -> io::Result<Self> {
        let (mut sha256, mut sha512) = (Sha256::new(), Sha512::new());
        let mut buffer = vec![0; 128 * 1024];
        loop {
            match from.read(&mut buffer) {
                Ok(0) if algorithm == "sha512" => return Ok(Self::of_sha512(sha512)),
                Ok(0) => return Ok(Self::of_sha256(sha256)),
                Ok(len) if algorithm == "sha512" => sha512.update(&buffer[..len]),
                Ok(len) => sha256.update(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The digits after the colon.
    pub fn hex(&self) -> &str {
        &self.0[ALGORITHM_LEN + 1..]
    }

    /// `sha256` or `sha512`.
    pub fn algorithm(&self) -> &str {
        &self.0[..ALGORITHM_LEN]
    }

    /// The whole digest, `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digest as a file name, `sha256-<hex>`.
    pub(crate) fn file_name(&self) -> String {
        self.0.replacen(':', "-", 1)
    }

    /// The reverse of [`Self::file_name`].
    pub(crate) fn from_file_name(name: &str) -> Option<Self> {
        name.replacen('-', ":", 1).parse().ok()
    }
}

impl FromStr for OciDigest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Err(DigestError::NoAlgorithm { text: text.to_owned() });
        };
        let wanted = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return Err(DigestError::Algorithm { text: text.to_owned(), algorithm: algorithm.to_owned() }),
        };
        if hex.len() != wanted || !is_lower_hex(hex) {
            return Err(DigestError::Hex { text: text.to_owned(), wanted });
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for OciDigest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<OciDigest> for String {
    fn from(digest: OciDigest) -> Self {
        digest.0
    }
}

impl fmt::Display for OciDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OciDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The digest of a layer's uncompressed tar.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub OciDigest);

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DiffId {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        text.parse().map(Self)
    }
}

macro_rules! blake3_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps a hash that was computed elsewhere.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The raw hash.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The hash as 64 lower-case hexadecimal digits.
            pub fn to_hex(&self) -> String {
                to_hex(&self.0)
            }
        }

        impl From<blake3::Hash> for $name {
            fn from(hash: blake3::Hash) -> Self {
                Self(*hash.as_bytes())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.to_hex())
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                let refused = || DigestError::Hex { text: text.to_owned(), wanted: 64 };
                if !is_lower_hex(text) {
                    return Err(refused());
                }
                blake3::Hash::from_hex(text).map(Self::from).map_err(|_| refused())
            }
        }

        impl TryFrom<String> for $name {
            type Error = DigestError;

            fn try_from(text: String) -> Result<Self, DigestError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_hex()
            }
        }
    };
}

blake3_id! {
    /// The identity of a layer: the hash of its index's bytes.
    LayerId
}
blake3_id! {
    /// What a layer holds, without what a mere repetition of its step changes.
    ContentId
}
blake3_id! {
    /// Everything below a step: the base image and the contents put on it.
    ChainId
}
blake3_id! {
    /// The key of a step: the hash of its explanation.
    CacheKey
}
blake3_id! {
    /// A long part of a key, kept once in `lists/`.
    ListId
}

impl LayerId {
    /// The id of the layer with this index. Plain blake3, so a reader can check a file with any blake3 tool.
    pub fn of_index(index: &[u8]) -> Self {
        blake3::hash(index).into()
    }
}

impl ListId {
    /// The id of a list with these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::hasher().update(bytes).finalize().into()
    }

    /// What gives the id of the bytes that it is updated with.
    pub(crate) fn hasher() -> blake3::Hasher {
        blake3::Hasher::new_derive_key("shale list v1")
    }
}

impl ChainId {
    /// The chain of an image without layers.
    pub fn scratch() -> Self {
        Self::hasher("scratch").finalize().into()
    }

    /// The chain of a base image. Nothing but its diff ids is needed, so no layer has to be read to make a key.
    pub fn of_base(diff_ids: &[DiffId]) -> Self {
        if diff_ids.is_empty() {
            return Self::scratch();
        }
        // OCI's chain id: the first diff id, then sha256(chain + " " + diff id).
        let chain = diff_ids[1..]
            .iter()
            .fold(diff_ids[0].0.clone(), |chain, diff_id| OciDigest::sha256_of(format!("{chain} {diff_id}").as_bytes()));
        Self::hasher("base").update(chain.as_str().as_bytes()).finalize().into()
    }

    /// The chain with one more layer on top.
    #[must_use]
    pub fn child(&self, content: ContentId) -> Self {
        Self::hasher("child").update(&self.0).update(content.as_bytes()).finalize().into()
    }

    /// All three kinds hash a tag of six or seven bytes first, no tag a prefix of another.
    fn hasher(kind: &str) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new_derive_key("shale chain v1");
        hasher.update(kind.as_bytes()).update(&[0]);
        hasher
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_strictly() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let good = format!("sha256:{hex}");
        let digest: OciDigest = good.parse().expect("a digest");
        assert_eq!((digest.algorithm(), digest.hex(), digest.to_string()), ("sha256", hex, good.clone()));
        assert_eq!(digest, OciDigest::sha256_of(b""));
        assert_eq!(OciDigest::sha512_of(b"").to_string().parse(), Ok(OciDigest::sha512_of(b"")));
        assert_eq!(OciDigest::from_file_name(&digest.file_name()), Some(digest));

        let bad = [
            String::new(),
            hex.to_owned(),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            format!("sha512:{hex}"),
            format!("md5:{hex}"),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:../{}", &hex[3..]),
            format!("sha256:sha256:{}", &hex[7..]),
        ];
        for text in bad {
            assert!(text.parse::<OciDigest>().is_err(), "{text}");
        }
    }

    #[test]
    fn ids_are_read_strictly() {
        let id = LayerId::of_index(b"");
        assert_eq!(id.to_string(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(serde_json::to_string(&id).expect("JSON"), format!("\"{id}\""));
        for text in ["", "af", &id.to_string().to_uppercase(), &format!("{id}00")] {
            assert!(text.parse::<LayerId>().is_err(), "{text}");
        }
    }

    #[test]
    fn chains_of_different_origin_differ() {
        let content = ContentId::from_bytes([7; 32]);
        let base = |names: &[&str]| -> ChainId {
            let diff_ids: Vec<DiffId> = names.iter().map(|name| DiffId(OciDigest::sha256_of(name.as_bytes()))).collect();
            ChainId::of_base(&diff_ids)
        };
        let chains = [
            ChainId::scratch(),
            ChainId::scratch().child(content),
            ChainId::scratch().child(content).child(content),
            base(&["a"]),
            base(&["a", "b"]),
            base(&["b", "a"]),
            base(&["a"]).child(content),
        ];
        for (at, chain) in chains.iter().enumerate() {
            assert!(!chains[at + 1..].contains(chain), "{at}");
        }
        assert_eq!(base(&[]), ChainId::scratch());
    }

    /// A changed hash would make every store miss everything, silently.
    #[test]
    fn chains_are_stable() {
        let diff_ids = [DiffId(OciDigest::sha256_of(b"a")), DiffId(OciDigest::sha256_of(b"b"))];
        let chain = ChainId::of_base(&diff_ids).child(ContentId::from_bytes([1; 32]));
        assert_eq!(chain.to_string(), "26f92b3b188abf0433ae503192db596ada6d679ee44bfe75c2d80b8bab4c7a30");
        assert_eq!(ListId::of(b"a list").to_string(), "b0a2c0b6d93b5f2a86e08d46cdf7ca96b5ad2dbe6525eed67eb95d4764b59edd");
    }
}
