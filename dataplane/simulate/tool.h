/* tool.h - the throwaway processes `fairlead-dataplane --simulate` and `--decide`: files and standard input in, JSON lines
 * on standard output. They keep nothing and end with a signal at once, so that killing them is how to cancel. */
#pragma once
#include "common/base.h"

struct simulate_tool_options {
    const char *dir;            /* proto/simulation.h's files */
    const char *const *records; /* files of record lines, or directories of such files */
    unsigned record_count;
    int64_t since_ms; /* wall; older requests are left out */
    uint64_t limit;   /* the newest so many requests; 0: as many as are taken at most */
};
/* Lines: {"progress":{"records","bytes","bytes_total"}} some ten times a second, then {"lines","lines_unreadable",
 * "limited","result":{...}} (simulate_report's object) or {"error":"..."}. Returns the exit status. */
int simulate_tool(const struct simulate_tool_options *options);

/* Standard input: {"requests":[{"team","model","endpoint","stream","tools","images","audio","json","input_tokens",
 * "max_output","choices"}]}, what is absent being false, 0, 1 choice or "chat". Standard output: {"answers":[{"verdict":
 * "ok|refused|unknown_model|unknown_team","reason","why","route","candidates":[{"model","provider","regions":[],"tier",
 * "eligible":bool,"reason","first":0..1,"estimate_usd"}]}]}, in the same order, decided by SIMULATION_CANDIDATE, or
 * {"error":"..."}. Returns the exit status. */
int decide_tool(const char *dir);
