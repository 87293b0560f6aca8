#include "controlplane/publish/nodes.h"
#include "common/arena.h"
#include "common/fault.h"
#include "common/strmap.h"

#define NODE_ARENA_MAX (4u << 20) /* what one node may report: NACKs and credential names are bounded by wire */

#define CLOCK_MS_MOST (INT64_C(1) << 52) /* a clock that says more is none; its difference would overflow */

struct node {
    struct arena arena; /* what the last report said; reset by the next */
    struct span name, version, incarnation;
    struct table_version committed, serving;
    uint32_t workers;
    const struct nack *nacks;
    uint32_t nack_count;
    struct span_list unresolved;
    bool pinned;
    uint64_t adopt_epoch;   /* as the node told */
    uint64_t allowed_epoch; /* as an operator told */
    int64_t seen_at_ms;
    bool told_silent;
    int64_t skew_ms; /* how far its clock was ahead of ours when it asked, travel included */
    char name_bytes[NAME_BYTES_MAX + 1];
};

struct nodes {
    struct arena arena; /* of the map */
    struct strmap by_name;
    struct node **all; /* in order of arrival */
    size_t count, capacity;
    uint64_t allow_all_epoch;
    const struct event_sink *sink;
};

enum err nodes_new(struct nodes **ret)
{
    struct nodes *nodes = fault_calloc(1, sizeof(*nodes));
    if (!nodes)
        return ERR_NOMEM;
    arena_init(&nodes->arena, 64u << 20);
    strmap_init(&nodes->by_name, &nodes->arena);
    *ret = nodes;
    return OK;
}

void nodes_free(struct nodes *nodes)
{
    if (!nodes)
        return;
    for (size_t i = 0; i < nodes->count; i++) {
        arena_release(&nodes->all[i]->arena);
        free(nodes->all[i]);
    }
    free(nodes->all);
    arena_release(&nodes->arena);
    free(nodes);
}

static bool printable(struct span name)
{
    for (size_t i = 0; i < name.len; i++) {
        if (name.ptr[i] <= ' ' || name.ptr[i] > '~')
            return false;
    }
    return name.len > 0 && name.len <= NAME_BYTES_MAX;
}

static bool forgotten(const struct node *node, int64_t now_ms)
{
    return now_ms - node->seen_at_ms > (int64_t)NODE_FORGOTTEN_AFTER_MS;
}

/* Drops those not heard of for long: names that come and go must not fill the registry for ever. The map knows no
 * removal and is made anew; a name that it has no memory for is heard of again with its next poll. */
static void forget_old(struct nodes *nodes, int64_t now_ms)
{
    size_t kept = 0;
    arena_reset(&nodes->arena);
    strmap_init(&nodes->by_name, &nodes->arena);
    for (size_t i = 0; i < nodes->count; i++) {
        struct node *node = nodes->all[i];
        if (!forgotten(node, now_ms) && strmap_put(&nodes->by_name, node->name, node) == OK) {
            nodes->all[kept++] = node;
        } else {
            arena_release(&node->arena);
            free(node);
        }
    }
    nodes->count = kept;
}

static enum err node_add(struct nodes *nodes, struct span name, int64_t now_ms, struct node **ret)
{
    if (nodes->count >= NODES_MAX)
        forget_old(nodes, now_ms);
    if (nodes->count >= NODES_MAX)
        return ERR_TOO_MANY;
    if (nodes->count == nodes->capacity) {
        const size_t capacity = nodes->capacity ? nodes->capacity * 2 : 16;
        struct node **all = fault_realloc(nodes->all, capacity * sizeof(struct node *));
        if (!all)
            return ERR_NOMEM;
        nodes->all = all;
        nodes->capacity = capacity;
    }
    struct node *node = fault_calloc(1, sizeof(*node));
    if (!node)
        return ERR_NOMEM;
    memcpy(node->name_bytes, name.ptr, name.len);
    node->name = span_of(node->name_bytes, name.len);
    node->allowed_epoch = nodes->allow_all_epoch;
    arena_init(&node->arena, NODE_ARENA_MAX);
    const enum err err = strmap_put(&nodes->by_name, node->name, node);
    if (err) {
        free(node);
        return err;
    }
    nodes->all[nodes->count++] = node;
    *ret = node;
    return OK;
}

static enum err copy_report(struct node *node, const struct fetch_request *request)
{
    struct nack *nacks = ARENA_ARRAY(&node->arena, request->nack_count + 1, struct nack);
    struct span *unresolved = ARENA_ARRAY(&node->arena, request->unresolved_credentials.count + 1, struct span);
    node->version = arena_dup(&node->arena, request->version);
    node->incarnation = arena_dup(&node->arena, request->incarnation);
    if (!nacks || !unresolved || !node->version.ptr || !node->incarnation.ptr)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < request->nack_count; i++) {
        nacks[i] = request->nacks[i];
        nacks[i].reason = arena_dup(&node->arena, request->nacks[i].reason);
        if (!nacks[i].reason.ptr)
            return ERR_NOMEM;
    }
    for (uint32_t i = 0; i < request->unresolved_credentials.count; i++) {
        unresolved[i] = arena_dup(&node->arena, request->unresolved_credentials.items[i]);
        if (!unresolved[i].ptr)
            return ERR_NOMEM;
    }
    node->nacks = nacks;
    node->nack_count = request->nack_count;
    node->unresolved = (struct span_list){ .items = unresolved, .count = request->unresolved_credentials.count };
    return OK;
}

static const char *const kind_names[] = { [OBJECT_HEAD] = "head",
                                          [OBJECT_ARTIFACT] = "artifact",
                                          [OBJECT_EVIDENCE] = "evidence",
                                          [OBJECT_DIRECTORY] = "directory" };

static const char *kind_name(enum object_kind kind)
{
    return (size_t)kind < ARRAY_LEN(kind_names) ? kind_names[kind] : NULL;
}

/* ---- telling ---- */

void nodes_tell(struct nodes *nodes, const struct event_sink *sink)
{
    nodes->sink = sink;
}

static void tell(const struct nodes *nodes, const struct node *node, const char *what, struct span why, int64_t now_ms)
{
    event_tell(nodes->sink, now_ms,
               &(struct event){ .kind = "node", .where = node->name, .what = span_cstr(what), .why = why });
}

static bool refused_before(const struct node *node, const struct nack *nack)
{
    for (uint32_t i = 0; i < node->nack_count; i++) {
        const struct nack *n = &node->nacks[i];
        if (n->kind == nack->kind && n->epoch == nack->epoch && n->seq == nack->seq && span_eq(n->reason, nack->reason))
            return true;
    }
    return false;
}

/* What this report says anew; the one before still stands in `node`. */
static void tell_report(const struct nodes *nodes, struct node *node, const struct fetch_request *request,
                        int64_t now_ms)
{
    char what[96];
    if (node->told_silent)
        tell(nodes, node, "is heard again", SPAN(""), now_ms);
    node->told_silent = false;
    if (node->incarnation.len && !span_eq(node->incarnation, request->incarnation))
        tell(nodes, node, "started anew", request->version, now_ms);
    if (node->pinned != request->pinned)
        tell(nodes, node, request->pinned ? "is pinned: it takes no tables" : "is pinned no more", SPAN(""), now_ms);
    for (uint32_t i = 0; i < request->nack_count; i++) {
        const struct nack *nack = &request->nacks[i];
        const char *kind = kind_name(nack->kind);
        if (refused_before(node, nack))
            continue;
        snprintf(what, sizeof(what), "refuses %s %llu", kind ? kind : "an object", (unsigned long long)nack->seq);
        tell(nodes, node, what, nack->reason, now_ms);
    }
}

void nodes_watch(struct nodes *nodes, int64_t now_ms)
{
    for (size_t i = 0; i < nodes->count; i++) {
        struct node *node = nodes->all[i];
        if (node->told_silent || now_ms - node->seen_at_ms <= (int64_t)NODE_SILENT_AFTER_MS)
            continue;
        node->told_silent = true;
        tell(nodes, node, "is silent", SPAN("not heard of for 45 s"), now_ms);
    }
}

/* ---- learning ---- */

enum err nodes_report(struct nodes *nodes, const struct fetch_request *request, int64_t now_ms)
{
    if (!printable(request->node))
        return ERR_INVALID;
    struct node *node = strmap_get(&nodes->by_name, request->node);
    if (!node) {
        const enum err err = node_add(nodes, request->node, now_ms, &node);
        if (err)
            return err;
    }
    tell_report(nodes, node, request, now_ms);
    node->committed = request->committed;
    node->serving = request->serving;
    node->workers = request->workers;
    node->pinned = request->pinned;
    node->adopt_epoch = request->adopt_epoch;
    node->seen_at_ms = now_ms;
    node->skew_ms = request->clock_ms > 0 && request->clock_ms < CLOCK_MS_MOST ? request->clock_ms - now_ms : 0;
    node->nacks = NULL;
    node->nack_count = 0;
    node->unresolved = (struct span_list){ 0 };
    node->version = node->incarnation = SPAN("");
    arena_reset(&node->arena);
    return copy_report(node, request);
}

static bool silent(const struct node *node, int64_t now_ms)
{
    return now_ms - node->seen_at_ms > (int64_t)NODE_SILENT_AFTER_MS;
}

unsigned nodes_behind(const struct nodes *nodes, uint64_t epoch, uint64_t generation, uint64_t directory_seq,
                      int64_t now_ms, struct json_writer *w)
{
    unsigned behind = 0;
    json_array_open(w);
    for (size_t i = 0; i < nodes->count; i++) {
        const struct node *node = nodes->all[i];
        if (silent(node, now_ms))
            continue;
        if (node->serving.epoch == epoch && node->serving.generation >= generation &&
            node->serving.directory_seq >= directory_seq)
            continue;
        behind++;
        json_put_string(w, node->name);
    }
    json_array_close(w);
    return behind;
}

enum err nodes_adopt(struct nodes *nodes, struct span name, uint64_t epoch)
{
    if (span_empty(name)) {
        nodes->allow_all_epoch = epoch;
        for (size_t i = 0; i < nodes->count; i++) {
            if (nodes->all[i]->allowed_epoch < epoch) /* one may have been allowed a later epoch by its name */
                nodes->all[i]->allowed_epoch = epoch;
        }
        return OK;
    }
    struct node *node = strmap_get(&nodes->by_name, name);
    if (!node)
        return ERR_NOT_FOUND;
    node->allowed_epoch = epoch;
    return OK;
}

uint64_t nodes_adopted(const struct nodes *nodes, struct span name)
{
    const struct node *node = strmap_get(&nodes->by_name, name);
    return node ? node->allowed_epoch : nodes->allow_all_epoch;
}

static void version_json(struct json_writer *w, const char *key, const struct table_version *v)
{
    json_key(w, span_cstr(key));
    json_object_open(w);
    json_member_u64(w, "epoch", v->epoch);
    json_member_u64(w, "generation", v->generation);
    json_member_u64(w, "evidence", v->evidence_seq);
    json_member_u64(w, "directory", v->directory_seq);
    json_object_close(w);
}

static const char *node_state(const struct node *node, uint64_t epoch, uint64_t generation, int64_t now_ms)
{
    if (silent(node, now_ms))
        return "silent";
    if (node->committed.epoch != epoch && node->committed.epoch != 0)
        return "other epoch"; /* waits for `nodes adopt` */
    if (node->nack_count > 0)
        return "refusing";
    if (node->pinned)
        return "pinned";
    return node->serving.generation >= generation ? "current" : "behind";
}

static void nacks_json(struct json_writer *w, const struct node *node)
{
    json_key(w, SPAN("nacks"));
    json_array_open(w);
    for (uint32_t i = 0; i < node->nack_count; i++) {
        const struct nack *nack = &node->nacks[i];
        json_object_open(w);
        json_member_cstr(w, "kind", kind_name(nack->kind));
        json_member_u64(w, "epoch", nack->epoch);
        json_member_u64(w, "seq", nack->seq);
        json_member_string(w, "reason", nack->reason);
        json_member_i64(w, "at_ms", nack->at_ms);
        json_object_close(w);
    }
    json_array_close(w);
}

void nodes_json(const struct nodes *nodes, uint64_t epoch, uint64_t generation, int64_t now_ms, struct json_writer *w)
{
    json_array_open(w);
    for (size_t i = 0; i < nodes->count; i++) {
        const struct node *node = nodes->all[i];
        if (forgotten(node, now_ms))
            continue;
        json_object_open(w);
        json_member_string(w, "node", node->name);
        json_member_cstr(w, "state", node_state(node, epoch, generation, now_ms));
        json_member_u64(w, "workers", node->workers);
        version_json(w, "committed", &node->committed);
        version_json(w, "serving", &node->serving);
        json_member_bool(w, "pinned", node->pinned);
        json_member_string(w, "version", node->version);
        json_member_string(w, "incarnation", node->incarnation);
        json_member_i64(w, "seen_ms_ago", now_ms - node->seen_at_ms);
        json_member_i64(w, "clock_skew_ms", node->skew_ms);
        nacks_json(w, node);
        json_key(w, SPAN("unresolved_credentials"));
        json_array_open(w);
        for (uint32_t k = 0; k < node->unresolved.count; k++)
            json_put_string(w, node->unresolved.items[k]);
        json_array_close(w);
        json_object_close(w);
    }
    json_array_close(w);
}
