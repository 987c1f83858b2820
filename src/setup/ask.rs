//! What a recipe needs to know, asked line by line for what was not given.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::here::Here;
use super::suites::{SUITES, Suite};
use super::write::{Answers, Goal, TeacherChoice};
use crate::error::{Error, Result};
use crate::model::{Architecture, Config};
use crate::plan::shapes;
use crate::recipe::Provider;

/// What was given already.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Given {
    /// The benchmark.
    pub suite: Option<String>,
    /// Its file or folder.
    pub path: Option<PathBuf>,
    /// The model's folder.
    pub model: Option<PathBuf>,
    /// The folder that the reward model starts from.
    pub reward_model: Option<PathBuf>,
    /// How the teacher is reached.
    pub teacher: Option<Provider>,
    /// `recorded`: its file of answers.
    pub teacher_file: Option<PathBuf>,
    /// GPUs.
    pub gpus: Option<usize>,
    /// What the run is for.
    pub goal: Option<Goal>,
}

/// Where answers come from, line by line without their ends (none: there are no more), and where questions go.
pub struct Dialogue<'a> {
    /// The next line.
    pub next: &'a mut dyn FnMut() -> Result<Option<String>>,
    /// Questions and explanations.
    pub out: &'a mut dyn Write,
}

impl Dialogue<'_> {
    fn say(&mut self, text: &str) -> Result<()> {
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).map_err(|e| Error::io("standard error", e))
    }

    /// Asks until `read` takes the answer; an empty line is the default.
    fn ask<T>(&mut self, why: &str, what: &str, default: Option<&str>, read: impl Fn(&str) -> Result<T>) -> Result<T> {
        self.say(&format!("\n{why}\n"))?;
        loop {
            let shown = default.map(|default| format!(" [{default}]")).unwrap_or_default();
            self.say(&format!("{what}{shown}: "))?;
            let line = (self.next)()?.ok_or_else(|| {
                Error::input("standard input", format!("it ended before this was answered: {what}; nothing was written"))
            })?;
            let answer = match (line.trim(), default) {
                ("", Some(default)) => default,
                ("", None) => continue,
                (answer, _) => answer,
            };
            match read(answer) {
                Ok(value) => return Ok(value),
                Err(error) => self.say(&format!("{error}\n"))?,
            }
        }
    }
}

/// Asks for what was not given. Without a dialogue, whatever has no safe default is an error that names the flags to give.
pub fn ask(given: &Given, here: &Here, dialogue: Option<&mut Dialogue<'_>>) -> Result<Answers> {
    match dialogue {
        Some(dialogue) => interview(given, here, dialogue),
        None => quietly(given, here),
    }
}

fn interview(given: &Given, here: &Here, dialogue: &mut Dialogue<'_>) -> Result<Answers> {
    dialogue.say(&format!("Computes on {}. Enter takes what stands in brackets.\n", here.describe()))?;
    let suite = match &given.suite {
        Some(name) => Suite::named(name)?,
        None => {
            let list: String = SUITES.iter().map(|suite| format!("  {:<15} {}\n", suite.name, suite.what)).collect();
            let why = format!("Which problems? A suite:\n{}", list.trim_end());
            dialogue.ask(&why, "suite", Some("mbpp"), Suite::named)?
        }
    };
    let path = match (&given.path, suite.path) {
        (Some(path), _) => Some(path.clone()),
        (None, None) => None,
        (None, Some(usual)) => {
            let why = "Where does it lie? A file or folder; it may also be brought later.";
            Some(dialogue.ask(why, "path", Some(usual), |answer| Ok(PathBuf::from(answer)))?)
        }
    };
    let model = match &given.model {
        Some(model) => {
            shapes::of(model)?;
            model.clone()
        }
        None => {
            let why = "Which model is trained? A folder in the Hugging Face layout, Qwen2 or Llama. A Qwen2.5-Coder or CodeLlama-hf\n\
                       model that is not here yet is planned for by its name.";
            dialogue.ask(why, "model", None, |answer| shapes::of(Path::new(answer)).map(|_| PathBuf::from(answer)))?
        }
    };
    dialogue.say(&format!("  {}\n", told(&model)?))?;
    let goal = match given.goal {
        Some(goal) => goal,
        None => {
            let why = "How far? all: traces, fine-tuning, reward model, PPO. sft: ends with the fine-tuned model, no reward model\n\
                       needed. evaluate: trains nothing, measures a model.";
            let default = if suite.trains { "all" } else { "evaluate" };
            dialogue.ask(why, "stages", Some(default), Goal::named)?
        }
    };
    let teacher = match (given.teacher, goal) {
        (_, Goal::Evaluate) => TeacherChoice { provider: Provider::Scripted, file: None },
        (Some(provider), _) => TeacherChoice { provider, file: given.teacher_file.clone() },
        (None, _) => {
            let why = "Who teaches? anthropic: its API (a key in ANTHROPIC_API_KEY). openai: any server with Chat Completions, your own\n\
                       too. recorded: answers stored in a file. scripted: knows the solutions of micro, free.";
            let default = if suite.name == "micro" { "scripted" } else { "anthropic" };
            let provider = dialogue.ask(why, "teacher", Some(default), |answer| provider(answer, suite))?;
            TeacherChoice { provider, file: given.teacher_file.clone() }
        }
    };
    let teacher = match teacher {
        TeacherChoice { provider: Provider::Recorded, file: None } => {
            let why = "Which file holds its answers? A run leaves one: teacher.jsonl in its folder.";
            let file = dialogue.ask(why, "file", Some("teacher.jsonl"), |answer| Ok(PathBuf::from(answer)))?;
            TeacherChoice { provider: Provider::Recorded, file: Some(file) }
        }
        teacher => teacher,
    };
    let reward_model = match (&given.reward_model, goal) {
        (Some(folder), _) => folder.clone(),
        (None, Goal::All) => {
            let why = "What does the reward model start from? The paper: CodeLlama-7b. The model itself does as well, and is\n\
                       one download less. It reads text, so its tokenizer may be another.";
            let usual = model.display().to_string();
            dialogue
                .ask(why, "reward model", Some(&usual), |answer| shapes::of(Path::new(answer)).map(|_| PathBuf::from(answer)))?
        }
        (None, _) => model.clone(),
    };
    let gpus = match given.gpus {
        Some(gpus) => gpus,
        None if here.gpus.len() > 1 => {
            let why = format!("How many of this machine's {} GPUs?", here.gpus.len());
            dialogue.ask(&why, "gpus", Some(&here.gpus.len().to_string()), gpus_of)?
        }
        None => 1,
    };
    checked(Answers { suite: *suite, path, model, reward_model, teacher, gpus, goal })
}

fn quietly(given: &Given, here: &Here) -> Result<Answers> {
    let suite = given.suite.as_deref().map(Suite::named).transpose()?;
    let goal = given.goal.unwrap_or(if suite.is_none_or(|suite| suite.trains) { Goal::All } else { Goal::Evaluate });
    let teacher = given.teacher.or((goal == Goal::Evaluate).then_some(Provider::Scripted));
    let mut lacks = Vec::new();
    let mut lack = |missing: bool, flag| {
        if missing {
            lacks.push(flag);
        }
    };
    lack(suite.is_none(), "--suite");
    lack(given.path.is_none() && suite.is_some_and(|suite| suite.path.is_some()), "--path");
    lack(given.model.is_none(), "--model");
    lack(teacher.is_none(), "--teacher");
    lack(teacher == Some(Provider::Recorded) && given.teacher_file.is_none(), "--teacher-file");
    let (Some(suite), Some(model), Some(provider), []) = (suite, &given.model, teacher, lacks.as_slice()) else {
        let what = format!("there is no terminal to ask on, so {} must be given", lacks.join(", "));
        return Err(Error::input("recipe new", what));
    };
    shapes::of(model)?;
    let reward_model = given.reward_model.clone().unwrap_or_else(|| model.clone());
    shapes::of(&reward_model)?;
    checked(Answers {
        suite: *suite,
        path: given.path.clone(),
        model: model.clone(),
        reward_model,
        teacher: TeacherChoice { provider, file: given.teacher_file.clone() },
        gpus: given.gpus.unwrap_or(here.gpus.len().max(1)),
        goal,
    })
}

/// What no single answer can show to be wrong.
fn checked(answers: Answers) -> Result<Answers> {
    if answers.gpus == 0 {
        return Err(Error::input("--gpus", "a number of at least 1 expected"));
    }
    if answers.suite.path.is_none() && answers.path.is_some() {
        return Err(Error::input("--path", format!("suite {} is made from a seed and is read from no file", answers.suite.name)));
    }
    if answers.goal != Goal::Evaluate && answers.teacher.provider == Provider::Scripted && answers.suite.name != "micro" {
        return Err(Error::input("--teacher", "the scripted teacher knows the solutions of micro alone"));
    }
    Ok(answers)
}

fn provider(name: &str, suite: &Suite) -> Result<Provider> {
    let expected = |what: &str| Error::input("teacher", format!("{what}, found `{name}`"));
    match name {
        "anthropic" => Ok(Provider::Anthropic),
        "openai" => Ok(Provider::OpenAi),
        "recorded" => Ok(Provider::Recorded),
        "scripted" if suite.name == "micro" => Ok(Provider::Scripted),
        "scripted" => Err(Error::input("teacher", "the scripted teacher knows the solutions of micro alone")),
        _ => Err(expected("anthropic, openai, recorded or scripted expected")),
    }
}

fn gpus_of(answer: &str) -> Result<usize> {
    let number = answer.parse().ok().filter(|number| *number >= 1);
    number.ok_or_else(|| Error::input("gpus", format!("a number of at least 1 expected, found `{answer}`")))
}

/// `Qwen2, 7.62 billion parameters, 28 layers, sequences of up to 32768 tokens`, and whether it is here.
pub(super) fn told(folder: &Path) -> Result<String> {
    let known = shapes::of(folder)?;
    let absent = if known.built_in { "; not here yet, known by its name" } else { "" };
    Ok(described(&known.config) + absent)
}

pub(super) fn described(config: &Config) -> String {
    let family = match config.architecture {
        Architecture::Qwen2 => "Qwen2",
        Architecture::Llama => "Llama",
    };
    let parameters = match config.parameters() as f64 {
        x if x >= 1e9 => format!("{:.2} billion", x / 1e9),
        x => format!("{:.1} million", x / 1e6),
    };
    format!("{family}, {parameters} parameters, {} layers, sequences of up to {} tokens", config.layers, config.max_positions)
}
