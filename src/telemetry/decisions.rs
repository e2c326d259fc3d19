//! The requests that were refused last, and why: kept in memory for whoever administers the gateway, and nowhere else.
//!
//! Nothing is noted of a request that passes. Callers who are known and strangers are kept apart, so that a flood of
//! requests without a token pushes out nothing but itself.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::domain::clock::Timestamp;

/// Most refusals that are kept of callers who are known, and as many of strangers.
pub const MAX_KEPT: usize = 1_000;
/// Most characters of a text that is kept.
const MAX_TEXT: usize = 512;

/// A request that was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Its place among all: the later, the larger.
    pub number: u64,
    /// When, in milliseconds since the epoch.
    pub at: Option<Timestamp>,
    /// What `X-Request-Id` says, in the answer and in the log.
    pub request_id: String,
    /// Where it came from.
    pub address: Option<String>,
    /// The upstream that it was for.
    pub upstream: String,
    /// Its HTTP method.
    pub method: String,
    /// Its JSON-RPC method, where that is known and one of MCP's.
    pub rpc_method: Option<&'static str>,
    /// The tool that it would have called, where that is known.
    pub tool: Option<String>,
    /// The person that the token speaks for, where it is one of ours.
    pub subject: Option<String>,
    /// The client that has it.
    pub client: Option<String>,
    /// The answer's status.
    pub status: u16,
    /// One of a closed set of words.
    pub decision: &'static str,
    /// Why, in words.
    pub reason: String,
}

/// The last refusals.
#[derive(Debug, Default)]
pub struct Decisions(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    next: u64,
    known: VecDeque<Refused>,
    strangers: VecDeque<Refused>,
}

// === impl Metrics ===

impl super::Metrics {
    /// The requests that were refused last.
    #[must_use]
    pub const fn refusals(&self) -> &Decisions {
        &self.refusals
    }
}

// === impl Decisions ===

impl Decisions {
    /// Notes a refusal; the oldest of its sort makes room.
    pub fn note(&self, mut refused: Refused) {
        for text in [&mut refused.request_id, &mut refused.reason] {
            shorten(text);
        }
        let texts = [&mut refused.tool, &mut refused.subject, &mut refused.client];
        texts.into_iter().flatten().for_each(shorten);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.next += 1;
        refused.number = kept.next;
        let sort = if refused.subject.is_some() {
            &mut kept.known
        } else {
            &mut kept.strangers
        };
        if sort.len() >= MAX_KEPT {
            sort.pop_front();
        }
        sort.push_back(refused);
    }

    /// The last refusals that fit, the latest first, from before the number given; at most `limit`.
    #[must_use]
    pub fn list(&self, before: Option<u64>, limit: usize, fits: impl Fn(&Refused) -> bool) -> Vec<Refused> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<&Refused> = kept
            .known
            .iter()
            .chain(&kept.strangers)
            .filter(|refused| before.is_none_or(|before| refused.number < before) && fits(refused))
            .collect();
        found.sort_by_key(|refused| std::cmp::Reverse(refused.number));
        found.into_iter().take(limit).cloned().collect()
    }
}

fn shorten(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(subject: Option<&str>, request_id: &str) -> Refused {
        Refused {
            subject: subject.map(str::to_owned),
            request_id: request_id.to_owned(),
            ..Refused::default()
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_strangers_push_out_only_strangers() {
        let decisions = Decisions::default();
        decisions.note(refused(Some("ada"), "first"));
        for number in 0..3 * MAX_KEPT {
            decisions.note(refused(None, &number.to_string()));
        }
        let all = decisions.list(None, usize::MAX, |_| true);
        assert_eq!(all.len(), MAX_KEPT + 1);
        assert_eq!(all[0].request_id, (3 * MAX_KEPT - 1).to_string());
        assert_eq!(all.last().map(|one| one.request_id.as_str()), Some("first"));
        let next = decisions.list(Some(all[9].number), 5, |_| true);
        assert_eq!(next.first(), all.get(10));
        assert_eq!(next.len(), 5);
        assert_eq!(decisions.list(None, 5, |one| one.subject.is_some()).len(), 1);
    }

    #[test]
    fn a_text_from_outside_is_kept_only_so_long() {
        let decisions = Decisions::default();
        decisions.note(Refused {
            tool: Some("ä".repeat(100_000)),
            ..Refused::default()
        });
        let all = decisions.list(None, 1, |_| true);
        assert_eq!(all[0].tool.as_ref().map(|tool| tool.chars().count()), Some(MAX_TEXT));
    }
}
