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

/// Who the request counts as coming from.
///
/// # Errors
/// 400 where no user is named; 403 with the first refusal.
pub fn acting(authorizer: &Authorizer, who: Identity, parts: &Parts) -> Result<Identity> {
    let wanted = Wanted::read(&parts.headers);
    if wanted.is_nothing() {
        return Ok(who);
    }
    let Some(user) = wanted.user.as_deref() else {
        let why = "requested groups, uid or extra without impersonating a user";
        return Err(ApiError::bad_request(why));
    };
    let asked = Asked::of(parts);
    let method = parts.method.as_str().to_ascii_lowercase();
    let attempt = Attempt {
        authorizer,
        who: &who,
        user,
        wanted: &wanted,
        doing: match &asked {
            Some(asked) => Attributes::resource(asked.verb, asked.attributes()),
            None => Attributes::path(&method, parts.uri.path()),
        },
    };
    let mut refusal = None;
    for mode in Mode::CONSTRAINED.into_iter().filter(|mode| mode.fits(&attempt)) {
        match attempt.constrained(mode) {
            Ok(identity) => return Ok(identity),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    attempt.unconstrained().map_err(|last| refusal.unwrap_or(last))
}
