//! From objects to a plan.
