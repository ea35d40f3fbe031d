//! What stands in the address: parts of the path, and the query. A wrong one is answered with a problem, as a wrong body is.

use super::body::ApiError;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use pumasi_api::Problem;
use pumasi_terms::CustomerName;
use serde::de::DeserializeOwned;

/// The names and ids in the path.
#[derive(Debug)]
pub struct Path<T>(pub T);

/// The query.
#[derive(Debug)]
pub struct Query<T>(pub T);

/// Whom an operator acts for.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct For {
    pub customer: Option<CustomerName>,
}

fn problem(status: StatusCode, text: String) -> ApiError {
    ApiError(match status.is_server_error() {
        true => Problem::ours(text),
        false => Problem::bad_request(text),
    })
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let read = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        read.map(|path| Self(path.0)).map_err(|e| problem(e.status(), e.body_text()))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let read = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        read.map(|query| Self(query.0)).map_err(|e| problem(e.status(), e.body_text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::body::Body;
    use axum::http::{Request, header};
    use axum::routing::get;
    use pumasi_terms::LeaseId;
    use std::collections::BTreeMap;
    use tower::ServiceExt;

    #[tokio::test]
    async fn a_wrong_address_is_answered_with_a_problem() {
        let router = Router::new()
            .route("/{id}", get(|Path(_): Path<LeaseId>, Query(_): Query<BTreeMap<String, u64>>| async { "well" }));
        let good = LeaseId::from_entropy(1);
        for (address, status) in [(format!("/{good}?n=1"), 200), ("/0".into(), 400), (format!("/{good}?n=x"), 400)] {
            let request = Request::builder().uri(&address).body(Body::empty()).unwrap();
            let answer = router.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), status, "{address}");
            let told = answer.headers()[header::CONTENT_TYPE].to_str().unwrap();
            assert_eq!(told == "application/problem+json", status != 200, "{address}: {told}");
        }
    }
}
