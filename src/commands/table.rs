//! Lists in a terminal: columns as wide as they have to be, and nothing in them that a terminal would act on.

use serde_json::Value;

use crate::oauth::pages::words;

/// Most characters of a cell.
const WIDEST: usize = 60;

/// A column: its heading, and the member that it shows.
pub(super) type Column = (&'static str, &'static str);

pub(super) const USERS: &[Column] = &[
    ("SUBJECT", "subject"),
    ("NAME", "name"),
    ("E-MAIL", "email"),
    ("GROUPS", "groups"),
    ("ACCOUNT", "source"),
    ("DISABLED", "disabled"),
    ("SIGNED IN", "signed_in_at"),
];
pub(super) const CLIENTS: &[Column] = &[
    ("CLIENT", "client_id"),
    ("NAME", "name"),
    ("ORIGIN", "origin"),
    ("REDIRECTS TO", "redirect_uris"),
    ("KNOWN SINCE", "known_since"),
];
pub(super) const GRANTS: &[Column] = &[
    ("ID", "id"),
    ("SUBJECT", "subject"),
    ("CLIENT", "client"),
    ("CLIENT NAME", "client_name"),
    ("TOKEN NAME", "token_name"),
    ("UPSTREAM", "upstreams"),
    ("SCOPE", "scope"),
    ("TOKENS ISSUED", "tokens_issued_at"),
    ("USABLE UNTIL", "usable_until"),
];

/// The columns that are cut nowhere: they are what other commands want to be given.
const WHOLE: &[&str] = &["id", "subject", "client", "client_id"];

/// A table as text.
pub(super) fn drawn(columns: &[Column], entries: &[Value]) -> String {
    if entries.is_empty() {
        return "There are none.\n".to_owned();
    }
    let heading = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let cells = |entry: &Value| {
        columns
            .iter()
            .map(|(_, member)| cell(member, &entry[*member]))
            .collect()
    };
    let rows: Vec<Vec<String>> = std::iter::once(heading).chain(entries.iter().map(cells)).collect();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| Some(row.get(column)?.chars().count()))
            .max()
    };
    let widths: Vec<usize> = (0..columns.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A text from outside without anything that a terminal would act on.
pub(super) fn plain(text: &str) -> String {
    words::display(text, 320)
}

fn cell(member: &str, value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Object(_) => String::new(),
    };
    let most = if WHOLE.contains(&member) { usize::MAX } else { WIDEST };
    let shown = words::display(&text, most);
    if shown.is_empty() { "-".to_owned() } else { shown }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_stand_under_each_other_and_a_terminal_is_told_nothing() {
        let columns = &[("ID", "id"), ("NAME", "name"), ("LIST", "list"), ("ON", "on")];
        let entries = [
            json!({ "id": "1", "name": "\u{1b}[2Jeve\u{202e}\r\n", "list": ["a", "b"], "on": true }),
            json!({ "id": "1234", "name": null, "list": [], "on": false }),
        ];
        assert_eq!(
            drawn(columns, &entries),
            "ID    NAME    LIST  ON\n1     [2Jeve  a,b   yes\n1234  -       -     no\n"
        );
        assert_eq!(drawn(columns, &[]), "There are none.\n");
        let long = [json!({ "id": "x".repeat(100), "name": "y".repeat(100) })];
        let text = drawn(columns, &long);
        assert!(
            text.contains(&"x".repeat(100)) && !text.contains(&"y".repeat(61)),
            "{text}"
        );
    }
}
