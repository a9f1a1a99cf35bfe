use std::fmt;

use serde::{Deserialize, Serialize};

/// How a far side is reached at the moment, for people and for programs.
///
/// ```
/// use devbox_provider::Status;
/// let status = Status::new("kubernetes", "orders in minikube")
///     .via("port-forward", "it was asked for");
/// assert_eq!(
///     status.to_string(),
///     "orders in minikube via port-forward, because it was asked for"
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The kind of far side: `gateway`, `direct`, `kubernetes`.
    pub kind: String,
    /// Where it is, without secrets: a URL, a file, a context and namespace.
    pub far_side: String,
    /// The way in, where there is more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
    /// What the connection that is up runs over, where there are several possibilities: `WebSocket through
    /// http://proxy.example:3128`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<String>,
    /// What a connect that is under way waits for: `TCP connection to 10.1.2.3:443`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// What this way in does without, and what another one would give: a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

/// One of several ways into a far side, and why it was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Via {
    /// The way: `port-forward`, `gateway pod`.
    pub way: String,
    /// Why this one: one clause, to be read after "because".
    pub because: String,
}

impl Status {
    /// A far side with one way in.
    pub fn new(kind: impl Into<String>, far_side: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            far_side: far_side.into(),
            via: None,
            over: None,
            waits_for: None,
            remarks: Vec::new(),
        }
    }

    /// Says what a connect that is under way waits for.
    #[must_use]
    pub fn waiting_for(mut self, what: Option<impl ToString>) -> Self {
        self.waits_for = what.map(|what| what.to_string());
        self
    }

    /// Says what the connection that is up runs over.
    #[must_use]
    pub fn over(mut self, what: Option<impl ToString>) -> Self {
        self.over = what.map(|what| what.to_string());
        self
    }

    /// Names the way in and why it was taken.
    #[must_use]
    pub fn via(mut self, way: impl Into<String>, because: impl Into<String>) -> Self {
        self.via = Some(Via {
            way: way.into(),
            because: because.into(),
        });
        self
    }

    /// Adds what this way in does without, and what another one would give.
    #[must_use]
    pub fn remarks(mut self, remarks: impl IntoIterator<Item = String>) -> Self {
        self.remarks.extend(remarks);
        self
    }
}

/// Where it is, and the way there; without the remarks.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.far_side)?;
        if let Some(over) = &self.over {
            write!(f, " over {over}")?;
        }
        match &self.via {
            Some(Via { way, because }) => write!(f, " via {way}, because {because}"),
            None => Ok(()),
        }
    }
}
