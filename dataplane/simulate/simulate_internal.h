/* simulate_internal.h - what simulate*.c share. */
#pragma once
#include "common/strmap.h"
#include "dataplane/simulate/estimate.h"
#include "dataplane/simulate/simulate.h"

struct refusals { /* a team whose requests for one name would be refused for one reason */
    struct span team, asked;
    const char *reason; /* static */
    const char *text;
    uint64_t requests;
};
struct decided {                       /* interned: one for all requests that are decided alike */
    struct estimate_decision decision; /* first: rows point here */
    enum setting_verdict verdict;
};
struct simulate {
    struct arena arena; /* lives as long */
    struct setting *settings[ESTIMATE_TARGETS];
    int64_t now_ms;

    struct strmap model_ids, route_ids, cell_ids, decisions, refusals; /* ids are stored plus one */
    struct estimate_model *models;
    uint32_t model_count, models_room;
    uint32_t *ids[ESTIMATE_TARGETS]; /* model id by the artifact's index */
    struct span *routes;
    uint32_t route_count, routes_room;
    struct estimate_cell *cells;
    uint32_t cell_count, cells_room;
    struct estimate_row *rows;
    size_t row_count, rows_room;
    struct arena scratch; /* of one record */

    uint64_t unread, team_gone, propensity_missing;
    uint64_t refused[ESTIMATE_TARGETS], newly_refused, newly_served;
    int64_t first_ms, last_ms;
};
