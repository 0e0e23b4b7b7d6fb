//! What a pattern comes to when it is compiled: instructions, depth and copies, which Go limits.

/// What a part of a pattern comes to.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) size: u64,
    pub(super) height: u64,
    /// How often repetitions in it repeat the innermost part.
    pub(super) repeats: u64,
}

pub(super) const ATOM: Part = Part {
    size: 1,
    height: 1,
    repeats: 1,
};

impl Part {
    /// What several come to, after each other or as alternatives, which need one instruction more for each but one.
    fn of(parts: &[Part], alternatives: bool) -> Part {
        let Some((first, rest)) = parts.split_first() else {
            return ATOM;
        };
        if rest.is_empty() {
            return *first;
        }
        let sizes: u64 = parts.iter().map(|part| part.size).sum();
        let most = |of: fn(&Part) -> u64| parts.iter().map(of).max().unwrap_or(1);
        Part {
            size: sizes + if alternatives { rest.len() as u64 } else { 0 },
            height: most(|part| part.height) + 1,
            repeats: most(|part| part.repeats),
        }
    }

    /// This part as often as `{least,most}` says; without a `most` there is no end.
    pub(super) fn repeated(self, least: u64, most: Option<u64>) -> Part {
        let size = match most {
            None if least == 0 => 2 + self.size,
            None => 1 + least * self.size,
            Some(most) => most * self.size + most.saturating_sub(least),
        };
        let repeats = match most {
            Some(0) => 0,
            most => most.unwrap_or(least).max(1).saturating_mul(self.repeats),
        };
        Part {
            size: size.max(1),
            height: self.height + 1,
            repeats,
        }
    }
}

/// A group that is open: the alternatives before, and the parts of the one that is being read.
#[derive(Default)]
pub(super) struct Group {
    captures: bool,
    before: Vec<Part>,
    pub(super) parts: Vec<Part>,
}

impl Group {
    pub(super) fn open(captures: bool) -> Group {
        Group {
            captures,
            ..Group::default()
        }
    }

    pub(super) fn alternative(&mut self) {
        let parts = std::mem::take(&mut self.parts);
        self.before.push(Part::of(&parts, false));
    }

    pub(super) fn closed(mut self) -> Part {
        self.alternative();
        let part = Part::of(&self.before, true);
        match self.captures {
            true => Part {
                size: part.size + 2,
                height: part.height + 1,
                ..part
            },
            false => part,
        }
    }
}
