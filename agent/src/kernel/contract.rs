//! Shapes shared with `mesh::tables`.
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub map: &'static str,
    pub keys: Vec<u8>,
    pub values: Vec<u8>,
    pub count: usize,
}
#[derive(Clone, Debug, Default)]
pub struct Deletes {
    pub map: &'static str,
    pub keys: Vec<u8>,
    pub count: usize,
}
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub fresh: Vec<Batch>,
    pub words: Vec<Batch>,
    pub stale: Vec<Deletes>,
    pub writes: usize,
}
pub type Dump = BTreeMap<&'static str, Vec<(Vec<u8>, Vec<u8>)>>;
