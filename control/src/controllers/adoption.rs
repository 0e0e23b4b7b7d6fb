//! Brings controller references in line with selectors: adopts orphans that match, releases children that no longer do.
//!
//! Shared by every controller that owns objects through labels; upstream's `ControllerRefManager`.
use std::sync::Arc;

use kube::ResourceExt;
use kube::core::Status;
use serde::Serialize;
use serde_json::json;

use crate::toolkit::owners::{Claim, claim, controller_reference};
use crate::toolkit::selectors::Labels;
use crate::toolkit::{Kind, Objects, StepError, Steps, patch};

/// An owner, and the APIs through which it and its children are reached.
pub struct Adopter<'a, O, C> {
    pub owner: &'a O,
    pub owners: Objects<O>,
    pub children: Objects<C>,
}

impl<O: Kind, C: Kind> Adopter<'_, O, C> {
    /// Those of `candidates` that belong to the owner once references are adjusted.
    pub async fn claim(&self, selector: &Labels, candidates: Vec<Arc<C>>) -> Result<Vec<Arc<C>>, StepError> {
        let mut claimed = Vec::new();
        for child in candidates {
            match claim(self.owner.meta(), child.meta(), selector.matches(child.meta())) {
                Claim::Keep => claimed.push(child),
                Claim::Adopt => claimed.extend(self.adopt(&child).await?),
                Claim::Release => self.release(&child).await?,
                Claim::Ignore => {}
            }
        }
        Ok(claimed)
    }

    /// Takes an orphan; `None` if it is gone meanwhile.
    ///
    /// An owner that turns out to be gone, replaced or dying is an error, as upstream's: whoever went on would miss the
    /// objects that were just taken from it, and make others in their place.
    async fn adopt(&self, child: &C) -> Result<Option<Arc<C>>, StepError> {
        self.must_live().await?;
        let mut owners = child.owner_references().to_vec();
        owners.push(controller_reference(self.owner));
        let adopted = self
            .write_owners(child, owners)
            .await
            .step_opt(|| format!("adopt {}", child.name_any()))?;
        Ok(adopted.map(Arc::new))
    }

    /// Refuses as a conflict does: the next try has a newer copy of the owner.
    async fn must_live(&self) -> Result<(), StepError> {
        let name = self.owner.name_any();
        let step = || format!("read {name} before it adopts");
        let live = self.owners.get_opt(&name).await.step(step)?;
        let ours = |live: &O| live.uid() == self.owner.uid() && live.meta().deletion_timestamp.is_none();
        if live.as_ref().is_some_and(ours) {
            return Ok(());
        }
        let gone = Status::failure("it has just been deleted", "Conflict").with_code(409);
        Err(StepError::new(step(), kube::Error::Api(Box::new(gone))))
    }

    async fn release(&self, child: &C) -> Result<(), StepError> {
        let mut owners = child.owner_references().to_vec();
        owners.retain(|owner| Some(&owner.uid) != self.owner.meta().uid.as_ref());
        self.write_owners(child, owners)
            .await
            .step_opt(|| format!("release {}", child.name_any()))
            .map(drop)
    }

    async fn write_owners(&self, child: &C, owners: impl Serialize) -> Result<C, kube::Error> {
        let body = patch::guarded(
            child.meta(),
            json!({"metadata": {"ownerReferences": json!(owners)}}),
        );
        self.children.merge(&child.name_any(), body).await
    }
}
