//! Failures of tokens, catalog files and gateways.

use devbox_provider::with_causes;

use super::{DevboxError, os_code, shown};

impl From<catalog_file::Error> for DevboxError {
    fn from(error: catalog_file::Error) -> Self {
        catalog(Some(&error), with_causes(&error))
    }
}

impl From<devbox_gateway::Error> for DevboxError {
    fn from(error: devbox_gateway::Error) -> Self {
        let reason = with_causes(&error);
        let os_code = os_code(&error);
        match error {
            devbox_gateway::Error::Token { source } => token(Some(&source), reason),
            devbox_gateway::Error::TokensFile { path, line, .. } => Self::Token {
                file: Some(shown(&path)),
                line: (line > 0).then_some(line),
                os_code,
                reason,
            },
            devbox_gateway::Error::Tls { .. } => Self::Tls { reason },
            devbox_gateway::Error::InsecureListen { address } => Self::InsecureListen {
                address: address.to_string(),
            },
            devbox_gateway::Error::Listen { address, .. }
            | devbox_gateway::Error::ListenQuic { address, .. } => Self::Listen {
                address: address.to_string(),
                os_code,
                reason,
            },
            devbox_gateway::Error::QuicWithoutTls { .. } => Self::Config {
                key: "quic".to_owned(),
                value: String::new(),
                reason,
            },
            _ => Self::Other { reason },
        }
    }
}

pub(super) fn token(cause: Option<&devbox_gateway_client::Error>, reason: String) -> DevboxError {
    let file = cause.and_then(|cause| match cause {
        devbox_gateway_client::Error::BadToken { path, .. } => path.as_deref(),
        devbox_gateway_client::Error::ReadToken { path, .. } => Some(path.as_path()),
        _ => None,
    });
    DevboxError::Token {
        file: file.map(shown),
        line: None,
        os_code: cause.and_then(|cause| os_code(cause)),
        reason,
    }
}

pub(super) fn catalog(cause: Option<&catalog_file::Error>, reason: String) -> DevboxError {
    let (file, line, column) = match cause {
        Some(catalog_file::Error::Catalog {
            path, line, column, ..
        }) => (Some(path), *line, *column),
        Some(
            catalog_file::Error::ReadCatalog { path, .. } | catalog_file::Error::CatalogTooLarge { path, .. },
        ) => (Some(path), 0, 0),
        _ => (None, 0, 0),
    };
    DevboxError::Catalog {
        file: file.map(|file| shown(file)),
        line: (line > 0).then_some(line),
        column: (line > 0).then_some(column),
        os_code: cause.and_then(|cause| os_code(cause)),
        reason,
    }
}
