#include "controlplane/tools.h"
#include "common/arena.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/json.h"
#include "controlplane/daemon.h"
#include "controlplane/evidence/evidence.h"
#include "controlplane/policy/policy.h"
#include "controlplane/policy/presets.h"
#include "controlplane/publish/restore.h"
#include "proto/home.h"
#include "proto/simulation.h"
#include "proto/wire.h"
#include <limits.h>
#include <unistd.h>

#define BOOK_BYTES_MAX (64u << 20)

static int trouble(const char *what, enum err err)
{
    fprintf(stderr, "fairlead-controlplane: %s: %s\n", what, err_name(err));
    return 2;
}

/* ---- check ---- */

static const char *plural(uint32_t count)
{
    return count == 1 ? "" : "s";
}

struct checked {
    uint32_t providers, models, routes, teams;
    bool has_policy, has_directory;
};

static enum err check(struct arena *arena, const char *file, const struct policy_book *book, struct diags *diags,
                      struct checked *ret)
{
    const struct policy *policy;
    const struct artifact *artifact = NULL;
    const struct teams *teams;
    enum err err = policy_load(arena, &policy_files, span_cstr(file), diags, &policy);
    if (err)
        return err;
    ret->has_policy = policy_has_policy(policy);
    ret->has_directory = policy_has_directory(policy);
    if (ret->has_policy) {
        err = policy_compile(arena, policy, book, 0, diags, &artifact);
        if (!err) {
            ret->providers = artifact->provider_count;
            ret->models = artifact->model_count;
            ret->routes = artifact->route_count;
        }
    }
    if (ret->has_directory && (!err || err == ERR_INVALID)) {
        const enum err teams_err = policy_teams(arena, policy, artifact, diags, &teams);
        if (!teams_err)
            ret->teams = teams->count;
        err = err ? err : teams_err;
    }
    return err;
}

static int print_check(struct diags *diags, const struct checked *c, bool json)
{
    struct buf out = BUF_INIT(8u << 20);
    enum err err;
    if (json) {
        struct json_writer w;
        json_writer_init(&w, &out);
        json_object_open(&w);
        json_member_bool(&w, "good", !diags_bad(diags));
        json_member_u64(&w, "providers", c->providers);
        json_member_u64(&w, "models", c->models);
        json_member_u64(&w, "routes", c->routes);
        json_member_u64(&w, "teams", c->teams);
        json_key(&w, SPAN("diagnostics"));
        diags_json(diags, &w);
        json_object_close(&w);
        err = json_writer_end(&w);
        if (!err)
            err = buf_append_byte(&out, '\n');
    } else {
        err = diags_text(diags, &out);
        if (!err && !diags_bad(diags) && c->has_policy)
            err = buf_printf(&out, "good: %u provider%s, %u model%s, %u route%s\n", c->providers, plural(c->providers),
                             c->models, plural(c->models), c->routes, plural(c->routes));
        if (!err && !diags_bad(diags) && c->has_directory)
            err = buf_printf(&out, "good: %u team%s\n", c->teams, plural(c->teams));
    }
    if (!err)
        fwrite(out.data + out.start, 1, out.len, stdout);
    buf_release(&out);
    if (err)
        return trouble("printing", err);
    return diags_bad(diags) ? 1 : 0;
}

static enum err load_book(struct evidence_state *state, const char *prices_file)
{
    struct buf text = BUF_INIT(BOOK_BYTES_MAX);
    const char *why = "";
    char *path = daemon_book_path(prices_file);
    enum err err = path ? file_read(path, BOOK_BYTES_MAX, &text) : ERR_NOT_FOUND;
    if (!err)
        err = evidence_load_shipped(state, buf_span(&text), &why);
    if (err)
        fprintf(stderr, "fairlead-controlplane: price book %s: %s %s\n", path ? path : "prices.yaml", err_name(err),
                why);
    buf_release(&text);
    free(path);
    return err;
}

int tool_check(const char *file, const char *prices_file, bool json)
{
    struct arena arena;
    struct diags diags;
    struct checked checked = { 0 };
    struct evidence_state *state = NULL;
    enum err err = evidence_state_new(&state);
    if (!err)
        err = load_book(state, prices_file);
    if (err) {
        evidence_state_free(state);
        return 2;
    }
    arena_init(&arena, POLICY_ARENA_MAX);
    diags_init(&diags, &arena);
    struct policy_book book = *evidence_book(state);
    book.now_ms = clock_wall_ms();
    err = check(&arena, file, &book, &diags, &checked);
    if (!err && !checked.has_policy && !checked.has_directory)
        diag_at(&diags, DIAG_ERROR, file, 1, 1, "neither a `kind: policy` nor a `kind: directory` document");
    const int status = err && err != ERR_INVALID ? trouble("checking", err) : print_check(&diags, &checked, json);
    arena_release(&arena);
    evidence_state_free(state);
    return status;
}

int tool_bundle(const char *file)
{
    struct arena arena;
    struct diags diags;
    struct buf bundle = BUF_INIT(PUSH_BYTES_MAX);
    struct buf text = BUF_INIT(1u << 20);
    int status = 0;
    arena_init(&arena, POLICY_ARENA_MAX);
    diags_init(&diags, &arena);
    const enum err err = policy_bundle_make(&arena, &policy_files, span_cstr(file), &diags, &bundle);
    if (err == ERR_INVALID) {
        if (diags_text(&diags, &text) == OK)
            fwrite(text.data + text.start, 1, text.len, stderr);
        status = 1;
    } else if (err) {
        status = trouble(err == ERR_FULL ? "the policy with its includes is too large" : "bundling", err);
    } else if (fwrite(bundle.data + bundle.start, 1, bundle.len, stdout) != bundle.len || fflush(stdout) != 0) {
        status = trouble("writing the bundle", ERR_IO);
    }
    buf_release(&text);
    buf_release(&bundle);
    arena_release(&arena);
    return status;
}

/* ---- compile ---- */

static enum err put_file(const char *dir, const char *name, const struct buf *bytes)
{
    char *path = file_join(dir, name);
    const enum err err = path ? file_write_atomic(path, buf_span(bytes), 0600) : ERR_NOMEM;
    free(path);
    return err;
}

static enum err load_teams(struct arena *arena, const struct policy *policy, const char *directory,
                           const struct artifact *artifact, struct diags *diags, struct teams *ret)
{
    const struct policy *from = policy;
    const struct teams *teams;
    enum err err = directory ? policy_load(arena, &policy_files, span_cstr(directory), diags, &from) : OK;
    if (!err && policy_has_directory(from)) {
        err = policy_teams(arena, from, artifact, diags, &teams);
        if (!err)
            *ret = *teams;
    }
    return err;
}

static enum err compile(struct arena *arena, const char *file, const char *directory, const char *to,
                        const struct policy_book *book, struct diags *diags)
{
    struct buf bytes = BUF_INIT(FRAME_BYTES_MAX);
    const struct policy *policy;
    const struct artifact *artifact;
    struct directory_delta delta = { .epoch = 1, .to_seq = 1, .full = true, .has_teams = true };
    enum err err = policy_load(arena, &policy_files, span_cstr(file), diags, &policy);
    if (!err && !policy_has_policy(policy)) {
        diag_at(diags, DIAG_ERROR, file, 1, 1, "no `kind: policy` document in it");
        err = ERR_INVALID;
    }
    if (!err)
        err = policy_compile(arena, policy, book, 0, diags, &artifact);
    if (!err)
        err = load_teams(arena, policy, directory, artifact, diags, &delta.teams);
    if (!err)
        err = wire_encode_artifact(artifact, &bytes);
    if (!err)
        err = put_file(to, SIMULATION_CANDIDATE, &bytes);
    buf_clear(&bytes);
    if (!err)
        err = wire_encode_directory_delta(&delta, &bytes);
    if (!err)
        err = put_file(to, SIMULATION_DIRECTORY, &bytes);
    buf_release(&bytes);
    return err;
}

int tool_compile(const char *file, const char *directory, const char *to, const char *prices_file)
{
    struct arena arena;
    struct diags diags;
    struct buf text = BUF_INIT(1u << 20);
    struct evidence_state *state = NULL;
    enum err err = evidence_state_new(&state);
    if (!err)
        err = load_book(state, prices_file);
    if (err) {
        evidence_state_free(state);
        return 2;
    }
    arena_init(&arena, POLICY_ARENA_MAX);
    diags_init(&diags, &arena);
    struct policy_book book = *evidence_book(state);
    book.now_ms = clock_wall_ms();
    err = compile(&arena, file, directory, to, &book, &diags);
    if (diags_text(&diags, &text) == OK)
        (void)fwrite(buf_span(&text).ptr, 1, text.len, stderr);
    const int status = !err && !diags_bad(&diags) ? 0 : !err || err == ERR_INVALID ? 1 : trouble("compiling", err);
    buf_release(&text);
    arena_release(&arena);
    evidence_state_free(state);
    return status;
}

int tool_presets(void)
{
    struct buf out = BUF_INIT(1u << 20);
    struct json_writer w;
    const struct policy_preset *preset;
    json_writer_init(&w, &out);
    json_array_open(&w);
    for (size_t i = 0; (preset = policy_preset_at(i)); i++) {
        json_object_open(&w);
        json_member_cstr(&w, "name", preset->name);
        json_member_cstr(&w, "base_url", preset->base_url);
        json_member_cstr(&w, "key_env", preset->key_env);
        json_member_bool(&w, "local", preset->local);
        json_member_cstr(&w, "about", preset->about);
        json_object_close(&w);
    }
    json_array_close(&w);
    const enum err err = json_writer_end(&w);
    if (!err) {
        fwrite(out.data + out.start, 1, out.len, stdout);
        putchar('\n');
    }
    buf_release(&out);
    return err ? trouble("presets", err) : 0;
}

/* ---- restore ---- */

int tool_restore(const char *home, const char *backup_dir)
{
    long pid = 0;
    int lock_fd = -1;
    char aside[PATH_MAX] = "";
    char *run = file_join(home, HOME_RUN);
    char *lock = file_join(home, HOME_CONTROL_LOCK);
    char *store = file_join(home, HOME_CONTROL_STORE);
    enum err err = run && lock && store ? file_make_dirs(run, 0700) : ERR_NOMEM;
    if (!err)
        err = file_make_dirs(store, 0700);
    if (!err)
        err = file_lock(lock, &lock_fd, &pid);
    if (err == ERR_CONFLICT)
        fprintf(stderr, "fairlead-controlplane: a control plane (pid %ld) runs on %s; stop it first\n", pid, home);
    else if (!err)
        err = restore_store(store, backup_dir, aside, sizeof(aside));
    if (err && err != ERR_CONFLICT)
        fprintf(stderr, "fairlead-controlplane: restoring %s: %s; nothing was changed\n", backup_dir, err_name(err));
    if (!err) {
        printf("restored %s; nodes go on with what they have until `fairlead nodes adopt --all`\n", backup_dir);
        if (aside[0])
            printf("the store that was there is kept as %s\n", aside);
    }
    if (lock_fd >= 0)
        close(lock_fd);
    free(run);
    free(lock);
    free(store);
    return err ? 2 : 0;
}
