//! Text from outside, made fit to be shown: nothing that reorders, hides or overflows what stands around it.

use std::time::Duration;

/// A browser in words, as far as its name for itself tells; most say that they are several.
pub(super) fn browser(agent: &str) -> String {
    let known = |names: &[(&str, &'static str)]| {
        let found = names.iter().find(|(sign, _)| agent.contains(sign));
        found.map(|(_, name)| *name)
    };
    let program = known(&[
        ("Edg", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chromium/", "Chromium"),
        ("Chrome/", "Chrome"),
        ("CriOS/", "Chrome"),
        ("Safari/", "Safari"),
        ("curl/", "curl"),
    ]);
    let system = known(&[
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS X", "Mac"),
        ("CrOS", "ChromeOS"),
        ("Linux", "Linux"),
    ]);
    match (program, system) {
        (Some(program), Some(system)) => format!("{program} on {system}"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => "A browser".to_owned(),
    }
}

/// Accents on one letter; more of them would grow over the lines around.
const MOST_STACKED: u32 = 2;

/// A name or description: one line of visible characters, shortened.
pub(crate) fn display(text: &str, most: usize) -> String {
    let mut stacked = 0;
    let visible: String = text
        .chars()
        .filter(|c| {
            stacked = if is_combining(*c) { stacked + 1 } else { 0 };
            stacked <= MOST_STACKED
        })
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .filter(|c| !is_invisible(*c))
        .collect();
    let words: Vec<&str> = visible.split(' ').filter(|word| !word.is_empty()).collect();
    shorten(&words.join(" "), most)
}

/// The text, or its beginning and an ellipsis.
pub(super) fn shorten(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// Accents that stand on their letter as characters of their own.
const fn is_combining(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}')
}

/// Control characters, and those of Unicode that change direction or take no room: with them a name can say something else
/// than it spells.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Seconds, rounded up: whoever comes back then is not early.
pub(super) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// `30 seconds`, `2 minutes`.
pub(super) fn duration(wait: Duration) -> String {
    let (count, unit) = match whole_seconds(wait) {
        seconds @ 0..=90 => (seconds.max(1), "second"),
        seconds => (seconds.div_ceil(60), "minute"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_reorder_hide_or_overflow() {
        for (text, shown) in [
            ("Claude Code", "Claude Code"),
            ("  two\n\tlines\u{85} ", "two lines"),
            ("evil\u{202e}txt.exe", "eviltxt.exe"),
            ("zero\u{200b}width\u{feff}", "zerowidth"),
            ("a\u{300}\u{301}\u{302}\u{303}b", "a\u{300}\u{301}b"),
            ("\u{3164}\u{2066}", ""),
            ("日本語 العربية é", "日本語 العربية é"),
        ] {
            assert_eq!(display(text, 80), shown, "{text:?}");
        }
        assert_eq!(display(&"ä".repeat(81), 80), format!("{}…", "ä".repeat(80)));
        assert_eq!(display(&"ä".repeat(80), 80), "ä".repeat(80));
    }

    #[test]
    fn a_wait_is_rounded_up() {
        for (millis, said) in [
            (0, "1 second"),
            (1000, "1 second"),
            (1001, "2 seconds"),
            (90_000, "90 seconds"),
            (91_000, "2 minutes"),
            (900_000, "15 minutes"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), said);
        }
    }
}
