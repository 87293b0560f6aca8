/* nodes.h - who commits and serves what: the registry behind `fairlead nodes`, filled by fetch requests. Memory only.
 */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/json.h"
#include "controlplane/journal/event.h"
#include "proto/links.h"

#define NODES_MAX               10000u /* names from the link cannot fill memory */
#define NODE_SILENT_AFTER_MS    45000u /* two long polls and a bit */
#define NODE_FORGOTTEN_AFTER_MS (7ull * 24 * 3600 * 1000)

struct nodes;

MUST_CHECK enum err nodes_new(struct nodes **ret);
void nodes_free(struct nodes *nodes);
/* Whom to tell of refusals, restarts, pins, silence and return. Borrowed; NULL: nobody listens. */
void nodes_tell(struct nodes *nodes, const struct event_sink *sink);
/* Every second or so: tells of those that fell silent. */
void nodes_watch(struct nodes *nodes, int64_t now_ms);
/* ERR_TOO_MANY, ERR_NOMEM, ERR_INVALID (a name that is none). */
MUST_CHECK enum err nodes_report(struct nodes *nodes, const struct fetch_request *request, int64_t now_ms);
/* Nodes lately heard of that do not yet serve this head / directory; names as a JSON array. Returns their number. */
unsigned nodes_behind(const struct nodes *nodes, uint64_t epoch, uint64_t generation, uint64_t directory_seq,
                      int64_t now_ms, struct json_writer *w);
/* Allows a node to take tables of this epoch. "": all, and those that are first heard of later; the publisher says so
 * from the store's adopt_all_epoch, so that this outlives a restart, while leave given to one node by its name is
 * forgotten with the process. ERR_NOT_FOUND. */
MUST_CHECK enum err nodes_adopt(struct nodes *nodes, struct span name, uint64_t epoch);
uint64_t nodes_adopted(const struct nodes *nodes, struct span name);
void nodes_json(const struct nodes *nodes, uint64_t epoch, uint64_t generation, int64_t now_ms, struct json_writer *w);
