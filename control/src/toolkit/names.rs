//! Names that controllers derive, so that doing a thing twice makes one object.

/// Letters of a generated suffix.
const SUFFIX_LENGTH: usize = 5;

/// As long as the server's suffixes of generated names, and of their letters.
pub fn suffix<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut left = fnv(parts);
    let letters = (0..SUFFIX_LENGTH).map(|_| {
        let letter = ALPHABET[left as usize % ALPHABET.len()];
        left /= ALPHABET.len() as u32;
        char::from(letter)
    });
    letters.collect()
}

/// FNV-1a of the parts (32 bits), spelled so that it never makes a word: 8 to 10 characters.
pub fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    safe_encode(&fnv(parts).to_string())
}

fn fnv<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let bytes = parts.into_iter().flatten();
    bytes.fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Upstream's `rand.SafeEncodeString`: letters and digits without vowels.
fn safe_encode(text: &str) -> String {
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
