//! Bodies of requests: an object with the fields of a request, and nothing else.
//!
//! The routes read each body through [`Fields`]. The rule: what is taken is what the document says. A derived type also reads a list of its
//! fields in their order, so that `[]` would be a request with nothing said, and stop a job.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// A request that was read from an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fields<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Fields<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = deserializer.deserialize_map(AnObject(PhantomData));
        read.map(Self)
    }
}

struct AnObject<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for AnObject<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields))
    }
}

#[cfg(test)]
mod tests {
    use highwater_web_api::{SavepointRequest, StopRequest};

    use super::*;

    #[test]
    fn an_object_is_read_as_before() {
        let read = |text: &str| serde_json::from_str::<Fields<SavepointRequest>>(text);
        let Fields(asked) = read("{\"name\":\"before\",\"wait\":false}").unwrap();
        assert_eq!((asked.name.as_str(), asked.wait), ("before", Some(false)));
        for (text, words) in [
            ("{}", "missing field `name`"),
            ("{\"name\":\"a\",\"nome\":\"b\"}", "unknown field `nome`"),
            ("{\"name\":\"a\",\"name\":\"b\"}", "duplicate field `name`"),
        ] {
            let refused = read(text).unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn what_is_no_object_is_no_request() {
        assert_eq!(
            serde_json::from_str::<StopRequest>("[]").unwrap(),
            StopRequest::default()
        );
        for text in ["[]", "[\"drain\"]", "null", "\"drain\"", "0"] {
            let refused = serde_json::from_str::<Fields<StopRequest>>(text).unwrap_err();
            assert!(
                refused.to_string().contains("expected an object"),
                "{refused}"
            );
        }
    }
}
