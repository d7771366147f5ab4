//! Models and files of data sets from the Hugging Face hub, by name. In: `org/name`; out: a model's directory or a
//! file, in the cache that every Hugging Face tool shares. Invariant: what is in the cache already is used without a
//! connection.

use crate::Result;
use std::path::PathBuf;

/// Whether `spec` has the form of a hub name, `org/name`.
pub fn is_name(spec: &str) -> bool {
    let part = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty() && !part.starts_with('.') && !part.contains("..") && part.chars().all(allowed)
    };
    spec.split_once('/').is_some_and(|(org, name)| part(org) && part(name))
        && !std::path::Path::new(spec).extension().is_some_and(|ext| ext == "gguf" || ext == "safetensors")
}

/// The directory of the model `name`, downloaded unless the cache has it. `HF_HOME` and `HF_HUB_CACHE` say where the
/// cache is, `HF_TOKEN` is sent if set, and with `HF_HUB_OFFLINE` set nothing is downloaded.
#[cfg(feature = "hub")]
pub fn fetch(name: &str) -> Result<PathBuf> {
    online::fetch(name)
}

/// The directory of the model `name`: this build has no downloads, so always an error.
#[cfg(not(feature = "hub"))]
pub fn fetch(name: &str) -> Result<PathBuf> {
    Err(crate::Error::request(format!(
        "{name}: no such directory, and this build cannot download from the Hugging Face hub"
    ))
    .hint(by_hand(name))
    .hint("or build with the cargo feature `hub`"))
}

/// A file of a data set, at the revision in which the hub keeps every public one as Parquet: downloaded unless the
/// cache has it. The same variables as for [`fetch`] apply.
#[cfg(feature = "hub")]
pub fn fetch_rows(dataset: &str, file: &str) -> Result<PathBuf> {
    online::fetch_rows(dataset, file)
}

/// A file of a data set: this build has no downloads, so always an error.
#[cfg(not(feature = "hub"))]
pub fn fetch_rows(dataset: &str, file: &str) -> Result<PathBuf> {
    Err(crate::Error::request(format!("{dataset}/{file}: this build cannot download from the Hugging Face hub"))
        .hint("build with the cargo feature `hub`, or name a local file"))
}

fn by_hand(name: &str) -> String {
    format!("download it elsewhere (`hf download {name} --local-dir DIR`) and pass DIR")
}

#[cfg(feature = "hub")]
mod online {
    use super::by_hand;
    use crate::{Error, Result};
    use hf_hub::{
        Cache, CacheRepo, Repo, RepoType,
        api::sync::{Api, ApiBuilder, ApiError, ApiRepo},
    };
    use std::{
        io::IsTerminal,
        path::{Path, PathBuf},
    };

    /// Where the hub keeps its conversions.
    const PARQUET: &str = "refs/convert/parquet";
    const CONFIG: &str = "config.json";
    const WEIGHTS: &str = "model.safetensors";
    const INDEX: &str = "model.safetensors.index.json";
    /// Small files that are fetched where the model has them.
    const OPTIONAL: [&str; 6] = [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "chat_template.jinja",
        "chat_template.json",
    ];

    pub(super) fn fetch(name: &str) -> Result<PathBuf> {
        let cache = cache()?;
        if let Some(dir) = without_connection(name, &cache, offline())? {
            return Ok(dir);
        }
        let repo = api(name, cache.clone())?.model(name.to_owned());
        download(name, &repo, &cache)
    }

    pub(super) fn fetch_rows(dataset: &str, file: &str) -> Result<PathBuf> {
        let cache = cache()?;
        let repo = || Repo::with_revision(dataset.to_owned(), RepoType::Dataset, PARQUET.to_owned());
        if let Some(path) = cache.repo(repo()).get(file) {
            return Ok(path);
        }
        let what = format!("{dataset}/{file}");
        let local = "download it elsewhere and name the file";
        if offline() {
            let error = format!("{what}: not in the Hugging Face cache, and HF_HUB_OFFLINE is set");
            return Err(Error::request(error).hint(local));
        }
        tracing::info!("fetching {what}");
        let remote = api(dataset, cache.clone())?.repo(repo());
        get(&remote, &cache, repo(), file).map_err(|e| {
            let page = format!("{local}: its page is https://huggingface.co/datasets/{dataset}");
            Error::failed(format!("{what}: the Hugging Face hub: {e}")).hint(page)
        })
    }

    fn cache() -> Result<Cache> {
        Ok(match env("HF_HUB_CACHE") {
            Some(dir) => Cache::new(dir.into()),
            // The crate panics where neither is there.
            None if env("HF_HOME").is_none() && std::env::home_dir().is_none() => {
                return Err(Error::request("neither HF_HOME nor a home directory is there for the hub's cache")
                    .hint("set HF_HOME to a directory"));
            }
            None => Cache::from_env(),
        })
    }

    fn offline() -> bool {
        env("HF_HUB_OFFLINE").is_some_and(|value| !matches!(&*value.to_lowercase(), "0" | "false" | "no"))
    }

    fn api(name: &str, cache: Cache) -> Result<Api> {
        let mut api = ApiBuilder::from_cache(cache).with_progress(std::io::stderr().is_terminal());
        if let Some(endpoint) = env("HF_ENDPOINT") {
            api = api.with_endpoint(endpoint);
        }
        if let Some(token) = env("HF_TOKEN") {
            api = api.with_token(Some(token));
        }
        api.build().map_err(|e| failed(name, e))
    }

    fn env(key: &str) -> Option<String> {
        std::env::var(key).ok().filter(|value| !value.is_empty())
    }

    /// The model's directory if the cache has it; None if it is to be downloaded.
    fn without_connection(name: &str, cache: &Cache, offline: bool) -> Result<Option<PathBuf>> {
        match cached(&cache.model(name.to_owned())) {
            None if offline => {
                Err(Error::request(format!("{name}: not in the Hugging Face cache, and HF_HUB_OFFLINE is set"))
                    .hint(by_hand(name)))
            }
            found => Ok(found),
        }
    }

    /// The snapshot of a model in the cache, if all its weights are there.
    fn cached(repo: &CacheRepo) -> Option<PathBuf> {
        let dir = repo.get(CONFIG)?.parent()?.to_path_buf();
        repo.get("tokenizer.json")?;
        if repo.get(WEIGHTS).is_some() {
            return Some(dir);
        }
        let index = std::fs::read(repo.get(INDEX)?).ok()?;
        let index: serde_json::Value = serde_json::from_slice(&index).ok()?;
        let complete = index["weight_map"]
            .as_object()?
            .values()
            .all(|file| file.as_str().is_some_and(|file| dir.join(file).exists()));
        complete.then_some(dir)
    }

    fn download(name: &str, repo: &ApiRepo, cache: &Cache) -> Result<PathBuf> {
        let files = repo.info().map_err(|e| failed(name, e))?.siblings;
        let has = |wanted: &str| files.iter().any(|file| file.rfilename == wanted);
        if !has(CONFIG) {
            return Err(Error::request(format!("{name}: the hub's repository has no {CONFIG}"))
                .hint("adapters and GGUF files: download them and pass the path"));
        }
        let mut wanted: Vec<&str> = OPTIONAL.into_iter().filter(|file| has(file)).collect();
        if has(WEIGHTS) {
            wanted.push(WEIGHTS);
        } else if has(INDEX) {
            wanted.push(INDEX);
            let shard =
                |file: &&str| file.starts_with("model-") && file.ends_with(".safetensors") && !file.contains('/');
            wanted.extend(files.iter().map(|file| file.rfilename.as_str()).filter(shard));
        } else {
            return Err(Error::request(format!("{name}: the hub's repository has no safetensors weights"))
                .hint("convert it with transformers: save_pretrained(DIR, safe_serialization=True)"));
        }
        let one = |file: &str| {
            tracing::info!("fetching {name}/{file}");
            get(repo, cache, Repo::model(name.to_owned()), file).map_err(|e| failed(&format!("{name}/{file}"), e))
        };
        let config = one(CONFIG)?;
        for file in wanted {
            one(file)?;
        }
        Ok(config.parent().unwrap_or(Path::new(".")).to_path_buf())
    }

    /// A file of a repository. hf-hub needs servers that answer requests for a range of bytes; a mirror that does not
    /// is asked for the whole file.
    fn get(remote: &ApiRepo, cache: &Cache, repo: Repo, file: &str) -> std::result::Result<PathBuf, String> {
        match remote.get(file) {
            Err(ApiError::MissingHeader(_) | ApiError::InvalidHeader(_) | ApiError::ParseIntError(_)) => {
                let commit = || remote.info().map(|info| info.sha).ok();
                whole(&remote.url(file), &cache.repo(repo), cache.token(), file, &commit)
            }
            other => other.map_err(|e| e.to_string()),
        }
    }

    /// Redirections that are followed.
    const HOPS: usize = 8;

    /// The file at `url`, put where the cache has the snapshot of the commit that the server names, or else `commit`
    /// does.
    fn whole(
        url: &str,
        cache: &CacheRepo,
        token: Option<String>,
        file: &str,
        commit: &dyn Fn() -> Option<String>,
    ) -> std::result::Result<PathBuf, String> {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().max_redirects(0).max_redirects_will_error(false).build().into();
        let token = env("HF_TOKEN").or(token);
        let (mut at, mut named) = (url.to_owned(), None);
        for _ in 0..HOPS {
            let mut request = agent.get(&at);
            // The key is for the hub, not for where it keeps its files.
            if let Some(token) = token.as_ref().filter(|_| origin(&at) == origin(url)) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let mut response = request.call().map_err(|e| e.to_string())?;
            let header =
                |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            named = named.or(header("x-repo-commit"));
            if response.status().is_redirection() {
                let to = header("location").ok_or_else(|| format!("{}: no location", response.status()))?;
                at = if to.starts_with('/') { format!("{}{to}", origin(&at)) } else { to };
                continue;
            }
            let expected: Option<u64> = header("content-length").and_then(|n| n.parse().ok());
            let commit = named.or_else(commit).filter(|name| is_commit(name)).ok_or("the server names no commit")?;
            let path = cache.pointer_path(&commit).join(file);
            let home = path.parent().unwrap_or(Path::new("."));
            let written = |e: std::io::Error| format!("{}: {e}", path.display());
            std::fs::create_dir_all(home).map_err(written)?;
            let mut part = tempfile::NamedTempFile::new_in(home).map_err(written)?;
            let got = std::io::copy(&mut response.body_mut().as_reader(), &mut part).map_err(|e| e.to_string())?;
            if expected.is_some_and(|expected| expected != got) {
                return Err(format!("the answer ended after {got} of {} bytes", expected.unwrap_or_default()));
            }
            part.persist(&path).map_err(|e| written(e.error))?;
            cache.create_ref(&commit).map_err(written)?;
            return Ok(path);
        }
        Err(format!("more than {HOPS} redirections"))
    }

    /// Scheme and host of a URL.
    fn origin(url: &str) -> &str {
        let host = url.find("://").map_or(0, |at| at + 3);
        url[host..].find('/').map_or(url, |end| &url[..host + end])
    }

    /// Whether a server's name of a commit can be the name of a directory.
    fn is_commit(name: &str) -> bool {
        !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric())
    }

    fn failed(what: &str, e: impl std::fmt::Display) -> Error {
        let text = e.to_string();
        let name = what.split('/').take(2).collect::<Vec<_>>().join("/");
        let error = Error::failed(format!("{what}: the Hugging Face hub: {text}"));
        if ["401", "403"].iter().any(|status| text.contains(status)) {
            error
                .hint("check the name; for a private or gated model accept its terms on its page and set HF_TOKEN")
                .hint(by_hand(&name))
        } else {
            error.hint(format!("without a connection: {}", by_hand(&name)))
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_model_in_the_cache_needs_no_connection_once_it_is_complete() {
            let home = tempfile::tempdir().unwrap();
            let cache = Cache::new(home.path().to_path_buf());
            let model = home.path().join("models--org--name");
            let snapshot = model.join("snapshots/abc");
            let put = |path: &Path, text: &str| {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            };
            let find = |offline| without_connection("org/name", &cache, offline);
            put(&model.join("refs/main"), "abc");
            put(&snapshot.join(CONFIG), "{}");
            put(&snapshot.join("tokenizer.json"), "{}");
            put(&snapshot.join(INDEX), r#"{"weight_map": {"a": "model-1.safetensors"}}"#);
            assert_eq!(find(false).unwrap(), None);
            let error = find(true).unwrap_err();
            assert!(error.to_string().contains("HF_HUB_OFFLINE") && error.hints()[0].contains("hf download org/name"));
            put(&snapshot.join("model-1.safetensors"), "");
            assert_eq!(find(true).unwrap(), Some(snapshot.clone()));
            std::fs::remove_file(snapshot.join(INDEX)).unwrap();
            assert_eq!(find(false).unwrap(), None);
            put(&snapshot.join(WEIGHTS), "");
            assert_eq!(find(false).unwrap(), Some(snapshot));
        }

        #[test]
        fn a_key_stays_with_its_server_and_a_commit_is_a_name() {
            assert_eq!(origin("http://127.0.0.1:8/a/b"), "http://127.0.0.1:8");
            assert_eq!((origin("https://x"), origin("https://x/")), ("https://x", "https://x"));
            for (name, good) in [("abc", true), ("0af9", true), ("", false), ("../x", false), ("a/b", false)] {
                assert_eq!(is_commit(name), good, "{name}");
            }
        }

        #[test]
        fn without_a_connection_the_hint_says_how_to_do_without() {
            let home = tempfile::tempdir().unwrap();
            let api = ApiBuilder::from_cache(Cache::new(home.path().to_path_buf()));
            // Nothing listens on the discard port.
            let repo = api.with_endpoint("http://127.0.0.1:9".to_owned()).build().unwrap().model("org/name".to_owned());
            let cache = Cache::new(home.path().to_path_buf());
            let error = download("org/name", &repo, &cache).unwrap_err();
            assert!(error.to_string().starts_with("org/name: the Hugging Face hub: "), "{error}");
            assert!(error.hints()[0].contains("hf download org/name"), "{error:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        for name in ["org/name", "HuggingFaceTB/SmolLM2-135M-Instruct", "a/b_c.d"] {
            assert!(is_name(name), "{name}");
        }
        for path in ["name", "/a/b", "./a", "../a", "a/b/c", "a/", "a/b.gguf", "a/..", "a b/c", "a\\b", ""] {
            assert!(!is_name(path), "{path}");
        }
    }
}
