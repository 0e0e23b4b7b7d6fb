//! What is known of how large values can be. As cel-go's estimates know it: of what is declared by its place, of what an
//! expression makes where that follows from what went in.
use std::sync::Arc;

use crate::cel::extent::Extent;
use crate::cel::types::Type;

/// From so many characters, elements or members to so many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Size {
    pub least: u64,
    pub most: u64,
}

impl Size {
    pub const UNKNOWN: Size = Size::to(u64::MAX);
    pub const ONE: Size = Size::fixed(1);

    pub const fn fixed(size: u64) -> Size {
        Size {
            least: size,
            most: size,
        }
    }

    pub const fn to(most: u64) -> Size {
        Size { least: 0, most }
    }

    pub fn plus(self, other: Size) -> Size {
        Size {
            least: self.least.saturating_add(other.least),
            most: self.most.saturating_add(other.most),
        }
    }

    pub fn times(self, other: Size) -> Size {
        Size {
            least: self.least.saturating_mul(other.least),
            most: self.most.saturating_mul(other.most),
        }
    }

    /// What holds for both.
    pub fn or(self, other: Size) -> Size {
        Size {
            least: self.least.min(other.least),
            most: self.most.max(other.most),
        }
    }

    /// Of any of several; of none it is nothing.
    pub fn any(sizes: impl IntoIterator<Item = Size>) -> Size {
        sizes.into_iter().reduce(Size::or).unwrap_or(Size::fixed(0))
    }
}

/// Keys and values of a map, indices and elements of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entries {
    pub is_list: bool,
    pub keys: Size,
    pub values: Size,
}

impl Entries {
    pub fn or(self, other: Entries) -> Entries {
        Entries {
            is_list: self.is_list,
            keys: self.keys.or(other.keys),
            values: self.values.or(other.values),
        }
    }
}

/// Where a value stands in what is declared.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// The expression made it.
    Made,
    Declared(Arc<Extent>),
    /// It is a part of which nothing is declared.
    Lost,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Step<'a> {
    Field(&'a str),
    /// An element of a list, or a value of a map.
    Item,
    Key,
    /// Where an element stands.
    Index,
}

impl Place {
    /// The place of a part; of what was made its parts are at `stray`.
    pub fn step(&self, step: Step<'_>, stray: &Place) -> Place {
        let extent = match self {
            Place::Made => return stray.clone(),
            Place::Lost => return Place::Lost,
            Place::Declared(extent) => extent,
        };
        let part = match step {
            Step::Field(name) => extent.fields.get(name).or(extent.others.as_ref()),
            Step::Item => extent.items.as_ref(),
            Step::Key => extent.keys.as_ref(),
            Step::Index => None,
        };
        part.map_or(Place::Lost, |part| Place::Declared(part.clone()))
    }

    fn size(&self) -> Option<Size> {
        match self {
            Place::Declared(extent) => Some(Size::to(extent.most)),
            Place::Made | Place::Lost => None,
        }
    }
}

/// All that is known of one value.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub size: Option<Size>,
    pub entries: Option<Entries>,
    pub place: Place,
}

impl Known {
    pub fn made(ty: &Type) -> Known {
        Known::at(Place::Made, ty)
    }

    pub fn at(place: Place, ty: &Type) -> Known {
        Known {
            size: place.size().or(is_scalar(ty).then_some(Size::ONE)),
            entries: None,
            place,
        }
    }

    pub fn size(&self) -> Size {
        self.size.unwrap_or(Size::UNKNOWN)
    }

    /// A part: an element or a value, or else a key or an index.
    pub fn part(&self, of: &Type, value: bool, ty: &Type, stray: &Place) -> Known {
        let is_list = self
            .entries
            .map_or(matches!(of, Type::List(_)), |entries| entries.is_list);
        let step = match (value, is_list) {
            (true, _) => Step::Item,
            (false, true) => Step::Index,
            (false, false) => Step::Key,
        };
        let mut part = Known::at(self.place.step(step, stray), ty);
        part.size = part.size.or(self.entries.map(|entries| match value {
            true => entries.values,
            false => entries.keys,
        }));
        part
    }

    /// What a loop with one name goes over: the elements of a list, the keys of all else.
    pub fn single(&self, of: &Type, ty: &Type, stray: &Place) -> Known {
        let is_list = self
            .entries
            .map_or(matches!(of, Type::List(_)), |entries| entries.is_list);
        self.part(of, is_list, ty, stray)
    }

    /// The size of an element, when a function goes over all of them.
    pub fn element(&self) -> Size {
        match &self.place {
            Place::Made => Size::UNKNOWN,
            place => place
                .step(Step::Item, &Place::Lost)
                .size()
                .unwrap_or(Size::UNKNOWN),
        }
    }
}

/// Whether all values of a type are of one size.
fn is_scalar(ty: &Type) -> bool {
    match ty {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        Type::Optional(inner) => is_scalar(inner),
        _ => false,
    }
}
