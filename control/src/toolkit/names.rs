//! Names that controllers derive, so that doing a thing twice makes one object.

/// FNV-1a of the parts (32 bits), spelled so that it never makes a word: 8 to 10 characters.
pub fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let bytes = parts.into_iter().flatten();
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    safe_encode(&hash.to_string())
}

/// Upstream's `rand.SafeEncodeString`: letters and digits without vowels.
fn safe_encode(text: &str) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    text.bytes()
        .map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_have_no_vowels_and_depend_on_every_part() {
        let one = hash([b"a".as_slice(), b"b"]);
        assert!(one.bytes().all(|byte| !b"aeiou013".contains(&byte)) && one.len() <= 10);
        assert_ne!(one, hash([b"a".as_slice(), b"c"]));
    }
}
