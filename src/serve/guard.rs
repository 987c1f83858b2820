//! Whom the endpoint answers. A server on loopback is within reach of every page that a browser shows: a page may post to it (its
//! `Origin` tells), or have its own name point to 127.0.0.1 and read the answers too (its `Host` tells).

use std::fmt;
use std::net::IpAddr;

use sha2::{Digest, Sha256};

/// Who may ask.
#[derive(Clone, Default)]
pub struct Guard {
    /// The digest of the key that requests have to carry.
    key: Option<[u8; 32]>,
    /// The name it was bound to.
    host: String,
    /// Pages that may ask, by their origins: `https://example.org`.
    origins: Vec<String>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("keyed", &self.key.is_some()).field("origins", &self.origins).finish()
    }
}

impl Guard {
    /// Requests have to carry `key`, where one is given; `host` is the name that the server was bound to.
    pub fn new(key: Option<&str>, host: &str, origins: Vec<String>) -> Guard {
        let origins = origins.into_iter().map(|origin| origin.trim_end_matches('/').to_ascii_lowercase()).collect();
        Guard { key: key.map(digest), host: host.to_ascii_lowercase(), origins }
    }

    /// Whether `Authorization` carries the key. The comparison takes as long wherever the two differ.
    pub(super) fn knows(&self, authorization: Option<&str>) -> bool {
        let Some(key) = &self.key else { return true };
        let given =
            authorization.and_then(|text| text.strip_prefix("Bearer ")).map(|text| digest(text.trim())).unwrap_or_default();
        given.iter().zip(key).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    }

    /// Whether a page is named among those that may ask.
    pub(super) fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| *allowed == origin.to_ascii_lowercase() || allowed == "*")
    }

    /// Why a request is refused; none where it is not.
    pub(super) fn refuses(&self, host: Option<&str>, origin: Option<&str>) -> Option<String> {
        if let Some(origin) = origin
            && !self.allows(origin)
            && !origin.split_once("://").is_some_and(|(_, rest)| is_local(name(rest)))
        {
            return Some(format!("requests of the page {origin:?} are not answered; --allow-origin names those that are"));
        }
        // Whoever has the key is no page that came by; an address cannot be made to point elsewhere.
        let host = name(host.unwrap_or_default());
        let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        if self.key.is_none() && !is_local(host) && !is_address && !host.is_empty() && host.to_ascii_lowercase() != self.host {
            return Some(format!("the name {host:?} is not this server's; --host, or a key, lets it be used"));
        }
        None
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// The name of `name:port`.
fn name(authority: &str) -> &str {
    match authority.rfind(']') {
        Some(end) => &authority[..=end],
        None => authority.split(':').next().unwrap_or_default(),
    }
}

/// Whether a host is this machine's loopback.
pub(super) fn is_local(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_names_from_elsewhere_are_refused() {
        let guard = Guard::new(None, "127.0.0.1", vec!["https://ide.example/".into()]);
        let refused = |host, origin| guard.refuses(Some(host), origin).is_some();
        for host in ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "192.168.1.7:8000"] {
            assert!(!refused(host, None), "{host}");
        }
        assert!(refused("evil.example:8000", None) && refused("localhost.evil.example", None));
        for origin in ["http://localhost:3000", "http://127.0.0.1", "http://[::1]:5173", "https://IDE.example"] {
            assert!(!refused("localhost", Some(origin)), "{origin}");
        }
        for origin in ["https://evil.example", "null", "http://localhost.evil.example", "http://127.0.0.1.evil.example"] {
            assert!(refused("localhost", Some(origin)), "{origin}");
        }
    }

    #[test]
    fn a_key_is_asked_for_and_never_shown() {
        let guard = Guard::new(Some("sk-secret"), "0.0.0.0", Vec::new());
        assert!(guard.knows(Some("Bearer sk-secret")));
        for given in [None, Some("sk-secret"), Some("Bearer sk-secre"), Some("Bearer "), Some("Basic sk-secret")] {
            assert!(!guard.knows(given), "{given:?}");
        }
        assert!(guard.refuses(Some("gpu.example:8000"), None).is_none());
        assert!(!format!("{guard:?}").contains("secret"));
        assert!(Guard::new(None, "127.0.0.1", Vec::new()).knows(None));
    }
}
