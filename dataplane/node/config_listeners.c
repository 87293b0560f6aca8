#include "common/fault.h"
#include "dataplane/node/address.h"
#include "dataplane/node/config_internal.h"
#include <limits.h>

#define UNIX_MODE_DEFAULT 0600u
#define PROXIES_MAX       64u   /* each new connection is compared with all of them */
#define TEAMS_MAX_OF_ONE  1000u /* each handshake with a client's certificate looks through them */
#define NAME_OF_CERT_MAX  255u  /* a DNS name; longer ones are a pasted file */
#define RESOLVERS_MAX     8u    /* each is waited for in turn: a name's deadline is over long before the ninth */

const char config_listeners_text[] =
    "a listener (`listen` is one address, or a list of addresses and maps of these fields)\n"
    "    address: ADDR:PORT (port 0: the system chooses), unix:/PATH, systemd:NAME (the socket that systemd passes\n"
    "        under this FileDescriptorName) or systemd: (the only one it passes)\n"
    "    mode: 0600              who may connect to a Unix socket: its file's permissions\n"
    "    http2: true             HTTP/2, by ALPN with TLS and by its preface without\n"
    "    tls: {certificate: FILE, key: FILE, client_ca: FILE, client_certificates: required, teams: {NAME: TEAM}}\n"
    "        PEM files (FILE: beside this configuration, or with its whole path); without `tls` the listener speaks\n"
    "        plaintext. client_ca: clients' certificates are asked for and verified by it (client_certificates: none,\n"
    "        optional or required). teams: requests without a key, over a connection whose certificate has this name\n"
    "        (DNS, e-mail, URI, else common name), are that team's\n"
    "    proxy_protocol: [10.0.0.0/8]\n"
    "        connections from these networks must begin with a PROXY v2 header; from others none may\n";

/* A list being made: the configuration changes when all of it is good. */
struct listeners {
    struct listener_config items[NODE_LISTENERS_MAX];
    unsigned count;
};

enum listener_kind listener_kind(const struct listener_config *listener, const char **ret_rest)
{
    static const struct {
        const char *prefix;
        enum listener_kind kind;
    } kinds[] = { { "unix:", LISTENER_UNIX }, { "systemd:", LISTENER_SYSTEMD }, { "", LISTENER_TCP } };
    size_t i = 0;
    while (strncmp(listener->address, kinds[i].prefix, strlen(kinds[i].prefix)) != 0)
        i++;
    *ret_rest = listener->address + strlen(kinds[i].prefix);
    return kinds[i].kind;
}

static void release_one(struct listener_config *l)
{
    for (unsigned i = 0; i < l->team_count; i++) {
        free(l->teams[i].name);
        free(l->teams[i].team);
    }
    free(l->teams);
    free(l->proxies);
    free(l->address);
    free(l->certificate);
    free(l->key);
    free(l->client_ca);
}

static void release_list(struct listeners *list)
{
    for (unsigned i = 0; i < list->count; i++)
        release_one(&list->items[i]);
    list->count = 0;
}

void config_release_listeners(struct node_config *config)
{
    for (unsigned i = 0; i < config->listener_count; i++)
        release_one(&config->listeners[i]);
    config->listener_count = 0;
}

/* The list is empty afterwards. */
static void take(struct node_config *config, struct listeners *list)
{
    config_release_listeners(config);
    memcpy(config->listeners, list->items, sizeof(config->listeners));
    config->listener_count = list->count;
    list->count = 0;
}

/* ---- an address ---- */

static enum err check_address(struct span text, char **ret_message)
{
    struct address address;
    if (span_starts(text, SPAN("unix:"))) {
        const struct span path = span_skip(text, 5);
        if (!span_starts(path, SPAN("/")) || path.len < 2 || memchr(path.ptr, '\0', path.len))
            return config_complain(ret_message, "listen: '" SPAN_FMT "' is not a socket such as unix:/run/fairlead/api",
                                   SPAN_ARG(text));
        if (path.len > IPC_PATH_BYTES_MAX)
            return config_complain(ret_message, "listen: the path of a Unix socket has %u bytes at most, not %zu",
                                   IPC_PATH_BYTES_MAX, path.len);
        return OK;
    }
    if (span_starts(text, SPAN("systemd:"))) {
        const struct span name = span_skip(text, 8);
        if ((!span_empty(name) && !config_printable(name)) || memchr(name.ptr, ':', name.len))
            return config_complain(ret_message,
                                   "listen: '" SPAN_FMT "' is not a name such as systemd:api (FileDescriptorName=api)",
                                   SPAN_ARG(text));
        return OK;
    }
    if (address_parse(text, &address))
        return config_complain(ret_message,
                               "listen: '" SPAN_FMT "' is not an address such as 127.0.0.1:4000, [::1]:4000, "
                               "unix:/PATH or systemd:NAME",
                               SPAN_ARG(text));
    return OK;
}

static bool same_place(const struct listener_config *a, const struct listener_config *b)
{
    const char *one, *other;
    struct address first, second;
    const enum listener_kind kind = listener_kind(a, &one);
    if (kind != listener_kind(b, &other))
        return false;
    if (kind != LISTENER_TCP)
        return strcmp(one, other) == 0;
    return address_parse(span_cstr(one), &first) == OK && address_parse(span_cstr(other), &second) == OK &&
           address_port(&first) != 0 && address_port(&second) != 0 && address_agrees(&first, &second);
}

/* Begins one more listener; what follows changes list->items[list->count - 1]. */
static enum err add(struct listeners *list, struct span address, char **ret_message)
{
    if (list->count == NODE_LISTENERS_MAX)
        return config_complain(ret_message, "listen: at most %u listeners", NODE_LISTENERS_MAX);
    enum err err = check_address(address, ret_message);
    if (err)
        return err;
    struct listener_config *l = &list->items[list->count];
    *l = (struct listener_config){ .mode = UNIX_MODE_DEFAULT, .http2 = true };
    err = config_set_text(&l->address, address);
    if (err)
        return err;
    list->count++;
    for (unsigned i = 0; i + 1 < list->count; i++) {
        if (same_place(&list->items[i], l))
            return config_complain(ret_message, "listen: '" SPAN_FMT "' stands twice", SPAN_ARG(address));
    }
    return OK;
}

enum err config_listen(struct node_config *config, const struct span *addresses, size_t count, char **ret_message)
{
    struct listeners list = { .count = 0 };
    enum err err = OK;
    for (size_t i = 0; i < count && !err; i++)
        err = add(&list, addresses[i], ret_message);
    if (!err)
        take(config, &list);
    release_list(&list);
    return err;
}

/* ---- a map ---- */

static enum err read_text(const struct config_reading *r, const struct yaml_node *node, char **at)
{
    if (node->kind != YAML_SCALAR || yaml_is_null(node) || span_empty(node->text))
        return config_fault_at(r, node, SPAN_FMT ": one value must stand here", SPAN_ARG(node->key->text));
    return config_set_text(at, node->text);
}

/* A name without a root is one beside the file that names it, wherever the program was started. */
static enum err read_file_name(const struct config_reading *r, const struct yaml_node *node, char **at)
{
    const char *slash = strrchr(r->file, '/');
    enum err err = read_text(r, node, at);
    if (err || !slash || (*at)[0] == '/')
        return err;
    struct buf name = BUF_INIT((size_t)PATH_MAX);
    err = buf_printf(&name, "%.*s/%s", (int)(slash - r->file), r->file, *at);
    if (!err)
        err = config_set_text(at, buf_span(&name));
    else if (err == ERR_FULL)
        err = config_fault_at(r, node, SPAN_FMT ": too long a name", SPAN_ARG(node->key->text));
    buf_release(&name);
    return err;
}

/* add() with the place of what is wrong. */
static enum err read_address(const struct config_reading *r, struct listeners *list, const struct yaml_node *node)
{
    char *why = NULL;
    if (node->kind != YAML_SCALAR || yaml_is_null(node))
        return config_fault_at(r, node, "listen: an address must stand here");
    enum err err = add(list, node->text, &why);
    if (err == ERR_INVALID)
        err = config_fault_at(r, node, "%s", why);
    free(why);
    return err;
}

static enum err read_mode(const struct config_reading *r, struct listener_config *l, const struct yaml_node *node)
{
    const char *rest;
    unsigned mode = 0;
    bool good = node->kind == YAML_SCALAR && node->text.len > 0 && node->text.len <= 4;
    if (listener_kind(l, &rest) != LISTENER_UNIX)
        return config_fault_at(r, node, "mode: only of a Unix socket (address: unix:/PATH)");
    for (size_t i = 0; good && i < node->text.len; i++) {
        good = node->text.ptr[i] >= '0' && node->text.ptr[i] <= '7';
        mode = mode * 8 + (unsigned)(node->text.ptr[i] - '0');
    }
    if (!good || mode > 0777)
        return config_fault_at(r, node, "mode: permissions in octal, such as 0660");
    l->mode = mode;
    return OK;
}

static enum err read_http2(const struct config_reading *r, struct listener_config *l, const struct yaml_node *node)
{
    const bool yes = node->kind == YAML_SCALAR && span_eq(node->text, SPAN("true"));
    if (!yes && !(node->kind == YAML_SCALAR && span_eq(node->text, SPAN("false"))))
        return config_fault_at(r, node, "http2: true or false");
    l->http2 = yes;
    return OK;
}

static enum err read_proxies(const struct config_reading *r, struct listener_config *l, const struct yaml_node *node)
{
    const char *rest;
    if (listener_kind(l, &rest) == LISTENER_UNIX)
        return config_fault_at(r, node, "proxy_protocol: who connects to a Unix socket has no address to trust");
    if (node->kind != YAML_LIST)
        return config_fault_at(r, node, "proxy_protocol: a list of networks must stand here, such as [10.0.0.0/8]");
    if (node->count > PROXIES_MAX)
        return config_fault_at(r, node, "proxy_protocol: at most %u networks", PROXIES_MAX);
    if (node->count == 0)
        return OK;
    l->proxies = fault_calloc(node->count, sizeof(*l->proxies));
    if (!l->proxies)
        return ERR_NOMEM;
    for (const struct yaml_node *child = node->first; child; child = child->next) {
        if (child->kind != YAML_SCALAR || network_parse(child->text, &l->proxies[l->proxy_count]))
            return config_fault_at(r, child,
                                   "proxy_protocol: not a network such as 10.0.0.0/8 or 2001:db8::/32 (no bits beyond "
                                   "the prefix may be set)");
        l->proxy_count++;
    }
    return OK;
}

static bool is_line(struct span text, size_t max)
{
    for (size_t i = 0; i < text.len; i++) {
        if ((unsigned char)text.ptr[i] < ' ' || (unsigned char)text.ptr[i] == 0x7f)
            return false;
    }
    return text.len > 0 && text.len <= max;
}

static enum err read_team(const struct config_reading *r, struct listener_config *l, const struct yaml_node *node)
{
    struct certificate_team *team = &l->teams[l->team_count];
    const struct span name = node->key->text;
    if (!is_line(name, NAME_OF_CERT_MAX))
        return config_fault_at(r, node->key, "teams: a name of a certificate has 1 to %u bytes", NAME_OF_CERT_MAX);
    if (node->kind != YAML_SCALAR || yaml_is_null(node) || !is_line(node->text, NAME_BYTES_MAX))
        return config_fault_at(r, node, "teams: the name of a team must stand here");
    for (unsigned i = 0; i < l->team_count; i++) {
        if (span_eq_nocase(span_cstr(l->teams[i].name), name))
            return config_fault_at(r, node->key, "teams: '" SPAN_FMT "' stands twice", SPAN_ARG(name));
    }
    l->team_count++;
    const enum err err = config_set_text(&team->name, name);
    return err ? err : config_set_text(&team->team, node->text);
}

static enum err read_teams(const struct config_reading *r, struct listener_config *l, const struct yaml_node *node)
{
    enum err err = OK;
    if (node->kind != YAML_MAP)
        return config_fault_at(r, node, "teams: a map must stand here, such as {ci.example.com: build}");
    if (node->count > TEAMS_MAX_OF_ONE)
        return config_fault_at(r, node, "teams: at most %u", TEAMS_MAX_OF_ONE);
    if (node->count == 0)
        return OK;
    l->teams = fault_calloc(node->count, sizeof(*l->teams));
    if (!l->teams)
        return ERR_NOMEM;
    for (const struct yaml_node *child = node->first; child && !err; child = child->next)
        err = read_team(r, l, child);
    return err;
}

static enum err read_client_certificates(const struct config_reading *r, struct listener_config *l,
                                         const struct yaml_node *node)
{
    static const char *const names[] = { [CLIENT_CERTIFICATES_NONE] = "none",
                                         [CLIENT_CERTIFICATES_OPTIONAL] = "optional",
                                         [CLIENT_CERTIFICATES_REQUIRED] = "required" };
    for (size_t i = 0; i < ARRAY_LEN(names) && node->kind == YAML_SCALAR; i++) {
        if (span_eq(node->text, span_cstr(names[i]))) {
            l->client_certificates = (enum client_certificates)i;
            return OK;
        }
    }
    return config_fault_at(r, node, "client_certificates: none, optional or required");
}

static enum err read_tls(const struct config_reading *r, struct listener_config *l, const struct yaml_node *map)
{
    static const char *const known[] = { "certificate", "key", "client_ca", "client_certificates", "teams" };
    enum err err = OK;
    if (map->kind != YAML_MAP)
        return config_fault_at(r, map, "tls: a map must stand here, such as {certificate: FILE, key: FILE}");
    if (yaml_get(map, "client_ca"))
        l->client_certificates = CLIENT_CERTIFICATES_REQUIRED; /* who names an authority means it */
    for (const struct yaml_node *child = map->first; child && !err; child = child->next) {
        const struct span name = child->key->text;
        if (span_eq(name, SPAN("certificate")))
            err = read_file_name(r, child, &l->certificate);
        else if (span_eq(name, SPAN("key")))
            err = read_file_name(r, child, &l->key);
        else if (span_eq(name, SPAN("client_ca")))
            err = read_file_name(r, child, &l->client_ca);
        else if (span_eq(name, SPAN("client_certificates")))
            err = read_client_certificates(r, l, child);
        else if (span_eq(name, SPAN("teams")))
            err = read_teams(r, l, child);
        else
            err = config_unknown_field(r, child->key, "tls.", known, ARRAY_LEN(known));
    }
    if (err)
        return err;
    if (!l->certificate || !l->key)
        return config_fault_at(r, map, "tls: both `certificate` and `key` must stand here");
    for (size_t i = 3; i < ARRAY_LEN(known); i++) {
        const struct yaml_node *needs_authority = yaml_get(map, known[i]);
        if (needs_authority && !l->client_ca)
            return config_fault_at(r, needs_authority->key, "%s: needs `client_ca`, which they are verified by",
                                   known[i]);
    }
    return OK;
}

static enum err read_map(const struct config_reading *r, struct listeners *list, const struct yaml_node *map)
{
    static const char *const known[] = { "address", "mode", "http2", "tls", "proxy_protocol" };
    const struct yaml_node *address = yaml_get(map, "address");
    enum err err = OK;
    for (const struct yaml_node *child = map->first; child && !err;
         child = child->next) { /* 'adress' is told as such */
        bool found = false;
        for (size_t i = 0; i < ARRAY_LEN(known); i++)
            found = found || span_eq(child->key->text, span_cstr(known[i]));
        if (!found)
            err = config_unknown_field(r, child->key, "listen.", known, ARRAY_LEN(known));
    }
    if (!err)
        err = address ? read_address(r, list, address) : config_fault_at(r, map, "listen: `address` must stand here");
    for (const struct yaml_node *child = map->first; child && !err; child = child->next) {
        struct listener_config *l = &list->items[list->count - 1];
        const struct span name = child->key->text;
        if (span_eq(name, SPAN("address")))
            continue;
        if (span_eq(name, SPAN("mode")))
            err = read_mode(r, l, child);
        else if (span_eq(name, SPAN("http2")))
            err = read_http2(r, l, child);
        else if (span_eq(name, SPAN("tls")))
            err = read_tls(r, l, child);
        else
            err = read_proxies(r, l, child);
    }
    return err;
}

static enum err read_one(const struct config_reading *r, struct listeners *list, const struct yaml_node *node)
{
    return node->kind == YAML_MAP ? read_map(r, list, node) : read_address(r, list, node);
}

enum err config_read_listeners(const struct config_reading *r, struct node_config *config,
                               const struct yaml_node *value)
{
    struct listeners list = { .count = 0 };
    enum err err = OK;
    if (value->kind != YAML_LIST)
        err = read_one(r, &list, value);
    else if (value->count == 0)
        err = config_fault_at(r, value, "listen: at least one address must stand here");
    else
        for (const struct yaml_node *child = value->first; child && !err; child = child->next)
            err = read_one(r, &list, child);
    if (!err)
        take(config, &list);
    release_list(&list);
    return err;
}

/* ---- name servers ---- */

/* IP or IP:PORT as c-ares takes it. */
static enum err append_resolver(struct buf *csv, struct span text, char **ret_message)
{
    struct address address;
    char full[ADDRESS_TEXT_BYTES];
    bool good = text.len < sizeof(full) - 6 && text.len > 0 && !span_starts(text, SPAN("localhost"));
    if (good && address_parse(text, &address)) {
        (void)snprintf(full, sizeof(full),
                       text.ptr[0] != '[' && memchr(text.ptr, ':', text.len) ? "[%.*s]:53" : "%.*s:53", SPAN_ARG(text));
        good = address_parse(span_cstr(full), &address) == OK;
    }
    if (!good || address_port(&address) == 0)
        return config_complain(ret_message, "resolvers: '" SPAN_FMT "' is not an address such as 127.0.0.1 or [::1]:53",
                               SPAN_ARG(text));
    return buf_printf(csv, "%s%s", csv->len ? "," : "", address_format(&address, full));
}

enum err config_set_resolvers(struct node_config *config, const struct span *addresses, size_t count,
                              char **ret_message)
{
    struct buf csv = BUF_INIT((size_t)RESOLVERS_MAX * ADDRESS_TEXT_BYTES);
    enum err err = count > 0 && count <= RESOLVERS_MAX
                       ? OK
                       : config_complain(ret_message, "resolvers: 1 to %u addresses", RESOLVERS_MAX);
    for (size_t i = 0; i < count && !err; i++)
        err = append_resolver(&csv, addresses[i], ret_message);
    if (!err)
        err = config_set_text(&config->resolvers, buf_span(&csv));
    buf_release(&csv);
    return err;
}

enum err config_read_resolvers(const struct config_reading *r, struct node_config *config,
                               const struct yaml_node *value)
{
    struct span addresses[RESOLVERS_MAX + 1] = { { .len = 0 } };
    const struct yaml_node *at = value->kind == YAML_LIST ? value->first : value;
    size_t count = 0;
    char *why = NULL;
    for (; at && count < ARRAY_LEN(addresses); at = value->kind == YAML_LIST ? at->next : NULL) {
        if (at->kind != YAML_SCALAR || yaml_is_null(at))
            return config_fault_at(r, at, "resolvers: addresses must stand here");
        addresses[count++] = at->text;
    }
    enum err err = config_set_resolvers(config, addresses, count, &why);
    if (err == ERR_INVALID)
        err = config_fault_at(r, value, "%s", why);
    free(why);
    return err;
}
