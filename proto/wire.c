#include "proto/wire.h"
#include "proto/wire_internal.h"
#include "common/fault.h"
#include "shared.pb-c.h"

/* What unpacking may use, against a message of a few bytes that stands for gigabytes (an empty submessage is 2 bytes on
 * the wire and a few hundred unpacked). Real tables of short routes need up to some 20 times their size. */
#define SCRATCH_FACTOR      32u
#define SCRATCH_BYTES_LEAST (1u << 20)
#define SCRATCH_BYTES_MAX   ((size_t)1 << 30)

bool wire_ascending(const void *items, uint32_t count, size_t size, size_t name_offset)
{
    for (uint32_t i = 1; i < count; i++) {
        const char *item = (const char *)items + (size_t)i * size;
        struct span before, after;
        memcpy(&before, item - size + name_offset, sizeof(before));
        memcpy(&after, item + name_offset, sizeof(after));
        if (span_cmp(before, after) >= 0)
            return false;
    }
    return true;
}

/* Pointers in structs of types this file does not know: through memcpy, for aliasing's sake. */
static void *pointer_at(const void *base, size_t offset)
{
    void *pointer;
    memcpy(&pointer, (const char *)base + offset, sizeof(pointer));
    return pointer;
}

static void pointer_set(void *base, size_t offset, const void *pointer)
{
    memcpy((char *)base + offset, &pointer, sizeof(pointer));
}

static void table_check(const struct wire_field *field)
{
    REQUIRE(field->element == field->part->plain_bytes && field->pb_element == field->part->descriptor->sizeof_message);
}

/* ---- encoding: plain -> protobuf-c in scratch (lists only; bytes stay borrowed) -> packed ---- */

static ProtobufCBinaryData binary_of(struct span s)
{
    return (ProtobufCBinaryData){ .len = s.len, .data = (uint8_t *)(uintptr_t)s.ptr };
}

static enum err to_pb(const struct wire_message *message, const void *plain, struct arena *scratch, void *pb);

static enum err new_pb(const struct wire_message *message, const void *plain, struct arena *scratch,
                       ProtobufCMessage **ret)
{
    ProtobufCMessage *pb = arena_alloc(scratch, message->descriptor->sizeof_message);
    if (!pb)
        return ERR_NOMEM;
    message->descriptor->message_init(pb);
    *ret = pb;
    return to_pb(message, plain, scratch, pb);
}

static enum err list_to_pb(const struct wire_field *field, const char *items, uint32_t count, struct arena *scratch,
                           void *pb)
{
    table_check(field);
    ProtobufCMessage **list = ARENA_ARRAY(scratch, count, ProtobufCMessage *);
    if (!list)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < count; i++) {
        enum err err = new_pb(field->part, items + (size_t)i * field->element, scratch, &list[i]);
        if (err)
            return err;
    }
    pointer_set(pb, field->pb, list);
    return OK;
}

static enum err binaries_to_pb(const struct wire_field *field, const void *items, uint32_t count, struct arena *scratch,
                               void *pb)
{
    ProtobufCBinaryData *list = ARENA_ARRAY(scratch, count, ProtobufCBinaryData);
    if (!list)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < count; i++)
        list[i] = field->kind == WIRE_HASHES ? binary_of(span_of(((const struct sha256 *)items)[i].bytes, SHA256_BYTES))
                                             : binary_of(((const struct span *)items)[i]);
    pointer_set(pb, field->pb, list);
    return OK;
}

static enum err repeated_to_pb(const struct wire_field *field, const char *plain, struct arena *scratch, char *pb)
{
    uint32_t count;
    const void *items;
    if (field->kind == WIRE_TEXTS) {
        struct span_list list;
        memcpy(&list, plain + field->plain, sizeof(list));
        count = list.count;
        items = list.items;
    } else {
        memcpy(&count, plain + field->plain_count, sizeof(count));
        items = field->kind == WIRE_INLINE ? plain + field->plain : pointer_at(plain, field->plain);
    }
    if (count > field->max)
        return ERR_TOO_MANY;
    size_t n = count;
    memcpy(pb + field->pb_count, &n, sizeof(n));
    if (count == 0)
        return OK;
    if (field->kind == WIRE_LIST || field->kind == WIRE_INLINE)
        return list_to_pb(field, items, count, scratch, pb);
    if (field->kind == WIRE_TEXTS || field->kind == WIRE_HASHES)
        return binaries_to_pb(field, items, count, scratch, pb);
    pointer_set(pb, field->pb, items);
    return OK;
}

static enum err field_to_pb(const struct wire_field *field, const char *plain, struct arena *scratch, char *pb)
{
    const char *from = plain + field->plain;
    char *to = pb + field->pb;
    switch (field->kind) {
    case WIRE_BOOL:
        *(protobuf_c_boolean *)(void *)to = *(const bool *)from;
        return OK;
    case WIRE_U16: {
        uint16_t value;
        memcpy(&value, from, sizeof(value));
        *(uint32_t *)(void *)to = value;
        return OK;
    }
    case WIRE_U32:
    case WIRE_ENUM:
        memcpy(to, from, sizeof(uint32_t));
        return OK;
    case WIRE_U64:
    case WIRE_I64:
        memcpy(to, from, sizeof(uint64_t));
        return OK;
    case WIRE_NAME:
    case WIRE_ID:
    case WIRE_TEXT:
    case WIRE_BYTES: {
        struct span s;
        memcpy(&s, from, sizeof(s));
        *(ProtobufCBinaryData *)(void *)to = binary_of(s);
        return OK;
    }
    case WIRE_HASH:
        *(ProtobufCBinaryData *)(void *)to = binary_of(span_of(from, SHA256_BYTES));
        return OK;
    case WIRE_SALT:
        *(ProtobufCBinaryData *)(void *)to = binary_of(span_of(from, ASSIGNMENT_SALT_BYTES));
        return OK;
    case WIRE_PART: {
        table_check(field);
        ProtobufCMessage *part;
        enum err err = new_pb(field->part, from, scratch, &part);
        if (err == OK)
            pointer_set(pb, field->pb, part);
        return err;
    }
    case WIRE_LIST:
    case WIRE_INLINE:
    case WIRE_TEXTS:
    case WIRE_HASHES:
    case WIRE_U32S:
    case WIRE_U64S:
        return repeated_to_pb(field, plain, scratch, pb);
    }
    return ERR_INVALID;
}

static enum err to_pb(const struct wire_message *message, const void *plain, struct arena *scratch, void *pb)
{
    for (size_t i = 0; i < message->field_count; i++) {
        enum err err = field_to_pb(&message->fields[i], plain, scratch, pb);
        if (err)
            return err;
    }
    return OK;
}

enum err wire_encode(const struct wire_message *message, const struct wire_limits *limits, const void *plain,
                     struct buf *out)
{
    struct arena scratch;
    arena_init(&scratch, SIZE_MAX);
    ProtobufCMessage *pb;
    enum err err = new_pb(message, plain, &scratch, &pb);
    if (err)
        goto done;
    if (limits->stamp)
        memcpy((char *)pb + limits->version_at, &limits->version, sizeof(limits->version));
    size_t bytes = protobuf_c_message_get_packed_size(pb);
    err = ERR_FULL;
    if (bytes > limits->bytes_max)
        goto done;
    char *at;
    err = buf_reserve(out, bytes, &at);
    if (err)
        goto done;
    buf_commit(out, protobuf_c_message_pack(pb, (uint8_t *)at));
done:
    arena_release(&scratch);
    return err;
}

/* ---- decoding: unpacked into scratch -> checked and copied into the caller's arena ---- */

struct decoding {
    struct arena *arena;
    const char *why; /* what is wrong, with the path to it once it climbed out */
};

static enum err invalid(struct decoding *d, const struct wire_message *message, const struct wire_field *field,
                        const char *problem)
{
    const char *text = arena_printf(d->arena, "%s.%s: %s", message->name, field->name, problem);
    d->why = text ? text : problem;
    return ERR_INVALID;
}

static enum err too_many(struct decoding *d, const struct wire_message *message, const struct wire_field *field,
                         size_t count)
{
    const char *text =
        arena_printf(d->arena, "%s.%s: %zu elements, %u are the most", message->name, field->name, count, field->max);
    d->why = text ? text : "too many elements";
    return ERR_TOO_MANY;
}

static enum err from_pb(struct decoding *d, const struct wire_message *message, const void *pb, void *plain);

static const char *text_problem(enum wire_kind kind, struct span s)
{
    if (kind == WIRE_BYTES)
        return NULL;
    if (kind == WIRE_ID && s.len == 0)
        return "empty";
    if ((kind == WIRE_ID || kind == WIRE_NAME) && s.len > NAME_BYTES_MAX)
        return "name too long";
    if (s.len > 0 && memchr(s.ptr, '\0', s.len))
        return "a NUL inside";
    return NULL;
}

static enum err text_from_pb(struct decoding *d, enum wire_kind kind, const ProtobufCBinaryData *data, struct span *ret,
                             const char **ret_problem)
{
    struct span s = span_of(data->data, data->len);
    *ret_problem = text_problem(kind, s);
    if (*ret_problem)
        return ERR_INVALID;
    if (s.len == 0) {
        *ret = SPAN("");
        return OK;
    }
    *ret = arena_dup(d->arena, s);
    return ret->ptr ? OK : ERR_NOMEM;
}

static enum err list_from_pb(struct decoding *d, const struct wire_field *field, const char *pb, size_t count,
                             char *items)
{
    table_check(field);
    ProtobufCMessage **list = pointer_at(pb, field->pb);
    for (size_t i = 0; i < count; i++) {
        enum err err = from_pb(d, field->part, list[i], items + i * field->element);
        if (err == OK)
            continue;
        const char *text = d->why ? arena_printf(d->arena, "%s[%zu] %s", field->name, i, d->why) : NULL;
        d->why = text ? text : d->why;
        return err;
    }
    return OK;
}

static enum err texts_from_pb(struct decoding *d, const struct wire_message *message, const struct wire_field *field,
                              const char *pb, size_t count, char *plain)
{
    const ProtobufCBinaryData *list = pointer_at(pb, field->pb);
    struct span *items = ARENA_ARRAY(d->arena, count, struct span);
    if (!items)
        return ERR_NOMEM;
    for (size_t i = 0; i < count; i++) {
        const char *problem;
        enum err err = text_from_pb(d, WIRE_TEXT, &list[i], &items[i], &problem);
        if (err)
            return problem ? invalid(d, message, field, problem) : err;
    }
    struct span_list made = { .items = items, .count = (uint32_t)count };
    memcpy(plain + field->plain, &made, sizeof(made));
    return OK;
}

static enum err hashes_from_pb(struct decoding *d, const struct wire_message *message, const struct wire_field *field,
                               const char *pb, size_t count, char *plain)
{
    const ProtobufCBinaryData *list = pointer_at(pb, field->pb);
    struct sha256 *items = ARENA_ARRAY(d->arena, count, struct sha256);
    if (!items)
        return ERR_NOMEM;
    for (size_t i = 0; i < count; i++) {
        if (list[i].len != SHA256_BYTES)
            return invalid(d, message, field, "not a SHA-256");
        memcpy(items[i].bytes, list[i].data, SHA256_BYTES);
    }
    pointer_set(plain, field->plain, items);
    return OK;
}

static enum err numbers_from_pb(struct decoding *d, const struct wire_field *field, const char *pb, size_t count,
                                char *plain)
{
    size_t size = field->kind == WIRE_U32S ? sizeof(uint32_t) : sizeof(uint64_t);
    void *items = arena_alloc_array(d->arena, count, size);
    if (!items)
        return ERR_NOMEM;
    memcpy(items, pointer_at(pb, field->pb), count * size);
    pointer_set(plain, field->plain, items);
    return OK;
}

static enum err repeated_from_pb(struct decoding *d, const struct wire_message *message, const struct wire_field *field,
                                 const char *pb, char *plain)
{
    size_t count;
    memcpy(&count, pb + field->pb_count, sizeof(count));
    if (count > field->max)
        return too_many(d, message, field, count);
    uint32_t narrow = (uint32_t)count;
    if (field->kind != WIRE_TEXTS)
        memcpy(plain + field->plain_count, &narrow, sizeof(narrow));
    if (count == 0)
        return OK;
    if (field->kind == WIRE_TEXTS)
        return texts_from_pb(d, message, field, pb, count, plain);
    if (field->kind == WIRE_HASHES)
        return hashes_from_pb(d, message, field, pb, count, plain);
    if (field->kind == WIRE_U32S || field->kind == WIRE_U64S)
        return numbers_from_pb(d, field, pb, count, plain);
    if (field->kind == WIRE_INLINE)
        return list_from_pb(d, field, pb, count, plain + field->plain);
    char *items = arena_alloc_array(d->arena, count, field->element);
    if (!items)
        return ERR_NOMEM;
    pointer_set(plain, field->plain, items);
    return list_from_pb(d, field, pb, count, items);
}

static enum err field_from_pb(struct decoding *d, const struct wire_message *message, const struct wire_field *field,
                              const char *pb, char *plain)
{
    const char *from = pb + field->pb;
    char *to = plain + field->plain;
    switch (field->kind) {
    case WIRE_BOOL:
        *(bool *)to = *(const protobuf_c_boolean *)(const void *)from != 0;
        return OK;
    case WIRE_U16: {
        uint32_t value = *(const uint32_t *)(const void *)from;
        if (value > UINT16_MAX)
            return invalid(d, message, field, "out of range");
        *(uint16_t *)(void *)to = (uint16_t)value;
        return OK;
    }
    case WIRE_ENUM: {
        uint32_t value = *(const uint32_t *)(const void *)from;
        if (value < field->min || value > field->max)
            return invalid(d, message, field, "a kind that is not known");
        memcpy(to, from, sizeof(uint32_t));
        return OK;
    }
    case WIRE_U32:
        memcpy(to, from, sizeof(uint32_t));
        return OK;
    case WIRE_U64:
    case WIRE_I64:
        memcpy(to, from, sizeof(uint64_t));
        return OK;
    case WIRE_NAME:
    case WIRE_ID:
    case WIRE_TEXT:
    case WIRE_BYTES: {
        struct span s;
        const char *problem;
        enum err err = text_from_pb(d, field->kind, (const ProtobufCBinaryData *)(const void *)from, &s, &problem);
        if (err)
            return problem ? invalid(d, message, field, problem) : err;
        memcpy(to, &s, sizeof(s));
        return OK;
    }
    case WIRE_HASH: {
        const ProtobufCBinaryData *data = (const ProtobufCBinaryData *)(const void *)from;
        if (data->len != SHA256_BYTES)
            return invalid(d, message, field, "not a SHA-256");
        memcpy(to, data->data, SHA256_BYTES);
        return OK;
    }
    case WIRE_SALT: {
        const ProtobufCBinaryData *data = (const ProtobufCBinaryData *)(const void *)from;
        if (data->len != ASSIGNMENT_SALT_BYTES)
            return invalid(d, message, field, "not 16 bytes");
        memcpy(to, data->data, ASSIGNMENT_SALT_BYTES);
        return OK;
    }
    case WIRE_PART: {
        table_check(field);
        const void *part = pointer_at(pb, field->pb);
        /* Absent: a part with nothing in it, which still has to pass its checks. */
        if (part)
            return from_pb(d, field->part, part, to);
        const char *problem = field->part->check ? field->part->check(to) : NULL;
        return problem ? invalid(d, message, field, problem) : OK;
    }
    case WIRE_LIST:
    case WIRE_INLINE:
    case WIRE_TEXTS:
    case WIRE_HASHES:
    case WIRE_U32S:
    case WIRE_U64S:
        return repeated_from_pb(d, message, field, pb, plain);
    }
    return ERR_INVALID;
}

static enum err from_pb(struct decoding *d, const struct wire_message *message, const void *pb, void *plain)
{
    for (size_t i = 0; i < message->field_count; i++) {
        enum err err = field_from_pb(d, message, &message->fields[i], pb, plain);
        if (err)
            return err;
    }
    const char *problem = message->check ? message->check(plain) : NULL;
    if (!problem)
        return OK;
    const char *text = arena_printf(d->arena, "%s: %s", message->name, problem);
    d->why = text ? text : problem;
    return ERR_INVALID;
}

/* protobuf-c's allocator over a bounded arena. It says only "failed", so the reason is kept here. */
struct scratch {
    struct arena arena;
    enum err err;
};

static void *scratch_alloc(void *user, size_t bytes)
{
    struct scratch *scratch = user;
    void *at = arena_alloc(&scratch->arena, bytes);
    if (!at && scratch->err == OK)
        scratch->err = bytes > scratch->arena.max - size_min(scratch->arena.used + 16, scratch->arena.max)
                           ? ERR_TOO_LARGE
                           : ERR_NOMEM;
    return at;
}

static void scratch_free(void *user, void *pointer)
{
    (void)user;
    (void)pointer; /* with the arena */
}

static enum err check_version(const struct wire_limits *limits, const ProtobufCMessage *pb, struct decoding *d)
{
    uint32_t version;
    uint64_t requires = 0;
    memcpy(&version, (const char *)pb + limits->version_at, sizeof(version));
    if (limits->requires_at)
        memcpy(&requires, (const char *)pb + limits->requires_at, sizeof(requires));
    const char *text = NULL;
    if (version < limits->version_least || version > limits->version)
        text = arena_printf(d->arena, "unsupported: version %u, this build reads %u to %u", version,
                            limits->version_least, limits->version);
    else if (requires & ~FEATURES_KNOWN)
        text = arena_printf(d->arena, "unsupported: requires features %#llx that this build does not know",
                            (unsigned long long)(requires & ~FEATURES_KNOWN));
    else
        return OK;
    d->why = text ? text : "unsupported";
    return ERR_UNSUPPORTED;
}

enum err wire_decode(const struct wire_message *message, const struct wire_limits *limits, struct arena *arena,
                     struct span bytes, void **ret, const char **ret_why)
{
    struct decoding d = { .arena = arena };
    struct scratch scratch = { .err = OK };
    size_t scratch_bytes = SCRATCH_BYTES_LEAST + size_min(bytes.len, limits->bytes_max) * SCRATCH_FACTOR;
    arena_init(&scratch.arena, size_min(scratch_bytes, SCRATCH_BYTES_MAX));
    ProtobufCAllocator allocator = { .alloc = scratch_alloc, .free = scratch_free, .allocator_data = &scratch };
    enum err err = ERR_TOO_LARGE;
    if (bytes.len > limits->bytes_max)
        goto done;
    ProtobufCMessage *pb = protobuf_c_message_unpack(message->descriptor, &allocator, bytes.len,
                                                     (const uint8_t *)(bytes.ptr ? bytes.ptr : ""));
    err = scratch.err ? scratch.err : ERR_CORRUPT;
    if (!pb)
        goto done;
    err = check_version(limits, pb, &d);
    if (err)
        goto done;
    void *plain = arena_alloc(arena, message->plain_bytes);
    err = plain ? from_pb(&d, message, pb, plain) : ERR_NOMEM;
    if (err == OK)
        *ret = plain;
done:
    if (err && ret_why)
        *ret_why = d.why ? d.why : err_name(err);
    arena_release(&scratch.arena);
    return err;
}

/* ---- what several messages have in common ---- */

#define PRICE_PARTS_KNOWN                                                                                              \
    (PRICE_INPUT | PRICE_OUTPUT | PRICE_CACHE_READ | PRICE_CACHE_WRITE | PRICE_REASONING | PRICE_REQUEST | PRICE_LONG)

static const char *price_check(const void *plain)
{
    const struct price *p = plain;
    if (p->known & ~(unsigned)PRICE_PARTS_KNOWN)
        return "a part that is not known"; /* money: never billed by half */
    if (p->input < 0 || p->output < 0 || p->cache_read < 0 || p->cache_write < 0 || p->reasoning < 0 ||
        p->request < 0 || p->long_input < 0 || p->long_output < 0 || p->long_cache_read < 0)
        return "negative";
    return NULL;
}

#define P struct price
#define W Wire__Price
static const struct wire_field price_fields[] = {
    U32_(known),   I64_(input),      I64_(output),     I64_(cache_read),  I64_(cache_write),     I64_(reasoning),
    I64_(request), U64_(long_above), I64_(long_input), I64_(long_output), I64_(long_cache_read),
};
#undef P
#undef W
const struct wire_message wire_price =
    WIRE_MESSAGE("price", price_fields, struct price, wire__price__descriptor, price_check);

#define P struct requirement
#define W Wire__Requirement
static const struct wire_field requirement_fields[] = {
    TEXTS_(regions, NAMES_MAX), BOOL_(has_retention), U32_(max_retention_days), BOOL_(no_training), TEXT_(where),
};
#undef P
#undef W
const struct wire_message wire_requirement =
    WIRE_MESSAGE("require", requirement_fields, struct requirement, wire__requirement__descriptor, NULL);

/* ---- objects ---- */

static size_t object_bytes_max(enum object_kind kind)
{
    switch (kind) {
    case OBJECT_HEAD:
        return HEAD_BYTES_MAX;
    case OBJECT_ARTIFACT:
        return ARTIFACT_BYTES_MAX;
    case OBJECT_EVIDENCE:
        return EVIDENCE_BYTES_MAX;
    case OBJECT_DIRECTORY:
        return DIRECTORY_DELTA_BYTES_MAX;
    }
    return 0;
}

struct object wire_object(enum object_kind kind, uint64_t seq, struct span bytes)
{
    return (
        struct object){ .kind = kind, .schema = TABLE_SCHEMA, .seq = seq, .hash = sha256_of(bytes), .bytes = bytes };
}

enum err wire_check_object(const struct object *object)
{
    if (object->bytes.len > object_bytes_max(object->kind))
        return ERR_TOO_LARGE;
    struct sha256 hash = sha256_of(object->bytes);
    if (!sha256_eq(&hash, &object->hash))
        return ERR_CORRUPT;
    if (object->schema < TABLE_SCHEMA_LEAST || object->schema > TABLE_SCHEMA)
        return ERR_UNSUPPORTED;
    return OK;
}
