/* top_screen.h - one frame of `fairlead top` as text. Pure. */
#pragma once
#include "admin-cli/cli.h"
#include "admin-cli/top_sample.h"

struct top_view {
    struct cli *cli; /* for cells and their arena */
    const struct top_sample *sample;
    const struct top_change *change;
    const struct json_index *status, *providers, *rollout; /* NULL: not known */
    const char *trouble;                                   /* "" or what could not be asked */
    const char *source;                                    /* whose figures these are: "this node", "3 nodes" */
    int64_t wall_ms;
};
/* Appends lines: at most `height`, none wider than `width` columns (SIZE_MAX: as many and as wide as there are). On a
 * terminal each ends by clearing the rest of its row. ERR_NOMEM, ERR_FULL. */
MUST_CHECK enum err top_frame(const struct top_view *view, size_t width, size_t height, bool terminal, struct buf *out);
MUST_CHECK enum err top_json(const struct top_view *view, struct buf *out);
