#include "controlplane/daemon.h"
#include "controlplane/daemon_internal.h"
#include "common/arena.h"
#include "common/file.h"
#include "common/log.h"
#include "proto/wire.h"
#include <limits.h>
#include <unistd.h>

#define EVIDENCE_BLOCK 100000u /* sequences reserved at once: one store write a day at one a second */
#define BOOK_BYTES_MAX (64u << 20)

/* ---- at the start: the book, and what was known before a restart ---- */

char *daemon_book_path(const char *prices_file)
{
    char self[PATH_MAX];
    char path[PATH_MAX + 64];
    static const char *const beside[] = { "../share/fairlead/examples/prices.yaml",
                                          "../../../deploy/examples/prices.yaml", "../../deploy/examples/prices.yaml",
                                          "../deploy/examples/prices.yaml" };
    if (prices_file)
        return strdup(prices_file);
    const ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (len <= 0)
        return NULL;
    self[len] = '\0';
    char *slash = strrchr(self, '/');
    if (!slash)
        return NULL;
    *slash = '\0';
    for (size_t i = 0; i < ARRAY_LEN(beside); i++) {
        snprintf(path, sizeof(path), "%s/%s", self, beside[i]);
        if (file_exists(path))
            return strdup(path);
    }
    return NULL;
}

static void load_book(struct daemon *d)
{
    struct buf text = BUF_INIT(BOOK_BYTES_MAX);
    const char *why = "";
    char *path = daemon_book_path(d->options->prices_file);
    enum err err = path ? file_read(path, BOOK_BYTES_MAX, &text) : ERR_NOT_FOUND;
    if (!err)
        err = evidence_load_shipped(d->learned, buf_span(&text), &why);
    if (err)
        log_warn("prices.book", LOG_STR("file", path ? path : "prices.yaml"), LOG_ERR(err), LOG_STR("why", why));
    buf_release(&text);
    free(path);
}

enum err daemon_evidence_load(struct daemon *d)
{
    struct arena arena;
    struct span blob;
    load_book(d);
    arena_init(&arena, DECIDE_ARENA_MAX);
    enum err err = versions_begin(d->versions, false);
    if (!err) {
        err = versions_blob_get(d->versions, &arena, SPAN("evidence"), &blob);
        if (!err)
            err = evidence_import(d->learned, blob);
        if (err == ERR_NOT_FOUND)
            err = OK;
        if (versions_blob_get(d->versions, &arena, SPAN("held_weights"), &blob) == OK &&
            evidence_held_import(d->learned, blob) != OK)
            log_warn("weights.import", LOG_STR("hint", "weights of arms that are compared are held anew"));
        versions_abort(d->versions);
    }
    arena_release(&arena);
    if (err)
        log_error("evidence.import", LOG_ERR(err));
    return err;
}

/* ---- follow what is live, decide, publish ---- */

static enum err reserve_evidence(struct daemon *d)
{
    uint64_t first;
    enum err err = versions_begin(d->versions, true);
    if (err)
        return err;
    err = versions_reserve_evidence(d->versions, EVIDENCE_BLOCK, &first);
    if (err) {
        versions_abort(d->versions);
        return err;
    }
    err = versions_commit(d->versions);
    if (!err) {
        d->evidence_next = first;
        d->evidence_end = first + EVIDENCE_BLOCK;
    }
    return err;
}

/* The learned state follows the live head: its artifacts and overrides. */
static enum err follow_head(struct daemon *d, struct arena *arena)
{
    struct head *head;
    const struct artifact *artifacts[ARTIFACTS_KEPT];
    uint32_t count = 0;
    enum err err = versions_begin(d->versions, false);
    if (err)
        return err;
    err = versions_head_get(d->versions, arena, 0, &head);
    for (uint32_t i = 0; !err && i < head->arm_count && i < ARTIFACTS_KEPT; i++) {
        struct span bytes;
        struct artifact *artifact;
        err = versions_artifact_get(d->versions, arena, &head->arms[i].artifact, &bytes);
        if (!err)
            err = wire_decode_artifact(arena, bytes, &artifact, NULL);
        if (!err)
            artifacts[count++] = artifact;
    }
    versions_abort(d->versions);
    if (err)
        return err;
    err = evidence_follow(d->learned, artifacts, count, head);
    if (!err) {
        d->followed_epoch = head->epoch;
        d->followed_generation = head->generation;
    }
    return err;
}

static enum err publish_evidence(struct daemon *d, struct arena *arena, int64_t now_ms)
{
    struct evidence *evidence;
    struct buf bytes = BUF_INIT(EVIDENCE_BYTES_MAX);
    enum err err = evidence_decide(d->learned, arena, now_ms, d->options->evidence_lifetime_ms, &evidence);
    if (!err && d->evidence_next == d->evidence_end)
        err = reserve_evidence(d);
    if (!err) {
        evidence->epoch = d->followed_epoch;
        evidence->seq = d->evidence_next++;
        err = wire_encode_evidence(evidence, &bytes);
    }
    if (!err)
        err = publisher_evidence(d->publisher, evidence->seq, buf_span(&bytes));
    buf_release(&bytes);
    return err;
}

static enum err store_prices(struct daemon *d)
{
    struct buf blob = BUF_INIT(FRAME_BYTES_MAX);
    enum err err = evidence_export(d->learned, &blob);
    if (!err)
        err = versions_begin(d->versions, true);
    if (err) {
        buf_release(&blob);
        return err;
    }
    err = versions_blob_put(d->versions, SPAN("evidence"), buf_span(&blob));
    buf_release(&blob);
    if (err) {
        versions_abort(d->versions);
        return err;
    }
    return versions_commit(d->versions);
}

/* What weights are held while arms are compared, for a restart in the middle of it. */
static enum err store_held(struct daemon *d)
{
    struct buf blob = BUF_INIT(FRAME_BYTES_MAX);
    enum err err = evidence_held_export(d->learned, &blob);
    if (!err)
        err = versions_begin(d->versions, true);
    if (!err) {
        err = versions_blob_put(d->versions, SPAN("held_weights"), buf_span(&blob));
        if (err)
            versions_abort(d->versions);
        else
            err = versions_commit(d->versions);
    }
    buf_release(&blob);
    return err;
}

void daemon_decide(struct daemon *d, int64_t now_ms)
{
    struct arena arena;
    arena_init(&arena, DECIDE_ARENA_MAX);
    enum err err = d->followed_generation ? OK : follow_head(d, &arena);
    if (!err)
        err = publish_evidence(d, &arena, now_ms);
    d->decide_failed = err != OK;
    if (err && err != ERR_NOT_FOUND) /* nothing pushed yet */
        log_error("evidence.publish", LOG_ERR(err));
    if (evidence_dirty(d->learned) || d->prices_unstored) {
        err = store_prices(d);
        d->prices_unstored = err != OK;
        if (err)
            log_error("evidence.store", LOG_ERR(err));
    }
    nodes_watch(d->nodes, now_ms);
    if (evidence_held_unstored(d->learned) || d->held_unstored) {
        err = store_held(d);
        d->held_unstored = err != OK;
        if (err)
            log_error("weights.store", LOG_ERR(err));
    }
    d->decided_at_ms = now_ms;
    d->decide_now = false;
    arena_release(&arena);
}

void daemon_follow_pilot(struct daemon *d)
{
    const enum err err = pilot_follow(d->pilot);
    d->pilot_lost = err != OK;
    if (err)
        log_error("rollout.follow", LOG_ERR(err), LOG_STR("hint", "no rollout goes on before this succeeds"));
}

void daemon_changed(void *user)
{
    struct daemon *d = user;
    d->followed_generation = 0; /* follow again: head or overrides may be new */
    d->decide_now = true;
    const enum err err = publisher_refresh(d->publisher);
    if (err)
        log_error("publish.refresh", LOG_ERR(err));
    daemon_follow_pilot(d);
}
