//! A value for a field that has none, so that what stands after it is looked at, too. Nobody ever gets to see it.

use super::stop::Stop;
use serde::de::value::{MapDeserializer, SeqDeserializer, StrDeserializer};
use serde::de::{Deserializer, IntoDeserializer, Visitor};

/// A name that most types of ours take for one.
const NAME: &str = "x";

pub(super) struct MadeUp;

macro_rules! give {
    ($($method:ident => $visit:ident($value:expr);)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
            visitor.$visit($value)
        })*
    };
}

impl<'de> Deserializer<'de> for MadeUp {
    type Error = Stop;

    give! {
        deserialize_any => visit_str(NAME);
        deserialize_bool => visit_bool(false);
        deserialize_i8 => visit_u8(1);
        deserialize_i16 => visit_u8(1);
        deserialize_i32 => visit_u8(1);
        deserialize_i64 => visit_u8(1);
        deserialize_i128 => visit_u8(1);
        deserialize_u8 => visit_u8(1);
        deserialize_u16 => visit_u8(1);
        deserialize_u32 => visit_u8(1);
        deserialize_u64 => visit_u8(1);
        deserialize_u128 => visit_u8(1);
        deserialize_f32 => visit_u8(1);
        deserialize_f64 => visit_u8(1);
        deserialize_char => visit_str(NAME);
        deserialize_str => visit_str(NAME);
        deserialize_string => visit_str(NAME);
        deserialize_identifier => visit_str(NAME);
        deserialize_bytes => visit_bytes(NAME.as_bytes());
        deserialize_byte_buf => visit_bytes(NAME.as_bytes());
    }
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_none()
    }
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_unit()
    }
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_unit()
    }
    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_unit()
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_newtype_struct(self)
    }
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_seq(SeqDeserializer::<_, Stop>::new(std::iter::empty::<&str>()))
    }
    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_seq(visitor)
    }
    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, _: usize, v: V) -> Result<V::Value, Stop> {
        self.deserialize_seq(v)
    }
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_map(MapDeserializer::<_, Stop>::new(std::iter::empty::<(&str, &str)>()))
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.deserialize_map(visitor)
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        let first: StrDeserializer<'_, Stop> = variants.first().copied().unwrap_or(NAME).into_deserializer();
        visitor.visit_enum(first)
    }
}
