//! The routes. In: HTTP requests; out: responses. Invariant: every route but the page's own files and `/health` asks
//! for the key, if there is one, and none answers a web page of another origin.

use crate::error::{ApiError, json_response};
use crate::page;
use crate::peers::Conduct;
use crate::socket::Guarded;
use crate::{Shared, chat, completions};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// All routes.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let keyed = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{name}", get(model))
        .route("/v1/completions", post(complete))
        .route("/v1/chat/completions", post(converse))
        .route("/metrics", get(metrics))
        .route("/page/setup.json", get(setup))
        .route("/page/tags.json", post(tags))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&shared), check_key));
    let open = Router::new()
        .route("/", get(index))
        .route("/page/{file}", get(page_file))
        .route("/health", get(|| async { "ok\n" }));
    keyed
        .merge(open)
        .fallback(|| async { ApiError::new(StatusCode::NOT_FOUND, "there is no such route") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this route does not allow this method")
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), check_origin))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), count))
        .with_state(shared)
}

async fn models(State(shared): State<Arc<Shared>>) -> Response {
    let list: Vec<Value> = (0..shared.names.len()).map(|lane| model_json(&shared, lane)).collect();
    json_response(StatusCode::OK, &json!({ "object": "list", "data": list }))
}

async fn model(
    State(shared): State<Arc<Shared>>,
    axum::extract::Path(name): axum::extract::Path<String>,
) -> Result<Response, ApiError> {
    let lane = shared.names.iter().position(|known| *known == name);
    let lane = lane.ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, format!("there is no model {name:?}")))?;
    Ok(json_response(StatusCode::OK, &model_json(&shared, lane)))
}

fn model_json(shared: &Shared, lane: usize) -> Value {
    json!({
        "id": shared.names[lane],
        "object": "model",
        "created": shared.created,
        "owned_by": "eraser",
        "root": shared.names[0],
        "parent": (lane > 0).then(|| shared.names[0].clone()),
        "max_model_len": shared.most_positions,
    })
}

async fn complete(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, ApiError> {
    let body = read(&shared, request).await?;
    completions::answer(shared, body).await
}

async fn converse(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, ApiError> {
    let body = read(&shared, request).await?;
    chat::answer(shared, body).await
}

/// Bodies up to this many bytes are read at once; of larger ones, and of those that do not say, a few at a time, so
/// that memory does not grow with the number of connections.
const SMALL_BODY: u64 = 64 << 10;
/// Larger ones that are read at once.
pub(crate) const LARGE_BODIES: usize = 8;

/// The body, whole, within the limits of size and time.
async fn read(shared: &Shared, request: Request) -> Result<Bytes, ApiError> {
    let most = shared.limits.max_body;
    let too_large = || ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {most} bytes"));
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|n| n > most as u64) {
        return Err(too_large());
    }
    // A page of another origin can send every type but this one without a preflight request.
    let json = |v: &str| v.split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case("application/json"));
    if !request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).is_some_and(json) {
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content type must be application/json"));
    }
    let body: Body = request.into_body();
    let reading = async {
        let large = length.is_none_or(|n| n > SMALL_BODY);
        // The semaphore is never closed.
        let _place = if large { shared.large_bodies.acquire().await.ok() } else { None };
        axum::body::to_bytes(body, most).await
    };
    match tokio::time::timeout(shared.limits.read_timeout, reading).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(too_large()),
        Err(_) => Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body took too long")),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (headers, shared.metrics.render()).into_response()
}

async fn index(State(shared): State<Arc<Shared>>) -> Result<Response, ApiError> {
    page::file(&shared.page, "index.html")
}

async fn page_file(
    State(shared): State<Arc<Shared>>,
    axum::extract::Path(name): axum::extract::Path<String>,
) -> Result<Response, ApiError> {
    page::file(&shared.page, &name)
}

async fn setup(State(shared): State<Arc<Shared>>) -> Response {
    json_response(StatusCode::OK, &shared.page.setup())
}

async fn tags(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, ApiError> {
    let body = read(&shared, request).await?;
    // Looking through a long answer takes longer than a connection's task may.
    tokio::task::spawn_blocking(move || shared.page.tags(&body)).await.map_err(ApiError::internal)?
}

/// Counts answers by route. Only known routes are told apart: the list cannot grow by what is asked for.
async fn count(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    const ROUTES: [&str; 9] = [
        "/",
        "/health",
        "/metrics",
        "/v1/models",
        "/v1/completions",
        "/v1/chat/completions",
        "/page/setup.json",
        "/page/tags.json",
        "/page/page.mjs",
    ];
    let path = request.uri().path();
    let route = ROUTES.into_iter().find(|route| *route == path).unwrap_or("other");
    let busy = request.extensions().get::<Arc<Conduct>>().map(Conduct::begin);
    let response = next.run(request).await;
    shared.metrics.answered(route, response.status().as_u16());
    match busy {
        Some(busy) => response.map(|body| Body::new(Guarded::new(body, busy))),
        None => response,
    }
}

/// Refuses what a browser sends for a page of another origin, and names that are not those of this machine where only
/// this machine is served: a page could have its own name resolve to it.
async fn check_origin(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    match foreign(request.headers(), shared.loopback) {
        Some(message) => ApiError::new(StatusCode::FORBIDDEN, message).into_response(),
        None => next.run(request).await,
    }
}

/// Why a request is not answered, if it is of another origin or for another machine.
fn foreign(headers: &HeaderMap, loopback: bool) -> Option<String> {
    let text = |name| headers.get(name).map(|v| v.to_str().unwrap_or_default());
    let host = text(header::HOST).unwrap_or_default();
    let foreign = text(header::ORIGIN).is_some_and(|origin| {
        let authority = origin.split_once("://").map_or(origin, |(_, rest)| rest);
        !authority.eq_ignore_ascii_case(host)
    });
    if foreign {
        return Some("requests for another origin are not answered".into());
    }
    (loopback && !is_loopback_name(host)).then(|| {
        let shown: String = host.chars().take(100).collect();
        format!(
            "this server answers this machine only, and {shown:?} is not one of its names: use http://127.0.0.1, or start it with \
             --host 0.0.0.0 and --key-env NAME to be reached by other names and from containers"
        )
    })
}

/// `localhost`, a loopback address, or nothing (HTTP/1.0), with or without a port.
fn is_loopback_name(host: &str) -> bool {
    if host.is_empty() {
        return true;
    }
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

async fn check_key(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let Some(expected) = &shared.key else { return next.run(request).await };
    // Digests are compared, so that the time they take reveals nothing about the key.
    if bearer(request.headers()).is_some_and(|key| key_digest(key) == *expected) {
        return next.run(request).await;
    }
    ApiError::new(StatusCode::UNAUTHORIZED, "a valid key is needed: Authorization: Bearer KEY").into_response()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// SHA-256 of a key.
pub(crate) fn key_digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine() {
        for name in ["", "localhost", "LOCALHOST:8000", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:8000"] {
            assert!(is_loopback_name(name), "{name}");
        }
        for name in
            ["example.com", "localhost.example.com:80", "10.0.0.1:8000", "[fe80::1]:80", "127.0.0.1.example.com"]
        {
            assert!(!is_loopback_name(name), "{name}");
        }
    }

    #[test]
    fn keys_come_as_bearer_tokens() {
        let mut headers = HeaderMap::new();
        assert_eq!(bearer(&headers), None);
        headers.insert(header::AUTHORIZATION, "bearer abc ".parse().unwrap());
        assert_eq!(bearer(&headers), Some("abc"));
        headers.insert(header::AUTHORIZATION, "Basic abc".parse().unwrap());
        assert_eq!(bearer(&headers), None);
    }
}
