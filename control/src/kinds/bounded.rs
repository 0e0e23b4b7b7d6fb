//! How much of what is wrong with an object is told. Upstream tells everything; of a body of the largest size that can be gigabytes, as
//! each of many items may be wrong in several ways, and each time be named by a path that the client made as long as it liked.
use super::error::{FieldError, FieldErrors};
use serde_json::Value;

/// So many errors: more help nobody.
pub const MOST: usize = 10_000;
/// So many bytes of errors, but for the one that goes beyond.
pub const ROOM: usize = 4 << 20;
/// Said after them.
const NO_MORE: &str = "too many errors: further ones are not told";

/// Field errors as they are found, until there is no room for more.
#[derive(Debug, Default)]
pub struct Found {
    errors: FieldErrors,
    size: usize,
}

impl Found {
    pub fn push(&mut self, error: FieldError) {
        if !self.is_full() {
            self.size += error.field.len() + error.bad_value.len() + error.detail.len();
            self.errors.push(error);
        }
    }

    /// Nothing needs to be looked for any more.
    pub fn is_full(&self) -> bool {
        self.errors.len() >= MOST || self.size >= ROOM
    }

    pub fn len(&self) -> usize {
        self.errors.len()
    }

    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// What was found; at its end that there may be more, if there was no room for it.
    pub fn told(mut self) -> FieldErrors {
        if self.is_full() {
            self.errors
                .push(FieldError::invalid("<nil>", Value::Null, NO_MORE));
        }
        self.errors
    }
}

/// Takes no more from what is added than there is room for.
impl Extend<FieldError> for Found {
    fn extend<I: IntoIterator<Item = FieldError>>(&mut self, errors: I) {
        let mut errors = errors.into_iter();
        while !self.is_full()
            && let Some(error) = errors.next()
        {
            self.push(error);
        }
    }
}

/// What was found, and nothing of more.
impl IntoIterator for Found {
    type Item = FieldError;
    type IntoIter = std::vec::IntoIter<FieldError>;

    fn into_iter(self) -> Self::IntoIter {
        self.errors.into_iter()
    }
}

/// As many of the errors as are told, and that there are more.
pub fn told(errors: &[FieldError]) -> FieldErrors {
    let mut found = Found::default();
    found.extend(errors.iter().cloned());
    match found.len() == errors.len() {
        true => errors.to_vec(),
        false => found.told(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(count: usize, length: usize) -> FieldErrors {
        let long = "x".repeat(length);
        let error = |i| FieldError::forbidden(format!("{long}{i}"), "no");
        (0..count).map(error).collect()
    }

    #[test]
    fn few_errors_are_all_told() {
        for (count, length) in [(0, 1), (1, 2 * ROOM), (MOST, 1), (100, 1000)] {
            let errors = errors(count, length);
            assert_eq!(told(&errors), errors);
        }
    }

    #[test]
    fn of_many_the_first_are_told_and_that_there_are_more() {
        for (count, length, kept) in [(MOST + 1, 1, MOST), (100, ROOM / 2, 2), (2, ROOM, 1)] {
            let errors = errors(count, length);
            let mut told = told(&errors);
            let last = told.pop().expect("a last one");
            assert_eq!(told, errors[..kept]);
            assert_eq!(last.detail, NO_MORE);
        }
    }

    #[test]
    fn what_is_full_asks_for_no_more() {
        let mut found = Found::default();
        let mut asked = 0;
        found.extend(errors(2 * MOST, 1).into_iter().inspect(|_| asked += 1));
        assert_eq!((asked, found.told().len()), (MOST, MOST + 1));
    }
}
