//! Conversation forms known by name, for models without a chat template. In: a name; out: the form as a Jinja template.
//! Invariant: every form keeps the whole history, or refuses what it has no place for.

/// The names, for messages.
pub const NAMES: [&str; 5] = ["vicuna", "llama2", "llama3", "chatml", "mistral"];

/// The form of that name.
pub fn source(name: &str) -> Option<&'static str> {
    Some(match name {
        "vicuna" => VICUNA,
        "llama2" => LLAMA2,
        "llama3" => LLAMA3,
        "chatml" => CHATML,
        "mistral" => MISTRAL,
        _ => return None,
    })
}

/// Vicuna 1.1: `USER: .. ASSISTANT:` after a sentence that a system turn replaces.
const VICUNA: &str = r#"{%- if messages and messages[0].role == 'system' -%}
    {%- set turns = messages[1:] -%}
    {{- messages[0].content + ' ' -}}
{%- else -%}
    {%- set turns = messages -%}
    {{- 'A chat between a curious user and an artificial intelligence assistant. ' -}}
    {{- "The assistant gives helpful, detailed, and polite answers to the user's questions. " -}}
{%- endif -%}
{%- for turn in turns -%}
    {%- if turn.role == 'user' -%}
        {{- 'USER: ' + turn.content -}}
        {%- if not loop.last or add_generation_prompt -%}{{ ' ' }}{%- endif -%}
    {%- elif turn.role == 'assistant' -%}
        {{- 'ASSISTANT: ' + turn.content + (eos_token or '') -}}
    {%- else -%}
        {{- raise_exception('the form vicuna has no place for a turn of ' ~ turn.role) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"#;

/// Llama 2: `[INST] .. [/INST]`, a system turn inside the first one.
const LLAMA2: &str = r"{%- if messages and messages[0].role == 'system' -%}
    {%- set turns = messages[1:] -%}
    {%- set preface = '<<SYS>>\n' ~ messages[0].content ~ '\n<</SYS>>\n\n' -%}
{%- else -%}
    {%- set turns = messages -%}
    {%- set preface = '' -%}
{%- endif -%}
{%- if not turns -%}{{- raise_exception('the form llama2 needs a turn of the user') -}}{%- endif -%}
{%- for turn in turns -%}
    {%- if (turn.role == 'user') != (loop.index0 % 2 == 0) or turn.role not in ['user', 'assistant'] -%}
        {{- raise_exception('the form llama2 takes turns of user and assistant in alternation, beginning with user') -}}
    {%- endif -%}
    {%- set text = preface ~ turn.content if loop.first else turn.content -%}
    {%- if turn.role == 'user' -%}
        {{- (bos_token or '') ~ '[INST] ' ~ text.strip() ~ ' [/INST]' -}}
    {%- else -%}
        {{- ' ' ~ text.strip() ~ ' ' ~ (eos_token or '') -}}
    {%- endif -%}
{%- endfor -%}";

/// Llama 3: headers between special tokens.
const LLAMA3: &str = r"{{- bos_token or '' -}}
{%- for turn in messages -%}
    {{- '<|start_header_id|>' ~ turn.role ~ '<|end_header_id|>\n\n' ~ turn.content.strip() ~ '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif -%}";

/// ChatML: `<|im_start|>role .. <|im_end|>`.
const CHATML: &str = r"{%- for turn in messages -%}
    {{- '<|im_start|>' ~ turn.role ~ '\n' ~ turn.content ~ '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}";

/// Mistral: `[INST] .. [/INST]` after one BOS, a system turn before the last question.
const MISTRAL: &str = r"{%- if messages and messages[0].role == 'system' -%}
    {%- set turns = messages[1:] -%}
    {%- set preface = messages[0].content ~ '\n\n' -%}
{%- else -%}
    {%- set turns = messages -%}
    {%- set preface = '' -%}
{%- endif -%}
{%- if not turns -%}{{- raise_exception('the form mistral needs a turn of the user') -}}{%- endif -%}
{{- bos_token or '' -}}
{%- for turn in turns -%}
    {%- if (turn.role == 'user') != (loop.index0 % 2 == 0) or turn.role not in ['user', 'assistant'] -%}
        {{- raise_exception('the form mistral takes turns of user and assistant in alternation, beginning with user') -}}
    {%- endif -%}
    {%- if turn.role == 'user' -%}
        {{- '[INST] ' ~ (preface if loop.index0 >= turns|length - 2 else '') ~ turn.content ~ '[/INST]' -}}
    {%- else -%}
        {{- ' ' ~ turn.content ~ (eos_token or '') -}}
    {%- endif -%}
{%- endfor -%}";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Jinja;
    use serde_json::json;

    /// A system turn was dropped by the form mistral where an answer is continued, or where nothing else was said.
    #[test]
    fn every_form_keeps_every_turn_or_refuses_the_conversation() {
        let conversations = [
            "user",
            "system",
            "system user",
            "user assistant user",
            "system user assistant",
            "system user assistant user",
            "system user assistant user assistant",
            "user system user",
            "system system user",
            "user user",
            "assistant user",
            "user assistant",
            "user tool",
        ];
        for name in NAMES {
            let form = Jinja::new(name, "template", source(name).unwrap_or_default()).unwrap();
            let mut rendered = Vec::new();
            for roles in conversations {
                let roles: Vec<&str> = roles.split(' ').collect();
                let said = |i: usize| format!("turn {i} is said");
                let turns: Vec<_> =
                    roles.iter().enumerate().map(|(i, role)| json!({"role": role, "content": said(i)})).collect();
                let context =
                    json!({"messages": turns, "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>"});
                let Ok(text) = form.render(&context) else { continue };
                for i in 0..roles.len() {
                    assert_eq!(text.matches(&said(i)).count(), 1, "{name}, {roles:?}: {text}");
                }
                rendered.push(roles.join(" "));
            }
            for roles in
                ["user", "system user", "user assistant user", "system user assistant", "system user assistant user"]
            {
                assert!(rendered.iter().any(|r| r == roles), "{name} refuses {roles}");
            }
        }
    }
}
