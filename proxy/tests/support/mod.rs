pub mod corpus;
pub mod feeder;
#[allow(dead_code, reason = "the random mutations do not use it")]
pub mod smuggling;
pub mod strict;
