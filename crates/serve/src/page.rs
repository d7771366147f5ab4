//! The web page. In: embedded files, and what the program that serves gives it (the look, templates, examples, tags);
//! out: responses that let the page talk to nothing but this server. Invariant: what is said of an answer is decided
//! here, never by the page.

use crate::error::{ApiError, json_response};
use crate::fields::Fields;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::{Value, json};

/// Stands for the question in [`PageTemplate::text`].
pub const PLACEHOLDER: &str = "\u{e000}question\u{e000}";

/// A jailbreak template that the page offers.
#[derive(Clone, Debug, Serialize)]
pub struct PageTemplate {
    /// Its name.
    pub name: String,
    /// The whole user turn, with [`PLACEHOLDER`] where the question goes.
    pub text: String,
}

/// A question that the page offers to ask.
#[derive(Clone, Debug, Serialize)]
pub struct Example {
    /// The question.
    pub question: String,
    /// What it shows, in a few words.
    pub about: String,
}

/// What is to be seen at once of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tag {
    /// A word or two.
    pub text: String,
    /// Colour, as the chips of the report have it: `good`, `mixed`, `bad`, or empty.
    pub tone: &'static str,
    /// By what it was found.
    pub why: String,
}

/// The tags of an answer: the plain question and the answer in.
pub type Tagger = Box<dyn Fn(&str, &str) -> Vec<Tag> + Send + Sync>;

/// What the page is given beside the models.
pub struct Page {
    /// A stylesheet that comes before the page's own: colours, type, chips.
    pub look: &'static str,
    /// Jailbreak templates.
    pub templates: Vec<PageTemplate>,
    /// Questions to begin with.
    pub examples: Vec<Example>,
    /// Says what an answer is.
    pub tagger: Tagger,
}

impl Default for Page {
    fn default() -> Self {
        Self { look: "", templates: Vec::new(), examples: Vec::new(), tagger: Box::new(|_, _| Vec::new()) }
    }
}

impl Page {
    /// What the page asks for when it is opened.
    pub(crate) fn setup(&self) -> Value {
        json!({ "placeholder": PLACEHOLDER, "templates": self.templates, "examples": self.examples })
    }

    /// The tags of the answer in a body, with the question before it.
    pub(crate) fn tags(&self, body: &[u8]) -> Result<Response, ApiError> {
        let mut fields = Fields::parse(body)?;
        let mut text = |name| fields.text(name)?.ok_or_else(|| ApiError::field(name, "is missing"));
        let (question, answer) = (text("question")?, text("answer")?);
        Ok(json_response(StatusCode::OK, &json!({ "tags": (self.tagger)(&question, &answer) })))
    }
}

/// Nothing from elsewhere, nothing inline, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// The files of the page below `/page/`; `/` is `index.html`.
const FILES: [(&str, &str, &str); 5] = [
    ("index.html", HTML, include_str!("../web/index.html")),
    ("page.css", CSS, include_str!("../web/page.css")),
    ("page.mjs", JS, include_str!("../web/page.mjs")),
    ("server.mjs", JS, include_str!("../web/server.mjs")),
    ("words.mjs", JS, include_str!("../web/words.mjs")),
];
const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

/// A file of the page, with the stylesheet that came from elsewhere as `look.css`.
pub(crate) fn file(page: &Page, name: &str) -> Result<Response, ApiError> {
    let own = FILES.iter().find(|(own, ..)| *own == name).map(|(_, kind, content)| (*kind, *content));
    let found = own.or_else(|| (name == "look.css").then_some((CSS, page.look)));
    let (kind, content) = found.ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "there is no such route"))?;
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    Ok((headers, content).into_response())
}
