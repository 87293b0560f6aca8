/* putkeys - puts many keys into a control plane's store at once, as loadgen's --vary-keys asks with them: NAMEaaaaaaaaaa,
 * NAMEaaaaaaaaab and on, a number's ten digits as letters from a to j. The CLI makes one at a time. Not while the control
 * plane runs. */
#include "common/opts.h"
#include "controlplane/publish/versions.h"
#include "proto/home.h"

#define BATCH 20000 /* of one transaction */

static const struct opt options[] = {
    { "home", 0, OPT_TEXT, "DIR", "the control plane's home" },
    { "name", 0, OPT_TEXT, "NAME", "how the keys start" },
    { "team", 0, OPT_TEXT, "NAME", "whose they are" },
    { "count", 0, OPT_TEXT, "N", "how many" },
};

static enum err put_one(struct versions *versions, const char *name, struct span team, uint64_t number)
{
    char key[256], id[32];
    int len = snprintf(key, sizeof(key), "%s%010llu", name, (unsigned long long)number);
    for (int i = (int)strlen(name); i < len && i < (int)sizeof(key) - 1; i++)
        key[i] = (char)(key[i] - '0' + 'a');
    (void)snprintf(id, sizeof(id), "key_%010llu", (unsigned long long)number);
    const struct key_record record = {
        .hash = sha256_of(span_cstr(key)), .id = span_cstr(id), .team = team, .created_at_ms = 1
    };
    return versions_key_put(versions, &record);
}

static enum err put_all(struct versions *versions, const char *name, struct span team, uint64_t count)
{
    enum err err = OK;
    for (uint64_t i = 0; !err && i < count;) {
        err = versions_begin(versions, true);
        for (uint64_t end = i + BATCH; !err && i < count && i < end; i++)
            err = put_one(versions, name, team, i);
        if (!err)
            err = versions_commit(versions);
    }
    return err;
}

int main(int argc, char **argv)
{
    struct opts_result given;
    char *message = NULL;
    char path[4096];
    uint64_t count;
    struct versions *versions = NULL;
    if (opts_parse(options, ARRAY_LEN(options), argc, argv, &given, &message) || !opts_text(&given, "home", NULL) ||
        span_to_u64(span_cstr(opts_text(&given, "count", "")), &count)) {
        fprintf(stderr, "putkeys: %s\n", message ? message : "--home DIR --count N --name NAME --team NAME");
        free(message);
        return 2;
    }
    (void)snprintf(path, sizeof(path), "%s/%s", opts_text(&given, "home", NULL), HOME_CONTROL_STORE);
    enum err err = versions_open(path, &versions);
    if (!err)
        err =
            put_all(versions, opts_text(&given, "name", "fl-bench"), span_cstr(opts_text(&given, "team", "t")), count);
    versions_close(versions);
    if (err)
        fprintf(stderr, "putkeys: %s\n", err_name(err));
    return err ? 1 : 0;
}
