//! Impersonation: a request that is made in another's name by one who may (`Impersonate-*` headers). Asked first is whether he may
//! do this as him (constrained impersonation, KEP-5284), then whether he may do anything; before that, whether he may by the right
//! by which he did so last. Owns the order of the questions.
mod attempt;
mod mode;
mod wanted;
mod ways;

use super::asked::Asked;
use super::status::{ApiError, Result};
use crate::auth::attributes::Attributes;
use crate::auth::{Authorizer, Identity};
use attempt::Attempt;
use http::request::Parts;
use mode::Mode;
use wanted::Wanted;
pub use ways::Ways;

/// Whom a request counts as, who is not who sent it.
pub struct Acting {
    pub who: Identity,
    /// By the right to some requests only.
    mode: Option<Mode>,
}

impl Acting {
    /// The verb of the right by which he does, where it is to some requests only (upstream's `ImpersonationConstraint`).
    pub fn constraint(&self) -> Option<&'static str> {
        self.mode.map(Mode::verb)
    }
}

/// As whom the request is to count, if as another.
///
/// # Errors
/// 400 where no user is named; 403 with the first refusal.
pub fn acting(
    (authorizer, ways): (&Authorizer, &Ways),
    who: &Identity,
    parts: &Parts,
) -> Result<Option<Acting>> {
    let wanted = Wanted::read(&parts.headers);
    if wanted.is_nothing() {
        return Ok(None);
    }
    let Some(user) = wanted.user.as_deref() else {
        let why = "requested groups, uid or extra without impersonating a user";
        return Err(ApiError::bad_request(why));
    };
    let asked = Asked::of(parts);
    let method = parts.method.as_str().to_ascii_lowercase();
    let attempt = Attempt {
        authorizer,
        who,
        user,
        wanted: &wanted,
        doing: match &asked {
            Some(asked) => Attributes::resource(asked.verb, asked.attributes()),
            None => Attributes::path(&method, parts.uri.path()),
        },
    };
    first_that_may(&attempt, ways).map(Some)
}

/// By the way that was right for him last, or else the first of all.
fn first_that_may(attempt: &Attempt<'_>, ways: &Ways) -> Result<Acting> {
    let last = ways.last(&attempt.who.user);
    let others = Mode::CONSTRAINED.into_iter().map(Some).chain([None]);
    let others = others.filter(|way| last != Some(*way));
    let mut refusal = None;
    for way in last.into_iter().chain(others) {
        if way.is_some_and(|mode| !mode.fits(attempt)) {
            continue;
        }
        let tried = match way {
            Some(mode) => attempt.constrained(mode),
            None => attempt.unconstrained(),
        };
        match tried {
            Ok(who) => {
                ways.worked(&attempt.who.user, way);
                return Ok(Acting { who, mode: way });
            }
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    Err(refusal.unwrap_or_else(|| ApiError::internal("no way to act as another was tried")))
}
