#include "common/json_fields.h"
#include "common/arena.h"

static void corrupt(struct json_fields *f)
{
    if (!f->err)
        f->err = ERR_CORRUPT;
}

uint32_t json_field(struct json_fields *f, uint32_t object, const char *name, enum json_kind kind)
{
    if (f->err)
        return JSON_NONE;
    const uint32_t token = object == JSON_NONE ? JSON_NONE : json_get(f->ix, object, span_cstr(name));
    if (token == JSON_NONE || json_kind(f->ix, token) != kind)
        corrupt(f);
    return f->err ? JSON_NONE : token;
}

uint32_t json_field_or_null(struct json_fields *f, uint32_t object, const char *name, enum json_kind kind)
{
    const uint32_t token = f->err || object == JSON_NONE ? JSON_NONE : json_get(f->ix, object, span_cstr(name));
    if (token != JSON_NONE && json_kind(f->ix, token) == JSON_NULL)
        return JSON_NONE;
    return json_field(f, object, name, kind);
}

uint64_t json_item_u64(struct json_fields *f, uint32_t token, uint64_t most)
{
    uint64_t value = 0;
    if (f->err)
        return 0;
    if (json_u64(f->ix, token, &value) != OK || value > most) {
        corrupt(f);
        return 0;
    }
    return value;
}

uint64_t json_field_u64(struct json_fields *f, uint32_t object, const char *name, uint64_t most)
{
    return json_item_u64(f, json_field(f, object, name, JSON_NUMBER), most);
}

int64_t json_field_i64(struct json_fields *f, uint32_t object, const char *name)
{
    int64_t value = 0;
    const uint32_t token = json_field(f, object, name, JSON_NUMBER);
    if (!f->err && json_i64(f->ix, token, &value) != OK)
        corrupt(f);
    return f->err ? 0 : value;
}

double json_field_double(struct json_fields *f, uint32_t object, const char *name)
{
    double value = 0;
    const uint32_t token = json_field(f, object, name, JSON_NUMBER);
    if (!f->err && json_double(f->ix, token, &value) != OK)
        corrupt(f);
    return f->err ? 0 : value;
}

bool json_field_bool(struct json_fields *f, uint32_t object, const char *name)
{
    bool value = false;
    const uint32_t token = f->err || object == JSON_NONE ? JSON_NONE : json_get(f->ix, object, span_cstr(name));
    if (token == JSON_NONE || json_bool(f->ix, token, &value) != OK)
        corrupt(f);
    return value;
}

struct span json_item_text(struct json_fields *f, uint32_t token)
{
    struct span text = SPAN("");
    if (f->err)
        return text;
    const enum err err =
        json_kind(f->ix, token) == JSON_STRING ? json_string(f->arena, f->ix, token, &text) : ERR_INVALID;
    struct span copy = err ? SPAN("") : arena_dup(f->arena, text);
    if (err == ERR_NOMEM || !copy.ptr)
        f->err = ERR_NOMEM;
    else if (err)
        corrupt(f);
    return f->err ? SPAN("") : copy;
}

struct span json_field_text(struct json_fields *f, uint32_t object, const char *name)
{
    return json_item_text(f, json_field(f, object, name, JSON_STRING));
}

unsigned json_field_word(struct json_fields *f, uint32_t object, const char *name, const char *const *words,
                         unsigned count)
{
    const struct span text = json_field_text(f, object, name);
    for (unsigned i = 0; i < count && !f->err; i++) {
        if (span_eq(text, span_cstr(words[i])))
            return i;
    }
    corrupt(f);
    return 0;
}
