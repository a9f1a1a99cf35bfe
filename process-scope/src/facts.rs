//! Which setting explains a refusal, given what the system tells about itself.

use crate::Restriction;

/// What the system tells about itself; `None` where it has no such setting.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Facts {
    pub(crate) apparmor_restricts: Option<u64>,
    pub(crate) unprivileged_clone: Option<u64>,
    pub(crate) max_user_namespaces: Option<u64>,
    /// 0 none, 1 strict, 2 a filter (proc(5), `Seccomp`).
    pub(crate) seccomp: Option<u64>,
}

/// What a refusal was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not allowed: `EPERM` or `EACCES`.
    Forbidden,
    /// A limit is reached: `ENOSPC` or `EUSERS` (unshare(2)).
    Exhausted,
    /// The call or its flag does not exist: `ENOSYS` or `EINVAL`.
    Missing,
}

/// The setting that explains `refusal`; the most specific fact decides.
pub(crate) fn restriction(refusal: Refusal, facts: &Facts) -> Restriction {
    let filtered = facts.seccomp == Some(2);
    match refusal {
        Refusal::Exhausted => match facts.max_user_namespaces {
            Some(limit) => Restriction::MaxUserNamespaces(limit),
            None => Restriction::Unknown,
        },
        Refusal::Forbidden if facts.unprivileged_clone == Some(0) => Restriction::UnprivilegedClone,
        Refusal::Forbidden if facts.apparmor_restricts.is_some_and(|value| value != 0) => {
            Restriction::AppArmor
        }
        Refusal::Forbidden | Refusal::Missing if filtered => Restriction::Seccomp,
        Refusal::Missing if facts.max_user_namespaces.is_none() => Restriction::Kernel,
        Refusal::Forbidden | Refusal::Missing => Restriction::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_told_from_its_facts() {
        let open = Facts {
            max_user_namespaces: Some(9000),
            seccomp: Some(0),
            ..Facts::default()
        };
        let cases = [
            (
                Refusal::Forbidden,
                Facts {
                    apparmor_restricts: Some(1),
                    ..open
                },
                Restriction::AppArmor,
            ),
            (
                Refusal::Forbidden,
                Facts {
                    apparmor_restricts: Some(0),
                    ..open
                },
                Restriction::Unknown,
            ),
            (
                Refusal::Forbidden,
                Facts {
                    unprivileged_clone: Some(0),
                    ..open
                },
                Restriction::UnprivilegedClone,
            ),
            (
                Refusal::Exhausted,
                Facts {
                    max_user_namespaces: Some(0),
                    ..open
                },
                Restriction::MaxUserNamespaces(0),
            ),
            (Refusal::Exhausted, open, Restriction::MaxUserNamespaces(9000)),
            (
                Refusal::Forbidden,
                Facts {
                    seccomp: Some(2),
                    ..open
                },
                Restriction::Seccomp,
            ),
            (
                Refusal::Missing,
                Facts {
                    seccomp: Some(2),
                    ..open
                },
                Restriction::Seccomp,
            ),
            (Refusal::Missing, Facts::default(), Restriction::Kernel),
            (Refusal::Forbidden, open, Restriction::Unknown),
        ];
        for (refusal, facts, expected) in cases {
            assert_eq!(restriction(refusal, &facts), expected, "{refusal:?} {facts:?}");
        }
    }
}
