//! `TokenReview`: who a bearer token names.
use super::super::Call;
use super::super::status::{ApiError, Result};
use jiff::Timestamp;
use serde_json::{Value, json};

pub fn review(call: &Call, question: &Value) -> Result<Value> {
    let spec = &question["spec"];
    let token = spec["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(ApiError::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let audiences = spec["audiences"].as_array().into_iter().flatten();
    let audiences: Vec<String> = audiences.filter_map(|a| a.as_str().map(str::to_owned)).collect();
    Ok(
        match call.api.bearers.authenticate(token, &audiences, Timestamp::now()) {
            Ok(bearer) => {
                json!({"authenticated": true, "user": bearer.who.user_info(), "audiences": bearer.audiences})
            }
            Err(why) => json!({"user": {}, "error": why.to_string()}),
        },
    )
}
