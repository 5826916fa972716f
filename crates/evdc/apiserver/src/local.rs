//! The API for clients in this process: requests are answered without a connection, as the user given here.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt as _;
use hyper::body::Bytes;

use crate::{
    auth::User,
    respond::ResponseBody,
    server::{ApiServer, Server},
};

/// The API as a service for one user, such as a `kube::Client` takes: `Client::new(server.local_service(user), "default")`.
#[derive(Clone)]
pub struct LocalService {
    server: Arc<Server>,
    user: User,
}

impl std::fmt::Debug for LocalService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalService").field("user", &self.user).finish_non_exhaustive()
    }
}

impl ApiServer {
    /// A client's way in without TLS and HTTP. Requests are authorized as those of `user`.
    pub fn local_service(&self, user: User) -> LocalService {
        LocalService { server: Arc::clone(&self.server), user }
    }
}

impl<B> tower_service::Service<Request<B>> for LocalService
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (server, user) = (Arc::clone(&self.server), self.user.clone());
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        let answer = server.handle(user, request);
        Box::pin(async move { Ok(answer.await) })
    }
}
