//! Which volumes of a Pod could not be made, and how that is told: each in an event of its own, and claims that lead to no volume in
//! one together, in upstream's words. Owns the words and how often they are said; refuses to know how volumes are made.

use std::fmt;

use jiff::SignedDuration;

use super::backoff;
use super::mounting::MountingError;
use crate::env::ObjectsError;
use crate::volumes::VolumeError;
use crate::volumes::tokens::TokenError;

/// What has been told is told again with each of the first failures, then with every twelfth: about every two minutes, which is
/// upstream's longest pause.
const TOLD_EACH: u32 = 6;
const TOLD_AGAIN_EVERY: u32 = 12;

/// Why a volume is not there.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Mounting(#[from] MountingError),
}

/// A volume that is not there.
#[derive(Debug)]
pub struct Missing {
    pub name: String,
    pub cause: Cause,
}

/// An event: its reason and its words.
pub type Told = (&'static str, String);

impl Missing {
    /// A claim is bound by others, often while its Pod is on its way here.
    fn is_of_a_claim(&self) -> bool {
        matches!(self.cause, Cause::Mounting(MountingError::Claim(_)))
    }

    fn is_unattached(&self) -> bool {
        matches!(&self.cause, Cause::Mounting(error) if error.is_of_an_attachment())
    }

    pub fn told(&self) -> Told {
        let (step, reason) = match &self.cause {
            Cause::Mounting(error) => error.words(),
            Cause::Volume(_) | Cause::Objects(_) | Cause::Token(_) => ("MountVolume.SetUp", "FailedMount"),
        };
        let Missing { name, cause } = self;
        (reason, format!("{step} failed for volume {name:?} : {cause}"))
    }
}

/// The volumes of a Pod that are not there, at least one.
#[derive(Debug)]
pub struct Unmounted(Vec<Missing>);

impl Unmounted {
    /// An error where there is one.
    pub fn of(missing: Vec<Missing>) -> Result<(), Self> {
        match missing.is_empty() {
            true => Ok(()),
            false => Err(Self(missing)),
        }
    }

    fn told(&self, with_claims: bool) -> Vec<Told> {
        let others = self.0.iter().filter(|missing| !missing.is_of_a_claim());
        let mut told: Vec<Told> = others.map(Missing::told).collect();
        if with_claims && self.0.iter().any(Missing::is_of_a_claim) {
            told.push(("FailedMount", self.summary(Missing::is_of_a_claim)));
        }
        told
    }

    /// All names, and the causes of some.
    fn summary(&self, of: impl Fn(&Missing) -> bool) -> String {
        let causes = self.0.iter().filter(|missing| of(missing));
        let causes: Vec<String> = causes.map(|missing| missing.cause.to_string()).collect();
        format!(
            "Unable to attach or mount volumes: unmounted volumes=[{}], unattached volumes=[{}], failed to process volumes=[{}]: {}",
            self.names(|_| true),
            self.names(Missing::is_unattached),
            self.names(Missing::is_of_a_claim),
            causes.join("; ")
        )
    }

    fn names(&self, of: impl Fn(&Missing) -> bool) -> String {
        let names = self.0.iter().filter(|missing| of(missing));
        let mut names: Vec<&str> = names.map(|missing| missing.name.as_str()).collect();
        names.sort_unstable();
        names.join(" ")
    }
}

impl fmt::Display for Unmounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary(|_| true))
    }
}

impl std::error::Error for Unmounted {}

/// Failures in a row to make a Pod's volumes.
#[derive(Debug, Default)]
pub struct Failures {
    count: u32,
    told: Vec<Told>,
}

impl Failures {
    /// Takes in one more; says when to try again, and what to tell of it now. A claim that was just not bound yet is no news
    /// (upstream looks ten times a second, and tells after minutes).
    pub fn take_in(&mut self, unmounted: &Unmounted) -> (SignedDuration, Vec<Told>) {
        let pause = backoff::of_volumes(self.count);
        let all = unmounted.told(self.count > 0);
        let is_due = self.count < TOLD_EACH || self.count.is_multiple_of(TOLD_AGAIN_EVERY);
        let news = all.iter().filter(|told| is_due || !self.told.contains(told));
        let news = news.cloned().collect();
        self.told = all;
        self.count = self.count.saturating_add(1);
        (pause, news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::CsiError;
    use crate::csi::attachment::AttachError;
    use crate::volumes::claims::ClaimError;
    use crate::volumes::payload::PayloadError;

    fn missing(name: &str, cause: impl Into<Cause>) -> Missing {
        Missing {
            name: name.to_owned(),
            cause: cause.into(),
        }
    }

    fn secret(name: &str) -> Missing {
        let cause = PayloadError::NoSecret(format!("of-{name}"));
        missing(name, VolumeError::from(cause))
    }

    fn unbound(name: &str) -> Missing {
        let claim = ClaimError::Claim {
            namespace: "n".into(),
            name: format!("of-{name}"),
            why: "PVC is not bound".into(),
        };
        missing(name, MountingError::from(claim))
    }

    fn take_in(failures: &mut Failures, all: Vec<Missing>) -> Vec<Told> {
        failures.take_in(&Unmounted::of(all).unwrap_err()).1
    }

    #[test]
    fn every_volume_that_fails_is_told() {
        assert!(Unmounted::of(Vec::new()).is_ok());
        let driver = missing("d", MountingError::from(CsiError::NoDriver("x".into())));
        let away = || MountingError::from(AttachError::NotInStatus);
        let block = missing("c", MountingError::Device(Box::new(away())));
        let all = vec![
            secret("s"),
            driver,
            unbound("z"),
            missing("b", away()),
            block,
            unbound("a"),
        ];
        let mut failures = Failures {
            count: 1,
            ..Failures::default()
        };
        let told = take_in(&mut failures, all);
        let told: Vec<_> = told
            .iter()
            .map(|(reason, words)| (*reason, words.as_str()))
            .collect();
        let mount = "FailedMount";
        assert_eq!(
            told,
            [
                (
                    mount,
                    "MountVolume.SetUp failed for volume \"s\" : secret \"of-s\" not found"
                ),
                (
                    mount,
                    "MountVolume.SetUp failed for volume \"d\" : driver name x not found in the list of registered CSI drivers"
                ),
                (
                    mount,
                    "MountVolume.WaitForAttach failed for volume \"b\" : Volume not attached according to node status"
                ),
                (
                    "FailedMapVolume",
                    "MapVolume.WaitForAttach failed for volume \"c\" : Volume not attached according to node status"
                ),
                (
                    mount,
                    "Unable to attach or mount volumes: unmounted volumes=[a b c d s z], unattached volumes=[b c], failed to process \
                     volumes=[a z]: error processing PVC n/of-z: PVC is not bound; error processing PVC n/of-a: PVC is not bound"
                ),
            ]
        );
    }

    #[test]
    fn what_was_told_is_told_less_and_less() {
        let mut failures = Failures::default();
        let mut told = Vec::new();
        for failure in 0..40 {
            let mut all = vec![secret("s"), unbound("c")];
            if failure >= 20 {
                all.push(secret("t"));
            }
            let news = take_in(&mut failures, all).len();
            told.extend((news > 0).then_some((failure, news)));
        }
        // Of the claim only when it has lasted; of another secret at once, which is among the unmounted beside the claim, too.
        let first = [(0, 1), (1, 2), (2, 2), (3, 2), (4, 2), (5, 2)];
        let later = [(12, 2), (20, 2), (24, 3), (36, 3)];
        assert_eq!(told, [first.as_slice(), later.as_slice()].concat());
    }

    #[test]
    fn it_is_tried_again_later_and_later() {
        let mut failures = Failures::default();
        let mut pause = || failures.take_in(&Unmounted(vec![secret("s")])).0.as_millis();
        let pauses: Vec<_> = (0..7).map(|_| pause()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    }
}
