//! Holds the floors apart: a file imports only from floors below its own, only the right floor knows each framework, and
//! no file grows beyond a sitting.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

use std::fs;
use std::path::{Path, PathBuf};

/// The floors from the ground up; rooms on one floor do not know each other.
const FLOORS: &[&[&str]] = &[
    &["domain"],
    &["config", "store", "telemetry", "jose", "fetch", "mcp"],
    &["identity"],
    &["oauth"],
    &["proxy", "admin"],
    &["app"],
    &["demo", "commands"],
    &["main", "lib"],
];

/// Which rooms may name a crate.
const CRATES: &[(&str, &[&str])] = &[
    ("pingora", &["proxy"]),
    ("sled::", &["store"]),
    ("prometheus", &["telemetry"]),
    ("rmcp", &["demo"]),
    ("axum", &["admin", "demo"]),
    ("jsonwebtoken", &["jose"]),
    ("aws_lc_rs", &["jose"]),
    ("reqwest", &["fetch"]),
    ("argon2", &["identity", "config"]),
    ("maud", &["oauth", "admin"]),
    ("serde_yaml", &["config"]),
];

/// Longest file, in lines without its tests.
const LONGEST: usize = 450;

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Every source file: its path from src/, its room, and its text without tests and comments.
fn rooms() -> Vec<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 30, "the sources are where this test looks");
    files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            let room = name.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let code: Vec<&str> = code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect();
            (name, room, code.join("\n"))
        })
        .collect()
}

fn floor(room: &str) -> usize {
    FLOORS
        .iter()
        .position(|rooms| rooms.contains(&room))
        .unwrap_or_else(|| panic!("{room} has no floor"))
}

#[test]
fn a_file_imports_only_from_floors_below() {
    let all: Vec<&str> = FLOORS.iter().flat_map(|rooms| rooms.iter().copied()).collect();
    let mut wrong = Vec::new();
    for (name, room, code) in rooms() {
        for other in &all {
            let imports = code.contains(&format!("crate::{other}")) && !code.contains(&format!("crate::{other}_"));
            if imports && *other != room && floor(other) >= floor(&room) {
                wrong.push(format!("{name} imports crate::{other}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_its_own_floor_knows_a_framework() {
    let mut wrong = Vec::new();
    for (name, room, code) in rooms() {
        for (library, allowed) in CRATES {
            let named = code.lines().any(|line| {
                line.contains(library) && (line.contains("use ") || line.contains("::")) && !line.contains('"')
            });
            let own_module = *library == "sled::" && code.contains("store::sled::");
            if named && !own_module && !allowed.contains(&room.as_str()) {
                wrong.push(format!("{name} names {library}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_file_is_longer_than_a_sitting() {
    let long: Vec<String> = rooms()
        .into_iter()
        .map(|(name, _, code)| (name, code.lines().count()))
        .filter(|(_, lines)| *lines > LONGEST)
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}
