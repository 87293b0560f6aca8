/* policy.h - from what people write to what a request obeys: load, check, compile, hash, diff.
 *
 * Pure: files come through policy_source, prices through policy_book; no clock. Results live in the caller's arena; an
 * artifact or teams also borrow from the policy that they were made from, so its arena must live as long (best: the
 * same). What is wrong is collected in diags, never printed.
 *
 *   policy_load     files -> struct policy (trees with places; includes followed; both kinds of document)
 *   policy_compile  -> struct artifact          policy_teams  -> struct teams
 *   policy_rollout  -> struct rollout_plan
 *   policy_diff     artifact against artifact   policy_teams_diff
 *
 * A caller who wants every message at once runs load, compile and teams with the same diags and then looks at
 * diags_bad. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"
#include "controlplane/policy/diag.h"
#include "proto/links.h"
#include "proto/tables.h"

struct arena;
struct buf;
struct policy;
struct rollout_plan;

#define POLICY_FILES_MAX 1000u /* includes of includes: a glob over a wrong directory stops here */
#define POLICY_ARENA_MAX                                                                                               \
    ((size_t)2048 << 20) /* advice for the arena of one load and compile: 32 MiB of YAML need some 1 GiB */

/* ---- where files come from ---- */

struct policy_source {
    void *user;
    /* Appends the file's bytes. ERR_NOT_FOUND, ERR_DENIED, ERR_TOO_LARGE, ERR_IO, ERR_NOMEM. */
    enum err (*read)(void *user, struct span path, struct buf *text);
    /* Paths that match, sorted, in `arena`; a pattern without * or ? gives the path itself when it exists. None: OK
     * with count 0. */
    enum err (*glob)(void *user, struct span pattern, struct arena *arena, struct span_list *ret_paths);
};

/* On disk. Paths are as the caller writes them; includes are relative to the file that includes. */
extern const struct policy_source policy_files;

/* A bundle: {"files":[{"name":"policy.yaml","text":"..."}, ...]}, the first file being the root. How a policy travels
 * to the control plane and how versions are stored. */
struct policy_bundle {
    struct policy_source source; /* borrows from the bundle, which lives in the arena */
    struct span root;
};
/* ERR_SYNTAX, ERR_INVALID (shape, a name twice, an absolute name or one with ".."), ERR_TOO_MANY, ERR_NOMEM. */
MUST_CHECK enum err policy_bundle_open(struct arena *arena, struct span json, struct policy_bundle **ret_bundle);
/* Reads root and what it includes (text that is no YAML is bundled as it is) and appends the bundle to out; file names
 * become relative to root's directory. Files that cannot be read are reported in diags: ERR_INVALID. ERR_FULL,
 * ERR_NOMEM. */
MUST_CHECK enum err policy_bundle_make(struct arena *arena, const struct policy_source *source, struct span root,
                                       struct diags *diags, struct buf *out);

/* ---- prices ---- */

struct policy_book {
    void *user;
    const struct catalog_entry *(*find)(void *user, struct span name); /* NULL: unknown */
    const struct catalog_entry *(*at)(void *user, size_t i); /* each once, in a fixed order; NULL after the last */
    uint64_t version;
    int64_t now_ms; /* models that the book calls deprecated by then, or soon after, are warned of; 0: none */
};

/* ---- the work ---- */

/* Reads root and its includes. OK: *ret_policy is usable by the calls below, though diags may hold errors.
 * ERR_INVALID: nothing usable (a file cannot be read or is no YAML); diags say why. ERR_NOMEM. */
MUST_CHECK enum err policy_load(struct arena *arena, const struct policy_source *source, struct span root,
                                struct diags *diags, const struct policy **ret_policy);
bool policy_has_policy(const struct policy *policy);    /* a `kind: policy` document is there */
bool policy_has_directory(const struct policy *policy); /* a `kind: directory` document is there */
/* 64 hex digits over the `kind: policy` documents, normalised: comments, spacing, quoting, order of keys and the split
 * into files do not matter; list order does. Prices of a book are not part of it. */
struct span policy_hash(const struct policy *policy);

/* Resolves everything and compiles it. ERR_INVALID: diags hold at least one error (whoever reported it), and nothing is
 * returned. book NULL: for looking only; wildcards then expand to what routes name, prices that a book would give are
 * absent (known == 0) with a warning, and the artifact must not be published. ERR_NOMEM. */
MUST_CHECK enum err policy_compile(struct arena *arena, const struct policy *policy, const struct policy_book *book,
                                   uint32_t policy_version, struct diags *diags, const struct artifact **ret_artifact);

/* How this version goes live, by its `rollout:` with defaults for what that leaves out; *ret_has false, and *ret_plan
 * untouched, without one. What is wrong is reported in diags (by policy_compile too). ERR_NOMEM. */
MUST_CHECK enum err policy_rollout(struct arena *arena, const struct policy *policy, struct diags *diags,
                                   struct rollout_plan *ret_plan, bool *ret_has);

/* The directory's teams. artifact: what routes and models are checked against, NULL when none is known yet. epoch and
 * seq are left 0. ERR_INVALID (diags), ERR_NOMEM. */
MUST_CHECK enum err policy_teams(struct arena *arena, const struct policy *policy, const struct artifact *artifact,
                                 struct diags *diags, const struct teams **ret_teams);

/* ---- differences ---- */

struct policy_change {
    const char *kind; /* "added", "removed", "changed" */
    struct span what; /* "route chat", "model openai/gpt-4o", "team research" */
    struct span text; /* the whole line: "route chat: tier 1: azure-we/gpt-4o weight 70% -> 50%" */
};
struct policy_changes {
    struct policy_change *items;
    uint32_t count;
};
/* What changes for requests when `before` (NULL: nothing) is replaced by `after`; in a fixed order. ERR_NOMEM. */
MUST_CHECK enum err policy_diff(struct arena *arena, const struct artifact *before, const struct artifact *after,
                                struct policy_changes *ret_changes);
MUST_CHECK enum err policy_teams_diff(struct arena *arena, const struct teams *before, const struct teams *after,
                                      struct policy_changes *ret_changes);
/* One warning for each team whose prompts and answers `after` records and `before` (NULL: nothing) did not, or less of.
 * To be said by whoever brings `after` live: it writes personal data. */
void policy_warn_content(const struct policy *policy, const struct artifact *before, const struct artifact *after,
                         struct diags *diags);
/* "+ ", "- " or "~ " and the line; [{"kind","what","text"}]. */
MUST_CHECK enum err policy_changes_text(const struct policy_changes *changes, struct buf *out);
void policy_changes_json(const struct policy_changes *changes, struct json_writer *w);
