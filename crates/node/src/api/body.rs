//! Reading bodies and answering with problems.

use super::allowance::receive;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use pumasi_api::Problem;
use pumasi_terms::FieldError;
use serde::de::DeserializeOwned;

/// A [`Problem`] as an answer.
#[derive(Debug)]
pub struct ApiError(pub Problem);

impl From<Problem> for ApiError {
    fn from(p: Problem) -> Self {
        Self(p)
    }
}

impl From<pumasi_store::StoreError> for ApiError {
    fn from(e: pumasi_store::StoreError) -> Self {
        Self(crate::node::store_problem(&e))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        let mut answer = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if let Some(ms) = self.0.retry_after_ms {
            answer.headers_mut().insert(header::RETRY_AFTER, ms.div_ceil(1_000).max(1).into());
        }
        answer
    }
}

/// A JSON body. A wrong one is answered with the field's path.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let bytes = receive(request).await?;
        decode(&bytes).map(Json)
    }
}

/// A body of bytes, within the endpoint's bound.
pub struct Raw(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        receive(request).await.map(Raw)
    }
}

pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let bytes = if bytes.trim_ascii().is_empty() { b"{}" } else { bytes };
    // Following the path costs; only a body that is wrong needs it.
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|e| {
        let field = e.path().to_string();
        let problem = e.inner().to_string();
        ApiError(Problem::fields("the body is not what this endpoint expects", vec![FieldError { field, problem }]))
    })?;
    reader.end().map_err(|e| ApiError(Problem::bad_request(format!("after the JSON document: {e}"))))?;
    Ok(value)
}

/// A JSON answer.
pub type Answer<T> = Result<axum::Json<T>, ApiError>;

/// Blocking work of the transfer, on a thread for it.
pub async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    crate::world::blocking(f).await.unwrap_or_else(|_| Err(Problem::ours("the work was cut off; see the daemon's log")))
}
