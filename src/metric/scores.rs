//! What one model's answers come to, problem by problem: what means, intervals and tests are made from.

use super::bleu::{Bleu, Config, Counts};
use super::pass_at_k::{Interval, bootstrap_mean, pass_at_k, wilson};
use super::similarity::{edit_similarity, exact_match};

/// Resamples of a bootstrap, and trials of a randomisation.
pub const RESAMPLES: usize = 10_000;

/// An answer, as far as metrics look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Whether every test passed.
    pub passed: bool,
    /// Whether it compiles; none where its check could not tell.
    pub compiled: Option<bool>,
    /// The code; none where only the verdict is known.
    pub code: Option<&'a str>,
}

/// What a problem's answers are held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference<'a> {
    /// The code.
    pub code: &'a str,
    /// Its language, in lower case.
    pub language: &'a str,
}

/// One model's answers, counted. The problems are in one order for all models that are compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Answers and those of them that pass, by problem.
    pub passes: Vec<(usize, usize)>,
    /// Whether the first answer passes, by problem.
    pub first: Vec<bool>,
    /// Answers that compile, and answers of which it is known.
    pub compiled: (usize, usize),
    /// The answers as texts; none where no answer has a reference.
    pub texts: Option<Texts>,
}

/// How near answers are to their references.
#[derive(Debug, Clone, PartialEq)]
pub struct Texts {
    /// The variant of BLEU that was counted.
    pub config: Config,
    /// What BLEU counts, by problem.
    pub counts: Vec<Counts>,
    /// Answers that have a reference.
    pub answers: usize,
    /// Those that are the reference but for comments and white space.
    pub exact: usize,
    /// The mean edit similarity, from 0 to 1.
    pub similarity: f64,
}

impl Scores {
    /// Counts `groups`, the answers of each problem; `references` are in the same order.
    pub fn new(groups: &[Vec<Answer<'_>>], references: &[Option<Reference<'_>>], config: Config) -> Scores {
        let answers = || groups.iter().flatten();
        let known: Vec<bool> = answers().filter_map(|answer| answer.compiled).collect();
        Scores {
            passes: groups.iter().map(|group| (group.len(), group.iter().filter(|answer| answer.passed).count())).collect(),
            first: groups.iter().map(|group| group.first().is_some_and(|answer| answer.passed)).collect(),
            compiled: (known.iter().filter(|compiled| **compiled).count(), known.len()),
            texts: Texts::new(groups, references, config),
        }
    }

    /// Answers to the problem that has the fewest: pass@k exists up to here.
    pub fn samples(&self) -> usize {
        self.passes.iter().map(|(answers, _)| *answers).min().unwrap_or(0)
    }

    /// Whether no problem has more than one answer.
    pub fn is_single(&self) -> bool {
        self.passes.iter().all(|(answers, _)| *answers <= 1)
    }

    /// The share of answers that pass, by problem; 0 without an answer.
    pub fn rates(&self) -> Vec<f64> {
        self.passes.iter().map(|(answers, passed)| *passed as f64 / (*answers).max(1) as f64).collect()
    }

    /// pass@k over the problems; none if one of them has fewer than k answers.
    pub fn pass_at(&self, k: usize) -> Option<f64> {
        let each: Option<Vec<f64>> = self.passes.iter().map(|(answers, passed)| pass_at_k(*answers, *passed, k)).collect();
        each.filter(|each| !each.is_empty()).map(|each| each.iter().sum::<f64>() / each.len() as f64)
    }

    /// The mean of [`Scores::rates`] with its interval: Wilson's with one answer each, the bootstrap's over problems with more.
    pub fn interval(&self, seed: u64) -> Option<Interval> {
        match self.is_single() {
            true => wilson(self.passes.iter().filter(|(_, passed)| *passed == 1).count(), self.passes.len()),
            false => bootstrap_mean(&self.rates(), RESAMPLES, seed),
        }
    }

    /// Compiling answers / all of which it is known (for Python: those that `compile()` takes). None where of none.
    pub fn compile_rate(&self) -> Option<f64> {
        (self.compiled.1 > 0).then(|| self.compiled.0 as f64 / self.compiled.1 as f64)
    }
}

impl Texts {
    fn new(groups: &[Vec<Answer<'_>>], references: &[Option<Reference<'_>>], config: Config) -> Option<Texts> {
        let mut texts = Texts { config, counts: vec![Counts::default(); groups.len()], answers: 0, exact: 0, similarity: 0.0 };
        for ((group, reference), counts) in groups.iter().zip(references).zip(&mut texts.counts) {
            let Some(reference) = reference else { continue };
            for code in group.iter().filter_map(|answer| answer.code) {
                *counts += config.counts(code, reference.code);
                texts.answers += 1;
                texts.exact += usize::from(exact_match(code, reference.code, reference.language));
                texts.similarity += edit_similarity(code, reference.code);
            }
        }
        texts.similarity /= texts.answers.max(1) as f64;
        (texts.answers > 0).then_some(texts)
    }

    /// BLEU of all answers.
    pub fn bleu(&self) -> Bleu {
        let mut sum = Counts::default();
        self.counts.iter().for_each(|counts| sum += *counts);
        self.config.score(sum)
    }

    /// The share of exact matches.
    pub fn exact_match(&self) -> f64 {
        self.exact as f64 / self.answers.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(passed: bool, compiled: Option<bool>, code: &str) -> Answer<'_> {
        Answer { passed, compiled, code: Some(code) }
    }

    #[test]
    fn two_problems_with_two_answers_each() {
        let groups = [
            vec![answer(true, Some(true), "return a + b"), answer(false, Some(false), "")],
            vec![answer(false, None, "x"), answer(false, Some(true), "y")],
        ];
        let references = [Some(Reference { code: "return a + b # sum", language: "python" }), None];
        let scores = Scores::new(&groups, &references, Config::named("code").unwrap());
        assert_eq!((&scores.passes[..], &scores.first[..]), (&[(2, 1), (2, 0)][..], &[true, false][..]));
        assert_eq!((scores.compiled, scores.compile_rate(), scores.samples()), ((2, 3), Some(2.0 / 3.0), 2));
        assert_eq!((scores.pass_at(1), scores.pass_at(2), scores.pass_at(3)), (Some(0.25), Some(0.5), None));
        let texts = scores.texts.unwrap();
        assert_eq!((texts.answers, texts.exact, texts.exact_match()), (2, 1, 0.5));
        // 6 of 18 characters lack; of the empty answer all do.
        assert!((texts.similarity - 0.5 * (1.0 - 6.0 / 18.0)).abs() < 1e-15, "{texts:?}");
        // The reference has 6 tokens (`#` and `sum` are two), twice; the answers have 4 and 0, all of them found.
        let bleu = texts.bleu();
        assert_eq!((bleu.counts.hypothesis, bleu.counts.reference, bleu.counts.correct), (4, 12, [4, 3, 2, 1]));
        assert!((bleu.score - 100.0 * (1.0f64 - 12.0 / 4.0).exp()).abs() < 1e-11, "{bleu:?}");
    }

    #[test]
    fn verdicts_alone_have_no_texts() {
        let alone = Answer { passed: true, compiled: None, code: None };
        let reference = Some(Reference { code: "x", language: "python" });
        let scores = Scores::new(&[vec![alone], vec![]], &[reference, reference], Config::default());
        assert_eq!((scores.texts.as_ref(), scores.compile_rate(), scores.pass_at(1), scores.samples()), (None, None, None, 0));
        assert_eq!((scores.rates(), scores.is_single()), (vec![1.0, 0.0], true));
        assert_eq!(scores.interval(1), wilson(1, 2));
    }
}
