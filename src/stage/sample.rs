//! What candidates and evaluation share: a student answers problems, and its answers are checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{Files, checker, instruction, load, provenance};
use crate::comm::{Group, Shared};
use crate::device::{Device, Sampling};
use crate::error::{Error, Result};
use crate::generate::{self, Request};
use crate::model::{Adapter, Decoder};
use crate::optim::{deal, gather_dealt};
use crate::prompt;
use crate::recipe::{Recipe, Train};
use crate::record::{Candidate, Extra, Message, Problem};
use crate::rng::key;
use crate::telemetry::{Progress, interrupt, words};
use crate::tokenizer::Tokenizer;

/// A model that answers.
pub struct Student<D: Device> {
    /// What records call it.
    pub name: String,
    decoder: Decoder<D>,
    adapter: Option<Adapter<D>>,
    tokenizer: Tokenizer,
}

/// The folders of a model of the run: the base, the SFT model, PPO's policy.
pub fn folders(recipe: &Recipe, name: &str) -> Result<(PathBuf, Option<PathBuf>)> {
    let files = Files::of(recipe);
    let base = recipe.policy.model.clone();
    Ok(match (name, recipe.sft.train) {
        ("base", _) => (base, None),
        ("sft", Train::Lora) => (base, Some(files.sft_result(Train::Lora))),
        ("sft", Train::Full) => (files.sft_result(Train::Full), None),
        ("ppo", Train::Lora) => (base, Some(files.ppo_adapter())),
        ("ppo", Train::Full) => (files.sft_result(Train::Full), Some(files.ppo_adapter())),
        _ => return Err(Error::input("evaluate.models", format!("base, sft or ppo expected, {name} found"))),
    })
}

/// What a student is asked for.
pub struct Ask<'a> {
    /// What random streams are named after: a stage draws its own.
    pub purpose: &'a str,
    /// Answers to each problem.
    pub per_problem: usize,
    /// Answer `i` of a problem takes the `i`-th, round and round.
    pub temperatures: &'a [f64],
    /// Tokens of an answer at most.
    pub max_new_tokens: usize,
    /// See [`Sampling`].
    pub top_k: usize,
    /// See [`Sampling`].
    pub top_p: f64,
    /// Sequences decoded together.
    pub batch: usize,
}

impl<D: Device> Student<D> {
    /// Loads a model of the run.
    pub fn load(device: &D, comm: &Shared<D>, recipe: &Recipe, name: &str) -> Result<Self> {
        let (base, adapter) = folders(recipe, name)?;
        Self::open(device, comm, recipe, name, (&base, adapter.as_deref()))
    }

    /// Loads a model and an adapter from their folders.
    pub fn open(
        device: &D,
        comm: &Shared<D>,
        recipe: &Recipe,
        name: &str,
        (base, adapter): (&Path, Option<&Path>),
    ) -> Result<Self> {
        let tokenizer = Tokenizer::load(base)?;
        let decoder = load(&format!("{name} model"), base, || match recipe.shard_frozen {
            true => Decoder::load_shared(device, comm, base, true),
            false => Decoder::load(device, base),
        })?;
        super::sft::check_vocabulary(&tokenizer, decoder.config.vocab, base)?;
        let adapter = adapter.map(|folder| Adapter::load(device, &decoder.config, folder)).transpose()?;
        Ok(Student { name: name.to_string(), decoder, adapter, tokenizer })
    }

    /// Answers problems, dealt to the ranks; every rank gets all records. They come by problem, then by index, and are not checked
    /// yet.
    pub fn answer(
        &self,
        device: &D,
        group: &Group,
        recipe: &Recipe,
        problems: &[&Problem],
        ask: &Ask<'_>,
    ) -> Result<Vec<Candidate>> {
        let own = self.own_answers(device, group, recipe, problems, ask)?;
        Ok(gather_dealt(group.exchange_json("answers", &own)?))
    }

    /// This rank's part of them.
    fn own_answers(
        &self,
        device: &D,
        group: &Group,
        recipe: &Recipe,
        problems: &[&Problem],
        ask: &Ask<'_>,
    ) -> Result<Vec<Candidate>> {
        let prompts = problems
            .iter()
            .map(|problem| {
                let text = prompt::user_text(problem, instruction(recipe));
                prompt::prompt_tokens(&self.tokenizer, &[Message::user(text)])
            })
            .collect::<Result<Vec<_>>>()?;
        let total = problems.len() * ask.per_problem;
        let temperature = |index: usize| ask.temperatures[index % ask.temperatures.len()];
        let own: Vec<usize> = deal(total, group.ranks(), group.rank()).collect();
        let mut answers: BTreeMap<usize, Candidate> = BTreeMap::new();
        let progress = Progress::new(&format!("{}: {}", ask.purpose, self.name), own.len() as u64).rated("answers");
        let (mut finished, mut tokens) = (0, 0);
        let started = Instant::now();
        for degree in distinct(ask.temperatures) {
            let places: Vec<usize> = own.iter().copied().filter(|place| temperature(place % ask.per_problem) == degree).collect();
            let purpose = format!("{} {}", ask.purpose, self.name);
            let requests: Vec<Request> = places
                .iter()
                .map(|place| Request {
                    prompt: prompts[place / ask.per_problem].clone(),
                    key: key(recipe.seed, &purpose, *place as u64),
                })
                .collect();
            let settings = generate::Settings {
                sampling: Sampling { temperature: degree as f32, top_k: ask.top_k, top_p: ask.top_p as f32 },
                max_new_tokens: ask.max_new_tokens,
                eos: self.tokenizer.eos_ids().to_vec(),
                batch: ask.batch,
            };
            let eos = &settings.eos;
            let mut lengths = vec![0; requests.len()];
            let mut on_token = |index: usize, token: u32| {
                (tokens, lengths[index]) = (tokens + 1, lengths[index] + 1);
                finished += usize::from(eos.contains(&token) || lengths[index] == ask.max_new_tokens);
                let speed = words::rate(tokens as f64 / started.elapsed().as_secs_f64(), "tokens");
                progress.set(finished as u64, &speed);
                if interrupt::requested() { Err(Error::Interrupted) } else { group.check() }
            };
            let samples = generate::generate(device, &self.decoder, self.adapter.as_ref(), &requests, &settings, &mut on_token);
            let samples = group.together(samples)?;
            for (place, sample) in places.into_iter().zip(samples) {
                let text = self.tokenizer.decode(&sample.tokens, true)?;
                let (_, answer) = prompt::split_answer(&text, &problems[place / ask.per_problem].language);
                let mut extra = Extra::new();
                extra.insert("tokens".into(), sample.tokens.len().into());
                extra.insert("ended".into(), sample.ended.into());
                // Its temperature has a field of its own.
                let mut told = provenance(problems[place / ask.per_problem], degree, ask.max_new_tokens);
                told.shift_remove("temperature");
                extra.extend(told);
                let answer = Candidate {
                    id: problems[place / ask.per_problem].id.clone(),
                    index: place % ask.per_problem,
                    model: self.name.clone(),
                    temperature: degree,
                    text,
                    answer,
                    verdict: None,
                    extra,
                };
                answers.insert(place, answer);
            }
        }
        progress.finish("");
        Ok(answers.into_values().collect())
    }
}

fn distinct(temperatures: &[f64]) -> Vec<f64> {
    let mut seen: Vec<f64> = Vec::new();
    for temperature in temperatures {
        if !seen.contains(temperature) {
            seen.push(*temperature);
        }
    }
    seen
}

/// Checks answers in the sandbox.
pub fn check(recipe: &Recipe, stage: &str, problems: &[&Problem], answers: &mut [Candidate]) -> Result<()> {
    let items = answers
        .iter()
        .map(|answer| {
            let problem = problems.iter().find(|problem| problem.id == answer.id);
            let problem = problem.ok_or_else(|| Error::input(format!("answer to {}", answer.id), "no such problem"))?;
            Ok((*problem, answer.answer.as_str()))
        })
        .collect::<Result<Vec<_>>>()?;
    let progress = Progress::new(&format!("{stage}: check"), items.len() as u64).rated("checks");
    let verdicts = checker(recipe)?.check_all(&items, &|done| progress.set(done as u64, ""))?;
    progress.finish("");
    for (answer, verdict) in answers.iter_mut().zip(verdicts) {
        answer.verdict = Some(verdict);
    }
    Ok(())
}
