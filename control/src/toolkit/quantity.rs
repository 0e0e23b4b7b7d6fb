//! Quantities of API objects as plain numbers, for adding up and comparing.
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::kinds::quantity::Quantity as Amount;

/// The quantity in thousandths, rounded up (a CPU's `m`); 0 for what is not a quantity, which the API refuses anyway.
pub fn milli(quantity: &Quantity) -> i64 {
    Amount::parse(&quantity.0).map_or(0, |amount| saturate(amount.milli_value()))
}

/// The quantity in whole units, rounded up.
pub fn units(quantity: &Quantity) -> i64 {
    Amount::parse(&quantity.0).map_or(0, |amount| saturate(amount.value()))
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}
