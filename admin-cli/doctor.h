/* doctor.h - what `fairlead doctor` finds: each finding says what is wrong and what to do about it. */
#pragma once
#include "admin-cli/cli.h"

enum doctor_level { DOCTOR_GOOD, DOCTOR_NOTE, DOCTOR_WARNING, DOCTOR_ERROR };
#define DOCTOR_FINDINGS_MAX 500u /* a page that people read; what is beyond is counted */

struct doctor_finding {
    enum doctor_level level;
    const char *area;          /* static: "prices" */
    const char *what, *advice; /* advice: "" with a good one */
};
struct doctor {
    struct arena *arena; /* of the texts */
    struct doctor_finding findings[DOCTOR_FINDINGS_MAX];
    unsigned count;
    unsigned levels[DOCTOR_ERROR + 1]; /* how many of each, also of those that found no room */
};

/* advice: static or in an arena; NULL: none. */
void doctor_add(struct doctor *d, enum doctor_level level, const char *area, const char *advice, const char *fmt, ...)
    PRINTF_LIKE(5, 6);
/* Adds a good one when nothing but good was found in this area since `before` (the count then). */
void doctor_good_since(struct doctor *d, unsigned before, const char *area, const char *fmt, ...) PRINTF_LIKE(4, 5);

/* Judges what is left of a file system: whose and path are for people. */
void doctor_disk(struct doctor *d, const char *whose, const char *path, uint64_t available_bytes, uint64_t bytes);
/* What the control plane says, judged. Pure: three answers in, findings out. status, providers: of the commands of these
 * names; facts: of "doctor". now_ms: this machine's clock. */
void doctor_judge_control(struct doctor *d, struct cli *cli, const struct json_index *status,
                          const struct json_index *providers, const struct json_index *facts, int64_t now_ms);
/* What this machine's node says of itself (/status), judged. Pure. */
void doctor_judge_node(struct doctor *d, struct cli *cli, const struct json_index *node);
/* Files, permissions, programs, sockets, disk, memory files, descriptors of this machine's home. */
void doctor_look_here(struct doctor *d, struct cli *cli);
