//! A hard limit on spending, in US dollars and in tokens, and what asking is expected to cost before anything is asked.

use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::Settings;
use crate::error::{Error, Result};
use crate::record::Usage;

/// Bytes of a prompt that are taken for a token where the cost is expected. English has about four, code fewer.
const BYTES_PER_TOKEN: u64 = 3;
/// Tokens that a provider puts around a prompt, at most.
const ENVELOPE_TOKENS: u64 = 256;
/// Tokens that the paper's teacher wrote on average (section 4.6): a trace, a judgment.
pub const TRACE_TOKENS: u64 = 756;
/// See [`TRACE_TOKENS`].
pub const JUDGMENT_TOKENS: u64 = 673;

/// At which price tokens are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// One request, answered at once.
    Live,
    /// A request of a batch: half the price.
    Batch,
}

/// Tokens that were paid for, by the price.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Answered one by one.
    pub live: Usage,
    /// Answered in batches.
    pub batch: Usage,
}

impl Spent {
    /// Adds what an answer took.
    pub fn add(&mut self, usage: Usage, rate: Rate) {
        let sum = match rate {
            Rate::Live => &mut self.live,
            Rate::Batch => &mut self.batch,
        };
        *sum = plus(*sum, usage);
    }
}

fn plus(a: Usage, b: Usage) -> Usage {
    Usage { input_tokens: a.input_tokens + b.input_tokens, output_tokens: a.output_tokens + b.output_tokens }
}

/// The most that a request of this many bytes can take: a token is at least a byte, so this bounds what the provider can charge.
pub(super) fn most(bytes: usize, max_tokens: u64) -> Usage {
    Usage { input_tokens: bytes as u64 + ENVELOPE_TOKENS, output_tokens: max_tokens }
}

/// What asking is expected to cost, and what it can cost at most.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// Requests that are not answered yet.
    pub requests: usize,
    /// Tokens read and written: a token for every 3 bytes of the prompts, and the paper's averages for the answers, 756 a trace and
    /// 673 a judgment, with thinking its whole budget on top.
    pub expected: Usage,
    /// A token for every byte, every answer as long as `max_tokens` allows.
    pub most: Usage,
    /// US dollars of `expected`.
    pub expected_usd: f64,
    /// US dollars of `most`.
    pub most_usd: f64,
    /// The key whose limit even the expected cost breaks, and what to do about it.
    pub refusal: Option<(&'static str, String)>,
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Usage { input_tokens, output_tokens } = self.expected;
        write!(
            f,
            "{} requests, about {input_tokens} tokens in ({BYTES_PER_TOKEN} bytes each) and {output_tokens} out (the paper's averages), \
             {:.2} USD; at most {} in and {} out, {:.2} USD",
            self.requests, self.expected_usd, self.most.input_tokens, self.most.output_tokens, self.most_usd
        )
    }
}

/// A hard limit on spending. Each attempt reserves the most it can cost, and settles for what it did.
pub(super) struct Budget {
    limit_usd: f64,
    limit_tokens: u64,
    input: f64,
    output: f64,
    start_anyway: bool,
    purse: Mutex<Purse>,
    settled: Condvar,
}

/// Dollars and tokens.
#[derive(Debug, Clone, Copy, Default)]
struct Amount {
    usd: f64,
    tokens: u64,
}

#[derive(Default)]
struct Purse {
    spent: Amount,
    reserved: Amount,
    /// Reservations that are held.
    held: usize,
}

/// What an attempt may cost, set aside until it is settled or dropped.
pub(super) struct Reservation<'a> {
    budget: &'a Budget,
    amount: Amount,
}

impl Budget {
    /// `spent` is what was paid before.
    pub(super) fn new(settings: &Settings, spent: Spent) -> Result<Budget> {
        let (limit, input, output) = (settings.budget_usd, settings.input_usd_per_mtok, settings.output_usd_per_mtok);
        for (key, value) in [("budget_usd", limit), ("input_usd_per_mtok", input), ("output_usd_per_mtok", output)] {
            if value.is_nan() || value < 0.0 {
                return Err(Error::input(format!("teacher.{key}"), format!("a number of 0 or more expected, {value} found")));
            }
        }
        if limit.is_finite() && input == 0.0 && output == 0.0 && settings.base_url.is_none() {
            let what = "input_usd_per_mtok and output_usd_per_mtok expected with it: without prices it limits nothing";
            return Err(Error::input("teacher.budget_usd", what));
        }
        let budget = Budget {
            limit_usd: limit,
            limit_tokens: settings.budget_tokens.unwrap_or(u64::MAX),
            input,
            output,
            start_anyway: settings.start_anyway,
            purse: Mutex::default(),
            settled: Condvar::new(),
        };
        budget.spend(spent.live, Rate::Live);
        budget.spend(spent.batch, Rate::Batch);
        Ok(budget)
    }

    fn amount(&self, usage: Usage, rate: Rate) -> Amount {
        let usd = (usage.input_tokens as f64 * self.input + usage.output_tokens as f64 * self.output) / 1e6;
        let usd = match rate {
            Rate::Live => usd,
            Rate::Batch => usd / 2.0,
        };
        Amount { usd, tokens: usage.input_tokens.saturating_add(usage.output_tokens) }
    }

    fn purse(&self) -> MutexGuard<'_, Purse> {
        self.purse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what an answer took, without a look at the limit.
    pub(super) fn spend(&self, usage: Usage, rate: Rate) {
        let amount = self.amount(usage, rate);
        let mut purse = self.purse();
        purse.spent.usd += amount.usd;
        purse.spent.tokens = purse.spent.tokens.saturating_add(amount.tokens);
    }

    fn fits(&self, usd: f64, tokens: u64) -> bool {
        usd <= self.limit_usd && tokens <= self.limit_tokens
    }

    /// Whether `most` can be reserved now.
    pub(super) fn has_room(&self, most: Usage, rate: Rate) -> bool {
        let (amount, purse) = (self.amount(most, rate), self.purse());
        let tokens = purse.spent.tokens.saturating_add(purse.reserved.tokens).saturating_add(amount.tokens);
        self.fits(purse.spent.usd + purse.reserved.usd + amount.usd, tokens)
    }

    /// Sets the cost of `most` aside. While calls under way could still turn out cheap enough, it waits for them.
    pub(super) fn reserve(&self, most: Usage, rate: Rate) -> Result<Reservation<'_>> {
        let amount = self.amount(most, rate);
        let mut purse = self.purse();
        loop {
            let tokens = purse.spent.tokens.saturating_add(amount.tokens);
            if self.fits(purse.spent.usd + purse.reserved.usd + amount.usd, tokens.saturating_add(purse.reserved.tokens)) {
                return Ok(self.hold(&mut purse, amount));
            }
            if purse.spent.usd + amount.usd > self.limit_usd {
                return Err(Error::Teacher(format!(
                    "teacher.budget_usd: {:.4} of {:.4} USD are spent, and the next call could cost {:.4}",
                    purse.spent.usd, self.limit_usd, amount.usd
                )));
            }
            if tokens > self.limit_tokens {
                return Err(Error::Teacher(format!(
                    "teacher.budget_tokens: {} of {} tokens are spent, and the next call could take {}",
                    purse.spent.tokens, self.limit_tokens, amount.tokens
                )));
            }
            purse = self.settled.wait(purse).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sets aside what was ordered before, whatever the limit.
    pub(super) fn commit(&self, most: Usage, rate: Rate) -> Reservation<'_> {
        let amount = self.amount(most, rate);
        self.hold(&mut self.purse(), amount)
    }

    fn hold(&self, purse: &mut Purse, amount: Amount) -> Reservation<'_> {
        purse.reserved.usd += amount.usd;
        purse.reserved.tokens = purse.reserved.tokens.saturating_add(amount.tokens);
        purse.held += 1;
        Reservation { budget: self, amount }
    }

    /// What requests of these bytes, with these tokens expected in their answers, would cost.
    pub(super) fn estimate(&self, requests: &[(usize, u64)], max_tokens: u64, rate: Rate) -> Estimate {
        let (mut expected, mut limit) = (Usage::default(), Usage::default());
        for (bytes, tokens) in requests {
            let input_tokens = (*bytes as u64).div_ceil(BYTES_PER_TOKEN);
            expected = plus(expected, Usage { input_tokens, output_tokens: (*tokens).min(max_tokens) });
            limit = plus(limit, most(*bytes, max_tokens));
        }
        let (amount, dearest, spent) = (self.amount(expected, rate), self.amount(limit, rate), self.purse().spent);
        let advice = "raise it, ask for less, or set teacher.start_anyway = true to ask until it is spent";
        let refusal = if self.start_anyway || requests.is_empty() {
            None
        } else if spent.usd + amount.usd > self.limit_usd {
            let (spent, cost, limit) = (spent.usd, amount.usd, self.limit_usd);
            let cheaper = if rate == Rate::Live { " (teacher.batch = true halves Anthropic's price)" } else { "" };
            let what =
                format!("{limit:.2} USD would not do: {spent:.2} are spent, {cost:.2} more are expected; {advice}{cheaper}");
            Some(("teacher.budget_usd", what))
        } else if spent.tokens.saturating_add(amount.tokens) > self.limit_tokens {
            let (spent, cost, limit) = (spent.tokens, amount.tokens, self.limit_tokens);
            let what = format!("{limit} tokens would not do: {spent} are spent, {cost} more are expected; {advice}");
            Some(("teacher.budget_tokens", what))
        } else {
            None
        };
        Estimate { requests: requests.len(), expected, most: limit, expected_usd: amount.usd, most_usd: dearest.usd, refusal }
    }
}

impl Reservation<'_> {
    /// The attempt took `usage`.
    pub(super) fn settle(self, usage: Usage, rate: Rate) {
        self.budget.spend(usage, rate);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut purse = self.budget.purse();
        purse.held -= 1;
        purse.reserved.usd -= self.amount.usd;
        purse.reserved.tokens = purse.reserved.tokens.saturating_sub(self.amount.tokens);
        // What is left after the last call is rounding, not money.
        if purse.held == 0 {
            purse.reserved = Amount::default();
        }
        drop(purse);
        self.budget.settled.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Usage = Usage { input_tokens: 0, output_tokens: 1 };

    #[test]
    fn a_reservation_waits_for_calls_under_way() {
        let settings = Settings { budget_usd: 1.0, output_usd_per_mtok: 1e6, ..Settings::default() };
        let budget = Budget::new(&settings, Spent::default()).unwrap();
        let first = budget.reserve(ONE, Rate::Live).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| budget.reserve(ONE, Rate::Live).map(|reservation| reservation.settle(ONE, Rate::Live)));
            first.settle(Usage::default(), Rate::Live);
            second.join().unwrap().unwrap();
        });
        let error = budget.reserve(ONE, Rate::Live).err().unwrap().to_string();
        assert_eq!(error, "teacher.budget_usd: 1.0000 of 1.0000 USD are spent, and the next call could cost 1.0000");
    }

    #[test]
    fn tokens_are_limited_as_dollars_are_and_a_batch_costs_half() {
        let settings = Settings { budget_tokens: Some(10), budget_usd: 100.0, output_usd_per_mtok: 1e6, ..Settings::default() };
        let eight = Usage { input_tokens: 3, output_tokens: 5 };
        let budget = Budget::new(&settings, Spent { live: eight, batch: ONE }).unwrap();
        let spent = budget.purse().spent;
        assert_eq!((spent.usd, spent.tokens), (5.5, 9));
        assert!(budget.has_room(ONE, Rate::Batch) && !budget.has_room(eight, Rate::Batch));
        let error = budget.reserve(eight, Rate::Live).err().unwrap().to_string();
        assert_eq!(error, "teacher.budget_tokens: 9 of 10 tokens are spent, and the next call could take 8");
        let held = budget.commit(eight, Rate::Batch);
        assert!(!budget.has_room(ONE, Rate::Batch));
        drop(held);
        assert!(budget.has_room(ONE, Rate::Batch));
    }

    #[test]
    fn an_estimate_names_the_limit_that_it_breaks() {
        // Two requests of 300 bytes, 100 tokens each; answers of 756, cut at 700, and 673 tokens. 1 USD a token read, 2 written, /1000.
        let settings = Settings {
            budget_usd: 3.0,
            input_usd_per_mtok: 1e3,
            output_usd_per_mtok: 2e3,
            budget_tokens: None,
            ..Settings::default()
        };
        let spent = Spent { live: Usage { input_tokens: 100, output_tokens: 0 }, ..Spent::default() };
        let requests = [(300, TRACE_TOKENS), (300, JUDGMENT_TOKENS)];
        let estimate = |settings: &Settings, rate| Budget::new(settings, spent).unwrap().estimate(&requests, 700, rate);
        let live = estimate(&settings, Rate::Live);
        assert_eq!(live.expected, Usage { input_tokens: 200, output_tokens: 1373 });
        assert_eq!(live.most, Usage { input_tokens: 1112, output_tokens: 1400 });
        assert!((live.expected_usd - 2.946).abs() < 1e-9 && (live.most_usd - 3.912).abs() < 1e-9);
        let (key, what) = live.refusal.clone().unwrap();
        assert_eq!(key, "teacher.budget_usd");
        assert!(what.starts_with("3.00 USD would not do: 0.10 are spent, 2.95 more are expected; raise it"), "{what}");
        assert_eq!(
            live.to_string(),
            "2 requests, about 200 tokens in (3 bytes each) and 1373 out (the paper's averages), 2.95 USD; at most 1112 in and 1400 \
             out, 3.91 USD"
        );
        let batch = estimate(&settings, Rate::Batch);
        assert!((batch.expected_usd - 1.473).abs() < 1e-9 && batch.refusal.is_none());
        assert_eq!(estimate(&Settings { start_anyway: true, ..settings.clone() }, Rate::Live).refusal, None);
        let tokens = Settings { budget_tokens: Some(1672), ..settings };
        assert_eq!(estimate(&tokens, Rate::Batch).refusal.unwrap().0, "teacher.budget_tokens");
    }
}
