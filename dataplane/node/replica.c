#include "dataplane/node/replica.h"
#include "common/clock.h"
#include "common/digest.h"
#include "common/log.h"
#include "dataplane/node/replica_internal.h"
#include "dataplane/node/selftest.h"
#include "proto/wire.h"

#define CALLS_PARALLEL    4u
#define REPORT_LOOK_MS    50u    /* how soon the control plane hears of a change */
#define REPLICA_ANSWER_MS 10000u /* beyond what it may wait: a large table over a slow link */
#define REPORT_TIMEOUT_MS 5000u
#define PIN_LOOK_MS       1000u
#define STAGED_ARENA_MAX  ((size_t)1 << 30) /* a frame decoded: objects copied, then decoded again */
#define REQUEST_BYTES_MAX (4u << 20)

static void poll_now(struct replica *r);

static uint64_t now_ms(const struct replica *r)
{
    return uv_now(r->options.loop);
}

/* ---- requests ---- */

static bool read_pinned(struct replica *r)
{
    struct arena arena;
    struct span value;
    arena_init(&arena, 4096);
    const bool pinned =
        tablestore_note_get(r->options.store, &arena, SPAN("pinned"), &value) == OK && span_eq(value, SPAN("yes"));
    arena_release(&arena);
    return pinned;
}

static enum err unresolved(struct replica *r, struct arena *arena, struct span_list *ret)
{
    struct span *names = ARENA_ARRAY(arena, r->credentials.count + 1, struct span);
    uint32_t count = 0;
    if (!names)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < r->credentials.count; i++) {
        if (!credentials_resolved(r->options.config->credentials, r->credentials.items[i]))
            names[count++] = r->credentials.items[i];
    }
    *ret = (struct span_list){ .items = names, .count = count };
    return OK;
}

static enum err build_request(struct replica *r, uint32_t wait_ms, struct arena *arena, struct buf *out)
{
    uint64_t txn;
    struct nack nacks[REPLICA_NACKS_MAX];
    struct fetch_request request = { .protocol = LINK_PROTOCOL,
                                     .node = span_cstr(r->options.config->name),
                                     .incarnation = span_cstr(r->incarnation),
                                     .version = span_cstr(FAIRLEAD_VERSION),
                                     .committed = r->committed,
                                     .serving = r->serving,
                                     .workers = r->workers,
                                     .nacks = nacks,
                                     .nack_count = r->nack_count,
                                     .pinned = r->pinned,
                                     .adopt_epoch = r->committed.epoch,
                                     .directory_resync_seq = r->resync_seq,
                                     .directory_resync_epoch = r->resync_epoch,
                                     .wait_ms = wait_ms,
                                     .clock_ms = clock_wall_ms() };
    if (r->has_cursor)
        request.directory_cursor = span_of(r->cursor.bytes, SHA256_BYTES);
    for (unsigned i = 0; i < r->nack_count; i++)
        nacks[i] = r->nacks[i].nack;
    enum err err = unresolved(r, arena, &request.unresolved_credentials);
    if (!err)
        err = tablestore_begin(r->options.store, &txn);
    if (err)
        return err;
    err = tablestore_artifacts(r->options.store, arena, &request.artifacts, &request.artifact_count);
    tablestore_end(r->options.store);
    return err ? err : wire_encode_fetch_request(&request, out);
}

static enum err ask(struct replica *r, uint32_t wait_ms, uint32_t timeout_ms, channel_done *done)
{
    struct arena arena;
    struct buf out = BUF_INIT(REQUEST_BYTES_MAX);
    arena_init(&arena, REQUEST_BYTES_MAX);
    enum err err = build_request(r, wait_ms, &arena, &out);
    if (!err)
        err = channel_send(r->client, buf_span(&out), timeout_ms, done, r);
    buf_release(&out);
    arena_release(&arena);
    return err;
}

static void on_again(uv_timer_t *timer)
{
    poll_now(timer->data);
}

/* Half of it at random: nodes that lost one control plane do not all come back in the same instant. */
static void poll_later(struct replica *r, uint64_t ms)
{
    uint32_t random;
    random_bytes(&random, sizeof(random));
    uv_timer_start(&r->again, on_again, ms / 2 + random % (ms / 2 + 1), 0);
}

static void poll_failed(struct replica *r)
{
    const uint64_t wait = (uint64_t)REPLICA_RETRY_MS << (r->failures < 6 ? r->failures : 6);
    r->failures++;
    poll_later(r, wait < REPLICA_RETRY_MS_MAX ? wait : REPLICA_RETRY_MS_MAX);
}

/* ---- judging and applying a reply ---- */

static void drop_staged(struct replica *r)
{
    r->staged = NULL;
    arena_reset(&r->staged_arena);
}

/* Where a paged resync stands after this page. */
static void follow_pages(struct replica *r, const struct directory_delta *delta)
{
    r->has_cursor = delta && delta->full && delta->more && delta->key_count > 0;
    r->resync_seq = r->has_cursor ? delta->to_seq : 0;
    r->resync_epoch = r->has_cursor ? delta->epoch : 0;
    if (r->has_cursor)
        r->cursor = delta->keys[delta->key_count - 1].hash;
}

static void took(struct replica *r, const struct staged *s)
{
    if (s->head) {
        replica_nacks_forget(r, OBJECT_HEAD);
        replica_nacks_forget(r, OBJECT_ARTIFACT);
    }
    if (s->evidence)
        replica_nacks_forget(r, OBJECT_EVIDENCE);
    if (s->directory) {
        replica_nacks_forget(r, OBJECT_DIRECTORY);
        follow_pages(r, s->delta);
    }
    if (r->has_cursor && r->resync_epoch != r->committed.epoch)
        follow_pages(r, NULL); /* the epoch changed between two pages: what was begun leads nowhere */
    if (s->head || s->evidence)
        r->applied_ms = now_ms(r);
    r->applies++;
    if (s->head)
        log_info("table.committed", LOG_U64("epoch", r->committed.epoch),
                 LOG_U64("generation", r->committed.generation), LOG_U64("evidence", r->committed.evidence_seq),
                 LOG_U64("directory", r->committed.directory_seq));
}

static enum err apply(struct replica *r, struct staged *s)
{
    struct table_version version;
    const struct table_change change = { .head = s->head,
                                         .evidence = s->evidence,
                                         .artifacts = s->artifacts,
                                         .artifact_count = s->artifact_count,
                                         .directory = s->delta && s->directory ? s->delta : NULL };
    enum err err = replica_label_staged(r, s);
    if (!err)
        err = tablestore_apply(r->options.store, &change, s->allowed_epoch, &version);
    if (!err)
        err = replica_look(r);
    if (!err) {
        took(r, s);
        r->options.events.committed(r->options.events.user);
        return OK;
    }
    if (change.directory)
        follow_pages(r, NULL); /* begin anew */
    log_error("table.apply", LOG_ERR(err), LOG_U64("generation", s->head ? s->head->seq : 0),
              LOG_U64("evidence", s->evidence ? s->evidence->seq : 0),
              LOG_U64("directory", s->directory ? s->directory->seq : 0));
    return err;
}

/* What was refused before (a revert's coordinates) comes again and again: it is known without a word more. */
static bool is_refused_head(struct replica *r, const struct staged *s)
{
    struct table_version refused;
    uint64_t txn;
    if (!s->head || tablestore_begin(r->options.store, &txn))
        return false;
    const bool known = tablestore_refused(r->options.store, &refused) == OK &&
                       refused.epoch == s->head_decoded->epoch && s->head->seq <= refused.generation;
    tablestore_end(r->options.store);
    return known;
}

static void finish(struct replica *r, bool applied, bool refused)
{
    drop_staged(r);
    if (applied && !refused)
        poll_now(r);
    else
        poll_later(r, REPLICA_REFUSED_WAIT_MS);
}

static void apply_staged(struct replica *r)
{
    struct staged *s = r->staged;
    const bool anything = s->head || s->evidence || s->directory || s->artifact_count > 0;
    enum err err = OK;
    if (anything) {
        err = apply(r, s);
        if (err && err != ERR_STALE && s->head && (err == ERR_INVALID || err == ERR_CORRUPT || err == ERR_UNSUPPORTED))
            replica_nack(r, s->head, s->head_decoded->epoch, err_name(err));
    }
    finish(r, anything && err == OK, s->refused); /* all of it known already: asking at once would be a hot loop */
}

static void on_tried(void *user, bool ok, const char *why)
{
    struct replica *r = user;
    struct staged *s = r->staged;
    if (!s || r->closing)
        return;
    if (!ok) {
        replica_nack(r, s->head, s->head_decoded->epoch, why);
        s->head = NULL;
        s->artifact_count = 0;
        s->refused = true;
        if (s->allowed_epoch) /* they belong to the refused head's epoch */
            s->evidence = s->directory = NULL;
        s->allowed_epoch = 0;
    }
    apply_staged(r);
}

static void judge(struct replica *r, const struct fetch_reply *reply)
{
    struct staged *s = ARENA_NEW(&r->staged_arena, struct staged);
    struct buf frames = BUF_INIT(SELFTEST_BYTES_MAX);
    enum err err = s ? replica_stage(r, reply, s) : ERR_NOMEM;
    if (err) {
        log_error("table.stage", LOG_ERR(err));
        finish(r, false, true);
        return;
    }
    r->staged = s;
    if (is_refused_head(r, s)) {
        replica_nack(r, s->head, s->head_decoded->epoch, "crashed");
        s->head = NULL;
        s->artifact_count = 0;
        s->refused = true;
    }
    if (!s->head) {
        apply_staged(r);
        return;
    }
    err = replica_frames(r, s, &frames);
    if (!err)
        err = trial_start(&r->trial, &frames, on_tried, r);
    buf_release(&frames);
    if (err) {
        log_error("selftest", LOG_ERR(err));
        finish(r, false, true);
    }
}

/* ---- replies ---- */

static void heard(struct replica *r)
{
    if (!r->contact)
        log_info("control.connected", LOG_STR("address", r->options.config->control));
    r->contact = true;
    r->failures = 0;
    r->contact_ms = now_ms(r);
}

static void on_polled(void *user, enum err err, struct span bytes)
{
    struct replica *r = user;
    struct fetch_reply *reply = NULL;
    r->polling = false;
    if (r->closing)
        return;
    if (!err)
        err = wire_decode_fetch_reply(&r->staged_arena, bytes, &reply);
    if (!err && reply->protocol != LINK_PROTOCOL)
        err = ERR_UNSUPPORTED;
    if (err || !span_empty(reply->error)) {
        if (r->contact || r->failures == 0)
            log_warn("control.unheard", LOG_STR("address", r->options.config->control), LOG_ERR(err),
                     LOG_SPAN("why", err ? SPAN("") : reply->error));
        r->contact = false;
        drop_staged(r);
        poll_failed(r);
        return;
    }
    heard(r);
    if (reply->object_count > 0) {
        judge(r, reply);
    } else {
        drop_staged(r);
        poll_later(r, REPORT_LOOK_MS); /* an answer without waiting must not become a hot loop */
    }
}

static void poll_now(struct replica *r)
{
    if (r->polling || r->closing || r->staged)
        return;
    /* The first is answered at once, so that we know whether anybody is there. */
    const uint32_t wait_ms = r->contact ? REPLICA_WAIT_MS : 0;
    const enum err err = ask(r, wait_ms, wait_ms + REPLICA_ANSWER_MS, on_polled);
    if (err) {
        log_error("control.poll", LOG_ERR(err));
        poll_failed(r);
        return;
    }
    r->polling = true;
}

static void on_reported(void *user, enum err err, UNUSED struct span bytes)
{
    struct replica *r = user;
    r->reporting = false;
    if (err && !r->closing)
        r->report_due = true;
}

static bool same(const struct table_version *a, const struct table_version *b)
{
    return a->epoch == b->epoch && a->generation == b->generation && a->directory_seq == b->directory_seq;
}

/* Objects that come with the answer are left alone: the long poll brings them, too. */
static void on_report(uv_timer_t *timer)
{
    struct replica *r = timer->data;
    const bool due = r->report_due || !same(&r->serving, &r->reported) || r->workers != r->reported_workers;
    if (r->closing || !due || r->reporting || !r->contact)
        return;
    if (ask(r, 0, REPORT_TIMEOUT_MS, on_reported))
        return;
    r->reporting = true;
    r->report_due = false;
    r->reported = r->serving;
    r->reported_workers = r->workers;
}

static void on_look(uv_timer_t *timer)
{
    static uint64_t looked_ms;
    struct replica *r = timer->data;
    if (now_ms(r) - looked_ms >= PIN_LOOK_MS) {
        const bool pinned = read_pinned(r);
        looked_ms = now_ms(r);
        if (pinned != r->pinned) {
            log_warn("table.pinned", LOG_STR("pinned", pinned ? "yes" : "no"));
            r->pinned = pinned;
            r->report_due = true;
        }
    }
    on_report(timer);
}

/* ---- from outside ---- */

void replica_serving(struct replica *r, const struct table_version *serving, unsigned workers)
{
    r->serving = *serving;
    r->workers = workers;
}

static struct object stored_object(struct replica *r, enum object_kind kind, uint64_t seq)
{
    struct object object = { .kind = kind, .seq = seq };
    struct span bytes;
    uint64_t txn;
    if (tablestore_begin(r->options.store, &txn))
        return object;
    if (tablestore_object(r->options.store, kind, NULL, &bytes) == OK)
        object.hash = sha256_of(bytes);
    tablestore_end(r->options.store);
    return object;
}

static void revert(struct replica *r)
{
    struct table_version version;
    const struct table_version before = r->committed;
    const struct object head = stored_object(r, OBJECT_HEAD, before.generation);
    const struct object evidence = stored_object(r, OBJECT_EVIDENCE, before.evidence_seq);
    enum err err = tablestore_revert(r->options.store, &version);
    if (!err)
        err = replica_look(r);
    if (err) {
        log_error("table.revert", LOG_ERR(err), LOG_U64("generation", before.generation),
                  LOG_STR("hint", err == ERR_NOT_FOUND ? "there is no table before this one" : ""));
        return;
    }
    r->reverts++;
    if (r->committed.generation != before.generation || r->committed.epoch != before.epoch)
        replica_nack(r, &head, before.epoch, "crashed");
    else
        replica_nack(r, &evidence, before.epoch, "crashed");
    log_error("table.reverted", LOG_U64("from", before.generation), LOG_U64("to", r->committed.generation),
              LOG_U64("evidence", r->committed.evidence_seq));
    r->options.events.committed(r->options.events.user);
}

void replica_worker_crashed(struct replica *r)
{
    const uint64_t now = now_ms(r), before = r->crashed_ms;
    r->crashed_ms = now;
    if (r->applied_ms == 0 || now - r->applied_ms > REPLICA_CRASH_WITHIN_MS)
        return;
    if (before == 0 || now - before > REPLICA_CRASH_WITHIN_MS)
        return;
    r->crashed_ms = 0;
    revert(r);
}

void replica_bad_table(struct replica *r, const struct table_version *version, const char *reason)
{
    char text[256];
    const struct object head = stored_object(r, OBJECT_HEAD, version->generation);
    (void)snprintf(text, sizeof(text), "a worker could not take it: %s", reason);
    if (version->epoch == r->committed.epoch && version->generation == r->committed.generation)
        replica_nack(r, &head, version->epoch, text);
}

static void wake(void *user)
{
    uv_async_send(user);
}

static void on_wake(uv_async_t *async)
{
    struct replica *r = async->data;
    if (r->client)
        channel_client_dispatch(r->client);
}

enum err replica_open(struct replica *r, const struct replica_options *options)
{
    *r = (struct replica){ .options = *options };
    arena_init(&r->staged_arena, STAGED_ARENA_MAX);
    arena_init(&r->names_arena, STAGED_ARENA_MAX);
    (void)random_id("m", 16, r->incarnation);
    trial_init(&r->trial, options->loop, options->program);
    REQUIRE(uv_async_init(options->loop, &r->wake, on_wake) == 0);
    REQUIRE(uv_timer_init(options->loop, &r->again) == 0 && uv_timer_init(options->loop, &r->report) == 0);
    r->wake.data = r->again.data = r->report.data = r;
    r->pinned = read_pinned(r);
    enum err err = replica_look(r);
    if (err) { /* garbled on disk: better no start than a guess at what was served */
        log_error("store.look", LOG_ERR(err));
        return err;
    }
    const struct channel_client_options client = {
        .address = options->config->control, .parallel = CALLS_PARALLEL, .wake = wake, .wake_user = &r->wake
    };
    err = channel_client_open(&client, &r->client);
    if (err) {
        log_error("control.open", LOG_STR("address", options->config->control), LOG_ERR(err),
                  LOG_STR("hint", err == ERR_TOO_LARGE
                                      ? "the path of a socket may have 107 bytes: choose a shorter --home"
                                      : ""));
        return err;
    }
    uv_timer_start(&r->report, on_look, REPORT_LOOK_MS, REPORT_LOOK_MS);
    uv_timer_start(&r->again, on_again, 0, 0);
    return OK;
}

void replica_close(struct replica *r)
{
    if (r->closing)
        return;
    r->closing = true;
    if (r->client)
        channel_client_close(r->client);
    r->client = NULL;
    trial_close(&r->trial);
    uv_close((uv_handle_t *)&r->wake, NULL);
    uv_close((uv_handle_t *)&r->again, NULL);
    uv_close((uv_handle_t *)&r->report, NULL);
}

void replica_release(struct replica *r)
{
    arena_release(&r->staged_arena);
    arena_release(&r->names_arena);
}

enum err replica_pin(const char *store_dir, bool pinned)
{
    struct tablestore *store;
    enum err err = tablestore_open(store_dir, false, &store);
    if (err)
        return err;
    err = tablestore_note_put(store, SPAN("pinned"), pinned ? SPAN("yes") : SPAN("no"));
    tablestore_close(store);
    return err;
}
