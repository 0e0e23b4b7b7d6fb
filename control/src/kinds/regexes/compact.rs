//! Expressions of large classes, many times over (`\p{L}{1,253}`): to the `regex` crate such a class is an automaton of hundreds
//! of bytes' ranges, and each repetition another copy of it. Here text and expression are first written in an alphabet of
//! their own, a byte for all characters that the expression does not tell apart, in which a class is a few bytes.
//!
//! Knows nothing of Go's syntax; refuses what an alphabet of bytes cannot say.
use regex_automata::meta;
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, Hir, HirKind, Look, Repetition};
use std::collections::BTreeMap;
use std::ops::Range;

/// Sets of characters in an expression; each is asked for each interval of characters.
const SETS: usize = 256;
/// Bytes of an expression; what is much longer than that is large by itself.
const LONGEST: usize = 16 << 10;

/// A compiled expression.
#[derive(Debug, Clone)]
pub(super) struct Compact {
    alphabet: Alphabet,
    regex: meta::Regex,
}

impl Compact {
    /// Of an expression in the `regex` crate's syntax; none where it does not fit into `size` bytes, needs more than a byte's
    /// letters, or looks at more around it than where the text begins and ends.
    pub(super) fn new(source: &str, nesting: u32, size: usize) -> Option<Self> {
        if source.len() > LONGEST {
            return None;
        }
        let hir = ParserBuilder::new()
            .nest_limit(nesting)
            .build()
            .parse(source)
            .ok()?;
        let mut sets = Vec::new();
        collect(&hir, &mut sets)?;
        let alphabet = Alphabet::of(&sets)?;
        let config = meta::Config::new()
            .utf8_empty(false)
            .nfa_size_limit(Some(size))
            .hybrid_cache_capacity(size);
        let regex = meta::Builder::new()
            .configure(config)
            .build_from_hir(&alphabet.write(&hir)?)
            .ok()?;
        Some(Compact { alphabet, regex })
    }

    /// Bytes that it takes, about.
    pub(super) fn memory_usage(&self) -> usize {
        let sets = self.alphabet.letters.iter();
        let ranges: usize = sets
            .map(|(set, letters)| set.len() * size_of::<(char, char)>() + letters.len())
            .sum();
        self.regex.memory_usage() + ranges + self.alphabet.intervals.len() * size_of::<(u32, u8)>()
    }

    pub(super) fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(&self.alphabet.text(text))
    }

    /// Where it matches, one after the other, in bytes of the text; `most` times at most.
    pub(super) fn find_some(&self, text: &str, most: usize) -> Vec<Range<usize>> {
        let mut starts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        starts.push(text.len());
        let letters = self.alphabet.text(text);
        let found = self.regex.find_iter(&letters).take(most);
        found
            .map(|found| starts[found.start()]..starts[found.end()])
            .collect()
    }
}

/// Characters, as ranges in order.
type Set = Vec<(char, char)>;

/// All sets that an expression names; none when it says what cannot be said here.
fn collect(hir: &Hir, sets: &mut Vec<Set>) -> Option<()> {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(Look::Start | Look::End) => {}
        HirKind::Look(_) => return None,
        HirKind::Literal(literal) => {
            let text = std::str::from_utf8(&literal.0).ok()?;
            text.chars().try_for_each(|c| add(sets, vec![(c, c)]))?;
        }
        HirKind::Class(class) => add(sets, ranges(class)?)?,
        HirKind::Repetition(repetition) => collect(&repetition.sub, sets)?,
        HirKind::Capture(capture) => collect(&capture.sub, sets)?,
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            parts.iter().try_for_each(|part| collect(part, sets))?;
        }
    }
    Some(())
}

fn add(sets: &mut Vec<Set>, set: Set) -> Option<()> {
    if !sets.contains(&set) {
        sets.push(set);
    }
    (sets.len() <= SETS).then_some(())
}

fn ranges(class: &Class) -> Option<Set> {
    let class = match class {
        Class::Unicode(class) => class.clone(),
        Class::Bytes(class) => class.to_unicode_class()?,
    };
    Some(class.iter().map(|range| (range.start(), range.end())).collect())
}

/// Which letter stands for which characters.
#[derive(Debug, Clone)]
struct Alphabet {
    /// Where an interval of characters begins, in order from 0 on, and its letter.
    intervals: Vec<(u32, u8)>,
    /// By the sets that an expression names.
    letters: BTreeMap<Set, Vec<u8>>,
}

impl Alphabet {
    /// Characters that are in the same sets have one letter; none when there are more than a byte has.
    fn of(sets: &[Set]) -> Option<Self> {
        let ends = |(first, last): &(char, char)| [u32::from(*first), u32::from(*last) + 1];
        let mut cuts: Vec<u32> = sets.iter().flatten().flat_map(ends).chain([0]).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let mut known: BTreeMap<Vec<usize>, u8> = BTreeMap::new();
        let mut letters = vec![Vec::new(); sets.len()];
        let mut intervals = Vec::new();
        for cut in cuts {
            let within: Vec<usize> = (0..sets.len()).filter(|set| has(&sets[*set], cut)).collect();
            let next = u8::try_from(known.len());
            let letter = match known.get(&within) {
                Some(letter) => *letter,
                None => {
                    let letter = next.ok()?;
                    within.iter().for_each(|set| letters[*set].push(letter));
                    known.insert(within, letter);
                    letter
                }
            };
            intervals.push((cut, letter));
        }
        let letters = sets.iter().cloned().zip(letters).collect();
        Some(Alphabet { intervals, letters })
    }

    fn text(&self, text: &str) -> Vec<u8> {
        let letter = |c: char| {
            let after = self
                .intervals
                .partition_point(|(start, _)| *start <= u32::from(c));
            self.intervals[after - 1].1
        };
        text.chars().map(letter).collect()
    }

    /// The expression in this alphabet.
    fn write(&self, hir: &Hir) -> Option<Hir> {
        Some(match hir.kind() {
            HirKind::Empty => Hir::empty(),
            HirKind::Look(look) => Hir::look(*look),
            HirKind::Literal(literal) => {
                let chars = std::str::from_utf8(&literal.0).ok()?.chars();
                let letters = chars.map(|c| self.letters.get(&vec![(c, c)])?.first().copied());
                Hir::literal(letters.collect::<Option<Vec<u8>>>()?)
            }
            HirKind::Class(class) => self.class(&ranges(class)?)?,
            HirKind::Repetition(repetition) => Hir::repetition(Repetition {
                sub: Box::new(self.write(&repetition.sub)?),
                ..*repetition
            }),
            HirKind::Capture(capture) => self.write(&capture.sub)?,
            HirKind::Concat(parts) => Hir::concat(self.all(parts)?),
            HirKind::Alternation(parts) => Hir::alternation(self.all(parts)?),
        })
    }

    fn all(&self, parts: &[Hir]) -> Option<Vec<Hir>> {
        parts.iter().map(|part| self.write(part)).collect()
    }

    fn class(&self, set: &Set) -> Option<Hir> {
        let letters = self.letters.get(set)?.iter();
        let bytes = letters.map(|letter| ClassBytesRange::new(*letter, *letter));
        Some(Hir::class(Class::Bytes(ClassBytes::new(bytes))))
    }
}

fn has(set: &Set, c: u32) -> bool {
    let after = set.partition_point(|(first, _)| u32::from(*first) <= c);
    after > 0 && c <= u32::from(set[after - 1].1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: usize = 1 << 20;

    fn compact(source: &str) -> Compact {
        Compact::new(source, 100, SIZE).expect(source)
    }

    #[test]
    fn what_is_many_times_over_is_small_here() {
        let long = "ä".repeat(253);
        for (source, text, want) in [
            (r"^\p{L}{1,253}$", long.as_str(), true),
            (r"^\p{L}{1,252}$", &long, false),
            (r"^[\p{L}\p{Z}\p{N}_.:/=+\-@]{0,256}$", "Größe 5/7@x", true),
            (r"^[\p{L}\p{Z}\p{N}_.:/=+\-@]{0,256}$", "no#", false),
            (r"^(?i)\p{Greek}{1,900}$", "αΒγ", true),
            (r"^(([^:/?#]{0,250})){4}$", "日本語", true),
            (r"^(ab|cd)?\P{L}*$", "cd12", true),
            ("", "", true),
        ] {
            assert_eq!(compact(source).is_match(text), want, "{source} {text}");
        }
        let many: String = ('\u{4e00}'..).step_by(2).take(300).collect();
        for source in [r"\bword\b", "(?m)^a$", &format!("[{many}]|{many}")] {
            assert!(Compact::new(source, 100, SIZE).is_none(), "{source}");
        }
        assert!(Compact::new(r"((\p{L}{900}){900}){2}", 100, SIZE).is_none());
        assert!(Compact::new(&"a".repeat(LONGEST + 1), 100, SIZE).is_none());
    }

    proptest! {
        /// As the `regex` crate does it, where that can.
        #[test]
        fn it_finds_what_others_find(
            source in r"[aé日\[\]^().|*+?pL\\{}1-3,-]{0,12}",
            text in "[aéÉ日L1x\n]{0,12}",
        ) {
            let (Ok(regex), Some(compact)) = (regex::Regex::new(&source), Compact::new(&source, 100, SIZE)) else {
                return Ok(());
            };
            prop_assert_eq!(compact.is_match(&text), regex.is_match(&text));
            let expected: Vec<Range<usize>> = regex.find_iter(&text).map(|found| found.range()).collect();
            prop_assert_eq!(compact.find_some(&text, usize::MAX), expected);
        }
    }
}
