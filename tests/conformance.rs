//! docs/conformance.md: what is required, since which revision of MCP, where it is written, and which test holds it.
//!
//! The rows are in tests/conformance/requirements.yaml, the tests name them in lines such as `/// Spec: A1, C7` right
//! above themselves (`// Spec:` in JavaScript, `# Spec:` in Python). The page is made of both:
//!
//! ```text
//! UPDATE_CONFORMANCE=1 cargo nextest run --test conformance
//! ```
//!
//! That the tests did run and pass is looked up afterwards, by tests/conformance/passed.py.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says loudly what is wrong with the files it reads"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_yaml::{Mapping, Value};

const REVISIONS: [&str; 5] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"];
/// The parts in which every MUST and SHOULD has a test or a reason.
const STRICT: &str = "ABCDEFGHIJ";
const UPDATE: &str = "UPDATE_CONFORMANCE=1 cargo nextest run --test conformance";

struct Requirement {
    id: String,
    level: String,
    source: String,
    /// The first and the last revision that it concerns, by their places in `REVISIONS`.
    revisions: (usize, usize),
    what: String,
}

struct Part {
    letter: String,
    title: String,
    rows: Vec<Requirement>,
}

struct Requirements {
    parts: Vec<Part>,
    /// Why a row has no test: what is said of it, and the reason.
    reasons: BTreeMap<String, (&'static str, String)>,
    /// What a tested row leaves open.
    notes: BTreeMap<String, String>,
}

/// A test that names requirements.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    /// The file, from the top of the project.
    file: String,
    /// What the test runner calls it; for a script, what it checks.
    name: String,
    script: bool,
}

#[derive(Default)]
struct Found {
    by_requirement: BTreeMap<String, BTreeSet<Named>>,
    /// The stories of client generations: revision, who is played, test.
    stories: BTreeSet<(String, String, Named)>,
    problems: Vec<String>,
}

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

// --- the requirements

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value:?} is no text"))
        .to_owned()
}

fn mapping<'a>(value: &'a Value, key: &str) -> &'a Mapping {
    value[key]
        .as_mapping()
        .unwrap_or_else(|| panic!("{key} is missing or no mapping"))
}

fn place(revision: &str) -> usize {
    REVISIONS
        .iter()
        .position(|known| *known == revision)
        .unwrap_or_else(|| panic!("{revision} is no revision of MCP"))
}

fn revisions(text: &str) -> (usize, usize) {
    let last = REVISIONS.len() - 1;
    if text == "all" {
        (0, last)
    } else if let Some(first) = text.strip_suffix('+') {
        (place(first), last)
    } else if let Some((first, last)) = text.split_once("..") {
        (place(first), place(last))
    } else {
        (place(text), place(text))
    }
}

fn requirements() -> Requirements {
    let file = fs::read_to_string(top().join("tests/conformance/requirements.yaml")).expect("requirements.yaml");
    let document: Value = serde_yaml::from_str(&file).expect("requirements.yaml is YAML");
    let row = |(id, fields): (&Value, &Value)| {
        let fields: Vec<String> = fields
            .as_sequence()
            .expect("a row is a list")
            .iter()
            .map(text)
            .collect();
        let [level, source, concerned, what] = <[String; 4]>::try_from(fields).expect("a row has four fields");
        assert!(["MUST", "SHOULD", "MAY"].contains(&level.as_str()), "{level}");
        Requirement {
            id: text(id),
            level,
            source,
            revisions: revisions(&concerned),
            what,
        }
    };
    let parts = mapping(&document, "parts").iter().map(|(letter, part)| Part {
        letter: text(letter),
        title: text(&part["title"]),
        rows: mapping(part, "rows").iter().map(row).collect(),
    });
    let section = |key: &str| -> Vec<(String, String)> {
        let Some(entries) = document[key].as_mapping() else {
            return Vec::new();
        };
        entries.iter().map(|(id, why)| (text(id), text(why))).collect()
    };
    let said_of = |key: &str, said: &'static str| section(key).into_iter().map(move |(id, why)| (id, (said, why)));
    Requirements {
        parts: parts.collect(),
        reasons: said_of("not_applicable", "does not apply")
            .chain(said_of("not_built_yet", "not built yet"))
            .collect(),
        notes: section("notes").into_iter().collect(),
    }
}

impl Requirements {
    fn rows(&self) -> impl Iterator<Item = &Requirement> {
        self.parts.iter().flat_map(|part| &part.rows)
    }
}

// --- the tests that name them

/// All files below a folder that end like this, in order, without what was installed there.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() && name != "node_modules" && !name.starts_with('.') {
            found.extend(files(&path, endings));
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The ids of a line `Spec: A1, C7`; the comment's mark is gone already.
fn ids_of(comment: &str) -> Option<Vec<String>> {
    let list = comment.trim().strip_prefix("Spec:")?;
    Some(list.split(',').map(|id| id.trim().to_owned()).collect())
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The name of the function that a line begins, if it begins one.
fn function(line: &str) -> Option<&str> {
    let rest = line.trim_start();
    let rest = rest.strip_prefix("pub ").unwrap_or(rest);
    let rest = rest.strip_prefix("async ").unwrap_or(rest).strip_prefix("fn ")?;
    rest.split(['(', '<']).next()
}

/// The modules around a line, outermost first.
fn modules<'a>(lines: &[&'a str], at: usize) -> Vec<&'a str> {
    let mut around = Vec::new();
    let mut width = indent(lines[at]);
    for line in lines[..at].iter().rev() {
        if line.trim().is_empty() || indent(line) >= width {
            continue;
        }
        width = indent(line);
        let opened = line.trim_start().strip_prefix("mod ");
        if let Some(name) = opened.and_then(|rest| rest.strip_suffix(" {")) {
            around.insert(0, name);
        }
    }
    around
}

/// What comes before the modules of a file in the test runner's names, or why nothing there is run.
fn prefix(file: &str) -> Result<Vec<String>, &'static str> {
    let path: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    let own = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect();
    match path.as_slice() {
        ["src", "main" | "lib"] => Err("no tests are expected there"),
        ["src", inner @ .., "mod"] | ["src", inner @ ..] => Ok(own(inner)),
        ["tests", binary] | ["tests", binary, "main"] => Ok(own(&[binary])),
        ["tests", binary, inner @ ..] if top().join("tests").join(binary).join("main.rs").exists() => {
            Ok([own(&[binary]), own(inner)].concat())
        }
        _ => Err("this file is no test program"),
    }
}

fn scan_rust(file: &str, content: &str, found: &mut Found) {
    let lines: Vec<&str> = content.lines().collect();
    let mut at = 0;
    while at < lines.len() {
        let first = at;
        let comment = |line: &str| line.trim_start().strip_prefix("///").map(str::to_owned);
        if comment(lines[at]).is_none_or(|text| ids_of(&text).is_none()) {
            at += 1;
            continue;
        }
        // From here to the function: what is said about it.
        let mut ids = Vec::new();
        let mut stories = Vec::new();
        let mut attributes = String::new();
        while at < lines.len() && function(lines[at]).is_none() {
            match comment(lines[at]) {
                Some(text) if text.trim().starts_with("Spec:") => ids.extend(ids_of(&text).unwrap_or_default()),
                Some(text) => {
                    let story = text
                        .trim()
                        .strip_prefix("Plays: ")
                        .and_then(|rest| rest.split_once(", "));
                    stories.extend(story.map(|(revision, who)| (revision.to_owned(), who.to_owned())));
                }
                None => attributes.push_str(lines[at].trim()),
            }
            at += 1;
        }
        let place = format!("{file}:{}", first + 1);
        let Some(name) = lines.get(at).and_then(|line| function(line)) else {
            found.problems.push(format!("{place}: no test follows"));
            continue;
        };
        let mut path = match prefix(file) {
            Ok(path) => path,
            Err(why) => {
                found.problems.push(format!("{place}: {why}"));
                continue;
            }
        };
        if attributes.contains("test]") || attributes.contains("test(") {
            path.extend(modules(&lines, at).iter().map(|name| (*name).to_owned()));
        } else if lines.iter().any(|line| line.trim() == format!("{name},")) && content.contains("contract! {") {
            // A case that every store passes; the embedded one is the one that is shipped.
            path.extend(["suite".to_owned(), "sled".to_owned()]);
        } else {
            found.problems.push(format!("{place}: {name} is no test"));
            continue;
        }
        if attributes.contains("#[ignore") || attributes.contains("#[cfg(") {
            found.problems.push(format!("{place}: {name} is not always run"));
            continue;
        }
        path.push(name.to_owned());
        add(
            found,
            ids,
            stories,
            &Named {
                file: file.to_owned(),
                name: path.join("::"),
                script: false,
            },
        );
    }
}

fn add(found: &mut Found, ids: Vec<String>, stories: Vec<(String, String)>, named: &Named) {
    for id in ids {
        found.by_requirement.entry(id).or_default().insert(named.clone());
    }
    for (revision, who) in stories {
        found.stories.insert((revision, who, named.clone()));
    }
}

/// Scripts are named whole: one line of one that fails, fails it, and with it the part of `make test` that runs it.
fn scan_script(file: &str, content: &str, runners: &str, found: &mut Found) {
    let base = file.rsplit('/').next().expect("a name");
    for (number, line) in content.lines().enumerate() {
        let line = line.trim();
        let line = line.strip_suffix("*/").unwrap_or(line);
        let is_comment = ["//", "#", "/*", "*"].iter().any(|mark| line.starts_with(mark));
        let said = line
            .find("Spec:")
            .filter(|_| is_comment)
            .and_then(|at| ids_of(&line[at..]));
        let Some(ids) = said else {
            continue;
        };
        if !runners.contains(base) {
            let place = format!("{file}:{}", number + 1);
            found
                .problems
                .push(format!("{place}: nothing that `make test` runs names {base}"));
            continue;
        }
        let named = Named {
            file: file.to_owned(),
            name: file.trim_start_matches("tests/").to_owned(),
            script: true,
        };
        add(found, ids, Vec::new(), &named);
    }
}

fn scan() -> Found {
    let mut found = Found::default();
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let relative = |path: &Path| {
        let inside = path.strip_prefix(top()).expect("a file of the project");
        inside.to_string_lossy().into_owned()
    };
    let scripts = files(&top().join("tests"), &[".mjs", ".py"]);
    let runners = scripts
        .iter()
        .chain([&top().join("tests/run.sh")])
        .map(|path| read(path))
        .collect::<String>();
    for folder in ["src", "tests"] {
        for path in files(&top().join(folder), &[".rs"]) {
            if path != top().join(file!()) {
                scan_rust(&relative(&path), &read(&path), &mut found);
            }
        }
    }
    for path in &scripts {
        scan_script(&relative(path), &read(path), &runners, &mut found);
    }
    found
}

// --- the page

const INTRODUCTION: &str = "# Conformance

What MCP, OAuth and real clients ask of the gateway, and the test that holds it to that. **Generated**: the rows come from
[requirements.yaml](../tests/conformance/requirements.yaml), the tests from the lines `Spec: …` above them, and
[tests/conformance.rs](../tests/conformance.rs) fails when this page is behind, names a row that is not there, or leaves a
MUST or SHOULD of the parts A–J without a test or a reason.

**What \u{201c}passed\u{201d} means.** A test is listed only if it is compiled into a program that `make test` runs and is never skipped.
`make test` ends by looking up each of them in the report of the test runner
([passed.py](../tests/conformance/passed.py)): it fails unless every one of them did run and did pass. Scripts
(clients, judges, browsers) are listed by file: a script fails as a whole, and `make test` with it. So this page is true of
every commit on which `make test` is green.

Levels are the strictest that a row contains. A revision is an MCP revision for whose clients the row matters. Section
numbers are those of the RFC named; \u{201c}MCP\u{201d} is the revision's own text, \u{201c}interop\u{201d} a need of clients as they are,
\u{201c}CIMD\u{201d} and \u{201c}ID-JAG\u{201d} the OAuth working group's drafts of those names.
";

fn concerns((first, last): (usize, usize)) -> String {
    match (first, last) {
        (0, 4) => "all".to_owned(),
        (first, 4) if first < 4 => format!("since {}", REVISIONS[first]),
        (first, last) if first == last => REVISIONS[first].to_owned(),
        (first, last) => format!("{} to {}", REVISIONS[first], REVISIONS[last]),
    }
}

fn tests_of(tests: &BTreeSet<Named>) -> String {
    let mut by_file: BTreeMap<&str, Vec<&Named>> = BTreeMap::new();
    for named in tests {
        by_file.entry(&named.file).or_default().push(named);
    }
    let entries = by_file.iter().map(|(file, tests)| {
        let mut entry = format!("[{file}](../{file})");
        for named in tests.iter().filter(|named| !named.script) {
            write!(entry, "<br>`{}`", named.name).expect("text grows");
        }
        entry
    });
    entries.collect::<Vec<_>>().join("<br>")
}

fn result(requirement: &Requirement, requirements: &Requirements, tested: bool) -> String {
    let id = &requirement.id;
    let open = requirements
        .notes
        .get(id)
        .map_or(String::new(), |note| format!("; {note}"));
    match requirements.reasons.get(id) {
        _ if tested => format!("passed{open}"),
        Some((said, why)) => format!("{said}: {why}"),
        None => "no test of its own yet".to_owned(),
    }
}

fn page(requirements: &Requirements, found: &Found) -> String {
    let mut page = INTRODUCTION.to_owned();
    let nothing = BTreeSet::new();
    let tests = |id: &str| found.by_requirement.get(id).unwrap_or(&nothing);
    let mut line = |text: &str| {
        page.push_str(text);
        page.push('\n');
    };
    let kind = |row: &Requirement| match requirements.reasons.get(&row.id) {
        _ if !tests(&row.id).is_empty() => 0,
        Some(("does not apply", _)) => 1,
        Some(_) => 2,
        None => 3,
    };
    let counts = |rows: &[&Requirement]| {
        let of = |wanted: usize| rows.iter().filter(|row| kind(row) == wanted).count();
        format!("{} | {} | {} | {} | {}", rows.len(), of(0), of(1), of(2), of(3))
    };
    line("\n## Summary\n");
    line("| part | rows | passed | does not apply | not built yet | no test of its own yet |");
    line("| --- | ---: | ---: | ---: | ---: | ---: |");
    for part in &requirements.parts {
        let rows: Vec<&Requirement> = part.rows.iter().collect();
        let anchor = format!("{}-{}", part.letter, part.title).to_lowercase();
        let anchor = anchor.replace(' ', "-").replace(',', "");
        line(&format!(
            "| [{} {}](#{anchor}) | {} |",
            part.letter,
            part.title,
            counts(&rows)
        ));
    }
    line(&format!(
        "| **all** | {} |",
        counts(&requirements.rows().collect::<Vec<_>>())
    ));
    line(
        "\n| MCP revision | rows that concern it | passed | does not apply | not built yet | no test of its own yet |",
    );
    line("| --- | ---: | ---: | ---: | ---: | ---: |");
    for (place, revision) in REVISIONS.iter().enumerate() {
        let concerned = |row: &&Requirement| (row.revisions.0..=row.revisions.1).contains(&place);
        line(&format!(
            "| {revision} | {} |",
            counts(&requirements.rows().filter(concerned).collect::<Vec<_>>())
        ));
    }
    line("\n## Clients by generation\n");
    line("Each plays a client: the requests that it sends, in its order, with its headers and its omissions.\n");
    line("| MCP revision | client | test |");
    line("| --- | --- | --- |");
    for (revision, who, named) in &found.stories {
        line(&format!("| {revision} | {who} | `{}` |", named.name));
    }
    for part in &requirements.parts {
        line(&format!("\n## {} {}\n", part.letter, part.title));
        line("| id | level | requirement | MCP revision | source | tests | result |");
        line("| --- | --- | --- | --- | --- | --- | --- |");
        for row in &part.rows {
            let named = tests(&row.id);
            line(&format!(
                "| {} | {} | {} | {} | {} | {} | {} |",
                row.id,
                row.level,
                row.what.replace('|', "\\|"),
                concerns(row.revisions),
                row.source,
                tests_of(named),
                result(row, requirements, !named.is_empty())
            ));
        }
    }
    page
}

/// Everything that is wrong with the rows and the lines that name them.
fn problems(requirements: &Requirements, found: &Found) -> Vec<String> {
    let mut problems = found.problems.clone();
    let known: BTreeSet<&str> = requirements.rows().map(|row| row.id.as_str()).collect();
    for (id, tests) in &found.by_requirement {
        if !known.contains(id.as_str()) {
            let who: Vec<&str> = tests.iter().map(|named| named.name.as_str()).collect();
            problems.push(format!("{id} is no requirement, but is named by {}", who.join(", ")));
        }
        if let Some((said, _)) = requirements.reasons.get(id) {
            problems.push(format!(
                "{id} has a test, so requirements.yaml may not list it under \"{said}\"; a note can stay"
            ));
        }
    }
    for id in requirements.reasons.keys().chain(requirements.notes.keys()) {
        if !known.contains(id.as_str()) {
            problems.push(format!(
                "requirements.yaml has a reason or a note for {id}, which is no requirement"
            ));
        }
    }
    for id in requirements.notes.keys() {
        if !found.by_requirement.contains_key(id) {
            problems.push(format!("requirements.yaml has a note for {id}, which no test names"));
        }
    }
    for (revision, who, _) in &found.stories {
        if !REVISIONS.contains(&revision.as_str()) {
            problems.push(format!("{who}: {revision} is no revision of MCP"));
        }
    }
    for part in requirements.parts.iter().filter(|part| STRICT.contains(&part.letter)) {
        for row in &part.rows {
            let covered = found.by_requirement.contains_key(&row.id) || requirements.reasons.contains_key(&row.id);
            if row.level != "MAY" && !covered {
                problems.push(format!(
                    "{} ({}) has neither a test nor a reason: {}",
                    row.id, row.level, row.what
                ));
            }
        }
    }
    problems
}

#[test]
fn the_page_says_what_the_tests_hold() {
    let (requirements, found) = (requirements(), scan());
    let problems = problems(&requirements, &found);
    let (page, path) = (page(&requirements, &found), top().join("docs/conformance.md"));
    if std::env::var_os("UPDATE_CONFORMANCE").is_some() {
        fs::write(&path, &page).expect("docs/conformance.md can be written");
    }
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
    let written = fs::read_to_string(&path).unwrap_or_default();
    let differs = written.lines().zip(page.lines()).position(|(old, new)| old != new);
    assert!(
        written == page,
        "docs/conformance.md is behind from line {}; write it anew with\n  {UPDATE}",
        differs.map_or(written.lines().count().min(page.lines().count()) + 1, |at| at + 1)
    );
}

/// What is wrong is found: a row that does not exist, a test that is none, is ignored, or is in no program.
#[test]
fn a_line_that_names_nothing_is_found() {
    let mut found = Found::default();
    let source = "/// Spec: A1, Z9\n#[test]\nfn fine() {}\n\n/// Spec: A2\n#[ignore]\n#[test]\nfn asleep() {}\n\n\
                  /// Spec: A3\nfn helper() {}\n\nmod tests {\n    /// Words.\n    ///\n    /// Spec: A4\n    /// Plays: \
                  2025-06-18, somebody\n    #[tokio::test]\n    async fn inner() {}\n}\n";
    scan_rust("tests/tokens.rs", source, &mut found);
    scan_rust(
        "tests/support/memory.rs",
        "/// Spec: A5\n#[test]\nfn nowhere() {}\n",
        &mut found,
    );
    scan_script(
        "tests/clients/nobody.mjs",
        "  // Spec: A6\n",
        "somebody.mjs",
        &mut found,
    );
    scan_script(
        "tests/clients/somebody.mjs",
        "  // Spec: A7\n",
        "somebody.mjs",
        &mut found,
    );
    let said = [
        "tests/tokens.rs:5: asleep is not always run",
        "tests/tokens.rs:10: helper is no test",
        "tests/support/memory.rs:1: this file is no test program",
        "tests/clients/nobody.mjs:1: nothing that `make test` runs names nobody.mjs",
    ];
    assert_eq!(found.problems, said);
    let named: Vec<_> = found
        .by_requirement
        .iter()
        .map(|(id, tests)| (id.as_str(), tests.first()))
        .collect();
    let name = |at: usize| named[at].1.map(|test| test.name.as_str());
    assert_eq!(
        named.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
        ["A1", "A4", "A7", "Z9"]
    );
    assert_eq!((name(0), name(1)), (Some("tokens::fine"), Some("tokens::tests::inner")));
    assert_eq!(name(2), Some("clients/somebody.mjs"));
    assert_eq!(found.stories.len(), 1);
    let problems = problems(&requirements(), &found);
    assert!(
        problems
            .iter()
            .any(|problem| problem.starts_with("Z9 is no requirement"))
    );
    assert!(
        problems
            .iter()
            .any(|problem| problem.starts_with("A2 (MUST) has neither"))
    );
}
