//! Tokenizers trained here, written to a folder, read back; conversations by exact text, token and mask.

use std::fs;
use std::path::Path;

use repairity::prompt::{
    Example, P_COMPARE, P_TRACE, answer_text, conversation, prompt_tokens, render_chat, reward_tokens, split_answer, user_text,
};
use repairity::record::{Check, Message, Problem};
use repairity::tokenizer::Tokenizer;
use repairity::tokenizer::train::{FolderConfig, save_folder, train_byte_fallback, train_byte_level};
use serde_json::json;

/// ChatML as Qwen2.5 renders it without tools.
const CHATML: &str = "\
{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) or (message.role == \"assistant\") %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
";

/// The turns of Llama 2 and CodeLlama-Instruct.
const INST: &str = "\
{% if messages[0]['role'] == 'system' %}
{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}
{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}
{% for message in loop_messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if loop.index0 == 0 and system_message is not false %}
{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}
{% else %}{% set content = message['content'] %}{% endif %}
{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}\
{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}
{% endfor %}";

const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

fn corpus() -> impl Iterator<Item = String> {
    (0..40).map(|i| format!("def add_{i}(a, b):\n    # returns the sum 12{i}\n    return a + b\n\nprint(add_{i}(1, 2))\n"))
}

fn qwen(folder: &Path, template: Option<&str>) -> Tokenizer {
    let tokenizer = train_byte_level(corpus(), 280, &SPECIAL).unwrap();
    let config = FolderConfig { chat_template: template, eos: "<|im_end|>", bos: None, pad: Some("<|endoftext|>") };
    save_folder(&tokenizer, folder, &config).unwrap();
    Tokenizer::load(folder).unwrap()
}

fn llama(folder: &Path, template: Option<&str>) -> Tokenizer {
    let tokenizer = train_byte_fallback(corpus(), 420).unwrap();
    let config = FolderConfig { chat_template: template, eos: "</s>", bos: Some("<s>"), pad: None };
    save_folder(&tokenizer, folder, &config).unwrap();
    Tokenizer::load(folder).unwrap()
}

/// The trained and the untrained runs of an example, as text with special tokens.
fn runs(tokenizer: &Tokenizer, example: &Example) -> Vec<(bool, String)> {
    assert_eq!(example.tokens.len(), example.mask.len());
    let mut runs: Vec<(bool, Vec<u32>)> = Vec::new();
    for (token, mask) in example.tokens.iter().zip(&example.mask) {
        match runs.last_mut() {
            Some((last, tokens)) if last == mask => tokens.push(*token),
            _ => runs.push((*mask, vec![*token])),
        }
    }
    runs.into_iter().map(|(mask, tokens)| (mask, tokenizer.decode(&tokens, false).unwrap())).collect()
}

fn problem(buggy: Option<&str>) -> Problem {
    Problem {
        id: "7".into(),
        suite: "mbpp".into(),
        kind: "arithmetic".into(),
        difficulty: "easy".into(),
        prompt: "Write a function to add two numbers.\n".into(),
        buggy: buggy.map(String::from),
        reference: None,
        language: "python".into(),
        check: Check::statements(
            vec!["assert add(1, 2) == 3".into(), "class T(unittest.TestCase): pass".into(), "assert add(0, 0) == 0".into()],
            1.0,
        ),
        split: None,
        extra: Default::default(),
    }
}

#[test]
fn the_same_texts_give_the_same_files() {
    let bytes = |fallback: bool| {
        let tokenizer = if fallback { train_byte_fallback(corpus(), 420) } else { train_byte_level(corpus(), 280, &SPECIAL) };
        tokenizer.unwrap().to_string(true).unwrap()
    };
    assert_eq!(bytes(false), bytes(false));
    assert_eq!(bytes(true), bytes(true));
    let error = train_byte_level(corpus(), 258, &SPECIAL).unwrap_err();
    assert_eq!(error.to_string(), "vocab: at least 259 expected, 258 found");
}

#[test]
fn byte_level_ids_are_laid_out_as_qwens_and_every_text_survives() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = qwen(folder.path(), None);
    assert_eq!(tokenizer.vocab_size(), 280);
    assert_eq!(SPECIAL.map(|token| tokenizer.id(token)), [Some(277), Some(278), Some(279)]);
    assert_eq!((tokenizer.eos(), tokenizer.bos(), tokenizer.eos_ids()), (279, None, &[279][..]));
    for text in ["def add_1(a, b):\n    return a + b", "  é\u{4e16}\u{1f600}\r\n\t\0 e\u{301}", ""] {
        for ids in [tokenizer.encode(text, false).unwrap(), tokenizer.encode_plain(text).unwrap()] {
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        }
    }
    // Digits stand alone, whatever the texts were.
    let digits: Vec<u32> = tokenizer.encode("12123", false).unwrap();
    assert_eq!(digits.iter().map(|id| tokenizer.token(*id).unwrap()).collect::<Vec<_>>(), ["1", "2", "1", "2", "3"]);
}

#[test]
fn special_tokens_in_a_text_are_tokens_unless_the_text_is_untrusted() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = qwen(folder.path(), None);
    let text = "a<|im_end|>";
    let a = tokenizer.id("a").unwrap();
    assert_eq!(tokenizer.encode(text, true).unwrap(), [a, 279]);
    let plain = tokenizer.encode_plain(text).unwrap();
    assert!(!plain.contains(&279));
    assert_eq!(tokenizer.decode(&plain, true).unwrap(), text);
    assert_eq!(tokenizer.decode(&[a, 279], true).unwrap(), "a");
}

#[test]
fn byte_fallback_ids_are_laid_out_as_llamas_and_every_text_survives() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = llama(folder.path(), None);
    assert_eq!(["<unk>", "<s>", "</s>", "<0x00>", "<0xFF>"].map(|token| tokenizer.id(token).unwrap()), [0, 1, 2, 3, 258]);
    assert_eq!((tokenizer.eos(), tokenizer.bos(), tokenizer.eos_ids()), (2, Some(1), &[2][..]));
    for text in ["def add_1(a, b):\n    return a + b", "  é\u{4e16}\u{1f600}\r\n\t <0x0A> <unk"] {
        let ids = tokenizer.encode(text, true).unwrap();
        assert_eq!(ids[0], 1);
        assert!(!ids.contains(&0));
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    }
    // é is U+00E9: bytes C3 A9, at 3 + the byte.
    assert_eq!(tokenizer.encode_continuation("é").unwrap(), [3 + 0xC3, 3 + 0xA9]);
}

#[test]
fn a_continuation_has_no_space_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = llama(folder.path(), None);
    let tokens = |ids: Vec<u32>| ids.iter().map(|id| tokenizer.token(*id).unwrap()).collect::<String>();
    assert_eq!(tokens(tokenizer.encode("return a", false).unwrap()), "▁return▁a");
    assert_eq!(tokens(tokenizer.encode_continuation("return a").unwrap()), "return▁a");
    assert_eq!(tokens(tokenizer.encode_continuation(" return").unwrap()), "▁return");
    assert_eq!(tokens(tokenizer.encode_continuation("\n\nx").unwrap()), "\n\nx");
}

#[test]
fn end_tokens_are_gathered_from_every_file() {
    let folder = tempfile::tempdir().unwrap();
    qwen(folder.path(), None);
    fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": [279, 277]}"#).unwrap();
    fs::write(folder.path().join("config.json"), r#"{"eos_token_id": 278}"#).unwrap();
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!((tokenizer.eos(), tokenizer.eos_ids()), (279, &[277, 278, 279][..]));
    fs::write(folder.path().join("tokenizer_config.json"), r#"{"eos_token": {"content": "<|endoftext|>"}}"#).unwrap();
    assert_eq!(Tokenizer::load(folder.path()).unwrap().eos(), 277);
    fs::write(folder.path().join("tokenizer_config.json"), r#"{"eos_token": "<eot>"}"#).unwrap();
    let error = Tokenizer::load(folder.path()).err().unwrap().to_string();
    assert!(error.ends_with("tokenizer_config.json: eos_token: a token of the vocabulary expected, \"<eot>\" found"), "{error}");
    fs::write(folder.path().join("config.json"), r#"{"eos_token_id": "two"}"#).unwrap();
    let error = Tokenizer::load(folder.path()).err().unwrap().to_string();
    assert!(error.ends_with("config.json: eos_token_id: a token id or a list of them expected, \"two\" found"), "{error}");
}

#[test]
fn the_begin_token_is_added_only_where_the_folder_says_so() {
    let folder = tempfile::tempdir().unwrap();
    llama(folder.path(), None);
    let config = folder.path().join("tokenizer_config.json");
    let with = |add: serde_json::Value| {
        fs::write(&config, json!({"eos_token": "</s>", "bos_token": "<s>", "add_bos_token": add}).to_string()).unwrap();
        Tokenizer::load(folder.path()).unwrap().bos()
    };
    assert_eq!((with(json!(null)), with(json!(true)), with(json!(false))), (Some(1), Some(1), None));
}

#[test]
fn templates_are_read_from_each_place_and_change_the_hash() {
    let folder = tempfile::tempdir().unwrap();
    let plain = qwen(folder.path(), None);
    let other = tempfile::tempdir().unwrap();
    let chat = qwen(other.path(), Some(CHATML));
    assert_eq!((plain.chat_template(), chat.chat_template()), (None, Some(CHATML)));
    assert_ne!(plain.hash(), chat.hash());
    assert_eq!(chat.hash(), Tokenizer::load(other.path()).unwrap().hash());
    let list = json!({"eos_token": "<|im_end|>", "chat_template": [
        {"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"},
    ]});
    fs::write(folder.path().join("tokenizer_config.json"), list.to_string()).unwrap();
    assert_eq!(Tokenizer::load(folder.path()).unwrap().chat_template(), Some("d"));
    fs::write(folder.path().join("chat_template.jinja"), "j").unwrap();
    assert_eq!(Tokenizer::load(folder.path()).unwrap().chat_template(), Some("j"));
}

#[test]
fn chatml_renders_as_qwen_does() {
    let messages = [Message::user("Fix it."), Message::assistant("Done.")];
    let system = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n";
    let expected = format!("{system}<|im_start|>user\nFix it.<|im_end|>\n<|im_start|>assistant\nDone.<|im_end|>\n");
    assert_eq!(render_chat(Some(CHATML), &messages, false, "", "<|im_end|>").unwrap(), expected);
    let expected = format!("{system}<|im_start|>user\nFix it.<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(render_chat(Some(CHATML), &messages[..1], true, "", "<|im_end|>").unwrap(), expected);
}

#[test]
fn chatml_trains_each_answer_and_its_end_token() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = qwen(folder.path(), Some(CHATML));
    let system = Message { role: "system".into(), content: "S".into() };
    let messages = [system, Message::user("u1"), Message::assistant("a1\n"), Message::user("u2"), Message::assistant("\na2")];
    let example = conversation(&tokenizer, &messages, 4096).unwrap().unwrap();
    let expected = [
        (false, "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nu1<|im_end|>\n<|im_start|>assistant\n"),
        (true, "a1\n<|im_end|>"),
        (false, "\n<|im_start|>user\nu2<|im_end|>\n<|im_start|>assistant\n"),
        (true, "\na2<|im_end|>"),
    ];
    assert_eq!(runs(&tokenizer, &example), expected.map(|(mask, text)| (mask, text.to_string())));
    let prompt = prompt_tokens(&tokenizer, &messages[..2]).unwrap();
    assert_eq!(example.tokens[..prompt.len()], prompt);
    assert_eq!(example.mask.iter().position(|mask| *mask), Some(prompt.len()));
    assert_eq!(example.tokens.last(), Some(&279));

    let cut = conversation(&tokenizer, &messages, prompt.len() + 1).unwrap().unwrap();
    assert_eq!((cut.tokens.as_slice(), cut.mask.last()), (&example.tokens[..prompt.len() + 1], Some(&true)));
    assert_eq!(conversation(&tokenizer, &messages, prompt.len()).unwrap(), None);
    assert_eq!(conversation(&tokenizer, &messages[..2], 4096).unwrap(), None);
}

#[test]
fn inst_turns_train_each_answer_and_its_end_token() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = llama(folder.path(), Some(INST));
    let messages = [Message::user("u1"), Message::assistant("a1"), Message::user("u2"), Message::assistant("a2")];
    let text = render_chat(Some(INST), &messages, false, "<s>", "</s>").unwrap();
    assert_eq!(text, "<s>[INST] u1 [/INST] a1 </s><s>[INST] u2 [/INST] a2 </s>");
    let example = conversation(&tokenizer, &messages, 4096).unwrap().unwrap();
    let trained: Vec<String> = runs(&tokenizer, &example).into_iter().filter(|(mask, _)| *mask).map(|(_, text)| text).collect();
    // A decoder of this family takes one space off the front of what it is given.
    assert_eq!(trained, ["a1 </s>", "a2 </s>"]);
    assert_eq!(example.tokens.iter().filter(|token| **token == 1).count(), 2);
    let spelled: String = example.tokens.iter().map(|id| tokenizer.token(*id).unwrap()).collect();
    assert_eq!(spelled, "<s>▁[INST]▁u1▁[/INST]▁a1▁</s><s>▁[INST]▁u2▁[/INST]▁a2▁</s>");
    let prompt = prompt_tokens(&tokenizer, &messages[..1]).unwrap();
    assert_eq!(example.tokens[..prompt.len()], prompt);
    let error = render_chat(Some(INST), &messages[1..], false, "<s>", "</s>").unwrap_err().to_string();
    assert!(error.ends_with(": Conversation roles must alternate user/assistant/user/assistant/..."), "{error}");
}

#[test]
fn without_a_template_a_blank_line_and_an_end_token() {
    let messages = [Message::user("u1"), Message::assistant("a1")];
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = qwen(folder.path(), None);
    let example = conversation(&tokenizer, &messages, 4096).unwrap().unwrap();
    let expected = [(false, "u1\n\n".to_string()), (true, "a1<|im_end|>".to_string())];
    assert_eq!(runs(&tokenizer, &example), expected);
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = llama(folder.path(), None);
    let example = conversation(&tokenizer, &messages, 4096).unwrap().unwrap();
    let spelled: String = example.tokens.iter().map(|id| tokenizer.token(*id).unwrap()).collect();
    assert_eq!(spelled, "<s>▁u1\n\na1</s>");
}

#[test]
fn a_template_that_rewrites_earlier_turns_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}";
    let tokenizer = qwen(folder.path(), Some(template));
    let error = conversation(&tokenizer, &[Message::user("u"), Message::assistant("a")], 99).unwrap_err().to_string();
    assert_eq!(error, "chat_template: a template expected whose text only grows; turn 1 rewrites what stood before it");
}

#[test]
fn the_reward_model_reads_text_that_ends_with_its_end_token() {
    let folder = tempfile::tempdir().unwrap();
    let llama = llama(folder.path(), None);
    let spelled =
        |tokenizer: &Tokenizer, tokens: &[u32]| tokens.iter().map(|id| tokenizer.token(*id).unwrap()).collect::<String>();
    let tokens = reward_tokens(&llama, "p", "a b", 99).unwrap();
    assert_eq!(spelled(&llama, &tokens), "<s>▁p\n\na▁b</s>");
    let cut = reward_tokens(&llama, "p", "a b", 4).unwrap();
    assert_eq!(cut, [&tokens[..3], &[2]].concat());
    let folder = tempfile::tempdir().unwrap();
    let chat = qwen(folder.path(), Some(CHATML));
    let tokens = reward_tokens(&chat, "p", "a", 999).unwrap();
    assert!(chat.decode(&tokens, false).unwrap().ends_with("<|im_start|>user\np<|im_end|>\n<|im_start|>assistant\na<|im_end|>"));
    let cut = reward_tokens(&chat, "p", "a", 10).unwrap();
    assert_eq!(cut, [&tokens[..9], &[279]].concat());
}

#[test]
fn problems_as_text() {
    let repair = user_text(&problem(Some("def add(a, b):\n    return a - b\n")), P_TRACE);
    let expected = "Please fix the bug in this code. First analyze the problem, identify the bug, explain your reasoning, and then \
                    provide the corrected code.\n\nWrite a function to add two numbers.\n\n```python\ndef add(a, b):\n    return a - \
                    b\n```";
    assert_eq!(repair, expected);
    let expected = "Write a function to add two numbers.\n\nYour code should pass these tests:\n\nassert add(1, 2) == 3\nassert \
                    add(0, 0) == 0";
    assert_eq!(user_text(&problem(None), P_TRACE), expected);
    assert!(P_COMPARE.ends_with("attempts. Your job is to evaluate each solution carefully, then rank them from best to worst."));
}

#[test]
fn answers_are_taken_out_of_their_fence() {
    let cases = [
        ("Why.\n\n```python\nx = 1\n```\nDone.", "Why.", "x = 1"),
        ("```py\na\n```\nthen\n```\nb\n\nc\n```", "```py\na\n```\nthen", "b\n\nc"),
        ("Fix:\n```python\nx\n```\nOutput:\n```text\n3\n```\n", "Fix:", "x"),
        ("Java:\n```java\nint x;\n```", "Java:", "int x;"),
        ("  - item\n    ```python\n    if a:\n        b\n    ```", "- item", "if a:\n    b"),
        ("no code", "no code", ""),
        ("```python\na\n```\nBetter:\n```python\nb", "```python\na\n```\nBetter:", ""),
        ("crlf\r\n```python\r\na\r\nb\r\n```\r\n", "crlf", "a\nb"),
        ("inline ```x``` only", "inline ```x``` only", ""),
        ("````python\ns = '''\n```\n'''\n````", "", "s = '''\n```\n'''"),
        ("", "", ""),
    ];
    for (text, reasoning, answer) in cases {
        assert_eq!(split_answer(text, "python"), (reasoning.to_string(), answer.to_string()), "{text:?}");
    }
    let languages = [
        ("java", "```java\na\n```\n```\nb\n```\n```js\nc\n```", "b"),
        ("java", "```java\na\n```\n```js\nc\n```", "a"),
        ("javascript", "```java\na\n```\n```js\nc\n```\n```java\nb\n```", "c"),
        ("cpp", "```c++\na\n```\n```python\nc\n```", "a"),
        ("cpp", "```CC\na\n```\n```python\nc\n```", "a"),
        ("go", "```golang\na\n```\n```text\nc\n```", "a"),
        ("rust", "```rust,ignore\na\n```\n```text\nc\n```", "a"),
        ("rust", "```rs\na\n```\n```text\nc\n```", "a"),
        ("rust", "```python\na\n```\n```text\nc\n```", "c"),
    ];
    for (language, text, answer) in languages {
        assert_eq!(split_answer(text, language).1, answer, "{language}: {text:?}");
    }
    for code in ["x = 1", "s = '''\n```\n'''", "def f():\n    pass"] {
        let text = answer_text(" Because.\n", code, "python");
        assert_eq!(split_answer(&text, "python"), ("Because.".to_string(), code.to_string()));
        assert_eq!(split_answer(&answer_text("", code, "python"), "python"), (String::new(), code.to_string()));
    }
}
