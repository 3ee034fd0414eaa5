pub mod corpus;
pub mod feeder;
pub mod strict;
