//! The scheduler: gives every Pod without a node the best node that can take it.
