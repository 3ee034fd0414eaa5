//! A tenant's snapshot, from the vendor's message to the answer.

use std::{os::fd::OwnedFd, sync::Arc};

use underpass_api::vend::ToVendor;

use super::{Main, Note, all_done};
use crate::{
    crew::Order,
    draft::{Draft, Rejected},
};

/// What came of a file.
pub(super) struct Read {
    tenant: String,
    version: u64,
    draft: Result<Draft, Rejected>,
}

impl Main {
    pub(super) fn snapshot(
        &mut self,
        tenant: String,
        version: u64,
        file: OwnedFd,
        report: OwnedFd,
    ) {
        // Also of a snapshot that will be rejected: what is counted is the same.
        let shared = tenant != self.tenant;
        self.reports.to(tenant.clone(), shared, report.into());
        if self.versions.get(&tenant) == Some(&version) {
            // Another agent tells the same.
            self.words.push_back(ToVendor::Applied { tenant, version });
            return;
        }
        let notes = self.notes.clone();
        let name = tenant.clone();
        tokio::task::spawn_local(async move {
            let read = tokio::task::spawn_blocking(move || Draft::load(file)).await;
            let draft = read.unwrap_or_else(|_| Err(Rejected::no_thread()));
            let tenant = name;
            let _ = notes.send(Note::Read(Read {
                tenant,
                version,
                draft,
            }));
        });
    }

    pub(super) fn was_read(&mut self, read: Read) {
        let Read {
            tenant,
            version,
            draft,
        } = read;
        let have = self.versions.get(&tenant).copied().unwrap_or(0);
        let fits = draft.and_then(|draft| draft.is_for(&tenant, version, have));
        match fits {
            Ok(draft) => self.apply(tenant, version, draft),
            Err(Rejected { code, why }) => {
                eprintln!("underpass-proxy: snapshot {version} of {tenant}: {why}");
                self.words.push_back(ToVendor::Rejected {
                    tenant,
                    version,
                    code,
                });
            }
        }
    }

    fn apply(&mut self, tenant: String, version: u64, draft: Draft) {
        self.versions.insert(tenant.clone(), version);
        let (notes, crew, draft) = (self.notes.clone(), self.crew.clone(), Arc::new(draft));
        tokio::task::spawn_local(async move {
            all_done(|done| {
                let order = || Order::Draft(draft.clone(), done.clone());
                crew.borrow().tell_all(order);
            })
            .await;
            let _ = notes.send(Note::Applied { tenant, version });
        });
    }
}
