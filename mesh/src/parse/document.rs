//! One object, read into its type as soon as its kind is known, without a copy between.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
        value::MapAccessDeserializer,
    },
};

use crate::k8s::{Object, route};

pub(super) enum Document {
    Object(Object),
    List(Vec<Document>),
    Unknown { api: String, kind: String },
}

/// `apiVersion` and `kind` of an EndpointSlice.
const SLICE: (&str, &str) = ("discovery.k8s.io/v1", "EndpointSlice");

/// `apiVersion` and `kind` of an HTTPRoute.
pub(super) const HTTP_ROUTE: (&str, &str) = ("gateway.networking.k8s.io/v1", "HTTPRoute");

/// An object whose `kind` is written after its contents is read in two passes; in a list it is
/// refused with this message.
pub(super) const KIND_LATER: &str = "apiVersion and kind must be written before the other fields";

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_map(DocumentVisitor {
            api: None,
            kind: None,
            pass: 1,
        })
    }
}

/// A document whose kind is known from a first pass.
pub(super) struct Known(pub String, pub String);

impl<'de> DeserializeSeed<'de> for Known {
    type Value = Document;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Document, D::Error> {
        d.deserialize_map(DocumentVisitor {
            api: Some(self.0),
            kind: Some(self.1),
            pass: 2,
        })
    }
}

struct DocumentVisitor {
    api: Option<String>,
    kind: Option<String>,
    pass: u8,
}

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with apiVersion and kind")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Document, A::Error> {
        let mut items = None;
        let mut strange = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match (&*key, &self.api, &self.kind) {
                ("apiVersion", None, _) => self.api = Some(map.next_value()?),
                ("kind", _, None) => self.kind = Some(map.next_value()?),
                ("apiVersion", ..) | ("kind", ..) if self.pass == 2 => {
                    map.next_value::<IgnoredAny>()?;
                }
                ("items", _, None) => items = Some(map.next_value::<Items>()?.0),
                ("items", _, Some(kind)) if kind.ends_with("List") => {
                    items = Some(map.next_value::<Items>()?.0);
                }
                (_, _, Some(kind)) if kind.ends_with("List") => {
                    map.next_value::<IgnoredAny>()?;
                }
                (_, Some(api), Some(kind)) => {
                    return match strange {
                        // In our own group unknown fields are errors.
                        Some(field) if api.starts_with("underpass.dev/") => {
                            Err(A::Error::custom(format!("unknown field `{field}`")))
                        }
                        _ => object(api, kind, Pending(Some(key), map)),
                    };
                }
                // Sorted by key, as Kubernetes' tools print it, a slice begins before its kind.
                ("addressType" | "endpoints", api, None)
                    if api.as_deref().is_none_or(|a| a == SLICE.0) =>
                {
                    return object(SLICE.0, SLICE.1, Pending(Some(key), map));
                }
                // A list's own metadata comes after its items, before or after its kind.
                _ if items.is_some() => {
                    map.next_value::<IgnoredAny>()?;
                }
                ("metadata" | "spec" | "status" | "ports", ..) => {
                    return Err(A::Error::custom(KIND_LATER));
                }
                // Of no kind that we read.
                (other, ..) => {
                    strange = Some(other.to_owned());
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        match (items, self.api, self.kind) {
            (Some(items), _, _) => Ok(Document::List(items)),
            (None, Some(_), Some(kind)) if kind.ends_with("List") => Ok(Document::List(Vec::new())),
            (None, Some(api), Some(kind)) => object(&api, &kind, Pending(None, map)),
            (_, None, _) => Err(A::Error::missing_field("apiVersion")),
            (_, _, None) => Err(A::Error::missing_field("kind")),
        }
    }
}

fn object<'de, A: MapAccess<'de>>(
    api: &str,
    kind: &str,
    map: Pending<'de, A>,
) -> Result<Document, A::Error> {
    let d = MapAccessDeserializer::new(map);
    Ok(Document::Object(match (api, kind) {
        ("v1", "Namespace") => Object::Namespace(Arc::new(Deserialize::deserialize(d)?)),
        ("v1", "Pod") => Object::Pod(Arc::new(Deserialize::deserialize(d)?)),
        ("v1", "Service") => Object::Service(Arc::new(Deserialize::deserialize(d)?)),
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            Object::EndpointSlice(Arc::new(Deserialize::deserialize(d)?))
        }
        ("underpass.dev/v1alpha1", "AuthorizationPolicy") => {
            Object::AuthorizationPolicy(Arc::new(Deserialize::deserialize(d)?))
        }
        ("underpass.dev/v1alpha1", "Workload") => {
            Object::Workload(Arc::new(Deserialize::deserialize(d)?))
        }
        HTTP_ROUTE => {
            let route::Manifest(route) = Deserialize::deserialize(d)?;
            Object::HttpRoute(Arc::new(route))
        }
        _ => {
            IgnoredAny::deserialize(d)?;
            return Ok(Document::Unknown {
                api: api.into(),
                kind: kind.into(),
            });
        }
    }))
}

/// The items of a list; `null` is none.
struct Items(Vec<Document>);

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Seq;
        impl<'de> Visitor<'de> for Seq {
            type Value = Items;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of objects")
            }
            fn visit_unit<E: serde::de::Error>(self) -> Result<Items, E> {
                Ok(Items(Vec::new()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        d.deserialize_any(Seq)
    }
}

/// A map of which one key was already taken.
struct Pending<'de, A>(Option<Cow<'de, str>>, A);

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Pending<'de, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        match self.0.take() {
            Some(key) => seed
                .deserialize(serde::de::value::CowStrDeserializer::new(key))
                .map(Some),
            // `kind` and `apiVersion` may follow if a first pass has read them.
            None => self.1.next_key_seed(seed),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.1.next_value_seed(seed)
    }
}
