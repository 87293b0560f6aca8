#include "controlplane/prober/config.h"
#include "common/arena.h"
#include "common/fault.h"
#include "common/file.h"
#include "common/yaml.h"
#include <stdarg.h>

static void say(char **ret_message, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void say(char **ret_message, const char *fmt, ...)
{
    va_list args;
    char *text = NULL;
    if (*ret_message)
        return; /* the first is kept */
    va_start(args, fmt);
    if (vasprintf(&text, fmt, args) >= 0)
        *ret_message = text;
    va_end(args);
}

struct place {
    const char *path;
    char **message;
};

static void report(void *user, uint32_t line, uint32_t column, const char *message)
{
    const struct place *place = user;
    say(place->message, "%s:%u:%u: %s", place->path, line, column, message);
}

static enum err read_tree(const struct yaml_node *root, const char *path, struct prober_config *config,
                          char **ret_message)
{
    const struct yaml_node *at = root, *ca = yaml_get(root, "ca_file");
    const char *why = "not a node configuration: a map was expected";
    enum err err = !root || root->kind == YAML_MAP ? OK : ERR_INVALID;
    if (!err)
        err = credentials_from_yaml(config->credentials, yaml_get(root, "credentials"), &at, &why);
    if (!err && ca && !yaml_is_null(ca) && (ca->kind != YAML_SCALAR || !file_exists(ca->text.ptr))) {
        at = ca;
        why = "'ca_file' is no file";
        err = ERR_INVALID;
    }
    if (err == ERR_INVALID)
        say(ret_message, "%s:%u:%u: %s", path, at->line, at->column, why);
    if (!err && ca && !yaml_is_null(ca)) {
        config->ca_file = strdup(ca->text.ptr);
        err = config->ca_file ? OK : ERR_NOMEM;
    }
    return err;
}

enum err prober_config_load(const char *path, struct prober_config *ret, char **ret_message)
{
    struct prober_config config = { 0 };
    struct place place = { path, ret_message };
    struct buf text = BUF_INIT(CONFIG_BYTES_MAX);
    const struct yaml_node *root = NULL;
    struct arena arena;
    *ret_message = NULL;
    arena_init(&arena, 256u << 20);
    enum err err = credentials_new(&config.credentials);
    if (!err && path) {
        err = file_read(path, CONFIG_BYTES_MAX, &text);
        if (err)
            say(ret_message, "%s: %s", path, err_name(err));
        else
            err = yaml_parse(&arena, path, buf_span(&text), report, &place, &root);
        if (!err)
            err = read_tree(root, path, &config, ret_message);
    }
    arena_release(&arena);
    buf_release(&text);
    if (err) {
        prober_config_release(&config);
        return err;
    }
    *ret = config;
    return OK;
}

void prober_config_release(struct prober_config *config)
{
    credentials_free(config->credentials);
    free(config->ca_file);
    *config = (struct prober_config){ 0 };
}
