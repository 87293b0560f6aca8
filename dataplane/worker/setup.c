#include "dataplane/worker/setup.h"
#include "common/fault.h"
#include "dataplane/worker/setup_tickets.h"
#include "dataplane/worker/setup_tls.h"
#include <netinet/in.h>

#define SETUP_BYTES (1u << 20) /* teams and networks of one listener: the configuration's file is smaller */

static enum err copy_teams(struct listener_setup *setup, const struct listener_config *config)
{
    if (config->team_count == 0)
        return OK;
    struct certificate_team *teams = ARENA_ARRAY(&setup->arena, config->team_count, struct certificate_team);
    for (unsigned i = 0; teams && i < config->team_count; i++) {
        teams[i].name = arena_printf(&setup->arena, "%s", config->teams[i].name);
        teams[i].team = arena_printf(&setup->arena, "%s", config->teams[i].team);
        if (!teams[i].name || !teams[i].team)
            return ERR_NOMEM;
    }
    setup->teams = teams;
    setup->team_count = config->team_count;
    return teams ? OK : ERR_NOMEM;
}

static enum err copy(struct listener_setup *setup, const struct listener_config *config)
{
    setup->http2 = config->http2;
    if (config->proxy_count) {
        struct network *proxies = ARENA_ARRAY(&setup->arena, config->proxy_count, struct network);
        if (!proxies)
            return ERR_NOMEM;
        memcpy(proxies, config->proxies, config->proxy_count * sizeof(*proxies));
        setup->proxies = proxies;
        setup->proxy_count = config->proxy_count;
    }
    return copy_teams(setup, config);
}

enum err listener_setup_load(const struct listener_config *config, const struct board *board,
                             struct listener_setup **ret, char **ret_message)
{
    *ret_message = NULL;
    struct listener_setup *setup = fault_calloc(1, sizeof(*setup));
    if (!setup)
        return ERR_NOMEM;
    setup->users = 1;
    arena_init(&setup->arena, SETUP_BYTES);
    enum err err = copy(setup, config);
    if (err == OK && config->certificate)
        err = setup_tls_load(setup, config, ret_message);
    if (err == OK && config->certificate)
        err = setup_tickets_share(setup, config, board);
    if (err)
        listener_setup_unref(setup);
    else
        *ret = setup;
    return err;
}

struct listener_setup *listener_setup_ref(struct listener_setup *setup)
{
    setup->users++;
    return setup;
}

void listener_setup_unref(struct listener_setup *setup)
{
    if (!setup || --setup->users > 0)
        return;
    setup_tls_free(setup);
    arena_release(&setup->arena);
    free(setup);
}

static bool within(const struct network *network, const uint8_t address[16])
{
    const unsigned whole = network->bits / 8, rest = network->bits % 8;
    if (memcmp(network->bytes, address, whole) != 0)
        return false;
    const unsigned mask = rest ? 0xff00u >> rest & 0xffu : 0;
    return rest == 0 || ((network->bytes[whole] ^ address[whole]) & mask) == 0;
}

bool listener_setup_trusts(const struct listener_setup *setup, const struct sockaddr *peer)
{
    uint8_t address[16] = { 0 };
    if (setup->proxy_count == 0)
        return false;
    if (peer->sa_family == AF_UNIX)
        return true;
    if (peer->sa_family == AF_INET6) {
        memcpy(address, &((const struct sockaddr_in6 *)(const void *)peer)->sin6_addr, 16);
    } else if (peer->sa_family == AF_INET) {
        address[10] = address[11] = 0xff;
        memcpy(address + 12, &((const struct sockaddr_in *)(const void *)peer)->sin_addr, 4);
    } else {
        return false;
    }
    for (unsigned i = 0; i < setup->proxy_count; i++)
        if (within(&setup->proxies[i], address))
            return true;
    return false;
}
