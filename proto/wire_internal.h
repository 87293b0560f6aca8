/* wire_internal.h - the engine below wire: one table of fields per message serves both directions.
 *
 * A table says where each field lies in the plain struct and in protobuf-c's struct, and what it may hold. Encoding and
 * decoding walk the same table, so no field can be written and not read. Included by wire*.c (and its tests) only. */
#pragma once
#include "common/arena.h"
#include "common/buf.h"
#include "proto/links.h"
#include <protobuf-c/protobuf-c.h>

enum wire_kind {
    WIRE_BOOL,
    WIRE_U16, /* on the wire a uint32 */
    WIRE_U32,
    WIRE_U64,
    WIRE_I64,
    WIRE_ENUM,   /* min..max */
    WIRE_NAME,   /* span; no NUL; at most NAME_BYTES_MAX */
    WIRE_ID,     /* a name that may not be empty */
    WIRE_TEXT,   /* span; no NUL */
    WIRE_BYTES,  /* span; anything */
    WIRE_HASH,   /* struct sha256 */
    WIRE_SALT,   /* uint8_t[ASSIGNMENT_SALT_BYTES] */
    WIRE_PART,   /* one struct inside another */
    WIRE_LIST,   /* pointer and count of structs */
    WIRE_INLINE, /* the same, but an array of `max` in the struct itself */
    WIRE_TEXTS,  /* struct span_list */
    WIRE_HASHES, /* pointer and count */
    WIRE_U32S,
    WIRE_U64S
};

struct wire_message;
struct wire_field {
    const char *name;
    enum wire_kind kind;
    uint32_t min, max;          /* of an enum; most elements of a list */
    size_t plain, pb;           /* offsets */
    size_t plain_count;         /* offset of a list's uint32_t count */
    size_t pb_count;            /* offset of protobuf-c's size_t n_... */
    size_t element, pb_element; /* sizes, to check the table against `part` */
    const struct wire_message *part;
};
struct wire_message {
    const char *name;
    const struct wire_field *fields;
    size_t field_count;
    size_t plain_bytes;
    const ProtobufCMessageDescriptor *descriptor;
    const char *(*check)(const void *plain); /* what is wrong with a decoded struct, or NULL; may be NULL */
};

/* The tables are written with P (the plain struct) and W (protobuf-c's) defined. A wrong type does not compile. */
#define WIRE_IS(type, f, expected) (0 * sizeof(char[_Generic(((type *)0)->f, expected : 1)]))
#define WIRE_AT(k, f, t, pt)                                                                                           \
    .name = #f, .kind = (k), .plain = offsetof(P, f) + WIRE_IS(P, f, t), .pb = offsetof(W, f) + WIRE_IS(W, f, pt)
#define BOOL_(f)                                                                                                       \
    {                                                                                                                  \
        WIRE_AT(WIRE_BOOL, f, bool, protobuf_c_boolean)                                                                \
    }
#define U16_(f)                                                                                                        \
    {                                                                                                                  \
        WIRE_AT(WIRE_U16, f, uint16_t, uint32_t)                                                                       \
    }
#define U32_(f)                                                                                                        \
    {                                                                                                                  \
        WIRE_AT(WIRE_U32, f, uint32_t, uint32_t)                                                                       \
    }
#define U64_(f)                                                                                                        \
    {                                                                                                                  \
        WIRE_AT(WIRE_U64, f, uint64_t, uint64_t)                                                                       \
    }
#define I64_(f)                                                                                                        \
    {                                                                                                                  \
        WIRE_AT(WIRE_I64, f, int64_t, int64_t)                                                                         \
    }
#define NAME_(f)                                                                                                       \
    {                                                                                                                  \
        WIRE_AT(WIRE_NAME, f, struct span, ProtobufCBinaryData)                                                        \
    }
#define ID_(f)                                                                                                         \
    {                                                                                                                  \
        WIRE_AT(WIRE_ID, f, struct span, ProtobufCBinaryData)                                                          \
    }
#define TEXT_(f)                                                                                                       \
    {                                                                                                                  \
        WIRE_AT(WIRE_TEXT, f, struct span, ProtobufCBinaryData)                                                        \
    }
#define BYTES_(f)                                                                                                      \
    {                                                                                                                  \
        WIRE_AT(WIRE_BYTES, f, struct span, ProtobufCBinaryData)                                                       \
    }
#define HASH_(f)                                                                                                       \
    {                                                                                                                  \
        WIRE_AT(WIRE_HASH, f, struct sha256, ProtobufCBinaryData)                                                      \
    }
#define SALT_(f)                                                                                                       \
    {                                                                                                                  \
        .name = #f, .kind = WIRE_SALT,                                                                                 \
        .plain = offsetof(P, f) + 0 * sizeof(char[sizeof(((P *)0)->f) == ASSIGNMENT_SALT_BYTES ? 1 : -1]),             \
        .pb = offsetof(W, f) + WIRE_IS(W, f, ProtobufCBinaryData)                                                      \
    }
#define ENUM_(f, least, most)                                                                                          \
    {                                                                                                                  \
        .name = #f, .kind = WIRE_ENUM, .min = (least), .max = (most),                                                  \
        .plain = offsetof(P, f) + 0 * sizeof(char[sizeof(((P *)0)->f) == sizeof(uint32_t) ? 1 : -1]),                  \
        .pb = offsetof(W, f) + WIRE_IS(W, f, uint32_t)                                                                 \
    }
#define PART_(f, m)                                                                                                    \
    {                                                                                                                  \
        .name = #f, .kind = WIRE_PART, .plain = offsetof(P, f), .pb = offsetof(W, f), .element = sizeof(((P *)0)->f),  \
        .pb_element = sizeof(*((W *)0)->f), .part = (m)                                                                \
    }
#define LIST_KIND_(k, f, count, most, m)                                                                               \
    {                                                                                                                  \
        .name = #f, .kind = (k), .max = (most), .plain = offsetof(P, f), .pb = offsetof(W, f),                         \
        .plain_count = offsetof(P, count) + WIRE_IS(P, count, uint32_t), .pb_count = offsetof(W, n_##f),               \
        .element = sizeof(((P *)0)->f[0]), .pb_element = sizeof(*((W *)0)->f[0]), .part = (m)                          \
    }
#define LIST_(f, count, most, m)   LIST_KIND_(WIRE_LIST, f, count, most, m)
#define INLINE_(f, count, most, m) LIST_KIND_(WIRE_INLINE, f, count, most, m)
#define ARRAY_KIND_(k, f, count, most, t, pt)                                                                          \
    {                                                                                                                  \
        WIRE_AT(k, f, t, pt), .max = (most), .plain_count = offsetof(P, count) + WIRE_IS(P, count, uint32_t),          \
                              .pb_count = offsetof(W, n_##f)                                                           \
    }
#define U32S_(f, count, most)   ARRAY_KIND_(WIRE_U32S, f, count, most, uint32_t *, uint32_t *)
#define U64S_(f, count, most)   ARRAY_KIND_(WIRE_U64S, f, count, most, uint64_t *, uint64_t *)
#define HASHES_(f, count, most) ARRAY_KIND_(WIRE_HASHES, f, count, most, struct sha256 *, ProtobufCBinaryData *)
#define TEXTS_(f, most)                                                                                                \
    {                                                                                                                  \
        WIRE_AT(WIRE_TEXTS, f, struct span_list, ProtobufCBinaryData *), .max = (most), .pb_count = offsetof(W, n_##f) \
    }
#define WIRE_MESSAGE(text, table, plain_type, pb_descriptor, check_fn)                                                 \
    {                                                                                                                  \
        .name = (text), .fields = (table), .field_count = ARRAY_LEN(table), .plain_bytes = sizeof(plain_type),         \
        .descriptor = &(pb_descriptor), .check = (check_fn)                                                            \
    }

extern const struct wire_message wire_price, wire_requirement;               /* wire.c */
extern const struct wire_message wire_artifact, wire_head;                   /* wire_artifact.c */
extern const struct wire_message wire_evidence;                              /* wire_evidence.c */
extern const struct wire_message wire_teams, wire_key, wire_directory_delta; /* wire_directory.c */
extern const struct wire_message wire_fetch_request, wire_fetch_reply;       /* wire_links.c */
extern const struct wire_message wire_evidence_report, wire_evidence_reply;
extern const struct wire_message wire_admin_request, wire_admin_reply;

/* What holds for a whole message. Version and features are looked at before anything else: the rest may mean something
 * else there. */
struct wire_limits {
    size_t bytes_max;
    uint32_t version_least, version; /* schema or protocol: what is accepted */
    size_t version_at;               /* offset in protobuf-c's struct */
    size_t requires_at;              /* likewise; 0: none (offset 0 is protobuf-c's own) */
    bool stamp;                      /* the plain struct does not hold the version: the encoder writes `version` */
};
MUST_CHECK enum err wire_encode(const struct wire_message *message, const struct wire_limits *limits, const void *plain,
                                struct buf *out);
/* *ret is a new plain struct in arena. ret_why may be NULL. */
MUST_CHECK enum err wire_decode(const struct wire_message *message, const struct wire_limits *limits,
                                struct arena *arena, struct span bytes, void **ret, const char **ret_why);

/* Are the spans at the start of each of `count` structs of `size` bytes strictly ascending? */
bool wire_ascending(const void *items, uint32_t count, size_t size, size_t name_offset);
#define WIRE_ASCENDING(items, count, type, f) wire_ascending((items), (count), sizeof(type), offsetof(type, f))
