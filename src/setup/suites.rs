//! The benchmarks as somebody who has to choose one needs them told.

use crate::error::{Error, Result};

/// A benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suite {
    /// Its name in recipes: one of [`crate::problem::SUITES`].
    pub name: &'static str,
    /// What it is.
    pub what: &'static str,
    /// Where its file or folder is usually put; none where it is made from a seed.
    pub path: Option<&'static str>,
    /// Whether it has enough problems to train on.
    pub trains: bool,
}

const fn suite(name: &'static str, what: &'static str, path: &'static str, trains: bool) -> Suite {
    Suite { name, what, path: Some(path), trains }
}

/// All of them, in the order in which they are offered.
pub const SUITES: [Suite; 12] = [
    suite("mbpp", "974 short Python tasks; no bugs of its own, so its solutions are mutated", "data/mbpp.jsonl", true),
    suite("mbpp_plus", "MBPP with EvalPlus' many more tests", "data/MbppPlus.jsonl", true),
    suite(
        "humaneval_fix",
        "HumanEvalPack: 164 functions with a bug each, one language a file",
        "data/humanevalpack-python.jsonl",
        true,
    ),
    suite("humaneval_plus", "HumanEval with EvalPlus' many more tests", "data/HumanEvalPlus.jsonl", true),
    suite("humaneval_java", "HumanEval in Java with a bug each, a repository's folder", "data/humaneval-java", true),
    suite("quixbugs", "40 classic algorithms in Python, a bug each: too few to train on", "data/quixbugs_python.jsonl", false),
    suite("quixbugs_java", "the same in Java, the repository's folder", "data/QuixBugs", false),
    suite("bigcodebench", "1,140 Python tasks that call many libraries; solutions are mutated", "data/bigcodebench.jsonl", true),
    Suite { name: "micro", what: "small Python functions made from a seed; nothing to download", path: None, trains: true },
    suite("folder", "your own code: a TOML list of files, bugs and test commands", "problems.toml", true),
    suite("swebench", "issues of Python projects, with a clone of each project", "data/verified.jsonl", true),
    suite("defects4j", "bugs of Java projects, by Defects4J's own program", "data/bugs.txt", true),
];

impl Suite {
    /// The benchmark of this name. The error offers the nearest.
    pub fn named(name: &str) -> Result<&'static Suite> {
        SUITES.iter().find(|suite| suite.name == name).ok_or_else(|| {
            let nearest = SUITES.iter().min_by_key(|suite| strsim::levenshtein(suite.name, name)).map_or("", |suite| suite.name);
            let names = SUITES.map(|suite| suite.name).join(", ");
            Error::input("suite", format!("`{name}` is not one of {names}; did you mean `{nearest}`?"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_is_told() {
        assert_eq!(SUITES.map(|suite| suite.name), crate::problem::SUITES);
        let text = Suite::named("quixbug").unwrap_err().to_string();
        assert!(
            text.starts_with("suite: `quixbug` is not one of mbpp, ") && text.ends_with("did you mean `quixbugs`?"),
            "{text}"
        );
    }
}
