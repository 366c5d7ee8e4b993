//! Keys that sign, and the agent's side of the protocol (draft-ietf-sshm-ssh-agent): a list, a signature, and "failure" to all else.

use std::fmt;

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair,
};

use super::pem::{self, Der, Fields, push_bytes, push_integer};
use super::{FAILURE, KeyError};

const ASK_KEYS: u8 = 11;
const KEYS: u8 = 12;
const ASK_SIGNATURE: u8 = 13;
const SIGNATURE: u8 = 14;
/// Flags of a question for a signature with an RSA key.
const RSA_SHA256: u32 = 2;
const RSA_SHA512: u32 = 4;

/// Keys that are served together.
#[derive(Debug)]
pub struct Keyring {
    keys: Vec<Key>,
}

impl PartialEq for Keyring {
    fn eq(&self, other: &Self) -> bool {
        self.keys.iter().map(|key| &key.public).eq(other.keys.iter().map(|key| &key.public))
    }
}

impl Eq for Keyring {}

/// One key.
pub(super) struct Key {
    /// In SSH's binary form.
    pub(super) public: Vec<u8>,
    comment: String,
    pair: Pair,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?}, …)", self.comment)
    }
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    Ecdsa(EcdsaKeyPair, &'static Curve),
    Rsa(RsaKeyPair),
}

/// A curve by its names.
struct Curve {
    name: &'static str,
    kind: &'static str,
    /// Its object identifier in DER.
    oid: &'static [u8],
    algorithm: &'static EcdsaSigningAlgorithm,
    /// Of its numbers.
    len_bytes: usize,
}

static CURVES: [Curve; 2] = [
    Curve {
        name: "nistp256",
        kind: "ecdsa-sha2-nistp256",
        oid: &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        algorithm: &ECDSA_P256_SHA256_FIXED_SIGNING,
        len_bytes: 32,
    },
    Curve {
        name: "nistp384",
        kind: "ecdsa-sha2-nistp384",
        oid: &[0x2b, 0x81, 0x04, 0x00, 0x22],
        algorithm: &ECDSA_P384_SHA384_FIXED_SIGNING,
        len_bytes: 48,
    },
];

impl Keyring {
    pub(super) fn new(keys: Vec<Key>) -> Self {
        Self { keys }
    }

    /// The answer to a message; both have their length in front.
    pub(super) fn answer(&self, question: &[u8]) -> Vec<u8> {
        let mut answer = vec![0; 4];
        let done = match question.get(4) {
            Some(&ASK_KEYS) => {
                answer.push(KEYS);
                answer.extend((self.keys.len() as u32).to_be_bytes());
                for key in &self.keys {
                    push_bytes(&mut answer, &key.public);
                    push_bytes(&mut answer, key.comment.as_bytes());
                }
                Some(())
            }
            Some(&ASK_SIGNATURE) => self.signature(&question[5..]).map(|signature| {
                answer.push(SIGNATURE);
                push_bytes(&mut answer, &signature);
            }),
            _ => None,
        };
        if done.is_none() {
            return FAILURE.to_vec();
        }
        let length = (answer.len() - 4) as u32;
        answer[..4].copy_from_slice(&length.to_be_bytes());
        answer
    }

    fn signature(&self, question: &[u8]) -> Option<Vec<u8>> {
        let mut fields = Fields(question);
        let (public, data, flags) = (fields.bytes()?, fields.bytes()?, fields.number()?);
        self.keys.iter().find(|key| key.public == public)?.sign(data, flags)
    }
}

impl Key {
    /// Reads a key file: OpenSSH's own form, PKCS#8, PKCS#1 or SEC 1.
    pub(super) fn parse(text: &[u8]) -> Result<Self, KeyError> {
        let (label, bytes) = pem::decode(text)?;
        let (pair, comment) = match label.as_str() {
            "OPENSSH PRIVATE KEY" => openssh(&bytes)?,
            "PRIVATE KEY" => (pkcs8(&bytes)?, String::new()),
            "RSA PRIVATE KEY" => (Pair::Rsa(RsaKeyPair::from_der(&bytes).map_err(rejected)?), String::new()),
            "EC PRIVATE KEY" => (sec1(&bytes)?, String::new()),
            "ENCRYPTED PRIVATE KEY" => return Err(KeyError::Encrypted),
            other => return Err(KeyError::Unsupported(other.into())),
        };
        Ok(Self { public: pair.public(), comment, pair })
    }

    fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        let (kind, signature) = match &self.pair {
            Pair::Ed25519(pair) => ("ssh-ed25519", pair.sign(data).as_ref().to_vec()),
            Pair::Ecdsa(pair, curve) => {
                let fixed = pair.sign(&random, data).ok()?;
                let (r, s) = fixed.as_ref().split_at(curve.len_bytes);
                let mut signature = Vec::new();
                push_integer(&mut signature, r);
                push_integer(&mut signature, s);
                (curve.kind, signature)
            }
            Pair::Rsa(pair) => {
                let (kind, padding) = match flags {
                    RSA_SHA512 => ("rsa-sha2-512", &RSA_PKCS1_SHA512),
                    RSA_SHA256 => ("rsa-sha2-256", &RSA_PKCS1_SHA256),
                    // SHA-1, which nobody should take any more.
                    _ => return None,
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, data, &mut signature).ok()?;
                (kind, signature)
            }
        };
        let mut out = Vec::new();
        push_bytes(&mut out, kind.as_bytes());
        push_bytes(&mut out, &signature);
        Some(out)
    }
}

impl Pair {
    fn public(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Ed25519(pair) => {
                push_bytes(&mut out, b"ssh-ed25519");
                push_bytes(&mut out, pair.public_key().as_ref());
            }
            Self::Ecdsa(pair, curve) => {
                push_bytes(&mut out, curve.kind.as_bytes());
                push_bytes(&mut out, curve.name.as_bytes());
                push_bytes(&mut out, pair.public_key().as_ref());
            }
            Self::Rsa(pair) => {
                // A sequence of modulus and exponent.
                let mut numbers = Der(pair.public().as_ref()).take(0x30).map(Der);
                let mut next = || numbers.as_mut().and_then(|numbers| numbers.take(0x02)).unwrap_or_default();
                let (modulus, exponent) = (next(), next());
                push_bytes(&mut out, b"ssh-rsa");
                push_integer(&mut out, exponent);
                push_integer(&mut out, modulus);
            }
        }
        out
    }
}

fn rejected(error: ring::error::KeyRejected) -> KeyError {
    KeyError::Malformed(error.to_string())
}

fn cut_off() -> KeyError {
    KeyError::Malformed("it is cut off".into())
}

/// OpenSSH's own form (PROTOCOL.key).
fn openssh(bytes: &[u8]) -> Result<(Pair, String), KeyError> {
    let mut outer = Fields(bytes.strip_prefix(b"openssh-key-v1\0").ok_or_else(cut_off)?);
    let cipher = outer.text().ok_or_else(cut_off)?;
    if cipher != "none" {
        return Err(KeyError::Encrypted);
    }
    let inner = || {
        let (_derivation, _options, _count, _public) = (outer.bytes()?, outer.bytes()?, outer.number()?, outer.bytes()?);
        let mut inner = Fields(outer.bytes()?);
        (inner.number()? == inner.number()?).then_some(inner)
    };
    let mut fields = { inner }().ok_or_else(cut_off)?;
    let kind = fields.text().ok_or_else(cut_off)?;
    let pair = match kind {
        "ssh-ed25519" => {
            let (public, private) = (fields.bytes().ok_or_else(cut_off)?, fields.bytes().ok_or_else(cut_off)?);
            let seed = private.get(..32).ok_or_else(cut_off)?;
            Pair::Ed25519(Ed25519KeyPair::from_seed_and_public_key(seed, public).map_err(rejected)?)
        }
        "ssh-rsa" => rsa(&mut fields)?,
        _ if kind.starts_with("ecdsa-sha2-") => {
            let mut read = || Some((fields.text()?, fields.bytes()?, fields.integer()?));
            let (name, public, private) = read().ok_or_else(cut_off)?;
            ecdsa(CURVES.iter().find(|curve| curve.name == name).ok_or_else(|| KeyError::Unsupported(kind.into()))?, private, public)?
        }
        _ => return Err(KeyError::Unsupported(kind.into())),
    };
    Ok((pair, fields.text().unwrap_or_default().to_owned()))
}

fn ecdsa(curve: &'static Curve, private: &[u8], public: &[u8]) -> Result<Pair, KeyError> {
    let zeros = curve.len_bytes.checked_sub(private.len()).ok_or_else(cut_off)?;
    let private = [&vec![0; zeros][..], private].concat();
    let pair = EcdsaKeyPair::from_private_key_and_public_key(curve.algorithm, &private, public, &SystemRandom::new());
    Ok(Pair::Ecdsa(pair.map_err(rejected)?, curve))
}

fn rsa(fields: &mut Fields<'_>) -> Result<Pair, KeyError> {
    let mut next = || fields.integer().ok_or_else(cut_off);
    let public_key = ring::rsa::PublicKeyComponents { n: next()?, e: next()? };
    let (secret, inverse, one, other) = (next()?, next()?, next()?, next()?);
    // Two numbers that the form leaves out.
    let (of_one, of_other) = (remainder(secret, &less_one(one)), remainder(secret, &less_one(other)));
    let components = ring::rsa::KeyPairComponents {
        public_key,
        d: secret,
        p: one,
        q: other,
        dP: of_one.as_slice(),
        dQ: of_other.as_slice(),
        qInv: inverse,
    };
    Ok(Pair::Rsa(RsaKeyPair::from_components(&components).map_err(rejected)?))
}

fn pkcs8(bytes: &[u8]) -> Result<Pair, KeyError> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes) {
        return Ok(Pair::Ed25519(pair));
    }
    for curve in &CURVES {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(curve.algorithm, bytes, &SystemRandom::new()) {
            return Ok(Pair::Ecdsa(pair, curve));
        }
    }
    Ok(Pair::Rsa(RsaKeyPair::from_pkcs8(bytes).map_err(rejected)?))
}

/// SEC 1: version, number, `[0]` curve, `[1]` point.
fn sec1(bytes: &[u8]) -> Result<Pair, KeyError> {
    let read = || {
        let mut key = Der(Der(bytes).take(0x30)?);
        key.take(0x02)?;
        let private = key.take(0x04)?;
        let oid = Der(key.take(0xa0)?).take(0x06)?;
        let point = Der(key.take(0xa1)?).take(0x03)?;
        // A string of bits begins with how many of its last are not used.
        Some((private, oid, point.split_first()?.1))
    };
    let (private, oid, point) = read().ok_or_else(cut_off)?;
    let curve = CURVES.iter().find(|curve| curve.oid == oid).ok_or_else(|| KeyError::Unsupported("ecdsa on another curve".into()))?;
    ecdsa(curve, pem::without_zeros(private), point)
}

/// An odd number without its last bit.
fn less_one(number: &[u8]) -> Vec<u8> {
    let mut less = number.to_vec();
    if let Some(last) = less.last_mut() {
        *last &= 0xfe;
    }
    less
}

/// The remainder of a division, bit by bit: it is done twice for a key.
fn remainder(number: &[u8], divisor: &[u8]) -> Vec<u8> {
    let divisor = [&[0], divisor].concat();
    let mut rest = vec![0_u8; divisor.len()];
    for bit in number.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)) {
        let mut carry = bit;
        for byte in rest.iter_mut().rev() {
            (*byte, carry) = (*byte << 1 | carry, *byte >> 7);
        }
        if rest >= divisor {
            let mut borrow = false;
            for (byte, minus) in rest.iter_mut().zip(&divisor).rev() {
                let (once, under) = byte.overflowing_sub(*minus);
                let (twice, again) = once.overflowing_sub(u8::from(borrow));
                (*byte, borrow) = (twice, under || again);
            }
        }
    }
    pem::without_zeros(&rest).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders() {
        for (number, divisor, want) in [(1000_u64, 7_u64, 6_u64), (u64::MAX, 65_521, u64::MAX % 65_521), (5, 255, 5), (256, 128, 0)] {
            let bytes = |n: u64| pem::without_zeros(&n.to_be_bytes()).to_vec();
            assert_eq!(remainder(&bytes(number), &bytes(divisor)), bytes(want), "{number} % {divisor}");
        }
    }
}
