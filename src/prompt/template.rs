//! Chat templates, rendered as Transformers renders them: Jinja2 with `trim_blocks` and `lstrip_blocks`, loop controls, `tojson`,
//! `raise_exception`, and the methods of Python's strings and dictionaries that templates call.
//!
//! `strftime_now` is left undefined: a prompt must not change with the date, and templates have a fixed date for that case.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{ValueKind, from_args};
use minijinja::{Environment, Error as JinjaError, ErrorKind, State, Value, context};

use crate::error::{Error, Result};
use crate::record::Message;

/// The text of a conversation. Without a template, the turns' contents with a blank line between them, and with
/// `add_generation_prompt` a blank line at the end. `bos` and `eos` are the texts that the template calls `bos_token` and
/// `eos_token`. Errors carry the template's line, or what the template raised.
pub fn render_chat(
    template: Option<&str>,
    messages: &[Message],
    add_generation_prompt: bool,
    bos: &str,
    eos: &str,
) -> Result<String> {
    let Some(source) = template else {
        let contents: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
        return Ok(contents.join("\n\n") + if add_generation_prompt { "\n\n" } else { "" });
    };
    // Transformers' own block around what the model writes; it marks, and changes no text.
    let source = ["{%", "{%-", "{%+"].iter().fold(source.to_string(), |source, open| {
        source
            .replace(&format!("{open} generation "), &format!("{open} if true "))
            .replace(&format!("{open} endgeneration "), &format!("{open} endif "))
    });
    let messages: Vec<Value> = messages
        .iter()
        .map(|message| Value::from_pairs([("role", message.role.as_str()), ("content", message.content.as_str())]))
        .collect();
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|e| Error::input("chat_template", e))?);
    environment.add_function("raise_exception", |message: String| -> std::result::Result<Value, JinjaError> {
        Err(JinjaError::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_filter("tojson", |value: Value| -> String { json(&value) });
    environment.set_unknown_method_callback(method);
    environment
        .render_named_str(
            "chat_template",
            &source,
            context! { messages, add_generation_prompt, bos_token => bos, eos_token => eos },
        )
        .map_err(|e| {
            let at = e.line().map_or("chat_template".to_string(), |line| format!("chat_template:{line}"));
            Error::input(at, e.detail().map_or_else(|| e.kind().to_string(), String::from))
        })
}

/// A value as Python's `json.dumps(value, ensure_ascii=False)` writes it.
fn json(value: &Value) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let items = |value: &Value| value.try_iter().into_iter().flatten().collect::<Vec<_>>();
    match value.kind() {
        ValueKind::None | ValueKind::Undefined => "null".into(),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => format!("[{}]", items(value).iter().map(json).collect::<Vec<_>>().join(", ")),
        ValueKind::Map => {
            let field = |key: Value| {
                let inner = value.get_item(&key).unwrap_or_default();
                format!("{}: {}", quoted(&key.to_string()), json(&inner))
            };
            format!("{{{}}}", items(value).into_iter().map(field).collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

/// The methods of Python's `str` and `dict` that chat templates use.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> std::result::Result<Value, JinjaError> {
    if value.kind() == ValueKind::Map {
        return match name {
            "get" => {
                let (key, default): (Value, Option<Value>) = from_args(args)?;
                let found = value.get_item(&key)?;
                Ok(if found.is_undefined() { default.unwrap_or(Value::from(())) } else { found })
            }
            "keys" => Ok(value.try_iter()?.collect()),
            "values" => value.try_iter()?.map(|key| value.get_item(&key)).collect(),
            "items" => state.apply_filter("items", std::slice::from_ref(value)),
            _ => Err(JinjaError::from(ErrorKind::UnknownMethod)),
        };
    }
    let Some(text) = value.as_str() else { return Err(JinjaError::from(ErrorKind::UnknownMethod)) };
    // Python strips white space, or any of the characters given.
    let strip = || -> std::result::Result<Box<dyn Fn(char) -> bool>, JinjaError> {
        let (characters,): (Option<String>,) = from_args(args)?;
        Ok(match characters {
            Some(characters) => Box::new(move |c| characters.contains(c)),
            None => Box::new(char::is_whitespace),
        })
    };
    let one = || -> std::result::Result<String, JinjaError> { Ok(from_args::<(String,)>(args)?.0) };
    Ok(match name {
        "strip" => text.trim_matches(strip()?.as_ref()).into(),
        "lstrip" => text.trim_start_matches(strip()?.as_ref()).into(),
        "rstrip" => text.trim_end_matches(strip()?.as_ref()).into(),
        "startswith" => text.starts_with(&one()?).into(),
        "endswith" => text.ends_with(&one()?).into(),
        "removeprefix" => text.strip_prefix(&one()?).unwrap_or(text).into(),
        "removesuffix" => text.strip_suffix(&one()?).unwrap_or(text).into(),
        "upper" => text.to_uppercase().into(),
        "lower" => text.to_lowercase().into(),
        "title" | "capitalize" => state.apply_filter(name, std::slice::from_ref(value))?,
        "find" => text.find(&one()?).map_or(Value::from(-1), |at| text[..at].chars().count().into()),
        "count" => text.matches(&one()?).count().into(),
        "replace" => {
            let (from, to): (String, String) = from_args(args)?;
            text.replace(&from, &to).into()
        }
        "splitlines" => text.lines().map(Value::from).collect(),
        "split" => {
            let (separator, most): (Option<String>, Option<usize>) = from_args(args)?;
            match (separator, most) {
                (Some(separator), Some(most)) => text.splitn(most + 1, &separator).map(Value::from).collect(),
                (Some(separator), None) => text.split(&separator).map(Value::from).collect(),
                (None, _) => text.split_whitespace().map(Value::from).collect(),
            }
        }
        "join" => {
            let (list,): (Value,) = from_args(args)?;
            list.try_iter()?.map(|item| item.to_string()).collect::<Vec<_>>().join(text).into()
        }
        _ => return Err(JinjaError::from(ErrorKind::UnknownMethod)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str) -> String {
        let messages = [Message::user(" Fix \"this\" <now> "), Message::assistant("a</think>b")];
        render_chat(Some(template), &messages, true, "<s>", "</s>").unwrap()
    }

    /// Expected texts are Jinja2 3.1.6's with Transformers' settings.
    #[test]
    fn python_idioms_of_templates_render_as_in_jinja2() {
        let cases = [
            ("{{ messages[0]['content'].strip() }}|", "Fix \"this\" <now>|"),
            ("{{ messages[0].content | tojson }}", "\" Fix \\\"this\\\" <now> \""),
            ("{{ messages[1] | tojson }}", "{\"role\": \"assistant\", \"content\": \"a</think>b\"}"),
            ("{{ messages[-1].content.split('</think>')[-1].lstrip('\\n') }}", "b"),
            ("{{ messages[1:][0]['role'] }}", "assistant"),
            ("{{ messages[::-1][0].role }}", "assistant"),
            (
                "{%- set ns = namespace(n=0) %}\n{%- for m in messages %}\n{%- set ns.n = ns.n + 1 %}\n{%- endfor %}\n{{ ns.n }}",
                "2",
            ),
            ("{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "user"),
            ("{% for k, v in messages[0].items() %}{{ k }};{% endfor %}", "role;content;"),
            ("{{ messages[0].get('tool_calls') is none }}", "True"),
            ("{{ bos_token + 'x' + eos_token }}{% if tools %}y{% endif %}", "<s>x</s>"),
            ("{% generation %}{{ 'q' }}{%- endgeneration -%} r", "qr"),
            ("  {% if true %}\n  x\n  {% endif %}\n", "  x\n"),
            (
                "{{ 'a b  c'.split() | join('-') }}{{ 'abc'.replace('b', 'x').upper() }}{{ 'abc'.startswith('ab') }}",
                "a-b-cAXCTrue",
            ),
        ];
        for (template, expected) in cases {
            assert_eq!(render(template), expected, "{template}");
        }
    }

    #[test]
    fn what_a_template_raises_is_an_input_error() {
        let error = render_chat(Some("\n{{ raise_exception('roles must alternate') }}"), &[], false, "", "").unwrap_err();
        assert_eq!(error.to_string(), "chat_template:2: roles must alternate");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn without_a_template_turns_are_paragraphs() {
        let messages = [Message::user("a"), Message::assistant("b")];
        assert_eq!(render_chat(None, &messages, false, "<s>", "</s>").unwrap(), "a\n\nb");
        assert_eq!(render_chat(None, &messages[..1], true, "<s>", "</s>").unwrap(), "a\n\n");
    }
}
