//! Rung 2: a gateway that is installed in the cluster, for everybody who may use it.
//!
//! * It serves the catalog that it watches with its own rights, and dials pods itself. Whom it serves what is the API server's decision:
//!   [`Reviews`] asks who a token's bearer is (TokenReview), and whether they themselves may list services and open port-forwards in a
//!   namespace (SubjectAccessReview). Only then is the namespace served to them.
//! * [`manifests`] has the objects of an installation.
//! * A client says which namespaces it wants ([`Scope`]), and is given an [`Inside`]: a provider for just those.

mod account;
mod direct;
mod inside;
mod installed;
mod lookout;
pub mod manifests;
pub(crate) mod own;
mod remembered;
mod review;
mod scope;
mod sessions;

pub(crate) use account::{Account, AccountTokens, key};
pub use direct::ExternalNames;
pub use inside::Inside;
pub(crate) use installed::{Client, HOME, In, is_installed};
pub(crate) use lookout::{Lookout, NotUsed};
pub use review::{Allowed, NotAllowed, NotAuthenticated, Reviews, User};
pub(crate) use review::{STATIC, TEAM, WANTED};
pub use scope::{BadScope, Scope};
pub use sessions::{NoReplicaPod, ReplicaPod, SessionClaim, SharedSessions};

/// The audience of tokens for a gateway, unless its installation names another. A token for it is of no use at the API server.
pub const AUDIENCE: &str = "devbox-gateway";
