/* json_fields.h - strict reading of an object's members, for state that we wrote ourselves: the first error sticks and is
 * looked at once; what is absent or of another type is ERR_CORRUPT, and reads as zero. */
#pragma once
#include "common/json.h"

struct arena;

struct json_fields {
    struct arena *arena; /* of texts */
    const struct json_index *ix;
    enum err err; /* ERR_CORRUPT, ERR_NOMEM */
};
/* The member's token; JSON_NONE after an error. */
uint32_t json_field(struct json_fields *f, uint32_t object, const char *name, enum json_kind kind);
/* The same for a member that may be null: JSON_NONE then. */
uint32_t json_field_or_null(struct json_fields *f, uint32_t object, const char *name, enum json_kind kind);
uint64_t json_field_u64(struct json_fields *f, uint32_t object, const char *name, uint64_t most);
int64_t json_field_i64(struct json_fields *f, uint32_t object, const char *name);
double json_field_double(struct json_fields *f, uint32_t object, const char *name); /* finite */
bool json_field_bool(struct json_fields *f, uint32_t object, const char *name);
struct span json_field_text(struct json_fields *f, uint32_t object, const char *name); /* copied, NUL behind */
/* Index of the text in words; `count` of them. */
unsigned json_field_word(struct json_fields *f, uint32_t object, const char *name, const char *const *words,
                         unsigned count);
/* Elements of an array. */
struct span json_item_text(struct json_fields *f, uint32_t token);
uint64_t json_item_u64(struct json_fields *f, uint32_t token, uint64_t most);
