#include "dataplane/route/admit.h"

enum admit_reason admit_request(const struct admit_load *load)
{
    if (load->draining)
        return ADMIT_DRAINING;
    if (!load->has_policy)
        return ADMIT_NO_POLICY;
    if (load->requests_open >= load->requests_max)
        return ADMIT_REQUESTS;
    if (load->bytes_buffered >= load->bytes_max || load->bytes_more > load->bytes_max - load->bytes_buffered)
        return ADMIT_BYTES;
    return ADMIT_OK;
}

static const struct {
    const char *name, *message;
} reasons[ADMIT_REASONS] = {
    [ADMIT_OK] = { "ok", "" },
    [ADMIT_DRAINING] = { "draining", "This router is shutting down; try again, another one will answer." },
    [ADMIT_NO_POLICY] = { "no_policy", "This router has not received a policy yet; try again shortly." },
    [ADMIT_REQUESTS] = { "requests", "This router is serving as many requests as it can; try again shortly." },
    [ADMIT_BYTES] = { "bytes", "This router holds as many request bytes as it can; try again shortly." },
};

const char *admit_reason_name(enum admit_reason reason)
{
    REQUIRE(reason < ADMIT_REASONS);
    return reasons[reason].name;
}

const char *admit_reason_message(enum admit_reason reason)
{
    REQUIRE(reason < ADMIT_REASONS);
    return reasons[reason].message;
}
