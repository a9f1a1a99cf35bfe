//! Whom TLS trusts, and who one is: settings, read when a connection is made.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::Error;

/// What a client's TLS trusts and shows. The default trusts the system's authorities and shows no certificate.
///
/// All that is set must hold: with an authority and a pin, the certificate is of the authority **and** has the key.
///
/// ```
/// use tunnel_bridge::Trust;
///
/// # fn main() -> Result<(), tunnel_bridge::Error> {
/// let mut trust = Trust::default();
/// trust.extra_ca = Some("/etc/ssl/company.pem".into());
/// trust.pins.push("sha256/r/mIkG3eEpVdm+u/ko/cwxzOMo1bk4TyHIlByibiA5E=".parse()?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Trust {
    /// A PEM file of certificate authorities to trust in place of the system's.
    pub ca: Option<PathBuf>,
    /// A PEM file of certificate authorities to trust beside these.
    pub extra_ca: Option<PathBuf>,
    /// The keys that the server may have; empty allows any. Matched against the server's own certificate.
    pub pins: Vec<Pin>,
    /// What is shown to a server that asks for a certificate (mutual TLS).
    pub identity: Option<Identity>,
    /// Takes any certificate, so that anyone on the way can read and change what is carried. What [`pins`](Trust::pins)
    /// demand is still checked. Whoever sets it should warn the user at every start.
    pub danger_accept_any_certificate: bool,
}

impl Trust {
    /// What holds for a proxy on the way: the system's authorities and [`extra_ca`](Trust::extra_ca), which may be the proxy's own. What
    /// [`ca`](Trust::ca) limits trust to is the server's; pins and identity are for the server alone too, and so is the permission to take any
    /// certificate.
    #[cfg(feature = "tls")]
    pub(crate) fn for_a_proxy(&self) -> Trust {
        Trust {
            extra_ca: self.extra_ca.clone(),
            ..Trust::default()
        }
    }
}

/// A certificate and its private key, as PEM files. They are read at each connect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The certificate chain, one's own first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// A public key, by the SHA-256 of its SubjectPublicKeyInfo (RFC 7469 §2.4): `sha256/` and 44 characters of Base64.
///
/// It outlives the certificate as long as a renewed one keeps the key. `openssl x509 -in cert.pem -pubkey -noout | openssl
/// pkey -pubin -outform der | openssl dgst -sha256 -binary | base64` prints it. curl's form, `sha256//`, is taken too.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pin([u8; 32]);

impl Pin {
    /// A pin of a digest.
    #[must_use]
    pub const fn new(sha256: [u8; 32]) -> Pin {
        Pin(sha256)
    }

    /// The digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Pin {
    type Err = Error;

    fn from_str(text: &str) -> Result<Pin, Error> {
        let bad = || Error::BadPin {
            text: crate::http::line(text),
        };
        let encoded = text.strip_prefix("sha256/").ok_or_else(bad)?;
        // A digest may begin with a slash, which is then one of its 44 characters.
        let encoded = match encoded.strip_prefix('/') {
            Some(rest) if encoded.len() > 44 => rest,
            _ => encoded,
        };
        let bytes = STANDARD.decode(encoded).map_err(|_| bad())?;
        bytes.try_into().map(Pin).map_err(|_| bad())
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_read_as_it_is_shown_and_as_curl_writes_it() {
        // The first six bits make the first character a slash.
        for digest in [[7; 32], [0xff; 32]] {
            let pin = Pin::new(digest);
            assert_eq!(pin.to_string().parse::<Pin>().unwrap(), pin);
            let curl = pin.to_string().replacen("sha256/", "sha256//", 1);
            assert_eq!(curl.parse::<Pin>().unwrap(), pin, "{curl}");
        }
        for bad in [
            "",
            "sha1/AAAA",
            "sha256/",
            "sha256/AAAA",
            "sha256/!!!!",
            "sha256//AAAA",
        ] {
            let error = bad.parse::<Pin>().unwrap_err().to_string();
            assert!(error.contains("sha256/"), "{error}");
        }
    }
}
