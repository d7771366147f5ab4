//! A served subject that answers attacks. In: user turns and openings; out: answers. Invariant: a plain question goes
//! through the server's own chat template, which is what its users get; an opening goes behind a prompt that is
//! rendered here where the template is known, and else behind the server's.

use super::subject::ServedSubject;
use crate::attack::search::Search;
use crate::subject::Fingerprint;
use crate::target::{Prompt, Response, TargetModel};
use eraser_data::ask::{Said, Turn};
use eraser_data::{Question, Sampling};
use eraser_model::think::answer_of;
use eraser_model::{Error, Message, Result, Thinking};
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

impl ServedSubject {
    fn marks(&self) -> Option<&Arc<Thinking>> {
        self.text.as_ref()?.template.as_ref()?.thinking()
    }

    /// New tokens that a prompt may be followed by: those of an answer and of a thought before it, as far as there is
    /// room.
    fn most(&self, prompt: &Prompt, sampling: &Sampling) -> Result<usize> {
        let most = sampling.max_new_tokens.saturating_add(self.marks().map_or(0, |thinking| thinking.most()));
        let Some(positions) = self.positions else { return Ok(most) };
        let length = match (&prompt.turn, &self.text) {
            (None, _) => prompt.ids.len(),
            (Some([user, opening]), Some(text)) => match &text.template {
                Some(template) => {
                    let rendered = template.render(&[Message::user(user.as_str())], true)?;
                    text.tokenizer.encode(&(rendered + opening))?.len()
                }
                None => return Ok(most),
            },
            // How long it is, the server knows.
            (Some(_), None) => return Ok(most),
        };
        if length >= positions {
            return Err(Error::request(format!(
                "subject {}: a prompt of {length} tokens is too long, the server takes at most {positions}",
                self.name
            ))
            .hint("shorten the question, or leave it out"));
        }
        Ok(most.min(positions - length))
    }

    fn response(&self, said: Said, open: bool) -> Response {
        let Said { text, thought, tokens, stopped, .. } = said;
        let tokens = tokens.unwrap_or_default();
        if !thought.is_empty() {
            let unfinished = text.trim().is_empty() && !stopped;
            return Response { text, thought, unfinished, tokens, stopped };
        }
        if let Some(thinking) = self.marks() {
            let eraser_model::Said { thought, answer, unfinished } = thinking.split(&text, open);
            return Response { text: answer, thought, unfinished, tokens, stopped };
        }
        let answer = answer_of(&text);
        if answer == text.trim() {
            return Response { text, thought, unfinished: false, tokens, stopped };
        }
        // Marks that many models have, and the server left in the text.
        let before = text.trim_end().strip_suffix(answer).unwrap_or_default().trim();
        Response { text: answer.to_owned(), thought: before.to_owned(), unfinished: answer.is_empty(), tokens, stopped }
    }
}

impl TargetModel for ServedSubject {
    fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    fn thinking(&self) -> Option<String> {
        self.marks().map(|thinking| thinking.settings())
    }

    fn together(&self) -> bool {
        false
    }

    fn encode(&self, user: &str, opening: &str, in_thought: bool) -> Result<Prompt> {
        let known = self.text.as_ref().and_then(|text| Some((text, text.template.as_ref()?)));
        let turns = [Message::user(user)];
        match known {
            Some((text, template)) if in_thought || !opening.is_empty() => {
                let before = if in_thought {
                    template.render_for_thought(&turns)?
                } else {
                    template.render_for_answer(&turns)?
                };
                let ids = text.tokenizer.encode(&(before + opening))?;
                Ok(Prompt { ids, open: in_thought, turn: None })
            }
            None if in_thought => Err(Error::request(format!(
                "subject {}: how its thoughts begin is not known, so the attack `prefill-thought` cannot give one",
                self.name
            ))
            .hint("name the served model by --model: weights are not read")),
            _ => {
                let open = match (known, self.marks()) {
                    (Some((_, template)), Some(thinking)) => thinking.opens(&template.render(&turns, true)?),
                    _ => false,
                };
                Ok(Prompt { ids: Vec::new(), open, turn: Some([user.to_owned(), opening.to_owned()]) })
            }
        }
    }

    fn search(
        &self,
        _: &dyn Search,
        _: &[&Question],
        _: &Path,
        _: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Vec<String>>> {
        Err(Error::request(format!("subject {}: this attack needs the weights, and a server gives none", self.name))
            .hint("leave it out, or measure the model by --model and --adapter"))
    }

    fn respond(
        &self,
        prompts: &[Prompt],
        sampling: &Sampling,
        _: usize,
        alive: &mut dyn FnMut(usize, usize) -> bool,
        take: &mut dyn FnMut(Vec<(usize, Response)>) -> Result<()>,
    ) -> Result<bool> {
        let turn = |prompt: &Prompt| {
            let turn = match &prompt.turn {
                Some([user, opening]) => Turn::Chat { user: user.clone(), opening: opening.clone() },
                None => Turn::Tokens(prompt.ids.clone()),
            };
            Ok((turn, self.most(prompt, sampling)?))
        };
        let turns = prompts.iter().map(turn).collect::<Result<Vec<_>>>()?;
        let (ended, new) = (Cell::new(0), Cell::new(0));
        let mut one = |i: usize, said: Said| {
            ended.update(|n| n + 1);
            new.update(|n| n + said.tokens.unwrap_or_default());
            let open = prompts.get(i).is_some_and(|prompt| prompt.open);
            take(vec![(i, self.response(said, open))])
        };
        self.served.respond(&turns, sampling, &mut one, &mut || alive(ended.get(), new.take()))
    }
}
