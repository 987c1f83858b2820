//! What the teacher cost, from the tokens that its answers took and the recipe's prices.

use super::folder::Folder;
use crate::recipe::{Provider, Recipe};
use crate::record::Usage;

/// What a stage asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Spent {
    pub answers: usize,
    pub usage: Usage,
    /// US dollars.
    pub usd: f64,
}

/// What a run asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Money {
    /// Whether nobody is paid.
    free: bool,
    collect: Spent,
    judge: Spent,
}

impl Money {
    /// From every answer in `teacher.jsonl`; where that is not there, from what the traces say they took.
    pub fn of(recipe: &Recipe, folder: &Folder) -> Money {
        let teacher = &recipe.teacher;
        let free = matches!(teacher.provider, Provider::Scripted | Provider::Recorded);
        let price = |usage: &Usage, batch: bool| {
            let read = usage.input_tokens as f64 * teacher.input_usd_per_mtok;
            let written = usage.output_tokens as f64 * teacher.output_usd_per_mtok;
            // A batch's answers come at half the price.
            if free { 0.0 } else { (read + written) / 1e6 * if batch { 0.5 } else { 1.0 } }
        };
        let mut money = Money { free, collect: Spent::default(), judge: Spent::default() };
        let mut add = |purpose: &str, usage: &Usage, batch: bool| {
            let spent = if purpose == "trace" { &mut money.collect } else { &mut money.judge };
            spent.answers += 1;
            spent.usage.input_tokens += usage.input_tokens;
            spent.usage.output_tokens += usage.output_tokens;
            spent.usd += price(usage, batch);
        };
        folder.paid.iter().for_each(|paid| add(&paid.purpose, &paid.usage, paid.batch));
        if folder.paid.is_empty() {
            folder.traces.iter().for_each(|trace| add("trace", &trace.usage, false));
        }
        money
    }

    /// What a stage asked for; none where it asks for nothing.
    pub fn stage(&self, name: &str) -> Option<&Spent> {
        let spent = match name {
            "collect" => &self.collect,
            "judge" => &self.judge,
            _ => return None,
        };
        (spent.answers > 0).then_some(spent)
    }

    /// US dollars of all stages.
    pub fn usd(&self) -> f64 {
        self.collect.usd + self.judge.usd
    }

    /// Tokens of all stages, read and written; empty where there are none.
    pub fn tokens(&self) -> String {
        let sum = |of: fn(&Usage) -> u64| of(&self.collect.usage) + of(&self.judge.usage);
        match self.collect.answers + self.judge.answers {
            0 => String::new(),
            _ => format!("{} + {}", sum(|usage| usage.input_tokens), sum(|usage| usage.output_tokens)),
        }
    }

    /// An amount in words.
    pub fn said(&self, usd: f64) -> String {
        match usd {
            _ if self.free => "nothing".into(),
            usd if usd > 0.0 && usd < 0.01 => format!("${usd:.4}"),
            usd => format!("${usd:.2}"),
        }
    }

    /// What the amounts are of.
    pub fn note(&self, recipe: &Recipe) -> String {
        let teacher = &recipe.teacher;
        let of = match teacher.provider {
            Provider::Scripted => "The teacher is a script, which costs nothing.".to_string(),
            Provider::Recorded => "The teacher's answers came from a file, which costs nothing.".to_string(),
            _ => format!(
                "Cost is the teacher's, at ${} a million tokens read and ${} written, half of that in batches.",
                teacher.input_usd_per_mtok, teacher.output_usd_per_mtok
            ),
        };
        format!("{of} Time is wall-clock time over all attempts; the machine's price is not known here.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::folder::Paid;

    fn folder() -> Folder {
        let paid = |purpose: &str, input_tokens, output_tokens, batch| Paid {
            purpose: purpose.into(),
            usage: Usage { input_tokens, output_tokens },
            batch,
        };
        let paid = vec![
            paid("trace", 1_000_000, 100_000, false),
            paid("trace", 1_000_000, 100_000, true),
            paid("compare", 2_000, 1_000, false),
            paid("rank", 0, 0, false),
        ];
        Folder { paid, ..Folder::default() }
    }

    #[test]
    fn tokens_cost_what_the_recipe_says() {
        // 3 and 15 dollars a million: 3 + 1.5, then half of it; 0.006 + 0.015.
        let money = Money::of(&Recipe::default(), &folder());
        assert_eq!(
            money.collect,
            Spent { answers: 2, usage: Usage { input_tokens: 2_000_000, output_tokens: 200_000 }, usd: 6.75 }
        );
        assert_eq!(
            (money.judge.answers, money.said(money.judge.usd), money.said(money.usd())),
            (2, "$0.02".into(), "$6.77".into())
        );
        assert_eq!((money.tokens(), money.stage("sft")), ("2002000 + 201000".into(), None));
    }

    #[test]
    fn a_script_costs_nothing() {
        let mut recipe = Recipe::default();
        recipe.teacher.provider = Provider::Scripted;
        let money = Money::of(&recipe, &folder());
        assert_eq!((money.usd(), money.said(0.0)), (0.0, "nothing".into()));
        assert!(money.note(&recipe).starts_with("The teacher is a script, which costs nothing."));
    }
}
