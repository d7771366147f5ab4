use super::*;
use proptest::prelude::*;

fn qwen() -> Thinking {
    Thinking::find("{{ '</think>' }}", None).unwrap()
}

fn said(thought: &str, answer: &str, unfinished: bool) -> Said {
    Said { thought: thought.into(), answer: answer.into(), unfinished }
}

#[test]
fn what_comes_before_the_end_mark_is_the_thought() {
    let (closed, open) = (false, true);
    for (text, prompt, expected) in [
        ("<think>\nhm\n</think>\n\nYes.", closed, said("hm", "Yes.", false)),
        ("\n<think></think>Yes.", closed, said("", "Yes.", false)),
        ("hm\n</think>\n\nYes.", open, said("hm", "Yes.", false)),
        // Nothing began a thought. What stands before the mark was hidden from judges, and shown in chats and streams.
        ("hm\n</think>\n\nYes.", closed, said("", "hm\n</think>\n\nYes.", false)),
        // Only the first end counts.
        ("<think>a</think>b</think>c", closed, said("a", "b</think>c", false)),
        ("Yes. <think> is a tag.", closed, said("", "Yes. <think> is a tag.", false)),
        ("Yes.", closed, said("", "Yes.", false)),
        ("", closed, said("", "", false)),
    ] {
        assert_eq!(qwen().split(text, prompt), expected, "{text:?}");
    }
}

#[test]
fn a_thought_without_an_end_is_no_answer() {
    for (text, open) in [("<think>\nhm, it is", false), ("hm, it is", true), ("<think> hm, it is", true)] {
        assert_eq!(qwen().split(text, open), said("hm, it is", "", true), "{text:?}");
    }
    assert_eq!(qwen().split("", true), said("", "", true));
}

#[test]
fn an_answer_of_a_server_is_read_without_its_thought() {
    for (text, answer) in [
        (" <think>\nhm</think>\n Yes. ", "Yes."),
        ("[THINK]hm[/THINK]Yes.", "Yes."),
        ("<think>hm", ""),
        (" Yes, <think> is a tag. ", "Yes, <think> is a tag."),
    ] {
        assert_eq!(answer_of(text), answer);
    }
}

#[test]
fn marks_are_found_in_the_template_and_made_up_by_no_other() {
    for (template, end) in [
        ("x </think> y", Some("</think>")),
        ("[THINK][/THINK]", Some("[/THINK]")),
        ("<|channel>thought\n<channel|>", Some("<channel|>")),
        ("</thought>", Some("</thought>")),
        // It leaves the thought open, and drops none of earlier turns.
        ("{{ 'assistant: <think>' }}", Some("</think>")),
        ("{{ message.thinking }}", None),
    ] {
        assert_eq!(Thinking::find(template, None).map(|t| t.end().to_owned()), end.map(str::to_owned), "{template}");
    }
}

#[test]
fn an_answer_that_is_given_comes_behind_an_empty_thought() {
    // What is written between `<x>` and `</x>` needs no name for its beginning.
    assert!(
        Thinking::ending("</reasoned>", None).opens("go <reasoned>\n") && !Thinking::ending("so:", None).opens("so")
    );
    let own = Thinking::ending("so:", None);
    for (thinking, prompt, expected) in [
        (qwen(), "assistant\n", "<think>\n\n</think>\n\n"),
        (qwen(), "assistant\n<think>\n", "\n</think>\n\n"),
        (qwen(), "assistant\n<think>", "\n\n</think>\n\n"),
        (qwen(), "assistant\n<think>\n\n</think>\n\n", ""),
        // How its thoughts begin is not known.
        (own, "assistant\n", ""),
    ] {
        assert_eq!(thinking.no_thought(prompt), expected, "{prompt:?}");
    }
    let gemma = Thinking::find("<channel|>", None).unwrap();
    assert_eq!(gemma.no_thought("model\n"), "<|channel>thought\n<channel|>");
    assert_eq!(qwen().begun("assistant\n").unwrap(), "<think>\n");
    assert_eq!(qwen().begun("assistant\n<think>\n").unwrap(), "");
}

/// What a stream shows in all, and whether it ended inside the thought.
fn streamed(thinking: &Thinking, pieces: &[&str], open: bool) -> Said {
    let mut stream = thinking.stream(open);
    let mut all = Said::default();
    for shown in pieces.iter().map(|piece| stream.push(piece)).collect::<Vec<_>>() {
        all.thought.push_str(&shown.thought);
        all.answer.push_str(&shown.answer);
    }
    all.unfinished = stream.thinks();
    let rest = stream.finish();
    all.thought.push_str(&rest.thought);
    all.answer.push_str(&rest.answer);
    all
}

#[test]
fn a_mark_that_is_cut_across_tokens_is_not_shown() {
    let pieces = ["<th", "ink>\n", "hm", "\n</", "thi", "nk>\n", "\nYes", "."];
    assert_eq!(streamed(&qwen(), &pieces, false), said("hm", "Yes.", false));
    let mut stream = qwen().stream(true);
    assert_eq!(stream.push("a </thin").thought, "a");
    assert_eq!(stream.push("g").thought, " </thing");
    // It was no mark.
    assert_eq!(streamed(&qwen(), &["<thi", "s> is"], false), said("", "<this> is", false));
    assert_eq!(streamed(&qwen(), &["<thi"], false), said("", "<thi", false));
}

/// A thought of which only the end is known was sent as the answer until that came.
#[test]
fn a_stream_whose_thoughts_begin_without_a_mark_shows_nothing_before_their_end() {
    let own = Thinking::ending("so:", None);
    assert_eq!(
        streamed(&own, &["Let me ", "see, s", "o:", " Yes", " so: no"], false),
        said("Let me see,", "Yes so: no", false)
    );
    assert_eq!(streamed(&own, &[" No ", "thought."], false), said("", " No thought.", false));
    let mut stream = own.stream(false);
    assert_eq!(stream.push("Let me see"), Shown::default());
    for text in ["a so: b", "so:", "a\nso:\n\nb", "plain", ""] {
        assert_eq!(streamed(&own, &[text], false), own.split(text, false), "{text:?}");
    }
}

proptest! {
    #[test]
    fn pieces_show_what_the_whole_shows(
        parts in proptest::collection::vec(prop_oneof!["[ab \n<]{0,3}", Just("<think>".to_owned()), Just("</think>".to_owned())], 0..6),
        cuts in proptest::collection::vec(1usize..4, 40),
        open in any::<bool>(),
    ) {
        let text = parts.concat();
        let (mut pieces, mut rest) = (Vec::new(), text.as_str());
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        let whole = streamed(&qwen(), &[&text], open);
        prop_assert_eq!(streamed(&qwen(), &pieces, open), whole.clone());
        prop_assert_eq!(qwen().split(&text, open), whole);
    }
}
