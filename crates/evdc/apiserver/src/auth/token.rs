//! Tokens of ServiceAccounts: JSON Web Tokens (RFC 7519) signed with Ed25519 (RFC 8037) by a key of this server.
//!
//! A token names the account, its uid, an audience and an end, and optionally the pod it is bound to. Its signature says that this server made it; that
//! the account (and the pod) still exist with that uid is checked at every use, so deleting either takes the token away. The only algorithm accepted is the
//! one used, so a token cannot choose its own.

use std::path::Path;

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde_json::{Value, json};

use crate::{
    auth::ca::{CaError, write_new},
    object::{random, text},
};

/// The header of every token, and the only one accepted.
const HEADER: &str = r#"{"alg":"EdDSA","typ":"JWT"}"#;

/// Longest token looked at; ours have well under 2 KiB.
const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Who signs; the audience of tokens that name none.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The key that signs tokens.
pub(crate) struct TokenKey {
    signing: SigningKey,
    verifying: VerifyingKey,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").finish_non_exhaustive()
    }
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) namespace: String,
    pub(crate) account: String,
    pub(crate) account_uid: String,
    /// Name and uid of the pod it is bound to.
    pub(crate) pod: Option<(String, String)>,
    pub(crate) audiences: Vec<String>,
    /// Seconds since 1970.
    pub(crate) issued: i64,
    pub(crate) expires: i64,
}

impl TokenKey {
    /// Opens the key in `dir`, making it if there is none.
    pub(crate) fn open(dir: &Path) -> Result<Self, CaError> {
        let path = dir.join("sa.key");
        let io = |source| CaError::Io { path: path.clone(), source };
        let seed = match std::fs::read_to_string(&path) {
            Ok(text) => {
                let decoded = data_encoding::HEXLOWER.decode(text.trim().as_bytes()).ok();
                let seed = decoded.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
                seed.ok_or_else(|| io(std::io::Error::other("it does not hold 64 hexadecimal digits")))?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let seed = random::<32>();
                write_new(&path, &data_encoding::HEXLOWER.encode(&seed))?;
                seed
            }
            Err(error) => return Err(io(error)),
        };
        let signing = SigningKey::from_bytes(&seed);
        Ok(Self { verifying: signing.verifying_key(), signing })
    }

    pub(crate) fn sign(&self, claims: &Claims) -> String {
        let mut about = json!({
            "namespace": claims.namespace,
            "serviceaccount": {"name": claims.account, "uid": claims.account_uid},
        });
        if let Some((name, uid)) = &claims.pod {
            about["pod"] = json!({"name": name, "uid": uid});
        }
        let payload = json!({
            "iss": ISSUER, "aud": claims.audiences, "exp": claims.expires, "iat": claims.issued, "nbf": claims.issued,
            "sub": format!("system:serviceaccount:{}:{}", claims.namespace, claims.account),
            "kubernetes.io": about,
        });
        let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        let signed = format!("{}.{}", encode(HEADER.as_bytes()), encode(payload.to_string().as_bytes()));
        let signature = self.signing.sign(signed.as_bytes());
        format!("{signed}.{}", encode(&signature.to_bytes()))
    }

    /// What a token says, if this server made it and it is valid at `now` (seconds since 1970).
    pub(crate) fn verify(&self, token: &str, now: i64) -> Option<Claims> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        let decode = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).ok();
        if decode(header)? != HEADER.as_bytes() {
            return None;
        }
        let signature = Signature::from_slice(&decode(signature)?).ok()?;
        self.verifying.verify_strict(signed.as_bytes(), &signature).ok()?;
        let payload: Value = serde_json::from_slice(&decode(payload)?).ok()?;
        let about = &payload["kubernetes.io"];
        let pair = |what: &str| (text(about, &[what, "name"]).to_owned(), text(about, &[what, "uid"]).to_owned());
        let (account, account_uid) = pair("serviceaccount");
        let audiences = payload["aud"].as_array()?.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let claims = Claims {
            namespace: text(about, &["namespace"]).to_owned(),
            account,
            account_uid,
            pod: about.get("pod").map(|_| pair("pod")),
            audiences,
            issued: payload["nbf"].as_i64()?,
            expires: payload["exp"].as_i64()?,
        };
        (payload["iss"] == ISSUER && claims.issued <= now && now < claims.expires).then_some(claims)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn tokens_are_believed_only_whole_and_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let key = TokenKey::open(dir.path()).unwrap();
        let claims = Claims {
            namespace: "default".to_owned(),
            account: "web".to_owned(),
            account_uid: "u".to_owned(),
            pod: Some(("p".to_owned(), "pu".to_owned())),
            audiences: vec![ISSUER.to_owned()],
            issued: 100,
            expires: 200,
        };
        let token = key.sign(&claims);
        let again = TokenKey::open(dir.path()).unwrap();
        assert_eq!(again.verify(&token, 150), Some(claims));
        assert_eq!(key.verify(&token, 99), None);
        assert_eq!(key.verify(&token, 200), None);
        for index in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            assert_eq!(key.verify(&String::from_utf8(bytes).unwrap(), 150), None, "byte {index}");
        }
        let other = TokenKey::open(tempfile::tempdir().unwrap().path()).unwrap();
        assert_eq!(other.verify(&token, 150), None);
    }
}
