//! Why was this call refused? The last requests that the gateway did not let through.

use serde_json::{Value, json};

use super::listing::{Page, Wanted, time};
use super::trouble::Trouble;
use crate::oauth::Endpoints;
use crate::telemetry::decisions::Refused;

/// What can be asked for exactly.
pub(super) const FILTERS: &[&str] = &["request_id", "subject", "client", "upstream"];

/// The last ones first.
pub(super) fn list(at: &Endpoints, wanted: &Wanted) -> Result<Page, Trouble> {
    let number = |text: &str| text.parse::<u64>().ok();
    let after = match &wanted.after {
        None => None,
        Some(text) => Some(number(text).ok_or_else(|| Trouble::malformed("after is no number of a decision"))?),
    };
    let fits = |refused: &Refused| wanted.fits(&entry(refused));
    let found = at.metrics.refusals().list(after, wanted.limit + 1, fits);
    let has_more = found.len() > wanted.limit;
    let shown: Vec<&Refused> = found.iter().take(wanted.limit).collect();
    Ok(Page {
        next: shown.last().filter(|_| has_more).map(|last| last.number.to_string()),
        entries: shown.into_iter().map(entry).collect(),
    })
}

fn entry(refused: &Refused) -> Value {
    json!({
        "number": refused.number,
        "at": refused.at.map(time),
        "request_id": refused.request_id,
        "address": refused.address,
        "upstream": refused.upstream,
        "method": refused.method,
        "rpc_method": refused.rpc_method,
        "tool": refused.tool,
        "subject": refused.subject,
        "client": refused.client,
        "status": refused.status,
        "decision": refused.decision,
        "reason": refused.reason,
    })
}
