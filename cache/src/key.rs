//! The key of a step is the hash of its explanation.
//!
//! [`KeyParts`] is an ordered list of named parts. Its hash is the [`CacheKey`], and it is kept in the record, so that "why did
//! this step run?" is the difference of two part lists. What enters the hash, in this order:
//!
//! | field | bytes |
//! |---|---|
//! | domain | blake3's key derivation with the context `shale step key` |
//! | [`KEY_FORMAT`] | u32, little endian |
//! | kind | length as u64, bytes |
//! | number of parts | u64 |
//! | for each part: name | length as u64, bytes |
//! | a text | `0`, length as u64, bytes |
//! | a list | `1`, the 32 bytes of its [`ListId`] |

use serde::{Deserialize, Serialize};

use crate::digest::{CacheKey, ListId};

/// The version of the meaning of keys. Raise it when equal parts no longer promise equal results.
pub const KEY_FORMAT: u32 = 3;

/// The named parts of a step's key, in the order in which they enter the hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyParts {
    kind: String,
    parts: Vec<(String, KeyValue)>,
}

/// The value of one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyValue {
    /// A short value, kept in the record.
    Text(String),
    /// A long value, kept in `lists/`.
    List(ListId),
}

impl KeyParts {
    /// Starts the key of a step of some kind, such as `run` or `copy`.
    pub fn new(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), parts: Vec::new() }
    }

    /// Adds a short part.
    pub fn push_text(&mut self, name: impl Into<String>, text: impl Into<String>) -> &mut Self {
        self.parts.push((name.into(), KeyValue::Text(text.into())));
        self
    }

    /// Adds a long part by its id.
    pub fn push_list(&mut self, name: impl Into<String>, list: ListId) -> &mut Self {
        self.parts.push((name.into(), KeyValue::List(list)));
        self
    }

    /// The kind of the step.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// All parts in their order.
    pub fn parts(&self) -> &[(String, KeyValue)] {
        &self.parts
    }

    /// The first part of that name.
    pub fn get(&self, name: &str) -> Option<&KeyValue> {
        self.parts.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// The hash of all of it.
    pub fn key(&self) -> CacheKey {
        blake3::Hasher::new_derive_key("shale step key").update(&self.encode()).finalize().into()
    }

    /// The bytes that are hashed. Different part lists have different encodings.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&KEY_FORMAT.to_le_bytes());
        push_bytes(&mut out, self.kind.as_bytes());
        out.extend_from_slice(&(self.parts.len() as u64).to_le_bytes());
        for (name, value) in &self.parts {
            push_bytes(&mut out, name.as_bytes());
            match value {
                KeyValue::Text(text) => {
                    out.push(0);
                    push_bytes(&mut out, text.as_bytes());
                }
                KeyValue::List(list) => {
                    out.push(1);
                    out.extend_from_slice(list.as_bytes());
                }
            }
        }
        out
    }
}

/// Appends a length and the bytes, so that no two sequences of fields run into one another.
pub(crate) fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn example() -> KeyParts {
        let mut parts = KeyParts::new("run");
        parts.push_text("argv", "make").push_list("selection", ListId::of(b"one\ntwo\n"));
        parts
    }

    /// A changed hash would make every store miss everything, silently. Whoever changes it on purpose raises [`KEY_FORMAT`].
    #[test]
    fn the_hash_of_a_key_is_stable() {
        assert_eq!(example().key().to_string(), "47139c09aea8e6abf6850eb29e24cdb91000b93a266e766aee3b75d3bf9d4e0f");
    }

    #[test]
    fn parts_survive_json() {
        let json = serde_json::to_string(&example()).expect("JSON");
        assert_eq!(serde_json::from_str::<KeyParts>(&json).expect("parts"), example());
        assert_eq!(example().get("argv"), Some(&KeyValue::Text("make".to_owned())));
        assert_eq!(example().get("user"), None);
    }

    /// Short texts of few letters, so that shifted borders between fields are likely.
    fn any_parts() -> impl Strategy<Value = KeyParts> {
        let list = vec(0_u8..2, 0..2).prop_map(|bytes| KeyValue::List(ListId::of(&bytes)));
        let value = prop_oneof!["[ab\0]{0,3}".prop_map(KeyValue::Text), list];
        ("[ab]{0,2}", vec(("[ab]{0,2}", value), 0..4)).prop_map(|(kind, parts)| KeyParts { kind, parts })
    }

    proptest! {
        #[test]
        fn different_parts_have_different_encodings(a in any_parts(), b in any_parts()) {
            prop_assert_eq!(a == b, a.encode() == b.encode());
            prop_assert_eq!(a == b, a.key() == b.key());
        }

        /// The end of one part and the start of the next can be moved without changing the bytes of the texts.
        #[test]
        fn moved_borders_change_the_encoding(text in "[ab]{2,6}", cut in 0_usize..6, other in 0_usize..6) {
            let at = |cut: usize| {
                let (left, right) = text.split_at(cut.min(text.len()));
                let mut parts = KeyParts::new("run");
                parts.push_text(left, right);
                parts
            };
            let (a, b) = (at(cut), at(other));
            prop_assert_eq!(a == b, a.encode() == b.encode());
        }

        #[test]
        fn order_matters(names in vec("[a-c]", 2..4)) {
            let of = |names: Vec<String>| {
                let mut parts = KeyParts::new("run");
                for name in names {
                    parts.push_text(name, "");
                }
                parts
            };
            let (a, b) = (of(names.clone()), of(names.into_iter().rev().collect()));
            prop_assert_eq!(a == b, a.key() == b.key());
        }
    }
}
