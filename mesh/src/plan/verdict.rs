//! The model's verdict.
use super::*;
impl Plan {
    /// What will be decided about a connection, by which policy and on which layer of either side.
    pub fn explain(&self, _source: &SourceRef, _dest: &DestRef, _port: u16, _proto: u8) -> Explained { todo!() }
    /// Only the decision.
    pub fn verdict(&self, source: &SourceRef, dest: &DestRef, port: u16, proto: u8) -> Decision {
        self.explain(source, dest, port, proto).decision
    }
}
