//! A problem as text, and text as tokens with a loss mask.
//!
//! Sampling and training must see the same tokens. So a prompt is always tokenised on its own, with the template's generation
//! prompt at its end, and what the model writes is tokenised as its continuation.

mod template;

pub use template::render_chat;

use crate::error::{Error, Result};
use crate::record::{Message, Problem};
use crate::tokenizer::Tokenizer;

/// The paper's instruction for traces, p_trace of Eq 4.
pub const P_TRACE: &str = "Please fix the bug in this code. First analyze the problem, identify the bug, explain your reasoning, \
                           and then provide the corrected code.";

/// The paper's instruction for judgments, p_compare of Eq 10.
pub const P_COMPARE: &str = "I'll show you a programming task and multiple solution attempts. Your job is to evaluate each \
                             solution carefully, then rank them from best to worst.";

/// What the user says for a problem. A repair problem: the instruction, the description and the buggy code in a fence, with blank
/// lines between; never its tests. A generate problem: the description, then MBPP's "Your code should pass these tests:" with
/// those tests that are assertions (whole test programs are not shown).
pub fn user_text(problem: &Problem, instruction: &str) -> String {
    let description = problem.prompt.trim_end();
    match &problem.buggy {
        Some(buggy) => [instruction, description, &fenced(buggy, &problem.language)]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("\n\n"),
        None => {
            let tests: Vec<&str> =
                problem.check.tests.iter().map(|test| test.trim()).filter(|test| test.starts_with("assert")).collect();
            match tests.is_empty() {
                true => description.to_string(),
                false => format!("{description}\n\nYour code should pass these tests:\n\n{}", tests.join("\n")),
            }
        }
    }
}

/// What the model should say: the reasoning, a blank line, the code in a fence (r ⊕ ŷ of Eq 7). Without reasoning, the code alone
/// (Eq 8). [`split_answer`] takes it apart again.
pub fn answer_text(reasoning: &str, code: &str, language: &str) -> String {
    match reasoning.trim() {
        "" => fenced(code, language),
        reasoning => format!("{reasoning}\n\n{}", fenced(code, language)),
    }
}

/// Code in a fence that is marked with its language and longer than any fence in the code.
pub fn fenced(code: &str, language: &str) -> String {
    let longest = code.lines().map(|line| backticks(line.trim_start())).max().unwrap_or(0);
    let fence = "`".repeat(3.max(longest + 1));
    format!("{fence}{language}\n{}\n{fence}", code.trim_end())
}

fn backticks(line: &str) -> usize {
    line.len() - line.trim_start_matches('`').len()
}

/// What a fence is marked with in a language, in lower case.
fn marks(language: &str) -> &[&str] {
    match language {
        "python" => &["python", "py", "python3"],
        "cpp" => &["cpp", "c++", "cc", "cxx"],
        "javascript" => &["javascript", "js", "node"],
        "go" => &["go", "golang"],
        "rust" => &["rust", "rs"],
        "java" => &["java"],
        _ => &[],
    }
}

/// Takes a model's text apart: (reasoning, answer). The answer is the inside of the last closed fenced block marked with the
/// language (or one of its usual aliases) or not at all; where there is none, of the last closed block of any kind. The
/// reasoning is the text before that block, trimmed. A text without a fence, or one that ends inside a fence (cut by a length
/// limit), has no answer: the answer is empty, the reasoning is the text before the open fence.
pub fn split_answer(text: &str, language: &str) -> (String, String) {
    struct Block {
        start: usize,
        own: bool,
        code: String,
    }
    struct Open<'a> {
        start: usize,
        ticks: usize,
        indent: &'a str,
        own: bool,
        lines: Vec<&'a str>,
    }
    let mut blocks: Vec<Block> = Vec::new();
    let mut open: Option<Open<'_>> = None;
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let start = offset;
        offset += line.len();
        let line = line.trim_end_matches(['\n', '\r']);
        let inner = line.trim_start();
        let ticks = backticks(inner);
        let info = inner[ticks..].trim();
        match open.take() {
            None if ticks >= 3 && !info.contains('`') => {
                // `{.java}` and `java,ignore` are marks too.
                let mark = info.split([' ', '\t', ',', '{', '}', '.']).find(|word| !word.is_empty()).unwrap_or_default();
                let mark = mark.to_ascii_lowercase();
                let own = mark.is_empty() || mark == language || marks(language).contains(&mark.as_str());
                let indent = &line[..line.len() - inner.len()];
                open = Some(Open { start, ticks, indent, own, lines: Vec::new() });
            }
            None => {}
            Some(block) if ticks >= block.ticks && info.is_empty() => {
                blocks.push(Block { start: block.start, own: block.own, code: block.lines.join("\n") });
            }
            Some(mut block) => {
                block.lines.push(line.strip_prefix(block.indent).unwrap_or(inner));
                open = Some(block);
            }
        }
    }
    if let Some(block) = open {
        return (text[..block.start].trim().to_string(), String::new());
    }
    match blocks.iter().rev().find(|block| block.own).or(blocks.last()) {
        Some(block) => (text[..block.start].trim().to_string(), block.code.clone()),
        None => (text.trim().to_string(), String::new()),
    }
}

/// Tokens of a conversation, and which of them the loss is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The ids.
    pub tokens: Vec<u32>,
    /// As long as `tokens`: true where the model should have written the token itself.
    pub mask: Vec<bool>,
}

impl Example {
    fn push(&mut self, tokens: Vec<u32>, trained: bool) {
        self.mask.resize(self.mask.len() + tokens.len(), trained);
        self.tokens.extend(tokens);
    }
}

/// The prompt that an answer to `messages` is sampled from.
pub fn prompt_tokens(tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>> {
    // A template writes the begin token itself.
    tokenizer.encode(&render(tokenizer, messages, true)?, tokenizer.chat_template().is_none())
}

/// A conversation to train on. The loss is on each assistant turn's content and on the token that ends it, on nothing else: not on
/// the prompt, not on a template's white space after the end token. Where the template ends a turn without an end token, one is
/// appended. What precedes the first assistant turn is exactly [`prompt_tokens`]. More than `max_tokens` tokens are cut at
/// the end; none if nothing to train on is left. Errors if the template rewrites earlier turns, so that no prompt is a prefix.
pub fn conversation(tokenizer: &Tokenizer, messages: &[Message], max_tokens: usize) -> Result<Option<Example>> {
    let mut example = Example { tokens: Vec::new(), mask: Vec::new() };
    // How much of the conversation's text is tokenised.
    let mut done = String::new();
    for (index, _) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant") {
        let prompt = render(tokenizer, &messages[..index], true)?;
        let whole = render(tokenizer, &messages[..=index], false)?;
        let (Some(before), Some(completion)) = (prompt.strip_prefix(done.as_str()), whole.strip_prefix(prompt.as_str())) else {
            let what = format!("a template expected whose text only grows; turn {index} rewrites what stood before it");
            return Err(Error::input("chat_template", what));
        };
        match example.tokens.is_empty() {
            true => example.push(prompt_tokens(tokenizer, &messages[..index])?, false),
            false => example.push(tokenizer.encode_continuation(before)?, false),
        }
        let turn = end_turn(tokenizer, completion);
        done.clear();
        done.push_str(&whole[..prompt.len() + turn.len()]);
        let mut tokens = tokenizer.encode_continuation(turn)?;
        if tokens.last().is_none_or(|last| !tokenizer.eos_ids().contains(last)) {
            tokens.push(tokenizer.eos());
        }
        example.push(tokens, true);
    }
    example.tokens.truncate(max_tokens);
    example.mask.truncate(max_tokens);
    Ok(example.mask.contains(&true).then_some(example))
}

/// What the reward model reads: the prompt as the user's turn and the answer as the assistant's in its own chat template, or,
/// where it has none, the prompt, a blank line and the answer after its begin token. The last token is always its end token, also
/// where the text is cut to `max_tokens`.
pub fn reward_tokens(tokenizer: &Tokenizer, prompt: &str, answer: &str, max_tokens: usize) -> Result<Vec<u32>> {
    let text = render(tokenizer, &[Message::user(prompt), Message::assistant(answer)], false)?;
    let templated = tokenizer.chat_template().is_some();
    let text = if templated { end_turn(tokenizer, &text) } else { &text };
    let mut tokens = tokenizer.encode(text, !templated)?;
    if templated && tokens.last().is_some_and(|last| tokenizer.eos_ids().contains(last)) {
        let end = tokens.pop();
        tokens.truncate(max_tokens.saturating_sub(1));
        tokens.extend(end);
    } else {
        tokens.truncate(max_tokens.saturating_sub(1));
        tokens.push(tokenizer.eos());
    }
    Ok(tokens)
}

fn render(tokenizer: &Tokenizer, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
    let (bos, eos) = (tokenizer.bos_token(), tokenizer.eos_token());
    render_chat(tokenizer.chat_template(), messages, add_generation_prompt, bos, eos)
}

/// A turn's text without the template's white space after its end token; unchanged where no end token ends it.
fn end_turn<'a>(tokenizer: &Tokenizer, turn: &'a str) -> &'a str {
    let trimmed = turn.trim_end();
    let ends = |id: &u32| tokenizer.token(*id).is_some_and(|token| trimmed.ends_with(&token));
    if tokenizer.chat_template().is_some() && tokenizer.eos_ids().iter().any(ends) { trimmed } else { turn }
}
