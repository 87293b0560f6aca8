#include "common/log.h"
#include "dataplane/node/replica_internal.h"
#include "proto/head.h"
#include "proto/wire.h"

#define LOOK_ARENA_MAX ((size_t)512 << 20) /* one artifact, decoded */

static void label_artifact(struct board *board, const struct artifact *artifact)
{
    for (uint32_t i = 0; i < artifact->model_count; i++)
        (void)board_label_add(board, BOARD_LABEL_MODEL, artifact->models[i].name);
    for (uint32_t i = 0; i < artifact->route_count; i++)
        (void)board_label_add(board, BOARD_LABEL_ROUTE, artifact->routes[i].name);
}

static void label_teams(struct board *board, const struct teams *teams)
{
    for (uint32_t i = 0; i < teams->count; i++)
        (void)board_label_add(board, BOARD_LABEL_TEAM, teams->items[i].name);
}

static enum err label_bytes(struct board *board, struct span bytes)
{
    struct arena arena;
    struct artifact *artifact;
    arena_init(&arena, LOOK_ARENA_MAX);
    const enum err err = wire_decode_artifact(&arena, bytes, &artifact, NULL);
    if (!err)
        label_artifact(board, artifact);
    arena_release(&arena);
    return err;
}

/* Those that came with the head, and those that were here before it: of an earlier policy (the board may be younger than
 * they are), or sent ahead. */
static enum err label_arms(struct replica *r, const struct staged *s)
{
    uint64_t txn;
    enum err err = tablestore_begin(r->options.store, &txn);
    if (err)
        return err;
    for (uint32_t i = 0; i < s->head_decoded->arm_count && !err; i++) {
        struct span bytes;
        err = replica_artifact(r, s, &s->head_decoded->arms[i].artifact, &bytes);
        if (!err)
            err = label_bytes(r->options.board, bytes);
    }
    tablestore_end(r->options.store);
    return err;
}

enum err replica_label_staged(struct replica *r, const struct staged *s)
{
    const enum err err = s->head ? label_arms(r, s) : OK;
    if (!err && s->delta && s->delta->has_teams)
        label_teams(r->options.board, &s->delta->teams);
    return err;
}

static bool has_name(const struct span *names, uint32_t count, struct span name)
{
    for (uint32_t i = 0; i < count; i++) {
        if (span_eq(names[i], name))
            return true;
    }
    return false;
}

/* Adds the credentials that an artifact names, each once. */
static enum err gather_credentials(struct replica *r, const struct artifact *artifact, struct span *names,
                                   uint32_t *count)
{
    for (uint32_t i = 0; i < artifact->provider_count; i++) {
        const struct span_list *list = &artifact->providers[i].credentials;
        for (uint32_t k = 0; k < list->count; k++) {
            if (*count == NAMES_MAX || has_name(names, *count, list->items[k]))
                continue;
            names[*count] = arena_dup(&r->names_arena, list->items[k]);
            if (!names[*count].ptr)
                return ERR_NOMEM;
            (*count)++;
        }
    }
    return OK;
}

static enum err look_at_artifacts(struct replica *r, const struct head *head)
{
    struct span *names = ARENA_ARRAY(&r->names_arena, NAMES_MAX, struct span);
    uint32_t count = 0;
    enum err err = names ? OK : ERR_NOMEM;
    for (uint32_t i = 0; i < head->arm_count && i < ARTIFACTS_KEPT && !err; i++) {
        struct arena arena;
        struct span bytes;
        struct artifact *artifact;
        arena_init(&arena, LOOK_ARENA_MAX);
        err = tablestore_object(r->options.store, OBJECT_ARTIFACT, &head->arms[i].artifact, &bytes);
        if (!err)
            err = wire_decode_artifact(&arena, bytes, &artifact, NULL);
        if (!err) {
            label_artifact(r->options.board, artifact);
            err = gather_credentials(r, artifact, names, &count);
        }
        r->arms[i] = (struct replica_arm){ .name = arena_dup(&r->names_arena, head->arms[i].name),
                                           .policy_version = head->arms[i].policy_version,
                                           .share = head_share(head_assignment_of_all(head), i) };
        if (!err && !r->arms[i].name.ptr)
            err = ERR_NOMEM;
        r->arm_count = i + 1;
        arena_release(&arena);
    }
    r->credentials = (struct span_list){ .items = names, .count = count };
    return err;
}

static enum err look_at_head(struct replica *r, struct arena *arena)
{
    struct span bytes;
    struct head *head;
    arena_reset(&r->names_arena);
    r->credentials = (struct span_list){ .count = 0 };
    r->arm_count = 0;
    struct span shadows[SHADOWS_MAX];
    enum err err = tablestore_object(r->options.store, OBJECT_HEAD, NULL, &bytes);
    if (!err)
        err = wire_decode_head(arena, bytes, &head, NULL);
    for (uint32_t i = 0; !err && i < head->shadow_count; i++)
        shadows[i] = head->shadows[i].id;
    if (!err)
        board_budgets_keep(r->options.board, shadows, head->shadow_count);
    return err ? err : look_at_artifacts(r, head);
}

static enum err look_at_evidence(struct replica *r, struct arena *arena)
{
    struct span bytes;
    struct evidence *evidence;
    r->evidence_expires_at_ms = 0;
    enum err err = tablestore_object(r->options.store, OBJECT_EVIDENCE, NULL, &bytes);
    if (!err)
        err = wire_decode_evidence(arena, bytes, &evidence, NULL);
    if (!err)
        r->evidence_expires_at_ms = evidence->expires_at_ms;
    return err;
}

static enum err look_at_teams(struct replica *r, struct arena *arena)
{
    struct span bytes;
    struct teams *teams;
    enum err err = tablestore_object(r->options.store, OBJECT_DIRECTORY, NULL, &bytes);
    if (!err)
        err = wire_decode_teams(arena, bytes, &teams, NULL);
    if (!err)
        label_teams(r->options.board, teams);
    return err;
}

static enum err there_or_not(enum err err)
{
    return err == ERR_NOT_FOUND ? OK : err;
}

/* Only what changed is decoded again: evidence comes each second, artifacts with pushes. */
enum err replica_look(struct replica *r)
{
    struct arena arena;
    struct table_version now;
    uint64_t txn;
    enum err err = tablestore_begin(r->options.store, &txn);
    if (err)
        return err;
    arena_init(&arena, LOOK_ARENA_MAX);
    const struct table_version before = r->committed;
    err = tablestore_version(r->options.store, &now);
    if (!err && (now.generation != before.generation || now.epoch != before.epoch))
        err = there_or_not(look_at_head(r, &arena));
    if (!err && (now.evidence_seq != before.evidence_seq || now.epoch != before.epoch))
        err = there_or_not(look_at_evidence(r, &arena));
    if (!err && now.directory_seq != before.directory_seq && before.directory_seq == 0)
        err = there_or_not(look_at_teams(r, &arena)); /* later ones were labelled before their commit */
    if (!err) {
        r->committed = now;
        r->committed_txn = txn;
        board_set_committed(r->options.board, txn);
    }
    tablestore_end(r->options.store);
    arena_release(&arena);
    return err;
}
