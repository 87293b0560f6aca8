#include "proto/wire_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* Are the tables whole? A field added to a struct or to a schema, but not to its table, would silently be lost. */

static const struct wire_message *const tops[] = {
    &wire_artifact,        &wire_head,          &wire_evidence,    &wire_teams,           &wire_key,
    &wire_directory_delta, &wire_fetch_request, &wire_fetch_reply, &wire_evidence_report, &wire_evidence_reply,
    &wire_admin_request,   &wire_admin_reply,
};

static size_t plain_bytes(const struct wire_field *field)
{
    switch (field->kind) {
    case WIRE_BOOL:
        return sizeof(bool);
    case WIRE_U16:
        return sizeof(uint16_t);
    case WIRE_U32:
    case WIRE_ENUM:
        return sizeof(uint32_t);
    case WIRE_U64:
    case WIRE_I64:
        return sizeof(uint64_t);
    case WIRE_NAME:
    case WIRE_ID:
    case WIRE_TEXT:
    case WIRE_BYTES:
        return sizeof(struct span);
    case WIRE_HASH:
        return sizeof(struct sha256);
    case WIRE_SALT:
        return ASSIGNMENT_SALT_BYTES;
    case WIRE_PART:
        return field->element;
    case WIRE_INLINE:
        return field->element * field->max;
    case WIRE_TEXTS:
        return sizeof(struct span_list);
    case WIRE_LIST:
    case WIRE_HASHES:
    case WIRE_U32S:
    case WIRE_U64S:
        return sizeof(void *);
    }
    return 0;
}

/* Marks the bytes that the table reaches; what remains may only be padding: fewer than 8 bytes, up to an alignment. */
static void check_plain(const struct wire_message *message)
{
    char *covered = calloc(1, message->plain_bytes);
    for (size_t i = 0; i < message->field_count; i++) {
        const struct wire_field *field = &message->fields[i];
        memset(covered + field->plain, 1, plain_bytes(field));
        if (field->plain_count)
            memset(covered + field->plain_count, 1, sizeof(uint32_t));
    }
    if (message == &wire_artifact)
        memset(covered + offsetof(struct artifact, hash), 1, sizeof(struct sha256)); /* made from the bytes */
    for (size_t at = 0, gap = 0; at < message->plain_bytes; at++) {
        gap = covered[at] ? 0 : gap + 1;
        bool ends = at + 1 == message->plain_bytes || covered[at + 1];
        if (gap >= 8 || (gap > 0 && ends && (at + 1) % 4 != 0 && gap > 1))
            fail_msg("%s: byte %zu of the struct is in no table", message->name, at);
    }
    free(covered);
}

static void check_schema(const struct wire_message *message)
{
    const ProtobufCMessageDescriptor *descriptor = message->descriptor;
    for (unsigned i = 0; i < descriptor->n_fields; i++) {
        bool found = strcmp(descriptor->fields[i].name, "schema") == 0;
        for (size_t f = 0; f < message->field_count && !found; f++)
            found = strcmp(descriptor->fields[i].name, message->fields[f].name) == 0 &&
                    descriptor->fields[i].offset == message->fields[f].pb;
        if (!found)
            fail_msg("%s.%s of the schema is in no table", descriptor->name, descriptor->fields[i].name);
    }
    for (size_t f = 0; f < message->field_count; f++)
        if (message->fields[f].part) {
            const ProtobufCFieldDescriptor *field =
                protobuf_c_message_descriptor_get_field_by_name(descriptor, message->fields[f].name);
            assert_non_null(field);
            assert_ptr_equal(field->descriptor, message->fields[f].part->descriptor);
        }
}

/* Depth is bounded because no message is its own ancestor. */
static void walk(const struct wire_message *message, unsigned depth)
{
    assert_true(depth < 6);
    check_plain(message);
    check_schema(message);
    for (size_t f = 0; f < message->field_count; f++)
        if (message->fields[f].part)
            walk(message->fields[f].part, depth + 1);
}

static void every_field_is_in_its_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(tops); i++)
        walk(tops[i], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(every_field_is_in_its_table) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
