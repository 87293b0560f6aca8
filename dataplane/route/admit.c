#include "dataplane/route/admit.h"

enum admit_reason admit_request(const struct admit_load *load)
{
    if (!load->has_policy)
        return ADMIT_NO_POLICY;
    if (load->requests_open >= load->requests_max)
        return ADMIT_REQUESTS;
    if (load->bytes_buffered >= load->bytes_max || load->bytes_more > load->bytes_max - load->bytes_buffered)
        return ADMIT_BYTES;
    return ADMIT_OK;
}
