//! Whose images are.

use super::hostile::serve;
use super::*;

fn holder(name: &str, password: &str) -> Holder {
    Holder {
        uid: format!("uid of {name}"),
        namespace: "default".into(),
        name: name.into(),
        hash: Digest::of(password.as_bytes()),
    }
}

async fn pulled(keeps_access: bool) -> (tempfile::TempDir, Images, Image, String) {
    let server = serve(Sample::wasm(b"\0asm")).await;
    let dir = tempfile::tempdir().unwrap();
    let options = ImagesOptions {
        keeps_access,
        ..ImagesOptions::default()
    };
    let images = open(dir.path(), options);
    let auth = RegistryAuth::Basic("u".into(), "p".into());
    let name = server.image();
    let image = images.pull(&name, &auth).await.unwrap();
    (dir, images, image, name)
}

#[tokio::test]
async fn an_image_is_for_who_showed_a_secret() {
    let (dir, images, image, name) = pulled(true).await;
    let access = |images: &Images| images.access(&image, &name).unwrap();
    assert_eq!(access(&images), Access::Holders);
    let (own, rotated, copy) = (holder("a", "1"), holder("a", "2"), holder("b", "2"));
    assert!(!images.is_held(&image, &name, std::slice::from_ref(&own)));
    images.admit(&image, &name, Some(&own));
    drop(images);
    let images = open(
        dir.path(),
        ImagesOptions {
            keeps_access: true,
            ..ImagesOptions::default()
        },
    );
    assert_eq!(access(&images), Access::Holders, "after a restart");
    assert!(images.is_held(&image, &name, std::slice::from_ref(&own)));
    assert!(!images.is_held(&image, &name, &[]));
    assert!(
        !images.is_held(&image, &name, std::slice::from_ref(&copy)),
        "of another password"
    );
    assert!(
        images.is_held(&image, &name, &[rotated]),
        "a secret that was changed"
    );
    assert!(
        images.is_held(&image, &name, &[copy]),
        "the same password, known by now"
    );
    images.admit(&image, &name, None);
    assert_eq!(access(&images), Access::Everyone);
    assert_eq!(
        images.access(&image, "other.example/app:v1").unwrap(),
        Access::Holders
    );
}

#[tokio::test]
async fn what_was_pulled_by_hand_is_everyones_and_rights_go_with_their_image() {
    let (_dir, images, image, name) = pulled(false).await;
    assert_eq!(images.access(&image, &name).unwrap(), Access::Everyone);
    images.admit(&image, &name, Some(&holder("a", "1")));
    assert_eq!(names(&images.inner.layout.rights()).len(), 1);
    let removed = images.collect(&Default::default(), std::time::Duration::ZERO, || false);
    assert_eq!(removed.unwrap().len(), 1);
    assert_eq!(names(&images.inner.layout.rights()), [""; 0]);
}
