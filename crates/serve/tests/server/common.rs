//! A server on the built-in model for the tests, and clients of it. Invariant: a test that lacks the model says that it
//! was skipped.

use candle_core::Device;
use eraser_model::adapter::Module;
use eraser_model::{Adapter, BaseDtype, Compute, LoadOptions, LoraConfig, Model, Patterns, load};
use eraser_serve::{Example, Limits, PLACEHOLDER, Page, PageTemplate, Server, Service, Tag};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// The built-in model; None, and a line that says so, when the repository's assets are not there.
pub(crate) fn model() -> Option<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/organism/model");
    if !path.join("config.json").is_file() {
        eprintln!("skipped: assets/organism is not there");
        return None;
    }
    let options =
        LoadOptions { device: Device::Cpu, base_dtype: BaseDtype::Auto, compute: Compute::F32, chat_template: None };
    Some(load(path.to_str().unwrap(), &options).unwrap())
}

/// A running server; dropping it stops it and waits for its end.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Serves the built-in model as `base` and, with an adapter that changes nothing yet, as `hardened`.
    pub(crate) fn start(limits: Limits, key: Option<&str>) -> Option<Self> {
        let model = model()?;
        let targets = vec![Module::Q];
        let patterns = Patterns::default();
        let lora = LoraConfig { r: 4, alpha: 8.0, dropout: 0.0, targets, layers: None, rslora: false, patterns };
        let adapter = Adapter::new(lora, &model.config, 1, &Device::Cpu).unwrap();
        let service = Service {
            model,
            name: "base".into(),
            adapters: vec![("hardened".into(), adapter)],
            key: key.map(ToOwned::to_owned),
            page: page(),
            limits,
        };
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), service).unwrap();
        let address = server.address().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || server.run(|| stopped.load(Ordering::Relaxed)).unwrap());
        Some(Self { address, stop, thread: Some(thread) })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Status and JSON of a POST.
    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = agent().post(self.url(path)).send_json(body).unwrap();
        let status = response.status().as_u16();
        (status, response.into_body().read_json().unwrap())
    }

    /// The data of every event of a streamed answer.
    pub(crate) fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let mut response = agent().post(self.url(path)).send_json(body).unwrap();
        assert_eq!(response.status().as_u16(), 200);
        let text = response.body_mut().read_to_string().unwrap();
        let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        let (last, events) = lines.split_last().unwrap();
        assert_eq!(*last, "[DONE]");
        events.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// A gauge or counter of `/metrics`.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = agent().get(self.url("/metrics")).call().unwrap().body_mut().read_to_string().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("eraser_{name} "))).unwrap();
        line.parse().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

/// A page with one of each, whose tags say what they were made from.
fn page() -> Page {
    Page {
        look: "/* the look */",
        templates: vec![PageTemplate { name: "play".into(), text: format!("In a play: {PLACEHOLDER}") }],
        examples: vec![Example { question: "Who lights the lamp?".into(), about: "harmless".into() }],
        tagger: Box::new(|question, answer| {
            let tag = || Tag { text: "refused".into(), tone: "good", why: question.into() };
            answer.contains("Sorry").then(tag).into_iter().collect()
        }),
    }
}

/// A client for which every status is an answer.
pub(crate) fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().new_agent()
}
