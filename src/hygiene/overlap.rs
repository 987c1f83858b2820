//! Overlap with the problems that a model is measured on: which share of a test problem's n-grams a record holds.

use std::collections::HashMap;

use super::{GENERATED, code_text, descriptions, text};
use crate::recipe::Hygiene;
use crate::record::{Problem, Split};

/// A text of a test problem.
struct Text {
    id: String,
    suite: String,
    description: bool,
    /// How many n-grams it has.
    grams: usize,
}

/// The texts of the test problems, by their n-grams.
pub struct Evaluation {
    ngram: usize,
    least: f64,
    texts: Vec<Text>,
    by_gram: HashMap<u64, Vec<u32>>,
}

impl Evaluation {
    /// Descriptions, buggy code and references of the problems of the test part. A text with fewer tokens than an n-gram has is left
    /// out: it would be found everywhere. Generated suites are left out too.
    pub fn new(problems: &[Problem], settings: &Hygiene) -> Evaluation {
        let ngram = settings.contamination_ngram;
        let mut evaluation = Evaluation { ngram, least: settings.overlap, texts: Vec::new(), by_gram: HashMap::new() };
        let measured = |problem: &&Problem| problem.split == Some(Split::Test) && !GENERATED.contains(&problem.suite.as_str());
        let measured: Vec<&Problem> = problems.iter().filter(measured).collect();
        for (problem, description) in measured.iter().zip(descriptions(&measured, ngram)) {
            evaluation.put(problem, true, description);
            for code in [&problem.buggy, &problem.reference].into_iter().flatten() {
                let tokens = text::tokens(&code_text(code, problem));
                if tokens.len() >= ngram {
                    evaluation.put(problem, false, text::shingles(&tokens, ngram));
                }
            }
        }
        evaluation
    }

    fn put(&mut self, problem: &Problem, description: bool, grams: Vec<u64>) {
        if grams.is_empty() {
            return;
        }
        let number = self.texts.len() as u32;
        let (id, suite) = (problem.id.clone(), problem.suite.clone());
        self.texts.push(Text { id, suite, description, grams: grams.len() });
        grams.into_iter().for_each(|gram| self.by_gram.entry(gram).or_default().push(number));
    }

    /// Whether there is anything to overlap with.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The test problem of which a text (tokens of [`text::tokens`]) holds the largest share of n-grams, if that reaches
    /// `hygiene.overlap`; of equals, the first. Descriptions of the record's own `suite` are not looked for: its problems were compared
    /// with each other, and those left are different ones, however alike they are described.
    pub fn find(&self, tokens: &[u64], suite: Option<&str>) -> Option<(&str, f64)> {
        if tokens.len() < self.ngram || self.is_empty() {
            return None;
        }
        let mut counts: HashMap<u32, usize> = HashMap::new();
        for gram in text::shingles(tokens, self.ngram) {
            self.by_gram.get(&gram).into_iter().flatten().for_each(|text| *counts.entry(*text).or_default() += 1);
        }
        let looked = |(text, _): &(u32, usize)| {
            let text = &self.texts[*text as usize];
            !(text.description && suite == Some(text.suite.as_str()))
        };
        let share = |(text, count): (u32, usize)| (text, count as f64 / self.texts[text as usize].grams as f64);
        let best = counts.into_iter().filter(looked).map(share).max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
        best.filter(|(_, share)| *share >= self.least).map(|(text, share)| (self.texts[text as usize].id.as_str(), share))
    }
}
