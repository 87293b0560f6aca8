#include "proto/wire_internal.h"
#include "proto/wire.h"
#include "directory.pb-c.h"

#define P struct team
#define W Wire__Team
static const struct wire_field team_fields[] = {
    ID_(name),    TEXTS_(routes, NAMES_MAX), TEXTS_(models, NAMES_MAX), PART_(require, &wire_requirement), U32_(may),
    TEXT_(where),
};
#undef P
#undef W
static const struct wire_message team_message =
    WIRE_MESSAGE("team", team_fields, struct team, wire__team__descriptor, NULL);

static const char *teams_check(const void *plain)
{
    const struct teams *teams = plain;
    return WIRE_ASCENDING(teams->items, teams->count, struct team, name) ? NULL : "teams are not sorted or not unique";
}

#define P struct teams
#define W Wire__Teams
static const struct wire_field teams_fields[] = {
    U64_(epoch),
    U64_(seq),
    LIST_(items, count, TEAMS_MAX, &team_message),
};
#undef P
#undef W
const struct wire_message wire_teams =
    WIRE_MESSAGE("teams", teams_fields, struct teams, wire__teams__descriptor, teams_check);

#define P struct tag
#define W Wire__Tag
static const struct wire_field tag_fields[] = { ID_(name), TEXT_(value) };
#undef P
#undef W
static const struct wire_message tag_message = WIRE_MESSAGE("tag", tag_fields, struct tag, wire__tag__descriptor, NULL);

#define P struct key_record
#define W Wire__KeyRecord
static const struct wire_field key_fields[] = {
    HASH_(hash),
    ID_(id),
    ID_(team),
    TEXTS_(routes, NAMES_MAX),
    I64_(created_at_ms),
    I64_(expires_at_ms),
    BOOL_(revoked),
    NAME_(replaced_by),
    LIST_(tags, tag_count, TAGS_MAX, &tag_message),
    NAME_(hint),
};
#undef P
#undef W
const struct wire_message wire_key =
    WIRE_MESSAGE("key", key_fields, struct key_record, wire__key_record__descriptor, NULL);

static const char *delta_check(const void *plain)
{
    const struct directory_delta *delta = plain;
    if (delta->full ? delta->from_seq != 0 : delta->to_seq < delta->from_seq)
        return "sequences run backwards";
    if (delta->more && !delta->full)
        return "only a full resync has pages";
    if (!delta->has_teams && delta->teams.count > 0)
        return "teams that are not announced";
    return NULL;
}

#define P struct directory_delta
#define W Wire__DirectoryDelta
static const struct wire_field delta_fields[] = {
    U64_(epoch),
    U64_(from_seq),
    U64_(to_seq),
    BOOL_(full),
    BOOL_(more),
    BOOL_(has_teams),
    PART_(teams, &wire_teams),
    LIST_(keys, key_count, DIRECTORY_PAGE_KEYS, &wire_key),
    HASHES_(removed, removed_count, DIRECTORY_PAGE_KEYS),
};
#undef P
#undef W
const struct wire_message wire_directory_delta =
    WIRE_MESSAGE("directory", delta_fields, struct directory_delta, wire__directory_delta__descriptor, delta_check);

#define DIRECTORY_LIMITS(bytes, type)                                                                                  \
    {                                                                                                                  \
        .bytes_max = (bytes), .version_least = TABLE_SCHEMA_LEAST, .version = TABLE_SCHEMA,                            \
        .version_at = offsetof(type, schema), .stamp = true                                                            \
    }
static const struct wire_limits teams_limits = DIRECTORY_LIMITS(TEAMS_BYTES_MAX, Wire__Teams);
static const struct wire_limits key_limits = DIRECTORY_LIMITS(KEY_RECORD_BYTES_MAX, Wire__KeyRecord);
static const struct wire_limits delta_limits = DIRECTORY_LIMITS(DIRECTORY_DELTA_BYTES_MAX, Wire__DirectoryDelta);

enum err wire_encode_teams(const struct teams *teams, struct buf *out)
{
    return wire_encode(&wire_teams, &teams_limits, teams, out);
}

enum err wire_decode_teams(struct arena *arena, struct span bytes, struct teams **ret, const char **ret_why)
{
    void *plain;
    enum err err = wire_decode(&wire_teams, &teams_limits, arena, bytes, &plain, ret_why);
    if (err == OK)
        *ret = plain;
    return err;
}

enum err wire_encode_key(const struct key_record *key, struct buf *out)
{
    return wire_encode(&wire_key, &key_limits, key, out);
}

enum err wire_decode_key(struct arena *arena, struct span bytes, struct key_record **ret, const char **ret_why)
{
    void *plain;
    enum err err = wire_decode(&wire_key, &key_limits, arena, bytes, &plain, ret_why);
    if (err == OK)
        *ret = plain;
    return err;
}

enum err wire_encode_directory_delta(const struct directory_delta *delta, struct buf *out)
{
    return wire_encode(&wire_directory_delta, &delta_limits, delta, out);
}

enum err wire_decode_directory_delta(struct arena *arena, struct span bytes, struct directory_delta **ret,
                                     const char **ret_why)
{
    void *plain;
    enum err err = wire_decode(&wire_directory_delta, &delta_limits, arena, bytes, &plain, ret_why);
    if (err == OK)
        *ret = plain;
    return err;
}
