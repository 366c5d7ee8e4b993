//! Files that hold private keys: the armour, and the two binary forms below it.

use base64::Engine as _;

use super::KeyError;

/// The first block of a file: what it says that it is, and its bytes.
pub(super) fn decode(text: &[u8]) -> Result<(String, Vec<u8>), KeyError> {
    let text = std::str::from_utf8(text).map_err(|_| KeyError::None)?;
    let mut lines = text.lines().map(str::trim).skip_while(|line| !line.starts_with("-----BEGIN "));
    let label = lines.next().and_then(|line| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----")).ok_or(KeyError::None)?;
    let mut body = String::new();
    for line in lines {
        if line.starts_with("-----END ") {
            let bytes = base64::engine::general_purpose::STANDARD.decode(&body).map_err(|e| KeyError::Malformed(e.to_string()))?;
            return Ok((label.to_owned(), bytes));
        }
        match line.split_once(": ") {
            Some((_, value)) if value.contains("ENCRYPTED") => return Err(KeyError::Encrypted),
            Some(_) => {}
            None => body.push_str(line),
        }
    }
    Err(KeyError::Malformed("it is cut off".into()))
}

/// Reads the values of SSH's binary form: numbers and strings with their length in front.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.number()? as usize;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// A number without its leading zeros.
    pub(super) fn integer(&mut self) -> Option<&'a [u8]> {
        self.bytes().map(without_zeros)
    }
}

/// Reads the values of DER, one after the other.
#[derive(Clone, Debug)]
pub(super) struct Der<'a>(pub(super) &'a [u8]);

impl<'a> Der<'a> {
    /// The next value, if it has this tag.
    pub(super) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (&[found, first], rest) = self.0.split_first_chunk::<2>()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (length.iter().fold(0, |all, byte| all << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        if found != tag {
            return None;
        }
        self.0 = rest;
        Some(value)
    }
}

pub(super) fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// A string with its length in front.
pub(super) fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
}

/// A positive number: without leading zeros, but with one where its first bit would say that it is negative.
pub(super) fn push_integer(out: &mut Vec<u8>, number: &[u8]) {
    let number = without_zeros(number);
    let sign = number.first().is_some_and(|byte| byte & 0x80 != 0);
    out.extend((number.len() as u32 + u32::from(sign)).to_be_bytes());
    out.extend(sign.then_some(0));
    out.extend(number);
}
