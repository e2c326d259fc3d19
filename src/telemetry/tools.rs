//! Names of tools as labels. They come from callers, so there is room for so many of them and no more.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

/// Most names of one upstream that become labels.
const MOST: usize = 200;
/// Longest name that becomes one.
const LONGEST: usize = 128;
/// The label of all others.
const OTHER: &str = "other";

/// The names that are labels, by upstream.
#[derive(Debug, Default)]
pub(super) struct Tools(RwLock<HashMap<Box<str>, HashSet<Box<str>>>>);

impl Tools {
    /// Gives the label of a tool.
    pub(super) fn with_label(&self, upstream: &str, tool: &str, count: impl FnOnce(&str)) {
        let label = if is_plain(tool) && (self.knows(upstream, tool) || self.learn(upstream, tool)) {
            tool
        } else {
            OTHER
        };
        count(label);
    }

    fn knows(&self, upstream: &str, tool: &str) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(upstream).is_some_and(|tools| tools.contains(tool))
    }

    fn learn(&self, upstream: &str, tool: &str) -> bool {
        {
            let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
            if known.get(upstream).is_some_and(|tools| tools.len() >= MOST) {
                return false;
            }
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
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

    fn label(tools: &Tools, upstream: &str, tool: &str) -> String {
        let mut found = String::new();
        tools.with_label(upstream, tool, |label| label.clone_into(&mut found));
        found
    }

    #[test]
    fn callers_cannot_make_labels_without_end() {
        let tools = Tools::default();
        for strange in ["", "a b", "a\nb", "é", "a\"", &"x".repeat(129)] {
            assert_eq!(label(&tools, "one", strange), "other", "{strange:?}");
        }
        for number in 0..MOST {
            let name = format!("tool-{number}");
            assert_eq!(label(&tools, "one", &name), name);
        }
        assert_eq!(label(&tools, "one", "one-more"), "other");
        assert_eq!(label(&tools, "one", "tool-7"), "tool-7");
        assert_eq!(label(&tools, "two", "one-more"), "one-more");
    }
}
