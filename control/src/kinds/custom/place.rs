//! Where in an object a part is. A path may be as long as the object, and there may be as many of them as parts: it is written only
//! where something is told of it.
use std::fmt::{self, Display};

#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'p> {
    /// The whole object, which has no name.
    Root,
    /// `above.key`.
    Member(&'p Place<'p>, &'p str),
    /// `above[index]`.
    Item(&'p Place<'p>, usize),
    /// `above[key]`.
    Key(&'p Place<'p>, &'p str),
}

impl Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Root => Ok(()),
            Place::Member(Place::Root, key) => f.write_str(key),
            Place::Member(above, key) => write!(f, "{above}.{key}"),
            Place::Item(above, at) => write!(f, "{above}[{at}]"),
            Place::Key(above, key) => write!(f, "{above}[{key}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_shown_as_paths() {
        let spec = Place::Member(&Place::Root, "spec");
        let item = Place::Item(&spec, 3);
        for (place, shown) in [
            (Place::Root, ""),
            (spec, "spec"),
            (item, "spec[3]"),
            (Place::Member(&item, "a"), "spec[3].a"),
            (Place::Key(&spec, "a"), "spec[a]"),
            (Place::Key(&Place::Root, "a"), "[a]"),
        ] {
            assert_eq!(place.to_string(), shown);
        }
    }
}
