//! Certificates that the server makes anew each time it starts.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::Result;

/// Files of one folder.
pub(crate) struct Files<'a>(pub(crate) &'a Path);

impl Files<'_> {
    pub(crate) fn ca(&self) -> PathBuf {
        self.0.join("ca.pem")
    }

    pub(crate) fn server(&self) -> (PathBuf, PathBuf) {
        (self.0.join("server.pem"), self.0.join("server-key.pem"))
    }

    pub(crate) fn client(&self) -> (PathBuf, PathBuf) {
        (self.0.join("client.pem"), self.0.join("client-key.pem"))
    }

    /// Makes an authority whose key nobody keeps, a certificate for the server on this machine, and one for clients.
    pub(crate) fn make(&self) -> Result<()> {
        std::fs::create_dir_all(self.0)
            .map_err(|error| format!("cannot make {}: {error}", self.0.display()))?;
        let failed = |error: rcgen::Error| format!("cannot make certificates: {error}");
        let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().map_err(failed)?;
        let ca = params.self_signed(&ca_key).map_err(failed)?;
        let issuer = Issuer::new(params, ca_key);

        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        for (names, (certificate_file, key_file)) in
            [(names, self.server()), (vec!["client".to_owned()], self.client())]
        {
            let key = KeyPair::generate().map_err(failed)?;
            let certificate = CertificateParams::new(names)
                .and_then(|params| params.signed_by(&key, &issuer))
                .map_err(failed)?;
            write(&certificate_file, &certificate.pem())?;
            write(&key_file, &key.serialize_pem())?;
        }
        write(&self.ca(), &ca.pem())
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
