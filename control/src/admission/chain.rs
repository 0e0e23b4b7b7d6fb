//! The plugins in their order, each of them timed. Refuses to know what one of them asks for.

use super::measures::{Plugin, Run, Step};
use super::rounds::Rounds;
use super::{
    Admission, Claims, Denial, Notes, Review, ingress, limits, namespace, nodes, pod_security, pods,
    priority, quota, resize, runtime_class, storage, tolerations, topology,
};
use crate::store::Store;
use serde_json::Value;

impl Admission {
    /// Completes `object`, or refuses it early.
    pub async fn mutate(
        &self,
        review: &Review<'_>,
        object: &mut Value,
        notes: &mut Notes,
    ) -> Result<(), Denial> {
        let mut run = self.measures.begin(Step::Admit, review.action);
        let living = namespace::check(self.objects.as_ref(), review);
        let done = match run.part(Plugin::NamespaceLifecycle, living) {
            Ok(()) => self.change(review, object, notes, &mut run).await,
            denied => denied,
        };
        run.end(done)
    }

    /// Plugins, policies and webhooks, and all of them again where one of the latter two changed something.
    async fn change(
        &self,
        review: &Review<'_>,
        object: &mut Value,
        notes: &mut Notes,
        run: &mut Run<'_>,
    ) -> Result<(), Denial> {
        let mut rounds = Rounds::default();
        self.round(review, object, notes, (&mut rounds, run)).await?;
        if !rounds.wanted {
            return Ok(());
        }
        rounds.second = true;
        self.round(review, object, notes, (&mut rounds, run)).await
    }

    async fn round(
        &self,
        review: &Review<'_>,
        object: &mut Value,
        notes: &mut Notes,
        (rounds, run): (&mut Rounds, &mut Run<'_>),
    ) -> Result<(), Denial> {
        let objects = self.objects.as_ref();
        self.complete(review, object, run)?;
        if !review.asks() {
            let done = self.policies.mutate(objects, review, object, rounds).await;
            run.part(Plugin::MutatingAdmissionPolicy, done)?;
        }
        self.webhooks_mutate(review, object, notes, (rounds, run)).await
    }

    async fn webhooks_mutate(
        &self,
        review: &Review<'_>,
        object: &mut Value,
        notes: &mut Notes,
        (rounds, run): (&mut Rounds, &mut Run<'_>),
    ) -> Result<(), Denial> {
        let with = (self.objects.as_ref(), &self.measures.webhooks);
        let done = self.webhooks.mutate(with, review, object, notes, rounds).await;
        run.part(Plugin::MutatingAdmissionWebhook, done)
    }

    /// The plugins that fill in what a client left out. Idempotent.
    fn complete(&self, review: &Review<'_>, object: &mut Value, run: &mut Run<'_>) -> Result<(), Denial> {
        let objects = self.objects.as_ref();
        match review.resource() {
            ("", "pods", None) => return self.complete_pod(review, object, run),
            ("", "pods", Some("binding")) => {
                topology::binding(objects, review, object);
                run.did(Plugin::PodTopologyLabels);
            }
            ("", "persistentvolumeclaims", None) => {
                storage::class_of(objects, object);
                run.did(Plugin::DefaultStorageClass);
                storage::claim(review, object);
                run.did(Plugin::StorageObjectInUseProtection);
            }
            ("", "nodes", None) => {
                nodes::taint(review, object);
                run.did(Plugin::TaintNodesByCondition);
            }
            ("", "persistentvolumes", None) => {
                storage::volume(review, object);
                run.did(Plugin::StorageObjectInUseProtection);
            }
            ("storage.k8s.io", "volumeattributesclasses", None) => {
                storage::attributes_class(review, object);
                run.did(Plugin::StorageObjectInUseProtection);
            }
            ("networking.k8s.io", "ingresses", None) => {
                ingress::ingress(objects, review, object);
                run.did(Plugin::DefaultIngressClass);
            }
            _ => {}
        }
        Ok(())
    }

    fn complete_pod(&self, review: &Review<'_>, pod: &mut Value, run: &mut Run<'_>) -> Result<(), Denial> {
        let objects = self.objects.as_ref();
        limits::default(objects, review, pod);
        run.did(Plugin::LimitRanger);
        run.part(Plugin::ServiceAccount, pods::admit(objects, review, pod))?;
        tolerations::pod(review, pod);
        run.did(Plugin::DefaultTolerationSeconds);
        run.part(Plugin::Priority, priority::pod(objects, review, pod))?;
        run.part(Plugin::RuntimeClass, runtime_class::pod(objects, review, pod))?;
        topology::pod(objects, review, pod);
        run.did(Plugin::PodTopologyLabels);
        Ok(())
    }

    /// Judges the object as it would be stored. What it claims is added to `claims`, which must be kept until the
    /// transaction is over.
    pub async fn validate(
        &self,
        store: &dyn Store,
        review: &Review<'_>,
        object: &Value,
        claims: &mut Claims,
        notes: &mut Notes,
    ) -> Result<(), Denial> {
        let mut run = self.measures.begin(Step::Validate, review.action);
        let done = self.judge(store, review, object, (claims, notes), &mut run).await;
        run.end(done)
    }

    async fn judge(
        &self,
        store: &dyn Store,
        review: &Review<'_>,
        object: &Value,
        (claims, notes): (&mut Claims, &mut Notes),
        run: &mut Run<'_>,
    ) -> Result<(), Denial> {
        let objects = self.objects.as_ref();
        run.part(Plugin::LimitRanger, limits::check(objects, review, object))?;
        self.judge_kind(review, object, run)?;
        let secure = pod_security::check(objects, self.pod_security, review, object, notes);
        run.part(Plugin::PodSecurity, secure)?;
        if review.resource() == ("", "pods", None) {
            let fits = runtime_class::check(objects, review, object);
            run.part(Plugin::RuntimeClass, fits)?;
        }
        self.judge_by_rules(review, object, notes, run).await?;
        let charged = quota::charge(&self.turns, objects, store, review, object, claims).await;
        run.part(Plugin::ResourceQuota, charged)
    }

    /// What is asked of single resources.
    fn judge_kind(&self, review: &Review<'_>, object: &Value, run: &mut Run<'_>) -> Result<(), Denial> {
        let objects = self.objects.as_ref();
        match review.resource() {
            ("scheduling.k8s.io", "priorityclasses", None) => {
                run.part(Plugin::Priority, priority::class(objects, review, object))
            }
            ("", "persistentvolumeclaims", None) => {
                let fits = storage::resize(objects, review, object);
                run.part(Plugin::PersistentVolumeClaimResize, fits)
            }
            ("", "pods", Some("ephemeralcontainers")) => {
                run.part(Plugin::ServiceAccount, pods::ephemeral(objects, review, object))
            }
            ("", "pods", Some("resize")) => {
                run.part(Plugin::PodResizeValidator, resize::check(objects, review, object))
            }
            _ => Ok(()),
        }
    }

    /// Policies and webhooks that change nothing.
    async fn judge_by_rules(
        &self,
        review: &Review<'_>,
        object: &Value,
        notes: &mut Notes,
        run: &mut Run<'_>,
    ) -> Result<(), Denial> {
        let objects = self.objects.as_ref();
        if !review.asks() {
            let held = self
                .policies
                .check((objects, &self.measures.checks), review, object, notes)
                .await;
            run.part(Plugin::ValidatingAdmissionPolicy, held)?;
        }
        let with = (objects, &self.measures.webhooks);
        let allowed = self.webhooks.validate(with, review, object, notes).await;
        run.part(Plugin::ValidatingAdmissionWebhook, allowed)
    }

    /// Judges a deletion.
    pub async fn delete(&self, review: &Review<'_>, notes: &mut Notes) -> Result<(), Denial> {
        let mut run = self.measures.begin(Step::Admit, review.action);
        let living = namespace::check(self.objects.as_ref(), review);
        let done = match run.part(Plugin::NamespaceLifecycle, living) {
            // Nothing can be changed of what is nothing, so that there is no second round.
            Ok(()) => {
                let (mut nothing, mut rounds) = (Value::Null, Rounds::default());
                let with = (&mut rounds, &mut run);
                self.webhooks_mutate(review, &mut nothing, notes, with).await
            }
            denied => denied,
        };
        run.end(done)?;
        let mut run = self.measures.begin(Step::Validate, review.action);
        let done = self.judge_by_rules(review, &Value::Null, notes, &mut run).await;
        run.end(done)
    }

    /// Completes and judges what a connection is asked for.
    pub async fn connect(
        &self,
        review: &Review<'_>,
        options: &mut Value,
        notes: &mut Notes,
    ) -> Result<(), Denial> {
        let mut run = self.measures.begin(Step::Admit, review.action);
        let done = self.change(review, options, notes, &mut run).await;
        run.end(done)?;
        let mut run = self.measures.begin(Step::Validate, review.action);
        let done = self.judge_by_rules(review, options, notes, &mut run).await;
        run.end(done)
    }
}
