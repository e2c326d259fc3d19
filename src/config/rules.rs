//! `upstreams[].tools`, `resources`, `prompts`, `methods`: what their use needs.

use percent_encoding::percent_decode_str;
use url::Url;

use super::keys;
use super::read::{At, Object};
use super::values::shown;
use crate::domain::rules::{Demand, Pattern, Rule, Rules};
use crate::domain::scope::Scope;

/// Most rules in one list.
const MAX_RULES: usize = 200;
/// Longest pattern, in characters.
const MAX_PATTERN: usize = 256;

/// All rules of an upstream.
pub(super) fn read(upstream: &Object<'_>) -> Rules {
    let list = |key| upstream.or(key, Vec::new(), |at| at.rules(|_| None));
    Rules {
        tools: list("tools"),
        resources: upstream.or("resources", Vec::new(), |at| at.rules(simpler)),
        prompts: list("prompts"),
        methods: list("methods"),
    }
}

/// How the beginning of a pattern for URIs is written in the end, if it is written otherwise: with wildcards it is compared as
/// text.
fn simpler(pattern: &str) -> Option<String> {
    let wildcard = pattern.find(['*', '?'])?;
    let (start, rest) = pattern.split_at(wildcard);
    let has_path = match start.split_once("://") {
        Some((_, after)) => after.contains('/'),
        None => start.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("file:/")),
    };
    let simple = String::from(Url::parse(start).ok().filter(|_| has_path)?);
    let plain = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    (plain(&simple) != plain(start)).then(|| format!("{simple}{rest}"))
}

impl At<'_> {
    fn rules(&self, simpler: fn(&str) -> Option<String>) -> Option<Vec<Rule>> {
        let items = self.list()?;
        if items.len() > MAX_RULES {
            return self.refuse(format!("has more than {MAX_RULES} rules"));
        }
        let mut found: Vec<(Rule, usize)> = Vec::new();
        for item in items {
            let Some(rule) = item.rule() else { continue };
            if let Some(simpler) = simpler(&rule.pattern.to_string()) {
                item.problem(format!(
                    "begins in a way that matches no URI as it is compared; write {}",
                    shown(&simpler)
                ));
            }
            let hides = |earlier: &Pattern| earlier.is_everything() || *earlier == rule.pattern;
            if let Some((earlier, line)) = found.iter().find(|(earlier, _)| hides(&earlier.pattern)) {
                item.problem(format!(
                    "can never decide anything: {} on line {line} matches first; put this rule before it, or leave it out",
                    shown(&earlier.pattern.to_string())
                ));
            }
            found.push((rule, item.line));
        }
        Some(found.into_iter().map(|(rule, _)| rule).collect())
    }

    fn rule(&self) -> Option<Rule> {
        let object = self.object(keys::RULE)?;
        let pattern = object.required("match", "\"get-*\"").and_then(At::pattern);
        let deny = match object.get("deny") {
            Some(at) => at.boolean()?,
            None => false,
        };
        let demand = match (object.get("scopes"), deny) {
            (Some(at), true) => {
                return at.refuse("is there together with `deny: true`, which nobody gets around; keep one of them");
            }
            (None, true) => Demand::Deny,
            (Some(at), false) => Demand::Scopes(at.scopes()?),
            // Without a word on what is needed it may be that a word was forgotten.
            (None, false) if !object.has_strangers => {
                object.missing("scopes", "[]`, the scopes that are needed, or `deny: true");
                return None;
            }
            (None, false) => Demand::Scopes(Scope::empty()),
        };
        Some(Rule {
            pattern: pattern?,
            demand,
        })
    }

    fn pattern(&self) -> Option<Pattern> {
        let text = self.text()?;
        if text.chars().count() > MAX_PATTERN {
            return self.refuse(format!("is longer than {MAX_PATTERN} characters"));
        }
        if text.trim() != text {
            return self.refuse("begins or ends with a blank, and no name does");
        }
        Some(Pattern::new(text))
    }
}
