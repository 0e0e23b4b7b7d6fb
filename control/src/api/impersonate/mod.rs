//! Impersonation: a request that is made in another's name by one who may (`Impersonate-*` headers). Asked first is whether he may
//! do this as him (constrained impersonation, KEP-5284), then whether he may do anything. Owns the order of the questions.
mod attempt;
mod mode;
mod wanted;

use super::asked::Asked;
use super::status::{ApiError, Result};
use crate::auth::attributes::Attributes;
use crate::auth::{Authorizer, Identity};
use attempt::Attempt;
use http::request::Parts;
use mode::Mode;
use wanted::Wanted;

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
pub fn acting(authorizer: &Authorizer, who: &Identity, parts: &Parts) -> Result<Option<Acting>> {
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
    first_that_may(&attempt).map(Some)
}

fn first_that_may(attempt: &Attempt<'_>) -> Result<Acting> {
    let mut refusal = None;
    for mode in Mode::CONSTRAINED.into_iter().filter(|mode| mode.fits(attempt)) {
        match attempt.constrained(mode) {
            Ok(who) => {
                let mode = Some(mode);
                return Ok(Acting { who, mode });
            }
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    match attempt.unconstrained() {
        Ok(who) => Ok(Acting { who, mode: None }),
        Err(last) => Err(refusal.unwrap_or(last)),
    }
}
