//! [`Codec`]: what sealing and opening need that depends on no key, made once per policy.

use std::fmt;
use std::sync::Arc;

use atoll_erasure::Code;

use crate::key::{ObjectKey, RunSalt};
use crate::open::Opener;
use crate::policy::Policy;
use crate::pool::BufferPool;
use crate::seal::Sealer;

/// The erasure code of a policy, with its decode matrices, and a pool of buffers. Cheap to clone; keep one per policy and make all
/// sealers and openers from it, so that many small objects share what is costly to make.
#[derive(Clone)]
pub struct Codec {
    pub(crate) code: Arc<Code>,
    pub(crate) pool: BufferPool,
    policy: Policy,
}

impl Codec {
    /// A codec with a pool of its own.
    pub fn new(policy: Policy) -> Self {
        Self::with_pool(policy, BufferPool::default())
    }

    /// A codec that shares a pool with others.
    pub fn with_pool(policy: Policy, pool: BufferPool) -> Self {
        let code = Code::new(policy.data(), policy.parity()).expect("every policy is within what the code can do");
        Self { code: Arc::new(code), pool, policy }
    }

    /// Its policy.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Starts a sealing run of an object, with a fresh salt.
    ///
    /// # Panics
    /// If the operating system gives no randomness.
    pub fn sealer(&self, key: &ObjectKey) -> Sealer {
        Sealer::with_codec(key, self.clone())
    }

    /// Opens what one run of an object sealed.
    pub fn opener(&self, key: &ObjectKey, salt: RunSalt) -> Opener {
        Opener::with_codec(key, salt, self.clone())
    }
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Codec").field("policy", &self.policy).field("pool", &self.pool).finish_non_exhaustive()
    }
}
