//! BLEU (Papineni et al. 2002) with one reference, as sacrebleu computes it; scores are from 0 to 100.
//!
//! The variants differ by tens of points on the same texts, so a score comes with a [`signature`](Config::signature).

use std::collections::HashMap;
use std::ops::AddAssign;

/// The longest n-gram.
pub const ORDER: usize = 4;

/// How a text becomes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens {
    /// mteval-v13a, made for prose; sacrebleu's default.
    Mteval13a,
    /// At white space; sacrebleu's `none`, and what `nltk` is mostly given.
    Whitespace,
    /// Characters other than white space.
    Char,
}

/// What to do about an order without a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Smoothing {
    /// The k-th such order counts as 1/2^k matches.
    Exp,
    /// The score is 0.
    None,
}

/// A variant of BLEU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The tokens.
    pub tokens: Tokens,
    /// The smoothing.
    pub smoothing: Smoothing,
    /// Whether orders longer than the text are left out; right for single sentences, off for corpora.
    pub effective_order: bool,
}

impl Default for Config {
    /// sacrebleu's corpus BLEU.
    fn default() -> Config {
        Config { tokens: Tokens::Mteval13a, smoothing: Smoothing::Exp, effective_order: false }
    }
}

/// The counts that BLEU is made of. Those of a corpus are the sums of its segments'.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// N-grams of the hypothesis that the reference has too, by order.
    pub correct: [usize; ORDER],
    /// N-grams of the hypothesis, by order.
    pub total: [usize; ORDER],
    /// Tokens of the hypothesis.
    pub hypothesis: usize,
    /// Tokens of the reference.
    pub reference: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        for order in 0..ORDER {
            self.correct[order] += other.correct[order];
            self.total[order] += other.total[order];
        }
        self.hypothesis += other.hypothesis;
        self.reference += other.reference;
    }
}

/// A score and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bleu {
    /// From 0 to 100.
    pub score: f64,
    /// Matching n-grams by order, smoothed, in percent.
    pub precisions: [f64; ORDER],
    /// The penalty for hypotheses shorter than their references, from 0 to 1.
    pub brevity_penalty: f64,
    /// The counts.
    pub counts: Counts,
}

impl Config {
    /// sacrebleu's signature, with this program as the version.
    pub fn signature(&self) -> String {
        let tokens = match self.tokens {
            Tokens::Mteval13a => "13a",
            Tokens::Whitespace => "none",
            Tokens::Char => "char",
        };
        let smoothing = match self.smoothing {
            Smoothing::Exp => "exp",
            Smoothing::None => "none",
        };
        let effective = if self.effective_order { "yes" } else { "no" };
        let version = env!("CARGO_PKG_VERSION");
        format!("nrefs:1|case:mixed|eff:{effective}|tok:{tokens}|smooth:{smoothing}|version:repairity-{version}")
    }

    /// The counts of one hypothesis against its reference.
    pub fn counts(&self, hypothesis: &str, reference: &str) -> Counts {
        let (hypothesis, reference) = (self.tokenize(hypothesis), self.tokenize(reference));
        let mut counts = Counts { hypothesis: hypothesis.len(), reference: reference.len(), ..Counts::default() };
        for order in 1..=ORDER {
            let mut left: HashMap<&[String], usize> = HashMap::new();
            for gram in reference.windows(order) {
                *left.entry(gram).or_default() += 1;
            }
            for gram in hypothesis.windows(order) {
                counts.total[order - 1] += 1;
                if let Some(count) = left.get_mut(gram).filter(|count| **count > 0) {
                    *count -= 1;
                    counts.correct[order - 1] += 1;
                }
            }
        }
        counts
    }

    /// The score of counts.
    pub fn score(&self, counts: Counts) -> Bleu {
        let (hypothesis, reference) = (counts.hypothesis as f64, counts.reference as f64);
        let brevity_penalty = match counts.hypothesis {
            0 => 0.0,
            _ if hypothesis >= reference => 1.0,
            _ => (1.0 - reference / hypothesis).exp(),
        };
        let mut precisions = [0.0; ORDER];
        let mut orders = ORDER;
        let mut halved = 1.0;
        if counts.correct.iter().any(|correct| *correct > 0) {
            for (order, precision) in precisions.iter_mut().enumerate() {
                let (correct, total) = (counts.correct[order] as f64, counts.total[order] as f64);
                if total == 0.0 {
                    break;
                }
                if self.effective_order {
                    orders = order + 1;
                }
                *precision = match (counts.correct[order], self.smoothing) {
                    (0, Smoothing::Exp) => {
                        halved *= 2.0;
                        100.0 / (halved * total)
                    }
                    _ => 100.0 * correct / total,
                };
            }
        }
        // ln 0 is minus infinity, whose exponential is the 0 that is meant.
        let mean = precisions[..orders].iter().map(|precision| precision.ln()).sum::<f64>() / orders as f64;
        Bleu { score: brevity_penalty * mean.exp(), precisions, brevity_penalty, counts }
    }

    /// Corpus BLEU of (hypothesis, reference) pairs.
    pub fn corpus<'a>(&self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Bleu {
        let mut sum = Counts::default();
        for (hypothesis, reference) in pairs {
            sum += self.counts(hypothesis, reference);
        }
        self.score(sum)
    }

    fn tokenize(&self, text: &str) -> Vec<String> {
        match self.tokens {
            Tokens::Mteval13a => mteval13a(text),
            Tokens::Whitespace => text.split_whitespace().map(String::from).collect(),
            Tokens::Char => text.chars().filter(|c| !c.is_whitespace()).map(String::from).collect(),
        }
    }
}

/// mteval-v13a's language-independent tokens, in sacrebleu's order of rules.
fn mteval13a(text: &str) -> Vec<String> {
    let text = text.trim_end().replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    let text = text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    let mut spaced = String::from(" ");
    for c in text.chars() {
        // ASCII punctuation except ' , - .
        match c.is_ascii_punctuation() && !matches!(c, '\'' | ',' | '-' | '.') {
            true => spaced.extend([' ', c, ' ']),
            false => spaced.push(c),
        }
    }
    spaced.push(' ');
    let digit = |c: char| c.is_ascii_digit();
    let stop = |c: char| matches!(c, '.' | ',');
    let spaced = rewrite(&spaced, |a, b| (!digit(a) && stop(b)).then(|| vec![a, ' ', b, ' ']));
    let spaced = rewrite(&spaced, |a, b| (stop(a) && !digit(b)).then(|| vec![' ', a, ' ', b]));
    let spaced = rewrite(&spaced, |a, b| (digit(a) && b == '-').then(|| vec![a, ' ', b, ' ']));
    spaced.split_whitespace().map(String::from).collect()
}

/// Replaces pairs of neighbours from left to right; a replaced pair is not looked at again.
fn rewrite(text: &str, rule: impl Fn(char, char) -> Option<Vec<char>>) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut characters = text.chars().peekable();
    while let Some(a) = characters.next() {
        match characters.peek().and_then(|b| rule(a, *b)) {
            Some(pair) => {
                out.extend(pair);
                characters.next();
            }
            None => out.push(a),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIRS: [(&str, &str); 2] = [
        ("def add(a, b):\n    return a - b", "def add(a, b):\n    return a + b"),
        ("int f(int x) { return x + 1; }", "int f(int x) { return x + 2; }"),
    ];

    /// Scores are of magnitude 100; four logarithms and an exponential leave some 10 units of 2^-53 of that.
    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12 * 100.0, "{a} {b}");
    }

    /// Expected values: sacrebleu 2.6.0 and nltk 3.10.4 on the same texts.
    #[test]
    fn corpus_scores_are_sacrebleus() {
        let prose = Config::default().corpus(PAIRS);
        close(prose.score, 80.82062018706495);
        close(prose.precisions[0], 92.0);
        close(prose.precisions[1], 100.0 * 19.0 / 23.0);
        assert_eq!((prose.counts.hypothesis, prose.counts.reference), (25, 25));
        let spaces = Config { tokens: Tokens::Whitespace, ..Config::default() }.corpus(PAIRS);
        close(spaces.score, 70.71067811865478);
        assert_eq!((spaces.counts.hypothesis, spaces.counts.reference), (16, 16));
        close(Config { tokens: Tokens::Char, ..Config::default() }.corpus(PAIRS).score, 89.74783032158011);
        let short = Config::default().corpus([("return a", "return a + b")]);
        assert_eq!(short.score, 0.0);
        close(short.brevity_penalty, (-1.0f64).exp());
    }

    #[test]
    fn sentence_scores_are_sacrebleus() {
        let config = Config { effective_order: true, ..Config::default() };
        close(config.corpus([PAIRS[0]]).score, 82.651681837938);
        close(config.corpus([PAIRS[1]]).score, 79.10665071754353);
        let nltk = Config { tokens: Tokens::Whitespace, smoothing: Smoothing::None, effective_order: false };
        close(nltk.corpus([PAIRS[0]]).score, 64.34588841607617);
        close(nltk.corpus([PAIRS[1]]).score, 75.06238537503395);
    }

    #[test]
    fn an_order_without_a_match_is_halved_or_zero() {
        // Orders 1 to 4: 2/4, 1/3, 0/2, 0/1, so 50, 33.3, 100/(2*2) = 25, 100/(4*1) = 25.
        let pair = [("a b x y", "a b c d")];
        let config = Config { tokens: Tokens::Whitespace, ..Config::default() };
        close(config.corpus(pair).score, (50.0f64 * (100.0 / 3.0) * 25.0 * 25.0).powf(0.25));
        assert_eq!(Config { smoothing: Smoothing::None, ..config }.corpus(pair).score, 0.0);
        assert_eq!(config.corpus([("", "a"), ("", "")]).score, 0.0);
    }

    #[test]
    fn tokens_are_mteval_13as() {
        assert_eq!(
            mteval13a("Hello, \"world\": 1,000.5 x-1 3-4 &lt;b&gt; it's a_b."),
            ["Hello", ",", "\"", "world", "\"", ":", "1,000.5", "x-1", "3", "-", "4", "<", "b", ">", "it's", "a", "_", "b", "."]
        );
    }

    #[test]
    fn a_signature_names_the_variant() {
        let expected = concat!("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:repairity-", env!("CARGO_PKG_VERSION"));
        assert_eq!(Config::default().signature(), expected);
    }
}
