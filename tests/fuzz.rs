//! The fuzz targets' own functions over their corpora, and over what becomes of those when bytes go wrong: `make fuzz` goes
//! on from there, for as long as one likes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::type_complexity,
    clippy::naive_bytecount,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a test that cannot go on should stop; nobody imports a test"
)]

#[path = "../fuzz/checks.rs"]
mod checks;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Changes of each seed, unless `FUZZ_CHANGES` says otherwise.
const CHANGES: usize = 150;

fn names_in(directory: &str, extension: &str) -> BTreeSet<String> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(directory);
    let entries = std::fs::read_dir(&home).unwrap_or_else(|error| panic!("{}: {error}", home.display()));
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| name.strip_suffix(extension).unwrap_or(&name).to_owned())
        .collect()
}

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut seeds: Vec<_> = std::fs::read_dir(home)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    seeds.sort();
    seeds
}

/// A generator whose numbers are the same in every run (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % below.max(1)
    }

    fn change(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
        const TELLING: &[u8] = b"%.:/@?#&=+\"\\{}[],;* \t\r\n\0\x7f\xff0aZ-_";
        let mut bytes = seed.to_vec();
        for _ in 0..=self.roll(4) {
            let at = self.roll(bytes.len() + 1);
            let telling = TELLING[self.roll(TELLING.len())];
            match self.roll(5) {
                0 => bytes.insert(at, telling),
                1 if at < bytes.len() => bytes[at] = telling,
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 => bytes.truncate(at),
                _ => {
                    let from = self.roll(other.len() + 1);
                    let to = from + self.roll(other.len() + 1 - from);
                    drop(bytes.splice(at..at, other[from..to].iter().copied()));
                }
            }
        }
        bytes
    }
}

#[test]
fn every_target_has_a_program_a_corpus_and_a_check() {
    let checks: BTreeSet<String> = checks::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(checks, names_in("fuzz_targets", ".rs"));
    assert_eq!(checks, names_in("corpus", ""));
    let manifest = include_str!("../fuzz/Cargo.toml");
    for name in &checks {
        assert!(
            manifest.contains(&format!("name = \"{name}\"")),
            "{name} is not in fuzz/Cargo.toml"
        );
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "how long a test looks is no configuration of the gateway"
)]
fn what_was_collected_holds_and_so_does_what_becomes_of_it() {
    let changes = std::env::var("FUZZ_CHANGES").map_or(CHANGES, |text| text.parse().unwrap());
    for (target, check) in checks::TARGETS {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{target} has no seeds");
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
        for (path, seed) in &seeds {
            assert!(seed.len() <= 4096, "{} is no small seed", path.display());
            check(seed);
            for _ in 0..changes {
                let other = &seeds[dice.roll(seeds.len())].1;
                let input = dice.change(seed, other);
                let shown = input.clone();
                let outcome = std::panic::catch_unwind(move || check(&input));
                assert!(
                    outcome.is_ok(),
                    "{target} fails on {:?}",
                    String::from_utf8_lossy(&shown)
                );
            }
        }
    }
}
