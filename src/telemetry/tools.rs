//! Names of tools as labels. They come from callers, so there is room for so many of them and no more.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use prometheus::{IntCounterVec, Opts, Registry};

/// Most names of one upstream that become labels.
const MOST: usize = 200;
/// Longest name that becomes one.
const LONGEST: usize = 128;
/// The label of all others.
const OTHER: &str = "other";

/// What became of a call of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToolOutcome {
    /// The upstream got it, and answered.
    Allowed,
    /// Its caller lacks a scope.
    InsufficientScope,
    /// A rule forbids it.
    Denied,
    /// It was malformed, too large or too frequent.
    Rejected,
    /// The upstream failed.
    Failed,
}

/// The counter, and the names that are labels, by upstream.
#[derive(Debug)]
pub(super) struct Tools {
    calls: IntCounterVec,
    known: RwLock<HashMap<Box<str>, HashSet<Box<str>>>>,
}

impl ToolOutcome {
    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::InsufficientScope => "insufficient_scope",
            Self::Denied => "denied",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
        }
    }
}

impl Tools {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let calls = IntCounterVec::new(
            Opts::new(
                "tool_calls_total",
                "Calls of tools by name (the first 200 of an upstream, else other) and what became of them.",
            ),
            &["upstream", "tool", "outcome"],
        )?;
        registry.register(Box::new(calls.clone()))?;
        Ok(Self {
            calls,
            known: RwLock::default(),
        })
    }

    /// Counts a call.
    pub(super) fn count(&self, upstream: &str, tool: &str, outcome: ToolOutcome) {
        let label = self.label(upstream, tool);
        self.calls.with_label_values(&[upstream, label, outcome.as_str()]).inc();
    }

    /// The label of a tool.
    fn label<'t>(&self, upstream: &str, tool: &'t str) -> &'t str {
        if is_plain(tool) && (self.knows(upstream, tool) || self.learn(upstream, tool)) {
            tool
        } else {
            OTHER
        }
    }

    fn knows(&self, upstream: &str, tool: &str) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(upstream).is_some_and(|tools| tools.contains(tool))
    }

    fn learn(&self, upstream: &str, tool: &str) -> bool {
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if known.get(upstream).is_some_and(|tools| tools.len() >= MOST) {
                return false;
            }
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let tools = known.entry(upstream.into()).or_default();
        if tools.len() >= MOST && !tools.contains(tool) {
            return false;
        }
        tools.insert(tool.into());
        true
    }
}

/// Whether a name is made of what names of tools are made of (MCP 2025-11-25, server/tools).
fn is_plain(tool: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/' | b':');
    (1..=LONGEST).contains(&tool.len()) && tool.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_cannot_make_labels_without_end() {
        let tools = Tools::new(&Registry::new()).unwrap();
        for strange in ["", "a b", "a\nb", "é", "a\"", &"x".repeat(129)] {
            assert_eq!(tools.label("one", strange), "other", "{strange:?}");
        }
        for number in 0..MOST {
            let name = format!("tool-{number}");
            assert_eq!(tools.label("one", &name), name);
        }
        assert_eq!(tools.label("one", "one-more"), "other");
        assert_eq!(tools.label("one", "tool-7"), "tool-7");
        assert_eq!(tools.label("two", "one-more"), "one-more");
    }
}
