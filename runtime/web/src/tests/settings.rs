//! Settings that change while the job runs.

use highwater_coordinator::RequestRefused;

use super::*;

#[tokio::test]
async fn settings_change_when_the_coordinator_has_taken_them() {
    let Fixture {
        view,
        status,
        mut requests,
    } = fixture();
    let change = |body: &str| request(Method::PATCH, "/v1/config", body);
    assert_eq!(read(&view, "/v1/config").await[0]["from"], "--slots");
    for refused in [
        "{\"settings\":{\"slots\":\"many\"}}",
        "{\"settings\":{\"slot\":\"1\"}}",
    ] {
        let (code, text) = answer(open(view.clone()), change(refused)).await;
        assert_eq!(code, StatusCode::BAD_REQUEST, "{text}");
    }
    let body = "{\"settings\":{\"slots\":\"9\"}}";
    let coordinator = async {
        match requests.recv().await.unwrap() {
            JobRequest::Configure { settings, answer } => {
                status.send_modify(|status| status.changes = settings.changes);
                answer.send(Ok(())).unwrap();
            }
            other => panic!("{other:?}"),
        }
    };
    let ((code, text), ()) = tokio::join!(answer(open(view.clone()), change(body)), coordinator);
    assert_eq!(code, StatusCode::OK, "{text}");
    let settings: Vec<api::Setting> = serde_json::from_str(&text).unwrap();
    assert_eq!(settings[0].value.as_deref(), Some("9"));
    assert_eq!(settings[0].from, "changed");
    let coordinator = async {
        if let Some(request) = requests.recv().await {
            request.refuse(RequestRefused::NotRunning("it stands by".to_owned()));
        }
    };
    let body = "{\"settings\":{\"slots\":\"1\"}}";
    let ((code, _), ()) = tokio::join!(answer(open(view.clone()), change(body)), coordinator);
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(read(&view, "/v1/config").await[0]["value"], "9");
}
