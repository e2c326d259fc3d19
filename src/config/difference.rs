//! What of a newer configuration can be put in force while the gateway runs.

use super::{Config, Listener};

impl Config {
    /// The newer configuration, with this one's value wherever that stands until a restart; and a sentence on each of those.
    #[must_use]
    pub fn followed_by(&self, newer: Self) -> (Self, Vec<String>) {
        let mut kept = Vec::new();
        let mut listen = newer.listen.clone();
        let mut matched: Vec<Listener> = Vec::new();
        for own in &self.listen {
            let place = listen.iter().position(|other| other.address == own.address);
            if place.is_none() {
                kept.push(format!("listen: {} is listened on until a restart", own.address));
            }
            matched.push(place.map_or_else(|| own.clone(), |place| listen.remove(place)));
        }
        for other in listen {
            kept.push(format!("listen: {} is listened on after a restart", other.address));
        }
        if newer.admin != self.admin {
            kept.push(format!("admin.listen: {} stays until a restart", self.admin));
        }
        if newer.store != self.store {
            kept.push("store: the old one stays until a restart".to_owned());
        }
        if newer.audit != self.audit {
            kept.push("audit: the old one stays until a restart".to_owned());
        }
        let next = Self {
            listen: matched,
            admin: self.admin,
            store: self.store.clone(),
            audit: self.audit.clone(),
            ..newer
        };
        (next, kept)
    }
}
