/* resolve.h - what the name in `model` means for this holder of a key: a route, or one model directly.
 *
 * An exact name wins over a suffix: "ollama/llama:8b" is a model. Only when the whole name is unknown, ":floor"
 * (cheapest) or ":nitro" (fastest) is cut off and changes how scored tiers are ordered for this request; hand-set
 * weights keep their meaning. An alias may be used by whoever may use what it stands for. Pure. */
#pragma once
#include "dataplane/route/auth.h"

enum resolve_wish { RESOLVE_AS_TOLD, RESOLVE_CHEAPEST, RESOLVE_FASTEST };

struct resolved { /* exactly one of route and model is set */
    const struct route *route;
    const struct model *model;
    enum resolve_wish wish;
};
/* ERR_NOT_FOUND: unknown, or not for this key: the two look the same to whoever asks. */
MUST_CHECK enum err resolve_name(const struct arm_view *arm, const struct auth_principal *principal, struct span name,
                                 struct resolved *ret);

/* The route that a name means, whoever asks: itself, by alias, or with a suffix cut off; else the name as it is. */
struct span resolve_route_meant(const struct arm_view *arm, struct span name);

enum resolve_kind { RESOLVE_ROUTE, RESOLVE_ALIAS, RESOLVE_MODEL };
struct resolve_entry {
    struct span name;
    enum resolve_kind kind;
};
#define RESOLVE_LIST_MAX  10000u /* GET /v1/models of a policy with 200,000 routes must not be an attack on the loop */
#define RESOLVE_NAMES_MAX 20u    /* as many names as an error message can bear */
#define RESOLVE_SCAN_MAX  20000u /* names compared for one message: a 404 costs a bounded time */

/* What this key may name: routes, aliases, then models reachable directly, in the table's order (sorted). Looks at no
 * more than scan_max names of each kind, keeps no more than entries_max; returns how many were kept; *ret_more
 * (may be NULL) tells that there may be more. */
size_t resolve_list(const struct arm_view *arm, const struct auth_principal *principal, struct resolve_entry *entries,
                    size_t entries_max, size_t scan_max, bool *ret_more);
/* The 404's text: what was asked for (bounded), the nearest name, and the names this key may use. In arena; NULL when
 * it is full. */
char *resolve_not_found_message(struct arena *arena, const struct arm_view *arm, const struct auth_principal *principal,
                                struct span name);
