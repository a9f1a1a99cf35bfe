//! Who is let in by a gateway of a Kubernetes cluster. What its API server would say is made up here.

use std::net::SocketAddr;

use catalog_kube::gateway::{AUDIENCE, Reviews};
use catalog_kube::{Cluster, ClusterOptions};
use devbox_gateway::{Admission as _, KubeAdmission, Offer, Rejection, Token, TokenCheck, TokenSource, View};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const ADA: &str = "system:serviceaccount:devbox:ada";

/// Who may see which namespace.
const MAY: [(&str, &str); 3] = [("devbox:ci", "orders"), ("devbox:token", "orders"), (ADA, "shop")];

/// The status of a review.
fn reviewed(review: &Value) -> Value {
    let spec = &review["spec"];
    if review["kind"] == "TokenReview" {
        let user = match spec["token"].as_str() {
            Some("of-ada") => ADA,
            Some("of-somebody-called-ci") => "devbox:ci",
            _ => return json!({"authenticated": false}),
        };
        return json!({"authenticated": true, "audiences": [AUDIENCE], "user": {"username": user}});
    }
    let namespace = spec["resourceAttributes"]["namespace"].as_str().unwrap();
    json!({"allowed": MAY.contains(&(spec["user"].as_str().unwrap(), namespace))})
}

/// Answers requests until the connection ends.
async fn serve(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let mut review: Value = serde_json::from_slice(&body).unwrap();
        review["status"] = reviewed(&review);
        let body = review.to_string();
        let head = format!(
            "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).await?;
    }
}

/// A gateway that takes these static tokens too.
struct Kube {
    admission: KubeAdmission,
    _files: tempfile::TempDir,
    _api_server: JoinSet<()>,
}

impl Kube {
    async fn with(tokens: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let mut api_server = JoinSet::new();
        api_server.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream));
            }
        });
        let files = tempfile::tempdir().unwrap();
        let kubeconfig = files.path().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "c", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let options = ClusterOptions {
            kubeconfig: Some(kubeconfig),
            ..ClusterOptions::default()
        };
        let reviews = Reviews::new(Cluster::open(&options).await.unwrap(), AUDIENCE);
        let file = files.path().join("tokens.yaml");
        std::fs::write(&file, tokens).unwrap();
        let tokens = TokenCheck::open(TokenSource::File(file)).await.unwrap();
        Self {
            admission: KubeAdmission::new(reviews, Some(tokens)),
            _files: files,
            _api_server: api_server,
        }
    }

    async fn admit(&self, token: Option<&str>, scope: Option<&str>) -> Result<View, Rejection> {
        let mut offer = Offer::new(SocketAddr::from(([127, 0, 0, 1], 1)), "laptop");
        offer.token = token.map(|token| Token::new(token).unwrap());
        offer.scope = scope.map(str::to_owned);
        self.admission.admit(&offer).await
    }

    /// Whom a client that is let in is taken for.
    async fn user(&self, token: &str, namespace: &str) -> String {
        let scope = format!("namespace={namespace}");
        let view = self.admit(Some(token), Some(&scope)).await.unwrap();
        format!("{view:?}")
    }

    async fn refused(&self, token: &str, namespace: &str) -> (u16, String) {
        let scope = format!("namespace={namespace}");
        let rejection = self.admit(Some(token), Some(&scope)).await.unwrap_err();
        (rejection.status, rejection.message)
    }
}

const LIST: &str = "tokens:\n  - {name: ci, token: s3cret}\n  - {name: other, token: t0ken}\n";

#[tokio::test]
async fn a_static_token_gives_what_the_user_of_its_name_may() {
    let kube = Kube::with(LIST).await;
    let user = kube.user("s3cret", "orders").await;
    assert!(user.contains("Some(\"devbox:ci\")"), "{user}");
    for (token, user, namespace) in [("s3cret", "ci", "shop"), ("t0ken", "other", "orders")] {
        let message = format!("devbox:{user}: you may not list services in the namespace {namespace}");
        assert_eq!(kube.refused(token, namespace).await, (403, message));
    }
    // Of several namespaces those that are allowed.
    let both = kube.admit(Some("s3cret"), Some("namespace=orders&namespace=shop"));
    both.await.unwrap();
}

#[tokio::test]
async fn a_single_static_token_is_a_user_too() {
    let kube = Kube::with("correct-horse\n").await;
    let user = kube.user("correct-horse", "orders").await;
    assert!(user.contains("Some(\"devbox:token\")"), "{user}");
    assert_eq!(kube.refused("correct-horse", "shop").await.0, 403);
}

#[tokio::test]
async fn beside_static_tokens_there_are_those_of_the_cluster_and_no_others() {
    let kube = Kube::with(LIST).await;
    let user = kube.user("of-ada", "shop").await;
    assert!(user.contains(ADA), "{user}");
    assert_eq!(kube.refused("of-ada", "orders").await.0, 403);
    // Nobody of the cluster has the name of a static token's user.
    for wrong in ["wrong", "of-somebody-called-ci"] {
        assert_eq!(kube.refused(wrong, "orders").await.0, 401, "{wrong}");
    }
    let nobody = kube.admit(None, Some("namespace=orders")).await.unwrap_err();
    assert_eq!(nobody.status, 401);
    for nothing in [None, Some(""), Some("namespace=orders&verb=delete")] {
        let rejection = kube.admit(Some("s3cret"), nothing).await.unwrap_err();
        assert_eq!(rejection.status, 403, "{nothing:?}");
    }
}
