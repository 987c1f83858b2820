//! BLEU (Papineni et al. 2002) with one reference, as sacrebleu computes it; scores are from 0 to 100.
//!
//! The variants differ by tens of points on the same texts, so a score comes with a [`signature`](Config::signature).

use std::collections::HashMap;
use std::ops::AddAssign;

pub use super::tokens::Tokens;

/// The longest n-gram.
pub const ORDER: usize = 4;

/// What to do about orders without a match (Chen & Cherry, WMT 2014, methods 3, 1 and 2). A text without a single match scores 0
/// with all of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Smoothing {
    /// The k-th such order counts as 1/2^k matches.
    Exp,
    /// Such an order counts as this many matches; sacrebleu's default is 0.1.
    Floor(f64),
    /// Every order above the first has this many matches and n-grams more; sacrebleu's default is 1.
    AddK(f64),
    /// The score is 0.
    None,
}

/// A variant of BLEU.
#[derive(Debug, Clone, Copy, PartialEq)]
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
    /// Corpus BLEU with the tokenizer of that name: `13a`, `none`, `char` or `code`.
    pub fn named(tokens: &str) -> Option<Config> {
        Some(Config { tokens: Tokens::named(tokens)?, ..Config::default() })
    }

    /// sacrebleu's signature, with this program as the version.
    pub fn signature(&self) -> String {
        let tokens = self.tokens.name();
        let smoothing = match self.smoothing {
            Smoothing::Exp => "exp".into(),
            Smoothing::Floor(value) => format!("floor[{value:.2}]"),
            Smoothing::AddK(value) => format!("add-k[{value:.2}]"),
            Smoothing::None => "none".to_string(),
        };
        let effective = if self.effective_order { "yes" } else { "no" };
        let version = env!("CARGO_PKG_VERSION");
        format!("nrefs:1|case:mixed|eff:{effective}|tok:{tokens}|smooth:{smoothing}|version:repairity-{version}")
    }

    /// The counts of one hypothesis against its reference.
    pub fn counts(&self, hypothesis: &str, reference: &str) -> Counts {
        let (hypothesis, reference) = (self.tokens.of(hypothesis), self.tokens.of(reference));
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
            _ if hypothesis >= reference => 1.0,
            0 => 0.0,
            _ => (1.0 - reference / hypothesis).exp(),
        };
        let mut precisions = [0.0; ORDER];
        let mut orders = ORDER;
        let mut halved = 1.0;
        if counts.correct.iter().any(|correct| *correct > 0) {
            for (order, precision) in precisions.iter_mut().enumerate() {
                let added = match self.smoothing {
                    Smoothing::AddK(value) if order > 0 => value,
                    _ => 0.0,
                };
                let (correct, total) = (counts.correct[order] as f64 + added, counts.total[order] as f64 + added);
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
                    (0, Smoothing::Floor(value)) => 100.0 * value / total,
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

    /// Texts without a hypothesis, without a match, short, outside ASCII, with tabs, with what Python alone counts as white space and
    /// with mteval's entities and hyphens.
    const AWKWARD: [(&str, &str); 9] = [
        ("", "return a + b"),
        ("return a", "return a + b"),
        ("a b x y", "a b c d"),
        ("π = 3.14; naïve — “x”", "π = 3.14; naive — “y”"),
        ("if x:\n\treturn\tx[0]", "if x:\n\treturn\tx[1]"),
        ("a\u{1c}b\u{a0}c d-\ne &lt;f&gt; 1,5 9-2 x", "a b c de <f> 1,5 9-2 y"),
        ("x", "y"),
        ("return x", "return x"),
        ("", ""),
    ];

    /// A tokenizer and a smoothing, then corpus BLEU of PAIRS, of AWKWARD, and the sentences of AWKWARD 1 to 5 with effective order.
    /// All from sacrebleu 2.6.0, `BLEU(tokenize=, smooth_method=, smooth_value=, effective_order=)`.
    #[test]
    fn every_variant_is_sacrebleus() {
        use Smoothing::{AddK, Exp, Floor, None};
        use Tokens::{Char, Mteval13a, Whitespace};
        let short = 36.78794411714425;
        let cases = [
            (
                Mteval13a,
                Exp,
                80.82062018706495,
                59.26449005978731,
                [short, 31.947155212313625, 43.47208719449914, 70.71067811865478, 90.36020036098445],
            ),
            (
                Mteval13a,
                Floor(0.1),
                80.82062018706495,
                59.26449005978731,
                [short, 16.990442448471217, 43.47208719449914, 70.71067811865478, 90.36020036098445],
            ),
            (
                Mteval13a,
                AddK(1.0),
                81.64385849348234,
                60.21051495434108,
                [short, 45.180100180492246, 53.452248382484875, 74.76743906106104, 91.05801434189358],
            ),
            (
                Mteval13a,
                AddK(0.5),
                81.24251568051406,
                59.748964225864306,
                [short, 34.57207846419409, 49.132705481444226, 72.91695054779271, 90.72628564344586],
            ),
            (
                Mteval13a,
                None,
                80.82062018706495,
                59.26449005978731,
                [short, 0.0, 43.47208719449914, 70.71067811865478, 90.36020036098445],
            ),
            (
                Whitespace,
                Exp,
                70.71067811865478,
                19.21202032465215,
                [short, 31.947155212313625, 32.46679154750991, 59.460355750136046, 22.31618068926665],
            ),
            (
                Whitespace,
                Floor(0.1),
                70.71067811865478,
                12.847852331121096,
                [short, 16.990442448471217, 21.71185208108769, 39.76353643835254, 14.923729480049115],
            ),
            (
                Whitespace,
                Floor(0.01),
                70.71067811865478,
                7.224878305732554,
                [short, 5.372849659117709, 12.209471671615692, 22.360679774997894, 8.3922298125931],
            ),
            (
                Whitespace,
                AddK(1.0),
                72.91695054779271,
                23.928100501455226,
                [short, 45.180100180492246, 42.7287006396234, 65.80370064762461, 30.64409050749728],
            ),
            (Whitespace, None, 70.71067811865478, 0.0, [short, 0.0, 0.0, 0.0, 0.0]),
            (
                Char,
                Exp,
                89.74783032158011,
                60.61492825527894,
                [75.14772930752862, 31.947155212313625, 68.65065103648593, 85.5526185871245, 33.846535837380095],
            ),
            (
                Char,
                Floor(0.1),
                89.74783032158011,
                60.61492825527894,
                [75.14772930752862, 16.990442448471217, 68.65065103648593, 85.5526185871245, 33.846535837380095],
            ),
            (
                Char,
                AddK(1.0),
                89.98021486956313,
                61.141596518063224,
                [75.14772930752862, 45.180100180492246, 70.71067811865478, 86.55340416554361, 36.92744729379982],
            ),
        ];
        for (tokens, smoothing, pairs, awkward, sentences) in cases {
            let corpus = Config { tokens, smoothing, effective_order: false };
            close(corpus.corpus(PAIRS).score, pairs);
            close(corpus.corpus(AWKWARD).score, awkward);
            let sentence = Config { effective_order: true, ..corpus };
            for (pair, expected) in AWKWARD[1..6].iter().zip(sentences) {
                close(sentence.corpus([*pair]).score, expected);
            }
            // Nothing found is 0, the same is 100, however few words there are.
            for (place, expected) in [(0, 0.0), (6, 0.0), (7, 100.0), (8, 0.0)] {
                close(sentence.corpus([AWKWARD[place]]).score, expected);
            }
        }
        let counts = Config::default().corpus(AWKWARD).counts;
        assert_eq!((counts.hypothesis, counts.reference), (36, 42));
        assert_eq!((counts.correct, counts.total), ([29, 21, 15, 12], [36, 29, 23, 19]));
        let characters = Config { tokens: Char, ..Config::default() }.corpus(AWKWARD).counts;
        assert_eq!((characters.correct, characters.total), ([55, 43, 35, 28], [71, 64, 58, 52]));
    }

    /// nltk 3.10.4's `sentence_bleu` with `SmoothingFunction().method1` is the floor of 0.1.
    #[test]
    fn nltks_first_method_is_the_floor() {
        let config = Config { tokens: Tokens::Whitespace, smoothing: Smoothing::Floor(0.1), effective_order: false };
        close(config.corpus([AWKWARD[2]]).score, 16.990442448471224);
    }

    /// The tokens, parted by spaces, given to sacrebleu 2.6.0 with `tokenize="none"`.
    #[test]
    fn code_tokens_score_as_their_words_do() {
        let config = Config { tokens: Tokens::Code, ..Config::default() };
        let words = PAIRS.map(|(a, b)| [a, b].map(|text| Tokens::Code.of(text).join(" ")));
        let spaced = Config { tokens: Tokens::Whitespace, ..config };
        let expected = spaced.corpus(words.iter().map(|[a, b]| (a.as_str(), b.as_str())));
        assert_eq!(config.corpus(PAIRS).counts, expected.counts);
        assert_eq!(expected.counts.hypothesis, 12 + 13);
        close(config.corpus(PAIRS).score, 80.82062018706495);
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
    fn a_signature_names_the_variant() {
        let expected = concat!("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:repairity-", env!("CARGO_PKG_VERSION"));
        assert_eq!(Config::default().signature(), expected);
        // sacrebleu's own words for the same: `smooth:floor[0.10]`, `smooth:add-k[1.00]`.
        let of = |tokens, smoothing| Config { tokens, smoothing, effective_order: true }.signature();
        assert!(of(Tokens::Code, Smoothing::Floor(0.1)).starts_with("nrefs:1|case:mixed|eff:yes|tok:code|smooth:floor[0.10]|"));
        assert!(
            of(Tokens::Whitespace, Smoothing::AddK(1.0)).starts_with("nrefs:1|case:mixed|eff:yes|tok:none|smooth:add-k[1.00]|")
        );
        assert!(of(Tokens::Char, Smoothing::None).starts_with("nrefs:1|case:mixed|eff:yes|tok:char|smooth:none|"));
        assert_eq!((Config::named("13a"), Config::named("intl")), (Some(Config::default()), None));
    }
}
